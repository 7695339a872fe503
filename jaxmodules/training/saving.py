"""Checkpoints of a run."""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from jaxmodules.checkpoint.files import load, save
from jaxmodules.checkpoint.manager import CheckpointManager
from jaxmodules.training.callbacks import Best, Callback
from jaxmodules.training.run import Run

_NAME = re.compile(r"step-(\d+)\.safetensors")


class Checkpoint(Callback):
    """Save the run as it goes, and continue it from there when it is started again.

    A file holds the state of every object under its name (what :func:`jaxmodules.load` gives back) and that of the run
    under ``"fit"``. Files appear whole or not at all. Besides the times asked for, one is written when the run ends or
    is interrupted.

    Args:
        path: a folder for files ``step-<number>.safetensors``, made if need be; or one ``.safetensors`` file, which is
            written again and again.
        every_epochs: how often to save after an epoch; ``None`` for not.
        every_steps: how often to save within epochs.
        keep: how many files a folder keeps, the newest ones; ``None`` for all. Not for a manager, nor are these two:
        best: a metric; the state after the epoch where it was best is kept in ``best.safetensors`` in the folder, or
            beside the file.
        mode: whether ``"min"`` or ``"max"`` of it is best.
        resume: whether to continue from the newest file. If not, the first save replaces all that the path holds.
        extra: more entries for the files: a dict, or a function of the run that returns one.

    Examples:
        >>> import jaxmodules as jm, numpy as np, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> net = jm.nn.Linear(1, 1)
        >>> for epochs in (2, 3):  # the second run takes the third epoch only
        ...     saving = Checkpoint(folder, extra={"config": "small"})
        ...     _ = jm.fit(lambda net, x: 1.0, [np.ones(1)], net, epochs=epochs, callbacks=[saving], progress=False)
        ...     print(os.listdir(folder))
        ['step-00000002.safetensors']
        ['step-00000003.safetensors']
        >>> list(jm.load(f"{folder}/step-00000003.safetensors"))
        ['net', 'fit', 'config']
    """

    stage = 3

    def __init__(
        self,
        path: str | os.PathLike[str] | CheckpointManager,
        *,
        every_epochs: int | None = 1,
        every_steps: int | None = None,
        keep: int | None = 1,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        resume: bool = True,
        extra: Mapping[str, Any] | Callable[[Run], Mapping[str, Any]] | None = None,
    ) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be positive, or None for all, got {keep}")
        self.manager: CheckpointManager | None = None
        if isinstance(path, CheckpointManager):
            if keep != 1 or best is not None:
                raise ValueError("a CheckpointManager has its own max_to_keep and best_fn: give keep and best as these")
            self.manager, path = path, path.directory
        self.path = Path(path)
        self.is_file = self.path.suffix == ".safetensors"
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self.keep = keep
        self.best = None if best is None else Best(best, mode)
        self.resume = resume
        self.extra = extra
        self._saved: tuple[Any, ...] | None = None  # where the run was

    def files(self) -> list[Path]:
        """Return the files there are, the newest last."""
        if self.is_file:
            return [self.path] if self.path.exists() else []
        found = [(int(match[1]), file) for file in self.path.glob("*") if (match := _NAME.fullmatch(file.name))]
        return [file for _, file in sorted(found)]

    def save(self, run: Run) -> Path:
        """Save the run as it is now, and return the file or, of a manager, the folder."""
        if self.manager is not None:
            return self._save_with(self.manager, run, force=True)
        folder = self.path.parent if self.is_file else self.path
        folder.mkdir(parents=True, exist_ok=True)
        file = self.path if self.is_file else self.path / f"step-{run.step:08}.safetensors"
        first = self._saved is None
        self._write(run, file)
        self._saved = _place(run)
        others = [] if self.is_file else [other for other in self.files() if other != file]
        if not (first and not self.resume):
            others = [] if self.keep is None else others[: max(0, len(others) + 1 - self.keep)]
        for other in others:
            other.unlink(missing_ok=True)
        run.saved_at = f"{file} holds it, and the same call continues from there"
        return file

    def _save_with(self, manager: CheckpointManager, run: Run, force: bool) -> Path:
        run.meter.flush()
        if self._saved is None and not self.resume:
            for step in manager.all_steps():
                manager.delete(step)
        if run.step not in manager.all_steps():
            row = run.history.rows[-1] if run.feed is None and run.history.rows else {}
            metrics = {name: value for name, value in row.items() if isinstance(value, int | float)}
            is_unmeasured = not row or (isinstance(manager.best_fn, str) and manager.best_fn not in metrics)
            state = run.stateful()
            state |= self._extra(run, state)
            manager.save(run.step, metrics=None if is_unmeasured else metrics, force=force, **state)
        self._saved = _place(run)
        folder = self.path / str(run.step)
        run.saved_at = f"{folder} holds it, and the same call continues from there"
        return folder

    def _write(self, run: Run, file: Path) -> None:
        state = run.state_dict()
        save({**state, **self._extra(run, state)}, file)

    def _extra(self, run: Run, state: Mapping[str, Any]) -> Mapping[str, Any]:
        extra = self.extra(run) if callable(self.extra) else self.extra or {}
        twice = state.keys() & extra.keys()
        if twice:
            raise ValueError(f"extra must not hold {', '.join(sorted(twice))}: the run saves what has this name")
        return extra

    def on_setup(self, run: Run) -> None:
        if self.manager is not None:
            self._continue_with(self.manager, run)
            return
        if not self.is_file:  # what a killed process was writing
            for unfinished in self.path.glob(".saving-*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        files = self.files() if self.resume else []
        if not files:
            return
        saved = load(files[-1])
        try:
            if saved.get("fit", {}).get("step", 0) < run.step:
                return  # another Checkpoint had a newer one
            run.load_state_dict(saved)
        except Exception as error:
            error.add_note(f"(from {files[-1]}: to begin anew, give Checkpoint resume=False, or another path)")
            raise
        self._tell(run, files[-1])

    def _continue_with(self, manager: CheckpointManager, run: Run) -> None:
        step = manager.latest_step() if self.resume else None
        if step is None or step < run.step:
            return
        try:
            manager.restore(step, **run.stateful())
        except Exception as error:
            error.add_note("(to begin anew, give Checkpoint resume=False, or another folder)")
            raise
        self._tell(run, self.path / str(step))

    def _tell(self, run: Run, source: Path) -> None:
        self._saved = _place(run)
        place = f"epoch {run.epoch}" + ("" if run.position is None else f", step {run.step}")
        over = run.stopped is not None or (run.epochs is not None and run.epoch >= run.epochs)
        over = over or (run.steps is not None and run.step >= run.steps)
        run.say(f"{source}: {'finished' if over else 'continuing'} after {place}")

    def on_step(self, run: Run) -> None:
        if self.every_steps and run.step % self.every_steps == 0 and not self._is_left_to_epoch(run):
            self._save_due(run)

    def _is_left_to_epoch(self, run: Run) -> bool:
        """Tell whether the epoch ends here and will be saved under this step, with its metrics."""
        is_last = run.feed is not None and run.feed.taken == run.feed.length
        return bool(self.manager and is_last and self.every_epochs and (run.epoch + 1) % self.every_epochs == 0)

    def _save_due(self, run: Run) -> None:
        if self.manager is None:
            self.save(run)
        elif self.manager.should_save(run.step) or (self._saved is None and not self.resume):
            self._save_with(self.manager, run, force=False)

    def after_epoch(self, run: Run) -> None:
        improved = self.best is not None and self.best.improves(run, run.history.rows[-1])
        if self.every_epochs and run.epoch % self.every_epochs == 0:
            self._save_due(run)
        if improved:
            folder = self.path.parent if self.is_file else self.path
            folder.mkdir(parents=True, exist_ok=True)
            self._write(run, folder / (f"{self.path.stem}.best.safetensors" if self.is_file else "best.safetensors"))

    def on_end(self, run: Run) -> None:
        if self._saved != _place(run):
            self.save(run)
        if self.manager is not None:
            self.manager.wait_until_finished()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {} if self.best is None else {"best": self.best.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        if self.best is not None and "best" in state_dict:
            self.best.value = state_dict["best"]


def _place(run: Run) -> tuple[Any, ...]:
    return run.step, run.epoch, run.stopped
