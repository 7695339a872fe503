"""The state of a training loop: where it is, what it has measured, and all that a checkpoint holds."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxmodules.checkpoint._stateful import get_state, has_state, set_state
from jaxmodules.random import get_rng_state, set_rng_state
from jaxmodules.training._feed import Feed, Source
from jaxmodules.training._interrupts import Interrupts
from jaxmodules.training._meter import Meter, to_floats
from jaxmodules.training.history import History


class Run:
    """A run of :func:`fit`, as callbacks see it.

    ``objects`` holds what the step takes before the batch, by the names of the step's parameters; ``step`` counts the
    steps taken, ``epoch`` the whole epochs; ``history`` has the metrics of these; ``stopped`` is the reason if the run
    was told to stop, and ``interrupted`` tells whether a signal ends it.
    """

    def __init__(
        self, function: Callable[..., Any], objects: Sequence[Any], also: Mapping[str, Any], source: Source
    ) -> None:
        self.objects = dict(zip(names_of(function, len(objects)), objects, strict=True))
        self.also = dict(also)
        self.epoch = 0
        self.step = 0
        self.samples = 0  # used by this call
        self.epochs: int | None = None
        self.steps: int | None = None
        self.history = History()
        self.stopped: str | None = None
        self.say: Callable[[str], None] = lambda text: None
        self.callbacks: list[Any] = []
        self.meter = Meter(None)
        self.feed: Feed | None = None
        self.position: dict[str, Any] | None = None  # in an epoch that is to be continued
        self.interrupts = Interrupts()
        self.saved_at = ""  # what an interrupted run can go on from
        self._source = source
        twice = self.objects.keys() & self.also.keys() | ({"fit"} & {*self.objects, *self.also})
        if twice:
            raise ValueError(f"the names {', '.join(sorted(twice))} are taken: give other ones in `also`")

    @property
    def interrupted(self) -> bool:
        """Whether the run has been asked to end."""
        return self.interrupts.number is not None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last step; reading them waits for the device."""
        self.meter.flush()
        return self.meter.latest

    def check_interrupt(self) -> None:
        """Leave a long callback if the run has been asked to end.

        Raises:
            KeyboardInterrupt: which the run takes for its end.
        """
        if self.interrupted:
            raise Asked

    def stop(self, reason: str) -> None:
        """End the run after this step, or if an epoch has just ended, now."""
        self.stopped = reason

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Hand metrics of the present step to the callbacks that write them down."""
        self.meter.flush()
        values = to_floats(dict(metrics), "log")
        for callback in self.callbacks:
            callback.on_metrics(self, self.step, values)

    def stateful(self) -> dict[str, Any]:
        """Return what a checkpoint holds: the objects that have a state, by name, and under ``"fit"`` the rest."""
        named = {name: value for name, value in {**self.objects, **self.also}.items() if has_state(value)}
        return {**named, "fit": _Own(self)}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the run needs to go on from here, by the names of the objects and ``"fit"``."""
        self.meter.flush()
        return {name: get_state(value) for name, value in self.stateful().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: if it is not of a run, or not of one with these objects.
        """
        if "fit" not in state_dict:
            raise ValueError(f"expected what jm.fit saved, got a file with {', '.join(map(str, state_dict))}")
        stateful = self.stateful()
        missing = [name for name in stateful if name not in state_dict]
        if missing:
            raise ValueError(f"nothing was saved under the names {', '.join(missing)}, only {', '.join(state_dict)}")
        for name, value in stateful.items():
            set_state(value, state_dict[name])

    def _own_state(self) -> dict[str, Any]:
        """Return where the run is and what it has measured."""
        self.meter.flush()
        here = self._source.position() if self.feed is None else self.feed.position()
        return {
            "epoch": self.epoch,
            "step": self.step,
            "rng": get_rng_state(),
            "data": here,
            "sums": dict(self.meter.sums),
            "history": [dict(row) for row in self.history.rows],
            "stopped": self.stopped,
            "callbacks": {name: get_state(c) for name, c in self._with_state().items()},
        }

    def _load_own_state(self, own: Mapping[str, Any]) -> None:
        """Go back to what :meth:`_own_state` returned."""
        for name, callback in self._with_state().items():
            if name in own["callbacks"]:
                set_state(callback, own["callbacks"][name])
        self.epoch, self.step, self.stopped = own["epoch"], own["step"], own["stopped"]
        self.history.rows[:] = own["history"]
        self.meter.sums = dict(own["sums"])
        self.position = own["data"] if "anchor" in own["data"] else None
        if self.position is None:
            self._source.restore(own["data"])
        set_rng_state(own["rng"])

    def _with_state(self) -> dict[str, Any]:
        """Return the callbacks that have a state, by class and number."""
        named: dict[str, Any] = {}
        for callback in self.callbacks:
            if has_state(callback):
                kind = type(callback).__name__
                named[f"{kind}.{sum(name.startswith(f'{kind}.') for name in named)}"] = callback
        return named


class _Own:
    """A run without its objects, as a thing to save."""

    def __init__(self, run: Run) -> None:
        self.state_dict = run._own_state
        self.load_state_dict = run._load_own_state


class Asked(KeyboardInterrupt):
    """A callback has left its work, for which the run has been asked to end; nothing is half done."""


def names_of(function: Callable[..., Any], count: int) -> list[str]:
    """Return the names of the first ``count`` parameters of a step."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        named = [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]
    except (TypeError, ValueError):
        named = []
    return named[:count] + [f"object{i}" for i in range(len(named), count)]
