"""Files that appear whole or not at all, and what safetensors files hold."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

CARRIED: dict[str, np.dtype] = {
    code: np.dtype(scalar)
    for code, scalar in {
        "BOOL": np.bool_, "I8": np.int8, "U8": np.uint8, "I16": np.int16, "U16": np.uint16,
        "I32": np.int32, "U32": np.uint32, "I64": np.int64, "U64": np.uint64, "C64": np.complex64,
        "F16": np.float16, "BF16": jnp.bfloat16, "F32": np.float32, "F64": np.float64,
        "F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2, "F8_E8M0": jnp.float8_e8m0fnu,
        "F8_E4M3FNUZ": jnp.float8_e4m3fnuz, "F8_E5M2FNUZ": jnp.float8_e5m2fnuz,
    }.items()
}  # fmt: skip
"""The dtypes that safetensors files carry, by their codes there."""


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give the path of an empty file beside ``path``, and move what is written to it there once it is on disk.

    If the block raises, or the process dies, a previous file at ``path`` is as it was.

    Raises:
        OSError: the file cannot be written; a :class:`FileNotFoundError` if there is no such folder.
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"cannot save {path!r}: there is no folder {folder!r}: create it first")
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as beside:
        written = os.path.join(beside, "data")
        with open(written, "wb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777  # what the user's umask allows; some writers use 0o600
        yield written
        os.chmod(written, mode)
        _flush(written)
        os.replace(written, path)
        _flush(folder)


def _flush(path: str) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    if os.path.isdir(path) and os.name == "nt":  # Windows has no handle for a folder
        return
    descriptor = os.open(path, os.O_RDWR if os.path.isfile(path) else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
