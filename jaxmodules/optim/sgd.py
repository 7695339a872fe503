"""Stochastic gradient descent."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodules.optim.optimizer import Optimizer


class _DampedTraceState(NamedTuple):
    count: Any
    trace: Any


def _damped_trace(decay: Any, dampening: Any, nesterov: bool) -> optax.GradientTransformation:
    """Accumulate as ``optax.trace`` does, but damp every gradient after the first, as PyTorch does."""

    def init(params: Any) -> _DampedTraceState:
        return _DampedTraceState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(updates: Any, state: _DampedTraceState, params: Any = None) -> tuple[Any, _DampedTraceState]:
        weight = jnp.where(state.count == 0, 1, 1 - dampening)
        trace = jax.tree.map(lambda g, t: (decay * t + weight * g).astype(t.dtype), updates, state.trace)
        if nesterov:
            updates = jax.tree.map(lambda g, t: g + decay * t, updates, trace)
        return updates if nesterov else trace, _DampedTraceState(optax.safe_increment(state.count), trace)

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

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1).parameters(), lr=0.1, momentum=0.9)
        >>> optimizer.param_groups[0]["lr"]
        0.1
    """

    switches = frozenset({"momentum", "dampening", "weight_decay"})
    fields = {"trace": "momentum_buffer"}

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
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
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

    def rule(  # type: ignore[override]
        self,
        *,
        lr: Any,
        momentum: Any,
        dampening: Any,
        weight_decay: Any,
        nesterov: bool,
        **_: Any,
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        parts = [] if _is_off(weight_decay) else [optax.add_decayed_weights(weight_decay)]
        if not _is_off(momentum):
            damped = not _is_off(dampening)
            parts.append(_damped_trace(momentum, dampening, nesterov) if damped else optax.trace(momentum, nesterov))
        return optax.chain(*parts, optax.scale_by_learning_rate(lr))

    def _export(self, state: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in state.items() if k != "count"}

    def _import(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "count": None if state.get("momentum_buffer") is None else jnp.ones([], jnp.int32)}


def _is_off(setting: Any) -> bool:
    return isinstance(setting, int | float) and setting == 0
