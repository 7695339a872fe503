"""The arrays of a module as a dict, a NumPy file or a safetensors file, under PyTorch's names; and back."""

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from jaxmodules._files import CARRIED, whole
from jaxmodules.export._arrays import Slot, check, concrete, flatten, host, nest, put, slots
from jaxmodules.nn.modules._state_dict import IncompatibleKeys
from jaxmodules.nn.modules.module import Module

_DTYPES = "__dtypes__"  # an entry of .npz files: rows of a name and the dtype of its bits


def to_dict(
    net: Module,
    *,
    nested: bool = False,
    numpy: bool = False,
    buffers: bool = True,
    remove_duplicate: bool = True,
) -> dict[str, Any]:
    """Return the arrays of a module as a plain dict, which any JAX library takes as a pytree.

    Args:
        net: the module.
        nested: whether to nest dicts as the modules are nested, instead of dotted names.
        numpy: whether to give NumPy arrays, which may be read-only, instead of the module's own JAX arrays.
        buffers: whether to list the persistent buffers too: the names are then those of ``state_dict()``.
        remove_duplicate: list what is tied under its first name alone, as a pytree that is trained has to;
            otherwise under each.

    Raises:
        ValueError: if an array has no numbers: on the meta device, not initialised, or donated.

    Examples:
        >>> import jax, jaxmodules as jm
        >>> net = jm.nn.Sequential(jm.nn.Linear(3, 2), jm.nn.Tanh())
        >>> jax.tree.map(lambda array: array.shape, to_dict(net, nested=True))
        {'0': {'bias': (2,), 'weight': (2, 3)}}
        >>> from_dict(net, to_dict(net))
        <All keys matched successfully>
    """
    there = _listed(net, buffers, remove_duplicate)
    flat = {name: (host if numpy else concrete)(name, slot.value) for name, slot in there.items()}
    return nest({tuple(name.split(".")): array for name, array in flat.items()}) if nested else flat


def _listed(net: Module, buffers: bool, remove_duplicate: bool) -> dict[str, Slot]:
    listed: dict[str, Slot] = {}
    seen = set()
    for name, slot in slots(net).items():
        if (buffers or not slot.is_buffer) and not (remove_duplicate and slot.identity in seen):
            listed[name] = slot
            seen.add(slot.identity)
    return listed


def from_dict(net: Module, tree: Mapping[str, Any], *, strict: bool = True) -> IncompatibleKeys:
    """Put the arrays of :func:`to_dict` into a module, copied, in the dtype and place of those they replace.

    Args:
        net: the module.
        tree: arrays by dotted name, in one dict or in nested ones. What is tied may be under any of its names. If
            no buffer is among them, the tree is one of parameters and the buffers stay as they are.
        strict: whether names that are missing or unexpected are an error.

    Returns:
        The names that were missing and unexpected, as ``load_state_dict`` does.

    Raises:
        RuntimeError: naming all that is missing, unexpected, of another shape, or tied but given different values;
            the module is left as it was.
    """
    if not isinstance(tree, Mapping):
        raise TypeError(f"expected a dict of arrays, got {type(tree).__name__}")
    return _load(net, {".".join(path): leaf for path, leaf in flatten(tree)}, "tree", strict)


def _load(net: Module, given: Mapping[str, Any], what: str, strict: bool) -> IncompatibleKeys:
    there = slots(net)
    found = {there[name].identity for name in given if name in there}
    with_buffers = any(there[name].is_buffer for name in given if name in there)
    missing = [
        name for name, slot in _listed(net, with_buffers, remove_duplicate=True).items() if slot.identity not in found
    ]
    shapes = {name: tuple(slot.value.shape) for name, slot in there.items()}
    report = check(what, type(net).__name__, given, shapes, missing, strict)
    put(net, {name: leaf for name, leaf in given.items() if name in there}, there)
    return report


def to_npz(net: Module, path: str | os.PathLike[str], *, buffers: bool = True, remove_duplicate: bool = True) -> None:
    """Save the arrays of a module in a ``.npz`` file, which :func:`numpy.load` opens.

    Each has its dotted name. Dtypes that NumPy lacks (bfloat16, float8) are stored as unsigned integers of the same
    bits, and named in the entry ``"__dtypes__"``. The file appears whole or not at all.

    Args:
        net: the module.
        path: the file.
        buffers: whether to save the persistent buffers too.
        remove_duplicate: whether to save what is tied under its first name alone.

    Examples:
        >>> import tempfile, jaxmodules as jm
        >>> path = tempfile.mkdtemp() + "/net.npz"
        >>> to_npz(jm.nn.Linear(3, 2), path)
        >>> np.load(path)["weight"].shape
        (2, 3)
        >>> from_npz(jm.nn.Linear(3, 2), path)
        <All keys matched successfully>
    """
    arrays = to_dict(net, numpy=True, buffers=buffers, remove_duplicate=remove_duplicate)
    foreign = {name: array.dtype for name, array in arrays.items() if array.dtype.isbuiltin == 2}
    for name, dtype in foreign.items():
        arrays[name] = arrays[name].view(f"u{dtype.itemsize}")
    if foreign:
        arrays[_DTYPES] = np.array([[name, dtype.name] for name, dtype in foreign.items()])
    with whole(path) as written, zipfile.ZipFile(written, "w") as archive:
        for name, array in arrays.items():  # as numpy.savez does, which can't take every name
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def from_npz(net: Module, path: str | os.PathLike[str], *, strict: bool = True) -> IncompatibleKeys:
    """Load a ``.npz`` file of arrays by dotted name, as :func:`to_npz` writes it, into a module.

    Nothing in the file is ever run. The arguments, the result and the errors are those of :func:`from_dict`.

    Raises:
        ValueError: if the file is no ``.npz`` file, or damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        for name, dtype in arrays.pop(_DTYPES, np.empty((0, 2), str)):
            arrays[str(name)] = arrays[str(name)].view(jnp.dtype(str(dtype)))
    except OSError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib have each their own
        raise ValueError(
            f"cannot read {os.fspath(path)!r}: expected a .npz file of arrays, as to_npz and numpy.savez write"
            f" ({type(error).__name__}: {error})"
        ) from error
    return _load(net, arrays, "file", strict)


def to_safetensors(
    net: Module,
    path: str | os.PathLike[str],
    *,
    buffers: bool = True,
    remove_duplicate: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save the arrays of a module in a plain safetensors file, which every reader of the format opens.

    Names and layouts are PyTorch's, so that the file is one for PyTorch too. It appears whole or not at all.
    :func:`jaxmodules.save` is for more than arrays.

    Args:
        net: the module.
        path: the file.
        buffers: whether to save the persistent buffers too.
        remove_duplicate: whether to save what is tied under its first name alone.
        metadata: strings for the header of the file, besides ``{"format": "pt"}``.

    Raises:
        TypeError: if the metadata are not strings.

    Examples:
        >>> import tempfile, jaxmodules as jm
        >>> path = tempfile.mkdtemp() + "/net.safetensors"
        >>> to_safetensors(jm.nn.Linear(3, 2), path, metadata={"step": "7"})
        >>> from_safetensors(jm.nn.Linear(3, 2), path)
        <All keys matched successfully>
    """
    header = {"format": "pt", **(metadata or {})}
    if not all(isinstance(text, str) for item in header.items() for text in item):
        raise TypeError(f"metadata must be strings by strings, got {dict(metadata or {})}: convert the values with str")
    arrays = to_dict(net, numpy=True, buffers=buffers, remove_duplicate=remove_duplicate)
    with whole(path) as written:
        save_file({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}, written, header)


def from_safetensors(net: Module, path: str | os.PathLike[str], *, strict: bool = True) -> IncompatibleKeys:
    """Load a safetensors file of arrays by dotted name into a module.

    The arguments, the result and the errors are those of :func:`from_dict`.

    Raises:
        ValueError: if the file is no safetensors file, or damaged.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        arrays = {name: _to_numpy(entry) for name, entry in deserialize(data)}
    except (SafetensorError, LookupError) as error:
        raise ValueError(
            f"cannot read {os.fspath(path)!r}: expected a safetensors file of {', '.join(CARRIED)}"
            f" ({type(error).__name__}: {error})"
        ) from error
    return _load(net, arrays, "file", strict)


def _to_numpy(entry: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(entry["data"], CARRIED[entry["dtype"]].newbyteorder("<")).reshape(entry["shape"])
