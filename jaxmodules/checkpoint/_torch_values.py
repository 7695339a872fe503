"""The plain values that a pickle of PyTorch's may be made of: what its containers, NumPy arrays and sizes stand for."""

import math
from collections import Counter, OrderedDict
from typing import Any

import numpy as np

from jaxmodules._device import device as Device
from jaxmodules.checkpoint._errors import CheckpointError
from jaxmodules.checkpoint._torch_dtypes import DTYPES
from jaxmodules.checkpoint._torch_pickle import Machine, describe

MAX_DIMS = 64


def build(machine: Machine, instance: Any, state: Any) -> None:
    """Give an object the state it was saved with."""
    if type(instance) is OrderedDict:
        _set_attributes(machine, instance, state)
    elif type(instance) is np.ndarray:
        _set_array(machine, instance, state)
    elif isinstance(instance, np.dtype):
        _set_byte_order(instance, state)
    else:
        raise CheckpointError(f"its pickle gives {describe(instance)} a state, which no saved tensors need")


def _set_attributes(machine: Machine, instance: OrderedDict[Any, Any], state: Any) -> None:
    if type(state) is not dict:
        raise CheckpointError(f"its pickle gives an OrderedDict {describe(state)} for its attributes")
    machine.spend(len(state))
    if not all(type(name) is str and not hasattr(OrderedDict, name) for name in state):
        raise CheckpointError("its pickle gives an OrderedDict attributes that it cannot have")
    vars(instance).update(state)


def _size(machine: Machine, sizes: Any = ()) -> tuple[int, ...]:
    if type(sizes) not in (tuple, list):
        raise CheckpointError(f"its pickle makes a Size of {describe(sizes)}")
    machine.spend(len(sizes))
    if not all(type(n) is int for n in sizes):
        raise CheckpointError("its pickle makes a Size of something else than ints")
    return tuple(sizes)


def _device(machine: Machine, kind: Any, index: Any = None) -> Any:
    if type(kind) is not str or not (index is None or (type(index) is int and 0 <= index < 1 << 16)):
        raise CheckpointError(f"its pickle makes a device of {describe(kind)} and {describe(index)}")
    try:
        return Device(kind, index)
    except RuntimeError:  # a kind that JAX has not
        return kind if index is None else f"{kind}:{index}"


def _ordered_dict(machine: Machine, items: Any = ()) -> OrderedDict[Any, Any]:
    built: OrderedDict[Any, Any] = OrderedDict()
    if type(items) not in (tuple, list):
        raise CheckpointError(f"its pickle makes an OrderedDict of {describe(items)}")
    machine.spend(len(items))
    for item in items:
        if type(item) not in (tuple, list) or len(item) != 2:
            raise CheckpointError(f"its pickle makes an OrderedDict of {describe(item)}, expected a key and a value")
        key, value = item
        machine.check_key(key)
        built[key] = value
    return built


def _counter(machine: Machine, items: Any = None) -> Counter[Any]:
    if items is not None and type(items) is not dict:
        raise CheckpointError(f"its pickle makes a Counter of {describe(items)}")
    machine.spend(len(items or ()))
    built: Counter[Any] = Counter()
    dict.update(built, items or {})
    return built


def _set(machine: Machine, items: Any = ()) -> set[Any]:
    if type(items) not in (tuple, list):
        raise CheckpointError(f"its pickle makes a set of {describe(items)}")
    machine.spend(len(items))
    for item in items:
        machine.check_key(item)
    return set(items)


def _bytearray(machine: Machine, content: Any = b"", encoding: Any = None) -> bytearray:
    if encoding is not None:
        content = _encode(machine, content, encoding)
    if type(content) is not bytes:
        raise CheckpointError(f"its pickle makes a bytearray of {describe(content)}")
    machine.spend(len(content))
    return bytearray(content)


def _bytes(machine: Machine) -> bytes:
    """Return what protocol 2 writes for no bytes."""
    return b""


def _complex(machine: Machine, real: Any = 0.0, imag: Any = 0.0) -> complex:
    if type(real) is not float or type(imag) is not float:
        raise CheckpointError(f"its pickle makes a complex number of {describe(real)} and {describe(imag)}")
    return complex(real, imag)


def _encode(machine: Machine, text: Any, encoding: Any = "latin1") -> bytes:
    """Return bytes that protocol 2 had to write as a text."""
    if type(text) is not str or type(encoding) is not str or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise CheckpointError(f"its pickle encodes {describe(text)} as {describe(encoding)}")
    machine.spend(len(text))
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise CheckpointError(f"its pickle encodes a text as {encoding}, which it is not") from error


def _dtype(machine: Machine, code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    if type(code) is not str or code not in _NUMPY_CODES:
        raise CheckpointError(
            f"its pickle has a NumPy array of dtype {describe(code)}, expected one of {', '.join(_NUMPY_CODES)}"
        )
    return np.dtype(code, False, True)


_NUMPY_CODES = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")


def _set_byte_order(dtype: Any, state: Any) -> None:
    order = state[1] if type(state) is tuple and len(state) > 1 else None
    if type(order) is not str or order not in "<>|=" or len(order) != 1 or any(dtype is d for d in DTYPES.values()):
        raise CheckpointError("its pickle gives a NumPy dtype a state that it cannot have")
    dtype.__setstate__((3, order, None, None, None, -1, -1, 0))


def _reconstruct(machine: Machine, kind: Any, shape: Any, code: Any) -> np.ndarray:
    """Return an array that has yet to be given its state."""
    return np.zeros(0, np.int8)


def _set_array(machine: Machine, array: Any, state: Any) -> None:
    if type(state) is not tuple or len(state) != 5:
        raise CheckpointError(f"its pickle gives a NumPy array {describe(state)} for its state")
    _, shape, dtype, is_fortran, content = state
    _check_array(machine, shape, dtype, content)
    array.__setstate__((1, shape, dtype, is_fortran is True, bytes(content)))


def _frombuffer(machine: Machine, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    _check_array(machine, shape, dtype, content)
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if describe(order) == "'F'" else "C")


def _check_array(machine: Machine, shape: Any, dtype: Any, content: Any) -> None:
    if type(content) not in (bytes, bytearray) or not isinstance(dtype, np.dtype):
        raise CheckpointError(f"its pickle has a NumPy array of {describe(dtype)} in {describe(content)}")
    if not is_shape(shape) or math.prod(shape) * dtype.itemsize != len(content):
        raise CheckpointError(f"its pickle has a NumPy array whose shape does not go with {len(content):,} bytes")
    machine.spend(len(content))


def is_shape(sizes: Any) -> bool:
    """Tell whether a value of a file is a shape that an array can have."""
    if type(sizes) is not tuple or len(sizes) > MAX_DIMS or not all(type(n) is int and n >= 0 for n in sizes):
        return False
    return math.prod(n for n in sizes if n) < 1 << 58


def _scalar(machine: Machine, dtype: Any, content: Any) -> Any:
    _check_array(machine, (), dtype, content)
    return np.frombuffer(bytes(content), dtype)[0]


def _get_layout(machine: Machine, name: Any) -> Any:
    return name


FUNCTIONS = {
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _get_layout,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "builtins.set": _set,
    "builtins.bytearray": _bytearray,
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
}
"""What may be called besides the functions that rebuild tensors, by the names of the files."""
