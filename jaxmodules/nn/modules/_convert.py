"""``Module.to`` and its relatives: what a device or a dtype argument means, and how arrays follow it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._device import META, PLATFORMS, is_meta, move, parse_device, shape_of
from jaxmodules._mt19937 import empty
from jaxmodules.nn._writable import is_differentiable, unbox
from jaxmodules.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter, is_lazy


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
        RuntimeError: if the device is not there, or a copy is asked for.
        TypeError: if an argument is neither device nor dtype, or the dtype is one of integers.
    """
    options = dict(kwargs)
    device, dtype = options.pop("device", None), options.pop("dtype", None)
    options.pop("non_blocking", None)
    options.pop("memory_format", None)
    other, wants_copy = options.pop("tensor", None), options.pop("copy", None) is not None
    if options:
        raise TypeError(f"to() received an unexpected keyword argument {next(iter(options))!r}")
    positional, flags = _split_flags(args)
    if wants_copy or len(flags) == 2:
        raise RuntimeError(".to() does not accept copy argument: a module is moved itself (copy.deepcopy it first)")
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
        array = other._value if isinstance(other, Parameter) else unbox(other)
        device, dtype = META if is_meta(array) else getattr(array, "sharding", None), array.dtype
    else:
        device, dtype = parse_device(device), None if dtype is None else parse_dtype(dtype)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}")
    return device, dtype


def _split_flags(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Split what comes before ``non_blocking`` and ``copy`` from these, which follow a dtype or an array."""
    count = next((i for i, value in enumerate(args) if isinstance(value, bool)), len(args))
    positional, flags = args[:count], args[count:]
    has_dtype = count == 2 or (count == 1 and positional[0] is not None and not _names_device(positional[0]))
    if flags and (not has_dtype or len(flags) > 2 or not all(isinstance(flag, bool) for flag in flags)):
        kinds = ", ".join(type(value).__name__ for value in args)
        raise TypeError(
            f"to() received an invalid combination of arguments - got ({kinds}), but expected a dtype or an array"
            " before the bools non_blocking and copy"
        )
    return positional, flags


def _names_device(value: Any) -> bool:
    if isinstance(value, str):
        try:
            return value.partition(":")[0] in (*PLATFORMS, META) or np.dtype(value) is None
        except TypeError:
            return value not in ("bfloat16",) and not hasattr(jnp, value)
    return isinstance(value, int | jax.Device | jax.sharding.Sharding) or hasattr(value, "index")


def converter(device: Any, dtype: Any) -> Callable[[Any], Any]:
    """Return the function that moves an array to ``device`` and casts it, if it is inexact, to ``dtype``."""

    def convert(array: Any) -> Any:
        return move(cast(array, dtype) if dtype is not None and is_differentiable(array) else array, device)

    return convert


def cast(array: Any, dtype: Any) -> Any:
    """Return an array, or the shape of one on the meta device, in another dtype."""
    if array.dtype == dtype:
        return array
    return jax.ShapeDtypeStruct(array.shape, dtype) if is_meta(array) else array.astype(dtype)


def floating_to(dtype: Any) -> Callable[[Any], Any]:
    """Return the function that casts an array of real floating point numbers to ``dtype``."""
    return lambda array: cast(array, dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def emptier(device: Any) -> Callable[[Any], Any]:
    """Return the function that replaces an array by an empty one of its shape and dtype on ``device``."""
    target = parse_device(device)
    if target is META:
        return shape_of
    return lambda array: jax.device_put(empty(tuple(array.shape), array.dtype), target)


def check_shareable(module: Any) -> None:
    """Raise if a parameter or buffer has no array yet."""
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        raise RuntimeError(
            "Can't share memory on an uninitialized parameter or buffer. Call `forward` to initialize the parameters"
            " before calling `module.share_memory()`."
        )


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
