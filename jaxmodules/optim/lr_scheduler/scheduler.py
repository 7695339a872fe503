"""The base of all schedulers: PyTorch's recursion over ``param_groups``, as state that compiled functions change.

The numbers that a step changes (``last_epoch``, the last rates, any other that is set in a step) are read and written
as plain attributes, and live in cells: outside compiled functions they are Python's numbers and the
arithmetic is PyTorch's own, inside they are arguments and results of the program.
"""

import contextlib
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax

from jaxmodules._keys import Stateful
from jaxmodules.optim._number import Number, Schedule
from jaxmodules.optim.lr_scheduler._arithmetic import is_traced, select
from jaxmodules.optim.lr_scheduler._variables import QUIET, Variable, Variables, is_numeric
from jaxmodules.optim.optimizer import Optimizer
from jaxmodules.state import Scan

EPOCH_DEPRECATION_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please use"
    " `scheduler.step()` to step the scheduler. During the deprecation, if epoch is different from None, the closed"
    " form is used instead of the new chainable form, where available. Please open an issue if you are unable to"
    " replicate your use case: https://github.com/pytorch/pytorch/issues/new/choose."
)
_HOW_TO = "https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"
_UNDECIDABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class LRScheduler(Stateful):
    """Adjust the learning rates of an optimizer; the counterpart of :class:`torch.optim.lr_scheduler.LRScheduler`.

    Subclasses define ``get_lr()``, which returns the next rate of every group. In a compiled function ``last_epoch``,
    and every other number that the step itself changes, is a traced scalar there.

    Args:
        optimizer: whose ``param_groups`` to set ``lr`` in.
        last_epoch: the number of steps taken, to resume; ``-1`` starts from the optimizer's present rates.

    Raises:
        TypeError: if ``optimizer`` is no Optimizer.
        KeyError: on resuming, if a group has no ``initial_lr``.
        ValueError: if a learning rate is a function of the number of steps already.
        RuntimeError: in a compiled function, if the optimizer was made outside.

    Examples:
        >>> import jaxmodules as jm
        >>> class Halved(jm.optim.lr_scheduler.LRScheduler):
        ...     def get_lr(self):
        ...         return [lr * 0.5**self.last_epoch for lr in self.base_lrs]
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> scheduler = Halved(optimizer)
        >>> optimizer.step([None, None])
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25]
    """

    _changing: ClassVar[frozenset[str]] = frozenset({"last_epoch", "_step_count", "_last_lr"})
    _get_lr_called_within_step: bool = False
    _is_initial: bool = False
    optimizer: Any
    last_epoch: Any
    base_lrs: list[Any]
    _step_count: Any
    _last_lr: Any

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        if last_epoch == -1:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        for i, group in enumerate(optimizer.param_groups):
            if "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with last_epoch"
                    " >= 0.\nThis typically happens when:\n1. You're trying to resume training from a checkpoint but"
                    " haven't properly loaded the optimizer state\n2. You're using last_epoch >= 0 for a fresh training"
                    " run (not recommended)"
                )
        self.base_lrs = values_of(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        optimizer._step_when_scheduled = vars(optimizer).get("step")
        self._initial_step()

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        return value.get() if type(value) is Variable else value

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(getattr(type(self), name, None), "__set__"):  # a property
            object.__setattr__(self, name, value)
        else:
            Variables.of(self)[name] = value

    def __delattr__(self, name: str) -> None:
        del Variables.of(self)[name]

    def _jm_scan(self, scan: Scan, path: str) -> Any:
        prefix = f"{path}." if path else ""
        own = Variables.of(self)
        own.observed = True
        cells = tuple((name, scan.stateful(cell, prefix + name)) for name, cell in own.cells())
        return cells, scan.attributes(self, prefix, QUIET | own.variables().keys())

    def _cells(self) -> Iterator[Number]:
        """Yield every number that a step may change: of this scheduler, of those in it, of the optimizer."""
        own = Variables.of(self)
        yield from (cell for _, cell in own.cells())
        for value in own.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if isinstance(inner, LRScheduler):
                    yield from (cell for _, cell in Variables.of(inner).cells())
                    yield from inner._cells()
        for group in self.optimizer.param_groups:
            yield from (cell for _, cell in group.cells())

    def _initial_step(self) -> None:
        """Set the counts, and the rates of the first epoch."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def state_dict(self) -> dict[str, Any]:
        """Return every attribute except the optimizer, as PyTorch does."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict`, or that of PyTorch's scheduler of the same class, returned."""
        self.__dict__.update({key: numbers_of(value) for key, value in state_dict.items()})

    def get_last_lr(self) -> list[Any]:
        """Return the learning rates that the last step has set, one for each group."""
        return self._last_lr

    def get_lr(self) -> list[Any]:
        """Return the next learning rate of each group; subclasses define this."""
        raise NotImplementedError

    def step(self, epoch: int | None = None) -> None:
        """Set the next learning rates; call this after the optimizer's ``step``.

        Args:
            epoch: deprecated: the epoch to go to.
        """
        if not is_traced(self._step_count) and self._step_count == 1:
            self._check_order()
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        self._update_lr(epoch)

    def _check_order(self) -> None:
        optimizer = self.optimizer
        if vars(optimizer).get("step") is not optimizer._step_when_scheduled:
            warnings.warn(
                "Seems like `optimizer.step()` has been overridden after learning rate scheduler initialization."
                " Please, make sure to call `optimizer.step()` before `lr_scheduler.step()`. See more details at"
                f" {_HOW_TO}",
                UserWarning,
                stacklevel=3,
            )
        elif not optimizer._opt_called and not any(optimizer._cohorts):  # a compiled function may have stepped it
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`. In PyTorch 1.1.0 and later, you"
                " should call them in the opposite order: `optimizer.step()` before `lr_scheduler.step()`.  Failure to"
                " do this will result in PyTorch skipping the first value of the learning rate schedule. See more"
                f" details at {_HOW_TO}",
                UserWarning,
                stacklevel=3,
            )

    def _update_lr(self, epoch: Any = None) -> None:
        with self._within_step():
            self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
            closed = None if epoch is None else getattr(self, "_get_closed_form_lr", None)
            values = (closed or self.get_lr)()
        self._set_rates(values)

    def _set_rates(self, values: list[Any]) -> None:
        for group, lr in zip(self.optimizer.param_groups, values, strict=True):
            set_value(group, "lr", lr)
        self._last_lr = values_of(self.optimizer, "lr")

    @contextlib.contextmanager
    def _within_step(self) -> Iterator[None]:
        """Allow ``get_lr`` to be called, and explain what it can't do in a compiled function."""
        self._get_lr_called_within_step = True
        try:
            yield
        except _UNDECIDABLE as error:
            raise TypeError(
                f"{type(self).__name__}.get_lr() needs in Python the value of what is traced in a compiled"
                " function (last_epoch, learning rates, other numbers that change): in it, and in functions that it"
                " calls, expected jnp.where, jnp.minimum, jnp.cos, ... in the place of if, min, math.cos, ...; or call"
                " scheduler.step() outside the compiled function"
            ) from error
        finally:
            self._get_lr_called_within_step = False

    def _check_within_step(self) -> None:
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.",
                UserWarning,
                stacklevel=3,
            )

    def _rates(self) -> list[Any]:
        """Return the present learning rates."""
        return values_of(self.optimizer, "lr")


class _LRScheduler(LRScheduler):
    """The base class under its old name."""


class ClosedForm(LRScheduler):
    """A scheduler whose rates, if nobody else changes them, are a function of the epoch."""

    def _closed_form(self, epoch: Any) -> list[Any]:
        """Return the rates of an epoch."""
        raise NotImplementedError

    def _get_closed_form_lr(self) -> list[Any]:
        return self._closed_form(self.last_epoch)

    def _exact(self, rates: list[Any]) -> list[Any]:
        """Return rates computed from the ones before, in compiled functions without the rounding of earlier steps.

        Where the rate before is that of the closed form, so is the next one.
        """
        if not is_traced(self.last_epoch):
            return rates
        before, after = self._closed_form(self.last_epoch - 1), self._closed_form(self.last_epoch)
        return [
            select(abs(old - expected) <= 1e-6 * abs(expected), lambda new=new: new, lambda rate=rate: rate)
            for old, expected, new, rate in zip(self._rates(), before, after, rates, strict=True)
        ]


def check_optimizer(optimizer: Any) -> None:
    """Raise if something is no optimizer whose learning rates can be scheduled."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    for i, group in enumerate(optimizer.param_groups):
        if "lr" not in group:
            raise KeyError(
                f"param_groups[{i}] has no 'lr' to schedule: expected an optimizer such as SGD; an optax transformation"
                " takes a schedule of optax"
            )
        if isinstance(group.schedules().get("lr"), Schedule):
            raise ValueError(
                f"the lr of param_groups[{i}] is a function of the number of steps, which a scheduler would overwrite:"
                " set it to a number first"
            )
        if any(is_traced(cell._value) and cell._born is None for name, cell in group.cells() if name == "lr"):
            raise RuntimeError(
                "a scheduler was made in a compiled function for an optimizer that outlives it: make it outside, and"
                " give it to the function"
            )


def values_of(optimizer: Optimizer, key: str) -> list[Any]:
    """Return a setting of every group."""
    return [group[key] for group in optimizer.param_groups]


def set_value(group: Any, key: str, value: Any) -> None:
    """Change a setting that a group has."""
    if key not in group:
        raise KeyError(key)
    group[key] = value


def numbers_of(value: Any) -> Any:
    """Return Python's numbers for arrays of one element, also in lists."""
    if isinstance(value, list):
        return [numbers_of(item) for item in value]
    is_array = hasattr(value, "item") and is_numeric(value) and not is_traced(value)
    return value.item() if is_array else value


def for_each_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """Return one number for each group.

    Raises:
        ValueError: if the numbers given are not as many as the groups.
    """
    count = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [numbers_of(value)] * count
    if len(value) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(value)} values, param_groups"
            f" has {count}."
        )
    return [numbers_of(item) for item in value]


def state_of_functions(functions: list[Any]) -> list[Any]:
    """Return for each function what is saved of it: the attributes of a callable object, of a function nothing."""
    return [None if isinstance(function, types.FunctionType) else vars(function).copy() for function in functions]


def load_functions(functions: list[Any], states: list[Mapping[str, Any] | None]) -> None:
    """Load what :func:`state_of_functions` returned."""
    for i, state in enumerate(states):
        if state is not None:
            vars(functions[i]).update(state)
