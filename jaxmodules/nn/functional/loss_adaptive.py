"""The adaptive softmax: frequent classes in a head, rare ones in clusters that the head has one score for each."""

import itertools
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, host_value
from jaxmodules._typing import Array


def adaptive_log_softmax(
    head: Array, clusters: Sequence[Array], target: Array, cutoffs: Sequence[int]
) -> tuple[Array, Array]:
    """Return the log-probability of each target, and minus their mean.

    Args:
        head: the scores of the frequent classes and of each cluster, ``(N, cutoffs[0] + len(clusters))``.
        clusters: the scores of the classes between each two cutoffs.
        target: class indices, ``(N,)``.
        cutoffs: the first class of each cluster, then the number of classes.

    Raises:
        RuntimeError: if a target is not a class; a traced target that is not gives NaN.
    """
    head, *clusters = cast("adaptive_log_softmax", head, *clusters)
    values = host_value(as_array(target))
    if values is not None and values.size and not (0 <= values.min() and values.max() < cutoffs[-1]):
        raise RuntimeError(
            f"Target values should be in [0, {cutoffs[-1] - 1}],"
            f" but values in range [{values.min()}, {values.max()}] were found. "
        )
    return _adaptive_log_softmax(head, tuple(clusters), as_array(target), tuple(cutoffs))


@partial(jax.jit, static_argnames="cutoffs", inline=True)
def adaptive_log_probabilities(head: Array, clusters: tuple[Array, ...], cutoffs: tuple[int, ...]) -> Array:
    """Return the log-probabilities of all classes, ``(N, cutoffs[-1])``; arguments as above."""
    head, *rest = cast("adaptive_log_softmax", head, *clusters)
    scores = _log_softmax(head)
    parts = [scores[:, : cutoffs[0]]]
    for position, cluster in enumerate(rest, cutoffs[0]):
        parts.append(_log_softmax(cluster) + scores[:, position, None])
    return jnp.concatenate(parts, 1).astype(head.dtype)


@partial(jax.jit, static_argnames="cutoffs", inline=True)
def _adaptive_log_softmax(
    head: Array, clusters: tuple[Array, ...], target: Array, cutoffs: tuple[int, ...]
) -> tuple[Array, Array]:
    place, inner = target, jnp.zeros(target.shape, accumulation_dtype(head.dtype))
    for index, (low, high) in enumerate(itertools.pairwise(cutoffs)):
        inside = (target >= low) & (target < high)
        place = jnp.where(inside, cutoffs[0] + index, place)
        inner = jnp.where(inside, _pick(_log_softmax(clusters[index]), target - low), inner)
    output = _pick(_log_softmax(head), place) + inner
    output = jnp.where((target >= 0) & (target < cutoffs[-1]), output, jnp.nan)
    return output.astype(head.dtype), (-output.sum() / output.size).astype(head.dtype)


def _log_softmax(scores: Array) -> Array:
    return jax.nn.log_softmax(scores.astype(accumulation_dtype(scores.dtype)), 1) if scores.size else scores


def _pick(scores: Array, index: Array) -> Array:
    # comparing with every class fuses into the softmax, where a gather and its scattering gradient do not
    hit = jax.lax.broadcasted_iota(index.dtype, scores.shape, 1) == index[:, None]
    return jnp.where(hit, scores, 0).sum(1)
