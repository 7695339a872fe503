"""Max pooling over windows at random places."""

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, as_array_or_none, check_floating
from jaxmodules._typing import Array, ArrayLike, Shape
from jaxmodules.nn.functional._pooling import Ratios, Sizes, largest_among, pick, typed_fractional_max_pool
from jaxmodules.random import next_key


@typed_fractional_max_pool
def fractional_max_pool2d(
    input: ArrayLike,
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> Any:
    """Take the largest elements of images, ``(N, C, H, W) -> (N, C, *output_size)``.

    See :func:`fractional_max_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.fractional_max_pool2d(jnp.ones((2, 3, 9, 8)), 2, output_ratio=(0.6, 0.5)).shape
        (2, 3, 5, 4)
    """
    settings = (kernel_size, output_size, output_ratio, return_indices, _random_samples)
    return fractional_max_pool_nd(input, *settings, rank=2)


@typed_fractional_max_pool
def fractional_max_pool3d(
    input: ArrayLike,
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> Any:
    """Take the largest elements of volumes, ``(N, C, D, H, W) -> (N, C, *output_size)``.

    See :func:`fractional_max_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.fractional_max_pool3d(jnp.ones((2, 3, 9, 8, 7)), 2, output_size=(5, 4, 3)).shape
        (2, 3, 5, 4, 3)
    """
    settings = (kernel_size, output_size, output_ratio, return_indices, _random_samples)
    return fractional_max_pool_nd(input, *settings, rank=3)


def fractional_max_pool2d_with_indices(
    input: ArrayLike,
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Call :func:`fractional_max_pool2d` with ``return_indices=True``, whatever is given."""
    return fractional_max_pool_nd(input, kernel_size, output_size, output_ratio, True, _random_samples, rank=2)


def fractional_max_pool3d_with_indices(
    input: ArrayLike,
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Call :func:`fractional_max_pool3d` with ``return_indices=True``, whatever is given."""
    return fractional_max_pool_nd(input, kernel_size, output_size, output_ratio, True, _random_samples, rank=3)


def fractional_max_pool_nd(
    input: ArrayLike,
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
    *,
    rank: int,
) -> Any:
    r"""Take the largest elements of windows at random places, other ones for every sample and channel.

    Along an axis, with one random number :math:`u` and :math:`\alpha = (in - kernel) / (out - 1)`, window :math:`i`
    starts at :math:`\lfloor (i + u)\,\alpha \rfloor - \lfloor u\,\alpha \rfloor`, and the last one at the end
    (Graham, `Fractional Max-Pooling <https://arxiv.org/abs/1412.6071>`_, 2014).

    Args:
        input: ``(N, C, *spatial)``, or one sample, ``(C, *spatial)``.
        kernel_size: size of the window, per axis or one for all.
        output_size: number of windows, per axis or one for all.
        output_ratio: the same, in parts of the input's size; used without ``output_size``.
        return_indices: also return where the elements came from, counted through the flattened ``spatial`` axes;
            of equal elements it is the first, as in PyTorch.
        _random_samples: the random numbers, ``(N, C, rank)`` (images: of the width first); drawn when ``None``.
        rank: number of spatial axes.

    Shape:
        ``(N, C, *spatial) -> (N, C, *output_size)``

    Raises:
        ValueError: if neither ``output_size`` nor ``output_ratio`` is given, or ``kernel_size`` is not positive.
        RuntimeError: if shapes or sizes do not fit together.
        IndexError: if ``input`` has too few axes.
        NotImplementedError: if ``input`` is not floating point.
    """
    name = f"fractional_max_pool{rank}d"
    input, samples = as_array(input), as_array_or_none(_random_samples)
    input, samples = cast(name, input, samples)
    if input.ndim <= rank:
        raise IndexError(
            f"Dimension out of range ({name} expected {rank + 1} or {rank + 2} axes,"
            f" but got an input of size {list(input.shape)})"
        )
    if output_size is None:
        output_size = _ratio_sizes(input, output_ratio, rank, name)
    kernel, sizes = _sizes(kernel_size, rank, f"{name}: kernel_size"), _sizes(output_size, rank, f"{name}: output_size")
    _check(input, kernel, sizes, rank, name)
    check_floating(input, name)
    batch = input.shape[0] if input.ndim == rank + 2 else 1
    if samples is None:
        shape = (batch, input.shape[-rank - 1], rank)
        samples = jax.random.uniform(next_key(), shape, accumulation_dtype(input.dtype))
    else:
        _check_samples(samples, input, batch, rank)
    values, places = _pool(input, samples, kernel, sizes)
    return (values, places) if return_indices else values


@partial(jax.jit, static_argnames=("kernel", "sizes"), inline=True)
def _pool(input: Array, samples: Array, kernel: Shape, sizes: Shape) -> tuple[Array, Array]:
    rank = len(kernel)
    lead = input.shape[:-rank] if input.ndim == rank + 2 else (1, *input.shape[:-rank])
    samples = samples[: lead[0]].reshape(lead[0] * lead[1], rank).astype(accumulation_dtype(samples.dtype))
    order = (1, 0) if rank == 2 else (0, 1, 2)
    members = [
        _starts(samples[:, number], size, length, width)[..., None] + jnp.arange(width)[None, None]
        for number, size, length, width in zip(order, sizes, input.shape[-rank:], kernel, strict=True)
    ]
    places = largest_among(input, members, vary=True)
    return pick(input, places, rank), places


def _starts(samples: Array, size: int, length: int, width: int) -> Array:
    """Return where the windows start along one axis, ``(planes) -> (planes, size)``, rounding as PyTorch does."""
    last = jnp.full((samples.shape[0], min(size, 1)), length - width, jnp.int32)
    if size < 2:
        return last
    alpha = np.asarray(length - width, samples.dtype) / np.asarray(size - 1, samples.dtype)
    steps = jnp.arange(size - 1, dtype=samples.dtype)[None] + samples[:, None]
    starts = (steps * alpha).astype(jnp.int32) - (samples * alpha).astype(jnp.int32)[:, None]
    return jnp.concatenate([starts, last], axis=1)


def _ratio_sizes(input: Array, output_ratio: Ratios | None, rank: int, name: str) -> Shape:
    if output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    ratios = tuple(output_ratio) if isinstance(output_ratio, Sequence) else (output_ratio,) * rank
    if len(ratios) != rank:
        raise (ValueError if len(ratios) > rank else IndexError)(
            f"{name} requires output_ratio to either be a single Int or tuple of Ints."
            f" Expected one number or {rank}, got {output_ratio!r}"
        )
    return tuple(int(size * ratio) for size, ratio in zip(input.shape[-rank:], ratios, strict=True))


def _sizes(value: Sizes, rank: int, name: str) -> Shape:
    sizes = tuple(map(operator.index, value if isinstance(value, Sequence) else (value,) * rank))
    if len(sizes) != rank:
        words = "tuple of Ints" if rank == 2 else "tuple of three Ints"
        raise RuntimeError(f"{name} must either be a single Int or {words}, got {value!r}")
    return sizes


def _check(input: Array, kernel: Shape, sizes: Shape, rank: int, name: str) -> None:
    name, shape = name + ("_out" if rank == 3 else ""), list(input.shape)
    if input.ndim > rank + 2:
        raise RuntimeError(f"{name}(): Expected {rank + 1}D or {rank + 2}D tensor, but got: {shape}")
    if 0 in shape[1:]:
        raise RuntimeError(
            f"{name}(): Expected input to have non-zero size for non-batch dimensions, but got{shape}"
            f" with dimension {shape.index(0, 1)} being empty."
        )
    if min(kernel) <= 0:
        raise ValueError(f"kernel_size must be greater than 0, but got {kernel}")
    axes = ("height", "width") if rank == 2 else ("time", "height", "width")
    for axis, width, size, length in zip(axes, kernel, sizes, shape[-rank:], strict=True):
        if size + width - 1 > length - (rank == 3):
            raise RuntimeError(
                f"{name}(): pool {axis} {width} too large relative to input {axis} {length}"
                f" (for {size} windows, expected at most {length - (rank == 3) - size + 1})"
            )
    if min(sizes) < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(sizes)}: output_size={list(sizes)}")


def _check_samples(samples: Array, input: Array, batch: int, rank: int) -> None:
    if samples.dtype != input.dtype:
        raise RuntimeError(
            f"Expect _random_samples to have the same dtype as input, got {samples.dtype} and {input.dtype}"
        )
    if samples.ndim != 3:
        raise RuntimeError(f"Expect _random_samples to have 3 dimensions, got {samples.ndim}")
    if samples.shape[0] < batch:
        raise RuntimeError(
            f"Expect _random_samples.size(0) no less then input batch size. Got {samples.shape[0]} for {batch}"
        )
    if samples.shape[1] != input.shape[-rank - 1]:
        raise RuntimeError(
            "Expect _random_samples.size(1) equals to input channel size."
            f" Got {samples.shape[1]} for {input.shape[-rank - 1]}"
        )
    if samples.shape[2] != rank:
        raise RuntimeError(f"Expect _random_samples.size(2) equals to {rank}; got {samples.shape[2]}.")
