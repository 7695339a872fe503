"""Signals as in a program of its own: the workers of a parallel session ignore some."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in old.items():
        signal.signal(number, handler)
