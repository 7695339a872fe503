"""Linear maps that know their transposes: differentiable in both modes, as often as one likes, and mapped by ``vmap``.

JAX transposes a linear function operation by operation; where another algorithm is faster, a map states it. A
primitive rather than ``jax.custom_vjp``: that forbids forward mode.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxmodules._batching import in_front
from jaxmodules._typing import Array


class LinearMap(Protocol):
    """A linear map of an array, given arrays that are not differentiated; hashable, equal to others that do the same.

    Both ways take any number of leading axes, the same for all arrays.
    """

    @property
    def apply(self) -> Callable[..., Array]:
        """Return the image of an array."""
        ...

    @property
    def transpose(self) -> Callable[..., Array]:
        """Return the image of an array under the transposed map."""
        ...


@dataclass(frozen=True)
class _Identity:
    """Leave an array as it is."""

    def apply(self, operand: Array) -> Array:
        return operand

    def transpose(self, cotangent: Array) -> Array:
        return cotangent


def linear(how: LinearMap, operand: Array, *constants: Array) -> Array:
    """Apply a linear map."""
    return linear_p.bind(operand, *constants, how=how, transposed=False)


def mapped_in_front(array: Array) -> Array:
    """Return an array as it is, with the axis that ``vmap`` adds in front.

    Where a function with a rule of ``jax.custom_jvp`` is mapped within ``jit``, JAX (0.10.2) takes the places of the
    mapped axes in the function's results for those in the rule's: both have to put them in the same places.
    """
    return linear(_Identity(), array)


linear_p = Primitive("linear")


def compute(*operands: Any, how: LinearMap, transposed: bool) -> Any:
    """Apply a map, or its transpose, by its algorithm."""
    return (how.transpose if transposed else how.apply)(*operands)


def _shape(*operands: Any, **params: Any) -> Any:
    return jax.make_jaxpr(partial(compute, **params))(*operands).out_avals[0]


def _differentiate(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    out = linear_p.bind(*primals, **params)
    if type(tangents[0]) is ad.Zero:
        return out, ad.Zero(jax.typeof(out).to_tangent_aval())
    return out, linear_p.bind(tangents[0], *primals[1:], **params)


def _transpose(cotangent: Any, operand: Any, *constants: Any, how: LinearMap, transposed: bool) -> list[Any]:
    if type(cotangent) is ad.Zero:
        back = ad.Zero(operand.aval)
    else:
        back = linear_p.bind(cotangent, *constants, how=how, transposed=not transposed)
    return [back, *[None] * len(constants)]


def _batch(operands: Sequence[Any], axes: Sequence[Any], **params: Any) -> Any:
    _, front = in_front(operands, axes)
    return linear_p.bind(*front, **params), 0


linear_p.def_impl(jax.jit(compute, static_argnames=("how", "transposed")))
linear_p.def_abstract_eval(_shape)
ad.primitive_jvps[linear_p] = _differentiate
ad.primitive_transposes[linear_p] = _transpose
batching.primitive_batchers[linear_p] = _batch
mlir.register_lowering(linear_p, mlir.lower_fun(compute, multiple_results=False))
