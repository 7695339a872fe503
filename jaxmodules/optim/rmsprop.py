"""RMSprop."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_lr, check_not_negative, is_off
from jaxmodules.optim._elementwise import average, average_square, descent, elementwise
from jaxmodules.optim.optimizer import Optimizer


class _State(NamedTuple):
    step: Any
    square_avg: Any
    momentum_buffer: Any
    grad_avg: Any


def _scale_by_rms(rate: Any, eps: Any, momentum: Any, centered: bool) -> optax.GradientTransformation:
    """Scale as ``optax.scale_by_rms`` or ``scale_by_stddev`` does and accumulate, all in one state as in PyTorch.

    ``rate`` is ``1 - alpha``, of which a float32 alpha close to 1 would leave few correct digits.
    """

    def init(params: Any) -> _State:
        def zeros(present: bool) -> Any:
            return optax.tree.zeros_like(params) if present else None

        return _State(jnp.zeros([], jnp.int32), zeros(True), zeros(not is_off(momentum)), zeros(centered))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        square = variance = average_square(updates, state.square_avg, rate)
        mean, buffer = None, None
        if centered:
            mean = average(updates, state.grad_avg, rate)
            variance = elementwise(lambda v, m: v - m * m, square, mean)
        updates = elementwise(lambda g, v: g / (jnp.sqrt(v) + eps), updates, variance)
        if not is_off(momentum):
            updates = buffer = elementwise(lambda b, u: momentum * b + u, state.momentum_buffer, updates)
        return updates, _State(optax.safe_increment(state.step), square, buffer, mean)

    return optax.GradientTransformation(init, update)


class RMSprop(Optimizer):
    r"""Scale the gradient by its root mean square (Hinton, 2012), centered as in Graves (2013) if asked.

    The counterpart of :class:`torch.optim.RMSprop`:

    .. math::
        v \leftarrow \alpha v + (1-\alpha) g^2, \quad b \leftarrow \mu b + \frac{g}{\sqrt{v} + \epsilon}, \quad
        p \leftarrow p - \gamma b

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate :math:`\gamma`.
        alpha: the decay rate of the mean square.
        eps: added to the denominator.
        weight_decay: the L2 penalty, added to the gradient.
        momentum: :math:`\mu`.
        centered: divide by the standard deviation: subtract the squared mean gradient from :math:`v`.
        capturable: accepted for PyTorch's signature; the compiled update is always fused.
        foreach: accepted likewise.
        maximize: ascend instead.
        differentiable: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.RMSprop(jm.nn.Linear(2, 1).parameters()).param_groups[0]["alpha"]
        0.99
    """

    switches = frozenset({"weight_decay", "momentum"})
    complements = frozenset({"alpha"})
    older: ClassVar[Mapping[str, Any]] = {"momentum": 0}

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        check_not_negative(eps, "epsilon value")
        check_not_negative(momentum, "momentum value")
        check_not_negative(weight_decay, "weight_decay value")
        check_not_negative(alpha, "alpha value")
        settings = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, settings)

    @staticmethod
    def rule(
        *,
        lr: Any,
        one_minus_alpha: Any,
        eps: Any,
        weight_decay: Any,
        momentum: Any,
        centered: bool,
        **_: Any,
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return descent(_scale_by_rms(one_minus_alpha, eps, momentum, centered), lr, weight_decay)
