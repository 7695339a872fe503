"""Put the weights of a file, or of a folder in Hugging Face's layout, into a module; and write such a folder."""

import json
import math
import os
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import jax.numpy as jnp
from safetensors import TensorSpec, serialize_file

from jaxmodules._device import META, lacks_data, parse_device
from jaxmodules._device import device as Device
from jaxmodules._files import CARRIED, whole
from jaxmodules.checkpoint import _tree
from jaxmodules.checkpoint.tensors import NAMES
from jaxmodules.checkpoint.tensors import open as open_tensors
from jaxmodules.nn.modules._convert import parse_dtype
from jaxmodules.nn.modules._state_dict import IncompatibleKeys, landing
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter

Rename = (
    Mapping[str, str | None]
    | Sequence[tuple[str | re.Pattern[str], str | Callable[[re.Match[str]], str] | None]]
    | Callable[[str], str | None]
)


def from_pretrained_files(
    net: Module,
    path: str | os.PathLike[str] | Mapping[str, Any],
    *,
    prefix: str = "",
    rename: Rename | None = None,
    dtype: Any = None,
    device: Any = None,
    strict: bool = True,
    entry: str | None = None,
) -> IncompatibleKeys:
    r"""Load weights from files into a module, one tensor at a time.

    Whatever :func:`jm.checkpoint.open <jaxmodules.checkpoint.open>` opens goes through ``net.load_state_dict``, with
    its hooks, its report and its promise: on an error nothing has changed. Each tensor is read straight to the device
    it belongs on, and of one that is spread over several, each gets its part. A net with data keeps it until the load
    has succeeded; build a large one with ``with jm.device("meta"):``, and it is given its arrays here.

    Names are taken through ``prefix`` first, then through ``rename``.

    A tied parameter has several names, of which such files hold one: the others are not missing. What is left on the
    meta device, such as a buffer that is not persistent, is warned of.

    Args:
        net: the module.
        path: a file, an index file, a folder, or a mapping such as :func:`jm.checkpoint.open` returns.
        prefix: only names that begin so are taken, and they lose it: ``"bert."`` takes the body of a model with a
            head. The other way round, for files of the body, ``rename=[("^", "bert.")]``.
        rename: a mapping from names to new names; pairs of a regular expression and its replacement, every one of
            which goes over every name (:func:`re.sub`); or a function of a name. ``None`` as a new name leaves the
            tensor out.
        dtype: what floating point parameters and buffers become as they are loaded. By default they keep their dtype,
            and the file's is cast; with ``"auto"`` they take the file's.
        device: where what is loaded goes, as :class:`jm.device <jaxmodules.device>` takes it, or a Sharding; or a
            mapping or function from the name of a parameter or buffer to one. By default, and for ``None``, where the
            parameter or buffer is.
        strict: whether missing and unexpected names are errors.
        entry: which entry of a file to take, where it holds more than the tensors, such as ``"state_dict"``.

    Returns:
        A named tuple of ``missing_keys`` and ``unexpected_keys``.

    Raises:
        RuntimeError: listing all missing, unexpected and mis-shaped names, as ``load_state_dict`` does.
        FileNotFoundError: there is no such file, or a shard is missing.
        CheckpointError: a file is truncated, damaged or of another kind.
        ValueError: two names become one.

    Examples:
        >>> import tempfile, jax.numpy as jnp, jaxmodules as jm
        >>> folder = tempfile.mkdtemp()
        >>> jm.save({"model.fc.gamma": jnp.ones((2, 3)), "head": jnp.ones(1)}, f"{folder}/model.safetensors")
        >>> with jm.device("meta"):
        ...     net = jm.nn.Sequential(jm.nn.Linear(3, 2, bias=False))
        >>> renames = [(r"^fc\.", "0."), ("gamma$", "weight")]
        >>> from_pretrained_files(net, folder, prefix="model.", rename=renames, dtype="bfloat16")
        <All keys matched successfully>
        >>> net[0].weight.dtype
        dtype(bfloat16)
    """
    if not isinstance(net, Module):
        raise TypeError(
            f"expected a Module to load into, got {type(net).__name__}: call from_pretrained_files(net, path)"
        )
    choose = _chooser(dtype, device)
    rename_one = _renamer(rename)
    with nullcontext(path) if isinstance(path, Mapping) else open_tensors(path, entry) as tensors:
        state: Any = OrderedDict((new, tensors[old]) for new, old in _select(tensors, prefix, rename_one).items())
        metadata = getattr(tensors, "_metadata", None)
        if metadata is not None:
            state._metadata = {
                f"{module}.".removeprefix(prefix)[:-1]: version
                for module, version in metadata.items()
                if f"{module}.".startswith(prefix)
            }
        try:
            with landing(choose):
                report = net.load_state_dict(state, strict=strict)
        except RuntimeError as error:
            own = {name for name, _ in net.named_parameters(remove_duplicate=False)}
            if rename is None and (note := _note(tensors, own, prefix)):
                error.add_note(note)
            raise
    _warn_of_meta(net)
    return report


def _warn_of_meta(net: Module) -> None:
    """Warn of what the files did not hold, in a module that has no data of its own."""
    left = [name for name, value in (*net.named_parameters(), *net.named_buffers()) if lacks_data(value)]
    if left:
        warnings.warn(
            f"{', '.join(left[:5])}{' and more' if len(left) > 5 else ''} had no data, and the files hold none for it:"
            " give it data, or compute what no file holds (frequencies, masks) where it is used",
            stacklevel=3,
        )


def _select(tensors: Mapping[str, Any], prefix: str, rename: Callable[[str], str | None]) -> dict[str, str]:
    """Return the names in the file by the names they are given."""
    chosen: dict[str, str] = {}
    for old in tensors:
        new = rename(old.removeprefix(prefix)) if old.startswith(prefix) else None
        if new is not None and not isinstance(new, str):
            raise TypeError(f"rename must give a name or None, got {new!r} for {old!r}")
        if new in chosen:
            raise ValueError(
                f"{chosen[new]!r} and {old!r} both become {new!r}: make rename tell them apart, or leave one out by"
                " renaming it to None"
            )
        if new is not None:
            chosen[new] = old
    return chosen


def _note(tensors: Iterable[str], own: set[str], prefix: str) -> str | None:
    """Return what to try where the names in the files and in the module differ by a prefix."""
    found = {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
    if not found:
        return f"(no name in the files begins with {prefix!r}: they are like {next(iter(tensors), None)!r})"
    if surplus := _prefix(found - own, own):
        return f"(the names in the files begin with {prefix + surplus!r}: give prefix={prefix + surplus!r})"
    if lacking := _prefix(own - found, found):
        return f"(the names in the module begin with {lacking!r}: give rename=[('^', {lacking!r})])"
    return None


def _prefix(longer: set[str], shorter: set[str]) -> str | None:
    """Return what stands before most names of ``shorter`` in ``longer``."""
    counts = Counter(
        name[: match.end()] for name in longer for match in re.finditer(r"\.", name) if name[match.end() :] in shorter
    )
    prefix, count = counts.most_common(1)[0] if counts else (None, 0)
    return prefix if 2 * count > len(shorter) else None


def _renamer(rename: Any) -> Callable[[str], str | None]:
    if rename is None:
        return lambda name: name
    if isinstance(rename, Mapping):
        if not all(isinstance(old, str) for old in rename):
            raise TypeError("the keys of rename are names: give regular expressions as a list of pairs")
        return lambda name: rename.get(name, name)
    if isinstance(rename, Callable):
        return rename
    if isinstance(rename, str) or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in rename):
        raise TypeError(
            "rename must be a mapping of names, a list of pairs (pattern, replacement), or a function of a name,"
            f" got {rename!r}"
        )
    patterns = [(re.compile(pattern), replacement) for pattern, replacement in rename]

    def substitute(name: str) -> str | None:
        for pattern, replacement in patterns:
            if replacement is not None:
                name = pattern.sub(replacement, name)
            elif pattern.search(name):
                return None
        return name

    return substitute


def _chooser(dtype: Any, device: Any) -> Callable[[str, Any, Any], tuple[Any, Any]]:
    """Return the function that says what becomes of each tensor of a load."""
    takes_theirs = isinstance(dtype, str) and dtype == "auto"
    target = None if dtype is None or takes_theirs else parse_dtype(dtype)
    if target is not None and not jnp.issubdtype(target, jnp.floating):
        raise TypeError(f"dtype must be a floating point dtype, 'auto' or None, got {target}")
    differs = isinstance(device, Mapping) or (callable(device) and not isinstance(device, Device))
    place = None if differs else _parse_place(device)
    find: Any = device.get if isinstance(device, Mapping) else device

    def choose(name: str, current: Any, new: Any) -> tuple[Any, Any]:
        where = _parse_place(find(name)) if differs else place
        is_floating = jnp.issubdtype(current.dtype, jnp.floating)
        if takes_theirs and is_floating and jnp.issubdtype(new.dtype, jnp.floating):
            return new.dtype, where
        return target if is_floating else None, where

    return choose


def _parse_place(device: Any) -> Any:
    place = parse_device(device)
    if place is META:
        raise ValueError("cannot load to the meta device, where arrays have no data: expected a device or a Sharding")
    return place


def save_pretrained_files(
    net: Module | Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
) -> None:
    r"""Save weights into a folder as Hugging Face's libraries do, in safetensors files of a limited size.

    One file is ``model.safetensors``; several are ``model-00001-of-0000N.safetensors`` with an index beside them. Each
    appears whole or not at all, the index last, and then what an earlier save left there under such names goes. A tied
    parameter is stored once, under its first name. One shard at a time is in the memory of the host.

    Args:
        net: the module, or a state dict.
        folder: where to put the files, made if need be.
        max_shard_size: in bytes, or as ``"500MB"``; a larger tensor has a file of its own.
        metadata: more strings for the header of each file, beside ``{"format": "pt"}``: the layouts are PyTorch's.

    Raises:
        TypeError: something is no array, or of a dtype that the format does not carry.
        ValueError: an array's values are gone (donated) or elsewhere.
        OSError: the files cannot be written.

    Examples:
        >>> import tempfile, jaxmodules as jm
        >>> folder = tempfile.mkdtemp()
        >>> net = jm.nn.Sequential(jm.nn.Linear(3, 4), jm.nn.Linear(4, 2))
        >>> save_pretrained_files(net, folder, max_shard_size=64)
        >>> sorted(os.listdir(folder))
        ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json']
        >>> from_pretrained_files(net, folder)
        <All keys matched successfully>
    """
    tensors = _untied(net)
    shards = _split(tensors, _parse_size(max_shard_size))
    count = len(shards)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)] if count > 1 else [NAMES[0]]
    header = {"format": "pt", **(metadata or {})}
    folder = os.fspath(folder)
    os.makedirs(folder, exist_ok=True)
    for name, shard in zip(names, shards, strict=True):
        arrays = {key: next(iter(_tree.pack({key: tensors[key]})[1].values())) for key in shard}
        specs = {
            key: TensorSpec(dtype=a.dtype.name, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
            for key, a in arrays.items()
        }
        with whole(os.path.join(folder, name)) as written:
            serialize_file(specs, written, metadata=header)
    if count > 1:
        index = {
            "metadata": {"total_size": sum(map(_size_of, tensors.values()))},
            "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
        }
        names.append(NAMES[1])
        with whole(os.path.join(folder, NAMES[1])) as written, open(written, "w", encoding="utf-8") as file:
            json.dump(index, file, indent=2)
    for name in set(os.listdir(folder)).difference(names):
        if name in NAMES[:2] or _OURS.fullmatch(name):
            os.remove(os.path.join(folder, name))


_OURS = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def _untied(net: Module | Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays to save by name, each parameter once."""
    state = net.state_dict(keep_vars=True) if isinstance(net, Module) else net
    tensors: dict[str, Any] = {}
    parameters: set[int] = set()
    carried = {dtype.name for dtype in CARRIED.values()}
    for name, value in state.items():
        dtype = getattr(value, "dtype", None)
        if getattr(dtype, "name", None) not in carried or not isinstance(name, str):
            kind = type(value).__name__ if dtype is None else f"an array of dtype {dtype}"
            raise TypeError(
                f"cannot save {name!r}: safetensors files hold arrays of PyTorch's dtypes by name, got {kind}: leave it"
                " out of a state dict that you give, and save it by jm.save"
            )
        if not (isinstance(value, Parameter) and id(value) in parameters):
            tensors[name] = value
        parameters.add(id(value))
    return tensors


def _split(tensors: Mapping[str, Any], limit: int) -> list[list[str]]:
    """Return the names in groups of no more bytes than ``limit``, or of one tensor, as Hugging Face's libraries do."""
    groups: list[list[str]] = []
    group: list[str] = []
    used = 0
    for name, tensor in tensors.items():
        size = _size_of(tensor)
        if size > limit:
            groups.append([name])
            continue
        if used + size > limit:
            groups.append(group)
            group, used = [], 0
        group.append(name)
        used += size
    return [*groups, group] if group or not groups else groups


def _size_of(tensor: Any) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _parse_size(size: int | str) -> int:
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is not None:
        number, unit, binary = match.groups()
        size = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))
    if isinstance(size, str) or isinstance(size, bool) or size < 1:
        raise ValueError(f"max_shard_size must be a positive number of bytes, or a string such as '5GB', got {size!r}")
    return size
