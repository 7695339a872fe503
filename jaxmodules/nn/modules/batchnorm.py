"""Batch normalisation layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmodules._tracing import bound_axis_names
from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.functional.normalization import batch_norm_stats
from jaxmodules.nn.modules.lazy import LazyModuleMixin
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter, is_lazy
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
        if device is not None:
            self.to(device)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set the running statistics back to mean 0 and variance 1."""
        if self.track_running_stats and self.running_mean is not None:
            self.running_mean = init.zeros_(self.running_mean)
            self.running_var = init.ones_(self.running_var)
            self.num_batches_tracked = init.zeros_(self.num_batches_tracked)

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
        if self.training:
            return self._normalise_and_track(input)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(input, mean, var, self.weight, self.bias, mean is None and var is None, eps=self.eps)

    def _axis_names(self) -> tuple[str, ...]:
        """Name the mapped axes that the batch is spread over."""
        return ()

    def _normalise_and_track(self, input: Array) -> Array:
        names = self._axis_names()
        if not self.track_running_stats:
            return batch_norm_stats(input, None, None, self.weight, self.bias, 0.0, self.eps, names)[0]
        count = None if self.num_batches_tracked is None else self.num_batches_tracked + 1
        momentum = self.momentum
        if momentum is None:
            momentum = 0.0 if count is None else 1.0 / count
        output, mean, var = batch_norm_stats(
            input, self.running_mean, self.running_var, self.weight, self.bias, momentum, self.eps, names
        )
        self.running_mean, self.running_var, self.num_batches_tracked = mean, var, count
        return output


class _LazyNormBase(LazyModuleMixin, _NormBase):
    """Let a normalisation layer find ``num_features`` from the first input; see :class:`LazyModuleMixin`.

    Arguments are those of :class:`_NormBase` without ``num_features``.
    """

    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, False, False, device, dtype, bias=False)
        self.affine = affine
        self.track_running_stats = track_running_stats
        if affine:
            self.weight = UninitializedParameter(device=device, dtype=dtype)
            if bias:
                self.bias = UninitializedParameter(device=device, dtype=dtype)
        if track_running_stats:
            self.running_mean = UninitializedBuffer(device=device, dtype=dtype)
            self.running_var = UninitializedBuffer(device=device, dtype=dtype)
            self.num_batches_tracked = to_jax(np.array(0))

    def reset_parameters(self) -> None:
        """Set parameters and running statistics back to what they were at first, once there are shapes."""
        if not self.has_uninitialized_params() and self.num_features != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Array) -> None:
        """Take ``num_features`` from axis 1 of ``input``."""
        if not self.has_uninitialized_params():
            return
        self.num_features = input.shape[1]
        arrays = (self.weight, self.bias, self.running_mean, self.running_var)
        for array in filter(is_lazy, arrays):
            array.materialize((self.num_features,))
        self.reset_parameters()


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


class BatchNorm3d(_BatchNorm):
    """Normalise the channels of volumes; arguments are those of :class:`_NormBase`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, D, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.BatchNorm3d(10)(jnp.ones((2, 10, 3, 4, 5))).shape
        (2, 10, 3, 4, 5)
    """

    def _check_input_dim(self, input: Array) -> None:
        if input.ndim != 5:
            raise ValueError(f"expected 5D input (got {input.ndim}D input)")


class SyncBatchNorm(_BatchNorm):
    """Normalise every channel by its mean and variance over a batch that is spread over devices.

    In training, under :func:`jax.vmap`, :func:`jax.shard_map` and their like, the statistics are those of the whole
    batch along the named axes that are mapped over: output, gradients and running statistics equal those of
    :class:`BatchNorm2d` and its siblings on one device. In evaluation, and where nothing is mapped under a name,
    this is such a layer. So it is under :func:`jax.jit` with sharded arrays, where every batch is whole already.

    Args:
        num_features: number of channels.
        eps: added to the variance.
        momentum: share of the newest batch in the running statistics; ``None`` averages over all batches.
        affine: whether to scale and shift each channel by learnable parameters.
        track_running_stats: whether to keep running statistics, which evaluation then uses.
        process_group: name of the mapped axis, or a sequence of names, that the batch is spread over; by default
            ("the whole world") it is all names that are mapped over where the layer is called.
        device: where parameters and buffers live.
        dtype: type of the parameters and buffers, ``float32`` by default.
        bias: whether ``affine`` includes the shift.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> from jaxmodules import nn
        >>> net = nn.SyncBatchNorm(1, eps=1e-20, process_group="data")
        >>> batches = jnp.array([[[0.0], [0.0]], [[4.0], [4.0]]])
        >>> jm.vmap(net, axis_name="data")(batches).tolist()
        [[[-1.0], [-1.0]], [[1.0], [1.0]]]
    """

    process_group: str | Sequence[str] | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: str | Sequence[str] | None = None,
        device: Any = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    def forward(self, input: Array) -> Array:
        """Normalise ``input``."""
        self._check_input_dim(input)
        self._check_non_zero_input_channels(input)
        return super().forward(input)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: str | Sequence[str] | None = None) -> Module:
        """Replace every batch normalisation layer inside ``module`` by one that is synchronised.

        The new layers hold the parameters and buffers of the old ones.

        Args:
            module: the module to change.
            process_group: what the new layers get as ``process_group``.

        Returns:
            ``module``, or a new layer where it is itself a batch normalisation.
        """
        converted = module
        if isinstance(module, _BatchNorm):
            settings = (module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
            converted = SyncBatchNorm(*settings, process_group, bias=module.bias is not None)
            if module.affine:
                converted.weight, converted.bias = module.weight, module.bias
            converted.running_mean, converted.running_var = module.running_mean, module.running_var
            converted.num_batches_tracked = module.num_batches_tracked
            converted.training = module.training
        for name, child in module.named_children():
            converted.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return converted

    def _axis_names(self) -> tuple[str, ...]:
        bound, group = bound_axis_names(), self.process_group
        if group is None:
            return bound
        names = (group,) if isinstance(group, str) else tuple(group)
        if not set(names) <= set(bound):
            raise NameError(
                f"SyncBatchNorm has process_group={group!r}, but the axes mapped over here are {bound}:"
                " name the axis in the transform, as in jax.vmap(..., axis_name=...)"
            )
        return names

    def _check_input_dim(self, input: Array) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")

    def _check_non_zero_input_channels(self, input: Array) -> None:
        if input.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")


class LazyBatchNorm1d(_LazyNormBase, BatchNorm1d):
    """A :class:`BatchNorm1d` that finds ``num_features`` from the first input.

    Shape:
        ``(N, C) -> (N, C)`` or ``(N, C, L) -> (N, C, L)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyBatchNorm1d()(jnp.ones((4, 3, 5))).shape
        (4, 3, 5)
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyNormBase, BatchNorm2d):
    """A :class:`BatchNorm2d` that finds ``num_features`` from the first input.

    Shape:
        ``(N, C, H, W) -> (N, C, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyBatchNorm2d()(jnp.ones((4, 3, 5, 5))).shape
        (4, 3, 5, 5)
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyNormBase, BatchNorm3d):
    """A :class:`BatchNorm3d` that finds ``num_features`` from the first input.

    Shape:
        ``(N, C, D, H, W) -> (N, C, D, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyBatchNorm3d()(jnp.ones((4, 3, 2, 2, 2))).shape
        (4, 3, 2, 2, 2)
    """

    cls_to_become = BatchNorm3d
