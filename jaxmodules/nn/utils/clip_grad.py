"""Gradients bounded by norm or by value.

The functions work on the ``.grad`` of Parameters, as ``jm.backward`` fills it, eagerly and under ``jm.jit``. Gradients
as ``jm.grad`` returns them, a dict by name or a tuple of such dicts, are not written: the functions return new ones.
"""

import types
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, overload

import jax
import jax.numpy as jnp

from jaxmodules._shapes import accumulation_dtype, as_array
from jaxmodules._tracing import Tracer
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.parameter import Parameter
from jaxmodules.nn.utils._gradients import are_gradients, leaves, refilled

Parameters = Parameter | Iterable[Parameter]


def get_total_norm(
    tensors: ArrayLike | Iterable[ArrayLike],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Array:
    """Return the norm of several arrays as if they were one vector.

    Args:
        tensors: one array or several, or a dict of gradients.
        norm_type: the order of the norm, ``inf`` for the largest absolute value.
        error_if_nonfinite: whether a norm that is nan or infinite is an error.
        foreach: accepted for PyTorch's sake.

    Raises:
        RuntimeError: if ``error_if_nonfinite`` and the norm is nan or infinite, or not known in a compiled function;
            if an array is of integers, or has no elements to take the largest of.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(get_total_norm([jnp.array([3.0]), jnp.array([[4.0]])]))
        5.0
    """
    several: Any = [tensors] if isinstance(tensors, jax.Array | Parameter) else tensors
    several = leaves(several) if are_gradients(several) else several
    arrays = list(map(as_array, several))
    norm_type = float(norm_type)
    if not arrays:
        return jnp.zeros((), jnp.float32)
    _check(arrays, norm_type)
    total = _total_norm(arrays, norm_type)
    if error_if_nonfinite:
        if isinstance(total, Tracer):
            raise RuntimeError(
                "error_if_nonfinite=True looks at the value of the norm, which is not known while a function is being"
                " compiled: return the norm from the function and check it outside"
            )
        if not jnp.isfinite(total):
            raise RuntimeError(
                f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be"
                " clipped. To disable this error and scale the gradients by the non-finite norm anyway, set"
                " `error_if_nonfinite=False`"
            )
    return total


@overload
def clip_grads_with_norm_(
    parameters: Mapping[str, Array], max_norm: float, total_norm: ArrayLike, foreach: bool | None = None
) -> dict[str, Array]: ...
@overload
def clip_grads_with_norm_(
    parameters: Parameters, max_norm: float, total_norm: ArrayLike, foreach: bool | None = None
) -> None: ...
def clip_grads_with_norm_(
    parameters: Any, max_norm: float, total_norm: ArrayLike, foreach: bool | None = None
) -> dict[str, Array] | None:
    r"""Scale gradients down to a norm, given the norm that they have.

    .. math:: grad = grad \cdot \min(\frac{max\_norm}{total\_norm + 10^{-6}}, 1)

    Args:
        parameters: Parameters whose ``.grad`` is scaled, or a dict of gradients.
        max_norm: the norm that is not exceeded.
        total_norm: the norm of all gradients.
        foreach: accepted for PyTorch's sake.

    Returns:
        The scaled gradients for a dict, ``None`` for Parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> grads = {"weight": jnp.array([3.0, 4.0])}
        >>> clip_grads_with_norm_(grads, 10.0, get_total_norm(grads))["weight"].tolist()
        [3.0, 4.0]
    """
    max_norm, total = float(max_norm), as_array(total_norm)
    return _replaced(parameters, lambda gradients: _scaled(gradients, max_norm, total))


@overload
def clip_grad_norm_(
    parameters: Mapping[str, Array] | Sequence[Mapping[str, Array]],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> tuple[Any, Array]: ...
@overload
def clip_grad_norm_(
    parameters: Parameters,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Array: ...
def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Any:
    """Scale gradients, all by the same factor, so that their total norm is at most ``max_norm``.

    Args:
        parameters: one Parameter or several, whose ``.grad`` is scaled, those without left out; or a dict of gradients.
        max_norm: the norm that is not exceeded.
        norm_type: the order of the norm, ``inf`` for the largest absolute value.
        error_if_nonfinite: whether a norm that is nan or infinite is an error.
        foreach: accepted for PyTorch's sake.

    Returns:
        The total norm before; for a dict the scaled gradients and that norm.

    Raises:
        RuntimeError: if ``error_if_nonfinite`` and the norm is nan or infinite, or not known in a compiled function.

    Examples:
        >>> import jax.numpy as jnp
        >>> weight = Parameter(jnp.zeros(2))
        >>> weight.grad = jnp.array([30.0, 40.0])
        >>> float(clip_grad_norm_(weight, 5.0))
        50.0
        >>> weight.grad.round().tolist()
        [3.0, 4.0]
        >>> grads, norm = clip_grad_norm_({"weight": jnp.array([0.0, 2.0])}, 1.0)
        >>> grads["weight"].round().tolist(), float(norm)
        ([0.0, 1.0], 2.0)
    """
    if are_gradients(parameters):
        total_norm = get_total_norm(parameters, norm_type, error_if_nonfinite, foreach)
        return clip_grads_with_norm_(parameters, max_norm, total_norm, foreach), total_norm
    boxes = _listed(parameters)
    if isinstance(parameters, types.GeneratorType) and not boxes:
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=2)
    gradients = [box.grad for box in boxes if box.grad is not None]
    total_norm = get_total_norm(gradients, norm_type, error_if_nonfinite, foreach)
    clip_grads_with_norm_(boxes, max_norm, total_norm, foreach)
    return total_norm


def clip_grad_norm(
    parameters: Parameters,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Array:
    """Do what :func:`clip_grad_norm_` does, under its deprecated name."""
    warnings.warn(
        "`jaxmodules.nn.utils.clip_grad_norm` is now deprecated in favor of `jaxmodules.nn.utils.clip_grad_norm_`.",
        FutureWarning,
        stacklevel=2,
    )
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


@overload
def clip_grad_value_(
    parameters: Mapping[str, Array], clip_value: float, foreach: bool | None = None
) -> dict[str, Array]: ...
@overload
def clip_grad_value_(parameters: Parameters, clip_value: float, foreach: bool | None = None) -> None: ...
def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> dict[str, Array] | None:
    """Bound every element of gradients to ``[-clip_value, clip_value]``.

    Args:
        parameters: Parameters whose ``.grad`` is bounded, or a dict of gradients.
        clip_value: the largest absolute value.
        foreach: accepted for PyTorch's sake.

    Returns:
        The bounded gradients for a dict, ``None`` for Parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> clip_grad_value_({"weight": jnp.array([3.0, -4.0])}, 3.5)["weight"].tolist()
        [3.0, -3.5]
    """
    limit = float(clip_value)
    return _replaced(parameters, lambda gradients: _bounded(gradients, limit))


def _listed(parameters: Any) -> list[Any]:
    return [parameters] if isinstance(parameters, Parameter) else list(parameters)


def _check(arrays: Iterable[Array], order: float) -> None:
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise RuntimeError(f"Expected a floating point or complex tensor as input. Got {array.dtype}")
        if array.size == 0 and (order < 0 or order == jnp.inf):
            raise RuntimeError(
                f"cannot compute the norm of order {order} on an empty tensor because the operation does not have an"
                f" identity: got shape {array.shape}"
            )


def _replaced(parameters: Any, change: Any) -> Any:
    """Replace the gradients of Parameters, or make new dicts, by one call of ``change`` on their list."""
    if are_gradients(parameters):
        return refilled(parameters, iter(change(list(map(as_array, leaves(parameters))))))
    boxes = [box for box in _listed(parameters) if box.grad is not None]
    for box, gradient in zip(boxes, change([box.grad for box in boxes]), strict=True):
        box.grad = gradient
    return None


@partial(jax.jit, static_argnames=("order",), inline=True)
def _total_norm(arrays: list[Array], order: float) -> Array:
    norms = [_norm(array.reshape(-1), order).astype(jnp.finfo(array.dtype).dtype) for array in arrays]
    return _norm(jnp.stack(norms), order).astype(jnp.result_type(*norms))


def _norm(vector: Array, order: float) -> Array:
    sizes = jnp.abs(vector).astype(accumulation_dtype(jnp.finfo(vector.dtype).dtype))
    return jnp.linalg.norm(sizes, order)


@partial(jax.jit, inline=True)
def _scaled(gradients: list[Array], max_norm: float, total_norm: Array) -> list[Array]:
    factor = jnp.minimum(max_norm / (total_norm + 1e-6), 1.0)
    return [(gradient * factor).astype(gradient.dtype) for gradient in gradients]


@partial(jax.jit, inline=True)
def _bounded(gradients: list[Array], limit: float) -> list[Array]:
    return [jnp.clip(gradient, -limit, limit) for gradient in gradients]
