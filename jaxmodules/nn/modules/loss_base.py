"""What the losses have in common: reductions, weights, margins."""

from collections.abc import Callable
from typing import ClassVar

from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._reduction import legacy_reduction
from jaxmodules.nn.modules.module import Module


class Loss(Module):
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


class WeightedLoss(Loss):
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


class PlainLoss(Loss):
    """A loss without settings; subclasses name their function."""

    _function: ClassVar[Callable[..., Array]]

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        return self._function(input, target, reduction=self.reduction)


class PlainWeightedLoss(WeightedLoss):
    """A loss with weights and no other settings; subclasses name their function."""

    _function: ClassVar[Callable[..., Array]]

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        return self._function(input, target, self.weight, reduction=self.reduction)


class MarginLoss(Loss):
    """Base of the losses whose one setting is a margin.

    Args:
        margin: see the function of the loss.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
    """

    _function: ClassVar[Callable[..., Array]]

    margin: float

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin
