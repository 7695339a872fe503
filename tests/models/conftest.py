"""Leave PyTorch as it is: transformers adds a method to its modules, and other tests compare these with ours."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def torch_as_it_is() -> Iterator[None]:
    """Take away what a test has added to ``torch.nn.Module``."""
    before = dict(vars(torch.nn.Module))
    yield
    for name in set(vars(torch.nn.Module)).difference(before):
        delattr(torch.nn.Module, name)
