"""Random layers: what they draw is distributed as in PyTorch, new at each call, and repeatable."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn


@dataclass(frozen=True, eq=False)
class Random:
    """One random layer, or function, on an array of one value.

    ``blocks`` reshapes its output so that axis 0 runs over what is drawn independently, and axis 1 over what shares a
    draw.
    """

    name: str
    args: tuple[Any, ...] = ()
    shape: tuple[int, ...] = (100, 100)
    value: float = 1.5
    blocks: tuple[int, ...] = (-1, 1)
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, library: Any) -> Callable[..., Any]:
        """Return the layer or the function of either library."""
        if self.name[0].isupper():
            return getattr(library, self.name)(*self.args, **self.options)
        return lambda x: getattr(library.functional, self.name)(x, *self.args, **self.options)

    def make_input(self) -> np.ndarray:
        """Return the array."""
        return np.full(self.shape, self.value, np.float32)

    def __str__(self) -> str:
        return f"{self.name}{list(self.shape)}{self.value}{list(self.args)}{list(self.options)}".replace(" ", "")


ROWS = [
    Random("Dropout", (0.25,)),
    Random("Dropout", (0.9,), value=-2.0),
    Random("Dropout1d", (0.25,), (100, 60, 4), blocks=(-1, 4)),
    Random("Dropout1d", (0.25,), (5000, 4), blocks=(-1, 4)),
    Random("Dropout2d", (0.5,), (100, 60, 3, 2), blocks=(-1, 6)),
    Random("Dropout3d", (0.75,), (100, 60, 2, 3, 1), blocks=(-1, 6)),
    Random("Dropout3d", (0.75,), (5000, 2, 3, 1), blocks=(-1, 6)),
    Random("AlphaDropout", (0.25,)),
    Random("AlphaDropout", (0.9,), value=0.0),
    Random("FeatureAlphaDropout", (0.25,), (100, 60, 4), blocks=(-1, 4)),
    Random("RReLU", value=-2.0),
    Random("RReLU", (0.5, 3.0), value=-1.0),
    Random("RReLU"),
    Random("gumbel_softmax", shape=(5000, 3)),
    Random("gumbel_softmax", (0.3,), (3, 5000), options=dict(dim=0)),
    Random("gumbel_softmax", (2.0, True), (5000, 3)),
]

pytestmark = pytest.mark.parametrize("row", ROWS, ids=str)


def same(one: Any, other: Any) -> bool:
    return bool((np.asarray(one) == np.asarray(other)).all())


def test_distribution_is_that_of_torch(row: Random) -> None:
    ours = np.asarray(row.make(nn)(row.make_input())).reshape(row.blocks)
    theirs = row.make(torch.nn)(torch.tensor(row.make_input())).numpy().reshape(row.blocks)
    for part in (ours, theirs):
        assert (part == part[:, :1]).all()
    limit = 5 * np.sqrt(2 * theirs[:, 0].var() / len(theirs)) + 1e-5
    assert abs(ours[:, 0].mean() - theirs[:, 0].mean()) < limit
    levels = np.linspace(0.05, 0.95, 19)
    if len(np.unique(theirs)) <= 2:
        np.testing.assert_allclose(np.unique(ours), np.unique(theirs), rtol=1e-6)
    else:
        spread = theirs[:, 0].std()
        np.testing.assert_allclose(*(np.quantile(part[:, 0], levels) for part in (ours, theirs)), atol=0.15 * spread)


@pytest.mark.parametrize("transform", [lambda function: function, jm.jit], ids=["eager", "jit"])
def test_each_call_draws_anew_and_a_seed_repeats_it(row: Random, transform: Callable[..., Any]) -> None:
    layer, x = row.make(nn), row.make_input()
    call = transform(lambda x: layer(x))
    jm.manual_seed(3)
    first, second = call(x), call(x)
    jm.manual_seed(3)
    assert same(call(x), first) and same(call(x), second)
    assert same(first, second) == (row.name == "RReLU" and row.value > 0)
    jm.manual_seed(3)
    np.testing.assert_allclose(layer(x), first, rtol=1e-6)
