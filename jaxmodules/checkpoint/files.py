"""Save and load nested containers of arrays and plain values, in safetensors files and PyTorch's."""

import json
import os
from collections.abc import Callable, Mapping
from typing import IO, Any, Literal

import jax
import numpy as np
from safetensors import SafetensorError, TensorSpec, serialize, serialize_file

from jaxmodules._device import META, parse_device
from jaxmodules._files import whole
from jaxmodules.checkpoint import _safetensors, _torch_read, _torch_write, _tree
from jaxmodules.checkpoint._errors import CheckpointError as CheckpointError
from jaxmodules.checkpoint._mapped import release
from jaxmodules.nn._writable import is_differentiable
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import copy_to_jax

ENTRY = "jaxmodules"
_VERSION = 1
_PAGE = 4096  # bytes: for less it is not worth it

_FOREIGN = {
    b"\x93NUMPY": "a NumPy .npy file",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer, which git lfs pull replaces by the file",
}


def save(
    obj: Any, path: str | os.PathLike[str] | IO[bytes], format: Literal["safetensors", "torch"] = "safetensors"
) -> None:
    r"""Save a state dict, or any nested container of arrays and plain values.

    In a safetensors file, a flat ``dict[str, Array]`` is stored under its own keys, so that every reader of the format
    finds the same names; what the format has no place for (nesting, order, plain values) goes into the file's metadata.
    In a file of PyTorch's, arrays become tensors and Parameters become Parameters: ``torch.load(path)`` reads it, with
    ``weights_only=True`` and ``mmap=True`` as well. An array that ``obj`` holds in several places is stored once and
    loaded as one array.

    The file appears whole or not at all: it is written beside its place, flushed to disk and then renamed. If saving
    fails, or the process dies, a previous file under the same name is as it was.

    Args:
        obj: dicts, OrderedDicts (of any kind: a state_dict is one), lists and tuples of JAX and NumPy arrays,
            Parameters (stored as their arrays in safetensors files), JAX random keys (not in files of PyTorch's),
            and ``None``, bool, int, float, complex, str, bytes.
        path: where to put the file, or a binary file object to write it to.
        format: ``"safetensors"``, or ``"torch"`` for the zip format of ``torch.save``.

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
    if format == "torch":
        return _save_torch(obj, path)
    if format != "safetensors":
        raise ValueError(f"expected the format 'safetensors' or 'torch', got {format!r}")
    skeleton, arrays = _tree.pack(obj)
    metadata = {ENTRY: json.dumps({"version": _VERSION, "tree": skeleton}, separators=(",", ":"), allow_nan=False)}
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


def _save_torch(obj: Any, path: str | os.PathLike[str] | IO[bytes]) -> None:
    program, arrays = _torch_write.pack(obj)
    if not isinstance(path, str | os.PathLike):
        return _torch_write.write(path, program, arrays, "archive")
    with whole(path) as written, open(written, "wb") as file:
        _torch_write.write(file, program, arrays, _torch_write.folder_of(path))


def load(
    path: str | os.PathLike[str] | IO[bytes],
    map_location: Any = None,
    *,
    weights_only: bool | None = True,
    mmap: bool | None = None,
) -> Any:
    r"""Load what :func:`save` or ``torch.save`` saved, or any safetensors file, as a dict of its arrays.

    What kind of file it is shows in its content. PyTorch's are read without torch, in all its formats: tensors come
    back as arrays, tied ones as one array; ``torch.nn.Parameter``\ s as Parameters; dtypes as NumPy's and sizes as
    tuples; the attributes that a tensor may have in PyTorch are left out. Sparse, nested and quantized tensors are
    refused, and so is whatever would need code to be run.

    Nothing in the file is ever executed. Arrays come back as :class:`jax.Array`; 64-bit ones as NumPy arrays while
    JAX runs without ``jax_enable_x64``, since JAX would cut them to 32 bits. They are copies: what happens to the
    file afterwards does not reach them.

    Args:
        path: the file, or a binary file object to read it from.
        map_location: where to put arrays: a device as ``jm.device`` takes them (``"cpu"``, ``"cuda:0"``, ``"meta"``
            for shapes alone), a JAX device or a Sharding; a dict from the places the file names to these; or a function
            of a view of the elements and the place the file names, which returns one of these, ``None``, or the view
            to leave it on the CPU. ``None`` leaves it to JAX, wherever PyTorch had them.
        weights_only: ``True``, or ``None`` for the same; there is no other way here.
        mmap: whether to map the file into memory rather than to read it first. ``None`` maps what is a real file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, damaged, or of another kind. If it is refused because it asks for what
            could run code, it is a ``pickle.UnpicklingError`` as well.
        RuntimeError: there is no such device.

    Examples:
        >>> import io
        >>> file = io.BytesIO()
        >>> save([1, ("two", 3.0)], file)
        >>> load(io.BytesIO(file.getvalue()))
        [1, ('two', 3.0)]
    """
    if not hasattr(path, "read") and not isinstance(path, str | os.PathLike):
        raise TypeError(f"expected a path or a binary file to load from, got {type(path).__name__}: call load(path)")
    if weights_only is not None and not weights_only:
        raise ValueError(
            "expected weights_only=True, got False: jaxmodules never runs code from a file. Load it in torch with"
            " weights_only=False if you trust it, and save the state_dicts and plain values of it"
        )
    if mmap and not isinstance(path, str | os.PathLike):
        raise ValueError("f must be a file path in order to use the mmap argument")
    source = repr(os.fspath(path)) if isinstance(path, str | os.PathLike) else f"the {type(path).__name__}"
    leaf = _placer(map_location)
    data = _torch_read.open_bytes(path, mmap)

    def take(array: np.ndarray, location: str) -> Any:
        taken = leaf(array, location)
        if array.nbytes >= _PAGE:
            release(data.obj)
        return taken

    if not _torch_read.is_torch(data):
        return _load_safetensors(data, path, source, take)
    try:
        return _torch_read.read(data, take, _box)
    except CheckpointError as error:
        raise type(error)(f"cannot load {source}: {error}") from None


def _placer(map_location: Any) -> Callable[[np.ndarray, str], Any]:
    """Return a function that makes arrays of views of a file's elements, where ``map_location`` wants them."""
    if isinstance(map_location, Mapping):
        places = {str(key): parse_device(value) for key, value in map_location.items()}
        return lambda array, location: _to_place(array, places.get(location))
    try:
        everywhere = parse_device(map_location)
    except TypeError:
        if not callable(map_location):
            raise
    else:
        return lambda array, location: _to_place(array, everywhere)

    def place(array: np.ndarray, location: str) -> Any:
        chosen = map_location(array, location)
        return _to_place(array, parse_device("cpu" if chosen is array else chosen))

    return place


def _to_place(array: np.ndarray, place: Any) -> Any:
    """Return an array with memory of its own: JAX's, or NumPy's where JAX would cut 64 bits to 32."""
    if place is META:
        return jax.ShapeDtypeStruct(array.shape, array.dtype)
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return np.array(array, order="C")
    return copy_to_jax(array, place=place)


def _box(value: Any, requires_grad: bool) -> Any:
    """Return a Parameter, or the array where it would have to be cut to 32 bits."""
    if isinstance(value, np.ndarray):
        return value
    return Parameter(value, requires_grad=requires_grad and is_differentiable(value))


def _load_safetensors(data: memoryview, path: Any, source: str, leaf: Callable[[np.ndarray, str], Any]) -> Any:
    try:
        arrays, metadata = _safetensors.views(data, path)
    except SafetensorError as error:
        raise CheckpointError(diagnose(data, source, error)) from error
    except CheckpointError as error:
        raise CheckpointError(f"cannot load {source}: {error}") from error
    if ENTRY not in metadata:
        return {name: leaf(array, "cpu") for name, array in arrays.items()}
    return unpack(metadata[ENTRY], arrays, source, leaf)


def unpack(text: str, tensors: dict[str, Any], source: str, leaf: Callable[[Any, str], Any]) -> Any:
    """Return the container that a safetensors file describes in its metadata, under ``ENTRY``."""
    try:
        entry = json.loads(text)
        version = entry["version"]
        if version == _VERSION:
            return _tree.unpack(entry["tree"], tensors, lambda array: leaf(array, "cpu"))
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"cannot load {source}: its description of what was saved is damaged ({type(error).__name__}: {error});"
            " expected a file from jaxmodules.save: take an earlier checkpoint"
        ) from error
    raise CheckpointError(
        f"cannot load {source}: it has format version {version!r}, expected {_VERSION}: update jaxmodules"
    )


def diagnose(data: memoryview, source: str, error: SafetensorError) -> str:
    """Say what a file that cannot be read is, as far as its first bytes tell."""
    if not data:
        what = "is empty"
    elif data[8:9] == b"{":
        what = f"is truncated or damaged: {error}"
    else:
        what = (
            f"is {next((kind for start, kind in _FOREIGN.items() if data[: len(start)] == start), 'of another kind')}"
        )
    advice = (
        "load it with the library that wrote it and save its arrays again (load_state_dict takes torch tensors)"
        if data and data[8:9] != b"{"
        else "take an earlier checkpoint, or copy the file again"
    )
    return (
        f"cannot load {source}: expected a safetensors file, or one that torch.save wrote, but it {what}"
        f" ({len(data):,} bytes): {advice}"
    )
