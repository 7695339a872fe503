"""Schedules that the user writes as functions of the epoch."""

from collections.abc import Callable
from typing import Any

from jaxmodules.optim.lr_scheduler.scheduler import LRScheduler, load_functions, state_of_functions
from jaxmodules.optim.optimizer import Optimizer


class _OfFunctions(LRScheduler):
    """A scheduler with a function for each group; functions are not saved, of callable objects the attributes are."""

    lr_lambdas: list[Callable[[int], float]]

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = optimizer
        count = len(optimizer.param_groups)
        if not isinstance(lr_lambda, list | tuple):
            self.lr_lambdas = [lr_lambda] * count
        elif len(lr_lambda) != count:
            raise ValueError(f"Expected {count} lr_lambdas, but got {len(lr_lambda)}")
        else:
            self.lr_lambdas = list(lr_lambda)
        self._check_functions()
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return every attribute except the optimizer; of ``lr_lambdas`` the attributes of callable objects."""
        state = {key: value for key, value in super().state_dict().items() if key != "lr_lambdas"}
        return {**state, "lr_lambdas": state_of_functions(self.lr_lambdas)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "lr_lambdas"})
        load_functions(self.lr_lambdas, state_dict["lr_lambdas"])

    def _check_functions(self) -> None:
        """Raise if a function is none."""


class LambdaLR(_OfFunctions):
    """Set the initial rate times a function of the epoch; the counterpart of torch's ``LambdaLR``.

    Args:
        optimizer: whose rates to set.
        lr_lambda: a function of the epoch, or a list with one for each group. In a compiled function it gets a traced
            epoch, and has to be written with ``jnp``.
        last_epoch: the number of steps taken, to resume.

    Raises:
        ValueError: if there are not as many functions as groups.
        TypeError: in a compiled function, if a function needs the epoch as a Python number.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> jm.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (epoch + 2)).get_last_lr()
        [0.25]
    """

    def get_lr(self) -> list[Any]:
        """Return the initial rates times the functions of the epoch."""
        self._check_within_step()
        return [lr * function(self.last_epoch) for function, lr in zip(self.lr_lambdas, self.base_lrs, strict=True)]


class MultiplicativeLR(_OfFunctions):
    """Multiply the rate by a function of the epoch; the counterpart of torch's ``MultiplicativeLR``.

    Args:
        optimizer: whose rates to set.
        lr_lambda: as for :class:`LambdaLR`.
        last_epoch: the number of steps taken, to resume.

    Raises:
        ValueError: if there are not as many functions as groups.
        TypeError: if a function can't be called; in a compiled function, if it needs the epoch as a Python number.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> scheduler = jm.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.5)
        >>> optimizer.step([None, None])
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25]
    """

    def get_lr(self) -> list[Any]:
        """Return the present rates times the functions of the epoch."""
        self._check_within_step()
        if self._is_initial:
            return self._rates()
        return [lr * function(self.last_epoch) for function, lr in zip(self.lr_lambdas, self._rates(), strict=True)]

    def _check_functions(self) -> None:
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
