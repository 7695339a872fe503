"""The adaptive softmax as a layer."""

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxmodules._shapes import as_array
from jaxmodules._typing import Array, ArrayLike, DType
from jaxmodules.nn.functional.loss_adaptive import adaptive_log_probabilities, adaptive_log_softmax
from jaxmodules.nn.modules.container import ModuleList, Sequential
from jaxmodules.nn.modules.linear import Linear
from jaxmodules.nn.modules.module import Module

_ASMoutput = namedtuple("_ASMoutput", ["output", "loss"])


class AdaptiveLogSoftmaxWithLoss(Module):
    r"""Approximate a softmax over many classes, with fewer features for rarer ones (Grave et al., 2017).

    Classes are sorted by frequency, the most frequent first. Those below the first cutoff are in the head, with one
    more score for each cluster of those between two cutoffs; cluster :math:`i` has its own softmax over
    :math:`\lfloor in / div^i \rfloor` features. Every cluster is computed for every sample, since a compiled
    program has static shapes.

    Args:
        in_features: size of the last axis of the input.
        n_classes: the number of classes.
        cutoffs: where clusters begin, in increasing order.
        div_value: by how much the features shrink from cluster to cluster.
        head_bias: whether the head has a bias.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(N, in_features), (N,) -> (N,), ()``, or ``(in_features,), () -> (), ()``: the fields ``output``, the
        log-probability of each target, and ``loss``

    Raises:
        ValueError: if ``cutoffs`` is not an increasing sequence of integers between 1 and ``n_classes - 1``.
        RuntimeError: if shapes do not fit together, or a target is not a class (NaN where it is traced).

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 10], div_value=2.0)
        >>> net(jnp.ones((3, 8)), jnp.array([0, 5, 19])).output.shape
        (3,)
        >>> net.log_prob(jnp.ones((3, 8))).shape
        (3, 20)
    """

    in_features: int
    n_classes: int
    cutoffs: list[int]
    div_value: float
    head_bias: bool
    head: Linear
    tail: ModuleList

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*_checked_cutoffs(cutoffs, n_classes), n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            width, size = int(in_features // div_value ** (i + 1)), self.cutoffs[i + 1] - self.cutoffs[i]
            narrow = Linear(in_features, width, False, device, dtype)
            self.tail.append(Sequential(narrow, Linear(width, size, False, device, dtype)))

    def reset_parameters(self) -> None:
        """Draw new values, as ``__init__`` does."""
        self.head.reset_parameters()
        for cluster in self.tail:
            for layer in cluster.children():
                layer.reset_parameters()

    def forward(self, input_: ArrayLike, target_: ArrayLike) -> _ASMoutput:
        """Measure the loss of ``input_``."""
        input, target = self._checked_inputs(input_, target_)
        rows = jnp.atleast_2d(input)
        clusters = [cluster(rows) for cluster in self.tail]
        output, loss = adaptive_log_softmax(self.head(rows), clusters, target.reshape(-1), self.cutoffs)
        return _ASMoutput(output.reshape(target.shape), loss)

    def log_prob(self, input: Array) -> Array:
        """Return the log-probabilities of all classes, ``(N, in_features) -> (N, n_classes)``."""
        return self._get_full_log_prob(input, self.head(input))

    def predict(self, input: Array) -> Array:
        """Return the most probable class of each sample, ``(N, in_features) -> (N,)``."""
        return self.log_prob(input).argmax(1)

    def _get_full_log_prob(self, input: Array, head_output: Array) -> Array:
        clusters = tuple(cluster(input) for cluster in self.tail)
        return adaptive_log_probabilities(head_output, clusters, tuple(self.cutoffs))

    def _checked_inputs(self, input: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
        input, target = as_array(input), as_array(target)
        if target.ndim > 1:
            raise RuntimeError(
                f"0D or 1D target tensor expected, multi-target not supported, got target size {list(target.shape)}"
            )
        if target.ndim and (input.ndim == 0 or input.shape[0] != target.shape[0]):
            raise RuntimeError(
                "Input and target should have the same size in the batch dimension."
                f" Got {list(input.shape)} and {list(target.shape)}"
            )
        if input.ndim != target.ndim + 1:
            raise RuntimeError(
                f"{target.ndim}D target tensor expects {target.ndim + 1}D input tensors,"
                f" but found inputs with size {list(input.shape)}"
            )
        return input, target


def _checked_cutoffs(cutoffs: Sequence[int], n_classes: int) -> list[int]:
    cutoffs = list(cutoffs)
    if not cutoffs:
        raise ValueError("cutoffs should be a sequence of length larger than 0")
    increasing = cutoffs == sorted(set(cutoffs)) and all(int(cutoff) == cutoff for cutoff in cutoffs)
    if not increasing or cutoffs[0] <= 0 or cutoffs[-1] > n_classes - 1:
        raise ValueError(
            "cutoffs should be a sequence of unique, positive integers sorted in an increasing order,"
            f" where each value is between 1 and n_classes-1, got {cutoffs} and n_classes={n_classes}"
        )
    return cutoffs
