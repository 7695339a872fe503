"""Open files of named tensors, one or many that make up a model, without reading the tensors."""

import builtins
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Self

from jaxmodules.checkpoint._contents import read
from jaxmodules.checkpoint._errors import CheckpointError
from jaxmodules.checkpoint._mapped import MappedFile

NAMES = tuple(
    f"{stem}{ending}"
    for safe, pickled in (("model", "pytorch_model"), ("diffusion_pytorch_model", "diffusion_pytorch_model"))
    for stem, ending in (
        (safe, ".safetensors"),
        (safe, ".safetensors.index.json"),
        (pickled, ".bin"),
        (pickled, ".bin.index.json"),
    )
)
"""What a folder is searched for, in the order of transformers and diffusers."""

_KINDS = (".safetensors", ".bin")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.\w+)")


class Tensors(Mapping[str, Any]):
    """The tensors of one or several files by name, each read when it is asked for; :func:`open` makes it.

    The values are lazy: they have ``shape``, ``dtype`` and ``nbytes``, indexing reads a part, ``numpy.asarray`` or
    ``to_jax(dtype, device)`` the whole. ``load_state_dict`` takes the mapping like any other, and reads one tensor at
    a time. In a ``with`` block the files are closed at its end; otherwise when nothing refers to them any more.

    Args:
        path: where the tensors are from.
        tensors: the entries by name.
        files: the open files.
        metadata: see :attr:`metadata`.
        versions: those of the modules, which PyTorch puts into a ``state_dict``.
    """

    metadata: dict[str, Any]
    """What the file says about itself besides its tensors."""

    def __init__(
        self,
        path: str,
        tensors: Mapping[str, Any],
        files: list[MappedFile],
        metadata: Mapping[str, Any],
        versions: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        if versions is not None:
            self._metadata = versions  # where load_state_dict looks for them
        self.metadata = dict(metadata)
        self._tensors = dict(tensors)
        self._files = files

    def __getitem__(self, name: str) -> Any:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files: what was read stays, and nothing more can be."""
        for file in self._files:
            file.close()

    def __repr__(self) -> str:
        size = sum(getattr(tensor, "nbytes", 0) for tensor in self._tensors.values())
        files = f"{len(self._files)} file{'s' if len(self._files) > 1 else ''}"
        return f"<{len(self)} tensors of {size:,} bytes in {files}: {self.path!r}>"


def open(path: str | os.PathLike[str], entry: str | None = None) -> Tensors:
    """Open the tensors that a path holds, reading no more than names, shapes and dtypes.

    Args:
        path: a safetensors file, or one that ``torch.save`` or :func:`save` wrote; a ``.index.json`` file beside the
            shards that it lists; or a folder with either of these, under the names that transformers and diffusers
            give them, or with all shards ``*-00001-of-0000N.safetensors`` and no index.
        entry: which entry of the file to take, where it holds more than the tensors, such as ``"state_dict"``.

    Returns:
        A read-only mapping from names to lazy tensors, which is a context manager too.

    Raises:
        FileNotFoundError: there is no such file, or a shard is missing.
        CheckpointError: a file is truncated, damaged or of another kind, the index and the shards disagree, or there
            is no such entry.

    Examples:
        >>> import tempfile, jax.numpy as jnp
        >>> from jaxmodules.checkpoint import save
        >>> path = tempfile.mkdtemp() + "/model.safetensors"
        >>> save({"fc.weight": jnp.ones((2, 3)), "fc.bias": jnp.zeros(2)}, path)
        >>> with open(path) as tensors:
        ...     tensors["fc.weight"], tensors["fc.weight"][:, 0]
        (LazyTensor(shape=(2, 3), dtype=float32, file='model.safetensors'), array([1., 1.], dtype=float32))
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"expected a path to open, got {type(path).__name__}")
    found = os.fspath(path)
    if os.path.isdir(found):
        found = _find(found)
    if isinstance(found, str) and not found.endswith(".json"):
        return _open_file(found, entry)
    if entry is not None:
        raise ValueError(f"entry={entry!r} is for single files: the tensors of {path!r} are spread over several")
    return _open_index(found) if isinstance(found, str) else _open_shards(os.fspath(path), found, {}, {})


def _find(folder: str) -> str | list[str]:
    """Return the file of a folder that says where its tensors are, or the shards that it holds without one."""
    names = sorted(os.listdir(folder))
    for name in NAMES:
        if name in names:
            return os.path.join(folder, name)
    shards = {match["stem"]: match for name in names if (match := _SHARD.fullmatch(name)) and match["ending"] in _KINDS}
    single = [name for name in names if name.endswith(".safetensors")]
    if len(shards) == 1:
        match = next(iter(shards.values()))
        count = int(match["count"])
        parts = [f"{match['stem']}-{i:05}-of-{match['count']}{match['ending']}" for i in range(1, count + 1)]
        return [os.path.join(folder, part) for part in parts]
    if len(single) == 1:
        return os.path.join(folder, single[0])
    raise FileNotFoundError(
        f"no tensors found in {folder!r}: expected one of {', '.join(NAMES[:4])}, got"
        f" {', '.join(names[:10]) or 'an empty folder'}{', ...' if len(names) > 10 else ''}: give the path of the file"
    )


def _open_file(path: str, entry: str | None) -> Tensors:
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"there is no file {path!r}: expected a file or a folder; for a model of the Hugging Face Hub, the one that"
            " huggingface_hub.snapshot_download returns"
        )
    file = MappedFile(path)
    content, metadata = read(file)
    tensors = _find_tensors(content, path, entry)
    return Tensors(path, tensors, [file], metadata, getattr(tensors, "_metadata", None))


def _find_tensors(content: Any, path: str, entry: str | None) -> Mapping[str, Any]:
    """Return the mapping of tensors in what a file holds."""
    if entry is not None:
        if not isinstance(content, Mapping) or entry not in content:
            raise CheckpointError(f"cannot open {path!r}: it has no entry {entry!r}, it holds {_describe(content)}")
        content = content[entry]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"cannot open {path!r}: expected tensors by name, but it holds {_describe(content)}")
    inner = [name for name, value in content.items() if isinstance(value, Mapping) and _has_tensors(value)]
    if inner and not _has_tensors(content):
        raise CheckpointError(
            f"cannot open {path!r}: its tensors are not at the top, it holds {_describe(content)}: say which of these"
            f" to take, such as entry={inner[0]!r}"
        )
    return content


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(hasattr(value, "shape") for value in content.values())


def _describe(content: Any) -> str:
    kind = type(content).__name__
    if not isinstance(content, Mapping):
        return f"a {kind}"
    names = ", ".join(repr(name) for name in list(content)[:10])
    return f"a {kind} of {names}{', ...' if len(content) > 10 else ''}" if content else f"an empty {kind}"


def _open_index(path: str) -> Tensors:
    """Open the shards that an index file lists."""
    try:
        with builtins.open(path, "rb") as file:
            index = json.load(file)
        places = index["weight_map"]
        if not all(isinstance(shard, str) for shard in places.values()):
            raise TypeError("a shard of weight_map is not a string")
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"cannot open {path!r}: expected an index file, JSON with an object 'weight_map' that names the shard of"
            f" each tensor, but it is damaged or of another kind ({type(error).__name__}: {error}): download it again"
        ) from error
    folder = os.path.dirname(path)
    shards = list(dict.fromkeys(places.values()))
    for shard in shards:
        _check_shard_name(path, shard)
    metadata = index.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return _open_shards(path, [os.path.join(folder, shard) for shard in shards], places, metadata)


def _check_shard_name(path: str, shard: str) -> None:
    """Raise unless a shard lies in the folder of its index, or below; what a link there points to is the user's."""
    posix, windows = PurePosixPath(shard), PureWindowsPath(shard)
    if not shard or "\0" in shard or windows.drive or windows.root or posix.root or ".." in windows.parts:
        raise CheckpointError(
            f"cannot open {path!r}: it names the shard {shard!r}, which is not a path inside its own folder:"
            " don't trust this index"
        )


def _open_shards(path: str, shards: list[str], places: Mapping[str, str], metadata: Mapping[str, Any]) -> Tensors:
    """Open files that make up one model; ``places`` says which file each name is expected in."""
    missing = [shard for shard in shards if not os.path.isfile(shard)]
    if missing:
        raise FileNotFoundError(
            f"cannot open {path!r}: {len(missing)} of its {len(shards)} shards are missing:"
            f" {', '.join(map(repr, missing))}: download or copy them there"
        )
    homes: dict[str, str] = {}
    tensors: dict[str, Any] = {name: None for name in places}  # in the order of the index
    files: list[MappedFile] = []
    versions: dict[str, Any] = {}
    for shard in shards:
        opened = _open_file(shard, None)
        versions |= getattr(opened, "_metadata", {})
        files += opened._files
        for name, tensor in opened.items():
            if name in homes:
                raise CheckpointError(
                    f"cannot open {path!r}: {name!r} is in two shards, {homes[name]!r} and {shard!r}: remove the shards"
                    " of another model or an earlier download"
                )
            homes[name] = shard
            tensors[name] = tensor
    for name, shard in places.items():
        if homes.get(name) != os.path.join(os.path.dirname(path), shard):
            where = f"is in {homes[name]!r}" if name in homes else "is in none"
            raise CheckpointError(
                f"cannot open {path!r}: it says that {name!r} is in the shard {shard!r}, but it {where}: index and"
                " shards are of different models: download them together"
            )
    return Tensors(path, tensors, files, metadata, versions or None)
