"""Adam with decoupled weight decay."""

from typing import Any

from jaxmodules.optim.adam import Adam


class AdamW(Adam):
    r"""Adam that shrinks the parameters by ``lr * weight_decay`` (Loshchilov & Hutter, 2019).

    The counterpart of :class:`torch.optim.AdamW`; see :class:`Adam` for the update and the other arguments.

    Args:
        params: a module, parameters, named parameters, or groups.
        lr: the learning rate.
        betas: the decay rates of both moments.
        eps: added to the denominator.
        weight_decay: the fraction, times ``lr``, that a step takes off the parameters.
        amsgrad: divide by the largest second moment so far.
        maximize: ascend instead.
        foreach: accepted for PyTorch's signature.
        capturable: accepted likewise.
        differentiable: accepted likewise.
        fused: accepted likewise.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.AdamW(jm.nn.Linear(2, 1).parameters()).param_groups[0]["weight_decay"]
        0.01
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )
