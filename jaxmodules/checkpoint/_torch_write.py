"""Write the zip format of ``torch.save``, which ``torch.load(weights_only=True)`` reads, without torch."""

import os
import struct
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules.checkpoint._torch_dtypes import DTYPES, STORAGES
from jaxmodules.checkpoint._torch_zip import ALIGNMENT, ZipWriter
from jaxmodules.checkpoint._walk import Path, Walk, spell
from jaxmodules.nn.parameter import Parameter

_TYPED = {DTYPES[name]: storage for storage, name in STORAGES.items()}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_INT = 255  # bytes: the longest that torch.load(weights_only=True) reads


def pack(obj: Any) -> tuple[bytes, list[Any]]:
    """Return the pickle of ``obj`` and its arrays in the order of their storages, each array object once.

    Raises:
        TypeError: something in ``obj`` cannot be stored; the message gives the path to it.
        ValueError: a container holds itself, or an array's values are not available here.
    """
    pickler = _Pickler()
    pickler.start(obj)
    return b"\x80\x02" + bytes(pickler.program) + b".", pickler.arrays


def write(file: Any, program: bytes, arrays: list[Any], name: str) -> None:
    """Write what :func:`pack` returned to a binary file; one array at a time is in host memory."""
    archive = ZipWriter(file)
    archive.add(f"{name}/data.pkl", program)
    archive.add(f"{name}/.format_version", b"1")
    archive.add(f"{name}/.storage_alignment", str(ALIGNMENT).encode())
    archive.add(f"{name}/byteorder", b"little")
    for index, array in enumerate(arrays):
        archive.add(f"{name}/data/{index}", _bytes_of(array))
    archive.add(f"{name}/version", b"3\n")
    identity = f"{zlib.crc32(program):020}{archive.checksum:020}"
    archive.add(f"{name}/.data/serialization_id", identity.encode())
    archive.close()


def folder_of(path: str | os.PathLike[str]) -> str:
    """Return the name that everything in the archive at ``path`` goes under."""
    stem = os.path.splitext(os.path.basename(os.fsdecode(path)))[0]
    return stem.encode("utf-8", "replace").decode().replace("/", "_") or "archive"


def _bytes_of(array: Any) -> memoryview:
    if isinstance(array, jax.Array) and array.is_fully_replicated:
        array = array.addressable_data(0)  # an object of its own: what it fetches is not kept with the array
    values = np.asarray(array, order="C")
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return values.reshape(-1).view(np.uint8).data


class _Pickler(Walk):
    """Writes one object as a pickle of protocol 2, with the globals of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.program = bytearray()
        self.arrays: list[Any] = []
        self._memo: dict[Any, int] = {}
        self._seen: list[Any] = []  # keeps ids unique while they are keys

    def plain(self, obj: Any, path: Path) -> None:
        match obj:
            case None | bool():
                self._emit({None: b"N", True: b"\x88", False: b"\x89"}[obj])
            case int():
                self._int(obj, path)
            case float():
                self._emit(b"G" + struct.pack(">d", obj))
            case str():
                self._text(obj)
            case complex():
                self._call("__builtin__ complex", lambda: [self.plain(part, path) for part in (obj.real, obj.imag)])
            case bytes():
                self._call("_codecs encode", lambda: [self._text(text) for text in (obj.decode("latin1"), "latin1")])

    def container(self, obj: Any, path: Path) -> None:
        if isinstance(obj, tuple):
            self._emit(b"(")
            for i, value in enumerate(obj):
                self.visit(value, (*path, i))
            self._emit(b"t")
        elif isinstance(obj, list):
            self._emit(b"](")
            for i, value in enumerate(obj):
                self.visit(value, (*path, i))
            self._emit(b"e")
        elif type(obj) is dict:
            self._emit(b"}")
            self._items(obj, path)
        else:
            self._call("collections OrderedDict", lambda: None)
            self._items(obj, path)
            if hasattr(obj, "_metadata"):  # the versions of each module, which PyTorch hangs on a state_dict
                self._emit(b"}")
                self._text("_metadata")
                self.visit(obj._metadata, (*path, "_metadata"))
                self._emit(b"sb")

    def array(self, obj: Any, path: Path) -> None:
        self._check_dtype(obj, path)
        self._once(id(obj), obj, lambda: self._tensor(obj))

    def box(self, obj: Any, path: Path) -> None:
        if not isinstance(obj, Parameter):
            return super().box(obj, path)
        array = obj.__jax_array__()

        def arguments() -> None:
            self.visit(array, path)
            self._emit(b"\x88" if obj.requires_grad else b"\x89")
            self._call("collections OrderedDict", lambda: None)

        self._once(id(obj), obj, lambda: self._call("torch._utils _rebuild_parameter", arguments))

    def _check_dtype(self, obj: Any, path: Path) -> None:
        if jnp.issubdtype(obj.dtype, jax.dtypes.prng_key):
            raise TypeError(
                f"cannot save {spell(path)}: PyTorch has no random keys: save jax.random.key_data(key), and after"
                " loading jax.random.wrap_key_data(data), or save with format='safetensors'"
            )
        if obj.dtype.newbyteorder("=") not in _NAMES:
            raise TypeError(
                f"cannot save {spell(path)}: PyTorch has no dtype {obj.dtype}"
                f" (expected one of {', '.join(sorted(DTYPES))}): convert it, or save with format='safetensors'"
            )

    def _tensor(self, array: Any) -> None:
        dtype = array.dtype.newbyteorder("=")
        typed = _TYPED.get(dtype)
        index = len(self.arrays)
        self.arrays.append(array)

        def arguments() -> None:
            self._storage(index, array.size if typed else array.size * dtype.itemsize, typed)
            strides = [1] * array.ndim
            for axis in range(array.ndim - 1, 0, -1):
                strides[axis - 1] = strides[axis] * max(array.shape[axis], 1)
            self.plain(0, ())
            self.container(tuple(map(int, array.shape)), ())
            self.container(tuple(strides), ())
            self._emit(b"\x89")
            self._call("collections OrderedDict", lambda: None)
            if not typed:
                self._global(f"torch {_NAMES[dtype]}")

        self._call(f"torch._utils _rebuild_tensor_{'v2' if typed else 'v3'}", arguments)

    def _storage(self, index: int, count: int, typed: str | None) -> None:
        self._emit(b"(")
        self._text("storage")
        self._global(f"torch {typed}" if typed else "torch.storage UntypedStorage")
        self._text(str(index))
        self._text("cpu")
        self.plain(count, ())
        self._emit(b"tQ")

    def _items(self, obj: Any, path: Path) -> None:
        self._emit(b"(")
        for key, value in obj.items():
            self.key(key, path)
            self.visit(value, (*path, key))
        self._emit(b"u")

    def _int(self, value: int, path: Path) -> None:
        if 0 <= value < 1 << 8:
            self._emit(b"K" + bytes([value]))
        elif -(1 << 31) <= value < 1 << 31:
            self._emit(b"J" + struct.pack("<i", value))
        else:
            length = value.bit_length() // 8 + 1
            if length > _LONGEST_INT:
                raise ValueError(
                    f"cannot save {spell(path)}: an int of {value.bit_length():,} bits is too long for torch.load"
                    f" (expected at most {8 * _LONGEST_INT - 1:,}): save it as a str"
                )
            self._emit(b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True))

    def _text(self, text: str) -> None:
        encoded = text.encode("utf-8", "surrogatepass")
        self._emit(b"X" + struct.pack("<I", len(encoded)) + encoded)

    def _global(self, name: str) -> None:
        self._once(name, None, lambda: self._emit(b"c" + name.replace(" ", "\n").encode() + b"\n"))

    def _call(self, name: str, arguments: Callable[[], Any]) -> None:
        """Write the call of a global with what ``arguments`` writes."""
        self._global(name)
        self._emit(b"(")
        arguments()
        self._emit(b"tR")

    def _once(self, key: Any, obj: Any, emit: Callable[[], Any]) -> None:
        """Write an object, or a reference to where it was written before."""
        if key in self._memo:
            index = self._memo[key]
            self._emit(b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index))
            return
        emit()
        index = self._memo[key] = len(self._memo)
        self._seen.append(obj)
        self._emit(b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index))

    def _emit(self, opcodes: bytes) -> None:
        self.program += opcodes
