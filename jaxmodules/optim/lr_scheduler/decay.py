"""Schedules with a formula for the epoch: by steps, constant, linear, exponential, polynomial, cosine."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodules.optim.lr_scheduler._arithmetic import count_up_to, is_traced, minimum, one_plus_cos, power, select
from jaxmodules.optim.lr_scheduler.scheduler import ClosedForm
from jaxmodules.optim.optimizer import Optimizer


class StepLR(ClosedForm):
    """Multiply the rate by ``gamma`` every ``step_size`` epochs; the counterpart of torch's ``StepLR``.

    Args:
        optimizer: whose rates to set.
        step_size: how many epochs a rate lasts.
        gamma: the factor.
        last_epoch: the number of steps taken, to resume.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> jm.optim.lr_scheduler.StepLR(optimizer, step_size=30).get_last_lr()
        [0.5]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the present rates, times ``gamma`` at every ``step_size``-th epoch."""
        self._check_within_step()
        epoch = self.last_epoch
        return select(
            epoch == 0,
            self._rates,
            lambda: select(epoch % self.step_size != 0, self._rates, self._decayed),
        )

    def _decayed(self) -> list[Any]:
        return self._exact([lr * self.gamma for lr in self._rates()])

    def _closed_form(self, epoch: Any) -> list[Any]:
        return [lr * power(self.gamma, epoch // self.step_size) for lr in self.base_lrs]


class MultiStepLR(ClosedForm):
    """Multiply the rate by ``gamma`` at each milestone; the counterpart of torch's ``MultiStepLR``.

    Args:
        optimizer: whose rates to set.
        milestones: epochs; one that is listed twice counts twice.
        gamma: the factor.
        last_epoch: the number of steps taken, to resume.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> jm.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[30, 80]).get_last_lr()
        [0.5]
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the present rates, times ``gamma`` at a milestone."""
        self._check_within_step()
        count = self._count(self.last_epoch)
        return select(count == 0, self._rates, lambda: self._decayed(count))

    def _count(self, epoch: Any) -> Any:
        if not is_traced(epoch):
            return self.milestones[epoch]
        counts = np.asarray(list(self.milestones.values()), np.int32)
        return jnp.sum(jnp.where(np.asarray(list(self.milestones)) == epoch, counts, 0))

    def _decayed(self, count: Any) -> list[Any]:
        return self._exact([lr * power(self.gamma, count) for lr in self._rates()])

    def _closed_form(self, epoch: Any) -> list[Any]:
        passed = count_up_to(epoch, sorted(self.milestones.elements()))
        return [lr * power(self.gamma, passed) for lr in self.base_lrs]


class ConstantLR(ClosedForm):
    """Multiply the rate by ``factor`` for the first epochs; the counterpart of torch's ``ConstantLR``.

    Args:
        optimizer: whose rates to set.
        factor: the factor.
        total_iters: for how many epochs.
        last_epoch: the number of steps taken, to resume.

    Raises:
        ValueError: if ``factor`` is not between 0 and 1.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> jm.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5).get_last_lr()
        [0.25]
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        if factor > 1.0 or factor < 0:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the present rates, times ``factor`` at first and divided by it in the end."""
        self._check_within_step()
        epoch = self.last_epoch
        return select(
            epoch == 0,
            lambda: [lr * self.factor for lr in self._rates()],
            lambda: select(
                epoch != self.total_iters, self._rates, lambda: [lr * (1.0 / self.factor) for lr in self._rates()]
            ),
        )

    def _closed_form(self, epoch: Any) -> list[Any]:
        return [lr * (self.factor + (epoch >= self.total_iters) * (1 - self.factor)) for lr in self.base_lrs]


class LinearLR(ClosedForm):
    """Change the rate linearly from one multiple of it to another; the counterpart of torch's ``LinearLR``.

    Args:
        optimizer: whose rates to set.
        start_factor: the first multiple.
        end_factor: the last multiple.
        total_iters: after how many epochs the last multiple is reached.
        last_epoch: the number of steps taken, to resume.

    Raises:
        ValueError: if a factor is out of range.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> jm.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5).get_last_lr()
        [0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if start_factor > 1.0 or start_factor <= 0:
            raise ValueError("Starting multiplicative factor expected to be greater than 0 and less or equal to 1.")
        if end_factor > 1.0 or end_factor < 0:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the present rates, one step on along the line."""
        self._check_within_step()
        return select(
            self.last_epoch == 0,
            lambda: [lr * self.start_factor for lr in self._rates()],
            lambda: select(self._is_initial or self.last_epoch > self.total_iters, self._rates, self._moved),
        )

    def _moved(self) -> list[Any]:
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return self._exact([lr * (1.0 + rise / before) for lr in self._rates()])

    def _closed_form(self, epoch: Any) -> list[Any]:
        start, end, total = self.start_factor, self.end_factor, self.total_iters
        done = minimum(total, epoch)
        if is_traced(done):
            return [lr * ((start * (total - done) + end * done) / total) for lr in self.base_lrs]
        return [lr * (start + (end - start) * done / total) for lr in self.base_lrs]


class ExponentialLR(ClosedForm):
    """Multiply the rate by ``gamma`` every epoch; the counterpart of torch's ``ExponentialLR``.

    Args:
        optimizer: whose rates to set.
        gamma: the factor.
        last_epoch: the number of steps taken, to resume.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> scheduler = jm.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> optimizer.step([None, None])
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the present rates times ``gamma``."""
        self._check_within_step()
        rates = self._rates()
        return rates if self._is_initial else self._exact([lr * self.gamma for lr in rates])

    def _closed_form(self, epoch: Any) -> list[Any]:
        return [lr * power(self.gamma, epoch) for lr in self.base_lrs]


class PolynomialLR(ClosedForm):
    """Let the rate fall to zero as a power of the epochs left; the counterpart of torch's ``PolynomialLR``.

    Args:
        optimizer: whose rates to set.
        total_iters: after how many epochs zero is reached.
        power: the power.
        last_epoch: the number of steps taken, to resume.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> scheduler = jm.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=2)
        >>> optimizer.step([None, None])
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25]
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the present rates, one step further down."""
        self._check_within_step()
        return select(self._is_initial or self.last_epoch > self.total_iters, self._rates, self._decayed)

    def _decayed(self) -> list[Any]:
        left = 1.0 - self.last_epoch / self.total_iters
        factor = (left / (1.0 - (self.last_epoch - 1) / self.total_iters)) ** self.power
        return self._exact([lr * factor for lr in self._rates()])

    def _closed_form(self, epoch: Any) -> list[Any]:
        total = self.total_iters
        done = minimum(total, epoch)
        left = (total - done) / total if is_traced(done) else 1.0 - done / total
        return [lr * left**self.power for lr in self.base_lrs]


class CosineAnnealingLR(ClosedForm):
    r"""Let the rate follow a cosine (Loshchilov & Hutter, 2017); the counterpart of torch's ``CosineAnnealingLR``.

    .. math:: \eta_t = \eta_{\min} + (\eta_0 - \eta_{\min}) \frac{1 + \cos(\pi t / T_{\max})}{2}

    It is computed from the rate before, so that other schedulers may change that.

    Args:
        optimizer: whose rates to set.
        T_max: the number of epochs from the highest to the lowest rate.
        eta_min: the lowest rate.
        last_epoch: the number of steps taken, to resume.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> scheduler = jm.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
        >>> optimizer.step([None, None])
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the present rates, one step on along the cosine."""
        self._check_within_step()
        if self._is_initial:
            return self._rates()
        epoch = self.last_epoch
        return select(
            (self._step_count == 1) & (epoch > 0),
            lambda: self._closed_form(epoch),
            lambda: self._exact(
                select((epoch - 1 - self.T_max) % (2 * self.T_max) == 0, self._turned, lambda: self._moved(epoch))
            ),
        )

    def _turned(self) -> list[Any]:
        low, high = self.eta_min, zip(self.base_lrs, self._rates(), strict=True)
        return [lr + (base - low) * (1 - math.cos(math.pi / self.T_max)) / 2 for base, lr in high]

    def _moved(self, epoch: Any) -> list[Any]:
        factor = self._height(epoch) / self._height(epoch - 1)
        return [factor * (lr - self.eta_min) + self.eta_min for lr in self._rates()]

    def _height(self, epoch: Any) -> Any:
        return one_plus_cos(math.pi * epoch / self.T_max, (self.T_max - epoch) / self.T_max)

    def _closed_form(self, epoch: Any) -> list[Any]:
        height = self._height(epoch)
        return [self.eta_min + (lr - self.eta_min) * height / 2 for lr in self.base_lrs]
