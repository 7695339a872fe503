"""PyTorch's files, read and written without torch: every format, dtype and layout, against torch itself."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.utils.serialization import config as torch_config

import jaxmodules as jm
from jaxmodules.checkpoint import CheckpointError, _torch_read
from jaxmodules.checkpoint._torch_dtypes import DTYPES
from tests.checkpoint.torch_files import Name, Pid, dump, make_stream, make_tar, make_zip, storage, tensor

FORMATS = {"zip": True, "stream": False}


def to_file(obj: Any, is_zip: bool = True, protocol: int = 2) -> io.BytesIO:
    """Return a file that torch has saved ``obj`` in."""
    file = io.BytesIO()
    torch.save(obj, file, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    file.seek(0)
    return file


def from_torch(obj: Any, is_zip: bool = True) -> Any:
    """Return ``obj`` after torch has saved and we have loaded it."""
    return jm.load(to_file(obj, is_zip))


def to_torch(obj: Any) -> Any:
    """Return ``obj`` after we have saved and torch has loaded it."""
    file = io.BytesIO()
    jm.save(obj, file, format="torch")
    file.seek(0)
    return torch.load(file, weights_only=True)


def bytes_of(value: Any) -> bytes:
    """Return the elements of a tensor or an array, in order."""
    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8).numpy()
    return np.asarray(value).tobytes()


def make_tensor(name: str, shape: tuple[int, ...] = (3, 5)) -> torch.Tensor:
    """Return a tensor of random bits: infinities, subnormals and all but booleans that are neither."""
    dtype = getattr(torch, name)
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    bits = torch.randint(0, 2 if name == "bool" else 256, (count,), dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


@pytest.mark.parametrize("is_zip", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_from_torch(name: str, is_zip: bool) -> None:
    tensors = {str(shape): make_tensor(name, shape) for shape in [(), (3, 5), (0, 2)]}
    loaded = from_torch(tensors, is_zip)
    for key, value in tensors.items():
        assert loaded[key].dtype == name and loaded[key].shape == tuple(value.shape)
        assert bytes_of(loaded[key]) == bytes_of(value)
    assert isinstance(loaded["()"], jax.Array) is (name not in ("int64", "uint64", "float64", "complex128"))


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_goes_to_torch(name: str) -> None:
    arrays = {}
    for shape in [(), (3, 5), (0, 2)]:
        bits = bytearray(bytes_of(make_tensor(name, shape)))
        arrays[str(shape)] = np.asarray(bits, np.uint8).view(DTYPES[name]).reshape(shape)
    loaded = to_torch(arrays)
    for key, array in arrays.items():
        assert loaded[key].dtype == getattr(torch, name) and loaded[key].shape == array.shape
        assert bytes_of(loaded[key]) == bytes_of(array)


def test_x64_arrays_are_jax_arrays_under_x64() -> None:
    with jax.enable_x64(True):
        loaded = from_torch(torch.arange(3))
    assert isinstance(loaded, jax.Array) and loaded.dtype == jnp.int64


LAYOUTS = {
    "transposed": lambda x: x.T,
    "sliced": lambda x: x[1:, ::2],
    "offset": lambda x: x.flatten()[5],
    "expanded": lambda x: x[:1].expand(4, 4),
    "permuted": lambda x: x.reshape(2, 2, 3).permute(2, 0, 1),
    "overlapping": lambda x: x.as_strided((3, 3), (2, 1), 1),
    "conj": lambda x: torch.complex(x, x + 1).conj(),
    "negative": lambda x: torch.complex(x, x + 1).conj().imag,
    "channels_last": lambda x: x.reshape(1, 3, 2, 2).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("is_zip", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout: str, is_zip: bool) -> None:
    view = LAYOUTS[layout](torch.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(from_torch(view, is_zip), view.resolve_conj().resolve_neg().numpy(), strict=True)


VALUES = [
    None, True, -5, 2**31, 2**63, -(2**2000), 0.1, float("inf"), 1 - 2j, "τ\ud800", b"", b"\0\xff", [], {}, (),
    (1, (2, [3])),
    {1: "int", "1": "str", 1.5: "float", None: "none", b"b": "bytes", ("a", (2,)): "tuple"},
    OrderedDict([("b", 1), ("a", OrderedDict())]),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=[f"{type(v).__name__}{i}" for i, v in enumerate(VALUES)])
def test_plain_values_travel_both_ways(value: Any) -> None:
    assert to_torch(value) == value and type(to_torch(value)) is type(value)
    for is_zip in FORMATS.values():
        loaded = from_torch(value, is_zip)
        assert loaded == value and type(loaded) is type(value)


THEIRS = [
    (torch.Size([2, 3]), (2, 3)),
    (torch.bfloat16, np.dtype(jnp.bfloat16)),
    (torch.device("cuda", 1), jm.device("cuda:1")),
    (torch.device("mps"), "mps"),
    ({1, 2}, {1, 2}),
    (bytearray(b"ab"), bytearray(b"ab")),
    (Counter("aab"), Counter("aab")),
    (np.float32(1.5), np.float32(1.5)),
]


@pytest.mark.parametrize(("saved", "expected"), THEIRS, ids=[str(s) for s, _ in THEIRS])
def test_values_of_their_own_kinds_are_read(saved: Any, expected: Any) -> None:
    loaded = from_torch([saved])[0]
    assert loaded == expected and type(loaded) is type(expected)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("dtype", ["b1", "i1", ">i4", "<u8", "f2", ">f8", "c8"])
def test_numpy_arrays_are_read_from_every_protocol(dtype: str, protocol: int) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    obj = {"c": array, "f": array.T, "scalar": array[1, 1], "none": array[:0], "é" * 300: {1, 2}, "b": b"x" * 300}
    expected = pickle.loads(pickle.dumps(obj, protocol))
    for file in (to_file(obj, protocol=protocol), io.BytesIO(pickle.dumps(obj, protocol))):
        loaded = jm.load(file)
        assert str(loaded) == str(expected) and loaded["c"].dtype.str == expected["c"].dtype.str


@pytest.mark.parametrize("is_zip", FORMATS.values(), ids=FORMATS)
def test_tied_tensors_are_one_array(is_zip: bool) -> None:
    x = torch.arange(4.0)
    obj = {"a": x, "same": x, "detached": x.detach(), "part": x[:2], "reversed": x.view(2, 2).T, "equal": x.clone()}
    loaded = from_torch(obj, is_zip)
    assert loaded["a"] is loaded["same"] is loaded["detached"]
    assert len({id(array) for array in loaded.values()}) == 4
    np.testing.assert_array_equal(loaded["reversed"], [[0, 2], [1, 3]])


def test_tied_arrays_are_one_storage() -> None:
    x = jnp.arange(4.0)
    parameter = jm.nn.Parameter(x, requires_grad=False)
    loaded = to_torch({"a": x, "b": [x], "p": parameter, "q": parameter, "copy": x + 0})
    assert loaded["a"].data_ptr() == loaded["b"][0].data_ptr() == loaded["p"].data_ptr() != loaded["copy"].data_ptr()
    assert loaded["p"] is loaded["q"] and type(loaded["p"]) is torch.nn.Parameter and not loaded["p"].requires_grad


def test_parameters_are_parameters() -> None:
    tagged = torch.nn.Parameter(torch.ones(2))
    tagged.tag = "kept by torch"
    frozen = torch.nn.Parameter(torch.arange(2), requires_grad=False)
    loaded = from_torch([torch.nn.Parameter(torch.ones(2)), tagged, torch.nn.Parameter(torch.ones(1), False), frozen])
    assert [type(p) for p in loaded[:3]] == [jm.nn.Parameter] * 3 and isinstance(loaded[3], np.ndarray)
    assert [p.requires_grad for p in loaded[:3]] == [True, True, False]
    assert isinstance(from_torch(torch.nn.Buffer(torch.ones(2))), jax.Array)


def test_storages_are_arrays() -> None:
    x = torch.arange(4.0)
    loaded = from_torch([x.untyped_storage(), 1])
    assert loaded[0].dtype == np.uint8 and np.asarray(loaded[0]).view(np.float32).tolist() == x.tolist()
    assert jm.load(io.BytesIO(make_zip(dump(storage())))).tolist() == [0, 0, 0, 0]
    with pytest.raises(CheckpointError, match="holds a class of tensors or storages, which has no counterpart"):
        from_torch({"kind": torch.Tensor})


def make_nets() -> tuple[Any, Any]:
    """Return one network of ours and one of theirs."""

    def net(nn: Any) -> Any:
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

    return net(jm.nn), net(torch.nn)


def test_state_dicts_travel_both_ways() -> None:
    ours, theirs = make_nets()
    loaded = from_torch(theirs.state_dict())
    assert type(loaded) is OrderedDict and loaded._metadata == theirs.state_dict()._metadata
    assert str(ours.load_state_dict(loaded)) == "<All keys matched successfully>"
    theirs.load_state_dict(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict())
    back = to_torch(ours.state_dict())
    assert back._metadata == theirs.state_dict()._metadata
    theirs.load_state_dict(back)
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[key], value.numpy())


OPTIMIZERS = [("Adam", {"amsgrad": True}), ("SGD", {"momentum": 0.9}), ("Adafactor", {})]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=[name for name, _ in OPTIMIZERS])
def test_optimizers_continue_on_either_side(name: str, options: dict[str, Any]) -> None:
    ours, theirs = jm.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ours.load_state_dict(from_torch(theirs.state_dict()))
    our_optimizer = getattr(jm.optim, name)(ours.parameters(), lr=0.1, **options)
    their_optimizer = getattr(torch.optim, name)(theirs.parameters(), lr=0.1, **options)

    def step_ours() -> None:
        for key, parameter in ours.named_parameters():
            parameter.grad = jnp.asarray(grads[key])
        our_optimizer.step()

    def step_theirs() -> None:
        for key, parameter in theirs.named_parameters():
            parameter.grad = torch.tensor(grads[key])
        their_optimizer.step()

    grads = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2, np.float32)}
    step_theirs()
    loaded = from_torch({"net": theirs.state_dict(), "optimizer": their_optimizer.state_dict()})
    ours.load_state_dict(loaded["net"])
    our_optimizer.load_state_dict(loaded["optimizer"])
    step_ours()
    loaded = to_torch({"net": ours.state_dict(), "optimizer": our_optimizer.state_dict()})
    theirs.load_state_dict(loaded["net"])
    their_optimizer.load_state_dict(loaded["optimizer"])
    step_ours(), step_theirs()
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), rtol=1e-5, atol=1e-6)


def test_tar_archives_are_read() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": x, "t": x.T, "half": x.half()[1:], "long": torch.arange(3), "scalar": torch.tensor(2.0)}
    loaded = jm.load(io.BytesIO(make_tar(tensors)))
    assert type(loaded) is OrderedDict and list(loaded) == list(tensors)
    for key, value in tensors.items():
        np.testing.assert_array_equal(loaded[key], value.numpy(), strict=True)


def test_views_of_storages_of_early_streams_are_read() -> None:
    def part(view: Any) -> Any:
        return Pid(("storage", Name("torch FloatStorage"), "9", "cpu", 6, view))

    views = [(6, 0, None), (2, 1, ("v", 2, 3)), (1, 3, None)]
    program = dump([tensor((size,), offset=offset, of=part(view)) for size, offset, view in views])
    content = (6).to_bytes(8, "little") + np.arange(6, dtype=np.float32).tobytes()
    loaded = jm.load(io.BytesIO(make_stream(program, ["9"], content)))
    assert [array.tolist() for array in loaded] == [[0, 1, 2, 3, 4, 5], [3, 4], [3]]


def test_big_endian_files_are_read() -> None:
    kinds = {"torch FloatStorage": ">f4", "torch ComplexFloatStorage": ">c8", "torch ShortStorage": ">i2"}
    for kind, dtype in kinds.items():
        array = np.arange(2).astype(dtype)
        file = make_zip(dump(tensor((2,), (1,), 0, storage("0", 2, kind))), array.tobytes(), byteorder=b"big")
        np.testing.assert_array_equal(jm.load(io.BytesIO(file)), array)
    file = make_zip(
        dump(tensor((1,), (1,), 0, storage("0", 1, "torch BFloat16Storage"))), b"\x3f\x80", byteorder=b"big"
    )
    assert jm.load(io.BytesIO(file)).tolist() == [1.0]


def test_other_layouts_of_the_archive_are_read() -> None:
    entries = {"data.pkl": dump(tensor()), "data/0": np.arange(4, dtype=np.float32).tobytes()}
    for folder, method in (("", zipfile.ZIP_STORED), ("x/y/", zipfile.ZIP_STORED), ("archive/", zipfile.ZIP_DEFLATED)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, content in entries.items():
                archive.writestr(folder + name, content)
        assert jm.load(io.BytesIO(file.getvalue())).tolist() == [0, 1, 2, 3]


def test_archives_without_checksums_are_read() -> None:
    torch.serialization.set_crc32_options(False)
    try:
        file = to_file(torch.ones(2))
    finally:
        torch.serialization.set_crc32_options(True)
    assert jm.load(file).tolist() == [1, 1]


def test_archives_are_laid_out_as_torch_lays_them_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obj = {"a": np.ones(5, np.int8), "none": np.ones(0, np.float32), "b": np.ones((2, 3), np.float32)}
    jm.save(obj, tmp_path / "ours.pt", format="torch")
    torch.save({name: torch.tensor(array) for name, array in obj.items()}, tmp_path / "theirs.pt")
    with zipfile.ZipFile(tmp_path / "ours.pt") as ours, zipfile.ZipFile(tmp_path / "theirs.pt") as theirs:
        assert ours.testzip() is None
        assert [n.partition("/")[2] for n in ours.namelist()] == [n.partition("/")[2] for n in theirs.namelist()]
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")  # compares computed with real offsets
    with torch_config.patch("load.calculate_storage_offsets", True):
        loaded = torch.load(tmp_path / "ours.pt", mmap=True, weights_only=True)
    assert all(np.array_equal(loaded[name], array) for name, array in obj.items())
    assert torch.load(tmp_path / "ours.pt", map_location="meta")["b"].shape == (2, 3)


@pytest.mark.parametrize("is_zip", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("mmap", [None, True, False])
def test_arrays_survive_their_file(tmp_path: Path, is_zip: bool, mmap: bool | None) -> None:
    path = tmp_path / "model.pt"
    tensors = [torch.arange(50_000), torch.arange(100_000.0), torch.ones(20_000, dtype=torch.bool)]
    path.write_bytes(to_file(tensors, is_zip).getvalue())
    loaded = jm.load(path, mmap=mmap)
    total = jax.jit(lambda x: x + 1, donate_argnums=0)(jm.load(path, mmap=mmap)[1])
    os.truncate(path, 0)
    path.write_bytes(b"\xff" * 1_000_000)
    assert all(np.array_equal(array, value) for array, value in zip(loaded, tensors, strict=True))
    np.testing.assert_array_equal(total, tensors[1] + 1)


def test_leaves_are_views_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    x = torch.arange(6.0)
    torch.save({"a": x, "p": torch.nn.Parameter(x)}, path)
    loaded = _torch_read.read(_torch_read.open_bytes(path), lambda array, location: (array, location))
    array, location = loaded["a"]
    assert loaded["p"] is loaded["a"] and location == "cpu"
    assert not array.flags.owndata and not array.flags.writeable and array.tolist() == x.tolist()


def test_file_that_is_cut_short_while_it_is_read_kills_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save([torch.ones(10_000), torch.zeros(10_000)], path)
    with pytest.raises(CheckpointError, match="cut short since it was opened: let the program that writes it finish"):
        _torch_read.read(_torch_read.open_bytes(path), lambda array, location: os.truncate(path, 0))


PLACES = [
    ("cpu:1", 1), (jm.device("cpu:2"), 2), (jax.devices("cpu")[3], 3), ({"cpu": "cpu:1"}, 1), ({"cuda:0": "cpu:1"}, 0),
    (lambda array, location: {"cpu": "cpu:2"}[location], 2), (lambda array, location: array, 0), (lambda *_: None, 0),
    (jax.sharding.SingleDeviceSharding(jax.devices("cpu")[1]), 1), (torch.device("cpu"), 0),
]  # fmt: skip


@pytest.mark.parametrize(("place", "index"), PLACES, ids=map(str, range(len(PLACES))))
def test_arrays_go_where_map_location_says(place: Any, index: int) -> None:
    assert jm.load(to_file(torch.ones(2)), map_location=place).devices() == {jax.devices("cpu")[index]}


def test_safetensors_go_where_map_location_says() -> None:
    file = io.BytesIO()
    jm.save({"a": jnp.ones(2), "n": (1,)}, file)
    assert jm.load(io.BytesIO(file.getvalue()), "cpu:1")["a"].devices() == {jax.devices("cpu")[1]}


def test_meta_gives_shapes() -> None:
    loaded = jm.load(
        to_file([torch.ones(2, 3), torch.nn.Parameter(torch.ones(1)), torch.ones(4, device="meta")]), "meta"
    )
    assert [(v.shape, v.dtype) for v in loaded] == [((2, 3), jnp.float32), ((1,), jnp.float32), ((4,), jnp.float32)]
    assert loaded[1].is_meta and isinstance(loaded[0], jax.ShapeDtypeStruct)


def test_absent_devices_and_unsafe_loading_are_explained(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="device 'cuda:0' is not there"):
        jm.load(to_file(torch.ones(1)), map_location="cuda:0")
    with pytest.raises(ValueError, match="expected weights_only=True, got False: jaxmodules never runs code"):
        jm.load(to_file(torch.ones(1)), weights_only=False)
    with pytest.raises(ValueError, match="f must be a file path in order to use the mmap argument"):
        jm.load(to_file(torch.ones(1)), mmap=True)
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        jm.load(tmp_path / "nothing.pt")


def test_torch_is_not_needed(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 3).bfloat16(), "p": torch.nn.Parameter(torch.ones(1))}, tmp_path / "theirs.pt")
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import jaxmodules as jm\n"
        "state = jm.load('theirs.pt', mmap=True)\n"
        "jm.save(state, 'ours.pt', format='torch')"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, check=True)
    loaded = torch.load(tmp_path / "ours.pt", weights_only=True, mmap=True)
    assert loaded["w"].dtype == torch.bfloat16 and loaded["w"].tolist() == [[1] * 3] * 2 and loaded["p"].requires_grad


UNSTORABLE = [
    (lambda: jax.random.key(0), TypeError, "PyTorch has no random keys: save jax.random.key_data"),
    (lambda: jnp.zeros(2, jnp.int4), TypeError, "PyTorch has no dtype int4 .*convert it, or save with format"),
    (lambda: 1 << 3000, ValueError, "an int of 3,001 bits is too long for torch.load"),
    (lambda: {1, 2}, TypeError, "set objects cannot be stored"),
    (lambda: np.array(["text"]), TypeError, "PyTorch has no dtype <U4"),
]


@pytest.mark.parametrize(("make", "error", "message"), UNSTORABLE, ids=map(str, range(len(UNSTORABLE))))
def test_unstorable_values_are_named_and_change_nothing(tmp_path: Path, make: Any, error: Any, message: str) -> None:
    path = tmp_path / "model.pt"
    jm.save({"step": 1}, path, format="torch")
    with pytest.raises(error, match=rf"cannot save obj\['a'\]\[1\]: {message}"):
        jm.save({"a": [jnp.ones(2), make()]}, path, format="torch")
    assert jm.load(path) == {"step": 1} and os.listdir(tmp_path) == ["model.pt"]


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the format 'safetensors' or 'torch', got 'pickle'"):
        jm.save({}, tmp_path / "a.pt", format="pickle")  # type: ignore[arg-type]


def scripted() -> io.BytesIO:
    """Return a TorchScript archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"):
            archive.writestr(name, dump(1))
    file.seek(0)
    return file


def npz() -> io.BytesIO:
    """Return a NumPy archive."""
    file = io.BytesIO()
    np.savez(file, a=np.ones(2))
    file.seek(0)
    return file


REFUSED = [
    (
        lambda: torch.nn.Linear(1, 1),
        r"GLOBAL torch.nn.modules.linear.Linear .*holds a module.*torch.save\(module.state_dict",
    ),
    (lambda: torch.eye(2).to_sparse(), r"_rebuild_sparse_tensor .*holds a sparse tensor.* save tensor.to_dense\(\)"),
    (lambda: torch.eye(2).to_sparse_csr(), r"_rebuild_sparse_tensor .*holds a sparse tensor"),
    (lambda: torch.ones(2, dtype=torch.complex32), r"GLOBAL torch.complex32 .*JAX has no such dtype: .*complex64"),
    (
        lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
        r"_rebuild_qtensor .*tensor.dequantize\(\)",
    ),
    (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "_rebuild_nested_tensor .*tensor.unbind"),
    (lambda: Path("a"), r"GLOBAL pathlib.*Path was not an allowed global by default.*it could run code"),
    (lambda: print, "GLOBAL builtins.print"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("make", "message"), REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_has_no_counterpart_is_refused_by_name(make: Any, message: str) -> None:
    for is_zip in FORMATS.values():
        file = to_file({"a": make()}, is_zip)
        with pytest.raises(pickle.UnpicklingError, match=message) as caught:
            jm.load(file)
        assert isinstance(caught.value, CheckpointError) and "cannot load the BytesIO" in str(caught.value)


DAMAGED = [
    (lambda: scripted(), "it is TorchScript, which is a program"),
    (lambda: npz(), "NumPy's .npz format: read it with numpy.load"),
    (lambda: make_zip(dump(tensor()), version=b"99\n"), "its version is 99, expected at most 10: update jaxmodules"),
    (lambda: make_zip(dump(tensor()), byteorder=b"middle"), "its byte order is b'middle'"),
    (lambda: make_zip(dump(tensor((5,)))), r"a tensor of shape \(5,\) .* reaches to byte 20 of a storage of 16 bytes"),
    (lambda: make_zip(dump(tensor((1,), (1,), -1))), "offset -1, expected .* none negative"),
    (lambda: make_zip(dump(tensor((2,), (-1,), 1))), r"stride \(-1,\)"),
    (lambda: make_zip(dump(tensor(of=storage("0", 5)))), "'0' has 16 bytes, too few for 5 elements"),
    (lambda: make_zip(dump(tensor(of=storage("../0")))), "has no entry 'a/data/../0'"),
    (lambda: make_zip(dump(tensor((1 << 40,), (0,)))), "more than 67,113,344, .*save what was expanded"),
    (lambda: make_zip(dump(tensor())).replace(b"cpu", b"gpu"), "data.pkl' is damaged: the checksum"),
    (lambda: make_stream(dump(tensor()), []), "refers to a tuple, expected a storage"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), DAMAGED, ids=map(str, range(len(DAMAGED))))
def test_damaged_files_are_explained(make: Any, message: str) -> None:
    made = make()
    with pytest.raises(CheckpointError, match=f"cannot load the BytesIO: it is a .*, but cannot be read: .*{message}"):
        jm.load(made if isinstance(made, io.BytesIO) else io.BytesIO(made))
