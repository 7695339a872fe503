"""Batch normalisation folded into the layer before it, for evaluation."""

import copy
from typing import Any, TypeVar

import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import as_array
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter

_Layer = TypeVar("_Layer", bound=Module)


def fuse_conv_bn_eval(conv: _Layer, bn: Any, transpose: bool = False) -> _Layer:
    """Return a convolution that does what ``conv`` and then ``bn`` do in evaluation mode.

    Args:
        conv: a convolution in evaluation mode.
        bn: a batch normalisation in evaluation mode, with running statistics.
        transpose: whether ``conv`` is a transposed convolution.

    Raises:
        AssertionError: if one of them is in training mode, or ``bn`` has no running statistics.

    Examples:
        >>> from jaxmodules import nn
        >>> fuse_conv_bn_eval(nn.Conv2d(3, 6, 1, bias=False).eval(), nn.BatchNorm2d(6).eval()).bias.shape
        (6,)
    """
    return _fused(conv, bn, fuse_conv_bn_weights, transpose)


def fuse_conv_bn_weights(
    conv_w: ArrayLike,
    conv_b: ArrayLike | None,
    bn_rm: ArrayLike,
    bn_rv: ArrayLike,
    bn_eps: float,
    bn_w: ArrayLike | None,
    bn_b: ArrayLike | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """Return the weight and bias of a convolution with a batch normalisation folded in.

    Args:
        conv_w: weight of the convolution.
        conv_b: its bias.
        bn_rm: running mean of the batch normalisation.
        bn_rv: its running variance.
        bn_eps: its ``eps``.
        bn_w: its weight.
        bn_b: its bias.
        transpose: whether the output channels of ``conv_w`` are on its second axis.

    Examples:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones(1)
        >>> weight, bias = fuse_conv_bn_weights(jnp.ones((1, 1, 1)), None, one, one, 0.0, 2 * one, one)
        >>> weight.tolist(), bias.tolist()
        ([[[2.0]]], [-1.0])
    """
    weight, mean = as_array(conv_w), as_array(bn_rm)
    bias = jnp.zeros_like(mean) if conv_b is None else as_array(conv_b)
    scale = jnp.ones_like(mean) if bn_w is None else as_array(bn_w)
    shift = jnp.zeros_like(mean) if bn_b is None else as_array(bn_b)
    inverse = lax.rsqrt(as_array(bn_rv) + bn_eps)
    channels = [1] * weight.ndim
    channels[1 if transpose else 0] = -1
    fused_weight = weight * (scale * inverse).reshape(channels)
    fused_bias = (bias - mean) * inverse * scale + shift
    return _parameters(conv_w, conv_b, fused_weight, fused_bias)


def fuse_linear_bn_eval(linear: _Layer, bn: Any) -> _Layer:
    """Return a linear layer that does what ``linear`` and then ``bn`` do in evaluation mode.

    Args:
        linear: a linear layer in evaluation mode.
        bn: a batch normalisation in evaluation mode, with running statistics, over the output features of ``linear``
            or over a single one.

    Raises:
        AssertionError: if one of them is in training mode, their sizes do not fit, or ``bn`` has no running statistics.

    Examples:
        >>> from jaxmodules import nn
        >>> fuse_linear_bn_eval(nn.Linear(3, 6).eval(), nn.BatchNorm1d(6).eval())
        Linear(in_features=3, out_features=6, bias=True)
    """
    out_features = getattr(linear, "out_features", None)
    if not (linear.training or bn.training) and bn.num_features not in (out_features, 1):
        raise AssertionError(
            "To fuse, linear.out_features == bn.num_features or bn.num_features == 1,"
            f" got linear.out_features={out_features} and bn.num_features={bn.num_features}"
        )
    return _fused(linear, bn, fuse_linear_bn_weights)


def fuse_linear_bn_weights(
    linear_w: ArrayLike,
    linear_b: ArrayLike | None,
    bn_rm: ArrayLike,
    bn_rv: ArrayLike,
    bn_eps: float,
    bn_w: ArrayLike,
    bn_b: ArrayLike,
) -> tuple[Parameter, Parameter]:
    """Return the weight and bias of a linear layer with a batch normalisation folded in.

    Args:
        linear_w: weight of the linear layer.
        linear_b: its bias.
        bn_rm: running mean of the batch normalisation.
        bn_rv: its running variance.
        bn_eps: its ``eps``.
        bn_w: its weight.
        bn_b: its bias.

    Examples:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones(1)
        >>> weight, bias = fuse_linear_bn_weights(jnp.ones((1, 1)), None, one, one, 0.0, 2 * one, one)
        >>> weight.tolist(), bias.tolist()
        ([[2.0]], [-1.0])
    """
    weight, mean = as_array(linear_w), as_array(bn_rm)
    bias = jnp.zeros_like(mean) if linear_b is None else as_array(linear_b)
    scale = as_array(bn_w) * lax.rsqrt(as_array(bn_rv) + bn_eps)
    fused_weight = weight * scale[:, None].astype(weight.dtype)
    fused_bias = (bias - mean) * scale + as_array(bn_b)
    return _parameters(linear_w, linear_b, fused_weight, fused_bias)


def _fused(layer: _Layer, bn: Any, fuse: Any, *options: bool) -> _Layer:
    if layer.training or bn.training:
        raise AssertionError("Fusion only for eval!")
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError("bn.running_mean and bn.running_var must not be None")
    fused: Any = copy.deepcopy(layer)
    statistics = bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    fused.weight, fused.bias = fuse(fused.weight, fused.bias, *statistics, *options)
    return fused


def _parameters(weight: Any, bias: Any, fused_weight: Array, fused_bias: Array) -> tuple[Parameter, Parameter]:
    """Box the results in the dtypes of the originals; what was no Parameter needs no gradient."""
    dtype = weight.dtype if bias is None else bias.dtype
    return (
        Parameter(fused_weight.astype(weight.dtype), getattr(weight, "requires_grad", False)),
        Parameter(fused_bias.astype(dtype), getattr(bias, "requires_grad", False)),
    )
