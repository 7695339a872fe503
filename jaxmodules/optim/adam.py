"""Adam."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodules.optim.optimizer import Optimizer


class _AmsgradState(NamedTuple):
    count: Any
    mu: Any
    nu: Any
    nu_max: Any


def _scale_by_amsgrad(b1: Any, b2: Any, eps: Any) -> optax.GradientTransformation:
    """Scale as ``optax.scale_by_amsgrad`` does, but take the maximum before the bias correction, as PyTorch does."""

    def init(params: Any) -> _AmsgradState:
        zeros = optax.tree.zeros_like
        return _AmsgradState(jnp.zeros([], jnp.int32), zeros(params), zeros(params), zeros(params))

    def update(updates: Any, state: _AmsgradState, params: Any = None) -> tuple[Any, _AmsgradState]:
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        mu_hat = optax.tree.bias_correction(mu, b1, count)
        nu_hat = optax.tree.bias_correction(nu_max, b2, count)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat)
        return updates, _AmsgradState(count, mu, nu, nu_max)

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

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.Adam(jm.nn.Linear(2, 1).parameters()).param_groups[0]["betas"]
        (0.9, 0.999)
    """

    switches = frozenset({"weight_decay"})
    fields = {"count": "step", "mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"}

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
        if not 0.0 <= lr:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not 0.0 <= eps:
            raise ValueError(f"Invalid epsilon value: {eps}")
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        if not 0.0 <= weight_decay:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
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

    def rule(  # type: ignore[override]
        self,
        *,
        lr: Any,
        betas: tuple[Any, Any],
        eps: Any,
        weight_decay: Any,
        amsgrad: bool,
        decoupled_weight_decay: bool,
        **_: Any,
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        scale = (_scale_by_amsgrad if amsgrad else optax.scale_by_adam)(*betas, eps)
        decays = not (isinstance(weight_decay, int | float) and weight_decay == 0)
        parts = [scale]
        if decays:
            parts.insert(1 if decoupled_weight_decay else 0, optax.add_decayed_weights(weight_decay))
        return optax.chain(*parts, optax.scale_by_learning_rate(lr))
