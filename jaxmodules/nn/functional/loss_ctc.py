"""Connectionist temporal classification."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, check_floating, host_value, is_integer
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._linear import mapped_in_front
from jaxmodules.nn.functional._reduction import reduce_loss, resolve_reduction


def ctc_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    input_lengths: ArrayLike | Sequence[int],
    target_lengths: ArrayLike | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Array:
    r"""Measure the negative log-likelihood of label sequences, over all alignments (Graves et al., 2006).

    As in PyTorch, the gradient is that of the loss of ``log_softmax(log_probs)``, with ``log_probs`` taken to be
    normalised already: :math:`e^{x_{t,c}}` less the posterior probability of class :math:`c` at time :math:`t`.

    Args:
        log_probs: log-probabilities, ``(T, N, C)`` or ``(T, C)``.
        targets: labels, ``(N, S)``, or those of all samples one after another, ``(sum(target_lengths),)``.
        input_lengths: the number of steps of each sample, ``(N,)`` or ``()``.
        target_lengths: the number of labels of each sample, ``(N,)`` or ``()``.
        blank: the class that stands for no label.
        reduction: ``'none'``, ``'mean'`` (of the losses divided by their target lengths) or ``'sum'``.
        zero_infinity: whether samples whose labels do not fit into their steps count, and weigh, nothing.

    Shape:
        ``(T, N, C), (N, S), (N,), (N,) -> ()``, or ``(N,)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if shapes, dtypes, ``blank`` or (where they are known) lengths do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.ctc_loss(jnp.zeros((2, 1, 3)), jnp.array([[1, 2]]), (2,), (2,)).item()
        -0.0
    """
    reduction = resolve_reduction(None, None, reduction)
    log_probs, targets = as_array(log_probs), as_array(targets)
    log_probs, targets = cast("ctc_loss", log_probs, targets)
    batched = log_probs.ndim != 2
    if not batched:
        log_probs = log_probs.reshape(log_probs.shape[0], 1, log_probs.shape[1])
    _check_log_probs(log_probs, blank)
    steps, known_steps = _lengths(input_lengths, "input_lengths", log_probs.shape[1])
    labels, known_labels = _lengths(target_lengths, "target_lengths", log_probs.shape[1])
    if known_steps is not None and known_steps.max() > log_probs.shape[0]:
        raise RuntimeError(
            f"Expected input_lengths to have value at most {log_probs.shape[0]}, but got value {known_steps.max()}"
        )
    width = _check_targets(targets, known_labels, log_probs.shape[1])
    loss = _ctc_loss(log_probs, targets, steps, labels, blank, width, reduction, bool(zero_infinity))
    return loss if batched or loss.ndim == 0 else loss.reshape(())


@partial(jax.jit, static_argnames=("blank", "width", "reduction", "zero_infinity"), inline=True)
def _ctc_loss(
    log_probs: Array,
    targets: Array,
    steps: Array,
    labels: Array,
    blank: int,
    width: int,
    reduction: str,
    zero_infinity: bool,
) -> Array:
    scores = log_probs.astype(accumulation_dtype(log_probs.dtype))
    loss = _alignments(scores, _padded(targets.astype(np.int32), labels, width), steps, labels, blank)
    impossible = loss == jnp.inf
    running = lax.broadcasted_iota(steps.dtype, scores.shape[:2], 0) < steps[None]
    slopes = jnp.where(running[:, :, None], jnp.exp(scores), 0)
    if not zero_infinity:
        slopes = jnp.where((impossible[None] & running)[:, :, None], jnp.nan, slopes)
    loss = loss + _zero_with_slopes(scores, slopes)
    if zero_infinity:
        loss = jnp.where(impossible, 0, loss)
    if reduction == "mean":
        loss = loss / jnp.maximum(labels, 1).astype(loss.dtype)
    return reduce_loss(loss, reduction).astype(log_probs.dtype)


def _padded(targets: Array, labels: Array, width: int) -> Array:
    """Return targets as ``(N, S)``; what lies beyond the length of a sample is arbitrary."""
    if targets.ndim == 2 or width == 0:
        return targets.reshape(labels.size, width)
    starts = jnp.cumsum(labels) - labels
    return jnp.take(targets, starts[:, None] + jnp.arange(width, dtype=labels.dtype)[None], mode="clip")


def _alignments(scores: Array, targets: Array, steps: Array, labels: Array, blank: int) -> Array:
    """Return minus the logarithm of the summed probability of all alignments of each sample."""
    batch, width = targets.shape
    never = jnp.full((batch, 1), -jnp.inf, scores.dtype)
    emitted = jnp.take_along_axis(scores, targets[None], 2, mode="clip")  # (T, N, S)
    repeated = targets[:, 1:] == targets[:, :-1]
    repeated = jnp.concatenate([jnp.ones((batch, min(width, 1)), bool), repeated], 1)

    def step(state: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        blanks, lettered = state  # (N, S + 1) and (N, S): the last class was a blank, or a label
        score, letters, time = now
        earlier = jnp.concatenate([never, lettered], 1)
        skipped = jnp.where(repeated, -jnp.inf, earlier[:, :-1])
        new_blanks = _log_sum(blanks, earlier) + score
        new_lettered = _log_sum(lettered, blanks[:, :-1], skipped) + letters
        going = (time < steps)[:, None]
        return (jnp.where(going, new_blanks, blanks), jnp.where(going, new_lettered, lettered)), None

    start = jnp.concatenate([jnp.zeros_like(never), jnp.broadcast_to(never, (batch, width))], 1)
    times = jnp.arange(scores.shape[0], dtype=steps.dtype)
    inputs = (scores[:, :, blank, None], emitted, times)
    (blanks, lettered), _ = lax.scan(step, (start, start[:, 1:]), inputs)
    last = labels[:, None]
    end = jnp.take_along_axis(blanks, last, 1, mode="clip")
    if width:
        letter = jnp.take_along_axis(lettered, jnp.maximum(last - 1, 0), 1, mode="clip")
        end = _log_sum(end, jnp.where(last > 0, letter, -jnp.inf))
    return -end[:, 0]


def _log_sum(*values: Array) -> Array:
    """Add numbers given by their logarithms, minus infinity among them, with finite derivatives."""
    largest = values[0]
    for value in values[1:]:
        largest = jnp.maximum(largest, value)
    largest = lax.stop_gradient(jnp.where(largest == -jnp.inf, 0, largest))
    total = sum(jnp.exp(value - largest) for value in values)
    nothing = total == 0
    return jnp.where(nothing, -jnp.inf, jnp.log(jnp.where(nothing, 1, total)) + largest)


@jax.custom_jvp
def _zero_with_slopes(scores: Array, slopes: Array) -> Array:
    """Return a zero for each sample, whose derivatives by its scores are ``slopes``."""
    zero = jnp.zeros(scores.shape[1], scores.dtype)
    # mapped where the derivative is, see mapped_in_front
    return mapped_in_front(jnp.where(scores[0, :, 0] == slopes[0, :, 0], zero, zero))


@_zero_with_slopes.defjvp
def _zero_with_slopes_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return _zero_with_slopes(*primals), (primals[1] * tangents[0]).sum((0, 2))


def _check_log_probs(log_probs: Array, blank: int) -> None:
    if log_probs.ndim != 3:
        raise RuntimeError(
            f"Expected 3-dimensional tensor, but got {log_probs.ndim}-dimensional tensor for argument #1 'log_probs':"
            " expected shape (T, N, C) or (T, C)"
        )
    if log_probs.size == 0:
        raise RuntimeError(f"log_probs tensor must not be empty, got shape {list(log_probs.shape)}")
    if not 0 <= blank < log_probs.shape[2]:
        raise RuntimeError(f"blank must be in label range, expected 0 to {log_probs.shape[2] - 1}, got {blank}")
    check_floating(log_probs, "ctc_loss_cpu")


def _lengths(value: ArrayLike | Sequence[int], name: str, batch: int) -> tuple[Array, np.ndarray | None]:
    """Return lengths as an array, and their values where they are known."""
    known = np.asarray(value) if isinstance(value, Sequence | np.ndarray) else None
    array = as_array(value) if known is None else jnp.asarray(known)
    if array.size != batch or array.ndim > 1:
        raise RuntimeError(f"{name} must be of size batch_size, expected {batch} lengths, got {list(array.shape)}")
    if not is_integer(array.dtype):
        raise RuntimeError(f"{name} must be integral, got {array.dtype}")
    known = host_value(array) if known is None else known
    if known is not None and known.min() < 0:
        raise RuntimeError(f"Expected {name} to have value at least 0, but got value {known.min()}")
    return array.reshape(batch), known if known is None else known.reshape(batch)


def _check_targets(targets: Array, labels: np.ndarray | None, batch: int) -> int:
    """Return the size of the padded targets."""
    if targets.ndim not in (1, 2):
        raise RuntimeError(
            f"Expected 1 to 2 dimensions, but got {targets.ndim}-dimensional tensor for argument #2 'targets'"
        )
    if targets.ndim == 2:
        needed = targets.shape[1] if labels is None else labels.max()
        for axis, (fits, size) in enumerate(
            ((targets.shape[0] == batch, batch), (targets.shape[1] >= needed, f"at least {needed}"))
        ):
            if not fits:
                raise RuntimeError(
                    f"Expected tensor to have size {size} at dimension {axis}, but got size {targets.shape[axis]}"
                    " for argument #2 'targets'"
                )
        return targets.shape[1]
    if labels is None:
        return targets.shape[0]
    if targets.shape[0] != labels.sum():
        raise RuntimeError(
            f"Expected tensor to have size {labels.sum()} at dimension 0, but got size {targets.shape[0]} for argument"
            " #2 'targets' (all labels one after another, as many as target_lengths say)"
        )
    return int(labels.max())
