"""Convolutions and transposed convolutions over one, two and three spatial axes."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import numpy as np
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import as_array, as_array_or_none, check_floating, ntuple, same_padding
from jaxmodules._typing import Array, ArrayLike, Pairs
from jaxmodules.nn.functional._convolution import Window, convolve, input_gradient, register
from jaxmodules.nn.functional._cpu.rules import CONVOLUTION, choose

_Sizes = int | Sequence[int]
_Padding = int | Sequence[int] | Literal["same", "valid"]

_AXES = ("depth", "height", "width")


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
        NotImplementedError: if the input is boolean.
    """
    input, weight, bias = as_array(input), as_array(weight), as_array_or_none(bias)
    input, weight, bias = cast(f"conv{rank}d", input, weight, bias)
    _check_ranks(input, weight, rank, f"conv{rank}d")
    stride, dilation = ntuple(stride, rank, "stride"), ntuple(dilation, rank, "dilation")
    _check_steps(stride, dilation)
    pairs = _pad_pairs(padding, stride, dilation, weight.shape[2:])
    _check_operands(input, weight, bias, groups, rank)
    _check_fits(input, weight, pairs, dilation)
    if input.dtype == bool:
        check_floating(input, f"slow_conv{max(rank, 2)}d_cpu")
    out = tuple(
        (size + sum(pads) - d * (k - 1) - 1) // s + 1
        for size, pads, k, s, d in zip(input.shape[-rank:], pairs, weight.shape[2:], stride, dilation, strict=True)
    )
    return _conv(input, weight, bias, Window(stride, tuple(low for low, _ in pairs), dilation, groups), out)


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


def conv_transpose_nd(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    output_padding: _Sizes = 0,
    groups: int = 1,
    dilation: _Sizes = 1,
    *,
    rank: int,
) -> Array:
    r"""Paint kernels, each scaled by an element of the input, over the last ``rank`` axes and add them up.

    The transpose of :func:`conv_nd`: the map that takes the gradient of its output to that of its input.

    .. math:: y_{n,o,s t + d k} = b_o + \sum_{i} x_{n,i,t}\, w_{i,o,k}

    Args:
        input: ``(N, C_in, *spatial)``, or one sample, ``(C_in, *spatial)``.
        weight: ``(C_in, C_out / groups, *kernel)``.
        bias: ``(C_out,)``.
        stride: distance between the kernels in the output, per axis or one for all.
        padding: elements cropped from both ends of each axis of the output.
        output_padding: elements added to the far end of each axis; less than the stride or the dilation.
        groups: number of blocks that the channels are split into.
        dilation: distance between the kernel's elements.
        rank: number of spatial axes.

    Shape:
        ``(N, C_in, *spatial) -> (N, C_out, *out)`` with
        ``out = (spatial - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1``

    Raises:
        RuntimeError: if shapes, sizes or dtypes do not fit together.
        NotImplementedError: if the input is of an integer type other than ``int64``.
    """
    input, weight, bias = as_array(input), as_array(weight), as_array_or_none(bias)
    input, weight, bias = cast(f"conv_transpose{rank}d", input, weight, bias)
    _check_ranks(input, weight, rank, f"conv_transpose{rank}d")
    stride, dilation = ntuple(stride, rank, "stride"), ntuple(dilation, rank, "dilation")
    padding, output_padding = ntuple(padding, rank, "padding"), ntuple(output_padding, rank, "output_padding")
    _check_not_negative(padding, "padding")
    _check_not_negative(output_padding, "output_padding")
    _check_steps(stride, dilation)
    _check_operands(input, weight, bias, groups, rank, transposed=True)
    if input.dtype != np.int64:  # the one integer type that PyTorch takes here
        check_floating(input, f"slow_conv_transpose{max(rank, 2)}d_out_cpu")
    if input.size:
        _check_output_padding(output_padding, stride, dilation)
    sizes = _output_sizes(input, weight, stride, padding, output_padding, dilation)
    return _conv_transpose(input, weight, bias, Window(stride, padding, dilation, groups), sizes)


def conv_transpose1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    output_padding: _Sizes = 0,
    groups: int = 1,
    dilation: _Sizes = 1,
) -> Array:
    """Transpose a convolution of signals, ``(N, C_in, L) -> (N, C_out, L_out)``.

    See :func:`conv_transpose_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.conv_transpose1d(jnp.ones((2, 3, 8)), jnp.ones((3, 4, 4)), stride=2, padding=1).shape
        (2, 4, 16)
    """
    return conv_transpose_nd(input, weight, bias, stride, padding, output_padding, groups, dilation, rank=1)


def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    output_padding: _Sizes = 0,
    groups: int = 1,
    dilation: _Sizes = 1,
) -> Array:
    """Transpose a convolution of images, ``(N, C_in, H, W) -> (N, C_out, H_out, W_out)``.

    See :func:`conv_transpose_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.conv_transpose2d(jnp.ones((2, 3, 4, 4)), jnp.ones((3, 5, 3, 3)), stride=2).shape
        (2, 5, 9, 9)
    """
    return conv_transpose_nd(input, weight, bias, stride, padding, output_padding, groups, dilation, rank=2)


def conv_transpose3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    output_padding: _Sizes = 0,
    groups: int = 1,
    dilation: _Sizes = 1,
) -> Array:
    """Transpose a convolution of volumes, ``(N, C_in, D, H, W) -> (N, C_out, D_out, H_out, W_out)``.

    See :func:`conv_transpose_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.conv_transpose3d(jnp.ones((2, 3, 2, 2, 2)), jnp.ones((3, 4, 3, 3, 3))).shape
        (2, 4, 4, 4, 4)
    """
    return conv_transpose_nd(input, weight, bias, stride, padding, output_padding, groups, dilation, rank=3)


def conv_tbc(input: ArrayLike, weight: ArrayLike, bias: ArrayLike, pad: int = 0) -> Array:
    """Convolve sequences whose axes are time, batch and channels.

    Args:
        input: ``(T, N, C_in)``.
        weight: ``(kernel, C_in, C_out)``.
        bias: ``(C_out,)``.
        pad: zeros at both ends of the time axis; a negative number crops.

    Shape:
        ``(T, N, C_in) -> (T + 2 * pad - kernel + 1, N, C_out)``

    Raises:
        RuntimeError: if shapes or dtypes do not fit together.
        NotImplementedError: if the input is boolean.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.conv_tbc(jnp.ones((8, 2, 3)), jnp.ones((3, 3, 4)), jnp.zeros(4), pad=1).shape
        (8, 2, 4)
    """
    input, weight, bias = as_array(input), as_array(weight), as_array(bias)
    input, weight, bias = cast("conv_tbc", input, weight, bias)
    _check_tbc(input, weight, bias, pad)
    if input.dtype == bool:
        check_floating(input, "addmm_impl_cpu_")
    return _conv_tbc(input, weight, bias, pad)


@partial(jax.jit, static_argnames=("window", "out"), inline=True)
def _conv(input: Array, weight: Array, bias: Array | None, window: Window, out: tuple[int, ...]) -> Array:
    batched = input.ndim == weight.ndim
    output = convolve(input if batched else input[None], weight, window, out)
    return _with_bias(output, bias, batched)


@partial(jax.jit, static_argnames=("window", "sizes"), inline=True)
def _conv_transpose(input: Array, weight: Array, bias: Array | None, window: Window, sizes: tuple[int, ...]) -> Array:
    batched = input.ndim == weight.ndim
    output = input_gradient(input if batched else input[None], weight, window, sizes)
    return _with_bias(output, bias, batched)


def _with_bias(output: Array, bias: Array | None, batched: bool) -> Array:
    if bias is not None:
        output = output + bias.reshape(1, -1, *[1] * (output.ndim - 2))
    return output if batched else output[0]


@partial(jax.jit, static_argnames="pad", inline=True)
def _conv_tbc(input: Array, weight: Array, bias: Array, pad: int) -> Array:
    output = lax.conv_general_dilated(input, weight, (1,), ((pad, pad),), dimension_numbers=("WNC", "WIO", "WNC"))
    return output + bias.astype(output.dtype).reshape(1, 1, -1)


def _pad_pairs(padding: _Padding, stride: tuple[int, ...], dilation: tuple[int, ...], kernel: tuple[int, ...]) -> Pairs:
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"Invalid padding string: {padding!r}, expected 'same' or 'valid'")
        if padding == "valid":
            return ((0, 0),) * len(kernel)
        if any(step != 1 for step in stride):
            raise RuntimeError(f"padding='same' is not supported for strided convolutions, got stride={list(stride)}")
        return same_padding(kernel, dilation)
    sizes = ntuple(padding, len(kernel), "padding")
    _check_not_negative(sizes, "padding")
    return tuple((size, size) for size in sizes)


def _check_ranks(input: Array, weight: Array, rank: int, name: str) -> None:
    if input.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to {name},"
            f" but got input of size: {list(input.shape)}"
        )
    if weight.ndim < 3:
        raise RuntimeError(f"weight should have at least three dimensions, but got weight of size {list(weight.shape)}")
    if weight.ndim != rank + 2:
        raise RuntimeError(
            f"Expected {weight.ndim}-dimensional input for {weight.ndim}-dimensional weight {list(weight.shape)}, but"
            f" got {rank + 2}-dimensional input of size {list(input.shape)} instead ({name} takes a {rank + 2}D weight)"
        )


def _check_not_negative(sizes: tuple[int, ...], name: str) -> None:
    if min(sizes) < 0:
        raise RuntimeError(f"negative {name} is not supported, got {name}={list(sizes)}")


def _check_steps(stride: tuple[int, ...], dilation: tuple[int, ...]) -> None:
    if min(dilation) < 0:
        raise RuntimeError(f"dilation should be greater than zero, got dilation={list(dilation)}")
    for name, sizes in (("stride", stride), ("dilation", dilation)):
        if min(sizes) <= 0:
            raise RuntimeError(f"non-positive {name} is not supported, got {name}={list(sizes)}")


def _check_operands(
    input: Array, weight: Array, bias: Array | None, groups: int, rank: int, transposed: bool = False
) -> None:
    shape = list(weight.shape)
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.dtype != input.dtype:
            raise RuntimeError(f"Input type ({input.dtype}) and {name} type ({other.dtype}) should be the same")
    if groups <= 0:
        raise RuntimeError(f"non-positive groups is not supported, got groups={groups}")
    if shape[0] < groups or shape[0] % groups:
        wanted = f"at least {groups}" if shape[0] < groups else f"divisible by {groups}"
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be {wanted} at dimension 0,"
            f" but got weight of size {shape} instead"
        )
    if 0 in shape[2:]:
        raise RuntimeError(f"expected a kernel without empty axes, but got weight of size {shape}")
    given = f"Given transposed=1, weight of size {shape}" if transposed else f"Given weight of size {shape}"
    outputs, expected = (shape[1] * groups, shape[0]) if transposed else (shape[0], shape[1] * groups)
    channels = input.shape[-rank - 1]
    if channels != expected:
        raise RuntimeError(
            f"{given if transposed else f'Given groups={groups}, weight of size {shape}'},"
            f" expected input{list(input.shape)} to have {expected} channels, but got {channels} channels instead"
        )
    if bias is not None and bias.shape != (outputs,):
        raise RuntimeError(
            f"{given}, expected bias to be 1-dimensional with {outputs} elements,"
            f" but got bias of size {list(bias.shape)} instead"
        )


def _check_fits(input: Array, weight: Array, padding: Pairs, dilation: tuple[int, ...]) -> None:
    rank = len(dilation)
    padded = [size + before + after for size, (before, after) in zip(input.shape[-rank:], padding, strict=True)]
    spans = [step * (size - 1) + 1 for size, step in zip(weight.shape[2:], dilation, strict=True)]
    if any(span > size for span, size in zip(spans, padded, strict=True)):
        raise RuntimeError(
            f"Calculated padded input size per channel: ({' x '.join(map(str, padded))})."
            f" Kernel size: ({' x '.join(map(str, spans))}). Kernel size can't be greater than actual input size"
        )
    _check_not_empty(input, rank)


def _check_not_empty(input: Array, rank: int) -> None:
    if 0 in input.shape[-rank:]:
        raise RuntimeError(
            f"Only zero batch or zero channel inputs are supported, but got input shape: {list(input.shape)}"
        )


def _check_output_padding(output_padding: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> None:
    if all(extra < max(s, d) for extra, s, d in zip(output_padding, stride, dilation, strict=True)):
        return
    settings = {"output_padding": output_padding, "stride": stride, "dilation": dilation}
    axes = _AXES[-len(stride) :]
    got = [f"{name}_{axis}: {size}" for name, sizes in settings.items() for axis, size in zip(axes, sizes, strict=True)]
    raise RuntimeError(f"output padding must be smaller than either stride or dilation, but got {' '.join(got)}")


def _output_sizes(
    input: Array,
    weight: Array,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    rank = len(stride)
    _check_not_empty(input, rank)
    axes = zip(input.shape[-rank:], weight.shape[2:], stride, padding, output_padding, dilation, strict=True)
    sizes = tuple((size - 1) * s - 2 * p + d * (k - 1) + extra + 1 for size, k, s, p, extra, d in axes)
    if min(sizes) < 0:
        raise RuntimeError(
            f"Given input size per channel: ({' x '.join(map(str, input.shape[-rank:]))})."
            f" Calculated output size per channel: ({' x '.join(map(str, sizes))}). Output size is too small"
        )
    return sizes


def _check_tbc(input: Array, weight: Array, bias: Array, pad: int) -> None:
    sizes = f"got input {list(input.shape)}, weight {list(weight.shape)}, bias {list(bias.shape)}"
    if input.ndim != 3:
        raise RuntimeError(f"Input must have 3 dims: time, batch, in_channel; {sizes}")
    if weight.ndim != 3:
        raise RuntimeError(f"Weight tensor must have 3 dims: kernel_width, in_channels, out_channels.; {sizes}")
    if bias.ndim != 1:
        raise RuntimeError(f"Bias must be 1-D; {sizes}")
    if input.shape[2] != weight.shape[1]:
        raise RuntimeError(f"Input dim 2 (input channels) is not == dim 1 in the weight tensor; {sizes}")
    if bias.shape[0] != weight.shape[2]:
        raise RuntimeError(f"Bias size must equal dim 2 in the weight tensor (output channels).; {sizes}")
    if input.dtype != weight.dtype:
        raise RuntimeError(f"self and mat2 must have the same dtype, but got {input.dtype} and {weight.dtype}")
    if input.shape[0] + 2 * pad < weight.shape[0] - 1:
        raise RuntimeError(f"Trying to create tensor with negative dimension: pad={pad} leaves too little; {sizes}")


register(lambda wanted, case: choose(CONVOLUTION[wanted], case))
