"""The arrays of a safetensors file, where they lie in its bytes."""

import json
import mmap
from typing import Any

import numpy as np
from safetensors import deserialize, safe_open

from jaxmodules._files import CARRIED
from jaxmodules.checkpoint._errors import CheckpointError


def views(data: memoryview, path: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays in the bytes of a safetensors file as read-only views, by name, and the file's metadata.

    Args:
        data: the whole file.
        path: the file, if ``data`` maps it into memory.

    Raises:
        SafetensorError: the header is damaged, or it and the length of the file do not agree.
        CheckpointError: an array has a dtype that JAX has not, or the file has changed meanwhile.
    """
    if isinstance(data.obj, mmap.mmap):
        with safe_open(path, framework="np"):
            pass  # the library has checked the header, and read nothing else
    else:
        deserialize(bytes(data))
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(bytes(data[8:start]))
        metadata = header.pop("__metadata__", None) or {}
        return {name: _view(name, info, data, start) for name, info in header.items()}, metadata
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"it has changed while it was being opened ({error}): open it again") from error


def _view(name: str, info: dict[str, Any], data: memoryview, start: int) -> np.ndarray:
    if info["dtype"] not in CARRIED:
        raise CheckpointError(
            f"{name!r} has dtype {info['dtype']} (expected one of {', '.join(CARRIED)}): convert it first"
        )
    dtype = CARRIED[info["dtype"]].newbyteorder("<")
    view = np.ndarray(info["shape"], dtype, data, start + info["data_offsets"][0])
    view.flags.writeable = False
    return view
