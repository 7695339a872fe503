"""The metrics of all epochs."""

from collections.abc import Iterator, Mapping
from typing import Any


class History(Mapping[str, list[float]]):
    """The metrics of a run by name, a value for each epoch: what :func:`fit` returns.

    ``history["loss"]`` is a list to draw beside ``history["epoch"]``; what an epoch did not measure is NaN there.
    ``history.rows`` has the same by epoch: dicts with ``epoch`` (from 1), ``step`` (how many had been taken) and the
    metrics.

    Examples:
        >>> history = History([{"epoch": 1, "step": 9, "loss": 0.5}, {"epoch": 2, "step": 18, "loss": 0.25}])
        >>> history["loss"]
        [0.5, 0.25]
        >>> list(history)
        ['epoch', 'step', 'loss']
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None) -> None:
        self.rows: list[dict[str, Any]] = [] if rows is None else rows

    def __getitem__(self, name: str) -> list[float]:
        if not any(name in row for row in self.rows):
            raise KeyError(f"{name!r}: the metrics are {', '.join(self) or 'none yet'}")
        return [row.get(name, float("nan")) for row in self.rows]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"History({self.rows!r})"
