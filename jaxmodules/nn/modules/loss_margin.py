"""Losses that ask for a margin, as layers."""

from collections.abc import Callable

from jaxmodules._shapes import as_array_or_none
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.distance import PairwiseDistance
from jaxmodules.nn.modules.loss_base import Loss, MarginLoss, PlainLoss, PlainWeightedLoss, WeightedLoss


class SoftMarginLoss(PlainLoss):
    """Measure how far scores are from the labels 1 and -1, see :func:`~jaxmodules.nn.functional.soft_margin_loss`.

    The arguments are those of :class:`Loss`.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.SoftMarginLoss(reduction="none")(jnp.zeros(3), jnp.ones(3)).shape
        (3,)
    """

    _function = staticmethod(F.soft_margin_loss)


class MultiLabelMarginLoss(PlainLoss):
    """Ask that right classes exceed wrong ones, see :func:`~jaxmodules.nn.functional.multilabel_margin_loss`.

    The arguments are those of :class:`Loss`.

    Shape:
        ``(N, C), (N, C) -> ()``, or ``(N,)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.MultiLabelMarginLoss()(jnp.array([0.0, 0.0]), jnp.array([1, -1])).item()
        0.5
    """

    _function = staticmethod(F.multilabel_margin_loss)


class MultiLabelSoftMarginLoss(PlainWeightedLoss):
    """Compare the scores of classes with labels, see :func:`~jaxmodules.nn.functional.multilabel_soft_margin_loss`.

    The arguments are those of :class:`WeightedLoss`.

    Shape:
        ``(N, C), (N, C) -> ()``, or ``(N,)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.MultiLabelSoftMarginLoss()(jnp.array([[100.0, -100.0]]), jnp.zeros((1, 2))).item()
        50.0
    """

    _function = staticmethod(F.multilabel_soft_margin_loss)


class HingeEmbeddingLoss(MarginLoss):
    """Ask for small or large distances, see :func:`~jaxmodules.nn.functional.hinge_embedding_loss`.

    Args:
        margin: the distance from which on unlike pairs cost nothing.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.HingeEmbeddingLoss()(jnp.array([0.25]), jnp.array([-1.0])).item()
        0.75
    """

    def __init__(
        self,
        margin: float = 1.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(margin, size_average, reduce, reduction)

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        return F.hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(MarginLoss):
    """Ask for vectors in one or in other directions, see :func:`~jaxmodules.nn.functional.cosine_embedding_loss`.

    The arguments are those of :class:`MarginLoss`; unlike vectors up to a cosine of ``margin`` cost nothing.

    Shape:
        ``(N, D), (N, D), (N,) -> ()``, or ``(N,)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.CosineEmbeddingLoss()(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), jnp.array(1)).item()
        1.0
    """

    def forward(self, input1: Array, input2: Array, target: Array) -> Array:
        """Measure the loss of ``input1`` and ``input2``."""
        return F.cosine_embedding_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class MarginRankingLoss(MarginLoss):
    """Ask for one input to be larger, see :func:`~jaxmodules.nn.functional.margin_ranking_loss`.

    The arguments are those of :class:`MarginLoss`.

    Shape:
        ``(*), (*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.MarginRankingLoss()(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1.0])).item()
        2.0
    """

    def forward(self, input1: Array, input2: Array, target: Array) -> Array:
        """Measure the loss of ``input1`` and ``input2``."""
        return F.margin_ranking_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class MultiMarginLoss(WeightedLoss):
    """Ask that the right class exceed all others, see :func:`~jaxmodules.nn.functional.multi_margin_loss`.

    Args:
        p: 1 or 2.
        margin: by how much it has to exceed them.
        weight: one factor per class, ``(C,)``.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(N, C), (N,) -> ()``, or ``(N,)`` with ``reduction='none'``

    Raises:
        ValueError: if ``p`` is neither 1 nor 2, or ``weight`` has not one axis.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.MultiMarginLoss()(jnp.array([[1.0, 0.5]]), jnp.array([0])).item()
        0.25
    """

    p: int
    margin: float

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        weight = as_array_or_none(weight)
        super().__init__(weight, size_average, reduce, reduction)
        if p != 1 and p != 2:
            raise ValueError(f"only p == 1 and p == 2 supported, got p={p}")
        if weight is not None and weight.ndim != 1:
            raise ValueError(f"MultiMarginLoss: expected weight to be None or 1D tensor, got {weight.ndim}D instead")
        self.p = p
        self.margin = margin

    def forward(self, input: Array, target: Array) -> Array:
        """Measure the loss of ``input``."""
        return F.multi_margin_loss(input, target, self.p, self.margin, self.weight, reduction=self.reduction)


class TripletMarginLoss(Loss):
    """Ask that anchors be nearer to positives than to negatives.

    See :func:`~jaxmodules.nn.functional.triplet_margin_loss`.

    Args:
        margin: how much nearer the positive has to be.
        p: the degree of the norm.
        eps: added to the differences.
        swap: whether a negative counts as being as near as it is to the positive, if that is nearer.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*, D), (*, D), (*, D) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``margin`` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.TripletMarginLoss()(jnp.zeros(2), jnp.array([3.0, 0.0]), jnp.array([0.0, 3.0])).item()
        1.0
    """

    margin: float
    p: float
    eps: float
    swap: bool

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: expected margin to be greater than 0, got {margin} instead")
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    def forward(self, anchor: Array, positive: Array, negative: Array) -> Array:
        """Measure the loss of ``anchor``."""
        settings = (self.margin, self.p, self.eps, self.swap)
        return F.triplet_margin_loss(anchor, positive, negative, *settings, reduction=self.reduction)


class TripletMarginWithDistanceLoss(Loss):
    """Ask that anchors be nearer to positives than to negatives, by a distance of one's own.

    See :func:`~jaxmodules.nn.functional.triplet_margin_with_distance_loss`.

    Args:
        distance_function: a function or a layer; :class:`~jaxmodules.nn.PairwiseDistance` when ``None``.
        margin: how much nearer the positive has to be.
        swap: whether a negative counts as being as near as it is to the positive, if that is nearer.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*, D), (*, D), (*, D) -> ()``, or what distances have with ``reduction='none'``

    Raises:
        ValueError: if ``margin`` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: abs(a - b).max(-1))
        >>> net(jnp.zeros(1), jnp.array([1.0]), jnp.array([1.5])).item()
        0.5
    """

    distance_function: Callable[[Array, Array], Array]
    margin: float
    swap: bool

    def __init__(
        self,
        *,
        distance_function: Callable[[Array, Array], Array] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        if margin <= 0:
            raise ValueError(
                f"TripletMarginWithDistanceLoss: expected margin to be greater than 0, got {margin} instead"
            )
        self.distance_function = PairwiseDistance() if distance_function is None else distance_function
        self.margin = margin
        self.swap = swap

    def forward(self, anchor: Array, positive: Array, negative: Array) -> Array:
        """Measure the loss of ``anchor``."""
        triple, distance, reduction = (anchor, positive, negative), self.distance_function, self.reduction
        return F.triplet_margin_with_distance_loss(
            *triple, distance_function=distance, margin=self.margin, swap=self.swap, reduction=reduction
        )
