"""Parameters as one vector, and back."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import as_array
from jaxmodules._tracing import Tracer
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.parameter import Parameter


def parameters_to_vector(parameters: Iterable[ArrayLike]) -> Array:
    """Flatten parameters, or arrays, into one vector.

    Args:
        parameters: what is joined, in this order.

    Raises:
        ValueError: if there are none.
        TypeError: if they live on different devices.

    Examples:
        >>> from jaxmodules import nn
        >>> parameters_to_vector(nn.Linear(3, 2).parameters()).shape
        (8,)
    """
    arrays = [as_array(parameter) for parameter in parameters]
    if not arrays:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors: there are no parameters to flatten")
    _check_devices(arrays)
    return jnp.concatenate([array.reshape(-1) for array in arrays])


def vector_to_parameters(vec: ArrayLike, parameters: Iterable[Any]) -> None:
    """Copy the slices of a vector into parameters; as in PyTorch no gradient flows back to the vector.

    Args:
        vec: the values, in the order of ``parameters``; what is left over is not used.
        parameters: the Parameters that are written. Where gradients have to flow to the vector, hand its slices to
            ``jm.functional_call`` instead.

    Raises:
        TypeError: if ``vec`` is no array, or the parameters live on different devices.
        RuntimeError: if the vector is too short.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Linear(1, 2)
        >>> vector_to_parameters(jnp.arange(4.0), net.parameters())
        >>> net.bias.tolist()
        [2.0, 3.0]
    """
    if not isinstance(vec, jax.Array | Parameter) and not hasattr(vec, "__array__"):
        raise TypeError(f"expected torch.Tensor, but got: {type(vec).__name__} (expected an array)")
    vector = lax.stop_gradient(as_array(vec))
    boxes = list(parameters)
    _check_devices([as_array(box) for box in boxes])
    start = 0
    for box in boxes:
        part = vector[start : start + box.numel()]
        if part.size != box.numel():
            raise RuntimeError(
                f"shape '{list(box.shape)}' is invalid for input of size {part.size}: the vector has {vector.size}"
                f" elements, expected {sum(box.numel() for box in boxes)}"
            )
        box.data = part.reshape(box.shape)
        start += box.numel()


def _check_devices(arrays: Iterable[Array]) -> None:
    places = {frozenset(array.devices()) for array in arrays if not isinstance(array, Tracer)}
    if len(places) > 1:
        raise TypeError("Found two parameters on different devices, this is currently not supported.")
