"""What update rules share: numbers side by side in trees of arrays, and the terms that most of them have."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import is_off


def elementwise(function: Callable[..., jax.Array], tree: Any, *others: Any) -> Any:
    """Apply a function to the arrays of trees side by side; the results have the dtype of the first.

    The real and the imaginary parts of complex arrays are numbers of their own; half precision is computed in single,
    as in PyTorch: a decay rate of 0.999 is 1 in bfloat16.
    """

    def apply(first: jax.Array, *arrays: jax.Array) -> jax.Array:
        if jnp.iscomplexobj(first):
            return jax.lax.complex(*(apply(part(first), *map(part, arrays)) for part in (jnp.real, jnp.imag)))
        kind = wide(first).dtype
        return function(*(array.astype(kind) for array in (first, *arrays))).astype(first.dtype)

    return jax.tree.map(apply, tree, *others)


def wide(x: jax.Array) -> jax.Array:
    """Cast half precision to single."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def average(tree: Any, moment: Any, rate: Any) -> Any:
    """Move an average towards the arrays of a tree by ``rate``, which is ``1 - beta``."""
    return elementwise(lambda m, x: (1 - rate) * m + rate * x, moment, tree)


def average_square(tree: Any, moment: Any, rate: Any) -> Any:
    """Move an average towards the squares of the arrays of a tree by ``rate``."""
    return elementwise(lambda m, x: (1 - rate) * m + rate * x * x, moment, tree)


def bias_correction(rate: Any, step: Any) -> Any:
    """Compute ``1 - (1 - rate) ** step``, which has few correct digits where a float32 beta stands for ``rate``."""
    return -jnp.expm1(step * jnp.log1p(-rate))


def penalised(update: optax.GradientTransformation, weight_decay: Any) -> optax.GradientTransformation:
    """Add the L2 penalty to the gradient before an update."""
    return update if is_off(weight_decay) else optax.chain(optax.add_decayed_weights(weight_decay), update)


def descent(
    scale: optax.GradientTransformation, lr: Any, weight_decay: Any, decoupled: bool = False
) -> optax.GradientTransformation:
    """Descend what ``scale`` makes of the gradient, with the L2 penalty or with the parameters shrunk."""
    step = optax.chain(scale, optax.scale_by_learning_rate(lr))
    if decoupled and not is_off(weight_decay):
        return optax.chain(step, shrink(lr * weight_decay))
    return penalised(step, weight_decay)


def shrink(fraction: Any) -> optax.GradientTransformation:
    """Take a fraction off the parameters before the update; both round as PyTorch's two statements do."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return elementwise(lambda u, p: shrunk(p, fraction) + u - p, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def shrunk(array: jax.Array, fraction: Any) -> jax.Array:
    """Compute ``array * (1 - fraction)`` in a way that a compiler does not merge with what is added to it."""
    rest = jnp.asarray(1 - fraction).astype(array.dtype)
    return array + (rest * array - array)
