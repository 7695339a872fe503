"""Schedulers of schedulers: one after the other, or all at once."""

from collections.abc import Sequence
from typing import Any

from jaxmodules.optim.lr_scheduler._arithmetic import branch, count_up_to
from jaxmodules.optim.lr_scheduler.plateau import ReduceLROnPlateau
from jaxmodules.optim.lr_scheduler.scheduler import LRScheduler, set_value, values_of
from jaxmodules.optim.optimizer import Optimizer


class _Composite(LRScheduler):
    """A scheduler with others in ``_schedulers``."""

    _schedulers: Any

    def state_dict(self) -> dict[str, Any]:
        """Return every attribute except the optimizer, of the schedulers in it their state dicts."""
        state = {key: value for key, value in super().state_dict().items() if key != "_schedulers"}
        return {**state, "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "_schedulers"})
        for i, state in enumerate(state_dict["_schedulers"]):
            self._schedulers[i].load_state_dict(state)

    def _check_schedulers(self, schedulers: Sequence[Any], optimizer: Any) -> None:
        name = type(self).__name__
        for i, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise TypeError(f"{name} at index {i} should have `optimizer` as its attribute.")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be"
                    f" specified when calling `step`, but got one at index {i} in the given schedulers sequence."
                )
            if optimizer != scheduler.optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got scheduler"
                    f" {type(scheduler).__name__} at index {i} has {scheduler.optimizer}, which is different from"
                    f" {type(optimizer).__name__}."
                )


class SequentialLR(_Composite):
    """Follow one scheduler after the other; the counterpart of torch's ``SequentialLR``.

    Args:
        optimizer: whose rates to set.
        schedulers: the schedulers, of this optimizer.
        milestones: the epochs at which the next one takes over.
        last_epoch: the number of steps taken, to resume.

    Raises:
        ValueError: if the schedulers are not all of this optimizer, or the milestones not one less.
        TypeError: if a scheduler is none.

    Examples:
        >>> import jaxmodules as jm
        >>> from jaxmodules.optim.lr_scheduler import ConstantLR, ExponentialLR, SequentialLR
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> schedulers = [ConstantLR(optimizer, factor=0.5), ExponentialLR(optimizer, gamma=0.9)]
        >>> SequentialLR(optimizer, schedulers, milestones=[20]).get_last_lr()
        [0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
    ) -> None:
        if len(schedulers) < 1:
            raise ValueError(f"{type(self).__name__} expects at least one scheduler, but got no scheduler.")
        self._check_schedulers(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of"
                f" milestone points, but got number of schedulers {len(schedulers)} and the number of milestones to be"
                f" equal to {len(milestones)}"
            )
        self._schedulers = schedulers
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            set_value(group, "lr", group["initial_lr"])
        self.recursive_undo()
        first = schedulers[count_up_to(0, milestones)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def recursive_undo(self, sched: Any = None) -> None:
        """Take back the epoch that schedulers have counted when they were made.

        Args:
            sched: a scheduler, or ``None`` for this one.
        """
        scheduler = self if sched is None else sched
        if hasattr(scheduler, "_schedulers"):
            for inner in scheduler._schedulers:
                self.recursive_undo(inner)
        elif hasattr(scheduler, "last_epoch"):
            scheduler.last_epoch -= 1

    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's signature
        """Step the scheduler whose turn it is."""
        self.last_epoch += 1
        turn = count_up_to(self.last_epoch, self._milestones)
        if isinstance(turn, int):
            self._step_one(turn)
            return
        for index in range(len(self._schedulers)):
            branch(turn == index, lambda index=index: self._step_one(index), lambda: None, self._cells)

    def _step_one(self, index: int) -> None:
        scheduler = self._schedulers[index]
        begins = index > 0 and self._milestones[index - 1] == self.last_epoch
        branch(begins, lambda: scheduler._update_lr(0), scheduler.step, self._cells)
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(_Composite):
    """Step several schedulers at once; the counterpart of torch's ``ChainedScheduler``.

    Args:
        schedulers: the schedulers.
        optimizer: whose rates to set, by default that of the first scheduler.

    Raises:
        ValueError: if there are no schedulers, or they are not all of one optimizer.
        TypeError: if a scheduler is none.

    Examples:
        >>> import jaxmodules as jm
        >>> from jaxmodules.optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> ChainedScheduler([ConstantLR(optimizer, factor=0.5), ExponentialLR(optimizer, gamma=0.9)]).get_last_lr()
        [0.25]
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if len(schedulers) < 1:
            raise ValueError(
                f"{type(self).__name__} expects at least one scheduler to be chained, but got no scheduler."
            )
        optimizer = optimizer or schedulers[0].optimizer
        self._check_schedulers(schedulers, optimizer)
        self._schedulers = schedulers
        self.optimizer = optimizer
        self._last_lr = values_of(schedulers[-1].optimizer, "lr")

    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's signature
        """Step every scheduler."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = values_of(self._schedulers[-1].optimizer, "lr")
