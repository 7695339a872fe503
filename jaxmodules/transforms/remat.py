"""``remat``: compute again in the backward pass what the forward pass would have to keep."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxmodules._tracing import is_tracing
from jaxmodules.random import current_generator
from jaxmodules.transforms._call import Call, Changes, Static, commit
from jaxmodules.transforms._stage import State, settled


def remat(
    f: Callable[..., Any],
    *,
    prevent_cse: bool | Sequence[bool] = True,
    policy: Callable[..., bool] | None = None,
    static_argnums: int | Sequence[int] = (),
) -> Callable[..., Any]:
    """Return ``f`` with its intermediate values computed again in the backward pass, not kept for it.

    :func:`jax.checkpoint` for functions that call, or are given, modules. The forward pass happens once: buffers are
    written and random numbers drawn by it alone, and the recomputation runs on the same statistics and keys.
    As a decorator of a module's ``forward`` it applies to every instance. ``jm.checkpoint`` is another name for it.

    Args:
        f: a function, a method or a module.
        prevent_cse: as for :func:`jax.checkpoint`: ``False`` is faster, and safe inside :func:`scan`.
        policy: which intermediate values are kept all the same; one of ``jax.checkpoint_policies``.
        static_argnums: positions of hashable arguments that are no arrays.

    Raises:
        TypeError: if ``f`` is no function; on a call, if an argument that is not static is no array.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> block = jm.nn.Sequential(jm.nn.Linear(3, 3), jm.nn.Tanh())
        >>> grads = jm.grad(lambda block, x: remat(block)(x).sum())(block, jnp.ones((2, 3)))
        >>> list(grads)
        ['0.weight', '0.bias']
    """
    if not callable(f):
        raise TypeError(f"remat expects a function or a Module, got {f!r}")
    nums = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)

    @settled
    @functools.wraps(f, updated=())
    def rematted(*args: Any, **kwargs: Any) -> Any:
        if not is_tracing():  # nothing is kept for a backward pass
            return f(*args, **kwargs)
        static = {n % len(args) for n in nums if args}
        call = Call(f, tuple(Static(a) if i in static else a for i, a in enumerate(args)), kwargs)
        structure = call.structure()

        def pure(state: State, leaves: Sequence[Any]) -> tuple[Any, Changes]:
            return call.run(structure, state.values, leaves, key=state.key, gradients=state.gradients)

        gradients = [box._grad for box in structure.parameters]
        state = State(current_generator()._key.value, structure.read(), gradients)
        out, changes = jax.checkpoint(pure, prevent_cse=prevent_cse, policy=policy)(state, call.leaves)
        commit(structure, changes)
        return call.restore(out, structure) if changes.has_refs else out

    return rematted
