"""Take a nested container apart into named arrays and a JSON skeleton, and put it together again.

The skeleton is what is left of the container when every array is replaced by its name. What JSON has, stands for
itself: ``null``, booleans, strings, lists, finite floats, ints of up to 63 bits. Everything else is an object with
a tag for its first key:

    {"dict": [[key, value], ...]}           {"OrderedDict": [[key, value], ...], "_metadata": value}
    {"tuple": [value, ...]}                 {"array": name}, {"array": name, "dtype": "complex128"}
    {"int": "0x1f..."}                      {"key": name, "impl": "threefry2x32"}
    {"float": "nan"}                        {"complex": [real, imaginary]}, {"bytes": base64}

Reading one builds these types and no others, so a file from a stranger can be wrong but cannot run code.
"""

import base64
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._files import CARRIED
from jaxmodules.checkpoint._walk import Path, Walk, spell

RAW: dict[str, np.dtype] = {
    np.dtype(scalar).name: np.dtype(scalar)
    for scalar in (np.complex128, jnp.int4, jnp.uint4, jnp.float8_e3m4, jnp.float8_e4m3, jnp.float8_e4m3b11fnuz)
}
"""Dtypes outside the format: stored as their bytes along one more axis, named in the skeleton."""

_CARRIED_NAMES = frozenset(dtype.name for dtype in CARRIED.values())

Carrier = Callable[[Any], tuple[Any, dict[str, str]]]


def to_numpy(array: Any) -> tuple[np.ndarray, dict[str, str]]:
    """Return an array in one of the carried dtypes, and what its node says of the dtype if that is another."""
    array = np.asarray(array, order="C")
    raw = {}
    if array.dtype.name in RAW:
        raw = {"dtype": array.dtype.name}
        array = array.reshape(*array.shape, 1).view(np.uint8)
    return array.astype(array.dtype.newbyteorder("<"), copy=False), raw


def pack(obj: Any, carry: Carrier = to_numpy, is_partial: bool = False) -> tuple[Any, dict[str, Any]]:
    """Return the skeleton of ``obj`` and its arrays by name, each array object once.

    Args:
        obj: the container.
        carry: returns what to store of a JAX or NumPy array, and more entries for its node.
        is_partial: whether parts of an array may be on devices of other processes.

    Raises:
        TypeError: something in ``obj`` cannot be stored; the message gives the path to it.
        ValueError: a container holds itself, or an array's values are not available here.
    """
    packer = _Packer(carry, is_partial)
    return packer.start(obj), packer.arrays


def unpack(skeleton: Any, tensors: Mapping[str, Any], leaf: Callable[[Any], Any]) -> Any:
    """Return the container that :func:`pack` took apart; arrays that were one object are one object again.

    What becomes of an array, ``leaf(array)`` says.
    """
    return _Unpacker(tensors, leaf).unpack(skeleton)


class _Packer(Walk):
    """Walks one object, collecting arrays under the path that leads to them."""

    def __init__(self, carry: Carrier, is_partial: bool) -> None:
        super().__init__(is_partial)
        self.arrays: dict[str, Any] = {}
        self._carry = carry
        self._nodes: dict[int, dict[str, str]] = {}
        self._seen: list[Any] = []  # keeps ids unique while they are keys

    def plain(self, obj: Any, path: Path) -> Any:
        return _pack_plain(obj)

    def container(self, obj: Any, path: Path) -> Any:
        if isinstance(obj, list | tuple):
            values = [self.visit(value, (*path, i)) for i, value in enumerate(obj)]
            return values if isinstance(obj, list) else {"tuple": values}
        items = [[self.key(key, path), self.visit(value, (*path, key))] for key, value in obj.items()]
        if type(obj) is dict:
            return {"dict": items}
        node: dict[str, Any] = {"OrderedDict": items}
        if hasattr(obj, "_metadata"):  # the versions of each module, which PyTorch hangs on a state_dict
            node["_metadata"] = self.visit(obj._metadata, (*path, "_metadata"))
        return node

    def array(self, obj: Any, path: Path) -> dict[str, str]:
        if id(obj) not in self._nodes:
            self._seen.append(obj)
            self._nodes[id(obj)] = self._store(obj, path)
        return self._nodes[id(obj)]

    def _store(self, obj: Any, path: Path) -> dict[str, str]:
        key = {}
        if jnp.issubdtype(obj.dtype, jax.dtypes.prng_key):
            key = {"impl": str(jax.random.key_impl(obj))}
            obj = jax.random.key_data(obj)
        name = self._name(path)
        if obj.dtype.name not in _CARRIED_NAMES | RAW.keys():
            raise TypeError(
                f"cannot save {spell(path)}: dtype {obj.dtype} cannot be stored"
                f" (expected one of {', '.join(sorted(_CARRIED_NAMES | RAW.keys()))})"
            )
        self.arrays[name], raw = self._carry(obj)
        return {"key": name, **key} if key else {"array": name, **raw}

    def _name(self, path: Path) -> str:
        """Return the dotted path in UTF-8, told apart from earlier ones where two paths spell the same."""
        name = base = ".".join(map(str, path)).encode("utf-8", "backslashreplace").decode()
        count = 1
        while name in self.arrays or name == "__metadata__":  # the format's own entry
            count += 1
            name = f"{base}#{count}"
        return name


class _Unpacker:
    """Builds one object from its skeleton, each array once."""

    def __init__(self, tensors: Mapping[str, Any], leaf: Callable[[Any], Any]) -> None:
        self._tensors = tensors
        self._leaf = leaf
        self._built: dict[tuple[str, ...], Any] = {}

    def unpack(self, node: Any) -> Any:
        """Return the value that a skeleton stands for."""
        match node:
            case None | bool() | int() | float() | str():
                return node
            case list():
                return [self.unpack(value) for value in node]
            case {"array": str() as name, "dtype": str() as dtype}:
                return self._build(("array", name, dtype))
            case {"array": str() as name}:
                return self._build(("array", name))
            case {"key": str() as name, "impl": str() as impl}:
                return self._build(("key", name, impl))
            case {"dict": list() as items}:
                return {self.unpack(key): self.unpack(value) for key, value in items}
            case {"OrderedDict": list() as items}:
                built = OrderedDict((self.unpack(key), self.unpack(value)) for key, value in items)
                if "_metadata" in node:
                    vars(built)["_metadata"] = self.unpack(node["_metadata"])
                return built
            case {"tuple": list() as values}:
                return tuple(self.unpack(value) for value in values)
        return _unpack_plain(node)

    def _build(self, how: tuple[str, ...]) -> Any:
        if how not in self._built:
            kind, name, *detail = how
            array = self._tensors[name]
            if kind == "key":
                self._built[how] = jax.random.wrap_key_data(jnp.array(np.asarray(array)), impl=detail[0])
            else:
                self._built[how] = self._leaf(np.asarray(array).view(RAW[detail[0]]).squeeze(-1) if detail else array)
        return self._built[how]


def _pack_plain(value: Any) -> Any:
    match value:
        case bool() | None | str():
            return value
        case int():
            return value if abs(value) < 1 << 63 else {"int": hex(value)}  # hex has no limit on digits
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case complex():
            return {"complex": [_pack_plain(value.real), _pack_plain(value.imag)]}
    return {"bytes": base64.b64encode(value).decode()}


def _unpack_plain(node: Any) -> Any:
    match node:
        case {"int": str() as digits}:
            return int(digits, 16)
        case {"float": str() as name}:
            return float(name)
        case {"complex": [real, imaginary]}:
            return complex(_unpack_plain(real), _unpack_plain(imaginary))
        case {"bytes": str() as text}:
            return base64.b64decode(text, validate=True)
        case int() | float():
            return node
    raise ValueError(f"expected an entry of a saved object, got {str(node)[:80]!r}")
