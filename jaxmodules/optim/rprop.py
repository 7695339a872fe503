"""Resilient backpropagation."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_lr
from jaxmodules.optim._elementwise import elementwise
from jaxmodules.optim.optimizer import Optimizer


class _State(NamedTuple):
    step: Any
    prev: Any
    step_size: Any


def _by_sign(lr: Any, etas: tuple[Any, Any], step_sizes: tuple[Any, Any]) -> optax.GradientTransformation:
    """Step against the sign as ``optax.scale_by_rprop`` does, with bounds and a first step as PyTorch has them."""

    def init(params: Any) -> _State:
        zeros = optax.tree.zeros_like
        return _State(jnp.zeros([], jnp.int32), zeros(params), zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def size(s: Any, g: Any, prev: Any) -> Any:
            product = g * prev
            factor = jnp.where(product > 0, etas[1], jnp.where(product < 0, etas[0], 1.0))
            return jnp.clip(jnp.where(state.step == 0, lr, s) * factor, *step_sizes)

        def signed(g: Any, s: Any) -> Any:
            return jnp.where(g > 0, -s, jnp.where(g < 0, s, 0.0))

        sizes = elementwise(size, state.step_size, updates, state.prev)
        kept = elementwise(lambda g, prev: jnp.where(g * prev < 0, 0.0, g), updates, state.prev)
        return elementwise(signed, kept, sizes), _State(optax.safe_increment(state.step), kept, sizes)

    return optax.GradientTransformation(init, update)


class Rprop(Optimizer):
    r"""Step by the sign of the gradient, longer while it stays and shorter when it turns (Riedmiller & Braun, 1993).

    The counterpart of :class:`torch.optim.Rprop`. For every number its step size :math:`s` grows by :math:`\eta_+` if
    gradient and last gradient agree in sign, and shrinks by :math:`\eta_-` if they do not; then no step is taken:

    .. math:: p \leftarrow p - s\,\mathrm{sign}(g)

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the first step size.
        etas: the factors :math:`\eta_-` and :math:`\eta_+`.
        step_sizes: the smallest and the largest step size.
        capturable: accepted for PyTorch's signature; the compiled update is always fused.
        foreach: accepted likewise.
        maximize: ascend instead.
        differentiable: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.Rprop(jm.nn.Linear(2, 1).parameters()).param_groups[0]["etas"]
        (0.5, 1.2)
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        settings = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, settings)

    @staticmethod
    def rule(*, lr: Any, etas: tuple[Any, Any], step_sizes: tuple[Any, Any], **_: Any) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return _by_sign(lr, etas, step_sizes)
