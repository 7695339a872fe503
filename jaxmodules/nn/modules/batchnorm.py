"""Batch normalisation layers."""

from typing import Any

import numpy as np

from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.functional.normalization import batch_norm_stats
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import blank, to_jax


class _NormBase(Module):
    """Settings, parameters and running statistics of layers that normalise each channel.

    Args:
        num_features: number of channels.
        eps: added to the variance.
        momentum: share of the newest batch in the running statistics; ``None`` averages over all batches.
        affine: whether to scale and shift each channel by learnable parameters.
        track_running_stats: whether to keep running statistics, which evaluation then uses.
        device: where parameters and buffers live.
        dtype: type of the parameters and buffers, ``float32`` by default.
        bias: whether ``affine`` includes the shift.

    Attributes:
        weight: the scale, ``(num_features,)``, ones at first.
        bias: the shift, ``(num_features,)``, zeros at first.
        running_mean: buffer, ``(num_features,)``, zeros at first.
        running_var: buffer, ``(num_features,)``, ones at first.
        num_batches_tracked: buffer, a scalar count.
    """

    _version = 2

    num_features: int
    eps: float
    momentum: float | None
    affine: bool
    track_running_stats: bool
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: Array | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        channels = blank((num_features,), dtype)
        self.register_parameter("weight", Parameter(channels) if affine else None)
        self.register_parameter("bias", Parameter(channels) if affine and bias else None)
        self.register_buffer("running_mean", channels if track_running_stats else None)
        self.register_buffer("running_var", channels if track_running_stats else None)
        self.register_buffer("num_batches_tracked", np.array(0) if track_running_stats else None)
        self.reset_parameters()
        if device is not None:
            self.to(device)

    def reset_running_stats(self) -> None:
        """Set the running statistics back to mean 0 and variance 1."""
        if self.track_running_stats and self.running_mean is not None:
            zeros = np.zeros(self.num_features, self.running_mean.dtype)
            self.running_mean = to_jax(zeros)
            self.running_var = to_jax(np.ones_like(zeros))
            self.num_batches_tracked = to_jax(np.array(0))

    def reset_parameters(self) -> None:
        """Set parameters and running statistics back to what they were at first."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

    def _check_input_dim(self, input: Array) -> None:
        raise NotImplementedError(f"{type(self).__name__} has to say which inputs it takes: override _check_input_dim")

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *args: Any) -> None:
        # version 1 did not count batches
        if local_metadata.get("version") in (None, 1) and self.track_running_stats:
            count = np.array(0) if self.num_batches_tracked is None else self.num_batches_tracked
            state_dict.setdefault(f"{prefix}num_batches_tracked", count)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class _BatchNorm(_NormBase):
    r"""Normalise every channel by its mean and variance over the batch.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    In training the statistics are those of the batch, and the running ones move towards them; in evaluation
    the running ones are used. Arguments are those of :class:`_NormBase`.
    """

    def forward(self, input: Array) -> Array:
        """Normalise ``input``."""
        self._check_input_dim(input)
        if self.training and self.track_running_stats:
            return self._normalise_and_track(input)
        mean, var = (None, None) if self.training else (self.running_mean, self.running_var)
        return F.batch_norm(input, mean, var, self.weight, self.bias, mean is None and var is None, eps=self.eps)

    def _normalise_and_track(self, input: Array) -> Array:
        count = None if self.num_batches_tracked is None else self.num_batches_tracked + 1
        momentum = self.momentum
        if momentum is None:
            momentum = 0.0 if count is None else 1.0 / count
        output, mean, var = batch_norm_stats(
            input, self.running_mean, self.running_var, self.weight, self.bias, momentum, self.eps
        )
        self.running_mean, self.running_var, self.num_batches_tracked = mean, var, count
        return output


class BatchNorm1d(_BatchNorm):
    """Normalise the channels of vectors or signals; arguments are those of :class:`_NormBase`.

    Shape:
        ``(N, C) -> (N, C)`` or ``(N, C, L) -> (N, C, L)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.BatchNorm1d(2)(jnp.array([[1.0, 2.0], [1.0, 2.0]])).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """

    def _check_input_dim(self, input: Array) -> None:
        if input.ndim not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {input.ndim}D input)")


class BatchNorm2d(_BatchNorm):
    """Normalise the channels of images; arguments are those of :class:`_NormBase`.

    Shape:
        ``(N, C, H, W) -> (N, C, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.BatchNorm2d(100)(jnp.ones((2, 100, 3, 4))).shape
        (2, 100, 3, 4)
    """

    def _check_input_dim(self, input: Array) -> None:
        if input.ndim != 4:
            raise ValueError(f"expected 4D input (got {input.ndim}D input)")
