"""Schedules that take rate and momentum up and down: ``CyclicLR`` and ``OneCycleLR``."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

from jaxmodules.optim.lr_scheduler._arithmetic import floor, is_traced, one_plus_cos, power, select
from jaxmodules.optim.lr_scheduler.scheduler import (
    LRScheduler,
    check_optimizer,
    for_each_group,
    load_functions,
    set_value,
    state_of_functions,
)
from jaxmodules.optim.optimizer import Optimizer


class CyclicLR(LRScheduler):
    """Cycle the rate between two bounds (Smith, 2017); the counterpart of torch's ``CyclicLR``.

    Args:
        optimizer: whose rates to set.
        base_lr: the lower bound, or a list with one for each group.
        max_lr: the upper bound, likewise.
        step_size_up: the number of steps from the lower to the upper bound.
        step_size_down: the number of steps back, by default as many.
        mode: ``"triangular"``, ``"triangular2"`` (every cycle half as high) or ``"exp_range"`` (times
            ``gamma**step``).
        gamma: the factor of ``"exp_range"``.
        scale_fn: a function in place of a mode, of the cycle or of the step.
        scale_mode: ``"cycle"`` or ``"iterations"``: what ``scale_fn`` is a function of.
        cycle_momentum: move momentum, or the first of the betas, the other way.
        base_momentum: its lower bound, or a list.
        max_momentum: its upper bound, or a list.
        last_epoch: the number of steps taken, to resume.

    Raises:
        ValueError: if a setting is out of range, or the optimizer has no momentum to cycle.
        TypeError: if ``optimizer`` is no Optimizer.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5, momentum=0.9)
        >>> scheduler = jm.optim.lr_scheduler.CyclicLR(optimizer, base_lr=0.25, max_lr=0.75, step_size_up=2)
        >>> optimizer.step([None, None])
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.5]
    """

    _scale_fn_ref: Callable[[Any], Any]

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        base_lrs = for_each_group("base_lr", optimizer, base_lr)
        if last_epoch == -1:
            for lr, group in zip(base_lrs, optimizer.param_groups, strict=True):
                set_value(group, "lr", lr)
        self.max_lrs = for_each_group("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        down = up if step_size_down is None else float(step_size_down)
        self.total_size = up + down
        self.step_ratio = up / self.total_size
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode
        self._init_scale_fn()
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = _has_betas(optimizer)
            self.base_momentums = for_each_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = for_each_group("max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                _set_bounds(optimizer, self.base_momentums, self.max_momentums, self.use_beta1)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def _init_scale_fn(self) -> None:
        if self._scale_fn_custom is not None:
            return
        if self.mode == "triangular":
            self._scale_fn_ref = self._triangular_scale_fn
        elif self.mode == "triangular2":
            self._scale_fn_ref = self._triangular2_scale_fn
        elif self.mode == "exp_range":
            self._scale_fn_ref = functools.partial(self._exp_range_scale_fn, self.gamma)
        self.scale_mode = "iterations" if self.mode == "exp_range" else "cycle"

    def scale_fn(self, x: Any) -> Any:
        """Return how high the cycle ``x``, or the cycle at step ``x``, goes."""
        return (self._scale_fn_custom or self._scale_fn_ref)(x)

    @staticmethod
    def _triangular_scale_fn(x: Any) -> float:
        return 1.0

    @staticmethod
    def _triangular2_scale_fn(x: Any) -> Any:
        return 1 / 2.0 ** (x - 1)

    @staticmethod
    def _exp_range_scale_fn(gamma: float, x: Any) -> Any:
        return power(gamma, x)

    def get_lr(self) -> list[Any]:
        """Return the rates of the present step, and set the momentum if that is cycled."""
        self._check_within_step()
        cycle, x = self._position()
        height = select(x <= self.step_ratio, lambda: x / self.step_ratio, lambda: (x - 1) / (self.step_ratio - 1))
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            bounds = zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True)
            for group, low, high in bounds:
                _set_momentum(group, high - (high - low) * height * scale, self.use_beta1)
        return [low + (high - low) * height * scale for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def _position(self) -> tuple[Any, Any]:
        """Return the number of the cycle, from 1, and the place in it, from 0 to 1."""
        step, size = self.last_epoch, self.total_size
        if is_traced(step):
            whole = int(size) if size == int(size) else size
            return floor(step // whole) + 1, step % whole / size
        cycle = math.floor(1 + step / size)
        return cycle, 1.0 + step / size - cycle

    def state_dict(self) -> dict[str, Any]:
        """Return every attribute except the optimizer; of ``scale_fn`` the attributes if it is a callable object."""
        left_out = ("_scale_fn_ref", "_scale_fn_custom")
        state = {key: value for key, value in super().state_dict().items() if key not in left_out}
        custom = self._scale_fn_custom
        return {**state, "_scale_fn_custom": None if custom is None else state_of_functions([custom])[0]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "_scale_fn_custom"})
        load_functions([self._scale_fn_custom], [state_dict["_scale_fn_custom"]])
        self._init_scale_fn()


class OneCycleLR(LRScheduler):
    """Take the rate up once and down again (Smith & Topin, 2018); the counterpart of torch's ``OneCycleLR``.

    Args:
        optimizer: whose rates to set.
        max_lr: the highest rate, or a list with one for each group.
        total_steps: the number of steps; by default ``epochs * steps_per_epoch``.
        epochs: the number of epochs.
        steps_per_epoch: the number of steps in each.
        pct_start: the fraction of the steps that the way up takes.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: move momentum, or the first of the betas, the other way.
        base_momentum: its lower bound, or a list.
        max_momentum: its upper bound, or a list.
        div_factor: ``max_lr`` divided by the first rate.
        final_div_factor: the first rate divided by the last.
        three_phase: go down as fast as up, and then to the last rate.
        last_epoch: the number of steps taken, to resume.

    Raises:
        ValueError: if a setting is out of range, or the optimizer has no momentum to cycle; and at a step too many,
            except in a compiled function, which goes on along the last curve.
        TypeError: if ``optimizer`` is no Optimizer.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5, momentum=0.9)
        >>> jm.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10, div_factor=4.0).get_last_lr()
        [0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        self.total_steps = _number_of_steps(total_steps, epochs, steps_per_epoch)
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        if pct_start < 0 or pct_start > 1 or not isinstance(pct_start, float):
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._anneal_func_type = anneal_strategy
        max_lrs = for_each_group("max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for highest, group in zip(max_lrs, optimizer.param_groups, strict=True):
                group["initial_lr"] = highest / div_factor
                group["max_lr"] = highest
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = _has_betas(optimizer)
            highest = for_each_group("max_momentum", optimizer, max_momentum)
            lowest = for_each_group("base_momentum", optimizer, base_momentum)
            if last_epoch == -1:
                _set_bounds(optimizer, lowest, highest, self.use_beta1)
        super().__init__(optimizer, last_epoch)

    def _anneal_func(self, *args: Any) -> Any:
        kind = getattr(self, "_anneal_func_type", None)
        if kind is None:  # a state dict of PyTorch before 1.13 has the function
            return vars(self)["anneal_func"](*args[:3])
        return {"cos": self._annealing_cos, "linear": self._annealing_linear}[kind](*args)

    @staticmethod
    def _annealing_cos(start: Any, end: Any, pct: Any, left: Any = None) -> Any:
        """Go from ``start`` to ``end`` along a cosine; ``left`` is ``1 - pct``."""
        return end + (start - end) / 2.0 * one_plus_cos(math.pi * pct, 1 - pct if left is None else left)

    @staticmethod
    def _annealing_linear(start: Any, end: Any, pct: Any, left: Any = None) -> Any:
        """Go from ``start`` to ``end`` along a line; ``left`` is ``1 - pct``."""
        return start * left + end * pct if is_traced(left) else (end - start) * pct + start

    def get_lr(self) -> list[Any]:
        """Return the rates of the present step, and set the momentum if that is cycled."""
        self._check_within_step()
        step = self.last_epoch
        if not is_traced(step) and step > self.total_steps:
            raise ValueError(f"Tried to step {step} times. The specified number of total steps is {self.total_steps}")
        rates = []
        for group in self.optimizer.param_groups:
            rate, momentum = self._at(group, step, 0, 0.0)
            rates.append(rate)
            if self.cycle_momentum:
                _set_momentum(group, momentum, self.use_beta1)
        return rates

    def _at(self, group: Any, step: Any, number: int, start: float) -> list[Any]:
        """Return rate and momentum at a step, which is not before a phase that starts at ``start``."""
        phase = self._schedule_phases[number]
        end = phase["end_step"]

        def inside() -> list[Any]:
            where = (step - start) / (end - start), (end - step) / (end - start)
            rate = self._anneal_func(group[phase["start_lr"]], group[phase["end_lr"]], *where)
            if not self.cycle_momentum:
                return [rate, 0.0]
            return [rate, self._anneal_func(group[phase["start_momentum"]], group[phase["end_momentum"]], *where)]

        if number == len(self._schedule_phases) - 1:
            return inside()
        return select(step <= end, inside, lambda: self._at(group, step, number + 1, end))


def _number_of_steps(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> int:
    if total_steps is not None:
        given = {"total_steps": total_steps}
    elif epochs is not None and steps_per_epoch is not None:
        given = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    else:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    for name, value in given.items():
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f"Expected positive integer {name}, but got {value}")
    return math.prod(given.values())


def _phases(total: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    """Return what goes from where to where until which step."""

    def phase(end: float, lrs: tuple[str, str], momenta: tuple[str, str]) -> dict[str, Any]:
        return {
            "end_step": end,
            "start_lr": lrs[0],
            "end_lr": lrs[1],
            "start_momentum": momenta[0],
            "end_momentum": momenta[1],
        }

    low, high = "base_momentum", "max_momentum"
    up = phase(float(pct_start * total) - 1, ("initial_lr", "max_lr"), (high, low))
    if not three_phase:
        return [up, phase(total - 1, ("max_lr", "min_lr"), (low, high))]
    down = phase(float(2 * pct_start * total) - 2, ("max_lr", "initial_lr"), (low, high))
    return [up, down, phase(total - 1, ("initial_lr", "min_lr"), (high, high))]


def _has_betas(optimizer: Optimizer) -> bool:
    """Tell whether momentum is the first of the betas; if not, note that it will change in compiled functions."""
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
    for group in optimizer.param_groups:
        for name, cell in group.cells():
            if name == "momentum":
                cell.set_dynamic()
    return "betas" in optimizer.defaults


def _set_bounds(optimizer: Optimizer, lowest: list[Any], highest: list[Any], use_beta1: bool) -> None:
    for low, high, group in zip(lowest, highest, optimizer.param_groups, strict=True):
        _set_momentum(group, high, use_beta1)
        group["max_momentum"] = high
        group["base_momentum"] = low


def _set_momentum(group: Any, momentum: Any, use_beta1: bool) -> None:
    if use_beta1:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum
