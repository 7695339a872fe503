"""Ctrl-C and SIGTERM as a request that the loop looks at between two steps."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_ASKED = b"\ninterrupted: ending after this step (again: at once)\n"


class Interrupts:
    """Catches the first SIGINT or SIGTERM while the context lasts; the second one interrupts at once.

    Signals that the process ignores stay ignored, and outside the main thread, which alone can catch them, all is left
    as it is.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                old = signal.getsignal(number)
                if old not in (signal.SIG_IGN, None):
                    self._old[number] = old
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        while self._old:
            signal.signal(*self._old.popitem())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            os.write(2, _ASKED)  # a handler may not print: it may have come in the middle of a print
            return
        self.restore()
        raise ending(number)

    def end(self, note: str) -> None:
        """Raise what the signal that came asks for.

        Raises:
            KeyboardInterrupt: for SIGINT.
            SystemExit: for SIGTERM, unless a handler of the user's takes it.
        """
        assert self.number is not None
        own = self._old.get(self.number)
        self.restore()
        if self.number == signal.SIGTERM and callable(own):
            signal.raise_signal(self.number)
        error = ending(self.number)
        error.add_note(note)
        raise error


def ending(number: int) -> BaseException:
    """Return the exception that a signal ends a program with."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
