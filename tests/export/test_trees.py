"""Arrays as dicts, ``.npz`` and safetensors: PyTorch's names, nothing lost, nothing half-loaded."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import jaxmodules as jm
from jaxmodules import export, nn

DTYPES = "float32 bfloat16 float16 float8_e4m3fn float8_e5m2 float8_e8m0fnu complex64 int32 uint8 bool".split()
FILES = {"npz": (export.to_npz, export.from_npz), "safetensors": (export.to_safetensors, export.from_safetensors)}


class Net(nn.Module):
    """Has nesting, buffers of both kinds, an own parameter, and tying."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.file = nn.Parameter(jnp.ones((), jnp.float32))
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", jnp.arange(3, dtype=jnp.int32))
        self.register_buffer("cache", jnp.zeros(2, jnp.float32), persistent=False)


def assert_equal_state(ours: nn.Module, theirs: nn.Module) -> None:
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    for (name, array), (_, expected) in pairs:
        assert array.dtype == expected.dtype, name
        assert np.asarray(array).tobytes() == np.asarray(expected).tobytes(), name


def test_flat_names_are_those_of_the_state_dict_with_tied_ones_once() -> None:
    net = Net()
    assert list(export.to_dict(net, buffers=False)) == [name for name, _ in net.named_parameters()]
    assert set(export.to_dict(net)) == set(net.state_dict()) - {"head.weight"}
    assert set(export.to_dict(net, remove_duplicate=False)) == set(net.state_dict())


def test_nested_dict_is_what_tree_gives() -> None:
    net = Net()
    ours = export.to_dict(net, nested=True, buffers=False)
    expected = jm.tree(net, buffers=False, remove_duplicate=True)
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, ours, expected))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("numpy", [False, True])
def test_dict_comes_back_exactly(nested: bool, numpy: bool) -> None:
    net, other = Net(), Net()
    tree = export.to_dict(net, nested=nested, numpy=numpy)
    assert all(isinstance(a, np.ndarray if numpy else jax.Array) for a in jax.tree.leaves(tree))
    assert str(export.from_dict(other, tree)) == "<All keys matched successfully>"
    assert_equal_state(other, net)
    assert other.head.weight is other.embed.weight


def test_loaded_arrays_are_copies() -> None:
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    export.from_dict(other, export.to_dict(net))
    net.weight.value.delete()
    assert np.isfinite(other.weight.numpy()).all()


@pytest.mark.parametrize("names", [{"embed.weight"}, {"head.weight"}, {"embed.weight", "head.weight"}])
def test_tied_array_is_taken_under_any_name(names: set[str]) -> None:
    net = Net()
    tree = {n: a + 1 for n, a in export.to_dict(net, buffers=False, remove_duplicate=False).items()}
    tree = {n: a for n, a in tree.items() if n in names or n not in ("embed.weight", "head.weight")}
    export.from_dict(net, tree)
    np.testing.assert_array_equal(net.embed.weight.numpy(), np.asarray(next(tree[n] for n in names)))


def test_tied_names_with_different_values_are_refused() -> None:
    net = Net()
    tree = export.to_dict(net, remove_duplicate=False)
    with pytest.raises(RuntimeError, match="embed.weight and head.weight are tied but given different values"):
        export.from_dict(net, {**tree, "head.weight": tree["head.weight"] + 1})


def test_parameters_alone_leave_the_buffers() -> None:
    net = Net()
    assert export.from_dict(net, export.to_dict(Net(), buffers=False)) == ([], [])
    with pytest.raises(RuntimeError, match='Missing key.s. in tree: "body.1.running_mean"'):
        export.from_dict(net, {**export.to_dict(net, buffers=False), "mask": np.zeros(3)})


def test_one_report_names_every_problem_and_nothing_changes() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    before = export.to_dict(net, numpy=True)
    tree = {"0.weight": np.zeros((2, 3)), "0.bias": np.zeros(3), "1.weight": np.array("text"), "2.bias": np.zeros(1)}
    with pytest.raises(RuntimeError, match=r"loading tree for Sequential") as error:
        export.from_dict(net, tree)
    for line in (
        'Unexpected key(s) in tree: "2.bias"',
        'Missing key(s) in tree: "1.bias"',
        "size mismatch for 0.bias: the shape in the tree is (3,), the shape in current model is (2,)",
        'expected an array of numbers for "1.weight", got ndarray',
    ):
        assert line in str(error.value)
    jax.tree.map(np.testing.assert_array_equal, export.to_dict(net, numpy=True), before)


def test_lenient_load_returns_what_it_left_out() -> None:
    net = nn.Linear(3, 2)
    report = export.from_dict(net, {"weight": np.ones((2, 3)), "other": np.ones(1)}, strict=False)
    assert report == (["bias"], ["other"]) and net.weight.numpy().all()


def test_dtype_and_place_stay_those_of_the_module() -> None:
    device = jax.devices()[2]
    net = nn.Linear(3, 2).to(jnp.bfloat16).to(device)
    export.from_dict(net, {"weight": np.ones((2, 3)), "bias": jnp.ones(2)})
    assert net.weight.dtype == jnp.bfloat16 and net.weight.value.devices() == {device}


def test_meta_module_is_filled() -> None:
    net = nn.Linear(3, 2)
    with jm.device("meta"):
        empty = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="cannot export 'weight': it is on the meta device"):
        export.to_dict(empty)
    export.from_dict(empty, export.to_dict(net))
    assert_equal_state(empty, net)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: nn.LazyLinear(2), "'weight': it has no shape yet: call the module once"),
        (Net, "'file'.* not available"),
    ],
)
def test_arrays_without_numbers_are_named(net: Any, message: str) -> None:
    net = net()
    if isinstance(net, Net):
        net.file.value.delete()
    with pytest.raises(ValueError, match=f"cannot export {message}"):
        export.to_dict(net, numpy=True)


def test_traced_values_are_refused() -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="cannot export 'weight': it is a traced value"):
        jm.jit(lambda net: export.to_dict(net, numpy=True))(net)


@pytest.mark.parametrize("kind", FILES)
def test_files_come_back_exactly(tmp_path: Path, kind: str) -> None:
    to, back = FILES[kind]
    net, other = Net(), Net()
    to(net, tmp_path / "net")
    assert os.listdir(tmp_path) == ["net"]
    assert back(other, str(tmp_path / "net")) == ([], [])
    assert_equal_state(other, net)


@pytest.mark.parametrize("kind", FILES)
def test_every_dtype_comes_back(tmp_path: Path, kind: str) -> None:
    def make(fill: int) -> nn.Module:
        net = nn.Module()
        for dtype in DTYPES:
            for suffix, shape in ("scalar", ()), ("matrix", (2, 3)), ("empty", (0, 2)):
                net.register_buffer(f"{dtype}_{suffix}", jnp.full(shape, fill).astype(dtype))
        return net

    net, other = make(1), make(0)
    FILES[kind][0](net, tmp_path / "net")
    FILES[kind][1](other, tmp_path / "net")
    assert_equal_state(other, net)


def test_npz_is_plain_and_names_foreign_dtypes(tmp_path: Path) -> None:
    net = nn.Linear(3, 2).to(jnp.bfloat16)
    net.register_buffer("count", jnp.array(3, dtype=jnp.int32))
    export.to_npz(net, tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz", allow_pickle=False) as file:
        assert file["count"] == 3 and file["weight"].dtype == np.uint16
        assert file["__dtypes__"].tolist() == [["weight", "bfloat16"], ["bias", "bfloat16"]]


def test_npz_of_numpy_is_read(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    np.savez_compressed(tmp_path / "net.npz", weight=np.ones((2, 3)), bias=np.zeros(2))
    export.from_npz(net, tmp_path / "net.npz")
    assert net.weight.numpy().all() and net.weight.dtype == jnp.float32


def test_safetensors_file_is_plain_and_loads_in_torch(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    export.to_safetensors(net, tmp_path / "net", metadata={"step": "7"})
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    theirs.load_state_dict({n: torch.tensor(a) for n, a in load_file(tmp_path / "net").items()}, strict=True)
    with safe_open(tmp_path / "net", framework="np") as file:
        assert file.metadata() == {"format": "pt", "step": "7"}


def test_metadata_that_are_no_strings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="metadata must be strings by strings, got {'step': 7}"):
        export.to_safetensors(nn.Linear(1, 1), tmp_path / "net", metadata={"step": 7})  # type: ignore[dict-item]
    assert os.listdir(tmp_path) == []


def write(path: Path, save: Any, *args: Any, **arrays: Any) -> None:
    with path.open("wb") as file:
        save(file, *args, **arrays)


BAD_FILES = {
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_bytes(b"text " * 20),
    "npy": lambda path: write(path, np.save, np.ones(3)),
    "pickle": lambda path: write(path, np.savez, weight=np.array([print], dtype=object)),
    "truncated npz": lambda path: (export.to_npz(Net(), path), path.write_bytes(path.read_bytes()[:-30])),
    "truncated": lambda path: (export.to_safetensors(Net(), path), path.write_bytes(path.read_bytes()[:-3])),
}


@pytest.mark.parametrize("bad", BAD_FILES)
@pytest.mark.parametrize("kind", FILES)
def test_bad_files_are_named(tmp_path: Path, kind: str, bad: str) -> None:
    BAD_FILES[bad](tmp_path / "net")
    with pytest.raises(ValueError, match=rf"cannot read '.*net': expected a \.?{kind} file"):
        FILES[kind][1](Net(), tmp_path / "net")


@pytest.mark.parametrize("kind", FILES)
def test_failed_save_leaves_the_earlier_file(tmp_path: Path, kind: str) -> None:
    net = nn.Linear(1, 1)
    FILES[kind][0](net, tmp_path / "net")
    before = (tmp_path / "net").read_bytes()
    net.weight.value.delete()
    with pytest.raises(ValueError, match="cannot export 'weight'"):
        FILES[kind][0](net, tmp_path / "net")
    assert (tmp_path / "net").read_bytes() == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: export.to_dict({"weight": 1}), "expected a Module, got dict"),
        (lambda: export.from_dict(nn.Linear(1, 1), [1]), "expected a dict of arrays, got list"),
    ],
)
def test_wrong_arguments_are_explained(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()
