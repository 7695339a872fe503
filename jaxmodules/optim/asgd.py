"""Averaged stochastic gradient descent."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_lr, check_not_negative
from jaxmodules.optim._elementwise import elementwise, penalised, shrunk
from jaxmodules.optim.optimizer import Optimizer


class _State(NamedTuple):
    step: Any
    eta: Any
    mu: Any
    ax: Any


def _averaged_descent(lr: Any, lambd: Any, alpha: Any, t0: Any) -> optax.GradientTransformation:
    single = functools.partial(jnp.asarray, dtype=jnp.float32)  # as PyTorch keeps both rates

    def init(params: Any) -> _State:
        return _State(jnp.zeros([], jnp.int32), single(0), single(0), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        start, step = state.step == 0, optax.safe_increment(state.step)
        eta = jnp.where(start, single(lr), state.eta).astype(float)
        mu = jnp.where(start, 1.0, state.mu).astype(float)
        after = elementwise(lambda p, g: shrunk(p, lambd * eta) - eta.astype(g.dtype) * g, params, updates)
        ax = elementwise(lambda a, p: jnp.where(mu == 1, p, a + (p - a) * mu.astype(p.dtype)), state.ax, after)
        next_eta, next_mu = lr / (1 + lambd * lr * step) ** alpha, 1 / jnp.maximum(1, step - t0)
        return jax.tree.map(jnp.subtract, after, params), _State(step, single(next_eta), single(next_mu), ax)

    return optax.GradientTransformation(init, update)


class ASGD(Optimizer):
    r"""Descend the gradient and average the parameters passed (Polyak & Juditsky, 1992).

    The counterpart of :class:`torch.optim.ASGD`; the averages are ``optimizer.state[parameter]["ax"]``.

    .. math::
        p \leftarrow (1 - \lambda\eta)\,p - \eta g, \quad a \leftarrow a + \mu (p - a), \quad
        \eta \leftarrow \frac{\gamma}{(1 + \lambda\gamma t)^{\alpha}}, \quad \mu \leftarrow \frac{1}{\max(1, t - t_0)}

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate :math:`\gamma`.
        lambd: the decay term :math:`\lambda`.
        alpha: the power of the decay of :math:`\eta`.
        t0: the step after which to average.
        weight_decay: the L2 penalty, added to the gradient.
        foreach: accepted for PyTorch's signature; the compiled update is always fused.
        maximize: ascend instead.
        differentiable: accepted likewise.
        capturable: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.ASGD(jm.nn.Linear(2, 1).parameters()).param_groups[0]["t0"]
        1000000.0
    """

    switches = frozenset({"weight_decay"})

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_lr(lr)
        check_not_negative(weight_decay, "weight_decay value")
        settings = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, settings)

    @staticmethod
    def rule(*, lr: Any, lambd: Any, alpha: Any, t0: Any, weight_decay: Any, **_: Any) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return penalised(_averaged_descent(lr, lambd, alpha, t0), weight_decay)
