"""Adam for gradients most rows of which are zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodules._tracing import Tracer
from jaxmodules.optim._checks import check_fractions, check_number
from jaxmodules.optim._elementwise import bias_correction
from jaxmodules.optim.optimizer import Optimizer


class _State(NamedTuple):
    step: Any
    exp_avg: Any
    exp_avg_sq: Any


def _scale_rows_by_adam(rates: tuple[Any, Any], eps: Any) -> optax.GradientTransformation:
    def init(params: Any) -> _State:
        zeros = optax.tree.zeros_like
        return _State(jnp.zeros([], jnp.int32), zeros(params), zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        first, second = rates
        step = optax.safe_increment(state.step)
        scale = jnp.sqrt(bias_correction(second, step)) / bias_correction(first, step)

        def averaged(rate: Any, power: int) -> Any:
            return lambda g, m: jnp.where(_present(g), m + rate * (g**power - m), m).astype(m.dtype)

        def scaled(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            return jnp.where(_present(g), scale * m / (jnp.sqrt(v) + eps), 0.0).astype(g.dtype)

        mean = jax.tree.map(averaged(first, 1), updates, state.exp_avg)
        square = jax.tree.map(averaged(second, 2), updates, state.exp_avg_sq)
        return jax.tree.map(scaled, updates, mean, square), _State(step, mean, square)

    return optax.GradientTransformation(init, update)


def _present(grad: jax.Array) -> jax.Array:
    """Tell which rows a gradient has: those that are not zero all over."""
    return jnp.any(grad != 0, axis=tuple(range(1, grad.ndim)), keepdims=True)


class SparseAdam(Optimizer):
    r"""Scale the gradient as Adam does, in those rows only that have a gradient.

    The counterpart of :class:`torch.optim.SparseAdam`, for tables (embeddings) of which a batch uses a few rows. JAX
    has no sparse gradients: where PyTorch's gradient lists the rows that were used, a row of this dense gradient
    counts as used if it is not zero all over. Other rows (entries, of a vector) keep their values and their moments.
    This differs from PyTorch only in rows that were used and yet have no gradient: there its moments decay.

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate.
        betas: the decay rates of both moments.
        eps: added to the denominator.
        maximize: ascend instead.

    Raises:
        ValueError: if a setting is out of range, or a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> table = jm.nn.Parameter(jnp.zeros((3, 2)))
        >>> optimizer = jm.optim.SparseAdam([table], lr=0.5)
        >>> optimizer.step([jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])])
        >>> table.value.round(3).tolist()
        [[0.0, 0.0], [-0.5, 0.0], [0.0, 0.0]]
    """

    complements = frozenset({"betas"})

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        if not callable(lr):
            check_number(lr, "lr")
            if not lr > 0.0:
                raise ValueError(f"Invalid learning rate: {lr}")
        if not eps > 0.0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        check_fractions(betas)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})
        places = [(i, j, box) for i, group in enumerate(self.param_groups) for j, box in enumerate(group["params"])]
        complex_ones = [[i, j] for i, j, box in places if jnp.issubdtype(box.dtype, jnp.complexfloating)]
        if complex_ones:
            raise ValueError(
                f"Complex params at indices {complex_ones}: SparseAdam does not support complex parameters"
            )

    @staticmethod
    def rule(*, lr: Any, one_minus_betas: tuple[Any, Any], eps: Any, **_: Any) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return optax.chain(_scale_rows_by_adam(one_minus_betas, eps), optax.scale_by_learning_rate(lr))

    def _export(self, state: dict[str, Any]) -> dict[str, Any]:
        return {k: int(v) if k == "step" and not isinstance(v, Tracer) else v for k, v in state.items()}
