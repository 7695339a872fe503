"""An identity whose cotangents are handed to a function: what hooks on gradients are made of.

``boundary_p`` maps arrays to themselves. Differentiated, it puts ``tangent_p`` on the tangents that are there, an
identity as well, and the transposition of that is where the function is called: with concrete arrays in an eager
gradient, with traced ones in a compiled one. Forward-mode derivatives pass through both. The last operand is a
*token* without elements: it has a tangent once any operand had one, which tells a later boundary whether an
earlier one was differentiated. A primitive rather than ``jax.custom_vjp``: arrays without a tangent stay so, the
function sees one element at a time under ``vmap``, and nothing forbids ``jvp``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxmodules._batching import in_front
from jaxmodules._tracing import keep_weakly


class Crossing(Protocol):
    """What happens to gradients at a boundary.

    ``is_repeated`` is true where it happens in every differentiation of what the boundary is in, and false where in
    the innermost alone.
    """

    is_repeated: bool

    def held(self) -> Self:
        """Return this for the length of one differentiation, holding on to what it needs."""
        ...

    def reverse(self, gradients: list[Any], avals: list[Any], is_anchored: bool, mapped: "Mapped") -> list[Any]:
        """Return what the gradients become; ``None`` stands for a gradient that is not there.

        Args:
            gradients: one for each array of the boundary.
            avals: shape and dtype, without mapped axes, of the arrays that are differentiated; else ``None``.
            is_anchored: whether the token came with a tangent.
            mapped: maps a function over the axes that the boundary has been vmapped over.
        """
        ...


Mapped = Callable[[Callable[..., Any]], Callable[..., Any]]


def cross(values: Sequence[Any], crossing: Crossing, token: Any = None) -> tuple[list[Any], Any]:
    """Return ``values``, whose gradients go through ``crossing``, and the token for a later boundary."""
    keep_weakly(type(crossing))
    *out, token = boundary_p.bind(*values, _token() if token is None else token, crossing=crossing, depth=0)
    return out, token


def _token(shape: tuple[int, ...] = (0,)) -> Any:
    return jnp.zeros(shape, jnp.float32)


def _mapped(depth: int) -> Mapped:
    def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
        for _ in range(depth):
            function = jax.vmap(function)
        return function

    return mapped


boundary_p = Primitive("boundary")
tangent_p = Primitive("boundary_tangent")


def _same(*values: Any, **_: Any) -> list[Any]:
    return list(values)


def _differentiate(primals: Sequence[Any], tangents: Sequence[Any], *, crossing: Crossing, depth: int) -> Any:
    out = boundary_p.bind(*primals, crossing=crossing, depth=depth) if crossing.is_repeated else list(primals)
    live = tuple(i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero)
    if not live:
        return out, list(tangents)
    *there, token = tangent_p.bind(
        *(tangents[i] for i in live),
        crossing=crossing.held(), depth=depth, live=live, count=len(primals), token=primals[-1].shape,
    )  # fmt: skip
    there = dict(zip(live, there, strict=False))
    return out, [*(there.get(i, tangent) for i, tangent in enumerate(tangents[:-1])), token]


def _pass_tangents(*tangents: Any, live: tuple[int, ...], count: int, token: tuple[int, ...], **_: Any) -> list[Any]:
    return [t for i, t in zip(live, tangents, strict=True) if i < count - 1] + [_token(token)]


def _pass_shapes(*tangents: Any, live: tuple[int, ...], count: int, token: tuple[int, ...], **_: Any) -> list[Any]:
    shapes = [t for i, t in zip(live, tangents, strict=True) if i < count - 1]
    return [*shapes, ShapedArray(token, jnp.float32)]


def _differentiate_tangents(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    out = tangent_p.bind(*primals, **params)
    if all(type(tangent) is ad.Zero for tangent in tangents):
        return out, [ad.Zero(jax.typeof(value)) for value in out]
    return out, tangent_p.bind(*map(ad.instantiate_zeros, tangents), **params)


def _transpose(cotangents: Sequence[Any], *operands: Any, crossing: Crossing, **params: Any) -> list[Any]:
    """Call the crossing, with a place for each array of the boundary."""
    live, last = params["live"], params["count"] - 1
    wanted = [operand.aval for operand in operands]
    gradients: list[Any] = [None] * last
    avals: list[Any] = [None] * last
    for i, cotangent, aval in zip(live, cotangents, wanted, strict=False):
        if i < last:
            gradients[i] = None if type(cotangent) is ad.Zero else cotangent
            avals[i] = ShapedArray(aval.shape[params["depth"] :], aval.dtype)
    out = crossing.reverse(gradients, avals, last in live, _mapped(params["depth"]))
    out.append(None)
    return [ad.Zero(aval) if out[i] is None else out[i] for i, aval in zip(live, wanted, strict=True)]


def _batch(primitive: Primitive) -> Any:
    def rule(operands: Sequence[Any], axes: Sequence[Any], *, depth: int, **params: Any) -> Any:
        size, front = in_front(operands, axes)
        if "token" in params:
            params["token"] = (size, *params["token"])
        out = primitive.bind(*front, depth=depth + 1, **params)
        return out, [0] * len(out)

    return rule


boundary_p.multiple_results = tangent_p.multiple_results = True
boundary_p.def_impl(_same)
boundary_p.def_abstract_eval(_same)
tangent_p.def_impl(_pass_tangents)
tangent_p.def_abstract_eval(_pass_shapes)
ad.primitive_jvps[boundary_p] = _differentiate
ad.primitive_jvps[tangent_p] = _differentiate_tangents
ad.primitive_transposes[tangent_p] = _transpose
for _primitive, _function in ((boundary_p, _same), (tangent_p, _pass_tangents)):
    batching.primitive_batchers[_primitive] = _batch(_primitive)
    mlir.register_lowering(_primitive, mlir.lower_fun(_function, multiple_results=True))
