"""A line search for the strong Wolfe conditions, as a machine that is told what a step has led to.

The search of minFunc (Schmidt, 2005), which PyTorch follows: steps grow until an interval brackets a good one, and
the interval then shrinks by cubic interpolation (Nocedal & Wright, Numerical Optimization, algorithms 3.5 and 3.6). The
function is evaluated outside: :func:`advance` takes what came out at ``Search.step``, and says where to look next.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_ARMIJO = 1e-4
_CURVATURE = 0.9


class Place(NamedTuple):
    """A step along the direction, and the loss, the gradient and the slope there."""

    step: Any
    loss: Any
    gradient: Any
    slope: Any


class Search(NamedTuple):
    """Where a search is.

    Until an interval is found, ``first`` is the place before the step, and then both are the ends of the interval.
    """

    step: Any  # to evaluate next
    evaluations: Any
    is_zooming: Any
    is_stalled: Any  # whether the last step landed near an end of the interval
    is_first_lower: Any
    first: Place
    second: Place

    @property
    def low(self) -> Place:
        """The better end of the interval."""
        return pick(self.is_first_lower, self.first, self.second)


def pick(condition: Any, yes: Any, no: Any) -> Any:
    """Return one of two pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def start(base: Place, step: Any) -> Search:
    """Return a search that begins with a step."""
    no = jnp.asarray(False)
    return Search(step, jnp.int32(0), no, no, no, base, base)


def advance(
    search: Search, base: Place, new: Place, limit: Any, tolerance: Any, length: Any
) -> tuple[Search, jax.Array]:
    """Take what a step has led to.

    Args:
        search: the search so far.
        base: the place it started from.
        new: the place that ``search.step`` has led to.
        limit: how many steps after the first it may try.
        tolerance: the shortest interval to go on with.
        length: the largest entry of the direction: how far a step of one goes.

    Returns:
        The search after that, and whether it is over; then ``low`` is its result.
    """
    tried = search.evaluations  # before this one
    search = search._replace(evaluations=tried + 1)
    threshold = base.loss.astype(new.slope.dtype) + _ARMIJO * new.step * base.slope
    is_over = new.loss.astype(new.slope.dtype) > threshold
    is_flat = abs(new.slope) <= -_CURVATURE * base.slope
    zoomed, is_found = _shrink(search, new, is_over, is_flat)
    bracketed, is_good = _bracket(search, base, new, is_over | ((tried > 1) & (new.loss >= search.first.loss)), is_flat)
    is_exhausted = ~search.is_zooming & (tried >= limit)
    last = search._replace(first=base, second=new, is_first_lower=base.loss <= new.loss)
    search, is_done = pick(
        search.is_zooming, (zoomed, is_found), pick(is_exhausted, (last, is_exhausted), (bracketed, is_good))
    )
    is_short = abs(search.second.step - search.first.step) * length < tolerance
    is_done |= search.is_zooming & (is_short | (tried >= limit))
    return pick(search.is_zooming & ~is_done, _inside(search), search), is_done


def _bracket(search: Search, base: Place, new: Place, is_over: Any, is_flat: Any) -> tuple[Search, Any]:
    """Go on with a longer step, unless a good one or an interval that holds one is found."""
    is_good = ~is_over & is_flat
    ends = search._replace(is_zooming=~is_good, second=new, is_first_lower=~is_good & (search.first.loss <= new.loss))
    previous = search.first.step
    longer = _interpolated(search.first, new, new.step + 0.01 * (new.step - previous), new.step * 10)
    goes_on = ~is_over & ~is_flat & ~(new.slope >= 0)  # so also for what is no number
    return pick(goes_on, search._replace(step=longer, first=new), ends), is_good


def _shrink(search: Search, new: Place, is_over: Any, is_flat: Any) -> tuple[Search, Any]:
    """Replace an end of the interval by a new place."""
    low = search.low
    high = pick(search.is_first_lower, search.second, search.first)
    is_worse = is_over | (new.loss >= low.loss)
    turns = ~is_flat & (new.slope * (high.step - low.step) >= 0)
    high = pick(is_worse, new, pick(turns, low, high))
    low = pick(is_worse, low, new)
    first, second = pick(search.is_first_lower, (low, high), (high, low))
    is_first_lower = jnp.where(is_worse, first.loss <= second.loss, search.is_first_lower)
    return search._replace(first=first, second=second, is_first_lower=is_first_lower), ~is_worse & is_flat


def _inside(search: Search) -> Search:
    """Propose a step inside the interval, after two near one end one that is a tenth away from it."""
    lower = jnp.minimum(search.first.step, search.second.step)
    upper = jnp.maximum(search.first.step, search.second.step)
    step = _interpolated(search.first, search.second, lower, upper)
    margin = 0.1 * (upper - lower)
    is_near = jnp.minimum(upper - step, step - lower) < margin
    moves = is_near & (search.is_stalled | (step >= upper) | (step <= lower))
    moved = jnp.where(abs(step - upper) < abs(step - lower), upper - margin, lower + margin)
    return search._replace(step=jnp.where(moves, moved, step), is_stalled=is_near & ~moves)


def _interpolated(a: Place, b: Place, lower: Any, upper: Any) -> jax.Array:
    """Return the minimum, within bounds, of the cubic through two places with their slopes."""
    a, b = pick(a.step <= b.step, (a, b), (b, a))
    rise = (3 * (a.loss - b.loss) / (a.step - b.step)).astype(a.slope.dtype)
    middle = a.slope + b.slope - rise
    square = middle * middle - a.slope * b.slope
    root = jnp.sqrt(jnp.maximum(square, 0))
    least = b.step - (b.step - a.step) * ((b.slope + root - middle) / (b.slope - a.slope + 2 * root))
    least = jnp.where(lower > least, lower, least)  # as Python's max and min have it for what is no number
    return jnp.where(square >= 0, jnp.where(upper < least, upper, least), (lower + upper) / 2)
