"""Save and load nested containers of arrays and plain values, in safetensors files."""

import json
import os
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, TensorSpec, deserialize, serialize, serialize_file

from jaxmodules._files import whole
from jaxmodules.checkpoint import _tree

_ENTRY = "jaxmodules"
_VERSION = 1

_FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"\x93NUMPY": "a NumPy .npy file",
    b"\x89HDF": "an HDF5 file",
    b"\x80": "a Python pickle",
}


class CheckpointError(ValueError):
    """A file does not hold what :func:`save` writes: it is truncated, damaged or of another kind."""


def save(obj: Any, path: str | os.PathLike[str] | IO[bytes]) -> None:
    r"""Save a state dict, or any nested container of arrays and plain values.

    The file is a safetensors file. A flat ``dict[str, Array]`` is stored under its own keys, so that every reader of
    the format finds the same names; what the format has no place for (nesting, order, plain values) goes into the
    file's metadata. An array that ``obj`` holds in several places is stored once and loaded as one array.

    The file appears whole or not at all: it is written beside its place, flushed to disk and then renamed. If saving
    fails, or the process dies, a previous file under the same name is as it was.

    Args:
        obj: dicts, OrderedDicts (of any kind: a state_dict is one), lists and tuples of JAX and NumPy arrays,
            Parameters (stored as their arrays), JAX random keys, and ``None``, bool, int, float, complex, str, bytes.
        path: where to put the file, or a binary file object to write it to.

    Raises:
        TypeError: something in ``obj`` cannot be stored; the message gives the path to it.
        ValueError: a container holds itself, or an array's values are gone (donated) or elsewhere.
        OSError: the file cannot be written.

    Examples:
        >>> import tempfile, jax.numpy as jnp
        >>> path = tempfile.mkdtemp() + "/run.safetensors"
        >>> save({"weights": {"bias": jnp.zeros(3)}, "epoch": 7}, path)
        >>> load(path)
        {'weights': {'bias': Array([0., 0., 0.], dtype=float32)}, 'epoch': 7}
    """
    if not hasattr(path, "write") and not isinstance(path, str | os.PathLike):
        raise TypeError(f"expected a path or a binary file to save to, got {type(path).__name__}: call save(obj, path)")
    skeleton, arrays = _tree.pack(obj)
    metadata = {_ENTRY: json.dumps({"version": _VERSION, "tree": skeleton}, separators=(",", ":"), allow_nan=False)}
    specs = {
        name: TensorSpec(dtype=a.dtype.name, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
        for name, a in arrays.items()
    }
    try:
        if isinstance(path, str | os.PathLike):
            with whole(path) as written:
                serialize_file(specs, written, metadata=metadata)
        else:
            path.write(serialize(specs, metadata=metadata))
    except SafetensorError as error:
        raise ValueError(f"cannot save: {error} (plain values and names may take 100 MB, arrays any size)") from error


def load(path: str | os.PathLike[str] | IO[bytes]) -> Any:
    r"""Load what :func:`save` wrote, or any other safetensors file as a ``dict[str, Array]``.

    Nothing in the file is ever executed. Arrays come back as :class:`jax.Array`; 64-bit ones as NumPy arrays while
    JAX runs without ``jax_enable_x64``, since JAX would cut them to 32 bits.

    Args:
        path: the file, or a binary file object to read it from.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, damaged, or not a safetensors file.

    Examples:
        >>> import io
        >>> file = io.BytesIO()
        >>> save([1, ("two", 3.0)], file)
        >>> load(io.BytesIO(file.getvalue()))
        [1, ('two', 3.0)]
    """
    if isinstance(path, str | os.PathLike):
        with open(path, "rb") as file:
            data, source = file.read(), repr(os.fspath(path))
    elif hasattr(path, "read"):
        data, source = path.read(), f"the {type(path).__name__}"
    else:
        raise TypeError(f"expected a path or a binary file to load from, got {type(path).__name__}: call load(path)")
    try:
        entries = dict(deserialize(data))
    except SafetensorError as error:
        raise CheckpointError(_diagnose(data, source, error)) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = (header.pop("__metadata__", None) or {}).get(_ENTRY)
    tensors = {name: _to_numpy(name, entries[name], source) for name in header}
    if text is None:
        return {name: _tree.to_jax(array) for name, array in tensors.items()}
    return _unpack(text, tensors, source)


def _to_numpy(name: str, spec: dict[str, Any], source: str) -> np.ndarray:
    if spec["dtype"] not in _tree.CARRIED:
        raise CheckpointError(
            f"cannot load {source}: {name!r} has dtype {spec['dtype']}"
            f" (expected one of {', '.join(_tree.CARRIED)}): convert it first"
        )
    dtype = _tree.CARRIED[spec["dtype"]].newbyteorder("<")
    return np.frombuffer(spec["data"], dtype).reshape(spec["shape"])


def _unpack(text: str, tensors: dict[str, np.ndarray], source: str) -> Any:
    try:
        entry = json.loads(text)
        version = entry["version"]
        if version == _VERSION:
            return _tree.unpack(entry["tree"], tensors)
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"cannot load {source}: its description of what was saved is damaged ({type(error).__name__}: {error});"
            " expected a file from jaxmodules.save: take an earlier checkpoint"
        ) from error
    raise CheckpointError(
        f"cannot load {source}: it has format version {version!r}, expected {_VERSION}: update jaxmodules"
    )


def _diagnose(data: bytes, source: str, error: SafetensorError) -> str:
    """Say what a file that cannot be read is, as far as its first bytes tell."""
    if not data:
        what = "is empty"
    elif data[8:9] == b"{":
        what = f"is truncated or damaged: {error}"
    else:
        what = f"is {next((kind for start, kind in _FOREIGN.items() if data.startswith(start)), 'of another kind')}"
    advice = (
        "load it with the library that wrote it and save its arrays again (load_state_dict takes torch tensors)"
        if data and data[8:9] != b"{"
        else "take an earlier checkpoint, or copy the file again"
    )
    return f"cannot load {source}: expected a safetensors file, but it {what} ({len(data):,} bytes): {advice}"
