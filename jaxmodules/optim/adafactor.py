"""Adafactor."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_number, is_off
from jaxmodules.optim._elementwise import wide
from jaxmodules.optim.optimizer import Optimizer


class _AdafactorState(NamedTuple):
    step: Any
    row_var: Any
    col_var: Any
    variance: Any


def _norm(x: jax.Array, axis: int | None = None) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(wide(x)), axis, keepdims=axis is not None))


def _adafactor(lr: Any, decay: Any, eps: tuple[Any, Any], d: Any, weight_decay: Any) -> optax.GradientTransformation:
    """Scale by factored second moments relative to the size of the parameter, with PyTorch's use of ``eps``."""

    def init(params: Any) -> _AdafactorState:
        def zeros(shape_of: Any) -> Any:
            shapes = {name: shape_of(p.shape) for name, p in params.items()}
            return {n: s if s is None else jnp.zeros(s, params[n].dtype) for n, s in shapes.items()}

        for p in params.values():
            if jnp.iscomplexobj(p):
                raise RuntimeError("Adafactor does not support complex parameters")
        return _AdafactorState(
            jnp.zeros([], jnp.int32),
            zeros(lambda shape: (*shape[:-1], 1) if len(shape) > 1 else None),
            zeros(lambda shape: (*shape[:-2], 1, shape[-1]) if len(shape) > 1 else None),
            zeros(lambda shape: None if len(shape) > 1 else shape),
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step = optax.safe_increment(state.step)
        time = jnp.asarray(step, jnp.result_type(float))
        weight = time**decay  # 1 - beta2
        rho = jnp.minimum(lr, 1 / jnp.sqrt(time))

        def blend(old: jax.Array, new: jax.Array) -> jax.Array:
            blended = wide(old) + weight * (wide(new) - wide(old))
            return blended.astype(old.dtype)

        def mean_square(g: jax.Array, axis: int) -> jax.Array:
            return jnp.asarray(jnp.square(_norm(g, axis)) / g.shape[axis], g.dtype)

        def change(g: jax.Array, p: jax.Array, row: Any, col: Any, variance: Any) -> jax.Array:
            eps1 = jnp.finfo(p.dtype).eps if eps[0] is None else eps[0]
            if variance is None:
                variance = row * col / jnp.maximum(row.mean(-2, keepdims=True), eps1)
            u = g * jax.lax.rsqrt(jnp.maximum(variance, eps1 * eps1))
            alpha = jnp.maximum(eps[1], _norm(p) / p.size**0.5) * rho
            alpha = alpha / jnp.maximum(1.0, _norm(u) / (p.size**0.5 * d))
            less = 0 if is_off(weight_decay) else (1 - lr * weight_decay) * wide(p) - wide(p)
            return less - alpha * wide(u)

        rows, cols, variances, changes = {}, {}, {}, {}
        for name, g in updates.items():
            row, col, variance = state.row_var[name], state.col_var[name], state.variance[name]
            rows[name] = None if row is None else blend(row, mean_square(g, -1))
            cols[name] = None if col is None else blend(col, mean_square(g, -2))
            variances[name] = None if variance is None else blend(variance, g * g)
            changes[name] = change(g, params[name], rows[name], cols[name], variances[name])
        return changes, _AdafactorState(step, rows, cols, variances)

    return optax.GradientTransformation(init, update)


class Adafactor(Optimizer):
    r"""Keep second moments of matrices as a row and a column (Shazeer & Stern, 2018, https://arxiv.org/abs/1804.04235).

    The counterpart of :class:`torch.optim.Adafactor`. With :math:`w = t^{\tau}` and
    :math:`\rho = \min(\gamma, 1/\sqrt t)`:

    .. math::
        R \leftarrow R + w(\overline{G^2}_{rows} - R), \quad C \leftarrow C + w(\overline{G^2}_{columns} - C), \quad
        V = \frac{R C}{\max(\bar R, \epsilon_1)}

    .. math::
        U = \frac{G}{\max(\sqrt V, \epsilon_1)}, \qquad p \leftarrow p - \gamma\lambda p
            - \frac{\max(\epsilon_2, \mathrm{RMS}(p))\,\rho}{\max(1, \mathrm{RMS}(U) / d)}\,U

    A vector or a scalar keeps its whole second moment :math:`V`.

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the largest relative step size :math:`\gamma`.
        beta2_decay: the exponent :math:`\tau` by which the second moments' rate falls.
        eps: :math:`\epsilon_1`, by default that of the parameter's dtype, and :math:`\epsilon_2`.
        d: the size of an update above which it is clipped.
        weight_decay: the fraction :math:`\lambda`, times ``lr``, that a step takes off the parameters.
        foreach: accepted for PyTorch's signature; the compiled update is always fused.
        maximize: ascend instead.

    Raises:
        ValueError: if a setting is out of range.
        RuntimeError: on a step with complex parameters.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.Adafactor(jm.nn.Linear(2, 1).parameters()).param_groups[0]["eps"]
        (None, 0.001)
    """

    switches = frozenset({"weight_decay"})

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if not callable(lr):
            check_number(lr, "lr")
            if not lr >= 0.0:
                raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not beta2_decay <= 0.0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if eps[0] is not None and not eps[0] >= 0.0:
            raise ValueError(f"epsilon1 should be >= 0 but is: {eps[0]}")
        if not eps[1] >= 0.0:
            raise ValueError(f"epsilon2 should be >= 0 but is: {eps[1]}")
        if not d >= 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight_decay should be >= 0 but is: {weight_decay}")
        settings = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, settings)

    @staticmethod
    def rule(
        *, lr: Any, beta2_decay: Any, eps: tuple[Any, Any], d: Any, weight_decay: Any, **_: Any
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return _adafactor(lr, beta2_decay, eps, d, weight_decay)
