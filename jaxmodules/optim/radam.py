"""Rectified Adam."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_fractions, check_lr, check_not_negative
from jaxmodules.optim._elementwise import average, average_square, bias_correction, descent, elementwise
from jaxmodules.optim.optimizer import Optimizer


class _State(NamedTuple):
    step: Any
    exp_avg: Any
    exp_avg_sq: Any


def _lengths(rate: Any, step: Any) -> tuple[jax.Array, jax.Array]:
    r"""Return how many gradients the second moment averages, in the limit and now: the paper's rhos.

    Now it is :math:`\rho_\infty - 2 t \beta^t / (1 - \beta^t)`, a small difference of large numbers at first. With
    :math:`a = -\log\beta` and :math:`f(y) = y \coth y - 1`, Lambert's continued fraction, it is
    :math:`t + \tfrac2a (f(\tfrac a2) - f(\tfrac{at}2))`.
    """

    def f(y: Any) -> Any:
        square = y * y
        return square / (3 + square / (5 + square / (7 + square / (9 + square / 11))))  # for y below 0.5

    a = -jnp.log1p(-rate)
    limit, bias = 2 / rate - 1, bias_correction(rate, step)
    early = step + 2 / a * (f(a / 2) - f(a * step / 2))
    return limit, jnp.where(a * step < 1, early, limit - 2 * step * (1 - bias) / bias)


def _scale_by_radam(rates: tuple[Any, Any], eps: Any) -> optax.GradientTransformation:
    """Scale as ``optax.scale_by_radam`` does, with PyTorch's place for ``eps``; ``rates`` are ``1 - beta``."""

    def init(params: Any) -> _State:
        zeros = optax.tree.zeros_like
        return _State(jnp.zeros([], jnp.int32), zeros(params), zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        first, second = rates
        step = optax.safe_increment(state.step)
        mean = average(updates, state.exp_avg, first)
        square = average_square(updates, state.exp_avg_sq, second)
        bias, root = bias_correction(first, step), jnp.sqrt(bias_correction(second, step))
        limit, now = _lengths(second, step)
        rectified = now > 5
        factor = jnp.sqrt((now - 4) * (now - 2) * limit / ((limit - 4) * (limit - 2) * now)) * root

        def scaled(m: Any, v: Any) -> Any:
            return m / bias * jnp.where(rectified, factor / (jnp.sqrt(v) + eps), 1.0)

        return elementwise(scaled, mean, square), _State(step, mean, square)

    return optax.GradientTransformation(init, update)


class RAdam(Optimizer):
    r"""Rectify the variance of Adam's first steps (Liu et al., 2020).

    The counterpart of :class:`torch.optim.RAdam`. With Adam's moments :math:`m` and :math:`v`,
    :math:`\rho_\infty = 2 / (1-\beta_2) - 1` and :math:`\rho = \rho_\infty - 2 t \beta_2^t / (1-\beta_2^t)`:

    .. math::
        p \leftarrow p - \gamma\,\frac{m}{1-\beta_1^t} \cdot \begin{cases}
        \sqrt{\frac{(\rho-4)(\rho-2)\,\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\,\rho}}\,
        \frac{\sqrt{1-\beta_2^t}}{\sqrt{v} + \epsilon} & \rho > 5 \\ 1 & \text{else} \end{cases}

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate :math:`\gamma`.
        betas: the decay rates of both moments.
        eps: added to the denominator.
        weight_decay: the L2 penalty, added to the gradient.
        decoupled_weight_decay: shrink the parameters instead of penalising them, as AdamW does.
        foreach: accepted for PyTorch's signature; the compiled update is always fused.
        maximize: ascend instead.
        capturable: accepted likewise.
        differentiable: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.RAdam(jm.nn.Linear(2, 1).parameters()).param_groups[0]["betas"]
        (0.9, 0.999)
    """

    switches = frozenset({"weight_decay"})
    complements = frozenset({"betas"})

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        check_not_negative(eps, "epsilon value")
        check_fractions(betas)
        check_not_negative(weight_decay, "weight_decay value")
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, settings)

    @staticmethod
    def rule(
        *,
        lr: Any,
        one_minus_betas: tuple[Any, Any],
        eps: Any,
        weight_decay: Any,
        decoupled_weight_decay: bool,
        **_: Any,
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return descent(_scale_by_radam(one_minus_betas, eps), lr, weight_decay, decoupled_weight_decay)
