"""How a run shows where it is: a bar in a terminal, a line for each epoch elsewhere."""

import time
from typing import Any

from jaxmodules.training.run import Run

_REFRESH = 0.2  # seconds; drawing a bar takes about a millisecond


class Silent:
    """Shows nothing."""

    interval = float("inf")

    def begin(self, run: Run, number: int, total: int | None) -> None:
        """Begin an epoch, counted from 1, of so many steps."""

    def show(self, run: Run, done: int) -> None:
        """Show the state after so many steps of the epoch."""

    def end(self, run: Run, done: int, metrics: dict[str, float]) -> None:
        """Show the results of an epoch, or of the part of it that was run."""

    def close(self) -> None:
        """Leave the terminal as it was."""

    def say(self, text: str) -> None:
        """Show a line."""


class Lines(Silent):
    """Prints a line for every epoch, and keeps the time."""

    def __init__(self) -> None:
        self.title = ""
        self.total: int | None = None
        self.speed = ""
        self._began = 0.0  # the epoch
        self._run_mark: tuple[float, int] | None = None  # time and steps after the first step, which compiles
        self._epoch_mark: tuple[float, int] | None = None  # time and samples after the first step of the epoch

    def say(self, text: str) -> None:
        print(text, flush=True)

    def begin(self, run: Run, number: int, total: int | None) -> None:
        of = "" if run.epochs is None else f"/{run.epochs}"
        self.title = f"epoch {number:{max(2, len(of) - 1)}}{of}"
        self.total = total
        self._began = time.perf_counter()
        self._epoch_mark = None

    def show(self, run: Run, done: int) -> None:
        now = time.perf_counter()
        self._run_mark = self._run_mark or (now, run.step)
        self._epoch_mark = since, before = self._epoch_mark or (now, run.samples)
        rate = (run.samples - before) / max(now - since, 1e-9)
        self.speed = f"{rate:,.0f} samples/s" if rate else "- samples/s"

    def end(self, run: Run, done: int, metrics: dict[str, float]) -> None:
        of = "" if self.total is None else f"/{self.total}"
        self.say("  ".join([self.title, f"{done}{of}", spell(metrics), self.speed, spell_time(self._elapsed())]))

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    def left(self, run: Run, done: int) -> str:
        """Return how long the run will still take, as far as its length is known."""
        left = None if run.steps is None else run.steps - run.step
        if run.epochs is not None and self.total is not None:
            ending = self.total - done + (run.epochs - run.epoch - 1) * self.total
            left = ending if left is None else min(left, ending)
        since, before = self._run_mark or (0.0, run.step)
        if left is None or run.step == before:
            return "-:--:--"
        return spell_time(left * (time.perf_counter() - since) / (run.step - before))


class Bar(Lines):
    """Draws a bar for every epoch, by rich, and only now and then."""

    interval = _REFRESH

    def __init__(self, rich: Any) -> None:
        super().__init__()
        self._rich = rich
        self._bar: Any = None

    def say(self, text: str) -> None:
        (print if self._bar is None else self._bar.console.print)(text)

    def begin(self, run: Run, number: int, total: int | None) -> None:
        super().begin(run, number, total)
        columns = [
            self._rich.TextColumn("{task.description}"),
            self._rich.BarColumn(bar_width=20),
            self._rich.MofNCompleteColumn(),
            self._rich.TextColumn("{task.fields[text]}", markup=False),
        ]
        self._bar = self._rich.Progress(*columns, auto_refresh=False)
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=total, text="")

    def show(self, run: Run, done: int) -> None:
        super().show(run, done)
        run.meter.poll()
        text = "  ".join([spell(run.meter.means()), self.speed, f"{self.left(run, done)} left"])
        self._bar.update(self._task, completed=done, text=text, refresh=True)

    def end(self, run: Run, done: int, metrics: dict[str, float]) -> None:
        text = "  ".join([spell(metrics), self.speed, spell_time(self._elapsed())])
        self._bar.update(self._task, completed=done, text=text, refresh=True)
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def choose(progress: bool | None) -> Silent:
    """Return what shows a run.

    Raises:
        ImportError: if a bar is asked for and rich is missing.
    """
    if progress is False:
        return Silent()
    try:
        import rich.console
        import rich.progress
    except ImportError as error:
        if progress:
            raise ImportError("fit(progress=True) needs rich: pip install 'jaxmodules[run]'") from error
        return Lines()
    console = rich.console.Console()
    return Bar(rich.progress) if console.is_terminal or console.is_jupyter else Lines()


def spell(metrics: dict[str, float]) -> str:
    """Return metrics as text."""
    return "  ".join(f"{name} {_spell_number(value)}" for name, value in metrics.items())


def _spell_number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"


def spell_time(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    minutes, whole = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}"
