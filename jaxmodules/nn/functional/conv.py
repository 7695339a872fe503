"""Convolutions over one, two and three spatial axes."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
from jax import lax

from jaxmodules._shapes import as_array, as_array_or_none, ntuple, same_padding
from jaxmodules._typing import Array, ArrayLike

_Sizes = int | Sequence[int]
_Padding = int | Sequence[int] | Literal["same", "valid"]
_Pairs = tuple[tuple[int, int], ...]

_LAYOUTS = {1: ("NCW", "OIW", "NCW"), 2: ("NCHW", "OIHW", "NCHW"), 3: ("NCDHW", "OIDHW", "NCDHW")}


def conv_nd(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _Sizes = 1,
    padding: _Padding = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
    *,
    rank: int,
) -> Array:
    r"""Slide kernels over the last ``rank`` axes (a cross-correlation, as in every deep learning library).

    .. math:: y_{n,o} = b_o + \sum_{i} w_{o,i} \star x_{n,i}

    Args:
        input: ``(N, C_in, *spatial)``, or one sample, ``(C_in, *spatial)``.
        weight: ``(C_out, C_in / groups, *kernel)``.
        bias: ``(C_out,)``.
        stride: step of the window, per axis or one for all.
        padding: zeros at both ends of each axis, ``'valid'`` (none), or ``'same'`` (the output keeps the
            input's size; strides must be 1).
        dilation: distance between the kernel's elements.
        groups: number of blocks that the channels are split into.
        rank: number of spatial axes.

    Shape:
        ``(N, C_in, *spatial) -> (N, C_out, *out)`` with
        ``out = (spatial + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1``

    Raises:
        RuntimeError: if shapes, sizes or dtypes do not fit together.
    """
    input, weight, bias = as_array(input), as_array(weight), as_array_or_none(bias)
    if input.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to conv{rank}d,"
            f" but got input of size: {list(input.shape)}"
        )
    stride, dilation = ntuple(stride, rank, "stride"), ntuple(dilation, rank, "dilation")
    _check_operands(input, weight, bias, groups, rank)
    _check_positive(stride, "stride")
    _check_positive(dilation, "dilation")
    pairs = _pad_pairs(padding, stride, dilation, weight.shape[2:])
    _check_fits(input, weight, pairs, dilation)
    return _conv(input, weight, bias, stride, pairs, dilation, groups)


def conv1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _Sizes = 1,
    padding: _Padding = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Array:
    """Convolve signals, ``(N, C_in, L) -> (N, C_out, L_out)``; see :func:`conv_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.conv1d(jnp.ones((2, 3, 8)), jnp.ones((4, 3, 3)), padding="same").shape
        (2, 4, 8)
    """
    return conv_nd(input, weight, bias, stride, padding, dilation, groups, rank=1)


def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _Sizes = 1,
    padding: _Padding = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Array:
    """Convolve images, ``(N, C_in, H, W) -> (N, C_out, H_out, W_out)``; see :func:`conv_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.conv2d(jnp.ones((2, 3, 8, 8)), jnp.ones((4, 3, 3, 3)), stride=2, padding=1).shape
        (2, 4, 4, 4)
    """
    return conv_nd(input, weight, bias, stride, padding, dilation, groups, rank=2)


def conv3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _Sizes = 1,
    padding: _Padding = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Array:
    """Convolve volumes, ``(N, C_in, D, H, W) -> (N, C_out, D_out, H_out, W_out)``; see :func:`conv_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.conv3d(jnp.ones((2, 3, 4, 4, 4)), jnp.ones((4, 3, 3, 3, 3))).shape
        (2, 4, 2, 2, 2)
    """
    return conv_nd(input, weight, bias, stride, padding, dilation, groups, rank=3)


@partial(jax.jit, static_argnames=("stride", "padding", "dilation", "groups"), inline=True)
def _conv(
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: tuple[int, ...],
    padding: _Pairs,
    dilation: tuple[int, ...],
    groups: int,
) -> Array:
    rank = len(stride)
    batched = input.ndim == rank + 2
    output = lax.conv_general_dilated(
        input if batched else input[None],
        weight,
        window_strides=stride,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=_LAYOUTS[rank],
        feature_group_count=groups,
    )
    if bias is not None:
        output = output + bias.reshape(1, -1, *[1] * rank)
    return output if batched else output[0]


def _pad_pairs(
    padding: _Padding, stride: tuple[int, ...], dilation: tuple[int, ...], kernel: tuple[int, ...]
) -> _Pairs:
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"Invalid padding string: {padding!r}, expected 'same' or 'valid'")
        if padding == "valid":
            return ((0, 0),) * len(kernel)
        if any(step != 1 for step in stride):
            raise RuntimeError(f"padding='same' is not supported for strided convolutions, got stride={list(stride)}")
        return same_padding(kernel, dilation)
    sizes = ntuple(padding, len(kernel), "padding")
    if min(sizes) < 0:
        raise RuntimeError(f"negative padding is not supported, got padding={list(sizes)}")
    return tuple((size, size) for size in sizes)


def _check_positive(sizes: tuple[int, ...], name: str) -> None:
    if min(sizes) <= 0:
        raise RuntimeError(f"non-positive {name} is not supported, got {name}={list(sizes)}")


def _check_operands(input: Array, weight: Array, bias: Array | None, groups: int, rank: int) -> None:
    shape = list(weight.shape)
    if weight.ndim != rank + 2:
        raise RuntimeError(f"Expected a {rank + 2}-dimensional weight for conv{rank}d, but got weight of size {shape}")
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.dtype != input.dtype:
            raise RuntimeError(f"Input type ({input.dtype}) and {name} type ({other.dtype}) should be the same")
    if groups <= 0:
        raise RuntimeError(f"non-positive groups is not supported, got groups={groups}")
    if shape[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0,"
            f" but got weight of size {shape} instead"
        )
    channels, expected = input.shape[-rank - 1], shape[1] * groups
    if channels != expected:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {shape}, expected input{list(input.shape)} to have"
            f" {expected} channels, but got {channels} channels instead"
        )
    if bias is not None and bias.shape != (shape[0],):
        raise RuntimeError(
            f"Given weight of size {shape}, expected bias to be 1-dimensional with {shape[0]} elements,"
            f" but got bias of size {list(bias.shape)} instead"
        )


def _check_fits(input: Array, weight: Array, padding: _Pairs, dilation: tuple[int, ...]) -> None:
    rank = len(dilation)
    padded = [size + before + after for size, (before, after) in zip(input.shape[-rank:], padding, strict=True)]
    spans = [step * (size - 1) + 1 for size, step in zip(weight.shape[2:], dilation, strict=True)]
    if any(span > size for span, size in zip(spans, padded, strict=True)):
        raise RuntimeError(
            f"Calculated padded input size per channel: ({' x '.join(map(str, padded))})."
            f" Kernel size: ({' x '.join(map(str, spans))}). Kernel size can't be greater than actual input size"
        )
