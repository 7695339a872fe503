"""Torch modules to convert, their counterparts written by hand, and how two modules of ours are compared."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch

from jaxmodules import nn
from jaxmodules.nn import functional as F

OWN = {"_jm_scope"}  # the name that a parent gives


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Say how two modules of ours differ, values of arrays apart."""
    mine, yours = vars(one), vars(other)
    if type(one) is not type(other):
        yield f"{path}: {type(one).__name__}, expected {type(other).__name__}"
    for name in sorted((mine.keys() ^ yours.keys()) - OWN):
        yield f"{path}.{name}: only in one"
    for name in (mine.keys() & yours.keys()) - OWN:
        if "_hooks" in name:
            alike = [type(h) for h in mine[name].values()] == [type(h) for h in yours[name].values()]
        else:
            alike = is_same(mine[name], yours[name])
        if not alike:
            yield f"{path}.{name}: {mine[name]!r:.60}, expected {yours[name]!r:.60}"
    for (name, child), (_, expected) in zip(one._modules.items(), other._modules.items(), strict=True):
        if child is not None:
            yield from differences(child, expected, f"{path}.{name}")


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two attributes are of one type and equal; arrays of one shape and dtype."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(is_same, one.values(), other.values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        return is_same(dataclasses.asdict(one), dataclasses.asdict(other))
    if isinstance(one, nn.UninitializedParameter | nn.UninitializedBuffer):
        return one.dtype == other.dtype
    if isinstance(one, jax.Array | nn.Parameter):
        flags = [getattr(array, "requires_grad", None) for array in (one, other)]
        return (one.shape, one.dtype) == (other.shape, other.dtype) and flags[0] == flags[1]
    return isinstance(one, nn.Module) or type(one).__name__ == "RemovableHandle" or one == other


def assert_same_output(theirs: Any, ours: Any, *inputs: np.ndarray) -> None:
    """Call both and compare what they return."""
    expected = theirs(*map(torch.tensor, inputs)).detach().numpy()
    np.testing.assert_allclose(ours(*inputs), expected, 2e-5, 2e-5)


class TorchBlock(torch.nn.Module):
    """A residual block with an attribute of every kind."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = torch.nn.BatchNorm2d(channels)
        self.downsample = None
        self.act = torch.nn.functional.gelu
        self.sizes = {"channels": [channels, (3, torch.float16)]}
        self.norm_layer = torch.nn.BatchNorm2d
        self.register_buffer("scale", torch.full((1, 1, 1, 1), 0.5), persistent=False)

    def forward(self, x: Any) -> Any:
        return self.act(x + self.scale * self.bn(self.conv(x)))


class Block(nn.Module):
    """The block, ported."""

    def forward(self, x: Any) -> Any:
        return self.act(x + self.scale * self.bn(self.conv(x)))


class TorchTied(torch.nn.Module):
    """A language model in small: a head with the embedding's weight, and a module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.again = self.embed
        self.hidden = [self.head]
        self.register_buffer("mask", torch.ones(2))
        self.register_buffer("alias", self.mask, persistent=False)

    def forward(self, ids: Any) -> Any:
        return self.head(self.again(ids))


class Tied(nn.Module):
    """The language model, ported."""

    def forward(self, ids: Any) -> Any:
        return self.head(self.again(ids))


class TiedByHand(nn.Module):
    """The language model with a constructor of its own, which ties nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, width)
        self.head = nn.Linear(width, 5, bias=False)
        self.mask = nn.Buffer(np.zeros(2, np.float32))

    def forward(self, ids: Any) -> Any:
        return F.linear(self.embed(ids), self.head.weight)
