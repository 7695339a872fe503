"""Adadelta."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_lr, check_not_negative
from jaxmodules.optim._elementwise import average_square, descent, elementwise
from jaxmodules.optim.optimizer import Optimizer


class _State(NamedTuple):
    step: Any
    square_avg: Any
    acc_delta: Any


def _scale_by_adadelta(rate: Any, eps: Any) -> optax.GradientTransformation:
    """Scale as ``optax.scale_by_adadelta`` does; ``rate`` is ``1 - rho``, and steps are counted, as in PyTorch."""

    def init(params: Any) -> _State:
        zeros = optax.tree.zeros_like
        return _State(jnp.zeros([], jnp.int32), zeros(params), zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        square = average_square(updates, state.square_avg, rate)
        updates = elementwise(
            lambda g, v, d: jnp.sqrt(d + eps) / jnp.sqrt(v + eps) * g, updates, square, state.acc_delta
        )
        delta = average_square(updates, state.acc_delta, rate)
        return updates, _State(optax.safe_increment(state.step), square, delta)

    return optax.GradientTransformation(init, update)


class Adadelta(Optimizer):
    r"""Scale the gradient to the size of recent updates (Zeiler, 2012).

    The counterpart of :class:`torch.optim.Adadelta`:

    .. math::
        v \leftarrow \rho v + (1-\rho) g^2, \quad \delta = \frac{\sqrt{u + \epsilon}}{\sqrt{v + \epsilon}}\,g, \quad
        u \leftarrow \rho u + (1-\rho) \delta^2, \quad p \leftarrow p - \gamma \delta

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate :math:`\gamma`.
        rho: the decay rate of both mean squares.
        eps: added to both mean squares.
        weight_decay: the L2 penalty, added to the gradient.
        foreach: accepted for PyTorch's signature; the compiled update is always fused.
        capturable: accepted likewise.
        maximize: ascend instead.
        differentiable: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.Adadelta(jm.nn.Linear(2, 1).parameters()).param_groups[0]["rho"]
        0.9
    """

    switches = frozenset({"weight_decay"})
    complements = frozenset({"rho"})

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        check_not_negative(eps, "epsilon value")
        check_not_negative(weight_decay, "weight_decay value")
        settings = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, settings)

    @staticmethod
    def rule(*, lr: Any, one_minus_rho: Any, eps: Any, weight_decay: Any, **_: Any) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return descent(_scale_by_adadelta(one_minus_rho, eps), lr, weight_decay)
