"""A folder of numbered checkpoints, each a dict of arrays and a JSON value, written and read by Orbax."""

import atexit
import functools
import importlib
import math
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmodules.checkpoint import _tree

_ARRAYS = "arrays"
_TREE = "tree"
_UNFINISHED = ".orbax-checkpoint-tmp"
_DELETED = ".deleted"
_UNKNOWN_DTYPES = frozenset({"uint4", "float8_e4m3"})  # to TensorStore
_open: set["Store"] = set()


class Store:
    """The folder, and what is being written to it in the background.

    Args:
        directory: a folder, made if need be unless it is only read, or a URL that Orbax knows.
        keep: which of the steps, that just written included, are to stay.
        save_interval_steps: how many steps from one save to the next.
        is_read_only: whether nothing here is to be changed.
        is_async: whether to write in the background.

    Raises:
        ImportError: if Orbax is missing.
        OSError: if the folder cannot be made.
    """

    def __init__(
        self,
        directory: str,
        keep: Callable[[list[int]], set[int]],
        save_interval_steps: int,
        is_read_only: bool,
        is_async: bool,
    ) -> None:
        try:
            self._ocp = importlib.import_module("orbax.checkpoint")
        except ImportError as error:
            raise ImportError("CheckpointManager needs Orbax: pip install 'jaxmodules[checkpoint]'") from error
        self.is_local = "://" not in directory
        self.directory = os.path.abspath(directory) if self.is_local else directory
        self.is_read_only = is_read_only
        self.process = os.getpid()
        options = self._ocp.CheckpointManagerOptions(
            save_interval_steps=save_interval_steps,
            preservation_policy=_Keep(keep),
            create=not is_read_only,
            # A folder that is to go is renamed first: one that loses its files one by one could be taken for whole.
            todelete_subdir=_DELETED if self.is_local else None,
            cleanup_tmp_directories=not self.is_local and not is_read_only,
            enable_async_checkpointing=is_async,
            # Where folders cannot be made, writers in the background would wait for them for minutes.
            async_options=self._ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        _finish_at_exit()
        self._manager = self._ocp.CheckpointManager(self.directory, options=options)
        self._tidy()
        self.reload()

    def path(self, step: int) -> str:
        """Return where a step is."""
        return f"{self.directory}/{step}"

    def steps(self) -> list[int]:
        """Return the steps there are, the last one being written included."""
        return sorted(self._manager.all_steps())

    def should_save(self, step: int) -> bool:
        """Tell whether a step is due."""
        return self._manager.should_save(step)

    def save(self, step: int, tree: Any, arrays: Mapping[str, Any]) -> None:
        """Begin to write a step; its arrays may change or be deleted as soon as this returns."""
        items = {_TREE: self._ocp.args.JsonSave(tree)}
        if arrays:
            items[_ARRAYS] = self._ocp.args.PyTreeSave({_quote(name): array for name, array in arrays.items()})
        _open.add(self)
        self._manager.save(step, args=self._ocp.args.Composite(**items), force=True)

    def check(self) -> None:
        """Raise the error of a write in the background that has ended with one."""
        self._manager.check_for_errors()

    def wait(self) -> None:
        """Wait for what is being written, raise its error, and remove what no longer counts."""
        try:
            self._manager.wait_until_finished()
        except BaseException:
            self.reload()
            raise
        finally:
            _open.discard(self)
            self._tidy()

    def read_tree(self, step: int) -> Any:
        """Return the JSON value of a step."""
        return self._manager.restore(step, args=self._ocp.args.Composite(**{_TREE: self._ocp.args.JsonRestore()}))[
            _TREE
        ]

    def read_arrays(self, step: int, places: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays of a step by name: as JAX arrays with these shardings, or where that is None as NumPy ones."""
        if not places:
            return {}
        ocp = self._ocp
        arguments = {
            _quote(name): ocp.RestoreArgs(restore_type=np.ndarray)
            if place is None
            else ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=place)
            for name, place in places.items()
        }
        args = ocp.args.PyTreeRestore(item=dict.fromkeys(arguments, 0), restore_args=arguments, partial_restore=True)
        read = self._manager.restore(step, args=ocp.args.Composite(**{_ARRAYS: args}))[_ARRAYS]
        return {name: read.pop(_quote(name)) for name in places}

    def delete(self, step: int) -> None:
        """Remove a step."""
        self._manager.delete(step)
        self._tidy()

    def reload(self) -> None:
        """Look again what steps there are."""
        self._manager.reload()

    def close(self) -> None:
        """Let go of the folder, when all is written."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _tidy(self) -> None:
        """Remove what saves have left that were killed or failed, and what is to be deleted."""
        is_written = any(store.directory == self.directory for store in _open)  # by another manager here
        if self.is_local and not self.is_read_only and not is_written and jax.process_index() == 0:
            for entry in os.scandir(self.directory):
                if _UNFINISHED in entry.name or entry.name == _DELETED:
                    shutil.rmtree(entry, ignore_errors=True)


class _Keep:
    """Orbax's protocol of what is to stay of the checkpoints."""

    def __init__(self, keep: Callable[[list[int]], set[int]]) -> None:
        self._keep = keep

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = self._keep([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]


def snapshot(array: Any) -> tuple[Any, dict[str, str]]:
    """Return what Orbax is given for an array, which is ours if it can be written to; see ``_tree.pack``."""
    if array.dtype.name in _UNKNOWN_DTYPES:
        return _tree.to_numpy(array)
    if isinstance(array, jax.Array):
        if array.is_deleted():
            raise RuntimeError("Array has been deleted.")
        return array, {}
    return np.array(array, array.dtype.newbyteorder("="), order="C"), {}


def describe(array: Any) -> list[Any]:
    """Return dtype and shape of an array for JSON."""
    return [array.dtype.name, list(array.shape)]


def is_empty(description: list[Any]) -> bool:
    """Tell whether there is nothing to write of an array, which Orbax refuses to do."""
    return math.prod(description[1]) == 0


def _quote(name: str) -> str:
    """Return a name for an array in Orbax's tree, where a slash would divide it."""
    return name.replace("%", "%25").replace("/", "%2F")


@functools.cache
def _finish_at_exit() -> None:
    """Have the interpreter wait for writes before it shuts down the threads that these need."""
    getattr(threading, "_register_atexit", atexit.register)(_finish)  # atexit alone would come too late


def _finish() -> None:
    for store in list(_open):
        if store.process == os.getpid():  # a fork has its parent's stores
            try:
                store.wait()
            except Exception:
                traceback.print_exc()
