"""Putting pooled elements back where they came from."""

import math
import operator
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxmodules._autocast import cast
from jaxmodules._shapes import as_array, check_floating, host_value, is_integer
from jaxmodules._typing import Array, ArrayLike, Shape
from jaxmodules.nn.functional._pooling import Sizes


def max_unpool1d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Array:
    """Put the elements of signals back, ``(N, C, L) -> (N, C, L_out)``; see :func:`max_unpool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.max_unpool1d(jnp.array([[5.0, 7.0]]), jnp.array([[1, 2]]), 2).tolist()
        [[0.0, 5.0, 7.0, 0.0]]
    """
    return max_unpool_nd(input, indices, kernel_size, stride, padding, output_size, rank=1)


def max_unpool2d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Array:
    """Put the elements of images back, ``(N, C, H, W) -> (N, C, H_out, W_out)``; see :func:`max_unpool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> values, indices = F.max_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2, return_indices=True)
        >>> F.max_unpool2d(values, indices, 2)[0].tolist()
        [[0.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 7.0], [0.0, 0.0, 0.0, 0.0], [0.0, 13.0, 0.0, 15.0]]
    """
    return max_unpool_nd(input, indices, kernel_size, stride, padding, output_size, rank=2)


def max_unpool3d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Array:
    """Put the elements of volumes back, ``(N, C, D, H, W) -> (N, C, D_out, H_out, W_out)``; see :func:`max_unpool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> values, indices = F.max_pool3d(jnp.ones((1, 3, 5, 5, 5)), 3, 2, return_indices=True)
        >>> F.max_unpool3d(values, indices, 3, 2).shape
        (1, 3, 5, 5, 5)
    """
    return max_unpool_nd(input, indices, kernel_size, stride, padding, output_size, rank=3)


def max_unpool_nd(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
    *,
    rank: int,
) -> Array:
    r"""Put pooled elements back where they came from, and zeros everywhere else.

    Args:
        input: ``(N, C, *spatial)``, or one sample, ``(C, *spatial)``.
        indices: of the shape of ``input``, as a max-pooling function returns them. Of elements with the same index
            the last stays, and all have its gradient. Those out of range raise where their values are known and fill
            their plane with NaN where they are traced.
        kernel_size: size of the window that was pooled with, per axis or one for all.
        stride: its step; ``kernel_size`` by default.
        padding: its padding.
        output_size: the size of the result, where several would pool to the same size; may begin with ``N, C``.
        rank: number of spatial axes.

    Shape:
        ``(N, C, *spatial) -> (N, C, *out)`` with ``out = (spatial - 1) * stride + kernel_size - 2 * padding``

    Raises:
        RuntimeError: if shapes do not fit together, or an index is out of range.
        ValueError: if ``output_size`` is not possible.
        NotImplementedError: if ``input`` is not floating point.
    """
    input, indices, name = as_array(input), as_array(indices), f"max_unpool{max(rank, 2)}d"
    (input,) = cast(name, input)
    kernel, pads = (_sizes(sizes, rank, what) for sizes, what in ((kernel_size, "kernel_size"), (padding, "padding")))
    step = kernel if stride is None else _sizes(stride, rank, "stride")
    out = _output_sizes(input, kernel, step, pads, output_size)
    _check(input, indices, rank)
    if rank == 3 and min(step) <= 0:
        raise RuntimeError(f"strides should be greater than zero, but got stride: {list(step)}")
    check_floating(input, name)
    known = host_value(indices)
    wrong = None if known is None else known[(known < 0) | (known >= math.prod(out))]
    if wrong is not None and wrong.size:
        volume = "x".join(map(str, out if rank > 1 else (*out, 1)))
        raise RuntimeError(f"Found an invalid max index: {wrong[-1]} (output volumes are of size {volume})")
    return _unpool(input, indices, out)


@partial(jax.jit, static_argnames="out", inline=True)
def _unpool(input: Array, indices: Array, out: Shape) -> Array:
    lead, plane, size = input.shape[: -len(out)], input.shape[-len(out) :], math.prod(out)
    values, places = (part.reshape(math.prod(lead), math.prod(plane)) for part in (input, indices))
    wrong = jnp.any((places < 0) | (places >= size), axis=1, keepdims=True)
    blank = jnp.broadcast_to(jnp.where(wrong, jnp.nan, 0).astype(input.dtype), (values.shape[0], size))
    return _put(values, places, blank).reshape(*lead, *out)


@jax.custom_jvp
def _put(values: Array, places: Array, blank: Array) -> Array:
    return jax.vmap(lambda row, place, value: row.at[place].set(value, mode="drop"))(blank, places, values)


@_put.defjvp
def _put_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """Give every element the gradient at its place, overwritten or not, as PyTorch does."""
    values, places, blank = primals
    rows = jnp.zeros_like(blank)
    spread = jax.vmap(lambda row, place, value: row.at[place].add(value, mode="drop"))(rows, places, tangents[0])
    return _put(values, places, blank), spread


def _sizes(value: Sizes, rank: int, name: str) -> Shape:
    sizes = tuple(map(operator.index, value if isinstance(value, Sequence) else (value,) * rank))
    if len(sizes) < rank and name == "kernel_size":
        expected = "two elements (height, width)" if rank == 2 else "three elements (depth, height, width)"
        raise RuntimeError(f"There should be exactly {expected} in output_size, but got {len(sizes)} elements.")
    if len(sizes) != rank:
        raise IndexError(f"tuple index out of range: {name} must be an int or a tuple of {rank}, got {value!r}")
    return sizes


def _output_sizes(
    input: Array, kernel: Shape, stride: Shape, padding: Shape, output_size: Sequence[int] | None
) -> Shape:
    rank = len(kernel)
    sizes = (1,) * (rank - input.ndim) + input.shape[-rank:]
    default = tuple(
        (size - 1) * step + width - 2 * pad
        for size, step, width, pad in zip(sizes, stride, kernel, padding, strict=True)
    )
    if output_size is not None:
        if not isinstance(output_size, Sequence):
            raise TypeError(f"output_size must be a sequence of {rank} or {rank + 2} ints, got {output_size!r}")
        wanted = tuple(map(operator.index, output_size[2:] if len(output_size) == rank + 2 else output_size))
        if len(wanted) != rank:
            raise ValueError(
                f"output_size should be a sequence containing {rank} or {rank + 2} elements,"
                f" but it has a length of '{len(wanted)}'"
            )
        for axis, (want, size, step) in enumerate(zip(wanted, default, stride, strict=True)):
            if not size - step < want < size + step:
                raise ValueError(
                    f'invalid output_size "{output_size[-rank:]}"'
                    f" (dim {axis} must be between {size - step} and {size + step})"
                )
        default = wanted
    for axis, size in enumerate(default):
        if size < 0:
            raise ValueError(
                "max_unpooling: output_size must contain non-negative spatial dimensions,"
                f" but got output_size[{axis}]={size}"
            )
    return default


def _check(input: Array, indices: Array, rank: int) -> None:
    if not is_integer(indices.dtype):
        raise RuntimeError(f"elements in indices should be type int64 but got: {indices.dtype}")
    if input.ndim not in (rank + 1, rank + 2):
        # signals are images of width 1 to PyTorch
        more = max(2 - rank, 0)
        raise RuntimeError(
            f"Input to max_unpooling{rank + more}d should be a {rank + more + 1}d or {rank + more + 2}d Tensor,"
            f" but got a tensor with {input.ndim + more} dimensions: size {list(input.shape)}"
        )
    if input.shape != indices.shape:
        raise RuntimeError(
            "Expected shape of indices to be same as that of the input tensor"
            f" ({list(input.shape)}) but got indices tensor with shape: {list(indices.shape)}"
        )
    if 0 in input.shape[1:]:
        raise RuntimeError(
            f"max_unpooling{max(rank, 2)}d_forward_out_cpu(): Expected input to have non-zero size for non-batch"
            f" dimensions, but got {list(input.shape)} with dimension {input.shape.index(0, 1)} being empty."
        )
