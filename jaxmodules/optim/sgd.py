"""Stochastic gradient descent."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxmodules.optim._checks import check_flags, check_lr, check_not_negative, is_off
from jaxmodules.optim._cohort import Cohort
from jaxmodules.optim._elementwise import elementwise
from jaxmodules.optim._groups import ParamGroup
from jaxmodules.optim.optimizer import Optimizer


class _MomentumState(NamedTuple):
    count: Any
    momentum_buffer: Any


def _momentum(decay: Any, dampening: Any, nesterov: bool) -> optax.GradientTransformation:
    """Accumulate as ``optax.trace`` does, but damp every gradient after the first, as PyTorch does.

    Whether there was a first is counted only where it matters: a step this short shows one number more.
    """
    is_damped = not is_off(dampening)

    def init(params: Any) -> _MomentumState:
        return _MomentumState(jnp.zeros([], jnp.int32) if is_damped else None, optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        weight = jnp.where(state.count == 0, 1, 1 - dampening) if is_damped else 1
        buffer = elementwise(lambda b, g: decay * b + weight * g, state.momentum_buffer, updates)
        updates = elementwise(lambda g, b: g + decay * b, updates, buffer) if nesterov else buffer
        return updates, _MomentumState(jnp.ones_like(state.count) if is_damped else None, buffer)

    return optax.GradientTransformation(init, update)


class SGD(Optimizer):
    r"""Descend the gradient, with momentum (Sutskever et al., 2013); the counterpart of :class:`torch.optim.SGD`.

    .. math::
        b \leftarrow \mu b + (1 - \tau)(g + \lambda p), \qquad p \leftarrow p - \gamma b

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate :math:`\gamma`.
        momentum: :math:`\mu`.
        dampening: :math:`\tau`.
        weight_decay: the L2 penalty :math:`\lambda`.
        nesterov: look ahead along the momentum.
        maximize: ascend instead.
        foreach: accepted for PyTorch's signature; the compiled update is always fused.
        differentiable: accepted likewise.
        fused: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.
        RuntimeError: if flags exclude each other.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1).parameters(), lr=0.1, momentum=0.9)
        >>> optimizer.param_groups[0]["lr"]
        0.1
    """

    switches = frozenset({"momentum", "dampening", "weight_decay"})
    older: ClassVar[Mapping[str, Any]] = {"fused": False}
    counter = "count"

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Any = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_flags(fused=fused, foreach=foreach, differentiable=differentiable)
        check_lr(lr)
        check_not_negative(momentum, "momentum value")
        check_not_negative(weight_decay, "weight_decay value")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        settings = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, settings)

    @staticmethod
    def rule(
        *,
        lr: Any,
        momentum: Any,
        dampening: Any,
        weight_decay: Any,
        nesterov: bool,
        **_: Any,
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        parts = [] if is_off(weight_decay) else [optax.add_decayed_weights(weight_decay)]
        if not is_off(momentum):
            parts.append(_momentum(momentum, dampening, nesterov))
        return optax.chain(*parts, optax.scale_by_learning_rate(lr))

    def _fresh(self, group: ParamGroup, names: Mapping[int, str], ids: Iterable[int]) -> Cohort:
        cohort = super()._fresh(group, names, ids)
        if ("count", None) not in cohort.leaves:
            cohort.spare["count", None] = np.int32(1)  # for the time when gradients are damped
        return cohort

    def _export(self, state: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in state.items() if k != "count"}

    def _import(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "count": 1} if "momentum_buffer" in state else state
