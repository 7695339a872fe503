"""The differential fixtures: one script, run with torch and with jaxmodules, has to come out the same."""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
import jaxmodules.nn.modules.module as our_hooks


@dataclass(frozen=True)
class Library:
    """One of the two libraries as a script sees it: everything in its ``nn``, and a way to make arrays."""

    nn: ModuleType
    hooks: ModuleType
    array: Callable[[Any], Any]
    dtypes: ModuleType
    seed: Callable[[int], Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.nn, name)


def tensor(value: Any) -> jax.Array:
    """Make an array as ``torch.tensor`` does: floats without a type are float32, whatever JAX makes of them."""
    untyped = not hasattr(value, "dtype") and np.asarray(value).dtype == np.float64
    return jnp.asarray(value, jnp.float32 if untyped else None)


TORCH = Library(torch.nn, torch.nn.modules.module, torch.tensor, torch, torch.manual_seed)
OURS = Library(jm.nn, our_hooks, tensor, jnp, jm.manual_seed)

Build = Callable[[Library], Any]
Raises = type[BaseException] | tuple[type[BaseException], ...]
NAMES = {"ArrayImpl": "FloatTensor", "Array": "Tensor", "FloatTensor": "float32", "int64": "int32"}


def normalise(text: str) -> str:
    """Write a message of either library in one way: without package paths, with one name for each type."""
    text = re.sub(r"\b(torch|jaxmodules|jaxlib|jax|_jax)\.", "", text)
    text = text.replace("(torch Tensor or", "(Tensor, NumPy array or")
    text = re.sub(r"\bSize\((\[[^]]*\])\)", r"\1", text)
    for theirs, ours in NAMES.items():
        text = re.sub(rf"\b{theirs}\b", ours, text)
    return text


def plain(value: Any) -> Any:
    """Turn what a script returned into lists, strings, numbers and NumPy arrays."""
    if isinstance(value, TORCH.Parameter | OURS.Parameter):
        data = value.detach() if isinstance(value, torch.Tensor) else value.value
        return ["Parameter", value.requires_grad, plain(data)]
    if isinstance(value, torch.Tensor | jax.Array | np.ndarray):
        dtype = str(value.dtype).removeprefix("torch.")
        array = value.detach().double().numpy() if isinstance(value, torch.Tensor) else np.asarray(value, np.float64)
        return [normalise(dtype), array]
    if isinstance(value, torch.dtype | np.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, TORCH.Module | OURS.Module):
        return snapshot(value)
    if isinstance(value, Mapping):
        return [[plain(key), plain(entry)] for key, entry in value.items()]
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, type):
        return value.__name__
    if value is None or isinstance(value, bool | int | float):
        return value
    return normalise(value) if isinstance(value, str) else [plain(entry) for entry in value]


def snapshot(net: Any) -> list[Any]:
    """List everything that a module shows of itself."""
    tables = net.named_parameters(remove_duplicate=False), net.named_buffers(remove_duplicate=False)
    return [
        normalise(repr(net)),
        *(plain(dict(table)) for table in tables),
        [[name, module.training] for name, module in net.named_modules(remove_duplicate=False)],
        list(net.state_dict()),
    ]


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare two plain values, numbers with a tolerance."""
    if isinstance(theirs, np.ndarray):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, strict=True)
    elif isinstance(theirs, list):
        assert isinstance(ours, list) and len(ours) == len(theirs), (ours, theirs)
        for our_entry, their_entry in zip(ours, theirs, strict=True):
            assert_same(our_entry, their_entry)
    else:
        assert ours == theirs


def outcome(script: Build, library: Library, raises: Raises) -> Any:
    """Run a script in one library; return what it returned, or the text of the exception that was asked for."""
    library.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result = plain(script(library))
        except raises as error:
            return normalise(str(error))
    assert not raises, f"{library.nn.__name__} returned {result}, expected {raises}"
    return result


def compare(script: Build, raises: Raises = ()) -> None:
    """Assert that a script returns, or raises, the same in both libraries; our message may add to torch's."""
    theirs = outcome(script, TORCH, raises)
    ours = outcome(script, OURS, raises)
    if raises:
        assert theirs in ours
    else:
        assert_same(ours, theirs)


def perform(build: Build, statement: str, raises: Raises = ()) -> None:
    """Assert that a statement does the same to the module ``net`` in both libraries.

    The statement also sees the library as ``s``; what it leaves in ``net`` and ``out`` is compared.
    A statement that raises has to leave our module as it was.
    """
    nets: list[Any] = []

    def script(library: Library) -> Any:
        scope = {"s": library, "net": build(library), "out": None}
        nets.append((scope["net"], snapshot(scope["net"])))
        exec(statement, scope)
        return [scope["out"], scope["net"]]

    compare(script, raises)
    if raises:
        net, before = nets[1]
        assert_same(snapshot(net), before)


@pytest.fixture
def both() -> Callable[..., None]:
    """Give the comparison of a script that takes the library."""
    return compare


@pytest.fixture
def agree() -> Callable[..., None]:
    """Give the comparison of a statement about a module."""
    return perform


@pytest.fixture
def ours() -> Library:
    """Give our library alone, for the properties that torch does not have."""
    return OURS


@pytest.fixture
def libraries() -> tuple[Library, Library]:
    """Give torch and ours, for scripts whose results are compared in another way."""
    return TORCH, OURS
