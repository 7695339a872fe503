"""Losses as layers."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

from jaxmodules._shapes import as_array_or_none
from jaxmodules._typing import Array, ArrayLike, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn.functional.linear_cross_entropy_options import LinearCrossEntropyOptions
from jaxmodules.nn.modules.linear import Linear
from jaxmodules.nn.modules.loss_base import Loss, PlainLoss, PlainWeightedLoss, WeightedLoss
from jaxmodules.nn.modules.loss_margin import CosineEmbeddingLoss as CosineEmbeddingLoss
from jaxmodules.nn.modules.loss_margin import HingeEmbeddingLoss as HingeEmbeddingLoss
from jaxmodules.nn.modules.loss_margin import MarginRankingLoss as MarginRankingLoss
from jaxmodules.nn.modules.loss_margin import MultiLabelMarginLoss as MultiLabelMarginLoss
from jaxmodules.nn.modules.loss_margin import MultiLabelSoftMarginLoss as MultiLabelSoftMarginLoss
from jaxmodules.nn.modules.loss_margin import MultiMarginLoss as MultiMarginLoss
from jaxmodules.nn.modules.loss_margin import SoftMarginLoss as SoftMarginLoss
from jaxmodules.nn.modules.loss_margin import TripletMarginLoss as TripletMarginLoss
from jaxmodules.nn.modules.loss_margin import TripletMarginWithDistanceLoss as TripletMarginWithDistanceLoss

# PyTorch's names, from which losses of other libraries derive
_Loss = Loss
_WeightedLoss = WeightedLoss


class CrossEntropyLoss(WeightedLoss):
    """Measure how far scores are from classes, see :func:`~jaxmodules.nn.functional.cross_entropy`.

    Args:
        weight: one factor per class, ``(C,)``.
        size_average: deprecated, see ``reduction``.
        ignore_index: the target that contributes neither to the loss nor to its mean.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` (weighted by ``weight``) or ``'sum'``.
        label_smoothing: share of the target that is spread over all classes.

    Shape:
        ``(N, C, *), (N, *) -> ()``, or ``(N, *)`` with ``reduction='none'``; targets may be ``(N, C, *)``
        probabilities

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.CrossEntropyLoss()(jnp.array([[0.0, 100.0]]), jnp.array([0])).item()
        100.0
    """

    ignore_index: int
    label_smoothing: float

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        index, smoothing = self.ignore_index, self.label_smoothing
        return F.cross_entropy(
            input, target, self.weight, ignore_index=index, reduction=self.reduction, label_smoothing=smoothing
        )


class NLLLoss(WeightedLoss):
    """Pick the negative log-likelihood of each target, see :func:`~jaxmodules.nn.functional.nll_loss`.

    Args:
        weight: one factor per class, ``(C,)``.
        size_average: deprecated, see ``reduction``.
        ignore_index: the target that contributes neither to the loss nor to its mean.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` (weighted by ``weight``) or ``'sum'``.

    Shape:
        ``(N, C, *), (N, *) -> ()``, or ``(N, *)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.NLLLoss()(jnp.array([[-1.0, -2.0]]), jnp.array([1])).item()
        2.0
    """

    ignore_index: int

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class NLLLoss2d(NLLLoss):
    """Pick the negative log-likelihood of each target: a deprecated name of :class:`NLLLoss`.

    Shape:
        ``(N, C, H, W), (N, H, W) -> ()``
    """

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        warnings.warn(
            "`NLLLoss2d` has been deprecated. Please use `NLLLoss` instead as a drop-in replacement.",
            category=FutureWarning,
            stacklevel=2,
        )
        super().__init__(weight, size_average, ignore_index, reduce, reduction)


class L1Loss(PlainLoss):
    """Average the absolute difference of two arrays; arguments are those of :class:`Loss`.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.L1Loss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        1.0
    """

    _function = staticmethod(F.l1_loss)


class MSELoss(PlainLoss):
    """Average the squared difference of two arrays; arguments are those of :class:`Loss`.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.MSELoss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """

    _function = staticmethod(F.mse_loss)


class SmoothL1Loss(Loss):
    """Average an absolute difference rounded off near zero, see :func:`~jaxmodules.nn.functional.smooth_l1_loss`.

    Args:
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        beta: the difference at which the parabola meets the line.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.SmoothL1Loss()(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])).item()
        1.0
    """

    beta: float

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        beta: float = 1.0,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.beta = beta

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(Loss):
    """Average a squared difference with its growth cut off, see :func:`~jaxmodules.nn.functional.huber_loss`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        delta: the difference at which the parabola meets the line.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        TypeError: if ``delta`` is not a number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.HuberLoss()(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])).item()
        1.0
    """

    delta: float

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        if not isinstance(delta, float | int):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        super().__init__(reduction=reduction)
        self.delta = delta

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        return F.huber_loss(input, target, self.reduction, self.delta)


class KLDivLoss(Loss):
    """Measure a Kullback-Leibler divergence, see :func:`~jaxmodules.nn.functional.kl_div`.

    Args:
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'batchmean'``, ``'sum'`` or ``'mean'``.
        log_target: whether the target holds log-probabilities.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.KLDivLoss(reduction="batchmean")(jnp.zeros((2, 1)), jnp.ones((2, 1))).item()
        0.0
    """

    log_target: bool

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_target = log_target

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class PoissonNLLLoss(Loss):
    """Measure how likely counts are, see :func:`~jaxmodules.nn.functional.poisson_nll_loss`.

    Args:
        log_input: whether the input holds the logarithms of expected counts.
        full: whether to add Stirling's approximation.
        size_average: deprecated, see ``reduction``.
        eps: keeps the logarithm of a count of 0 finite.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.PoissonNLLLoss()(jnp.zeros(3), jnp.array([0.0, 1.0, 2.0])).item()
        1.0
    """

    log_input: bool
    full: bool
    eps: float

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-8,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input: Array, target: Array) -> Array:
        """Measure the loss of ``log_input``."""
        kind, reduction = (self.log_input, self.full), self.reduction
        return F.poisson_nll_loss(log_input, target, *kind, eps=self.eps, reduction=reduction)


class GaussianNLLLoss(Loss):
    """Measure how likely samples are, see :func:`~jaxmodules.nn.functional.gaussian_nll_loss`.

    Args:
        full: whether to add the constant term.
        eps: the smallest variance.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*), (*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.GaussianNLLLoss()(jnp.zeros(3), jnp.ones(3), jnp.ones(3)).item()
        0.5
    """

    full: bool
    eps: float

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(None, None, reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: Array, target: Array, var: ArrayLike) -> Array:
        """Measure the loss of ``input`` with variances ``var``."""
        return F.gaussian_nll_loss(input, target, var, self.full, self.eps, self.reduction)


class BCELoss(PlainWeightedLoss):
    """Measure how far probabilities are from labels, see :func:`~jaxmodules.nn.functional.binary_cross_entropy`.

    The arguments are those of :class:`WeightedLoss`, with ``weight`` of any shape that broadcasts to the input.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.BCELoss()(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0])).item()
        50.0
    """

    _function = staticmethod(F.binary_cross_entropy)


class BCEWithLogitsLoss(Loss):
    """Measure how far scores are from labels, without overflow.

    See :func:`~jaxmodules.nn.functional.binary_cross_entropy_with_logits`.

    Args:
        weight: factors, of a shape that broadcasts to that of the input.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        pos_weight: factors of positive labels.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.BCEWithLogitsLoss()(jnp.array([100.0, -100.0]), jnp.zeros(2)).item()
        50.0
    """

    weight: Array | None
    pos_weight: Array | None

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: ArrayLike | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        weight, positive = self.weight, self.pos_weight
        return F.binary_cross_entropy_with_logits(input, target, weight, reduction=self.reduction, pos_weight=positive)


class CTCLoss(Loss):
    """Measure how likely label sequences are over all alignments, see :func:`~jaxmodules.nn.functional.ctc_loss`.

    Args:
        blank: the class that stands for no label.
        reduction: ``'none'``, ``'mean'`` (of the losses divided by their target lengths) or ``'sum'``.
        zero_infinity: whether samples whose labels do not fit into their steps count, and weigh, nothing.

    Shape:
        ``(T, N, C), (N, S), (N,), (N,) -> ()``, or ``(N,)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.CTCLoss()(jnp.zeros((2, 1, 3)), jnp.array([[1, 2]]), (2,), (2,)).item()
        -0.0
    """

    blank: int
    zero_infinity: bool

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(
        self,
        log_probs: Array,
        targets: Array,
        input_lengths: ArrayLike | Sequence[int],
        target_lengths: ArrayLike | Sequence[int],
    ) -> Array:
        """Measure the loss of ``log_probs``."""
        lengths = (input_lengths, target_lengths)
        return F.ctc_loss(log_probs, targets, *lengths, self.blank, self.reduction, self.zero_infinity)


class LinearCrossEntropyLoss(WeightedLoss):
    """Map features to scores and compare these with a target.

    See :func:`~jaxmodules.nn.functional.linear_cross_entropy`.

    Args:
        in_features: size of the last axis of the input.
        num_classes: the number of classes.
        out_features: the axes of scores behind that of the classes.
        bias: whether the linear map has a learnable bias.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.
        reduction: ``'none'``, ``'mean'`` (weighted by ``weight``) or ``'sum'``.
        weight: one factor per class, ``(num_classes,)``.
        ignore_index: the target that contributes nothing, -100 when ``None``; for class indices only.
        label_smoothing: share of the target that is spread over all classes.
        options: how to cut the batch into chunks, ``None`` for not at all.

    Shape:
        ``(N, in_features), (N, *out_features) -> ()``, or ``(N, *out_features)`` with ``reduction='none'``

    Raises:
        RuntimeError: if ``weight`` has another shape or ``label_smoothing`` lies outside [0, 1].

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LinearCrossEntropyLoss(4, 3, reduction="none")(jnp.ones((2, 4)), jnp.array([0, 2])).shape
        (2,)
    """

    num_classes: int
    out_features: tuple[int, ...]
    ignore_index: int | None
    label_smoothing: float
    linear: Linear
    options: LinearCrossEntropyOptions | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: DType | None = None,
        reduction: str = "mean",
        weight: ArrayLike | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
    ) -> None:
        weight = as_array_or_none(weight)
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, got {weight.shape}")
        if label_smoothing < 0 or label_smoothing > 1.0:
            raise RuntimeError(f"expected label_smoothing to be in range [0, 1], got {label_smoothing}")
        super().__init__(weight=weight, reduction=reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.linear = Linear(in_features, math.prod(out_features, start=num_classes), bias, device, dtype)
        self.options = options

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        shape = (self.num_classes, *self.out_features)
        weight = self.linear.weight.reshape((*shape, self.linear.in_features))
        bias = None if self.linear.bias is None else self.linear.bias.reshape(shape)
        return F.linear_cross_entropy(input, weight, target, linear_bias=bias, **self._settings())

    def extra_repr(self) -> str:
        """Show the sizes and settings."""
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes},"
            f" out_features={self.out_features}, bias={self.linear.bias is not None}, reduction={self.reduction},"
            f" ignore_index={self.ignore_index}, label_smoothing={self.label_smoothing}, options={self.options}"
        )

    def _settings(self) -> dict[str, Any]:
        names = ("weight", "reduction", "ignore_index", "label_smoothing", "options")
        return {name: getattr(self, name) for name in names}
