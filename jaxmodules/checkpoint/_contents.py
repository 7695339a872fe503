"""What a file holds, with a :class:`LazyTensor` in the place of every array."""

import json
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxmodules.checkpoint import _torch_read, _tree
from jaxmodules.checkpoint._errors import CheckpointError
from jaxmodules.checkpoint._mapped import LazyTensor, MappedFile
from jaxmodules.checkpoint.files import ENTRY, unpack


def read(file: MappedFile) -> tuple[Any, dict[str, Any]]:
    """Return the object that a file of safetensors or of PyTorch holds, and what the file says about itself.

    Raises:
        CheckpointError: the file is truncated, damaged or of another kind.
    """
    if file.map is None or not _torch_read.is_torch(memoryview(file.map)):
        return _read_safetensors(file)
    origin = _address(np.frombuffer(file.map, np.uint8))

    def leaf(array: np.ndarray, location: str) -> Any:
        offset = _address(array) - origin
        if array.size and 0 <= offset < file.size:
            return LazyTensor(file, array.dtype, array.shape, offset, array.strides)
        return np.array(array)  # it was packed, or in another byte order

    try:
        return _torch_read.read(memoryview(file.map), leaf), {}
    except CheckpointError as error:
        raise type(error)(f"cannot open {file.path!r}: {error}") from error


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _read_safetensors(file: MappedFile) -> tuple[Any, dict[str, Any]]:
    try:
        with safe_open(file.path, framework="np"):
            pass  # checks the header, and that it and the length of the file agree
    except SafetensorError as error:
        raise CheckpointError(
            f"cannot open {file.path!r} ({file.size:,} bytes): expected a file of safetensors or of PyTorch, but it is"
            f" truncated, damaged or of another kind ({error}): copy or download it again"
        ) from error
    assert file.map is not None
    start = 8 + int.from_bytes(file.map[:8], "little")
    header = json.loads(file.map[8:start])
    metadata = header.pop("__metadata__", None) or {}
    tensors: dict[str, Any] = {}
    for name, info in header.items():
        if info["dtype"] not in _tree.CARRIED:
            raise CheckpointError(
                f"cannot open {file.path!r}: {name!r} has dtype {info['dtype']}"
                f" (expected one of {', '.join(_tree.CARRIED)}): convert it first"
            )
        dtype = _tree.CARRIED[info["dtype"]].newbyteorder("<")
        tensors[name] = LazyTensor(file, dtype, tuple(info["shape"]), start + info["data_offsets"][0])
    if ENTRY not in metadata:
        return tensors, metadata
    text = metadata.pop(ENTRY)
    return unpack(text, tensors, repr(file.path), lambda tensor, location: tensor), metadata
