"""Files that are cut off, damaged or made to do harm give a CheckpointError: nothing runs, hangs or fills memory."""

import io
import pickle
import resource
import struct
import sys
import time
import zipfile
from typing import Any

import pytest

import jaxmodules as jm
from jaxmodules.checkpoint import CheckpointError
from tests.checkpoint.torch_files import (
    GLOBALS,
    Call,
    Name,
    broken_files,
    dump,
    make_stream,
    make_zip,
    opcodes,
    seeds,
    storage,
    tensor,
)

COUNT = 10_000
GROUPS = 10
LONGEST = 20.0  # seconds: it is a hang that this is to find, on a machine that does other things too
MOST = 100  # megabytes: the tensors of any file may take 64
WATCHED = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "exec", "compile", "open", "pickle.find_class")


class Watch:
    """Notes what Python does that loading a file from memory has no need of."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_on = False
        sys.addaudithook(self._note)  # there is no way to remove it

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.is_on and event.startswith(WATCHED):
            self.events.append(f"{event} {str(args)[:200]}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    for data in seeds().values():  # what is imported at the first use is, before anything counts
        jm.load(io.BytesIO(data))
    b"\xff".decode("cp437")  # the names in archives may be in it
    return Watch()


def megabytes() -> float:
    """Return how much memory this process has ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def attempt(data: bytes, watch: Watch) -> bool:
    """Load a file and tell whether it was refused; nothing but a CheckpointError may come out."""
    watch.events.clear()
    watch.is_on = True
    before, start = megabytes(), time.perf_counter()
    try:
        jm.load(io.BytesIO(data))
    except CheckpointError as error:
        assert str(error).startswith("cannot load the BytesIO: ")
        return True
    finally:
        watch.is_on = False
        assert time.perf_counter() - start < LONGEST
        assert megabytes() - before < MOST
        assert not watch.events
    return False


@pytest.mark.parametrize("group", range(GROUPS))
def test_broken_files_give_checkpoint_errors(group: int, watch: Watch) -> None:
    refused = sum(attempt(data, watch) for data in broken_files(COUNT // GROUPS, seed=group))
    assert COUNT // GROUPS * 0.6 < refused < COUNT // GROUPS  # the rest is whole where it matters


@pytest.mark.parametrize("name", ["zip", "stream", "tar", "pickle4"])
def test_every_truncation_is_noticed(name: str, watch: Watch) -> None:
    data = seeds()[name]
    end = len(data.rstrip(b"\0"))  # a tar archive ends in zeros
    for length in range(0, end, 7):
        assert attempt(data[:length], watch), length


UNSAFE = [n for n in GLOBALS if n.split()[0] in ("os", "posix", "builtins", "subprocess", "functools", "torch.hub")]


@pytest.mark.parametrize("name", UNSAFE)
def test_globals_that_could_run_code_are_named(name: str) -> None:
    program = dump({"state": Call(name, ("echo harm",))})
    for data in (make_zip(program), make_stream(program, ["0"]), program):
        with pytest.raises(pickle.UnpicklingError, match=f"GLOBAL {name.replace(' ', '.')} was not an allowed global"):
            jm.load(io.BytesIO(data))


def nested(depth: int) -> bytes:
    """Return the opcodes of a tuple that holds 2**depth values, each level twice the one before."""
    return b")" + b"q\0h\0\x86" * depth


def call(name: str, argument: bytes) -> bytes:
    """Return a file in which a global is called with one argument."""
    return make_zip(b"\x80\x02" + opcodes(Name(name)) + argument + b"\x85R.")


def repeated(name: str, value: bytes, times: int) -> bytes:
    """Return a file in which a global is called with one long value, again and again."""
    return make_zip(b"\x80\x02" + opcodes(Name(name)) + b"q\0" + value + b"\x85q\1" + b"h\0h\1R0" * times + b"N.")


def deflated(size: int) -> bytes:
    """Return an archive whose storage is of so many compressed bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", dump(tensor((1,))))
        archive.writestr("a/data/0", bytes(size))
    return file.getvalue()


def keys(numbers: range) -> bytes:
    """Return a file with a dict of ints."""
    items = b"".join(b"\x8a\x0b" + number.to_bytes(11, "little") + b"N" for number in numbers)
    return make_zip(b"\x80\x02}(" + items + b"u.")


LONG_TUPLE = b"(" + b"K\1" * 20_000 + b"t"
LONG_TEXT = b"X" + struct.pack("<I", 20_000) + b"a" * 20_000
HASH_MODULUS = (1 << 61) - 1

BOMBS = {
    "a key that takes for ever to hash": make_zip(b"\x80\x02}" + nested(60) + b"Ns."),
    "keys of one hash": keys(range(HASH_MODULUS << 10, HASH_MODULUS << 11, HASH_MODULUS)[:20_000]),
    "a message that takes for ever to spell": call("torch device", nested(60)),
    "a size that takes for ever to spell": make_zip(dump(tensor()).replace(opcodes((4,)), nested(60))),
    "a persistent id that takes for ever to spell": make_zip(b"\x80\x02" + nested(60) + b"Q."),
    "copies of a tuple": repeated("torch Size", LONG_TUPLE, 20_000),
    "copies as a set": repeated("__builtin__ set", LONG_TUPLE, 20_000),
    "copies of bytes": repeated("_codecs encode", LONG_TEXT, 20_000),
    "one element expanded": make_zip(dump(tensor((1 << 40,), (0,)))),
    "one element expanded often": make_zip(dump([tensor((1 << 20, 2 + i), (0, 0)) for i in range(20)])),
    "overlapping windows": make_zip(dump(tensor((2,) * 40, (0,) * 40))),
    "more sizes than bytes": make_zip(dump(tensor((2**31, 2**31, 2**31), (0, 0, 0)))),
    "an empty tensor of giant sizes": make_zip(dump(tensor((0, 2**62, 2**62), (1, 1, 1)))),
    "an offset beyond the end": make_zip(dump(tensor((1,), (1,), 2**40))),
    "a stride beyond the end": make_zip(dump(tensor((2,), (2**62,)))),
    "a storage of more elements than bytes": make_zip(dump(tensor(of=storage("0", 2**40)))),
    "a storage of another file": make_zip(dump(tensor(of=storage("../../../etc/passwd")))),
    "bytes of giant length": make_zip(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"."),
    "a bytearray of giant length": make_zip(b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"."),
    "an int of giant length": make_zip(b"\x80\x02\x8b" + struct.pack("<I", 0x7FFFFFFF) + b"."),
    "digits of an int": make_zip(b"\x80\x02I" + b"9" * 100_000 + b"\n."),
    "marks without end": make_zip(b"\x80\x02" + b"(" * 20_000 + b"."),
    "an extension": make_zip(b"\x80\x02\x82\1."),
    "an instance": make_zip(b"\x80\x02(ios\nsystem\n."),
    "a deflated storage of a gigabyte": deflated(1 << 30),
    "a stream of giant storages": make_stream(dump(tensor()), ["0"], struct.pack("<q", 1 << 62)),
    "methods replaced": make_zip(dump(Call("collections OrderedDict", ()))[:-1] + opcodes({"items": 1}) + b"b."),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_bombs_are_defused(data: bytes, watch: Watch) -> None:
    assert attempt(data, watch)


HARMLESS = {
    "a memo at a giant index": make_zip(b"\x80\x02Nr\xff\xff\xff\xff0j\xff\xff\xff\xff."),
    "a list in itself": make_zip(b"\x80\x02]q\0h\0a."),
    "lists nested deeply": make_zip(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."),
    "tuples nested deeply": make_zip(b"\x80\x02)" + b"\x85" * 20_000 + b"."),
    "a tuple shared by itself": make_zip(b"\x80\x02" + nested(500) + b"."),
    "a giant tensor without data": make_zip(
        dump(Call("torch._utils _rebuild_meta_tensor_no_storage", (Name("torch float32"), (1 << 50,), (1,), False)))
    ),
}


@pytest.mark.parametrize("data", HARMLESS.values(), ids=HARMLESS)
def test_odd_files_that_do_no_harm_are_read(data: bytes, watch: Watch) -> None:
    assert not attempt(data, watch)
