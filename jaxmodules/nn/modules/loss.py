"""Losses as layers."""

from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn import functional as F
from jaxmodules.nn.functional.loss import legacy_reduction
from jaxmodules.nn.modules.module import Module


class _Loss(Module):
    """Base of the losses.

    Args:
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
    """

    reduction: str

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        legacy = size_average is not None or reduce is not None
        self.reduction = legacy_reduction(size_average, reduce) if legacy else reduction


class _WeightedLoss(_Loss):
    """Base of the losses with one factor per class, which is a buffer."""

    weight: Array | None

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)


class CrossEntropyLoss(_WeightedLoss):
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


class NLLLoss(_WeightedLoss):
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


class MSELoss(_Loss):
    """Average the squared difference of two arrays; arguments are those of :class:`_Loss`.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.MSELoss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        return F.mse_loss(input, target, reduction=self.reduction)
