"""Tabulate the parameters of a module."""

import math
from typing import Any

import jax.numpy as jnp

from jaxmodules._table import align

_TITLES = ("name", "layer", "shape", "dtype", "count")


def summary(module: Any) -> str:
    """Return a table of a module's parameters: name, layer, shape, dtype, count, and the totals.

    A tied parameter is listed and counted once, under its first name. Frozen ones (``requires_grad=False``) say so.

    Args:
        module: the module to tabulate.

    Examples:
        >>> from jaxmodules.nn.modules.linear import Linear
        >>> print(summary(Linear(3, 2)))
        name    layer   shape   dtype    count
        ------  ------  ------  -------  -----
        weight  Linear  (2, 3)  float32      6
        bias    Linear  (2,)    float32      2
        ------  ------  ------  -------  -----
        8 parameters (8 trainable), 32 bytes; 0 values in buffers
    """
    rows = []
    trainable = total = size = 0
    for name, parameter in module.named_parameters():
        count = math.prod(parameter.shape)
        total += count
        size += count * jnp.dtype(parameter.dtype).itemsize
        trainable += count if parameter.requires_grad else 0
        layer = type(module.get_submodule(name.rpartition(".")[0])).__name__
        shape = str(tuple(parameter.shape)) + ("" if parameter.requires_grad else " frozen")
        rows.append((name, layer, shape, jnp.dtype(parameter.dtype).name, f"{count:,}"))
    buffers = sum(math.prod(buffer.shape) for buffer in module.buffers())
    return (
        f"{align(_TITLES, rows, right=(4,))}\n{total:,} parameters ({trainable:,} trainable), {_in_bytes(size)};"
        f" {buffers:,} values in buffers"
    )


def _in_bytes(size: int) -> str:
    """Return a size with the unit that keeps it below a thousand."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
