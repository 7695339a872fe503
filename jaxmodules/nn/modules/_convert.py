"""``Module.to`` and its relatives: what a device or a dtype argument means, and how arrays follow it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules.nn.parameter import is_differentiable, unbox

_PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "rocm": "gpu", "tpu": "tpu"}


def parse_device(device: Any) -> Any:
    """Return the JAX device or sharding that ``device`` names.

    Args:
        device: a JAX device or Sharding, an accelerator's index, or a string of PyTorch's: ``"cpu"``, ``"cuda"``,
            ``"cuda:0"``, ``"gpu"``, ``"tpu"``.

    Raises:
        RuntimeError: if there is no such device.
        TypeError: if ``device`` is none of these.
    """
    if device is None or isinstance(device, jax.Device | jax.sharding.Sharding):
        return device
    if isinstance(device, int) and not isinstance(device, bool):
        device = f"{'gpu' if jax.default_backend() == 'cpu' else jax.default_backend()}:{device}"
    if hasattr(device, "type") and hasattr(device, "index"):  # torch.device
        device = str(device)
    if not isinstance(device, str):
        raise TypeError(f"expected a jax.Device, a Sharding or a string such as 'cpu' or 'cuda:0', got {device!r}")
    platform, _, index = device.partition(":")
    if platform not in _PLATFORMS or (index and not index.isdigit()):
        raise RuntimeError(
            f"Expected one of {', '.join(_PLATFORMS)} device type at start of device string: {device}"
            " (an index may follow, as in 'cuda:0')"
        )
    try:
        devices = jax.devices(_PLATFORMS[platform])
    except RuntimeError:
        devices = []
    number = int(index or 0)
    if number >= len(devices):
        there = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise RuntimeError(f"device {device!r} is not there: this process has {there}")
    return devices[number]


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
            return value.partition(":")[0] in _PLATFORMS or np.dtype(value) is None
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


def emptier(device: Any) -> Callable[[Any], Any]:
    """Return the function that replaces an array by an empty one of its shape and dtype on ``device``."""
    target = parse_device(device)
    return lambda array: jax.device_put(np.empty(array.shape, array.dtype), target)
