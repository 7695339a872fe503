"""What the pickles of PyTorch may ask for: its dtypes and storages, the functions that rebuild tensors, a few classes.

The list is that of ``torch.load(weights_only=True)``, and NumPy's arrays and scalars of numbers. The functions are
ours, and each checks what it is given: whatever a file says, what comes out is a :class:`CheckpointError` at worst.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodules._device import device as Device
from jaxmodules.checkpoint._errors import CheckpointError, RefusedError
from jaxmodules.checkpoint._torch_dtypes import ALIASES, DTYPES, REFUSED, STORAGES
from jaxmodules.checkpoint._torch_pickle import Function, Machine, describe
from jaxmodules.checkpoint._torch_values import FUNCTIONS, build, is_shape

Leaf = Callable[[np.ndarray, str], Any]
Box = Callable[[Any, bool], Any]

_SPARE = 1 << 26  # bytes that the tensors of any file may take
_TIMES = 8  # and how many times its size: views of one storage are arrays of their own here
_DTYPES = frozenset(DTYPES.values())


class Kind(NamedTuple):
    """A class of storages or tensors: of one dtype, or of any."""

    dtype: np.dtype | None


class Storage(NamedTuple):
    """A run of elements in the file; ``data`` is ``None`` until it is known where they are."""

    key: Any
    start: int  # where a view of another begins, in bytes
    dtype: np.dtype | None
    data: memoryview | None
    location: str = "cpu"
    is_swapped: bool = False  # the bytes of each element are in the order of big-endian machines


class World:
    """The globals of one file, and the tensors it has given so far.

    Args:
        persistent: returns what a persistent id stands for.
        leaf: returns what becomes of a tensor, given a view of its elements and where PyTorch had it.
        box: returns what becomes of a parameter, given its array and whether it requires gradients.
        size: how large the file is.
    """

    def __init__(self, persistent: Callable[[Any], Any], leaf: Leaf, box: Box, size: int) -> None:
        self.persistent = persistent
        self._leaf = leaf
        self._box = box
        self._limit = self._left = _SPARE + _TIMES * size
        self._built: dict[Any, Any] = {}
        self._arrays: dict[int, Any] = {}  # by id: all that the functions here take for a tensor

    def find(self, name: str) -> Any:
        """Return what a global stands for.

        Raises:
            RefusedError: it is not on the list.
        """
        if name not in _GLOBALS:
            raise RefusedError(_refusal(name))
        return _GLOBALS[name]

    def build(self, machine: Machine, instance: Any, state: Any) -> None:
        """Give an object the state it was saved with."""
        build(machine, instance, state)

    def settle(self, value: Any) -> Any:
        """Return what becomes of a value that is no argument: of a storage, an array."""
        if isinstance(value, Storage):
            dtype = np.dtype(np.uint8) if value.dtype is None else value.dtype
            count = 0 if value.data is None else len(value.data) // dtype.itemsize
            return self.tensor(value, 0, (count,), (1,), dtype)
        if isinstance(value, Kind | Function):
            what = describe(value) if isinstance(value, Function) else "a class of tensors or storages"
            raise CheckpointError(f"its pickle holds {what}, which has no counterpart: in torch, leave it out")
        return value

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any, metadata: Any = None) -> Any:
        """Return what becomes of the tensor at this place of a storage: for one place, one object."""
        if not isinstance(storage, Storage) or not _is_dtype(dtype):
            raise CheckpointError(f"its pickle makes a tensor of {describe(storage)} and {describe(dtype)}")
        is_place = is_shape((offset,)) and type(stride) is tuple and all(is_shape((step,)) for step in stride)
        if not is_place or not is_shape(size) or len(size) != len(stride):
            raise CheckpointError(
                f"its pickle makes a tensor of size {describe(size)}, stride {describe(stride)} and"
                f" offset {describe(offset)}, expected tuples of as many ints, none negative"
            )
        bits = _math_bits(metadata, dtype)
        key = (storage.key, storage.start + offset * dtype.itemsize, size, stride, dtype, bits)
        if key not in self._built:
            made = object() if storage.data is None else self._make(storage, offset, size, stride, dtype, bits)
            self._built[key] = self.note(made)
        return self._built[key]

    def _make(self, storage: Storage, offset: int, size: Any, stride: Any, dtype: np.dtype, bits: Any) -> Any:
        assert storage.data is not None
        span = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        start, end = offset * dtype.itemsize, (offset + span) * dtype.itemsize
        if end > len(storage.data):
            raise CheckpointError(
                f"a tensor of shape {size} and dtype {dtype} reaches to byte {end:,} of a storage of"
                f" {len(storage.data):,} bytes"
            )
        self.pay(size, dtype)
        flat = np.frombuffer(storage.data[start:end], np.uint8)
        flat = _swapped(flat, dtype) if storage.is_swapped else flat
        steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
        array = np.ndarray(size, dtype, flat, 0, steps) if span else np.zeros(size, dtype)
        if dtype == np.bool_:
            array = array.view(np.uint8) != 0  # any byte that is not zero is true
        array = array.conj() if bits[0] else array
        return self._leaf(-array if bits[1] else array, storage.location)

    def pay(self, size: tuple[int, ...], dtype: np.dtype) -> None:
        """Raise if the tensors take too much memory with one more of this size."""
        count = math.prod(size) * dtype.itemsize
        self._left -= count
        if self._left < 0:
            raise CheckpointError(
                f"with one of shape {size} and dtype {dtype}, which takes {count:,} bytes, the tensors take more than"
                f" {self._limit:,}, which is all that a file of its size may hold (PyTorch repeats elements by strides"
                " of zero and shares them between views, arrays do not): in torch, save what was expanded"
            )

    def leaf(self, array: np.ndarray, location: str) -> Any:
        """Return what becomes of an array that the pickle itself held."""
        self.pay(array.shape, array.dtype)
        return self.note(self._leaf(array, location))

    def parameter(self, data: Any, requires_grad: bool) -> Any:
        """Return what becomes of a parameter."""
        self.check(data)
        return self.note(self._box(data, requires_grad))

    def note(self, array: Any) -> Any:
        """Return a tensor, remembered as one."""
        self._arrays[id(array)] = array
        return array

    def check(self, value: Any) -> None:
        """Raise unless a value is one of the tensors."""
        if id(value) not in self._arrays:
            raise CheckpointError(f"its pickle has {describe(value)} where a tensor should be")


def _rebuild_v1(machine: Machine, storage: Any, offset: Any, size: Any, stride: Any) -> Any:
    return machine.world.tensor(storage, offset, size, stride, getattr(storage, "dtype", None))


def _rebuild_v2(
    machine: Machine, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, metadata: Any = None
) -> Any:
    return machine.world.tensor(storage, offset, size, stride, getattr(storage, "dtype", None), metadata)


def _rebuild_v3(
    machine: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Any:
    return machine.world.tensor(storage, offset, size, stride, dtype, metadata)


def _rebuild_parameter(machine: Machine, data: Any, grad: Any = True, hooks: Any = None, state: Any = None) -> Any:
    return machine.world.parameter(data, grad is True)


def _rebuild_meta(machine: Machine, dtype: Any, size: Any, stride: Any, grad: Any) -> Any:
    if not _is_dtype(dtype) or not is_shape(size):
        raise CheckpointError(f"its pickle makes a tensor without data of {describe(dtype)} and {describe(size)}")
    return machine.world.note(jax.ShapeDtypeStruct(size, dtype))


def _rebuild_from_numpy(machine: Machine, data: Any, dtype: Any, device: Any, grad: Any) -> Any:
    if type(data) is not np.ndarray or not _is_dtype(dtype) or (data.dtype.kind == "c") is not (dtype.kind == "c"):
        raise CheckpointError(f"its pickle makes a tensor of {describe(data)} and {describe(dtype)}")
    location = str(device) if isinstance(device, str | Device) else "cpu"
    with np.errstate(all="ignore"):
        return machine.world.leaf(data.astype(dtype), location)


def _rebuild_from_cpu(machine: Machine, data: Any, dtype: Any, device: Any, grad: Any) -> Any:
    machine.world.check(data)
    return data


def _rebuild_from_type(machine: Machine, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """Rebuild a tensor that had attributes, which arrays have not."""
    is_rebuilding = isinstance(function, Function) and function in _REBUILDING
    if not is_rebuilding or type(arguments) is not tuple or len(arguments) not in function.counts:
        raise CheckpointError(f"its pickle rebuilds a tensor by {describe(function)} of {describe(arguments)}")
    return function.call(machine, *arguments)


def _is_dtype(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype in _DTYPES  # and not one that a NumPy array brought along


def _math_bits(metadata: Any, dtype: np.dtype) -> tuple[bool, bool]:
    """Return whether a tensor stands for the conjugate, and for the negative, of what is stored."""
    if metadata is None:
        return False, False
    if type(metadata) is not dict or dtype.kind not in "fc":
        raise CheckpointError(f"its pickle has {describe(metadata)} for the metadata of a tensor of dtype {dtype}")
    return metadata.get("conj") is True and dtype.kind == "c", metadata.get("neg") is True


def _swapped(flat: np.ndarray, dtype: np.dtype) -> np.ndarray:
    part = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    return flat.view(f"u{part}").byteswap()


_REBUILDING = [
    Function(f"torch._utils.{name}", function)
    for name, function in {
        "_rebuild_tensor": _rebuild_v1,
        "_rebuild_tensor_v2": _rebuild_v2,
        "_rebuild_tensor_v3": _rebuild_v3,
        "_rebuild_parameter": _rebuild_parameter,
        "_rebuild_parameter_with_state": _rebuild_parameter,
        "_rebuild_meta_tensor_no_storage": _rebuild_meta,
        "_rebuild_device_tensor_from_numpy": _rebuild_from_numpy,
        "_rebuild_xla_tensor": _rebuild_from_numpy,
        "_rebuild_device_tensor_from_cpu_tensor": _rebuild_from_cpu,
    }.items()
]

_FUNCTIONS = [
    *_REBUILDING,
    Function("torch._tensor._rebuild_from_type_v2", _rebuild_from_type),
    Function("torch.tensor._rebuild_from_type_v2", _rebuild_from_type),
    Function("torch.nn.parameter.Parameter", _rebuild_parameter),
    *(Function(name, function) for name, function in FUNCTIONS.items()),
]

_GLOBALS: dict[str, Any] = {
    **{function.name: function for function in _FUNCTIONS},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    **{f"torch.{alias}": DTYPES[name] for alias, name in ALIASES.items()},
    **{
        f"torch.{place}{name.replace('Storage', what)}": Kind(DTYPES[dtype])
        for name, dtype in STORAGES.items()
        for place in ("", "cuda.")
        for what in ("Storage", "Tensor")
    },
    **{f"torch.{name}": Kind(None) for name in ("UntypedStorage", "storage.UntypedStorage", "cuda.UntypedStorage")},
    "torch.Tensor": Kind(None),
    "torch.nn.parameter.Buffer": Kind(None),
    "numpy.ndarray": Kind(None),
}


def _refusal(name: str) -> str:
    """Say why a global of a file is not read, and what to do."""
    short = name.rpartition(".")[2]
    lead = f"Unsupported global: GLOBAL {name[:200]} was not an allowed global by default: "
    if name.startswith("torch.") and short in _REASONS:
        return lead + _REASONS[short]
    if name.startswith("torch.") and short in REFUSED:
        return lead + REFUSED[short]
    if name.startswith(("torch.nn.", "torchvision.models.", "transformers.models.")):
        return (
            f"{lead}the file holds a module, which is code, not weights alone: in torch, where its class is,"
            " torch.save(module.state_dict(), path), and load that"
        )
    return (
        f"{lead}weights have no need of it, and it could run code. If you trust the file, load it in torch with"
        " torch.load(path, weights_only=False), and save the state_dicts and plain values of it"
    )


_SPARSE = "the file holds a sparse tensor, and arrays here are dense: in torch, save tensor.to_dense()"
_REASONS = {
    "_rebuild_sparse_tensor": _SPARSE,
    "_rebuild_sparse_csr_tensor": _SPARSE,
    "_rebuild_nested_tensor": "the file holds a nested tensor, and arrays here have one shape: in torch, save"
    " tensor.unbind()",
    "_rebuild_qtensor": "the file holds a quantized tensor: in torch, save tensor.dequantize()",
    "_rebuild_wrapper_subclass": "the file holds a tensor of a class of its own, which keeps its elements elsewhere:"
    " in torch, save the plain tensors it is made of",
}
