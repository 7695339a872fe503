"""Checkpoints of a training, numbered by step, in a folder that Orbax writes."""

import contextlib
import io
import math
import numbers
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from jaxmodules._device import parse_device
from jaxmodules._tracing import is_tracing
from jaxmodules.checkpoint import _restoring, _tree
from jaxmodules.checkpoint._orbax import Store, describe, is_empty, snapshot
from jaxmodules.checkpoint._stateful import get_state, has_state
from jaxmodules.checkpoint.files import CheckpointError
from jaxmodules.nn._writable import given
from jaxmodules.random import get_rng_state, set_rng_state

_VERSION = 1
_RNG = "rng_state"


class Restored(NamedTuple):
    """What a :meth:`CheckpointManager.restore` found: the step, the values that are no objects, and the stray keys."""

    step: int
    values: dict[str, Any]
    missing_keys: list[str]
    unexpected_keys: list[str]


class CheckpointManager:
    r"""Save the state of a training by step, in the background, and put it back.

    Whatever has ``state_dict`` and ``load_state_dict``, or ``get_state`` and ``set_state``, is saved by its state and
    restored in place: modules, optimizers, schedulers, loaders. Anything else is saved as it is and comes back in
    ``values``. The state of the random numbers belongs to every checkpoint.

    A checkpoint ``<directory>/<step>`` appears when it is complete. It is Orbax's: arrays are under their dotted names
    (``net.layer.weight``) in the item ``arrays``, written by every process for its own shards; all else is JSON in the
    item ``tree``. With several processes all of them make the same calls. What a killed process was writing is removed
    when the next manager of the folder is made; one that only looks on while another process writes has to be
    ``read_only``. Needs Orbax: ``pip install 'jaxmodules[checkpoint]'``.

    Args:
        directory: a folder, made if need be.
        max_to_keep: how many checkpoints to keep, the newest ones or with ``best_fn`` the best ones; ``None`` for all.
            The newest one is always kept: it is what a training goes on from.
        keep_period: a checkpoint whose step is a multiple of this is kept for good.
        save_interval_steps: how many steps from one save to the next; saves at other steps do nothing.
        best_fn: a metric's name, or a function of the metrics that returns a number.
        best_mode: whether ``"min"`` or ``"max"`` of it is best; must be given with a name, else ``"max"``.
        enable_async_checkpointing: whether to write in the background.
        read_only: whether nothing in the folder is to be changed.

    Raises:
        ImportError: if Orbax is missing.
        OSError: if the folder cannot be made.
        ValueError: if an argument is out of its range.

    Examples:
        >>> import tempfile, jaxmodules as jm
        >>> net = jm.nn.Linear(2, 1)
        >>> optimizer = jm.optim.SGD(net.parameters(), lr=0.1)
        >>> with CheckpointManager(tempfile.mkdtemp(), max_to_keep=2) as manager:
        ...     for step in range(1, 4):
        ...         _ = manager.save(step, net=net, optimizer=optimizer, epoch=7, metrics={"loss": 1 / step})
        ...     restored = manager.restore(net=net, optimizer=optimizer)
        ...     restored.step, restored.values, manager.all_steps(), manager.metrics(2)
        (3, {'epoch': 7}, [2, 3], {'loss': 0.5})
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_to_keep: int | None = None,
        keep_period: int | None = None,
        save_interval_steps: int = 1,
        best_fn: str | Callable[[dict[str, float]], float] | None = None,
        best_mode: Literal["min", "max"] | None = None,
        enable_async_checkpointing: bool = True,
        read_only: bool = False,
    ) -> None:
        counts = {"max_to_keep": max_to_keep, "keep_period": keep_period, "save_interval_steps": save_interval_steps}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name} must be positive, got {count}")
        if best_mode not in ("min", "max", None) or (best_mode is None and isinstance(best_fn, str)):
            raise ValueError(f"best_mode must be 'min' or 'max', got {best_mode!r}: which {best_fn} is best?")
        self.max_to_keep = max_to_keep
        self.keep_period = keep_period
        self.best_fn = best_fn
        self.best_mode = best_mode or "max"
        self.read_only = read_only
        self._metrics: dict[int, dict[str, float] | None] = {}
        self._writing: int | None = None
        self._is_closed = False
        try:
            self._store = Store(
                os.fspath(directory), self._kept, save_interval_steps, read_only, enable_async_checkpointing
            )
        except OSError as error:
            raise type(error)(
                f"cannot keep checkpoints in {os.fspath(directory)!r}: {error}: name a folder that can be written to"
                + (", or open it with read_only=True" if os.path.isdir(directory) else "")
            ) from error

    @property
    def directory(self) -> str:
        """The folder."""
        return self._store.directory

    def all_steps(self) -> list[int]:
        """Return the steps that there are checkpoints of, the lowest first."""
        return self._store.steps()

    def latest_step(self) -> int | None:
        """Return the newest step, or ``None`` if there is none."""
        return max(self._store.steps(), default=None)

    def best_step(self) -> int | None:
        """Return the step whose metric is best, the newest of equals, or ``None`` if none has it.

        Raises:
            ValueError: if there is no ``best_fn``.
        """
        if self.best_fn is None:
            raise ValueError("no step is best without a measure: give CheckpointManager a best_fn")
        return max(self._ranked(self._store.steps()), default=(0, None))[1]

    def metrics(self, step: int) -> dict[str, float] | None:
        """Return the metrics that a step was saved with.

        Raises:
            FileNotFoundError: if there is no such step.
            CheckpointError: if it is damaged.
        """
        step = self._find(step)
        if step not in self._metrics:
            self._metrics[step] = _restoring.unpack(self._read_tree(step)["metrics"], {})
        return self._metrics[step]

    def should_save(self, step: int) -> bool:
        """Tell whether :meth:`save` would write this step: it is new, and due."""
        return not self.read_only and self._store.should_save(_checked(step))

    def save(self, step: int, *, metrics: Mapping[str, Any] | None = None, force: bool = False, **objects: Any) -> bool:
        """Begin to save objects as they are now, and return whether the step was due.

        The arrays may be changed or donated as soon as this returns. An error of the write is raised by the next
        :meth:`save`, :meth:`wait_until_finished`, :meth:`restore` or :meth:`close`.

        Args:
            step: the number of the checkpoint.
            metrics: numbers by name, for ``best_fn`` and :meth:`metrics`.
            force: whether to save even if the step is not due.
            **objects: what to save, by name.

        Raises:
            TypeError: something cannot be saved; the message gives the path to it.
            ValueError: the step is lower than the newest one, or is there and to be saved by force; ``best_fn`` finds
                no number in the metrics; or an array's values are gone.
            OSError: this checkpoint, or the one before, could not be written.
        """
        step = _checked(step)
        _check_not_traced("save")
        if self._is_closed:
            raise ValueError(f"cannot save to {self.directory!r}: this manager has been closed, make another one")
        if self.read_only:
            raise io.UnsupportedOperation(f"cannot save to {self.directory!r}, which was opened with read_only=True")
        if _RNG in objects:
            raise ValueError(f"the name {_RNG!r} is taken by the state of the random numbers: give another one")
        if not isinstance(metrics, Mapping | None):
            raise TypeError(f"metrics must be numbers by name, got {type(metrics).__name__}")
        numbers = None if metrics is None else {name: float(value) for name, value in metrics.items()}
        if self.best_fn is not None and numbers is not None:
            self._score(numbers)
        try:
            self._store.check()
        except Exception:
            self.wait_until_finished()
        steps = self._store.steps()
        if step in steps and force:
            raise ValueError(f"there is a checkpoint of step {step} in {self.directory!r}: delete({step}) first")
        if steps and step < steps[-1] and not force:
            raise ValueError(
                f"step {step} is lower than {steps[-1]}, the newest in {self.directory!r}: delete the steps above it,"
                " save with force=True, or use another folder"
            )
        if not force and not self._store.should_save(step):
            return False
        self.wait_until_finished()
        self._write(step, {**objects, _RNG: get_rng_state()}, numbers)
        return True

    def _write(self, step: int, objects: dict[str, Any], metrics: dict[str, float] | None) -> None:
        skeleton, arrays = _tree.pack(
            {name: get_state(value) for name, value in objects.items()}, snapshot, is_partial=True
        )
        described = {name: describe(array) for name, array in arrays.items()}
        tree = {
            "jaxmodules": _VERSION,
            "metrics": _tree.pack(metrics)[0],
            "values": [name for name, value in objects.items() if not has_state(value) and name != _RNG],
            "arrays": described,
            "tree": skeleton,
        }
        self._writing = step
        self._metrics[step] = metrics
        try:
            self._store.save(step, tree, {n: array for n, array in arrays.items() if not is_empty(described[n])})
        except Exception as error:
            raise self._failure(error) from error

    def wait_until_finished(self) -> None:
        """Wait until what is being saved is on disk.

        Raises:
            OSError: it could not be written; the earlier checkpoints are as they were.
        """
        try:
            self._store.wait()
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> OSError:
        """Return what to raise if a step could not be written, all traces of which are removed."""
        step, self._writing = self._writing, None
        self._metrics.pop(step or 0, None)
        if step is None:
            return OSError(f"cannot save to {self.directory!r}: {_first_line(error)}")
        try:
            self._store.wait()
        except Exception:  # the same again
            self._store.reload()
        others = ", ".join(map(str, self._store.steps())) or "none"
        return OSError(
            f"cannot save step {step} to {self._store.path(step)!r}: {_first_line(error)}: make room or give access,"
            f" and save again (the earlier checkpoints are as they were: {others})"
        )

    def restore(self, step: int | None = None, *, strict: bool = True, device: Any = None, **objects: Any) -> Restored:
        """Put objects, and the random numbers, into the state of a checkpoint.

        Every array is read to where the one is that it replaces, however that is sharded; in a module on the meta
        device, to ``device``. If anything fails, all objects stay as they were.

        Args:
            step: the step; ``None`` for the newest.
            strict: whether every object must have been saved, and the keys of every module must match.
            device: a device or Sharding for what is on the meta device, or a function that returns one from its dotted
                name and :class:`jax.ShapeDtypeStruct`.
            **objects: what to restore, by the names that it was saved under; the rest is not read. Under a name with
                something that has no state, such as ``None``, the saved state is returned.

        Returns:
            The step; the ``values`` that were saved and hold no arrays, or were asked for; and what with
            ``strict=False`` did not match.

        Raises:
            FileNotFoundError: there is no such step, or none at all.
            CheckpointError: the checkpoint is damaged; the message names one that is not.
            RuntimeError: what was saved does not fit the objects.
        """
        _check_not_traced("restore")
        if not callable(device):
            parse_device(device)
        self.wait_until_finished()
        step = self._find(step)
        tree = self._read_tree(step)
        nodes = {name: node for name, node in tree["tree"]["dict"]}
        missing = [name for name in objects if name not in nodes]
        if missing and strict:
            raise RuntimeError(
                f"Missing object(s) in {self._store.path(step)!r}: {', '.join(missing)}; it holds"
                f" {', '.join(name for name in nodes if name != _RNG)}: restore with strict=False to leave them alone"
            )
        read = {name: nodes[name] for name in objects if name in nodes}
        finder = _restoring.Places(tree["arrays"], device)
        places = finder.of(nodes[_RNG], None)
        for name in _restoring.in_order(read, objects):
            for array, place in finder.of(read[name], objects[name]).items():
                places[array] = places.get(array) or place
        arrays = self._read_arrays(step, places, tree["arrays"])
        states = {name: _restoring.unpack(node, arrays) for name, node in read.items()}
        values = {name: states.pop(name) for name in read if not has_state(objects[name])}
        for name in tree["values"]:
            if name not in objects and not _restoring.names(nodes[name]):
                values[name] = _restoring.unpack(nodes[name], {})
        rng = _restoring.unpack(nodes[_RNG], arrays)
        handed_out = {array for name in values.keys() & read.keys() for array in _restoring.names(read[name])}
        targets = {name: objects[name] for name in states}
        own = [array for name, array in arrays.items() if name not in handed_out]
        with _restoring.all_or_nothing(targets), given(own):
            try:
                more, unexpected = _restoring.put(targets, states, strict)
            except RuntimeError as error:
                raise RuntimeError(f"Error(s) in restoring {self._store.path(step)!r}:\n\t{error}") from error
            set_rng_state(rng)
        return Restored(step, values, missing + more, unexpected)

    def delete(self, step: int) -> None:
        """Remove a checkpoint.

        Raises:
            FileNotFoundError: if there is no such step.
        """
        if self.read_only:
            raise io.UnsupportedOperation(f"cannot delete in {self.directory!r}, which was opened with read_only=True")
        self.wait_until_finished()
        self._store.delete(self._find(step))
        self._metrics.pop(step, None)

    def reload(self) -> None:
        """Look again what checkpoints there are, after another process has changed the folder."""
        self.wait_until_finished()
        self._store.reload()
        self._metrics.clear()

    def close(self) -> None:
        """Wait until all is on disk, and let go of the folder.

        Raises:
            OSError: the last checkpoint could not be written.
        """
        self._is_closed = True
        try:
            self._store.close()
        except Exception as error:
            raise self._failure(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close()
        except OSError as other:
            if error is None:
                raise
            error.add_note(str(other))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.directory!r}, steps={self.all_steps()})"

    def _find(self, step: int | None) -> int:
        """Return a step that there is."""
        steps = self._store.steps()
        if step is None and steps:
            return steps[-1]
        if step is not None and _checked(step) in steps:
            return int(step)
        what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        there = f", only of {', '.join(map(str, steps))}" if steps else ""
        raise FileNotFoundError(f"there is {what} in {self.directory!r}{there}")

    def _read_tree(self, step: int) -> dict[str, Any]:
        try:
            tree = self._store.read_tree(step)
            if tree["jaxmodules"] == _VERSION:
                return tree
        except Exception as error:
            raise self._damage(step, error) from error
        raise CheckpointError(
            f"cannot restore {self._store.path(step)!r}: it has format version {tree['jaxmodules']!r}, expected"
            f" {_VERSION}: update jaxmodules"
        )

    def _read_arrays(self, step: int, places: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
        wanted = {name: place for name, place in places.items() if not is_empty(described[name])}
        try:
            read = self._store.read_arrays(step, wanted)
        except Exception as error:
            if self._is_intact(step):
                raise
            raise self._damage(step, error) from error
        return _restoring.Arrays(read, {name: described[name] for name in places})

    def _is_intact(self, step: int) -> bool:
        """Tell whether all of a checkpoint can be read, one array at a time."""
        try:
            for name, description in self._store.read_tree(step)["arrays"].items():
                if not is_empty(description):
                    self._store.read_arrays(step, {name: None})
        except Exception:
            return False
        return True

    def _damage(self, step: int, error: Exception) -> CheckpointError:
        """Return what to raise if a step cannot be read."""
        others = [other for other in reversed(self._store.steps()) if other != step]
        intact = next((other for other in others if self._is_intact(other)), None)
        advice = "no other one is intact" if intact is None else f"step {intact} is intact: restore({intact}, ...)"
        return CheckpointError(
            f"cannot restore step {step}: {self._store.path(step)!r} is damaged: it has lost files, or something else"
            f" wrote it ({type(error).__name__}: {_first_line(error)}); {advice}, and delete({step})"
        )

    def _score(self, metrics: dict[str, float]) -> float:
        """Return how good metrics are: more is better, and nothing is worse than NaN."""
        if isinstance(self.best_fn, str):
            if self.best_fn not in metrics:
                raise ValueError(f"the metrics lack {self.best_fn!r}, by which the best is found: got {metrics}")
            value = metrics[self.best_fn]
        else:
            assert self.best_fn is not None
            value = float(self.best_fn(metrics))
        return -math.inf if math.isnan(value) else value if self.best_mode == "max" else -value

    def _ranked(self, steps: list[int]) -> list[tuple[float, int]]:
        """Return the score of each step that has one."""
        found = []
        for step in steps:
            metrics = self._peek(step)
            with contextlib.suppress(Exception):  # a measure of the user's, of metrics that lack what it looks at
                found += [] if metrics is None else [(self._score(metrics), step)]
        return found

    def _peek(self, step: int) -> dict[str, float] | None:
        """Return the metrics of a step, or ``None`` if it has none or is damaged."""
        if step not in self._metrics:
            try:
                node = self._store.read_tree(step)["metrics"]
            except Exception:
                return None
            self._metrics[step] = _restoring.unpack(node, {})
        return self._metrics[step]

    def _kept(self, steps: list[int]) -> set[int]:
        if self.max_to_keep is None:
            return set(steps)
        newest = sorted(steps)[-self.max_to_keep :]
        if self.best_fn is not None:
            newest = [step for _, step in sorted(self._ranked(steps))[-self.max_to_keep :]] + newest[-1:]
        return set(newest) | {step for step in steps if self.keep_period and step % self.keep_period == 0}


def _checked(step: Any) -> int:
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise TypeError(f"step must be an int, got {type(step).__name__}: objects are given by name, as in net=net")
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    return int(step)


def _check_not_traced(method: str) -> None:
    if is_tracing():
        raise RuntimeError(f"{method} was called while a function is traced: call it outside jit, grad and vmap")


def _first_line(error: BaseException) -> str:
    """Return the gist of an error, of which TensorStore's fill a screen."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(" [tensorstore_spec=")[0][:400] if lines else type(error).__name__
