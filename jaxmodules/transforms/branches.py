"""``cond`` and ``switch`` over functions of modules: whichever branch runs, what it writes is written."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxmodules._tracing import is_tracing
from jaxmodules.transforms._call import Changes
from jaxmodules.transforms._eager import compiled
from jaxmodules.transforms._stage import Stage, State, Traced, settled, unboxed


@settled
def cond(pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any) -> Any:
    """Return ``true_fun(*operands)`` or ``false_fun(*operands)``; :func:`jax.lax.cond` for functions of modules.

    The functions may call, and the operands may be, modules, optimizers and generators. Their arrays are operands of
    the branching, never constants; buffers, random keys and optimizer state are written back as the branch that ran
    has left them. A gradient that only one of the branches leaves in a ``.grad`` is zero after the other.

    Args:
        pred: a scalar.
        true_fun: the function for a true ``pred``.
        false_fun: the function for a false ``pred``.
        operands: the arguments of either.

    Raises:
        TypeError: if the functions return different structures, shapes or dtypes, or ``pred`` is no scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> norm = nn.BatchNorm1d(3)
        >>> cond(True, norm, lambda x: x, jnp.ones((2, 3))).shape
        (2, 3)
        >>> int(norm.num_batches_tracked)
        1
    """
    if not is_tracing():
        return compiled([true_fun, false_fun], "cond", lambda *f: lambda pred, *args: cond(pred, *f, *args))(
            pred, *operands
        )
    pred = unboxed(pred)
    return _branch(lambda *branches: jax.lax.cond(pred, *branches), (true_fun, false_fun), operands)


@settled
def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """Return ``branches[index](*operands)``; :func:`jax.lax.switch` for functions of modules, as :func:`cond` is.

    Args:
        index: an integer scalar; the nearest one that there is a branch for is taken.
        branches: the functions.
        operands: the arguments of each.

    Raises:
        ValueError: if there are no branches.
        TypeError: if the functions return different structures, shapes or dtypes, or ``index`` is no integer.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> switch(1, [nn.Linear(3, 2), nn.Sequential(nn.Tanh(), nn.Linear(3, 2))], jnp.ones((5, 3))).shape
        (5, 2)
    """
    if not branches:
        raise ValueError("Empty branch sequence: switch needs at least one function")

    if not is_tracing():
        return compiled(branches, "switch", lambda *f: lambda index, *args: switch(index, f, *args))(index, *operands)
    index = unboxed(index)

    def choose(*functions_and_operands: Any) -> Any:
        functions = functions_and_operands[: len(branches)]
        return jax.lax.switch(index, functions, *functions_and_operands[len(branches) :])

    return _branch(choose, branches, operands)


def _branch(choose: Callable[..., Any], functions: Sequence[Callable[..., Any]], operands: tuple[Any, ...]) -> Any:
    """Make one of JAX's branchings over some functions."""
    stage = Stage(functions, operands)
    traced = [stage.trace(i) for i in range(len(functions))]
    form = stage.form(*(t.changes for t in traced))

    def branch(function: Callable[..., Any], one: Traced) -> Callable[..., tuple[Any, Changes]]:
        @functools.wraps(function, updated=())  # JAX's messages tell where it is from
        def run(state: State, leaves: Sequence[Any]) -> tuple[Any, Changes]:
            out, after = one(state, leaves)
            return out, stage.pick(form, after)

        return run

    return stage.finish(*choose(*map(branch, functions, traced), stage.state, stage.leaves))
