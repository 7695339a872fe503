"""``Module.to`` and its relatives: what a device or a dtype argument means, and how arrays follow it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._device import PLATFORMS, parse_device
from jaxmodules.nn._writable import is_differentiable, unbox
from jaxmodules.nn.parameter import UninitializedBuffer, UninitializedParameter


def parse_dtype(dtype: Any) -> Any:
    """Return the NumPy dtype that ``dtype`` names.

    Raises:
        TypeError: if ``dtype`` names no dtype.
    """
    try:
        return jnp.dtype(dtype)
    except TypeError:
        raise TypeError(f"expected a dtype such as jnp.float32 or 'bfloat16', got {dtype!r}") from None


def parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return the (device, dtype) that the arguments of :meth:`Module.to` ask for.

    Raises:
        RuntimeError: if the device is not there.
        TypeError: if an argument is neither device nor dtype, or the dtype is one of integers.
    """
    options = dict(kwargs)
    device, dtype = options.pop("device", None), options.pop("dtype", None)
    options.pop("non_blocking", None)
    options.pop("memory_format", None)
    other = options.pop("tensor", None)
    if options:
        raise TypeError(f"to() received an unexpected keyword argument {next(iter(options))!r}")
    positional = [a for a in args if not isinstance(a, bool)]  # non_blocking and copy
    for i, value in enumerate(positional):
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            other = value
        elif value is None:
            continue
        elif i == 0 and _names_device(value):
            device = value
        elif i < 2:
            dtype = value
        else:
            raise TypeError(f"to() received an unexpected argument {value!r}: expected a device and a dtype")
    if other is not None:
        array = unbox(other)
        device, dtype = getattr(array, "sharding", None), array.dtype
    else:
        device, dtype = parse_device(device), None if dtype is None else parse_dtype(dtype)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}")
    return device, dtype


def _names_device(value: Any) -> bool:
    if isinstance(value, str):
        try:
            return value.partition(":")[0] in PLATFORMS or np.dtype(value) is None
        except TypeError:
            return value not in ("bfloat16",) and not hasattr(jnp, value)
    return isinstance(value, int | jax.Device | jax.sharding.Sharding) or hasattr(value, "index")


def converter(device: Any, dtype: Any) -> Callable[[Any], Any]:
    """Return the function that moves an array to ``device`` and casts it, if it is inexact, to ``dtype``."""

    def convert(array: Any) -> Any:
        if dtype is not None and is_differentiable(array) and array.dtype != dtype:
            array = array.astype(dtype)
        return array if device is None else jax.device_put(array, device)

    return convert


def floating_to(dtype: Any) -> Callable[[Any], Any]:
    """Return the function that casts an array of real floating point numbers to ``dtype``."""
    return lambda array: array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def emptier(device: Any) -> Callable[[Any], Any]:
    """Return the function that replaces an array by an empty one of its shape and dtype on ``device``."""
    target = parse_device(device)
    return lambda array: jax.device_put(np.empty(array.shape, array.dtype), target)


def apply(module: Any, function: Callable[[Any], Any]) -> None:
    """Put every parameter, gradient and buffer of one module through ``function``."""
    for parameter in module._parameters.values():
        if isinstance(parameter, UninitializedParameter):
            parameter._value = function(parameter._value)
        elif parameter is not None:
            parameter.value = function(parameter.value)
            if parameter._grad is not None:
                parameter.grad = function(parameter._grad)
    for name, buffer in module._buffers.items():
        if isinstance(buffer, UninitializedBuffer):
            buffer.data = function(buffer.data)
        elif buffer is not None:
            module._buffers[name] = function(buffer)
