"""``jm.from_pretrained_files``: weights from files into a module in one call, with PyTorch's reports."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from huggingface_hub import save_torch_state_dict, split_torch_state_dict_into_shards
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.torch import load_file, save_file

import jaxmodules as jm
from jaxmodules.checkpoint import CheckpointError
from jaxmodules.nn.utils import parametrizations

AUTO = (jax.sharding.AxisType.Auto,)


def build(s: Any) -> Any:
    """Return the same net in PyTorch and here."""
    return s.Sequential(s.Linear(3, 4), s.BatchNorm1d(4), s.Linear(4, 2, bias=False))


def tied(s: Any) -> Any:
    net = s.ModuleDict({"wte": s.Embedding(5, 3), "h": s.Linear(3, 3), "lm_head": s.Linear(3, 5, bias=False)})
    net["lm_head"].weight = net["wte"].weight
    return net


def write(state: Any, folder: Path) -> Path:
    """Write a PyTorch state dict in several shards."""
    save_torch_state_dict(dict(state), folder, max_shard_size=40)
    return folder


def assert_equal(net: Any, state: Any) -> None:
    ours = net.state_dict()
    assert ours.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(np.asarray(ours[name], np.float32), tensor.float().numpy(), err_msg=name)


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_every_tensor_comes_into_the_boxes_that_are_there(tmp_path: Path, where: str) -> None:
    state = build(torch.nn).state_dict()
    with jm.device(where):
        net = build(jm.nn)
    boxes = dict(net.named_parameters())
    report = jm.from_pretrained_files(net, write(state, tmp_path))
    assert str(report) == "<All keys matched successfully>"
    assert_equal(net, state)
    assert all(p is boxes[name] for name, p in net.named_parameters())
    assert net(jnp.ones((2, 3))).shape == (2, 2)


def test_prefix_takes_the_body_of_a_model_with_a_head(tmp_path: Path) -> None:
    body = build(torch.nn).state_dict()
    whole = {f"bert.{k}": v for k, v in body.items()} | {"cls.bias": torch.ones(2), "bertha": torch.ones(1)}
    net = build(jm.nn)
    jm.from_pretrained_files(net, write(whole, tmp_path), prefix="bert.")
    assert_equal(net, body)


SURPLUS = "(the names in the files begin with 'bert.': give prefix='bert.')"
NOTES = [
    ("bert", None, "", SURPLUS),
    ("bert", None, "bert", SURPLUS),
    (None, "bert", "", "(the names in the module begin with 'bert.': give rename=[('^', 'bert.')])"),
    ("bert", None, "gpt.", "(no name in the files begins with 'gpt.': they are like 'bert.0.bias')"),
    ("bert", "bart", "", None),
]


@pytest.mark.parametrize(("saved", "wanted", "prefix", "note"), NOTES, ids=map(str, range(len(NOTES))))
def test_report_tells_a_prefix_that_differs(tmp_path: Path, saved: Any, wanted: Any, prefix: str, note: Any) -> None:
    theirs = build(torch.nn) if saved is None else torch.nn.ModuleDict({saved: build(torch.nn)})
    net = build(jm.nn) if wanted is None else jm.nn.ModuleDict({wanted: build(jm.nn)})
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    tensors = dict(sorted(jm.checkpoint.open(tmp_path).items()))
    with pytest.raises(RuntimeError, match="Missing key") as caught:
        jm.from_pretrained_files(net, tensors, prefix=prefix)
    assert getattr(caught.value, "__notes__", []) == ([] if note is None else [note])


RENAMES = [
    {"old.gamma": "0.weight", "bias": "0.bias", "extra": None},
    [(r"^old\.", "0."), ("gamma$", "weight"), (r"^(bias)$", r"0.\1"), ("^ext", None)],
    [(re.compile("OLD.GAMMA", re.I), lambda match: "0.weight"), ("^bias", "0.bias"), ("a$", None)],
    lambda name: {"old.gamma": "0.weight", "bias": "0.bias"}.get(name),
]


@pytest.mark.parametrize("rename", RENAMES, ids=["mapping", "patterns", "compiled", "function"])
def test_names_are_changed(tmp_path: Path, rename: Any) -> None:
    linear = torch.nn.Sequential(torch.nn.Linear(3, 2))
    extra = {"old.gamma": linear[0].weight.data, "bias": linear[0].bias.data, "extra": torch.ones(1)}
    save_file({f"m.{name}": tensor for name, tensor in extra.items()}, tmp_path / "model.safetensors")
    net = jm.nn.Sequential(jm.nn.Linear(3, 2))
    jm.from_pretrained_files(net, tmp_path, prefix="m.", rename=rename)
    assert_equal(net, linear.state_dict())


REFUSALS = [
    ({"rename": {re.compile("a"): "b"}}, TypeError, "regular expressions as a list of pairs"),
    ({"rename": "abc"}, TypeError, r"a list of pairs \(pattern, replacement\), or a function of a name, got 'abc'"),
    ({"rename": [("a", "b", "c")]}, TypeError, "a list of pairs"),
    ({"rename": lambda name: 3}, TypeError, "rename must give a name or None, got 3 for '0.bias'"),
    ({"rename": lambda name: "x"}, ValueError, "'0.bias' and '0.weight' both become 'x'|'0.weight' and '0.bias' both"),
    ({"dtype": "int32"}, TypeError, "must be a floating point dtype, 'auto' or None, got int32"),
    ({"dtype": "floaty"}, TypeError, "expected a dtype such as .*, got 'floaty'"),
    ({"device": "meta"}, ValueError, "cannot load to the meta device"),
    ({"device": "abacus"}, RuntimeError, "Expected one of cpu, .* device string: abacus"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSALS, ids=map(str, range(len(REFUSALS))))
def test_wrong_arguments_are_explained_and_change_nothing(
    tmp_path: Path, options: Any, error: Any, message: str
) -> None:
    save_file(torch.nn.Sequential(torch.nn.Linear(3, 2)).state_dict(), tmp_path / "model.safetensors")
    net = jm.nn.Sequential(jm.nn.Linear(3, 2))
    before = dict(net.state_dict())
    with pytest.raises(error, match=message):
        jm.from_pretrained_files(net, tmp_path, **options)
    assert all(value is before[name] for name, value in net.state_dict().items())


def test_something_else_than_a_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"expected a Module to load into, got PosixPath: call from_pretrained_files\("):
        jm.from_pretrained_files(tmp_path, build(jm.nn))  # type: ignore[arg-type]


class Counting:
    """A mix-in for a Linear with extra state, of PyTorch or here."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.count: Any = None

    def get_extra_state(self) -> Any:
        return self.count

    def set_extra_state(self, state: Any) -> None:
        self.count = state


def test_torch_files_bring_extra_state_and_versions(tmp_path: Path) -> None:
    theirs = torch.nn.Sequential(type("Linear", (Counting, torch.nn.Linear), {})(3, 2), torch.nn.BatchNorm1d(2))
    ours = jm.nn.Sequential(type("Linear", (Counting, jm.nn.Linear), {})(3, 2), jm.nn.BatchNorm1d(2))
    theirs[0].count = {"seen": [1, 2]}
    versions: list[Any] = []
    ours[1].register_load_state_dict_pre_hook(lambda module, state, prefix, local, *_: versions.append(local))
    torch.save({"model": torch.nn.ModuleDict({"body": theirs}).state_dict()}, tmp_path / "last.ckpt")
    jm.from_pretrained_files(ours, tmp_path / "last.ckpt", entry="model", prefix="body.")
    assert ours[0].count == {"seen": [1, 2]} and versions == [{"version": 2}]
    np.testing.assert_array_equal(ours[0].weight, theirs[0].weight.detach().numpy())


def test_assign_gives_a_net_without_data_what_the_file_has(tmp_path: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in torch.nn.Linear(3, 2).state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    with jm.device("meta"):
        net = jm.nn.Linear(3, 2)
    net.load_state_dict(jm.checkpoint.open(tmp_path), assign=True)
    assert_equal(net, state)
    assert net.weight.dtype == jnp.bfloat16


def test_what_is_left_without_data_is_warned_of(tmp_path: Path) -> None:
    save_file(torch.nn.Linear(3, 2).state_dict(), tmp_path / "model.safetensors")
    with jm.device("meta"):
        net = jm.nn.Linear(3, 2)
        net.register_buffer("mask", jnp.ones(2), persistent=False)
    with pytest.warns(UserWarning, match="mask had no data, and the files hold none for it"):
        jm.from_pretrained_files(net, tmp_path)


def test_mapping_is_taken_in_place_of_a_path(tmp_path: Path) -> None:
    state = build(torch.nn).state_dict()
    net = build(jm.nn)
    with jm.checkpoint.open(write(state, tmp_path)) as tensors:
        jm.from_pretrained_files(net, {**tensors, "2.weight": torch.ones(2, 4)})
    assert_equal(net, {**state, "2.weight": torch.ones(2, 4)})


MISFITS = [
    lambda state: state.pop("0.bias"),
    lambda state: state.update({"0.more": torch.ones(1), "3.weight": torch.ones(1)}),
    lambda state: state.update({"2.weight": torch.ones(5, 2), "0.bias": torch.ones(())}),
    lambda state: [state.pop("1.running_var"), state.update({"x": torch.ones(1), "0.weight": torch.ones(1)})],
]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("misfit", MISFITS, ids=map(str, range(len(MISFITS))))
def test_reports_are_those_of_torch(tmp_path: Path, misfit: Any, strict: bool) -> None:
    theirs, ours = build(torch.nn), build(jm.nn)
    state = dict(sorted(build(torch.nn).state_dict().items()))
    misfit(state)
    before = dict(ours.state_dict())
    save_file(state, tmp_path / "model.safetensors")
    state = {name: state[name] for name in jm.checkpoint.open(tmp_path)}
    try:
        expected: Any = theirs.load_state_dict(state, strict=strict)
    except RuntimeError as error:
        with pytest.raises(RuntimeError, match=f"^{re.escape(str(error))}$"):
            jm.from_pretrained_files(ours, tmp_path, strict=strict)
        assert all(value is before[name] for name, value in ours.state_dict().items())
    else:
        assert str(jm.from_pretrained_files(ours, tmp_path, strict=strict)) == str(expected)


@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize("left_out", ["lm_head.weight", "wte.weight"])
def test_one_name_of_a_tied_parameter_is_enough(tmp_path: Path, left_out: str, where: str) -> None:
    state = tied(torch.nn).state_dict()
    save_file({k: v.clone() for k, v in state.items() if k != left_out}, tmp_path / "model.safetensors")
    with jm.device(where):
        net = tied(jm.nn)
    assert jm.from_pretrained_files(net, tmp_path).missing_keys == []
    assert_equal(net, state)
    assert net["lm_head"].weight is net["wte"].weight
    with pytest.raises(RuntimeError, match=f'Missing key.*"{left_out}"'):
        net.load_state_dict(jm.checkpoint.open(tmp_path))


def test_both_names_of_a_tied_parameter_missing_is_an_error(tmp_path: Path) -> None:
    save_file(torch.nn.ModuleDict({"h": torch.nn.Linear(3, 3)}).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match='Missing key.*"wte.weight", "lm_head.weight"'):
        jm.from_pretrained_files(tied(jm.nn), tmp_path)


DTYPE_CASES = [
    (None, "float32", "bfloat16"),
    ("bfloat16", "bfloat16", "bfloat16"),
    (jnp.float16, "float16", "float16"),
    ("auto", "bfloat16", "float16"),
]


@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize(("dtype", "first", "second"), DTYPE_CASES, ids=str)
def test_floating_point_is_cast_while_loading(tmp_path: Path, dtype: Any, first: str, second: str, where: str) -> None:
    state = build(torch.nn).state_dict()
    state["0.weight"] = state["0.weight"].bfloat16()
    state["2.weight"] = state["2.weight"].half()
    with jm.device(where):
        net = build(jm.nn)
        net[2].bfloat16()
    jm.from_pretrained_files(net, write(state, tmp_path), dtype=dtype)
    assert net[0].weight.dtype == first and net[2].weight.dtype == second
    assert net[1].num_batches_tracked.dtype == jnp.int32
    expected = state["2.weight"].to(getattr(torch, second))
    np.testing.assert_array_equal(net[2].weight.value.astype(jnp.float32), expected.float().numpy())


def make_sharding(*spec: str | None) -> NamedSharding:
    return NamedSharding(jax.make_mesh((4,), ("x",), axis_types=AUTO), PartitionSpec(*spec))


PLACES = [
    lambda name: make_sharding("x") if name == "0.weight" else make_sharding(),
    {"0.weight": make_sharding("x"), "2.weight": make_sharding(None, "x")},
    make_sharding(),
    "cpu:1",
    jax.devices()[2],
]


@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize("device", PLACES, ids=["function", "mapping", "sharding", "string", "device"])
def test_arrays_go_where_they_are_sent(tmp_path: Path, device: Any, where: str) -> None:
    state = build(torch.nn).state_dict()
    with jm.device(where):
        net = build(jm.nn)
    jm.from_pretrained_files(net, write(state, tmp_path), device=device)
    assert_equal(net, state)
    for name, array in net.state_dict().items():
        place = device.get(name) if isinstance(device, dict) else device
        place = jm.device(place(name) if callable(place) else place).target if place is not None else jax.devices()[0]
        assert array.sharding == place or array.devices() == {place}, name


def test_arrays_stay_where_they_are(tmp_path: Path) -> None:
    state = build(torch.nn).state_dict()
    net = build(jm.nn)
    net[0].weight.data = jax.device_put(net[0].weight.value, make_sharding("x"))
    net[2].to("cpu:3")
    jm.from_pretrained_files(net, write(state, tmp_path))
    assert_equal(net, state)
    assert net[0].weight.value.sharding == make_sharding("x") and net[2].weight.device == jax.devices()[3]
    assert not net[0].bias.value.committed


def test_hooks_see_the_names_they_wait_for(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        theirs = torch.nn.utils.weight_norm(torch.nn.Linear(3, 2))
    ours = parametrizations.weight_norm(jm.nn.Linear(3, 2))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    jm.from_pretrained_files(ours, tmp_path)
    np.testing.assert_allclose(ours.weight, theirs.weight.detach().numpy(), rtol=1e-6)


def test_hook_may_compute_with_what_is_in_the_file(tmp_path: Path) -> None:
    net = jm.nn.Linear(3, 2)

    def transpose(module: Any, state: Any, prefix: str, *_: Any) -> None:
        state[prefix + "weight"] = state[prefix + "weight"].T

    net.register_load_state_dict_pre_hook(transpose)
    save_file({"weight": torch.arange(6.0).reshape(3, 2), "bias": torch.ones(2)}, tmp_path / "model.safetensors")
    jm.from_pretrained_files(net, tmp_path, dtype="bfloat16")
    assert net.weight.dtype == jnp.bfloat16 and net.weight[1].tolist() == [1, 3, 5]


def test_lazy_module_finds_its_shape(tmp_path: Path) -> None:
    save_file(torch.nn.Linear(3, 2).state_dict(), tmp_path / "model.safetensors")
    net = jm.nn.LazyLinear(2)
    jm.from_pretrained_files(net, tmp_path)
    assert net.weight.shape == (2, 3)


def test_truncation_after_opening_changes_nothing(tmp_path: Path) -> None:
    net = build(jm.nn)
    before = dict(net.state_dict())
    save_file(build(torch.nn).state_dict(), tmp_path / "model.safetensors")
    tensors = jm.checkpoint.open(tmp_path)
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(300)
    with pytest.raises(RuntimeError, match='parameter named "0.weight", .*bytes when it was opened and has 300 now'):
        jm.from_pretrained_files(net, tensors)
    assert all(value is before[name] for name, value in net.state_dict().items())
    with pytest.raises(CheckpointError, match="cannot load .*model.safetensors': .*truncated"):
        jm.from_pretrained_files(net, tmp_path)


@pytest.mark.parametrize("device", [None, make_sharding("x")], ids=["one device", "sharded"])
def test_host_memory_is_that_of_the_net_and_no_more(tmp_path: Path, device: Any) -> None:
    size = 1 << 16
    save_file({f"{i}.weight": torch.ones(256, 256, dtype=torch.bfloat16) for i in range(8)}, tmp_path / "a.safetensors")
    with jm.device("meta"):
        net = jm.nn.Sequential(*[jm.nn.Linear(256, 256, bias=False) for _ in range(8)])
    tracemalloc.start()
    jm.from_pretrained_files(net, tmp_path, device=device)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    arrays = 8 * size * 4
    assert peak < arrays + 1.5 * size * 4


@pytest.mark.parametrize("limit", [10, 40, 100, "1KB"])
def test_saved_folder_is_the_one_of_hugging_face(tmp_path: Path, limit: Any) -> None:
    state = build(torch.nn).state_dict()
    net = build(jm.nn)
    net.load_state_dict(state)
    jm.checkpoint.save_pretrained_files(net, tmp_path / "ours", max_shard_size=limit)
    ours = {file.name: load_file(file) for file in (tmp_path / "ours").glob("*.safetensors")}
    split = split_torch_state_dict_into_shards(state, max_shard_size=limit)
    assert ours.keys() == split.filename_to_tensors.keys()
    for file, names in split.filename_to_tensors.items():
        assert sorted(ours[file]) == sorted(names)
    if split.is_sharded:
        index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
        sizes = {k: ours[file][k].nbytes for k, file in index["weight_map"].items()}
        assert index["weight_map"] == split.tensor_to_filename and index["metadata"]["total_size"] == sum(
            sizes.values()
        )
    other = build(jm.nn)
    jm.from_pretrained_files(other, tmp_path / "ours")
    assert_equal(other, state)


def test_save_stores_a_tied_parameter_once_and_an_equal_buffer_twice(tmp_path: Path) -> None:
    net = tied(jm.nn)
    buffer = jnp.ones(2)
    net.register_buffer("a", buffer)
    net.register_buffer("b", buffer)
    jm.checkpoint.save_pretrained_files(net, tmp_path)
    tensors = jm.checkpoint.open(tmp_path)
    assert sorted(tensors) == ["a", "b", "h.bias", "h.weight", "wte.weight"] and tensors.metadata == {"format": "pt"}
    jm.from_pretrained_files(tied(jm.nn), tmp_path, rename=[("^[ab]$", None)])


def test_save_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    state = {"a": np.ones(3, np.float32), "b": np.zeros(4, np.float32)}
    (tmp_path / "config.json").touch()
    for limit, files in [(10, 3), ("5GB", 1), ("0.02KB", 3)]:
        jm.checkpoint.save_pretrained_files(state, tmp_path, max_shard_size=limit)
        assert len(list(tmp_path.iterdir())) == files + 1
        np.testing.assert_array_equal(jm.checkpoint.open(tmp_path)["a"], state["a"])


@pytest.mark.parametrize(
    ("state", "size", "error", "message"),
    [
        ({"w": jnp.ones(1), "_extra_state": {"n": 1}}, 1, TypeError, "cannot save '_extra_state': .* got dict"),
        ({"w": np.ones(1, np.complex128)}, 1, TypeError, "cannot save 'w': .* got an array of dtype complex128"),
        ({"w": jax.random.key(0)}, 1, TypeError, "cannot save 'w': .* got an array of dtype key"),
        ({"w": jnp.ones(1)}, "5 apples", ValueError, "a string such as '5GB', got '5 apples'"),
        ({"w": jnp.ones(1)}, 0, ValueError, "a positive number of bytes, .*got 0"),
    ],
    ids=map(str, range(5)),
)
def test_what_cannot_be_saved_is_explained(tmp_path: Path, state: Any, size: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        jm.checkpoint.save_pretrained_files(state, tmp_path / "new", max_shard_size=size)
    assert not (tmp_path / "new").exists()
