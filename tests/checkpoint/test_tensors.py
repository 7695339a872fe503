"""``jm.checkpoint.open``: every layout that holds the tensors of a model, read one at a time or in parts."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from huggingface_hub import save_torch_state_dict
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.torch import save_file

import jaxmodules as jm
from jaxmodules.checkpoint import CheckpointError, LazyTensor

DTYPES = (
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 complex64"
    " float8_e4m3fn float8_e5m2 float8_e8m0fnu float8_e4m3fnuz float8_e5m2fnuz"
).split()


def make_state() -> dict[str, torch.Tensor]:
    return {
        "fc1.weight": torch.arange(6.0).reshape(2, 3), "fc1.bias": torch.ones(2), "fc2.weight": torch.full((3, 2), 5.0),
        "count": torch.tensor(7), "empty": torch.zeros(0, 3),
    }  # fmt: skip


def single(folder: Path) -> Path:
    save_file(make_state(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def single_in_folder(folder: Path) -> Path:
    save_file(make_state(), folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def other_name(folder: Path) -> Path:
    single(folder)
    return folder


def sharded(folder: Path) -> Path:
    save_torch_state_dict(make_state(), folder, max_shard_size=24)
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def index(folder: Path) -> Path:
    return sharded(folder) / "model.safetensors.index.json"


def shards_without_index(folder: Path) -> Path:
    index(folder).unlink()
    return folder


def hub_cache(folder: Path) -> Path:
    """Where the Hub's client puts files: links from a snapshot to blobs outside of it."""
    snapshot = folder / "snapshots" / "1a2b"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(sharded(folder).glob("*.*"))):
        file.rename(folder / f"blob{number}")
        (snapshot / file.name).symlink_to(f"../../blob{number}")
    return snapshot


def diffusion(folder: Path) -> Path:
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(make_state(), folder, max_shard_size=24, filename_pattern=pattern)
    return folder


def torch_file(folder: Path) -> Path:
    torch.save(make_state(), folder / "weights.pth")
    return folder / "weights.pth"


def torch_stream(folder: Path) -> Path:
    torch.save(make_state(), folder / "weights.pt", _use_new_zipfile_serialization=False)
    return folder / "weights.pt"


def torch_in_folder(folder: Path) -> Path:
    torch_file(folder).rename(folder / "pytorch_model.bin")
    return folder


def torch_shards(folder: Path) -> Path:
    save_torch_state_dict(make_state(), folder, max_shard_size=24, safe_serialization=False)
    assert (folder / "pytorch_model.bin.index.json").exists()
    return folder


def torch_shards_without_index(folder: Path) -> Path:
    (torch_shards(folder) / "pytorch_model.bin.index.json").unlink()
    return folder


def saved_here(folder: Path) -> Path:
    jm.save({name: tensor.numpy() for name, tensor in make_state().items()}, folder / "model.safetensors")
    return folder


LAYOUTS = [
    single, single_in_folder, other_name, sharded, index, hub_cache, shards_without_index, diffusion, torch_file,
    torch_stream, torch_in_folder, torch_shards, torch_shards_without_index, saved_here,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_has_all_tensors(tmp_path: Path, layout: Any) -> None:
    with jm.checkpoint.open(layout(tmp_path)) as tensors:
        assert tensors.keys() == make_state().keys()
        for name, expected in make_state().items():
            assert tensors[name].shape == tuple(expected.shape)
            np.testing.assert_array_equal(tensors[name], expected.numpy())


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_read_and_cast(tmp_path: Path, name: str) -> None:
    theirs = torch.tensor([[0, 1], [1, 1]]).to(getattr(torch, name))
    save_file({"w": theirs}, tmp_path / "a.safetensors")
    lazy = jm.checkpoint.open(tmp_path / "a.safetensors")["w"]
    assert lazy.dtype == jnp.dtype(name) and lazy.nbytes == 4 * theirs.itemsize
    assert np.asarray(lazy).tobytes() == theirs.reshape(-1).view(torch.uint8).numpy().tobytes()
    assert lazy.to_jax().dtype == jax.dtypes.canonicalize_dtype(jnp.dtype(name))
    np.testing.assert_array_equal(lazy.to_jax("complex64"), theirs.to(torch.complex64).numpy())


def test_lazy_tensor_behaves_like_its_array(tmp_path: Path) -> None:
    lazy = jm.checkpoint.open(single(tmp_path))["fc1.weight"]
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert (lazy.ndim, lazy.size, len(lazy), lazy.is_meta) == (2, 6, 2, False)
    for ours, theirs in [
        (lazy[1:, ::2], array[1:, ::2]), (lazy + 1, array + 1), (2 - lazy, 2 - array), (lazy.T, array.T),
        (np.sqrt(lazy), np.sqrt(array)), (jnp.exp(lazy), jnp.exp(array)), (lazy.sum(0), array.sum(0)),
    ]:  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
    assert not hasattr(lazy, "detach") and not hasattr(lazy, "_metadata")


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "stream"])
def test_torch_files_are_read_in_place(tmp_path: Path, is_zip: bool) -> None:
    base = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    state = {"t": base.T, "part": base[1:, ::2], "again": base, "p": torch.nn.Parameter(base[0])}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    with jm.checkpoint.open(tmp_path / "a.pt") as tensors:
        for name, tensor in state.items():
            assert isinstance(tensors[name], LazyTensor) and tensors[name].dtype == jnp.bfloat16
            np.testing.assert_array_equal(tensors[name].to_jax("float32"), tensor.detach().float().numpy())
        sharding = NamedSharding(jax.make_mesh((4,), ("x",)), PartitionSpec("x"))
        np.testing.assert_array_equal(tensors["t"].to_jax("float32", sharding), base.T.float().numpy())
    with pytest.raises(ValueError, match="it has been closed"):
        tensors["t"][0]


def save_nested(state: Any, path: Path) -> None:
    jm.save({name: {k: np.asarray(v) for k, v in value.items()} for name, value in state.items()}, path)


@pytest.mark.parametrize("save", [torch.save, save_nested])
def test_entry_of_a_training_checkpoint_is_taken(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "a.ckpt"
    save({"optimizer": {"step": torch.ones(1)}, "state_dict": make_state()}, path)
    tensors = jm.checkpoint.open(path, entry="state_dict")
    np.testing.assert_array_equal(tensors["fc2.weight"], np.full((3, 2), 5))
    with pytest.raises(CheckpointError, match="it holds a dict of 'optimizer', 'state_dict': say .*entry='optimizer'"):
        jm.checkpoint.open(path)
    with pytest.raises(CheckpointError, match="it has no entry 'model', it holds a dict of 'optimizer', 'state_dict'"):
        jm.checkpoint.open(path, entry="model")


@pytest.mark.parametrize(
    ("content", "message"),
    [([torch.ones(1)], "it holds a list"), ({1: torch.ones(1)}, "it holds a dict of 1"), (3, "it holds a int")],
    ids=["list", "numbers", "int"],
)
def test_files_without_names_are_explained(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=f"cannot open .*a.pt': expected tensors by name, but {message}"):
        jm.checkpoint.open(tmp_path / "a.pt")


def test_tensor_at_the_end_may_be_empty(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(0, 3)}, tmp_path / "a.safetensors")
    lazy = jm.checkpoint.open(tmp_path)["w"]
    assert lazy.to_jax("bfloat16").shape == np.asarray(lazy).shape == (0, 3)


def test_entry_of_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="entry='state_dict' is for single files"):
        jm.checkpoint.open(sharded(tmp_path), entry="state_dict")


def test_arrays_that_are_one_have_all_their_names(tmp_path: Path) -> None:
    array = jnp.arange(3.0)
    jm.save({"a": array, "b": array, "c": np.ones(2, np.complex128), "d": jnp.ones(2, jnp.int4)}, tmp_path / "x")
    tensors = jm.checkpoint.open(tmp_path / "x")
    assert tensors["a"] is tensors["b"] and tensors["c"].dtype == np.complex128 and tensors["d"].dtype == jnp.int4
    np.testing.assert_array_equal(tensors["b"], array)


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"w": print}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="cannot load .*a.pt'.*print"):
        jm.checkpoint.open(tmp_path / "a.pt")


def test_metadata_is_that_of_the_file_or_the_index(tmp_path: Path) -> None:
    save_file(make_state(), tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert jm.checkpoint.open(tmp_path / "a.safetensors").metadata == {"format": "pt"}
    assert jm.checkpoint.open(index(tmp_path)).metadata == {"total_size": 64}


def test_closed_files_are_not_read(tmp_path: Path) -> None:
    with jm.checkpoint.open(single(tmp_path)) as tensors:
        lazy = tensors["fc1.bias"]
        array = lazy.to_jax()
    with pytest.raises(ValueError, match="weights.safetensors': it has been closed: read it inside the with block"):
        np.asarray(lazy)
    np.testing.assert_array_equal(array, np.ones(2))


def test_loaded_arrays_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(4096, 4)}, path)
    tensors = jm.checkpoint.open(path)
    sharding = NamedSharding(jax.make_mesh((4,), ("x",)), PartitionSpec("x"))
    arrays = [tensors["w"].to_jax(), tensors["w"].to_jax(device=sharding), tensors["w"][:]]
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
        file.truncate(1000)
    for array in arrays:
        np.testing.assert_array_equal(array, np.ones((4096, 4)))
    with pytest.raises(CheckpointError, match=r"it had 65,\d+ bytes when it was opened and has 1,000 now"):
        tensors["w"][0]


def test_what_load_returns_outlives_the_file(tmp_path: Path) -> None:
    saved = {"w": np.arange(4096, dtype=np.float32), "long": np.arange(4096), "key": jax.random.key(7)}
    jm.save(saved, tmp_path / "a.safetensors")
    loaded = jm.load(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 100)
    np.testing.assert_array_equal(loaded["w"], saved["w"])
    np.testing.assert_array_equal(loaded["long"], saved["long"])
    assert loaded["key"] == saved["key"] and loaded["long"].flags.writeable


def test_donating_a_loaded_array_is_safe(tmp_path: Path) -> None:
    save_file({"w": torch.ones(64, 64)}, tmp_path / "a.safetensors")
    lazy = jm.checkpoint.open(tmp_path / "a.safetensors")["w"]
    replicated = NamedSharding(jax.make_mesh((4,), ("x",)), PartitionSpec())
    double = jax.jit(lambda w: w * 2, donate_argnums=0)
    for place in (None, replicated):
        np.testing.assert_array_equal(double(lazy.to_jax(device=place)), np.full((64, 64), 2))
    np.testing.assert_array_equal(lazy, np.ones((64, 64)))


@pytest.mark.parametrize(
    ("spec", "parts"),
    [(("x", None), [(0, 32), (32, 64)]), ((None, "x"), [(0, 64)] * 2), ((None, None), [(0, 64)]), (("y",), [(0, 64)])],
    ids=str,
)
def test_each_device_reads_its_part_once(tmp_path: Path, monkeypatch: Any, spec: Any, parts: Any) -> None:
    save_file({"w": torch.arange(64.0)[:, None].repeat(1, 8)}, tmp_path / "a.safetensors")
    lazy = jm.checkpoint.open(tmp_path / "a.safetensors")["w"]
    sharding = NamedSharding(jax.make_mesh((2, 1, 2), ("x", "y", "z")), PartitionSpec(*spec))
    read: list[Any] = []
    copy = jm.random._copied
    monkeypatch.setattr(jm.random, "_copied", lambda values, dtype: read.append(values) or copy(values, dtype))
    array = lazy.to_jax("bfloat16", sharding)
    assert array.sharding == sharding and array.dtype == jnp.bfloat16
    np.testing.assert_array_equal(array.astype(jnp.float32), np.arange(64)[:, None].repeat(8, 1))
    rows = sorted((int(values[0, 0]), int(values[-1, 0]) + 1) for values in read)
    assert rows == parts and sum(values.size for values in read) == 64 * 8


def test_pages_are_given_back_once_read(tmp_path: Path) -> None:
    save_file({str(i): torch.ones(1 << 16) for i in range(4)}, tmp_path / "a.safetensors")
    tensors = jm.checkpoint.open(tmp_path / "a.safetensors")
    for name in tensors:
        tensors[name].to_jax()
    held = [
        int(line.split()[1]) * 1024
        for entry in Path("/proc/self/smaps").read_text().split("VmFlags")
        if str(tmp_path) in entry
        for line in entry.splitlines()
        if line.startswith("Rss:")
    ]
    assert len(held) == 1 and held[0] == 0


def test_load_state_dict_takes_the_mapping(tmp_path: Path) -> None:
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    save_file(theirs.state_dict(), tmp_path / "a.safetensors")
    net = jm.nn.Sequential(jm.nn.Linear(3, 2), jm.nn.BatchNorm1d(2))
    net.load_state_dict(jm.checkpoint.open(tmp_path))
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(net.state_dict()[name], tensor.numpy())
    assert isinstance(jm.checkpoint.open(tmp_path)["0.weight"], LazyTensor)


def rewrite(**changes: Any) -> Any:
    """Return a damage to an index: entries of its weight map set to another value."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        content = json.loads(path.read_text())
        content["weight_map"].update(changes)
        path.write_text(json.dumps(content))

    return damage


def write(text: str) -> Any:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


def first_shard(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def put_twice(folder: Path) -> None:
    save_file(make_state(), first_shard(folder))


DAMAGES = [
    (lambda d: first_shard(d).unlink(), FileNotFoundError, "1 of its 4 shards are missing: '.*-00001-of-00004.safet"),
    (lambda d: os.truncate(first_shard(d), 90), CheckpointError, r"cannot load '.*-00001-of-.*truncated.*\(90 bytes\)"),
    (lambda d: first_shard(d).write_bytes(b""), CheckpointError, r"\(0 bytes\)"),
    (lambda d: first_shard(d).write_text("oh" * 99), CheckpointError, "expected a safetensors file, or one"),
    (lambda d: first_shard(d).write_text("version https://git-lfs.github.com/spec/v1"), CheckpointError, "a Git LFS"),
    (put_twice, CheckpointError, "'.*' is in two shards, '.*-00001-of-00004.safetensors' and '.*-0000.-of-00004"),
    (rewrite(other="model-00001-of-00004.safetensors"), CheckpointError, "'other' is in the shard .*, but it is"),
    (rewrite(count="../count"), CheckpointError, "names the shard '../count', which is not a path inside its own"),
    (rewrite(count="/etc/passwd"), CheckpointError, "names the shard '/etc/passwd'"),
    (rewrite(count="a\\..\\..\\b"), CheckpointError, "names the shard"),
    (rewrite(count="C:x"), CheckpointError, "names the shard"),
    (rewrite(count=""), CheckpointError, "names the shard ''"),
    (rewrite(count=3), CheckpointError, "expected an index file, .* 'weight_map' .*damaged"),
    (write("{"), CheckpointError, "expected an index file, .* 'weight_map' .*JSONDecodeError"),
    (write("[]"), CheckpointError, "expected an index file"),
    (write('{"weight_map": []}'), CheckpointError, "expected an index file"),
    (write("[" * 100_000), CheckpointError, "expected an index file, .*RecursionError"),
    (write("\udcff".encode("utf-8", "surrogateescape").decode("latin1")), CheckpointError, "expected an index file"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGES, ids=map(str, range(len(DAMAGES))))
def test_broken_shards_and_indices_are_explained(tmp_path: Path, damage: Any, error: Any, message: str) -> None:
    damage(sharded(tmp_path))
    with pytest.raises(error, match=message):
        jm.checkpoint.open(tmp_path)


def test_shard_missing_without_an_index_is_named(tmp_path: Path) -> None:
    first_shard(shards_without_index(tmp_path)).unlink()
    with pytest.raises(FileNotFoundError, match="-00001-of-00004.safetensors'"):
        jm.checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: d, FileNotFoundError, "expected one of model.safetensors, .*, got an empty folder"),
        (lambda d: (d / "config.json").touch() or d, FileNotFoundError, "got config.json: give the path of the file"),
        (
            lambda d: d / "nothing.safetensors",
            FileNotFoundError,
            "no file '.*nothing.safetensors': .*snapshot_download",
        ),
        (lambda d: d / "nothing.index.json", FileNotFoundError, "nothing.index.json"),
        (lambda d: 3, TypeError, "expected a path to open, got int"),
    ],
    ids=map(str, range(5)),
)
def test_places_without_tensors_are_explained(tmp_path: Path, make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        jm.checkpoint.open(make(tmp_path))


def test_dtype_outside_jax_is_named(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(CheckpointError, match="'w' has dtype F4 .*convert it first"):
        jm.checkpoint.open(tmp_path / "a.safetensors")
