"""Adagrad."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxmodules.nn.parameter import is_lazy
from jaxmodules.optim._checks import check_flags, check_lr, check_not_negative
from jaxmodules.optim._cohort import Cohort
from jaxmodules.optim._elementwise import descent, elementwise
from jaxmodules.optim._groups import ParamGroup
from jaxmodules.optim.optimizer import Optimizer


class _State(NamedTuple):
    step: Any
    sum: Any


def _scale_by_sum(eps: Any, lr_decay: Any) -> optax.GradientTransformation:
    """Scale as ``optax.scale_by_rss`` does, but add ``eps`` after the root, and decay with time, as PyTorch does."""

    def init(params: Any) -> _State:
        return _State(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        decay = 1 + state.step * lr_decay
        total = elementwise(lambda s, g: s + g * g, state.sum, updates)
        updates = elementwise(lambda g, s: g / (jnp.sqrt(s) + eps) / decay, updates, total)
        return updates, _State(optax.safe_increment(state.step), total)

    return optax.GradientTransformation(init, update)


class Adagrad(Optimizer):
    r"""Scale the gradient by the root of the sum of all its squares so far (Duchi et al., 2011).

    The counterpart of :class:`torch.optim.Adagrad`; as there, state is there from the beginning.

    .. math::
        s \leftarrow s + g^2, \qquad p \leftarrow p - \frac{\gamma}{1 + (t - 1)\,\eta}\,\frac{g}{\sqrt{s} + \epsilon}

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate :math:`\gamma`.
        lr_decay: :math:`\eta`.
        weight_decay: the L2 penalty, added to the gradient.
        initial_accumulator_value: what :math:`s` begins with.
        eps: added to the denominator.
        foreach: accepted for PyTorch's signature; the compiled update is always fused.
        maximize: ascend instead.
        differentiable: accepted likewise.
        fused: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.
        RuntimeError: if flags exclude each other.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.Adagrad([jm.nn.Parameter(jnp.zeros(2))], initial_accumulator_value=0.5)
        >>> optimizer.state_dict()["state"][0]["sum"].tolist()
        [0.5, 0.5]
    """

    switches = frozenset({"weight_decay"})

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check_not_negative(lr_decay, "lr_decay value")
        check_not_negative(weight_decay, "weight_decay value")
        check_not_negative(initial_accumulator_value, "initial_accumulator_value value")
        check_not_negative(eps, "epsilon value")
        settings = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, settings)
        check_flags(fused=fused, foreach=foreach, differentiable=differentiable)
        self._arrange({id(box) for box in self._boxes() if not is_lazy(box)})

    @staticmethod
    def rule(*, lr: Any, lr_decay: Any, weight_decay: Any, eps: Any, **_: Any) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        return descent(_scale_by_sum(eps, lr_decay), lr, weight_decay)

    def _fresh(self, group: ParamGroup, names: Mapping[int, str], ids: set[int]) -> Cohort:
        cohort = super()._fresh(group, names, ids)
        start = self.defaults["initial_accumulator_value"]
        for (field, _), cell in zip(cohort.leaves, cohort.cells, strict=True):
            if field == "sum" and start != 0:
                parts = start * (1 + 1j) if jnp.iscomplexobj(cell.value) else start
                cell.value = jnp.full_like(cell.value, parts)
        return cohort

    def _is_before_first_step(self, state: Mapping[str, Any], is_new: bool) -> bool:
        return False
