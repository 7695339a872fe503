"""Write the metrics of a run to files."""

import csv
import importlib
import os
from pathlib import Path
from typing import Any

from jaxmodules.training.callbacks import Callback
from jaxmodules.training.run import Run


class CSVLogger(Callback):
    """Write metrics to a CSV file, a row for each epoch or every few steps.

    A run that continues from a checkpoint continues the file: rows that it had written after the checkpoint are
    removed first.

    Args:
        path: the file.
        every_steps: how many steps from one row to the next, with the metrics of that step alone and what
            :class:`Evaluate` measures within epochs; ``None`` for rows of epochs, as the history has them.

    Examples:
        >>> import jaxmodules as jm, numpy as np, tempfile
        >>> path = tempfile.mkdtemp() + "/log.csv"
        >>> _ = jm.fit(lambda x: x.sum(), [np.ones(3)], epochs=2, callbacks=[CSVLogger(path)], progress=False)
        >>> print(Path(path).read_text())
        epoch,step,loss
        1,1,3.0
        2,2,3.0
    """

    stage = 2

    def __init__(self, path: str | os.PathLike[str], *, every_steps: int | None = None) -> None:
        self.path = Path(path)
        self.every_steps = every_steps
        self._names: list[str] = []
        self._file: Any = None

    def on_start(self, run: Run) -> None:
        rows = []
        if run.step and self.path.exists():
            with open(self.path, newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= run.step]
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self.on_close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._names = list(dict.fromkeys(name for row in rows for name in row))
        self._file = open(self.path, "w", newline="", buffering=1)
        if rows:
            writer = csv.DictWriter(self._file, self._names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def _write(self, row: dict[str, Any]) -> None:
        if set(row) <= set(self._names):
            csv.DictWriter(self._file, self._names, lineterminator="\n").writerow(row)
            return
        with open(self.path, newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        self._rewrite([*rows, row])

    def on_metrics(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        if self.every_steps and step % self.every_steps == 0:
            self._write({"epoch": run.epoch + 1, "step": step, **metrics})

    def on_epoch(self, run: Run, metrics: dict[str, float]) -> None:
        if not self.every_steps:
            self._write({"epoch": run.epoch + 1, "step": run.step, **metrics})

    def on_close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class TensorBoardLogger(Callback):
    """Write metrics for TensorBoard: those of steps as ``step/<name>``, those of epochs as ``epoch/<name>``.

    A run that continues from a checkpoint tells TensorBoard to forget what was written after it. Needs tensorboardX:
    ``pip install 'jaxmodules[tensorboard]'``.

    Args:
        folder: where to put the files of events.
        every_steps: how many steps from one point to the next; ``None`` for epochs only.

    Raises:
        ImportError: if tensorboardX is missing.
    """

    stage = 2

    def __init__(self, folder: str | os.PathLike[str], *, every_steps: int | None = 10) -> None:
        try:
            self._open = importlib.import_module("tensorboardX").SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoardLogger needs tensorboardX: pip install 'jaxmodules[tensorboard]'") from error
        self.folder = os.fspath(folder)
        self.every_steps = every_steps
        self._writer: Any = None

    def on_start(self, run: Run) -> None:
        purge = run.step + 1 if run.step else None
        self._writer = self._open(self.folder, purge_step=purge, filename_suffix=f".{run.step}")

    def on_metrics(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        if self.every_steps and step % self.every_steps == 0:
            self._write("step", metrics, step)

    def on_epoch(self, run: Run, metrics: dict[str, float]) -> None:
        self._write("epoch", metrics, run.step)
        self._writer.flush()

    def _write(self, kind: str, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def on_close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
