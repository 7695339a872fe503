"""Read what ``torch.save`` writes, in each of its formats, without torch.

- The zip format (since 1.6): ``<name>/data.pkl`` is the pickle, ``<name>/data/<key>`` the bytes of a storage.
- The stream before it: five pickles (a magic number, a version, facts about the machine, the object, the keys of
  the storages), and then for each key the number of its elements and the elements.
- The tar format (before 0.1.10): files ``storages``, ``tensors`` and ``pickle``, which refers to the tensors.

Whatever the format, a storage is a view of the file's bytes, mapped into memory where it is a real file, and a tensor
is a view of its storage: nothing is read before it is used.
"""

import mmap
import os
import struct
import zipfile
import zlib
from typing import IO, Any

import numpy as np

from jaxmodules.checkpoint._errors import CheckpointError
from jaxmodules.checkpoint._torch_pickle import Machine, describe
from jaxmodules.checkpoint._torch_world import Box, Kind, Leaf, Storage, World

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_NEWEST = 10
_LONGEST_HEADER = 100_000_000  # of a safetensors file
_SPARE = 1 << 26
_LITTLE, _BIG = b"little", b"big"


def is_torch(data: memoryview) -> bool:
    """Tell whether bytes begin like a zip archive, a tar archive or a pickle, and not like safetensors."""
    is_safetensors = data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _LONGEST_HEADER
    return not is_safetensors and any(is_kind(data) for _, is_kind, _ in _FORMATS)


def read(data: memoryview, leaf: Leaf, box: Box = lambda array, requires_grad: array) -> Any:
    """Return the object in a file of PyTorch's, or in a plain pickle of plain values and NumPy arrays.

    Args:
        data: the whole file.
        leaf: ``leaf(array, location)`` returns what a tensor becomes, once for each place in a storage: tensors that
            were tied are one object. ``array`` is a read-only view of ``data``, of any strides; ``location`` is where
            PyTorch had it, such as ``"cuda:0"``.
        box: ``box(value, requires_grad)`` returns what a ``torch.nn.Parameter`` becomes, given what ``leaf`` returned.

    Raises:
        CheckpointError: the file is damaged, or of another kind; a ``pickle.UnpicklingError`` too if it asks for what
            could run code.
    """

    def checked(array: np.ndarray, location: str) -> Any:
        _check_length(data)
        return leaf(array, location)

    for kind, is_kind, reader in _FORMATS:
        if is_kind(data):
            try:
                return reader(data, checked, box)
            except CheckpointError as error:
                raise type(error)(f"it is {kind}, but cannot be read: {error}") from None
    raise CheckpointError("it is of none of the formats that torch.save writes")


def open_bytes(path: str | os.PathLike[str] | IO[bytes], is_mapped: bool | None = None) -> memoryview:
    """Return the bytes of a file from where it stands: mapped into memory, or read where that cannot be."""
    if not isinstance(path, str | os.PathLike):
        content = path.read()
        if not isinstance(content, bytes | bytearray | memoryview):
            raise TypeError(
                f"expected a file opened in binary mode, got one of {type(content).__name__}: open it as 'rb'"
            )
        return memoryview(content)
    with open(path, "rb") as file:
        if is_mapped is False or os.fstat(file.fileno()).st_size == 0:
            return memoryview(file.read())
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # a pipe, or a file system without maps
            return memoryview(file.read())


def _check_length(data: memoryview) -> None:
    """Raise if a mapped file is shorter than it was: to read on would kill the process."""
    if isinstance(data.obj, mmap.mmap) and data.obj.size() < len(data):
        raise CheckpointError("it has been cut short since it was opened: let the program that writes it finish")


class _Zip:
    """A zip archive over some bytes."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._inflatable = _SPARE + 8 * len(data)
        try:
            with zipfile.ZipFile(_View(data)) as archive:
                infos = archive.infolist()
        except _ZIP_ERRORS as error:
            raise CheckpointError(f"its directory is damaged: {error}") from error
        self.entries = {info.filename: info for info in infos}
        if len(self.entries) != len(infos):
            raise CheckpointError("two of its entries have one name")

    def read(self, leaf: Leaf, box: Box) -> Any:
        """Return the object that the archive holds."""
        folder = self._folder()
        self._check_version(folder)
        order = self.bytes_of(f"{folder}byteorder") if f"{folder}byteorder" in self.entries else _LITTLE
        if order not in (_LITTLE, _BIG):
            raise CheckpointError(f"its byte order is {order[:20]!r}, expected {_LITTLE!r} or {_BIG!r}")
        storages: dict[Any, memoryview] = {}

        def persistent(key: Any) -> Storage:
            name, kind, location, count = _storage_id(key, 5)
            if name not in storages:
                storages[name] = self.view_of(f"{folder}data/{name}")
            item = kind.dtype.itemsize if kind.dtype is not None else 1
            if count * item > len(storages[name]):
                raise CheckpointError(
                    f"its storage {name!r} has {len(storages[name]):,} bytes, too few for {count:,} elements of {item}"
                )
            return Storage(name, 0, kind.dtype, storages[name][: count * item], location, order == _BIG)

        program = self.bytes_of(f"{folder}data.pkl")
        return Machine(program, World(persistent, leaf, box, len(self.data))).run()

    def _folder(self) -> str:
        """Return the folder within the archive that everything is in, and a slash, or nothing."""
        folders = [name.removesuffix("data.pkl") for name in self.entries if f"/{name}".endswith("/data.pkl")]
        if any(f"/{name}".endswith("/constants.pkl") for name in self.entries):
            raise CheckpointError(
                "it is TorchScript, which is a program and not weights alone: in torch,"
                " torch.save(torch.jit.load(path).state_dict(), path), and load that"
            )
        if any(name.endswith(".npy") for name in self.entries):
            raise CheckpointError("it is of NumPy's .npz format: read it with numpy.load")
        if not folders:
            raise CheckpointError("it has no data.pkl")
        return min(folders, key=lambda folder: (folder.count("/"), folder))

    def _check_version(self, folder: str) -> None:
        for name in (f"{folder}version", f"{folder}.data/version"):
            if name in self.entries:
                version = self.bytes_of(name).strip()
                if not version.isdigit() or len(version) > 9:
                    raise CheckpointError(f"its version is {version[:20]!r}, expected a number")
                if int(version) > _NEWEST:
                    raise CheckpointError(
                        f"its version is {int(version)}, expected at most {_NEWEST}: update jaxmodules"
                    )

    def bytes_of(self, name: str) -> bytes:
        """Return the content of an entry, which must agree with its checksum if it has one."""
        content = bytes(self.view_of(name))
        checksum = self.entries[name].CRC
        if checksum and zlib.crc32(content) != checksum:  # torch leaves it out on request
            raise CheckpointError(f"its entry {name!r} is damaged: the checksum differs")
        return content

    def view_of(self, name: str) -> memoryview:
        """Return the content of an entry: where it lies in the file, unless it is compressed."""
        _check_length(self.data)
        info = self.entries.get(name)
        if info is None:
            raise CheckpointError(f"it has no entry {name[:200]!r}, which its pickle refers to")
        head = bytes(self.data[info.header_offset : info.header_offset + 30]) if info.header_offset >= 0 else b""
        if len(head) != 30 or head[:4] != b"PK\x03\x04" or info.flag_bits & 1:
            raise CheckpointError(f"its entry {name!r} is damaged, or encrypted")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
        content = self.data[start : start + info.compress_size]
        if len(content) != info.compress_size:
            raise CheckpointError(f"its entry {name!r} is cut off")
        if info.compress_type == zipfile.ZIP_DEFLATED:
            return self._inflate(name, content, info.file_size)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise CheckpointError(f"its entry {name!r} is compressed by an unknown method")
        return content

    def _inflate(self, name: str, content: memoryview, size: int) -> memoryview:
        self._inflatable -= size
        if self._inflatable < 0:
            raise CheckpointError(f"its entry {name!r} inflates to {size:,} bytes, more than such a file may hold")
        try:
            inflated = zlib.decompressobj(-15).decompress(content, size + 1)
        except zlib.error as error:
            raise CheckpointError(f"its entry {name!r} is damaged: {error}") from error
        if len(inflated) != size:
            raise CheckpointError(f"its entry {name!r} inflates to another size than the {size:,} bytes it should")
        return memoryview(inflated)


_ZIP_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, struct.error, LookupError, EOFError, OverflowError, ValueError, UserWarning
)  # fmt: skip


class _View:
    """Some bytes as a file to read, whose reads take no more memory than there are bytes."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self._position, len(self._data))[whence]
        if position < 0:
            raise ValueError("an offset lies before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        end = None if count < 0 else self._position + count
        taken = bytes(self._data[self._position : end])
        self._position += len(taken)
        return taken


def _storage_id(key: Any, length: int) -> tuple[Any, Kind, str, int]:
    """Return the key, class, place and number of elements that a persistent id gives for a storage."""
    if type(key) is not tuple or len(key) != length or describe(key[0]) != "'storage'":
        raise CheckpointError(f"its pickle refers to {describe(key)}, expected a storage")
    _, kind, name, location, count = key[:5]
    if not isinstance(kind, Kind) or not _is_name(name):
        raise CheckpointError(f"its pickle refers to a storage of {describe(kind)} by {describe(name)}")
    if type(count) is not int or not 0 <= count < 1 << 60:
        raise CheckpointError(f"its pickle refers to a storage of {describe(count)} elements")
    return name, kind, location if type(location) is str else "cpu", count


def _is_name(key: Any) -> bool:
    return type(key) is str or (type(key) is int and abs(key) < 1 << 64)


class _Stream:
    """Pickles and storages one after the other."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def pickle(self, world: World) -> Any:
        """Run the pickle that is next."""
        machine = Machine(self.data, world, self.position)
        value = machine.run()
        self.position = machine.position
        return value

    def numbers(self, form: str) -> tuple[int, ...]:
        """Return the numbers that are next."""
        return struct.unpack(form, self.bytes(struct.calcsize(form)))

    def bytes(self, count: int) -> memoryview:
        """Return the bytes that are next."""
        taken = self.data[self.position : self.position + count]
        if len(taken) != count:
            raise CheckpointError("it is cut off in the middle of a storage")
        self.position += count
        return taken

    def storage(self, item: int) -> memoryview:
        """Return the storage that is next: how many elements there are, and these."""
        (count,) = self.numbers("<q")
        if not 0 <= count < 1 << 60:
            raise CheckpointError(f"it has a storage of {count} elements")
        return self.bytes(count * item)


def _nothing(key: Any) -> Any:
    raise CheckpointError(f"its pickle refers to {describe(key)}, which there is not")


def _plain(size: int, leaf: Leaf | None = None) -> World:
    return World(_nothing, leaf or (lambda array, location: array), lambda value, _: value, size)


def _read_stream(data: memoryview, leaf: Leaf, box: Box) -> Any:
    stream = _Stream(data)
    first = stream.pickle(_plain(len(data), leaf))
    if type(first) is not int or first != _MAGIC:
        return first
    version, _ = stream.pickle(_plain(0)), stream.pickle(_plain(0))
    if type(version) is not int or version != _PROTOCOL:
        raise CheckpointError(f"its version is {describe(version)}, expected {_PROTOCOL}")
    start, kinds = stream.position, {}

    def note(key: Any) -> Storage:
        name, kind, _, _ = _storage_id(key, 6)
        kinds.setdefault(name, kind)
        return Storage(name, 0, kinds[name].dtype, None)

    stream.pickle(World(note, lambda *_: object(), lambda value, _: value, len(data)))  # the storages come after it
    program = bytes(data[start : stream.position])
    keys = stream.pickle(_plain(0))
    if type(keys) is not list or len(keys) != len(kinds) or not all(map(_is_name, keys)):
        raise CheckpointError(f"it has a list of storages that is {describe(keys)}, expected one of {len(kinds)}")
    storages = {}
    for name in keys:
        if name not in kinds or name in storages:
            raise CheckpointError(f"it has a storage {describe(name)}, that its pickle does not name, or one twice")
        dtype = kinds[name].dtype
        storages[name] = stream.storage(1 if dtype is None else dtype.itemsize)

    def persistent(key: Any) -> Storage:
        name, _, location, count = _storage_id(key, 6)
        dtype, content = kinds[name].dtype, storages[name]
        item = 1 if dtype is None else dtype.itemsize
        if count * item > len(content):
            raise CheckpointError(f"its storage {name!r} has {len(content):,} bytes, too few for {count:,} elements")
        return _part(Storage(name, 0, dtype, content, location), key[5])

    return Machine(program, World(persistent, leaf, box, len(data))).run()


def _part(whole: Storage, view: Any) -> Storage:
    """Return the part of a storage that a ``(key, offset, size)`` names, in elements, or all of it for ``None``."""
    if view is None:
        return whole
    if type(view) is not tuple or len(view) != 3 or not all(type(n) is int and 0 <= n < 1 << 60 for n in view[1:]):
        raise CheckpointError(f"its pickle refers to {describe(view)} of a storage")
    item = 1 if whole.dtype is None else whole.dtype.itemsize
    start, end = view[1] * item, (view[1] + view[2]) * item
    if whole.data is None or end > len(whole.data):
        raise CheckpointError(f"its pickle refers to a part of the storage {whole.key!r} that reaches beyond its end")
    return whole._replace(start=whole.start + start, data=whole.data[start:end])


def _read_tar(data: memoryview, leaf: Leaf, box: Box) -> Any:
    members = _members(data)
    storages = _read_storages(_Stream(members["storages"]))
    stream = _Stream(members["tensors"])
    world = World(_nothing, leaf, box, len(data))
    tensors = {}
    for _ in range(_count(stream.pickle(_plain(0)))):
        entry = stream.pickle(_plain(0))
        if type(entry) is not tuple or len(entry) != 3 or not all(map(_is_name, entry[:2])):
            raise CheckpointError(f"it has a tensor that is {describe(entry)}")
        if entry[1] not in storages:
            raise CheckpointError(f"it has a tensor of the storage {describe(entry[1])}, which there is not")
        (dims, _) = stream.numbers("<ii")
        if not 0 <= dims <= 64:
            raise CheckpointError(f"it has a tensor of {dims} dimensions")
        size, stride = stream.numbers(f"<{dims}q"), stream.numbers(f"<{dims}q")
        storage = storages[entry[1]]
        tensors[str(entry[0])] = world.tensor(storage, stream.numbers("<q")[0], size, stride, storage.dtype)

    def persistent(key: Any) -> Any:
        if not _is_name(key) or str(key) not in tensors:
            raise CheckpointError(f"its pickle refers to {describe(key)}, which is none of its tensors")
        return tensors[str(key)]

    world.persistent = persistent
    return Machine(members["pickle"], world).run()


def _read_storages(stream: _Stream) -> dict[Any, Storage]:
    storages = {}
    for _ in range(_count(stream.pickle(_plain(0)))):
        entry = stream.pickle(_plain(0))
        if type(entry) is not tuple or len(entry) != 3 or not _is_name(entry[0]):
            raise CheckpointError(f"it has a storage that is {describe(entry)}")
        key, location, kind = entry
        if not isinstance(kind, Kind) or kind.dtype is None:
            raise CheckpointError(f"it has a storage of {describe(kind)}")
        where = location if type(location) is str else "cpu"
        storages[key] = Storage(key, 0, kind.dtype, stream.storage(kind.dtype.itemsize), where)
    views = stream.pickle(_plain(0))
    if type(views) is not list:
        raise CheckpointError(f"it has {describe(views)} where the views of its storages should be")
    for view in views:
        is_whole = type(view) is tuple and len(view) == 4 and all(map(_is_name, view[:2]))
        if not is_whole or view[1] not in storages:
            raise CheckpointError(f"it has a view of a storage that is {describe(view)}")
        storages[view[0]] = _part(storages[view[1]], view[1:])
    return storages


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise CheckpointError(f"it has {describe(value)} where a number of tensors or storages should be")
    return value


def _members(data: memoryview) -> dict[str, memoryview]:
    """Return the files in a tar archive."""
    members: dict[str, memoryview] = {}
    position = 0
    while position + 512 <= len(data) and data[position] != 0:
        head = bytes(data[position : position + 512])
        digits = head[124:136].strip(b" \0")
        try:
            size = int.from_bytes(head[125:136], "big") if head[124] & 0x80 else int(digits or b"0", 8)
        except ValueError as error:
            raise CheckpointError("its directory is damaged") from error
        content = data[position + 512 : position + 512 + size]
        if size < 0 or len(content) != size:
            raise CheckpointError("it is cut off")
        if head[156:157] in b"0\0":
            members[head[:100].rstrip(b"\0").decode("utf-8", "replace").removeprefix("./")] = content
        position += 512 + -(-size // 512) * 512
    missing = {"storages", "tensors", "pickle"} - members.keys()
    if missing:
        raise CheckpointError(f"it has no {', '.join(sorted(missing))}")
    return members


def _read_zip(data: memoryview, leaf: Leaf, box: Box) -> Any:
    return _Zip(data).read(leaf, box)


_FORMATS = (
    ("a zip archive, as torch.save writes", lambda data: data[:4] == b"PK\x03\x04", _read_zip),
    ("a tar archive, as early PyTorch wrote", lambda data: data[257:262] == b"ustar", _read_tar),
    (
        "a Python pickle",
        lambda data: data[:1] == b"\x80" and data[1:2].tobytes() in (b"\1", b"\2", b"\3", b"\4", b"\5"),
        _read_stream,
    ),
)
