"""The loop: batches through a step, and what goes on beside it."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxmodules.training import _progress
from jaxmodules.training._feed import Source
from jaxmodules.training._interrupts import Interrupts
from jaxmodules.training.callbacks import Callback, Function
from jaxmodules.training.history import History
from jaxmodules.training.run import Asked, Run


def fit(
    step: Callable[..., Any],
    data: Any,
    *objects: Any,
    epochs: int | None = None,
    steps: int | None = None,
    callbacks: Iterable[Callback | Callable[[Run, dict[str, float]], Any]] = (),
    progress: bool | None = None,
    prefetch: int = 2,
    device: Any = None,
    also: Mapping[str, Any] | None = None,
) -> History:
    r"""Call ``step(*objects, *batch)`` for every batch, epoch after epoch.

    That is all it does to the objects; everything else is around it. Steps are dispatched without waiting for the
    device: what they return is read a few steps later.

    A first Ctrl-C, or SIGTERM, ends the run after the step it is in; checkpoints are saved then, and
    ``KeyboardInterrupt`` (``SystemExit``) is raised. A second one ends it at once. A run that is started again with a
    :class:`Checkpoint` goes on where the file was written, in the middle of an epoch too, and ends with the bits of an
    uninterrupted one: weights, optimizer, schedule, random streams, history, the order and the place of the data.

    Args:
        step: returns the loss, a dict of metrics, or ``(loss, dict)``; scalars, averaged over the samples of an epoch.
        data: the batches of an epoch, anything that can be iterated: a list, :class:`Batches`, a torch ``DataLoader``,
            a Grain dataset; a function from the number of the epoch (from 0) to such; or for one epoch an iterator. A
            tuple or a list is spread over the arguments of the step, anything else is one argument. Tensors become
            arrays.
        *objects: what the step takes before the batch. Checkpoints hold those with ``state_dict`` and
            ``load_state_dict``: modules, optimizers, schedulers and their like.
        epochs: how often to go through the data, earlier runs included; once if neither this nor ``steps`` is given.
        steps: how many steps to take at most, earlier runs included.
        callbacks: see :class:`Callback`; a function is called after every epoch with the run and its metrics.
        progress: ``True`` for a bar by rich, or without a terminal a line for each epoch; ``False`` for nothing;
            ``None`` for the bar if rich is installed, else lines.
        prefetch: how many batches are on their way to the device at a time. On the CPU, unless ``device`` is given,
            there is nowhere to bring them, and they are taken as they come.
        device: a device or a :class:`jax.sharding.Sharding` to put batches on.
        also: more objects for checkpoints, by name, which the step does not take: an average of the weights, a
            scheduler that a callback steps.

    Returns:
        The metrics of every epoch.

    Raises:
        TypeError: if data or callbacks are none, or a step returns no metrics.
        ValueError: if an iterator is to serve several epochs, or there are no batches.
        KeyboardInterrupt: after Ctrl-C.
        SystemExit: after SIGTERM.

    Examples:
        >>> import jaxmodules as jm, numpy as np
        >>> net = jm.nn.Linear(2, 1)
        >>> optimizer = jm.optim.SGD(net.parameters(), lr=0.1)
        >>> @jm.jit
        ... def train_step(net, optimizer, x, y):
        ...     loss, grads = jm.value_and_grad(lambda net: ((net(x) - y) ** 2).mean())(net)
        ...     optimizer.step(grads)
        ...     return loss
        >>> x = np.random.rand(64, 2).astype(np.float32)
        >>> data = jm.training.Batches(x, x[:, :1], batch_size=16, shuffle=True)
        >>> history = jm.fit(train_step, data, net, optimizer, epochs=3, progress=False)
        >>> history["step"]
        [4, 8, 12]
    """
    if epochs is None and steps is None:
        epochs = 1
    source = Source(data, prefetch, device)
    run = Run(step, objects, also or {}, source)
    run.epochs, run.steps = epochs, steps
    if source.is_one_shot and epochs is not None and epochs > 1:
        raise ValueError(
            f"data is an iterator ({type(data).__name__}), which serves one epoch, got epochs={epochs}: give a list, a"
            " loader, or a function that makes an iterator for each epoch"
        )
    run.callbacks = sorted(map(_callback, callbacks), key=lambda callback: callback.stage)
    return _Loop(step, objects, source, run, _progress.choose(progress)).run()


def _callback(given: Any) -> Callback:
    if isinstance(given, Callback):
        return given
    if isinstance(given, type) or not callable(given):
        raise TypeError(f"expected a Callback, or a function of the run and its metrics, got {given!r}")
    return Function(given)


class _Loop:
    """One call of :func:`fit`."""

    def __init__(
        self, step: Callable[..., Any], objects: tuple[Any, ...], source: Source, run: Run, shown: _progress.Silent
    ) -> None:
        self._step = step
        self._objects = objects
        self._source = source
        self._run = run
        self._shown = shown
        self._first = 0  # of the run's steps, that of this epoch
        run.say = shown.say
        if self._hooks("on_metrics"):
            run.meter.deliver = self._deliver

    def run(self) -> History:
        """Go through all epochs."""
        run = self._run
        try:
            with Interrupts() as run.interrupts:
                self._call("on_setup", run)
                self._call("on_start", run)
                partial = None
                try:
                    while self._goes_on() and partial is None:
                        partial = self._epoch()
                except KeyboardInterrupt as error:
                    if not isinstance(error, Asked) and not (run.feed is not None and run.feed.broken):
                        raise
                    if not run.interrupted:
                        self._call("on_end", run)
                        raise
                self._call("on_end", run)
                if run.interrupted:
                    run.interrupts.end(f"the run ended after step {run.step}; {run.saved_at or 'nothing was saved'}")
                if partial is not None:
                    run.history.rows.append(partial)
        finally:
            if run.feed is not None:
                run.feed.close()
            self._shown.close()
            for callback in run.callbacks:
                callback.on_close()
        if run.stopped is not None:
            run.say(f"stopped: {run.stopped}")
        return run.history

    def _goes_on(self) -> bool:
        run = self._run
        return (
            run.stopped is None
            and not run.interrupted
            and (run.epochs is None or run.epoch < run.epochs)
            and (run.steps is None or run.step < run.steps)
        )

    def _epoch(self) -> dict[str, Any] | None:
        """Run an epoch, or the rest of one; return its metrics if it was not finished, but did not have to be."""
        run = self._run
        position, run.position = run.position, None
        most = None if run.steps is None else run.steps - run.step + (position["taken"] if position else 0)
        run.feed = feed = self._source.epoch(run.epoch, most, position)
        self._shown.begin(run, run.epoch + 1, feed.length)
        is_whole = self._steps()
        run.meter.flush()
        self._shown.show(run, feed.taken)
        if run.interrupted:
            self._shown.end(run, feed.taken, run.meter.means())
            return None
        if not feed.taken:
            raise ValueError(
                f"data gave no batches in epoch {run.epoch + 1}"
                + (": an iterator serves one epoch" if self._source.is_one_shot else "")
            )
        row = {"epoch": run.epoch + 1, "step": run.step}
        metrics = run.meter.means()
        self._call("on_epoch", run, metrics)
        self._shown.end(run, feed.taken, metrics)
        feed.close()
        if not is_whole:
            return {**row, **metrics}
        run.history.rows.append({**row, **metrics})
        run.meter.clear()
        run.feed = None
        run.epoch += 1
        self._call("after_epoch", run)
        return None

    def _steps(self) -> bool:
        """Take the steps of an epoch; tell whether all batches were used."""
        run, step, objects, limit = self._run, self._step, self._objects, self._run.steps
        feed, meter, interrupts = run.feed, run.meter, run.interrupts
        hooks = self._hooks("on_step")
        interval = self._shown.interval
        due = 0.0
        assert feed is not None
        while interrupts.number is None and run.stopped is None and run.step != limit:
            try:
                item = feed.take()
            except KeyboardInterrupt:
                feed.broken = True
                raise
            except Exception:
                if interrupts.number is None:
                    raise
                feed.broken = True  # workers of the data got the signal too
                return False
            if item is None:
                return True
            batch, size = item
            result = step(*objects, *batch)
            run.step += 1
            run.samples += size
            feed.taken += 1
            meter.add(run.step, result, size)
            for hook in hooks:
                hook(run)
            if time.perf_counter() > due:
                self._shown.show(run, feed.taken)
                due = time.perf_counter() + interval
        return feed.is_over()

    def _hooks(self, name: str) -> list[Callable[..., Any]]:
        """Return the methods of this name of the callbacks that have their own."""
        return [getattr(c, name) for c in self._run.callbacks if getattr(type(c), name) is not getattr(Callback, name)]

    def _call(self, name: str, *args: Any) -> None:
        for hook in self._hooks(name):
            hook(*args)

    def _deliver(self, step: int, metrics: dict[str, float]) -> None:
        self._call("on_metrics", self._run, step, metrics)
