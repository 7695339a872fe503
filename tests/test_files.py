"""``jm.save`` and ``jm.load``: what goes in comes out, whatever happens to the process or the file."""

import io
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import jaxmodules as jm
from jaxmodules.checkpoint import CheckpointError, load, save

DTYPES = (
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 complex64 complex128 int4"
    " uint4 float8_e4m3fn float8_e5m2 float8_e8m0fnu float8_e4m3fnuz float8_e5m2fnuz float8_e4m3b11fnuz"
).split()

PLAIN = [
    None, True, False, 0, -7, 2**63 - 1, -(2**63), 2**200, -(10**5000), 0.1, -0.0, 1e308, float("nan"), float("-inf"),
    1 - 2j, complex("nan-infj"), "", "τ\n\0", "\ud800", b"", b"\0\xff", [], {}, (), OrderedDict(), [[], ({},)],
    {1: "int", "1": "str", 1.5: "float", None: "none", b"b": "bytes", ("a", (2,)): "tuple", "array": "tag"},
]  # fmt: skip


class Box:
    """Stands in for a Parameter: behaves as an array through ``__jax_array__``."""

    def __init__(self, value: jax.Array) -> None:
        self.value = value

    def __jax_array__(self) -> jax.Array:
        return self.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def round_trip(obj: Any) -> Any:
    """Return ``obj`` after a trip through bytes."""
    file = io.BytesIO()
    save(obj, file)
    return load(io.BytesIO(file.getvalue()))


def make_array(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    kind = jnp.dtype(dtype)
    return (np.arange(np.prod(shape, dtype=int)) % 2).astype(np.float32).reshape(shape).astype(kind)


@pytest.mark.parametrize("value", PLAIN, ids=[f"{type(v).__name__}{i}" for i, v in enumerate(PLAIN)])
def test_plain_values_come_back_exactly(value: Any) -> None:
    loaded = round_trip(value)
    assert type(loaded) is type(value)
    assert repr(loaded) == repr(value) if not isinstance(value, int) else loaded == value


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back_exactly(dtype: str, shape: tuple[int, ...]) -> None:
    array = make_array(dtype, shape)
    loaded = round_trip({"a": array})["a"]
    assert loaded.dtype == array.dtype and loaded.shape == shape
    assert np.asarray(loaded).tobytes() == array.tobytes()
    assert isinstance(loaded, jax.Array) is (dtype not in ("int64", "uint64", "float64", "complex128"))


@pytest.mark.parametrize(
    "array",
    [np.arange(6)[::-2], np.arange(6).reshape(2, 3).T, np.arange(3, dtype=">i4"), np.float32(2), np.bool_(True)],
    ids=["reversed", "transposed", "big-endian", "scalar", "bool"],
)
def test_any_memory_layout_is_stored(array: Any) -> None:
    np.testing.assert_array_equal(round_trip(array), array)


def test_state_dict_keeps_order_type_and_metadata() -> None:
    state = OrderedDict([("z.weight", jnp.ones((2, 3))), ("a.bias", Box(jnp.arange(3.0))), ("n", jnp.array(4))])
    state._metadata = OrderedDict({"": {"version": 1}, "bn": {"version": 2}})
    loaded = round_trip({"model": state, "epoch": 3})["model"]
    assert type(loaded) is OrderedDict and list(loaded) == list(state)
    assert loaded._metadata == state._metadata and type(loaded._metadata) is OrderedDict
    np.testing.assert_array_equal(loaded["a.bias"], np.arange(3.0))


def test_net_and_optimizer_continue_from_a_file(path: Path) -> None:
    nets = [jm.nn.Sequential(jm.nn.Linear(3, 2), jm.nn.BatchNorm1d(2)) for _ in range(2)]
    optimizers = [jm.optim.Adam(net.parameters(), lr=0.1) for net in nets]
    x = jnp.arange(12.0).reshape(4, 3)

    def step(i: int) -> None:
        jm.backward(lambda: (nets[i](x) ** 3).sum(), nets[i])
        optimizers[i].step()

    step(0)
    save({"net": nets[0].state_dict(), "optimizer": optimizers[0].state_dict()}, path)
    nets[1].load_state_dict(load(path)["net"])
    optimizers[1].load_state_dict(load(path)["optimizer"])
    for net in nets:
        net.zero_grad()
    step(0), step(1)
    for ours, theirs in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_flat_dict_is_a_plain_safetensors_file(path: Path) -> None:
    arrays = {"b.weight": jnp.ones((2, 3)), "a#2": jnp.arange(4, dtype=jnp.int8), "": jnp.array(True)}
    save(arrays, path)
    theirs = load_file(path)
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)


def test_plain_safetensors_file_is_a_dict(path: Path) -> None:
    save_file({"w": np.ones((2, 3), np.float32), "a": np.zeros(0, np.int32)}, path, metadata={"format": "pt"})
    loaded = load(path)
    assert loaded.keys() == {"w", "a"} and all(isinstance(array, jax.Array) for array in loaded.values())


def test_paths_that_spell_the_same_stay_apart() -> None:
    arrays = {"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(2), "__metadata__": jnp.ones(3), "\ud800": jnp.ones(4)}
    assert str(round_trip(arrays)) == str(arrays)


def test_shared_arrays_are_stored_once_and_shared_again() -> None:
    array = jnp.ones(10_000)
    file = io.BytesIO()
    save({"encoder": Box(array), "decoder": [array, Box(array)], "copy": jnp.ones(1)}, file)
    assert len(file.getvalue()) < 42_000
    loaded = load(io.BytesIO(file.getvalue()))
    assert loaded["encoder"] is loaded["decoder"][0] is loaded["decoder"][1]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_keys_come_back_as_keys(impl: str) -> None:
    keys = jax.random.split(jax.random.key(7, impl=impl), 3)
    loaded = round_trip({"key": keys})["key"]
    assert loaded.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.uniform(loaded[1]), jax.random.uniform(keys[1]))


def test_x64_arrays_are_jax_arrays_under_x64() -> None:
    with jax.enable_x64(True):
        loaded = round_trip(jnp.arange(3, dtype=jnp.int64))
    assert isinstance(loaded, jax.Array) and loaded.dtype == jnp.int64


@pytest.mark.parametrize("spelling", [str, Path, lambda p: p.open("wb")], ids=["str", "Path", "file"])
def test_paths_and_files_are_taken(path: Path, spelling: Any) -> None:
    target = spelling(path)
    save([1, 2], target)
    if hasattr(target, "close"):
        target.close()
    assert load(str(path)) == [1, 2]


def test_link_is_followed_and_mode_follows_the_umask(path: Path) -> None:
    link = path.with_name("latest")
    link.symlink_to(path.name)
    save({"step": 1}, link)
    assert link.is_symlink() and load(path) == {"step": 1}
    path.with_name("other").touch()
    assert path.stat().st_mode == path.with_name("other").stat().st_mode


def make_cycle() -> list[Any]:
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    return cycle


def make_deleted() -> jax.Array:
    array = jnp.ones(3) + 1
    array.delete()
    return array


def make_deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


UNSTORABLE = [
    (lambda: object(), TypeError, r"cannot save obj\['a'\]\[1\]: object objects cannot be stored"),
    (lambda: {1, 2}, TypeError, r"obj\['a'\]\[1\]: set objects"),
    (lambda: print, TypeError, "builtin_function_or_method objects cannot be stored"),
    (lambda: torch.nn.Linear(1, 1), TypeError, r"Linear objects .* save its state_dict\(\)"),
    (lambda: torch.ones(1), TypeError, "Tensor objects .* convert it with numpy.asarray"),
    (lambda: namedtuple("State", "count")(1), TypeError, "State objects .* plain tuple"),
    (lambda: {object(): 1}, TypeError, r"obj\['a'\]\[1\]: a key of type object cannot be stored"),
    (lambda: {"x": np.array(["text"])}, TypeError, r"obj\['a'\]\[1\]\['x'\]: dtype <U4 cannot be stored"),
    (lambda: np.array([None]), TypeError, "dtype object cannot be stored"),
    (make_cycle, ValueError, r"obj\['a'\]\[1\]\[1\]\['again'\]: it is a list that contains itself"),
    (make_deep, ValueError, "nested too deeply"),
    (make_deleted, ValueError, r"obj\['a'\]\[1\]: its values are not available here"),
]


@pytest.mark.parametrize(("make", "error", "message"), UNSTORABLE, ids=map(str, range(len(UNSTORABLE))))
def test_unstorable_objects_are_named_and_change_nothing(path: Path, make: Any, error: Any, message: str) -> None:
    save({"step": 1}, path)
    with pytest.raises(error, match=message):
        save({"a": [jnp.ones(2), make()]}, path)
    assert load(path) == {"step": 1}
    assert os.listdir(path.parent) == [path.name]


def test_tracer_is_refused(path: Path) -> None:
    with pytest.raises(TypeError, match=r"cannot save obj\['w'\]: it is a traced value of shape \(2,\)"):
        jax.jit(lambda w: save({"w": w}, path))(jnp.ones(2))
    assert not path.exists()


def test_oversized_plain_values_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="header too large .*plain values and names may take 100 MB"):
        save({"log": "x" * 100_000_001}, path)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("place", ["missing/file", "folder", "file/below"])
def test_places_that_cannot_be_written_leave_no_litter(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="no folder|directory|Directory"):
        save({"step": 1}, tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


def test_swapped_arguments_are_explained() -> None:
    with pytest.raises(TypeError, match=r"got dict: call save\(obj, path\)"):
        save("file", {"step": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got int: call load\(path\)"):
        load(0)  # type: ignore[arg-type]


def test_missing_file_and_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.here"):
        load(tmp_path / "nothing.here")
    with pytest.raises(IsADirectoryError, match="directory"):
        load(tmp_path)


class Bomb:
    """A pickle that would leave a trace if it were ever loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def make_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Bomb()))
    return file.getvalue()


def damage(old: str, new: str) -> bytes:
    """Return a checkpoint whose skeleton has been rewritten, the lengths kept."""
    file = io.BytesIO()
    save({"w": jnp.ones(2), "n": (1, b"ab")}, file)
    assert old.encode() in file.getvalue() and len(old) == len(new)
    return file.getvalue().replace(old.encode(), new.encode())


FOREIGN = [
    (b"", "it is empty"),
    (b"hello, this is text\n" * 5, "it is of another kind .*100 bytes"),
    (pickle.dumps(Bomb()), "it is a Python pickle"),
    (make_zip(), "it is a zip archive, as torch.save writes"),
    (b"\x93NUMPY\x01\0v\0" + b" " * 100, "it is a NumPy .npy file"),
    (damage('\\"version\\":1', '\\"version\\":9'), "it has format version 9, expected 1: update jaxmodules"),
    (damage('{\\"array\\":\\"w\\"}', '{\\"array\\":\\"v\\"}'), "description of what was saved is damaged"),
    (damage('{\\"tuple\\":', '{\\"eval!\\":'), "expected an entry of a saved object"),
    (damage('\\"YWI=\\"', '\\"YW!=\\"'), "description of what was saved is damaged"),
    (damage('{\\"dict\\":[[\\"w\\"', '{\\"dict\\":[[[1,2]'), "description of what was saved is damaged"),
]


@pytest.mark.parametrize(("content", "message"), FOREIGN, ids=map(str, range(len(FOREIGN))))
def test_foreign_files_are_named_and_never_run(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"cannot load '.*checkpoint.safetensors': .*{message}"):
        load(path)
    assert not os.path.exists("exploded")


def test_every_truncation_is_noticed() -> None:
    file = io.BytesIO()
    save({"w": jnp.arange(20.0), "meta": [1, "two"]}, file)
    data = file.getvalue()
    for length in range(len(data)):
        with pytest.raises(CheckpointError, match="cannot load the BytesIO: expected a safetensors file"):
            load(io.BytesIO(data[:length]))


def test_flipped_bits_raise_nothing_but_checkpoint_errors() -> None:
    file = io.BytesIO()
    save({"w": jnp.arange(4.0), "b": np.ones(2, np.complex128), "k": jax.random.key(1), "m": [2**70, (b"x",)]}, file)
    chance = random.Random(0)
    noticed = 0
    for _ in range(400):
        data = bytearray(file.getvalue())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            load(io.BytesIO(data))
        except CheckpointError:
            noticed += 1
    assert noticed > 200


SAVER = """
import itertools, sys
import numpy as np
from jaxmodules.checkpoint import save
arrays = {str(i): np.full(20_000, 0, np.int32) for i in range(8)}
for step in itertools.count(1):
    for array in arrays.values():
        array[:] = step
    save({"step": step, "arrays": arrays}, sys.argv[1])
    print(step, flush=True)
"""


def test_killed_save_leaves_a_whole_file(path: Path) -> None:
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", SAVER, path], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(0.013 * attempt)
        process.send_signal(signal.SIGKILL)
        done = [int(line) for line in [first, *process.stdout.read().splitlines()] if line.strip()]
        process.wait()
        process.stdout.close()
        loaded = load(path)
        assert loaded["step"] in (done[-1], done[-1] + 1)
        assert all((array == loaded["step"]).all() for array in loaded["arrays"].values())
