"""The anatomy of a row: one layer, or one call of a function, in one configuration, built in either library."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import torch

import jaxmodules as jm
from jaxmodules import nn

Recipe = tuple[int, ...] | Callable[[np.random.Generator], np.ndarray]


def ints(high: int, *shape: int, low: int = 0) -> Recipe:
    """Draw integers from ``low`` up to ``high``: indices and labels."""
    return lambda rng: rng.integers(low, high, shape)


def positive(*shape: int) -> Recipe:
    """Draw positive numbers of about 1."""
    return lambda rng: rng.uniform(0.5, 2.0, shape).astype(np.float32)


def unit(*shape: int) -> Recipe:
    """Draw numbers between 0 and 1, not too near either."""
    return lambda rng: rng.uniform(0.05, 0.95, shape).astype(np.float32)


def steps(*shape: int) -> Recipe:
    """Draw few distinct values, so that windows hold ties."""
    return lambda rng: rng.integers(0, 3, shape).astype(np.float32)


def signs(*shape: int) -> Recipe:
    """Draw the labels 1 and -1."""
    return lambda rng: rng.choice([-1.0, 1.0], shape).astype(np.float32)


def full(value: Any, *shape: int, dtype: Any = np.int64) -> Recipe:
    """Repeat one value."""
    return lambda rng: np.full(shape, value, dtype)


def fixed(value: Any, dtype: Any = None) -> Recipe:
    """Use this very array."""
    return lambda rng: np.array(value, dtype)


def shares(*shape: int) -> Recipe:
    """Draw probabilities over axis 1 (the only axis of one sample)."""
    if len(shape) == 1:
        return lambda rng: rng.dirichlet(np.ones(shape[0])).astype(np.float32)
    n, c, *rest = shape
    return lambda rng: np.moveaxis(rng.dirichlet(np.ones(c), (n, *rest)), -1, 1).astype(np.float32)


def array(*values: float) -> np.ndarray:
    """Write an array argument of a constructor; torch gets it as a tensor."""
    return np.array(values, np.float32)


def draw(recipe: Any, rng: np.random.Generator) -> Any:
    """Make the arrays of a recipe, of a shape (from a normal distribution), or of nested tuples of these."""
    if callable(recipe):
        return recipe(rng)
    if all(isinstance(size, int) for size in recipe):
        return rng.standard_normal(recipe).astype(np.float32)
    return tuple(draw(part, rng) for part in recipe)


def to_torch(value: Any) -> Any:
    """Make tensors of the arrays in a tree."""
    return jax.tree.map(lambda leaf: torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf, value)


@dataclass(frozen=True)
class Function:
    """Stands for a function of ``nn.functional`` among the arguments of a constructor."""

    name: str


@dataclass(frozen=True, eq=False)
class Case:
    """One layer in one configuration.

    ``inputs`` are shapes (drawn from a normal distribution), recipes, or nested tuples of these; ``options`` are the
    keyword arguments of the call, recipes among them. ``modes`` are those to test, in which the output must not be a
    matter of chance. ``untrained`` are positions of inputs that torch has no gradient for. An argument of the
    constructor may be another case (a layer) or a ``Function``. ``maps`` tells whether the layer can be mapped over
    an axis of its inputs in evaluation.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ((2, 3),)
    modes: tuple[str, ...] = ("train",)
    tolerance: float = 2e-5
    options: dict[str, Any] = field(default_factory=dict)
    untrained: tuple[int, ...] = ()
    maps: bool = True

    def make(self, library: Any, **more: Any) -> Any:
        """Build the layer of either library."""

        def convert(value: Any) -> Any:
            if isinstance(value, Case):
                return value.make(library)
            if isinstance(value, Function):
                return getattr(library.functional, value.name)
            return torch.tensor(value) if isinstance(value, np.ndarray) and library is torch.nn else value

        kwargs = {name: convert(value) for name, value in self.kwargs.items()}
        return getattr(library, self.name)(*map(convert, self.args), **kwargs, **more)

    def make_inputs(self, seed: int = 0) -> list[Any]:
        """Draw inputs; the same seed gives the same ones."""
        rng = np.random.default_rng(seed)
        return [draw(recipe, rng) for recipe in self.inputs]

    def make_options(self, seed: int = 0) -> dict[str, Any]:
        """Draw the keyword arguments of the call."""
        rng = np.random.default_rng(seed + 100)
        return {name: value(rng) if callable(value) else value for name, value in self.options.items()}

    def __str__(self) -> str:
        options = [f"{k}={_brief(v)}" for k, v in (self.kwargs | self.make_options()).items()]
        shapes = "x".join(str(list(x.shape)) for x in jax.tree.leaves(self.make_inputs()))
        return f"{self.name}({','.join([*map(_brief, self.args), *options])}){shapes}".replace(" ", "")


@dataclass(frozen=True, eq=False)
class Call:
    """A call of one function: arrays as shapes or recipes, and plain options.

    ``trained`` names the arrays to differentiate by; without it they are all those of floating point, running
    statistics apart.
    """

    name: str
    arrays: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 2e-5
    trained: tuple[str, ...] | None = None

    def make(self) -> dict[str, np.ndarray]:
        """Draw the arrays."""
        rng = np.random.default_rng(0)
        return {key: draw(recipe, rng) for key, recipe in self.arrays.items()}

    def __str__(self) -> str:
        shapes = [f"{key}{list(value.shape)}" for key, value in self.make().items()]
        options = [f"{key}={_brief(value)}" for key, value in self.options.items()]
        return f"{self.name}({','.join(shapes + options)})".replace(" ", "")


@dataclass
class Zeros:
    """Stands for an array of zeros among the arguments of a call that is to be refused."""

    shape: tuple[int, ...]
    dtype: str


def z(*shape: int, dtype: str = "float32") -> Zeros:
    """Stand for zeros."""
    return Zeros(shape, dtype)


def build_pair(case: Case) -> tuple[nn.Module, torch.nn.Module]:
    """Build the layer in both libraries with the same, thoroughly random, parameters and buffers."""
    torch.manual_seed(0)
    theirs = case.make(torch.nn)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in theirs.named_buffers():
            if name.split(".")[-1].startswith("running"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    ours = case.make(nn)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def build_seeded(case: Case, seed: int) -> tuple[nn.Module, torch.nn.Module]:
    """Build the layer in both libraries from the same seed."""
    torch.manual_seed(seed)
    jm.manual_seed(seed)
    return case.make(nn), case.make(torch.nn)


def leaves(result: Any) -> list[Any]:
    """List the arrays or tensors in a result."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [leaf for part in result for leaf in leaves(part)]
    return [] if result is None else [result]


def is_float(value: Any) -> bool:
    """Tell whether an array or tensor is of a floating point type."""
    return "float" in str(value.dtype)


def dtype_name(value: Any) -> str:
    """Name the type of an array or tensor; wide and narrow have one name where JAX has the narrow one alone."""
    name = str(value.dtype).removeprefix("torch.")
    return name if jax.config.jax_enable_x64 else name.replace("64", "32")


def cotangents(outputs: list[Any]) -> Iterator[np.ndarray]:
    """Draw a cotangent for every floating point output."""
    rng = np.random.default_rng(1)
    for output in outputs:
        if is_float(output):
            yield rng.standard_normal(tuple(output.shape)).astype(np.float32)


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray | jax.Array):
        return f"array{list(value.shape)}"
    return value.name if isinstance(value, Function) else str(value)
