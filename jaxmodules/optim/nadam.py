"""Adam with Nesterov momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_fractions, check_lr, check_not_negative, is_off
from jaxmodules.optim._elementwise import average, average_square, bias_correction, elementwise, penalised, shrunk
from jaxmodules.optim.optimizer import Optimizer


class _State(NamedTuple):
    step: Any
    mu_product: Any
    exp_avg: Any
    exp_avg_sq: Any


def _nadam(
    lr: Any, rates: tuple[Any, Any], eps: Any, momentum_decay: Any, fraction: Any
) -> optax.GradientTransformation:
    """Update with Dozat's schedule of the momentum, which ``optax.nadam`` leaves out.

    ``rates`` are ``1 - beta``; ``fraction`` is taken off the parameters before.
    """

    def init(params: Any) -> _State:
        zeros = optax.tree.zeros_like
        return _State(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32), zeros(params), zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        first, second = rates
        step = optax.safe_increment(state.step)
        mu, following = ((1 - first) * (1 - 0.5 * 0.96 ** (n * momentum_decay)) for n in (step, step + 1))
        product = jnp.where(state.step == 0, 1.0, state.mu_product) * mu.astype(jnp.float32)
        now = lr * (1 - mu) / (1 - product.astype(mu.dtype))
        ahead = lr * following / (1 - product.astype(mu.dtype) * following)
        root = jnp.sqrt(bias_correction(second, step))
        mean = average(updates, state.exp_avg, first)
        square = average_square(updates, state.exp_avg_sq, second)

        def moved(p: Any, g: Any, m: Any, v: Any) -> Any:
            denominator = jnp.sqrt(v) / root + eps
            less = p if is_off(fraction) else shrunk(p, fraction)
            return less - now * g / denominator - ahead * m / denominator  # rounded twice, as in PyTorch

        after = elementwise(moved, params, updates, mean, square)
        return jax.tree.map(jnp.subtract, after, params), _State(step, product, mean, square)

    return optax.GradientTransformation(init, update)


class NAdam(Optimizer):
    r"""Look ahead along Adam's momentum (Dozat, 2016).

    The counterpart of :class:`torch.optim.NAdam`. With Adam's moments :math:`m` and :math:`v`, and
    :math:`\mu_t = \beta_1 (1 - \tfrac12\,0.96^{t\psi})`:

    .. math::
        p \leftarrow p - \gamma\,\Big(\frac{(1-\mu_t)\,g}{1-\prod_{i \le t} \mu_i}
        + \frac{\mu_{t+1}\,m}{1-\prod_{i \le t+1} \mu_i}\Big) \Big/ \big(\sqrt{v / (1-\beta_2^t)} + \epsilon\big)

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate :math:`\gamma`.
        betas: the decay rates of both moments.
        eps: added to the denominator.
        weight_decay: the L2 penalty, added to the gradient.
        momentum_decay: :math:`\psi`.
        decoupled_weight_decay: shrink the parameters instead of penalising them, as AdamW does.
        foreach: accepted for PyTorch's signature; the compiled update is always fused.
        maximize: ascend instead.
        capturable: accepted likewise.
        differentiable: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.NAdam(jm.nn.Linear(2, 1).parameters()).param_groups[0]["momentum_decay"]
        0.004
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
        momentum_decay: float = 4e-3,
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
        check_not_negative(momentum_decay, "momentum_decay value")
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
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
        momentum_decay: Any,
        decoupled_weight_decay: bool,
        **_: Any,
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        fraction = lr * weight_decay if decoupled_weight_decay and not is_off(weight_decay) else 0
        penalty = 0 if decoupled_weight_decay else weight_decay
        return penalised(_nadam(lr, one_minus_betas, eps, momentum_decay, fraction), penalty)
