"""Gradients of the convolutions by their input and by their weight, each on its own."""

from collections.abc import Callable, Sequence
from functools import partial

import jax

from jaxmodules._shapes import as_array, ntuple
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional.conv import conv_nd

_Sizes = int | Sequence[int]
_Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]


def conv1d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Array:
    """Compute the gradient of :func:`~jaxmodules.nn.functional.conv1d` by its input.

    Args:
        input_size: shape of the input, ``(N, C_in, *spatial)``.
        weight: ``(C_out, C_in / groups, *kernel)``.
        grad_output: gradient of the output, ``(N, C_out, *out)``.
        stride: step of the window.
        padding: zeros at both ends of each axis.
        dilation: distance between the kernel's elements.
        groups: number of blocks that the channels are split into.

    Raises:
        RuntimeError: if shapes, sizes or dtypes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.grad.conv1d_input((1, 3, 4), jnp.ones((2, 3, 2)), jnp.ones((1, 2, 3))).shape
        (1, 3, 4)
    """
    settings = _settings(stride, padding, dilation, groups, 1)
    return _by_input(tuple(input_size), as_array(weight), as_array(grad_output), settings)


def conv1d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Array:
    """Compute the gradient of :func:`~jaxmodules.nn.functional.conv1d` by its weight.

    Args:
        input: ``(N, C_in, *spatial)``.
        weight_size: shape of the weight, ``(C_out, C_in / groups, *kernel)``.
        grad_output: gradient of the output, ``(N, C_out, *out)``.
        stride: step of the window.
        padding: zeros at both ends of each axis.
        dilation: distance between the kernel's elements.
        groups: number of blocks that the channels are split into.

    Raises:
        RuntimeError: if shapes, sizes or dtypes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.grad.conv1d_weight(jnp.ones((1, 3, 4)), (2, 3, 2), jnp.ones((1, 2, 3))).shape
        (2, 3, 2)
    """
    settings = _settings(stride, padding, dilation, groups, 1)
    return _by_weight(as_array(input), tuple(weight_size), as_array(grad_output), settings)


def conv2d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Array:
    """Compute the gradient of :func:`~jaxmodules.nn.functional.conv2d` by its input.

    Arguments are those of :func:`conv1d_input`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.grad.conv2d_input((1, 3, 4, 4), jnp.ones((2, 3, 2, 2)), jnp.ones((1, 2, 3, 3))).shape
        (1, 3, 4, 4)
    """
    settings = _settings(stride, padding, dilation, groups, 2)
    return _by_input(tuple(input_size), as_array(weight), as_array(grad_output), settings)


def conv2d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Array:
    """Compute the gradient of :func:`~jaxmodules.nn.functional.conv2d` by its weight.

    Arguments are those of :func:`conv1d_weight`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.grad.conv2d_weight(jnp.ones((1, 3, 4, 4)), (2, 3, 2, 2), jnp.ones((1, 2, 3, 3))).shape
        (2, 3, 2, 2)
    """
    settings = _settings(stride, padding, dilation, groups, 2)
    return _by_weight(as_array(input), tuple(weight_size), as_array(grad_output), settings)


def conv3d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Array:
    """Compute the gradient of :func:`~jaxmodules.nn.functional.conv3d` by its input.

    Arguments are those of :func:`conv1d_input`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.grad.conv3d_input((1, 3, 4, 4, 4), jnp.ones((2, 3, 2, 2, 2)), jnp.ones((1, 2, 3, 3, 3))).shape
        (1, 3, 4, 4, 4)
    """
    settings = _settings(stride, padding, dilation, groups, 3)
    return _by_input(tuple(input_size), as_array(weight), as_array(grad_output), settings)


def conv3d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Array:
    """Compute the gradient of :func:`~jaxmodules.nn.functional.conv3d` by its weight.

    Arguments are those of :func:`conv1d_weight`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.grad.conv3d_weight(jnp.ones((1, 3, 4, 4, 4)), (2, 3, 2, 2, 2), jnp.ones((1, 2, 3, 3, 3))).shape
        (2, 3, 2, 2, 2)
    """
    settings = _settings(stride, padding, dilation, groups, 3)
    return _by_weight(as_array(input), tuple(weight_size), as_array(grad_output), settings)


@partial(jax.jit, static_argnames=("input_size", "settings"), inline=True)
def _by_input(input_size: tuple[int, ...], weight: Array, grad_output: Array, settings: _Settings) -> Array:
    input = jax.ShapeDtypeStruct(input_size, weight.dtype)
    return _transpose(lambda input: _convolve(input, weight, settings), input, grad_output)


@partial(jax.jit, static_argnames=("weight_size", "settings"), inline=True)
def _by_weight(input: Array, weight_size: tuple[int, ...], grad_output: Array, settings: _Settings) -> Array:
    weight = jax.ShapeDtypeStruct(weight_size, input.dtype)
    return _transpose(lambda weight: _convolve(input, weight, settings), weight, grad_output)


def _transpose(convolve: Callable[[Array], Array], operand: jax.ShapeDtypeStruct, grad_output: Array) -> Array:
    output = jax.eval_shape(convolve, operand)
    if (grad_output.shape, grad_output.dtype) != (output.shape, output.dtype):
        raise RuntimeError(
            f"expected a grad_output of size {list(output.shape)} and type {output.dtype}, as these settings give,"
            f" but got size {list(grad_output.shape)} and type {grad_output.dtype}"
        )
    return jax.linear_transpose(convolve, operand)(grad_output)[0]


def _convolve(input: Array, weight: Array, settings: _Settings) -> Array:
    stride, padding, dilation, groups = settings
    rank = len(stride)
    if input.ndim != rank + 2:
        raise RuntimeError(
            f"Expected {rank + 2}-dimensional input for {weight.ndim}-dimensional weight {list(weight.shape)},"
            f" but got {input.ndim}-dimensional input of size {list(input.shape)} instead"
        )
    return conv_nd(input, weight, None, stride, padding, dilation, groups, rank=rank)


def _settings(stride: _Sizes, padding: _Sizes, dilation: _Sizes, groups: int, rank: int) -> _Settings:
    named = {"stride": stride, "padding": padding, "dilation": dilation}
    first, second, third = (ntuple(value, rank, name) for name, value in named.items())
    return first, second, third, groups
