"""Adamax."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_fractions, check_lr, check_not_negative
from jaxmodules.optim._elementwise import average, bias_correction, descent, elementwise
from jaxmodules.optim.optimizer import Optimizer


class _State(NamedTuple):
    step: Any
    exp_avg: Any
    exp_inf: Any


def _scale_by_adamax(rates: tuple[Any, Any], eps: Any) -> optax.GradientTransformation:
    """Scale as ``optax.scale_by_adamax`` does; ``rates`` are ``1 - beta``, precise where betas are close to 1."""

    def init(params: Any) -> _State:
        zeros = optax.tree.zeros_like
        return _State(jnp.zeros([], jnp.int32), zeros(params), zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        first, second = rates
        step = optax.safe_increment(state.step)
        mean = average(updates, state.exp_avg, first)
        norm = elementwise(lambda u, g: jnp.maximum((1 - second) * u, jnp.abs(g) + eps), state.exp_inf, updates)
        bias = bias_correction(first, step)
        return elementwise(lambda m, u: m / u / bias, mean, norm), _State(step, mean, norm)

    return optax.GradientTransformation(init, update)


class Adamax(Optimizer):
    r"""Scale the mean gradient by the largest of late (Kingma & Ba, 2015).

    The counterpart of :class:`torch.optim.Adamax`:

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad u \leftarrow \max(\beta_2 u, |g| + \epsilon), \quad
        p \leftarrow p - \frac{\gamma}{1-\beta_1^t}\,\frac{m}{u}

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate :math:`\gamma`.
        betas: the decay rates of the mean and of the norm.
        eps: added to the gradient's size.
        weight_decay: the L2 penalty, added to the gradient.
        foreach: accepted for PyTorch's signature; the compiled update is always fused.
        maximize: ascend instead.
        differentiable: accepted likewise.
        capturable: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.Adamax(jm.nn.Linear(2, 1).parameters()).param_groups[0]["lr"]
        0.002
    """

    switches = frozenset({"weight_decay"})
    complements = frozenset({"betas"})

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
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
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, settings)

    @staticmethod
    def rule(
        *, lr: Any, one_minus_betas: tuple[Any, Any], eps: Any, weight_decay: Any, **_: Any
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return descent(_scale_by_adamax(one_minus_betas, eps), lr, weight_decay)
