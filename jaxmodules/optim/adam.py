"""Adam."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_arrays, check_betas, check_flags, check_lr, check_not_negative
from jaxmodules.optim._elementwise import average, average_square, bias_correction, descent, elementwise
from jaxmodules.optim.optimizer import Optimizer


class _AdamState(NamedTuple):
    step: Any
    exp_avg: Any
    exp_avg_sq: Any
    max_exp_avg_sq: Any


def _scale_by_adam(rates: tuple[Any, Any], eps: Any, amsgrad: bool) -> optax.GradientTransformation:
    """Scale as ``optax.scale_by_adam`` does, with PyTorch's numbers.

    ``rates`` are ``1 - beta``: the bias correction of float32 betas close to 1 would have few correct digits. And
    AMSGrad takes the maximum before the bias correction.
    """

    def init(params: Any) -> _AdamState:
        zeros = optax.tree.zeros_like
        return _AdamState(jnp.zeros([], jnp.int32), zeros(params), zeros(params), zeros(params) if amsgrad else None)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        first, second = rates
        step = optax.safe_increment(state.step)
        bias, root = bias_correction(first, step), jnp.sqrt(bias_correction(second, step))
        mu = average(updates, state.exp_avg, first)
        nu = average_square(updates, state.exp_avg_sq, second)
        top = elementwise(jnp.maximum, state.max_exp_avg_sq, nu) if amsgrad else None
        updates = elementwise(lambda m, v: m / bias / (jnp.sqrt(v) / root + eps), mu, top if amsgrad else nu)
        return updates, _AdamState(step, mu, nu, top)

    return optax.GradientTransformation(init, update)


class Adam(Optimizer):
    r"""Scale the gradient by estimates of its moments (Kingma & Ba, 2015).

    The counterpart of :class:`torch.optim.Adam`:

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
        p \leftarrow p - \gamma\,\frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate :math:`\gamma`.
        betas: the decay rates of both moments.
        eps: added to the denominator.
        weight_decay: the L2 penalty, added to the gradient.
        amsgrad: divide by the largest second moment so far (Reddi et al., 2018).
        foreach: accepted for PyTorch's signature; the compiled update is always fused.
        maximize: ascend instead.
        capturable: accepted likewise.
        differentiable: accepted likewise.
        fused: accepted likewise.
        decoupled_weight_decay: shrink the parameters instead of penalising them, as AdamW does.

    Raises:
        ValueError: if a setting is out of range.
        RuntimeError: if flags exclude each other.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.Adam(jm.nn.Linear(2, 1).parameters()).param_groups[0]["betas"]
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
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        check_flags(fused=fused, foreach=foreach, differentiable=differentiable)
        check_arrays(foreach, capturable, lr=lr, **{f"betas[{i}]": beta for i, beta in enumerate(betas)})
        check_lr(lr)
        check_not_negative(eps, "epsilon value")
        check_betas(betas)
        check_not_negative(weight_decay, "weight_decay value")
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, settings)

    @staticmethod
    def rule(
        *,
        lr: Any,
        one_minus_betas: tuple[Any, Any],
        eps: Any,
        weight_decay: Any,
        amsgrad: bool,
        decoupled_weight_decay: bool,
        **_: Any,
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return descent(_scale_by_adam(one_minus_betas, eps, amsgrad), lr, weight_decay, decoupled_weight_decay)
