"""Files for the tests of PyTorch's formats: pickles of any content, tar archives of its first releases, broken ones."""

import io
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from jaxmodules.checkpoint._torch_zip import ZipWriter

MAGIC = 0x1950A86A20F9469CFC6C


class Name(NamedTuple):
    """A global in a pickle."""

    name: str


class Call(NamedTuple):
    """A call of a global in a pickle."""

    name: str
    args: tuple[Any, ...]


class Pid(NamedTuple):
    """A reference out of a pickle."""

    key: Any


def dump(value: Any) -> bytes:
    """Return the pickle of plain values, globals, calls and references."""
    return b"\x80\x02" + opcodes(value) + b"."


def opcodes(value: Any) -> bytes:
    """Return what puts a value on the stack."""
    match value:
        case Name(name):
            return b"c" + name.replace(" ", "\n").encode() + b"\n"
        case Call(name, args):
            return opcodes(Name(name)) + b"(" + b"".join(map(opcodes, args)) + b"tR"
        case Pid(key):
            return opcodes(key) + b"Q"
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(k) + opcodes(v) for k, v in value.items()) + b"u"
    return pickle.dumps(value, protocol=2)[2:-1]


def storage(key: str = "0", count: Any = 4, kind: str = "torch FloatStorage") -> Pid:
    """Return the reference to a storage of the zip format."""
    return Pid(("storage", Name(kind), key, "cpu", count))


def tensor(size: Any = (4,), stride: Any = (1,), offset: Any = 0, of: Any = None, metadata: Any = None) -> Call:
    """Return the call that makes a tensor."""
    args = (of or storage(), offset, size, stride, False, Call("collections OrderedDict", ()))
    return Call("torch._utils _rebuild_tensor_v2", args if metadata is None else (*args, metadata))


def make_zip(program: bytes, content: bytes = bytes(16), **entries: bytes) -> bytes:
    """Return a file of the zip format, which has one storage of 16 bytes."""
    file = io.BytesIO()
    archive = ZipWriter(file)
    archive.add("a/data.pkl", program)
    for name, value in entries.items():
        archive.add(f"a/{name}", value)
    archive.add("a/data/0", content)
    archive.close()
    return file.getvalue()


def make_stream(program: bytes, keys: Any, *storages: bytes) -> bytes:
    """Return a file of the format before 1.6; a storage begins with the number of its elements."""
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    return dump(MAGIC) + dump(1001) + dump(info) + program + dump(keys) + b"".join(storages)


def make_tar(tensors: dict[str, torch.Tensor]) -> bytes:
    """Return a state dict as PyTorch 0.1.1 wrote it: storages, a view of each, and the tensors, in a tar archive."""
    storages, described = dump(len(tensors)), dump(len(tensors))
    views = []
    for key, value in enumerate(tensors.values()):
        kind = value.type().removesuffix("Tensor")
        flat = torch.as_strided(value, (value.untyped_storage().nbytes() // value.element_size(),), (1,), 0)
        storages += dump((key, "cpu", Name(kind.replace(".", " ") + "Storage")))
        storages += struct.pack("<q", len(flat)) + flat.numpy().tobytes()
        views.append((key + 1000, key, 0, len(flat)))
        described += dump((key + 2000, key + 1000, Name(kind.replace(".", " ") + "Tensor")))
        described += struct.pack(
            f"<ii{2 * value.ndim + 1}q", value.ndim, 0, *value.shape, *value.stride(), value.storage_offset()
        )
    program = dump(Call("collections OrderedDict", ([[name, Pid(str(i + 2000))] for i, name in enumerate(tensors)],)))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        members = {"sys_info": dump({}), "pickle": program, "tensors": described, "storages": storages + dump(views)}
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1.5  # a time that needs a header of its own
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def seeds() -> dict[str, bytes]:
    """Return small whole files of every format."""
    x = torch.arange(6.0).reshape(2, 3)
    parameter = torch.nn.Parameter(x)
    obj = {
        "tied": [x, x], "t": x.T, "half": x[:1].bfloat16(), "f8": torch.ones(2).to(torch.float8_e4m3fn), "p": parameter,
        "n": (1, 2.5, None, True, 2**70, "text", b"\xff"), "conj": torch.ones(1, dtype=torch.complex64).conj(),
        "meta": torch.ones(2, device="meta"), "size": x.shape, "dtype": x.dtype, "device": x.device, "set": {1},
        "net": torch.nn.Linear(1, 2).state_dict(), "empty": torch.zeros(0, 3), "flag": torch.tensor([True]),
    }  # fmt: skip
    files = {}
    for name, is_zip in (("zip", True), ("stream", False)):
        file = io.BytesIO()
        torch.save(obj, file, _use_new_zipfile_serialization=is_zip)
        files[name] = file.getvalue()
    arrays = {
        "w": np.arange(4.0),
        "i": np.int64(3),
        "f": np.asfortranarray(np.ones((2, 3), np.float32)),
        "l": [1, ("a",)],
    }
    files |= {f"pickle{protocol}": pickle.dumps(arrays, protocol=protocol) for protocol in (2, 4, 5)}
    return files | {"tar": make_tar({"a": x, "b": x.T, "c": torch.arange(2)})}


GLOBALS = [
    "os system", "posix system", "builtins eval", "builtins exec", "__builtin__ getattr", "subprocess Popen",
    "builtins __import__", "torch.nn.modules.linear Linear", "torch._utils _rebuild_sparse_tensor", "numpy load",
    "torch.hub load", "functools partial", "torch _rebuild_tensor_v2", "collections OrderedDict", "torch Size",
    "collections Counter", "__builtin__ set", "__builtin__ bytearray", "__builtin__ complex", "_codecs encode",
    "torch device", "torch float32", "torch FloatStorage", "torch.storage UntypedStorage", "torch Tensor",
    "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter", "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_device_tensor_from_numpy", "torch._utils _rebuild_device_tensor_from_cpu_tensor",
    "torch._tensor _rebuild_from_type_v2", "torch.serialization _get_layout", "torch.nn.parameter Parameter",
    "numpy dtype", "numpy._core.multiarray scalar", "numpy._core.multiarray _reconstruct", "numpy ndarray",
    "numpy._core.numeric _frombuffer", "torch complex32", "torch QInt8Storage",
]  # fmt: skip

NUMBERS = (0, 1, -1, 2, 3, 255, 2**31 - 1, -(2**31), 2**32, 2**40, 2**62, 2**63, -(2**63), 2**64, 2**200)


def random_value(chance: random.Random, depth: int = 3) -> Any:
    """Return a value such as a hostile program may hand to a function."""
    kind = chance.randrange(15 if depth else 6)
    if kind < 3:
        return chance.choice(
            (*NUMBERS, None, True, 1.5, float("nan"), "", "0", "cpu", "latin1", "f4", "<", b"\xff\0", "a" * 99)
        )
    if kind < 6:
        return chance.choice((storage(), storage("0", chance.choice(NUMBERS)), tensor(), Name(chance.choice(GLOBALS))))
    parts = [random_value(chance, depth - 1) for _ in range(chance.randrange(6))]
    if kind < 8:
        return tuple(parts)
    if kind < 9:
        return parts
    if kind < 10:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        return {key: value for key, value in pairs if not isinstance(key, list | dict | tuple)}
    if kind < 12:
        sizes = [tuple(chance.choice(NUMBERS[:12]) for _ in range(chance.randrange(4))) for _ in range(2)]
        return tensor(*sizes, chance.choice((0, *NUMBERS)), storage("0", chance.choice((4, 2**40))))
    if kind < 13:
        return Call(chance.choice(GLOBALS), tuple(parts))
    return fitting_call(chance, parts)


DTYPES = "bool int8 int64 float32 float64 bfloat16 complex64 float8_e5m2 float8_e8m0fnu uint16".split()


def fitting_call(chance: random.Random, parts: list[Any]) -> Call:
    """Return a call that is right but for what it is given besides, or for one dtype in the place of another."""
    code, count = chance.choice((("b1", 8), ("i1", 8), ("f4", 2), ("f8", 1), ("c8", 1), ("O", 1), ("V8", 1)))
    numpy_dtype = Call("numpy dtype", (code, False, True))
    array = Call(
        "numpy._core.numeric _frombuffer", (Call("_codecs encode", ("\xff" * 8, "latin1")), numpy_dtype, (1,), "C")
    )
    dtype = chance.choice((Name(f"torch {chance.choice(DTYPES)}"), numpy_dtype, array))
    untyped = storage("0", 16, "torch.storage UntypedStorage")
    bits = {chance.choice(("conj", "neg")): True}
    return chance.choice(
        (
            Call("torch._utils _rebuild_tensor_v3", (untyped, 0, (1,), (1,), False, None, dtype, bits)),
            Call("torch._utils _rebuild_device_tensor_from_numpy", (array, dtype, "cpu", False)),
            Call("torch._utils _rebuild_parameter", (array, True, None)),
            Call("torch._utils _rebuild_parameter_with_state", (tensor(), True, None, tuple(parts))),
            Call("torch._tensor _rebuild_from_type_v2", (array, Name("torch Tensor"), (), {})),
            Call("torch._tensor _rebuild_from_type_v2", (Name("torch._utils _rebuild_tensor"), None, tuple(parts), {})),
            Call("numpy._core.multiarray scalar", (dtype, b"\xff" * 8)),
            Call("collections Counter", ({array: 1} if parts else {1: array},)),
            Call("collections OrderedDict", ([[part, part] for part in parts],)),
            Call("__builtin__ set", ([array, *parts],)),
            Call("_codecs encode", ("a", array)),
        )
    )


def random_program(chance: random.Random) -> bytes:
    """Return a pickle of random opcodes, most of them with arguments that fit."""
    program = bytearray(b"\x80\x02")
    for _ in range(chance.randrange(1, 30)):
        kind = chance.randrange(4)
        if kind == 0:
            program += opcodes(random_value(chance, 2))
        elif kind == 1:
            program += chance.choice(
                (b"q\0", b"h\0", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"\x94", b"h\1", b"q\1")
            )
        elif kind == 2:
            program += bytes([chance.choice(b"(0]}l)td\x85\x86\x87aesuRbQ\x81\x8f\x90\x91\x93N2102oi\x92\x97\x98")])
        else:
            head = chance.choice(
                (b"\x8e", b"\x8d", b"\x96", b"\x95", b"B", b"X", b"T", b"\x8b", b"\x84", b"\x8a", b"I", b"G")
            )
            program += head + struct.pack("<Q", chance.choice((0, 3, 2**31, 2**33, 2**63)))
    return bytes(program) + b"." * chance.randrange(2)


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Return a file cut off, with flipped bits, with numbers replaced, or with a piece moved."""
    broken = bytearray(data)
    kind = chance.randrange(6)
    if kind == 0:
        return data[: chance.randrange(len(data))]
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(broken))
        if kind < 3:
            broken[place] ^= 1 << chance.randrange(8)
        elif kind == 3:
            broken[place] = chance.choice(b".(0tRbQqhjrsuaeXBT\x80\x8e\xff\0")
        elif kind == 4:
            number = chance.choice((0, 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            raw = number.to_bytes(8, "little")[: chance.choice((1, 2, 4, 8))]
            broken[place : place + len(raw)] = raw
        else:
            start = chance.randrange(len(broken))
            broken[place:place] = broken[start : start + chance.randrange(64)]
    return bytes(broken)


def broken_files(count: int, seed: int) -> Iterator[bytes]:
    """Yield files that are truncated, damaged or made to do harm."""
    chance = random.Random(seed)
    whole = seeds()
    names = list(whole)
    inner = read_program(whole["zip"])
    for number in range(count):
        kind = number % 8
        if kind < 4:
            yield mutate(chance, whole[chance.choice(names)])
        elif kind == 4:
            yield make_zip(mutate(chance, inner))  # with a checksum that fits
        elif kind == 5:
            yield make_zip(random_program(chance))
        elif kind == 6:
            yield make_zip(dump(random_value(chance)))
        else:
            program = chance.choice((random_program(chance), dump(random_value(chance))))
            yield chance.choice((program, make_stream(program, ["0"], struct.pack("<q", 4) + bytes(16))))


def read_program(data: bytes) -> bytes:
    """Return the pickle of a file of the zip format."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
