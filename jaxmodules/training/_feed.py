"""The data of an epoch: pulled, put on the device ahead of the step, and found again after an interrupt.

Data draws random numbers from a generator of its own, seeded from the current one at the start of every epoch. So it
gives the same whatever the steps draw and however far ahead it is read, and can be repeated alone.

A place in an epoch is an *anchor* (the start of the epoch, or a state that the data gave of itself, and all random
streams there) and the number of batches since. To find it again the anchor is restored and the batches between are
read and thrown away; those that had been read ahead are kept.

Reading ahead in a thread was measured and left out: steps are dispatched asynchronously, so the device computes while
this thread reads on.
"""

import inspect
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxmodules.checkpoint._stateful import plain, unplain
from jaxmodules.nn._writable import to_array
from jaxmodules.random import Generator, bind_generator, current_generator
from jaxmodules.training import _hosts

_EVERY = 64  # batches between two anchors, which cost a call and save reading again


class Source:
    """The data of all epochs.

    Args:
        data: an iterable for every epoch, an iterator for the only one, or a function from the epoch to an iterable.
        prefetch: how many batches are on the device at a time, the next one included.
        device: where to put them.

    Raises:
        TypeError: if ``data`` is none of these.
    """

    def __init__(self, data: Any, prefetch: int, device: Any) -> None:
        if not callable(data) and not hasattr(type(data), "__iter__") and not hasattr(type(data), "__getitem__"):
            raise TypeError(
                f"data must be an iterable of batches, or a function from the epoch to one, got {type(data).__name__}"
            )
        if prefetch < 0:
            raise ValueError(f"prefetch must not be negative, got {prefetch}")
        self.data = data
        self.is_function = callable(data) and not hasattr(type(data), "__iter__")
        self.is_one_shot = not self.is_function and hasattr(type(data), "__next__")
        self.keeps_state = not self.is_one_shot and has_state(data, "state_dict", "load_state_dict")
        self.device = device
        self.puts = prefetch > 0 and (device is not None or jax.default_backend() != "cpu")
        self.ahead = prefetch if self.puts else 1
        self.length = None if self.is_function else length_of(data)

    def position(self) -> dict[str, Any]:
        """Return the state between two epochs."""
        return {"state": plain(self.data.state_dict())} if self.keeps_state else {}

    def restore(self, position: dict[str, Any]) -> None:
        """Go back to a state between two epochs."""
        if self.keeps_state and "state" in position:
            self.data.load_state_dict(unplain(position["state"]))

    def epoch(self, number: int, most: int | None, position: dict[str, Any] | None = None) -> "Feed":
        """Begin an epoch, counted from 0, of which ``most`` batches at most will be used; or continue at a position."""
        feed = Feed(self, number, most)
        if position is None:
            seed = int(current_generator().host.randint(0, 1 << 62, (1,))[0])
            feed.begin({"batch": 0, "generator": Generator().manual_seed(seed).get_state()})
        else:
            feed.find(position)
        return feed


class Feed:
    """One pass over the data."""

    def __init__(self, source: Source, number: int, most: int | None) -> None:
        self.taken = 0  # batches that steps have used
        self.broken = False  # whether reading a batch was interrupted
        self._source = source
        self._number = number
        self._most = most
        self._generator = Generator()
        self._iterator: Iterator[Any]
        self._drawn = 0
        self._anchors: deque[dict[str, Any]] = deque()
        self._ready: deque[Any] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._get_state: Callable[[], Any] | None = None
        self.length = source.length

    def begin(self, anchor: dict[str, Any]) -> None:
        """Start at an anchor."""
        source = self._source
        self._generator.set_state(anchor["generator"])
        if "hosts" in anchor:
            _hosts.restore(anchor["hosts"])
            if inspect.isgenerator(source.data) and inspect.getgeneratorstate(source.data) != inspect.GEN_CREATED:
                raise ValueError("data is a generator that has been started: give a new one to continue with")
        self._anchors.append({**anchor, "hosts": anchor.get("hosts") or _hosts.capture()})
        with bind_generator(self._generator):
            data: Any = source.data
            if source.is_function:
                data = data(self._number)
                self.length = length_of(data)
            state = unplain(anchor["state"]) if "state" in anchor else None
            if source.keeps_state:
                self._keep_state(data, "state_dict", "load_state_dict", state)
            self._iterator = iterator = iter(data)
            for methods in (("get_state", "set_state"), ("state_dict", "load_state_dict")):
                if self._get_state is None and has_state(iterator, *methods):
                    self._keep_state(iterator, *methods, state)
        self._drawn = anchor["batch"]

    def _keep_state(self, owner: Any, get: str, put: str, state: Any) -> None:
        """Ask ``owner`` for its state from now on; set it, or note the one it is in."""
        self._get_state = read = getattr(owner, get)
        if state is not None:
            getattr(owner, put)(state)
        else:
            self._anchors[-1]["state"] = plain(read())

    def find(self, position: dict[str, Any]) -> None:
        """Start where :meth:`position` was taken."""
        self.begin(position["anchor"])
        self._skip(position["taken"])
        self.taken = position["taken"]
        while self._drawn < position["drawn"] and self._read():
            pass
        if "hosts" in position:
            _hosts.restore(position["hosts"])

    def _skip(self, count: int) -> None:
        with bind_generator(self._generator):
            while self._drawn < count:
                if next(self._iterator, self) is self:
                    raise ValueError(
                        f"data ended after {self._drawn} batches, but {count} of this epoch had been used: to continue"
                        " a run, give it the data it had (a one-shot iterator: from its start)"
                    )
                self._drawn += 1

    def position(self) -> dict[str, Any]:
        """Return where the epoch is."""
        usable = [anchor for anchor in self._anchors if anchor["batch"] <= self.taken]
        place = {"anchor": usable[-1], "taken": self.taken, "drawn": self._drawn}
        return place if self.broken else {**place, "hosts": _hosts.capture()}

    def take(self) -> tuple[tuple[Any, ...], int] | None:
        """Return the arguments that the next batch is, and its size; ``None`` at the end."""
        ready = self._ready
        while len(ready) < self._source.ahead and self._read():
            pass
        if ready:
            return ready.popleft()
        if self._error is not None:
            raise self._error
        return None

    def is_over(self) -> bool:
        """Tell whether all batches were used; a one-shot iterator is not asked for one more."""
        if self.length is not None or self._source.is_one_shot:
            return self._ended and not self._ready or self.taken == self.length
        self._most = None
        return not self._ready and not self._read() and self._error is None

    def _read(self) -> bool:
        """Read a batch; an error waits for its turn, after the batches before it."""
        if self._ended or self._drawn == self._most:
            return False
        try:
            with bind_generator(self._generator):
                batch = next(self._iterator)
            self._drawn += 1
            self._ready.append(self._prepared(batch))
        except StopIteration:
            self._ended = True
        except Exception as error:
            self._ended, self._error = True, error
        if self._get_state is not None and self._drawn % _EVERY == 0 and not self._ended:
            self._anchor(self._get_state())
        return not self._ended

    def _anchor(self, state: Any) -> None:
        while len(self._anchors) > 1 and self._anchors[1]["batch"] <= self.taken:
            self._anchors.popleft()
        generator, hosts = self._generator.get_state(), _hosts.capture()
        self._anchors.append({"batch": self._drawn, "generator": generator, "hosts": hosts, "state": plain(state)})

    def _prepared(self, batch: Any) -> tuple[tuple[Any, ...], int]:
        args = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        if self._source.puts or not all(type(arg) is np.ndarray or isinstance(arg, jax.Array) for arg in args):
            args = self._put(args)
        shape = getattr(args[0] if args else None, "shape", None)
        if shape is None:
            shape = next((leaf.shape for leaf in jax.tree.leaves(args) if hasattr(leaf, "shape")), ())
        return args, shape[0] if shape else 1

    def _put(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        leaves, structure = jax.tree.flatten(args)
        leaves = [to_array(leaf) if hasattr(leaf, "detach") else leaf for leaf in leaves]
        if self._source.puts:
            where = [i for i, leaf in enumerate(leaves) if is_numeric(leaf)]
            own = [np.array(leaves[i]) if isinstance(leaves[i], np.ndarray) else leaves[i] for i in where]
            for i, leaf in zip(where, jax.device_put(own, self._source.device), strict=True):
                leaves[i] = leaf  # a copy was put: the data may refill its memory
        return jax.tree.unflatten(structure, leaves)

    def close(self) -> None:
        """Let go of the data."""
        iterator = getattr(self, "_iterator", None)
        if isinstance(iterator, types.GeneratorType) and iterator is not self._source.data:
            iterator.close()


def has_state(value: Any, *methods: str) -> bool:
    """Tell whether a loader or an iterator can say where it is."""
    return all(callable(getattr(value, method, None)) for method in methods)


def is_numeric(leaf: Any) -> bool:
    """Tell whether a leaf of a batch goes to the device."""
    return isinstance(leaf, jax.Array) or (isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind not in "OUSMm")


def length_of(data: Any) -> int | None:
    """Return how many batches there are, if the data knows."""
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None
