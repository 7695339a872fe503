"""Walk through an object to be saved, and say by its path what cannot be."""

from collections import OrderedDict
from typing import Any

import jax
import numpy as np

from jaxmodules._tracing import Tracer

Path = tuple[Any, ...]

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = (dict, OrderedDict, list, tuple)


class Walk:
    """A walk through nested containers; a subclass says what becomes of each kind of value.

    Args:
        is_partial: whether parts of an array may be on devices of other processes.
    """

    def __init__(self, is_partial: bool = False) -> None:
        self._is_partial = is_partial
        self._open: set[int] = set()

    def start(self, obj: Any) -> Any:
        """Return what becomes of the whole object.

        Raises:
            TypeError: something in ``obj`` cannot be stored; the message gives the path to it.
            ValueError: a container holds itself, or an array's values are not available here.
        """
        try:
            return self.visit(obj, ())
        except RecursionError:
            raise ValueError("the object to save is nested too deeply: flatten it first") from None

    def visit(self, obj: Any, path: Path) -> Any:
        """Return what becomes of a value."""
        if type(obj) in _PLAIN:
            return self.plain(obj, path)
        if type(obj) in _CONTAINERS or isinstance(obj, OrderedDict):
            if id(obj) in self._open:
                raise ValueError(f"cannot save {spell(path)}: it is a {type(obj).__name__} that contains itself")
            self._open.add(id(obj))
            made = self.container(obj, path)
            self._open.remove(id(obj))
            return made
        if hasattr(type(obj), "__jax_array__") and not isinstance(obj, jax.Array):
            return self.box(obj, path)
        if isinstance(obj, jax.Array | np.ndarray | np.generic):
            check_values(obj, path, self._is_partial)
            return self.array(obj, path)
        raise TypeError(_refusal(obj, path))

    def plain(self, obj: Any, path: Path) -> Any:
        """Return what becomes of ``None``, a number, a text or bytes."""
        raise NotImplementedError

    def container(self, obj: Any, path: Path) -> Any:
        """Return what becomes of a dict, a list or a tuple."""
        raise NotImplementedError

    def array(self, obj: Any, path: Path) -> Any:
        """Return what becomes of an array of JAX or NumPy."""
        raise NotImplementedError

    def box(self, obj: Any, path: Path) -> Any:
        """Return what becomes of a Parameter, or of another object that stands for its array."""
        return self.visit(obj.__jax_array__(), path)

    def key(self, key: Any, path: Path) -> Any:
        """Return what becomes of a key of the container at ``path``."""
        _check_key(key, path)
        return self.visit(key, (*path, key))


def _check_key(key: Any, path: Path) -> None:
    if type(key) is tuple:
        for part in key:
            _check_key(part, path)
    elif type(key) not in _PLAIN:
        raise TypeError(
            f"cannot save {spell(path)}: a key of type {type(key).__name__} cannot be stored"
            " (expected str, int, float, complex, bool, bytes, None, or a tuple of these)"
        )


def check_values(array: Any, path: Path, is_partial: bool = False) -> None:
    """Raise unless the values of an array are there to be read."""
    if isinstance(array, Tracer):
        raise TypeError(
            f"cannot save {spell(path)}: it is a traced value of shape {array.shape}, which has no numbers yet"
            " (expected a concrete array): call save outside jit, grad and vmap"
        )
    if not isinstance(array, jax.Array):
        return
    if array.is_deleted():
        reason = f"Array has been deleted with shape={array.shape}: it was donated"
    elif not (is_partial or array.is_fully_addressable or array.is_fully_replicated):
        reason = "parts of it are on devices of other processes"
    else:
        return
    raise ValueError(f"cannot save {spell(path)}: its values are not available here ({reason})")


def _refusal(obj: Any, path: Path) -> str:
    """Say that ``obj`` cannot be stored, and what to store in its place."""
    if hasattr(obj, "state_dict"):
        advice = "save its state_dict() and give that to load_state_dict() after loading"
    elif isinstance(obj, tuple | list | dict):
        advice = f"convert it to a plain {next(kind.__name__ for kind in _CONTAINERS if isinstance(obj, kind))}"
    elif hasattr(obj, "__array__"):
        advice = "convert it with numpy.asarray"
    else:
        advice = "replace it by plain values, or leave it out"
    return (
        f"cannot save {spell(path)}: {type(obj).__name__} objects cannot be stored (expected arrays, Parameters,"
        f" dict, OrderedDict, list, tuple, str, bytes, numbers or None): {advice}"
    )


def spell(path: Path) -> str:
    """Return a path as the Python expression that leads there from the saved object."""
    return "obj" + "".join(f"[{key!r}]" for key in path)
