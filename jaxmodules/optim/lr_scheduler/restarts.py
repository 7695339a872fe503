"""The cosine schedule with restarts."""

import math
from typing import Any

import jax.numpy as jnp

from jaxmodules.optim.lr_scheduler._arithmetic import floor, is_traced, one_plus_cos, select
from jaxmodules.optim.lr_scheduler.scheduler import LRScheduler
from jaxmodules.optim.optimizer import Optimizer


class CosineAnnealingWarmRestarts(LRScheduler):
    r"""Let the rate follow a cosine, again and again; the counterpart of torch's ``CosineAnnealingWarmRestarts``.

    .. math:: \eta_t = \eta_{\min} + (\eta_0 - \eta_{\min}) \frac{1 + \cos(\pi T_{cur} / T_i)}{2}

    Args:
        optimizer: whose rates to set.
        T_0: the number of epochs to the first restart.
        T_mult: what that number is multiplied by at every restart.
        eta_min: the lowest rate.
        last_epoch: the number of steps taken, to resume.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> scheduler = jm.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2)
        >>> rates = [scheduler.get_last_lr() for _ in range(3) if scheduler.step() is None]
        >>> rates
        [[0.25], [0.5], [0.25]]
    """

    _changing = LRScheduler._changing | {"T_cur", "T_i"}
    T_cur: Any
    T_i: Any

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        if T_0 <= 0 or not isinstance(T_0, int):
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if T_mult < 1 or not isinstance(T_mult, int):
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, float | int):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rates of the present epoch of the present cycle."""
        self._check_within_step()
        height = one_plus_cos(math.pi * self.T_cur / self.T_i, (self.T_i - self.T_cur) / self.T_i)
        return [self.eta_min + (lr - self.eta_min) * height / 2 for lr in self.base_lrs]

    def step(self, epoch: Any = None) -> None:
        """Set the next learning rates.

        Args:
            epoch: the epoch to go to, also a fraction such as ``epoch + batch / batches``.

        Raises:
            ValueError: if ``epoch`` is negative.
        """
        if epoch is None and not is_traced(self.last_epoch) and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur = self.T_cur + 1
            restarts = self.T_cur >= self.T_i
            self.T_cur, self.T_i = select(
                restarts,
                lambda: [self.T_cur % self.T_i, self.T_i * self.T_mult],
                lambda: [self.T_cur, self.T_i],
            )
        else:
            if not is_traced(epoch) and epoch < 0:
                raise ValueError(f"Expected non-negative epoch, but got {epoch}")
            self.T_cur, self.T_i = select(
                epoch >= self.T_0, lambda: self._in_later_cycle(epoch), lambda: [epoch, self.T_0]
            )
        self.last_epoch = floor(epoch)
        with self._within_step():
            values = self.get_lr()
        self._set_rates(values)

    def _in_later_cycle(self, epoch: Any) -> list[Any]:
        """Return the epoch within its cycle, and the length of that."""
        first, factor = self.T_0, self.T_mult
        if factor == 1:
            return [epoch % first, self.T_i]
        n = self._restarts(epoch)
        return [epoch - first * (factor**n - 1) / (factor - 1), first * factor**n]

    def _restarts(self, epoch: Any) -> Any:
        """Return the number of restarts up to an epoch."""
        grown = epoch / self.T_0 * (self.T_mult - 1) + 1
        if not is_traced(epoch):
            return int(math.log(grown, self.T_mult))
        near = jnp.round(jnp.log(grown) / math.log(self.T_mult)).astype(jnp.int32)
        return jnp.where(self.T_mult**near > grown, near - 1, near)
