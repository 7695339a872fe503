"""What a file holds, with a :class:`LazyTensor` in the place of every array."""

from typing import Any

import numpy as np
from safetensors import SafetensorError

from jaxmodules.checkpoint import _safetensors, _torch_read
from jaxmodules.checkpoint._errors import CheckpointError
from jaxmodules.checkpoint._mapped import LazyTensor, MappedFile
from jaxmodules.checkpoint.files import ENTRY, diagnose, unpack


def read(file: MappedFile) -> tuple[Any, dict[str, Any]]:
    """Return the object that a file of safetensors or of PyTorch holds, and what the file says about itself.

    Raises:
        CheckpointError: the file is truncated, damaged or of another kind.
    """
    data = memoryview(b"" if file.map is None else file.map)
    origin = _address(np.frombuffer(data, np.uint8))

    def leaf(array: np.ndarray, location: str = "cpu") -> Any:
        offset = _address(array) - origin if array.size else 0
        if 0 <= offset < file.size:
            return LazyTensor(file, array.dtype, array.shape, offset, array.strides)
        return np.array(array)  # it was packed, or in another byte order

    try:
        if _torch_read.is_torch(data):
            return _torch_read.read(data, leaf), {}
        arrays, metadata = _safetensors.views(data, file.path)
    except SafetensorError as error:
        raise CheckpointError(diagnose(data, repr(file.path), error)) from error
    except CheckpointError as error:
        raise type(error)(f"cannot load {file.path!r}: {error}") from error
    tensors = {name: leaf(array) for name, array in arrays.items()}
    if ENTRY not in metadata:
        return tensors, metadata
    rest = {name: text for name, text in metadata.items() if name != ENTRY}
    return unpack(metadata[ENTRY], tensors, repr(file.path), lambda tensor, location: tensor), rest


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
