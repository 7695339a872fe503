"""What a device argument means, and where new arrays are put.

A place is a JAX device, a Sharding, or ``META``: nowhere. What is on the meta device is a ``jax.ShapeDtypeStruct``
where an array would be, which is also what ``jax.eval_shape`` puts in the leaves of a module.
"""

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import jax

from jaxmodules._tracing import Tracer

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "rocm": "gpu", "tpu": "tpu"}
META = "meta"
NO_DATA = "Cannot copy out of meta tensor; no data!"
NO_USE = (
    "is on the meta device: compute shapes with jm.eval_shape(net, input), or first give the module data:"
    " net.to_empty(device='cpu') and then its initialisation or load_state_dict(state_dict), or"
    " load_state_dict(state_dict, assign=True)"
)


class _Local(threading.local):
    def __init__(self) -> None:
        self.places: list[Any] = []


_local = _Local()


class device(contextlib.ContextDecorator):
    """Name a place for arrays, and put new ones there: in a ``with`` block, or in a function it decorates.

    Parameters and buffers registered in the block, and what ``jm.rand`` and its kin draw, go to the innermost such
    place of the thread. On ``"meta"`` they have a shape and a dtype and no memory, and nothing is drawn: a model of
    any size is built in the time of its Python code. Give it memory with
    :meth:`~jaxmodules.nn.Module.to_empty`, or arrays with ``load_state_dict(..., assign=True)``.
    The counterpart of :class:`torch.device`.

    Args:
        type: ``"meta"``; a string of PyTorch's, ``"cpu"``, ``"cuda"``, ``"cuda:0"``, ``"gpu"`` or ``"tpu"``; a JAX
            device; or a Sharding.
        index: which device of the type.

    Raises:
        RuntimeError: if a string names no type of device, or, where it is used, no device that is there.
        TypeError: if ``type`` is none of these.

    Examples:
        >>> import jaxmodules as jm
        >>> with jm.device("meta"):
        ...     net = jm.nn.Linear(100_000, 100_000)
        >>> net.bias
        Parameter containing:
        Array(..., device='meta', size=(100000,), dtype=float32)
        >>> device("cpu", 0)
        device(type='cpu', index=0)
    """

    def __init__(self, type: Any, index: int | None = None) -> None:
        named: Any = type if index is None else f"{type}:{index}"
        if isinstance(named, device):
            named = named._named
        elif hasattr(named, "type") and hasattr(named, "index"):  # torch.device
            named = str(named)
        elif isinstance(named, int) and not isinstance(named, bool):
            named = f"{'gpu' if jax.default_backend() == 'cpu' else jax.default_backend()}:{named}"
        if isinstance(named, str):
            _check(named)
        elif not isinstance(named, jax.Device | jax.sharding.Sharding):
            raise TypeError(
                f"expected a jax.Device, a Sharding or a string such as 'cpu', 'cuda:0' or 'meta', got {named!r}"
            )
        self._named = named

    @property
    def type(self) -> str:
        """The kind of device: ``"cpu"``, ``"cuda"``, ``"meta"``, ..."""
        if isinstance(self._named, str):
            return self._named.partition(":")[0]
        devices = self._named.device_set if isinstance(self._named, jax.sharding.Sharding) else {self._named}
        return next(iter(devices)).platform

    @property
    def index(self) -> int | None:
        """Which of these devices, if one was named."""
        if isinstance(self._named, str):
            number = self._named.partition(":")[2]
            return int(number) if number else None
        return getattr(self._named, "id", None)

    @property
    def target(self) -> Any:
        """The JAX device or Sharding that is meant, or ``"meta"``."""
        return META if self.type == META else _find(self._named)

    def __enter__(self) -> "device":
        _local.places.append(self.target)
        return self

    def __exit__(self, *exception: object) -> None:
        _local.places.pop()

    def _identity(self) -> Any:
        try:
            return self.target
        except RuntimeError:  # it is not there
            return self._named

    def __eq__(self, other: object) -> bool:
        if isinstance(other, jax.Device | jax.sharding.Sharding):
            return self._identity() == other
        return isinstance(other, device) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __str__(self) -> str:
        return str(self._named)

    def __repr__(self) -> str:
        if isinstance(self._named, jax.sharding.Sharding):
            return f"device({self._named!r})"
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{index})"


def _check(name: str) -> None:
    """Raise unless a string names a kind of device."""
    platform, _, index = name.partition(":")
    if platform not in (*PLATFORMS, META) or (index and not index.isdigit()):
        raise RuntimeError(
            f"Expected one of {', '.join(PLATFORMS)}, {META} device type at start of device string: {name}"
            " (an index may follow, as in 'cuda:0')"
        )


def _find(named: Any) -> Any:
    """Return the JAX device with this name."""
    if not isinstance(named, str):
        return named
    platform, _, index = named.partition(":")
    try:
        devices = jax.devices(PLATFORMS[platform])
    except RuntimeError:
        devices = []
    number = int(index or 0)
    if number >= len(devices):
        there = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise RuntimeError(f"device {named!r} is not there: this process has {there}")
    return devices[number]


def parse_device(where: Any) -> Any:
    """Return the JAX device or Sharding that ``where`` names, or ``META``.

    Args:
        where: what :class:`device` takes, one of these, an accelerator's index, or ``None``, which stays ``None``.

    Raises:
        RuntimeError: if there is no such device.
        TypeError: if ``where`` is none of these.
    """
    return None if where is None else device(where).target


def current_place() -> Any:
    """Return where this thread puts new arrays; ``None`` leaves it to JAX."""
    return _local.places[-1] if _local.places else None


def is_meta(value: Any) -> bool:
    """Tell whether ``value`` is a shape and a dtype, without data."""
    return isinstance(value, jax.ShapeDtypeStruct)


def lacks_data(value: Any) -> bool:
    """Tell whether an array, or a box of one, has no data: there is nothing to write, and nothing to copy."""
    return is_meta(value) or getattr(value, "is_meta", False)


def shape_of(array: Any) -> jax.ShapeDtypeStruct:
    """Return what is left of an array on the meta device."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def check_data(names: Sequence[str], arrays: Sequence[Any]) -> None:
    """Raise NotImplementedError if one of these arrays of a module has no data to compute with."""
    for name, array in zip(names, arrays, strict=True):
        if is_meta(array):
            raise NotImplementedError(f"{NO_DATA} '{name}' of shape {array.shape} {NO_USE}")


def move(array: Any, place: Any) -> Any:
    """Return an array on another device, a Sharding or ``META``; ``None`` leaves it where it is.

    Raises:
        NotImplementedError: if there is no data to move.
    """
    if place is None:
        return array
    if place is META:
        return shape_of(array)
    if is_meta(array):
        raise NotImplementedError(
            f"{NO_DATA} Please use nn.Module.to_empty() instead of nn.Module.to() when moving module from meta to a"
            " different device."
        )
    return jax.device_put(array, place)


def placed(array: Any) -> Any:
    """Return a new array where this thread puts them; traced ones, and those without data, stay as they are."""
    place = current_place()
    if place is None or is_meta(array) or isinstance(array, Tracer):
        return array
    return move(array, place)


def beside(array: Any, old: Any) -> Any:
    """Return an array where the one is that it takes the place of, if that was put somewhere."""
    if isinstance(array, Tracer) or isinstance(old, Tracer) or not isinstance(old, jax.Array):
        return array
    was_put = old.committed or array.sharding.device_set != old.sharding.device_set  # also of a donated one
    return jax.device_put(array, old.sharding) if was_put else array


def place_of(array: Any) -> Any:
    """Return the Sharding of an array that was put somewhere; ``None`` if it lies where JAX put it."""
    is_put = isinstance(array, jax.Array) and not isinstance(array, Tracer) and array.committed
    return array.sharding if is_put else None
