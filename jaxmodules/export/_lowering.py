"""A traced program in the operations that jax2onnx can express.

The jaxpr is run once more, so that what jax2onnx sees are JAX's primitives and nothing of what it puts in the place of
``jax.numpy`` functions while it traces. Calls in it are resolved, and primitives that its rules cannot express, or
express in a form that no runtime takes, are written in others.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal
from jax.extend.core.primitives import reduce_window_max_p, scan_p

from jaxmodules._shapes import known
from jaxmodules._tracing import Tracer
from jaxmodules.nn.functional._convolution import by_primitive, case_of
from jaxmodules.nn.functional._linear import compute

_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_CALLS = {"closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit", "checkpoint", "remat2"}


def run(jaxpr: ClosedJaxpr, arrays: Sequence[Any]) -> list[Any]:
    """Return what a program returns for some arrays."""
    values = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
    values.update(zip(jaxpr.jaxpr.invars, arrays, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.jaxpr.eqns:
        results = apply(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.jaxpr.outvars]


def apply(eqn: Any, arrays: Sequence[Any]) -> Sequence[Any]:
    """Return the results of one equation of a program."""
    inner = called(eqn)
    if inner is not None:
        return run(inner, arrays)
    if eqn.primitive.name == "platform_index":  # no machine is known: what a choice by machine has for all others
        return [0]
    if "branches_platforms" in eqn.params:
        default = eqn.params["branches_platforms"].index(None)
        return run(eqn.params["branches"][default], arrays[1:])
    if _is_known(eqn, arrays):
        with jax.ensure_compile_time_eval():
            return _bind(eqn, arrays)
    if eqn.primitive.name in _RULES:
        return _RULES[eqn.primitive.name](arrays, eqn.params)
    return _bind(eqn, arrays)


def _bind(eqn: Any, arrays: Sequence[Any]) -> Sequence[Any]:
    out = eqn.primitive.bind(*arrays, **eqn.params)
    return out if eqn.primitive.multiple_results else [out]


def _is_known(eqn: Any, arrays: Sequence[Any]) -> bool:
    """Tell whether results can be computed now, from weights alone, and take no more room than these."""
    if not arrays or eqn.effects or any(isinstance(array, Tracer) for array in arrays):
        return False
    sizes = [size for var in eqn.outvars for size in var.aval.shape]
    if len(known(sizes)) < len(sizes):
        return False
    return sum(math.prod(var.aval.shape) for var in eqn.outvars) <= sum(map(np.size, arrays))


def called(eqn: Any) -> ClosedJaxpr | None:
    """Return the program that an equation does nothing but call."""
    if eqn.primitive.name not in _CALLS:
        return None
    inner = next(eqn.params[name] for name in _INNER if name in eqn.params)
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def equations(jaxpr: ClosedJaxpr, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the equations of a program and of those that it calls, with the paths of the modules that they are in."""
    for eqn in jaxpr.jaxpr.eqns:
        here = "/".join(filter(None, [path, str(eqn.source_info.name_stack)]))
        inner = called(eqn)
        if inner is None:
            yield here, eqn
        else:
            yield from equations(inner, here)


def _scan(arrays: Sequence[Any], params: dict[str, Any]) -> Sequence[Any]:
    """Run a loop from the start: ONNX's loops do not run backwards."""
    inner = params["jaxpr"]
    counts, carries = params["num_consts"], params["num_carry"]
    first = counts + carries
    backwards = params["reverse"]
    params = {**params, "reverse": False, "jaxpr": jax.make_jaxpr(lambda *xs: run(inner, xs))(*inner.in_avals)}
    if backwards:
        arrays = [*arrays[:first], *(lax.rev(xs, (0,)) for xs in arrays[first:])]
    out = scan_p.bind(*arrays, **params)
    return [*out[:carries], *(lax.rev(ys, (0,)) for ys in out[carries:])] if backwards else out


def _reduce_window_max(arrays: Sequence[Any], params: dict[str, Any]) -> Sequence[Any]:
    """Pool over one axis at a time: the runtimes take no more than three, of which batch and channels are two."""
    (x,) = arrays
    columns = [params[n] for n in ("window_dimensions", "window_strides", "padding", "window_dilation")]
    for axis, (width, stride, pads, gap) in enumerate(zip(*columns, strict=True)):
        if (width, stride, tuple(pads)) == (1, 1, (0, 0)):
            continue
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        size = _product(before), x.shape[axis], _product(after)
        pooled = reduce_window_max_p.bind(
            x.reshape(size), window_dimensions=(1, width, 1), window_strides=(1, stride, 1),
            padding=((0, 0), tuple(pads), (0, 0)), base_dilation=(1, 1, 1), window_dilation=(1, gap, 1),
        )  # fmt: skip
        x = pooled.reshape(*before, pooled.shape[1], *after)
    return [x]


def _convolution(arrays: Sequence[Any], params: dict[str, Any]) -> Sequence[Any]:
    """Write a convolution, or a gradient of one, as JAX's primitive."""
    left, right = arrays
    case = case_of(params["wanted"], left.shape, right.shape, params["window"], params["extent"])
    return [by_primitive(params["wanted"], left, right, case)]


def _linear(arrays: Sequence[Any], params: dict[str, Any]) -> Sequence[Any]:
    """Write a linear map out."""
    return run(jax.make_jaxpr(partial(compute, **params))(*arrays), arrays)


def _product(sizes: Sequence[Any]) -> Any:
    product: Any = 1
    for size in sizes:
        product = product * size
    return product


_RULES: dict[str, Callable[[Sequence[Any], dict[str, Any]], Sequence[Any]]] = {
    "convolution": _convolution,
    "linear": _linear,
    "reduce_window_max": _reduce_window_max,
    "scan": _scan,
}
