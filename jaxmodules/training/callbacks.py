"""What a run does beside its steps: the base of callbacks, evaluation and early stopping."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, Protocol

from jaxmodules.nn.modules.module import Module
from jaxmodules.random import fork_rng
from jaxmodules.training import _hosts
from jaxmodules.training._feed import Source
from jaxmodules.training._meter import Meter
from jaxmodules.training.run import Run


class Callback:
    """Do something in the course of a run: subclass it and override what is of use; every method here does nothing.

    Methods are called in the order of the callbacks, those of a lower :attr:`stage` first: what measures (0), what
    decides (1, yours unless you say otherwise), what writes down (2), what saves (3).

    A callback with ``state_dict`` and ``load_state_dict`` is saved in checkpoints too. In place of a callback
    :func:`fit` takes a plain function, which is called as :meth:`on_epoch` is.

    Examples:
        >>> class Halve(Callback):
        ...     def on_epoch(self, run, metrics):
        ...         run.objects["optimizer"].param_groups[0]["lr"] *= 0.5
    """

    stage: ClassVar[int] = 1

    def on_setup(self, run: Run) -> None:
        """Before everything; a run may be continued from a checkpoint here."""

    def on_start(self, run: Run) -> None:
        """Before the first step; ``run.step`` tells whether an earlier run goes on."""

    def on_step(self, run: Run) -> None:
        """After every step, which the device may still be busy with: reading ``run.metrics`` waits for it."""

    def on_metrics(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """When a step's metrics are there, a few steps later; also for what :meth:`Run.log` is given."""

    def on_epoch(self, run: Run, metrics: dict[str, float]) -> None:
        """After every epoch, with the means over it; what is put into ``metrics`` goes into the history."""

    def after_epoch(self, run: Run) -> None:
        """After every epoch, when the history has it."""

    def on_end(self, run: Run) -> None:
        """After the last step, finished or interrupted between two steps."""

    def on_close(self) -> None:
        """At the very end, whatever happened: let go of files."""


class Function(Callback):
    """A plain function as a callback.

    Args:
        function: called after every epoch, as :meth:`Callback.on_epoch` is.
    """

    def __init__(self, function: Callable[[Run, dict[str, float]], Any]) -> None:
        self.function = function

    def on_epoch(self, run: Run, metrics: dict[str, float]) -> None:
        self.function(run, metrics)


class Saved(Protocol):
    """What a checkpoint can hold."""

    def state_dict(self) -> Any:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Go back to a state."""
        ...


class Evaluate(Callback):
    """Measure on other data after every epoch.

    ``step(*objects, *batch)`` is called for every batch, and its metrics, averaged over the samples, join those of the
    epoch under a prefix. Modules are in evaluation mode meanwhile, and the random streams stay where they are: a run is
    the same with and without it.

    Args:
        step: returns a loss, a dict of metrics, or ``(loss, dict)``, as a training step does.
        data: an iterable of batches, as for :func:`fit`.
        *objects: what the step takes before the batch; the first object of the run if none is given.
        prefix: put before the names of the metrics.
        every_epochs: how often.
        every_steps: how often within epochs, too; these go to the logs as they come.
        prefetch: as for :func:`fit`.
        device: as for :func:`fit`.

    Raises:
        TypeError: if ``data`` is an iterator, which serves once only.

    Examples:
        >>> import jaxmodules as jm, numpy as np
        >>> net = jm.nn.Linear(1, 1)
        >>> test = jm.training.Evaluate(lambda net, x: (net(x) ** 2).mean(), [np.ones((2, 1), np.float32)])
        >>> list(jm.fit(lambda net, x: None, [np.ones((2, 1), np.float32)], net, callbacks=[test], progress=False))
        ['epoch', 'step', 'test_loss']
    """

    stage = 0

    def __init__(
        self,
        step: Callable[..., Any],
        data: Any,
        *objects: Any,
        prefix: str = "test_",
        every_epochs: int | None = 1,
        every_steps: int | None = None,
        prefetch: int = 2,
        device: Any = None,
    ) -> None:
        self.step = step
        self.source = Source(data, prefetch, device)
        if self.source.is_one_shot:
            raise TypeError(
                f"Evaluate goes through its data again and again, but {type(data).__name__} is an iterator, which can"
                " be used once: give a list, a loader, or a function that makes an iterator"
            )
        self.objects = objects
        self.prefix = prefix
        self.every_epochs = every_epochs
        self.every_steps = every_steps

    def measure(self, run: Run, may_leave: bool = False) -> dict[str, float]:
        """Go through the data once and return the means.

        Args:
            run: whose objects are used where this has none of its own.
            may_leave: whether to leave when a signal asks the run to end, for it to measure again when it goes on.

        Raises:
            KeyboardInterrupt: if it leaves.
        """
        objects = self.objects or tuple(run.objects.values())[:1]
        meter = Meter(None)
        with fork_rng(), _hosts.unmoved(), evaluation_mode(objects):
            feed = self.source.epoch(run.epoch, None)
            try:
                while (batch := feed.take()) is not None:
                    if may_leave:
                        run.check_interrupt()
                    meter.add(0, self.step(*objects, *batch[0]), batch[1])
            except Exception:
                if may_leave:
                    run.check_interrupt()  # workers of the data got the signal too
                raise
            finally:
                feed.close()
        meter.flush()
        return {self.prefix + name: mean for name, mean in meter.means().items()}

    def on_step(self, run: Run) -> None:
        if self.every_steps and run.step % self.every_steps == 0:
            run.log(self.measure(run))

    def on_epoch(self, run: Run, metrics: dict[str, float]) -> None:
        if not self.skips(run.epoch + 1):
            metrics.update(self.measure(run, may_leave=True))

    def skips(self, epoch: int) -> bool:
        """Tell whether nothing is measured after an epoch, counted from 1."""
        return not self.every_epochs or epoch % self.every_epochs != 0


@contextlib.contextmanager
def evaluation_mode(objects: tuple[Any, ...]) -> Iterator[None]:
    """Put the modules among ``objects`` in evaluation mode, and each of their parts back into the mode it was in."""
    modules = [part for value in objects if isinstance(value, Module) for part in value.modules()]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


class Best:
    """The best value of a metric so far.

    Args:
        monitor: the name of the metric.
        mode: which values are better.
        min_delta: by how much.
    """

    def __init__(self, monitor: str, mode: Literal["min", "max"], min_delta: float = 0.0) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.sign = 1.0 if mode == "min" else -1.0
        self.min_delta = min_delta
        self.value = math.inf * self.sign

    def improves(self, run: Run, row: dict[str, Any]) -> bool | None:
        """Tell whether an epoch has a better value, which is then the best; ``None`` if it was not measured after it.

        Raises:
            KeyError: if nobody measures it.
        """
        if self.monitor not in row:
            if any(isinstance(callback, Evaluate) and callback.skips(row["epoch"]) for callback in run.callbacks):
                return None
            raise KeyError(f"a callback watches {self.monitor!r}, but the metrics of an epoch are {', '.join(row)}")
        value = float(row[self.monitor])
        if not self.sign * value < self.sign * self.value - self.min_delta:
            return False
        self.value = value
        return True


class EarlyStopping(Callback):
    """End the run when a metric has not improved for some epochs.

    Args:
        monitor: the metric to watch, of the training (``"loss"``) or of :class:`Evaluate` (``"test_loss"``).
        patience: how many epochs without improvement end the run; those in which it is not measured do not count.
        mode: whether ``"min"`` or ``"max"`` is better. NaN is never better.
        min_delta: by how much a value must be better to count.

    Examples:
        >>> import jaxmodules as jm, numpy as np
        >>> stop = jm.training.EarlyStopping(patience=2)
        >>> len(jm.fit(lambda x: 1.0, [np.ones(1)], epochs=9, callbacks=[stop], progress=False).rows)
        3
    """

    def __init__(
        self,
        monitor: str = "loss",
        *,
        patience: int = 1,
        mode: Literal["min", "max"] = "min",
        min_delta: float = 0.0,
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience must be positive, got {patience}")
        self.best = Best(monitor, mode, min_delta)
        self.patience = patience
        self.waited = 0
        self.stopped = False

    def on_start(self, run: Run) -> None:
        if self.stopped and self.waited < self.patience:  # more patience than when this run was stopped
            self.stopped, run.stopped = False, None

    def on_epoch(self, run: Run, metrics: dict[str, float]) -> None:
        better = self.best.improves(run, {"epoch": run.epoch + 1, **metrics})
        if better is None:
            return
        self.waited = 0 if better else self.waited + 1
        if self.waited >= self.patience:
            self.stopped = True
            run.stop(f"{self.best.monitor} has not improved on {self.best.value:.6g} for {self.waited} epochs")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, how long ago it was, and whether this ended the run."""
        return {"best": self.best.value, "waited": self.waited, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        self.best.value = state_dict["best"]
        self.waited = state_dict["waited"]
        self.stopped = state_dict["stopped"]
