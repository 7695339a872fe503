"""Calls of hooks on gradients, and the hooks of parameters among them."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._boundary import Mapped, cross
from jaxmodules._leaks import call_hook
from jaxmodules._tracing import Cell, Frame, is_staged, local
from jaxmodules._tracked import HookDict


def call_gradient_hook(kind: str, hook: tuple[int, Callable[..., Any]], path: Sequence[str], *args: Any) -> Any:
    """Call a hook (with the id of its handle) as if at ``path``; a compiled backward pass may read no bare state."""
    with _at(path):
        return call_hook(kind, *hook, *args)


@contextmanager
def _at(path: Sequence[str]) -> Iterator[None]:
    outer, local.path = local.path, list(path)
    frames = local.frames
    if not frames and is_staged():  # a backward pass that JAX stages by itself, after the trace of the forward pass
        local.frames = [Frame({}, True, None, True)]
    try:
        yield
    finally:
        local.path, local.frames = outer, frames


def checked_gradient(hook: Callable[..., Any], new: Any, aval: Any) -> Any:
    """Return what a hook returned for a gradient of shape and dtype ``aval``.

    Raises:
        TypeError: if it is no array.
        RuntimeError: if it has another shape or dtype.
    """
    if new is None:
        return None
    name = getattr(hook, "__name__", type(hook).__name__)
    if not isinstance(new, jax.Array | np.ndarray | Cell):
        raise TypeError(
            f"expected Variable, but hook returned '{type(new).__name__}': hook '{name}' has to return an array or None"
        )
    new = jnp.asarray(new)
    if new.shape != aval.shape:
        raise RuntimeError(f"hook '{name}' has changed the size of value (was {aval.shape} got {new.shape})")
    if new.dtype != aval.dtype:
        raise RuntimeError(f"hook '{name}' has changed the type of value (was {aval.dtype} got {new.dtype})")
    return new


Hooks = Sequence[tuple[int, Callable[..., Any]]]


class _Total:
    """The boundary at which the uses of a parameter come together: runs the hooks on its gradient."""

    def __init__(self, hooks: HookDict, name: str, is_repeated: bool, held: Hooks = ()) -> None:
        self._ref = weakref.ref(hooks)
        self.hooks = held
        self.name = name
        self.is_repeated = is_repeated

    def held(self) -> Self:
        """Return this boundary, holding on to the hooks as they are now."""
        hooks = self._ref()
        return self if hooks is None else type(self)(hooks, self.name, self.is_repeated, tuple(hooks.items()))

    def reverse(self, gradients: list[Any], avals: list[Any], is_anchored: bool, mapped: Mapped) -> list[Any]:
        """Return the gradient as the hooks leave it."""
        return gradients if gradients[0] is None else mapped(lambda *g: self._run(*g, *avals))(*gradients)

    def _run(self, gradient: Any, aval: Any) -> list[Any]:
        for hook in self.hooks:
            new = call_gradient_hook("gradient hook", hook, [self.name], gradient)
            if new is not None:
                gradient = checked_gradient(hook[1], new, aval)
        return [gradient]


def hooked(slots: Any, values: Mapping[int, Any], is_repeated: bool = False) -> dict[int, Any]:
    """Return arrays about to be differentiated, with the hooks of the parameters they stand for.

    A transform that differentiates calls this with the traced arrays, once; each hook then gets the total gradient.

    Args:
        slots: the slots of a structure.
        values: arrays by index into the slots.
        is_repeated: whether the hooks are for every differentiation around this place, not the innermost alone.
    """
    out = dict(values)
    for i, value in values.items():
        hooks = getattr(slots.cells[i], "_backward_hooks", None) if i < len(slots.cells) else None
        if hooks:
            (out[i],), _ = cross([value], _Total(hooks, slots.names[i], is_repeated))
    return out


def run_accumulated(parameter: Any, name: str) -> None:
    """Run the hooks of a parameter whose ``.grad`` has just been added to."""
    for hook in tuple((parameter._post_accumulate_grad_hooks or {}).items()):
        out = call_gradient_hook("post-accumulate hook", hook, local.path or [name], parameter)
        if isinstance(out, jax.Array | Cell):
            raise RuntimeError("Tensor post accumulate grad hooks should return None.")
        if out is not None:
            raise TypeError(f"expected Variable, but hook returned '{type(out).__name__}': it has to return None")
