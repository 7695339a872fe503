"""The schedule that looks at a metric."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from jaxmodules.optim.lr_scheduler._arithmetic import branch, is_traced, maximum, select
from jaxmodules.optim.lr_scheduler.scheduler import (
    EPOCH_DEPRECATION_WARNING,
    LRScheduler,
    check_optimizer,
    set_value,
    values_of,
)
from jaxmodules.optim.optimizer import Optimizer


class ReduceLROnPlateau(LRScheduler):
    """Reduce the rate when a metric has stopped improving; the counterpart of torch's ``ReduceLROnPlateau``.

    Args:
        optimizer: whose rates to set.
        mode: ``"min"`` or ``"max"``: which way the metric improves.
        factor: what the rate is multiplied by.
        patience: how many epochs without improvement are allowed.
        threshold: how much better a metric has to be to count.
        threshold_mode: ``"rel"``, a fraction of the best, or ``"abs"``, a difference.
        cooldown: for how many epochs after a reduction nothing is counted.
        min_lr: a lower bound, or a list with one for each group.
        eps: a reduction by less is left out.

    Raises:
        ValueError: if a setting is out of range, or there are not as many bounds as groups.
        TypeError: if ``optimizer`` is no Optimizer.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> scheduler = jm.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        >>> for loss in (3.0, 2.0, 2.0, 2.0):
        ...     scheduler.step(loss)
        >>> scheduler.get_last_lr()
        [0.25]
    """

    _changing = LRScheduler._changing | {"best", "cooldown_counter", "num_bad_epochs"}
    best: Any
    cooldown_counter: Any
    num_bad_epochs: Any

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        self.factor = factor
        check_optimizer(optimizer)
        self.optimizer = optimizer
        count = len(optimizer.param_groups)
        self.default_min_lr: Any
        self.min_lrs: list[Any]
        if isinstance(min_lr, list | tuple):
            if len(min_lr) != count:
                raise ValueError(f"expected {count} min_lrs, got {len(min_lr)}")
            self.default_min_lr, self.min_lrs = None, list(min_lr)
        else:
            self.default_min_lr, self.min_lrs = min_lr, [min_lr] * count
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._last_lr = values_of(optimizer, "lr")
        self._init_is_better(mode, threshold, threshold_mode)
        self._reset()

    def _reset(self) -> None:
        """Forget the metrics so far."""
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    def step(self, metrics: Any, epoch: int | None = None) -> None:
        """Take note of a metric, and reduce the rates if it has not improved for too long.

        Args:
            metrics: a number; in compiled functions a traced scalar.
            epoch: deprecated: the number of the epoch.
        """
        current = jnp.reshape(metrics, ()) if is_traced(metrics) else float(metrics)
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        epoch = self.last_epoch + 1 if epoch is None else epoch
        self.last_epoch = epoch
        is_better = self._is_better(current, self.best)
        self.best = select(is_better, lambda: current, lambda: self.best)
        self.num_bad_epochs = select(is_better, lambda: 0, lambda: self.num_bad_epochs + 1)
        cooling = self.in_cooldown
        self.cooldown_counter = select(cooling, lambda: self.cooldown_counter - 1, lambda: self.cooldown_counter)
        self.num_bad_epochs = select(cooling, lambda: 0, lambda: self.num_bad_epochs)
        self._if(self.num_bad_epochs > self.patience, lambda: self._lose_patience(epoch))
        self._last_lr = values_of(self.optimizer, "lr")

    def _if(self, condition: Any, then: Callable[[], None]) -> None:
        branch(condition, then, lambda: None, self._cells)

    def _lose_patience(self, epoch: Any) -> None:
        self._reduce_lr(epoch)
        self.cooldown_counter = self.cooldown
        self.num_bad_epochs = 0

    def _reduce_lr(self, epoch: Any) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"The number of param groups in the `optimizer` ({len(groups)}) differs from when"
                    f" `ReduceLROnPlateau` was initialized ({len(self.min_lrs)}), usually due to a new param group"
                    " being added to the optimizer. Please modify the `min_lrs` field to match the length of the"
                    " `optimizer` param groups."
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, lowest in zip(groups, self.min_lrs, strict=True):
            old = group["lr"]
            new = maximum(old * self.factor, lowest)
            set_value(group, "lr", select(old - new > self.eps, lambda new=new: new, lambda old=old: old))

    @property
    def in_cooldown(self) -> Any:
        """Whether the last reduction is too recent for epochs to be counted."""
        return self.cooldown_counter > 0

    def _is_better(self, a: Any, best: Any) -> Any:
        if self.threshold_mode == "rel":
            return a < best * (1.0 - self.threshold) if self.mode == "min" else a > best * (self.threshold + 1.0)
        return a < best - self.threshold if self.mode == "min" else a > best + self.threshold

    def _init_is_better(self, mode: str, threshold: float, threshold_mode: str) -> None:
        if mode not in {"min", "max"}:
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in {"rel", "abs"}:
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        super().load_state_dict(state_dict)
        self._init_is_better(self.mode, self.threshold, self.threshold_mode)
