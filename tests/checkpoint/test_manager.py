"""``CheckpointManager``: what is saved comes back, to where it belongs, or nothing changes."""

import gc
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.checkpoint import CheckpointError, CheckpointManager

MESH = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
ROWS = NamedSharding(MESH, PartitionSpec("x"))
COLUMNS = NamedSharding(MESH, PartitionSpec(None, "x"))


class Net(nn.Module):
    """Two tied matrices and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 8, bias=False)
        self.decode = nn.Linear(4, 8)
        self.decode.weight = self.encode.weight
        self.norm = nn.BatchNorm1d(8)


class Position:
    """Data that know where they are."""

    def __init__(self, taken: int = 0) -> None:
        self.taken = taken

    def get_state(self) -> dict[str, Any]:
        return {"taken": self.taken, "shares": (0.1, float("nan"), None, 2**70), "seen": np.arange(3) * 2**40}

    def set_state(self, state: dict[str, Any]) -> None:
        assert state["seen"].dtype == np.int64
        self.taken = state["taken"]


def make(seed: int = 0, steps: int = 1) -> dict[str, Any]:
    """Return objects that have taken some steps."""
    jm.manual_seed(seed)
    net = Net()
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1)
    scheduler = jm.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(steps):
        for parameter in net.parameters():
            parameter.grad = parameter.value
        optimizer.step()
        scheduler.step()
    return {"net": net, "optimizer": optimizer, "scheduler": scheduler, "data": Position(seed)}


def contents(objects: dict[str, Any]) -> list[Any]:
    """Return all numbers of the objects and of the random state."""
    states = [getattr(o, "state_dict", getattr(o, "get_state", None))() for o in objects.values()]
    leaves, structure = jax.tree.flatten([states, jm.get_rng_state()])
    return [str(structure), *(np.asarray(leaf, object if leaf is None else None).tolist() for leaf in leaves)]


def same(ours: list[Any], theirs: list[Any]) -> bool:
    return repr(ours) == repr(theirs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Save objects once, and return where, with all their numbers."""
    folder = tmp_path_factory.mktemp("saved")
    objects = make(3, steps=2)
    before = contents(objects)
    with CheckpointManager(folder) as manager:
        assert manager.save(7, **objects, epoch=2, average={"w": jnp.ones(2)}, metrics={"loss": jnp.float32(0.5)})
    return folder, before


def test_everything_comes_back(saved: tuple[Path, list[Any]]) -> None:
    objects = make(4, steps=0)
    with CheckpointManager(saved[0]) as manager:
        restored = manager.restore(**objects)
        assert manager.metrics(7) == {"loss": 0.5}
    assert (restored.step, restored.values, restored.missing_keys) == (7, {"epoch": 2}, [])
    assert same(contents(objects), saved[1])
    assert objects["net"].encode.weight is objects["net"].decode.weight


def test_values_are_returned(saved: tuple[Path, list[Any]]) -> None:
    with CheckpointManager(saved[0]) as manager:
        values = manager.restore(7, average=None, net=None).values
    assert values["average"]["w"].tolist() == [1, 1] and values["epoch"] == 2
    assert values["net"]["encode.weight"] is values["net"]["decode.weight"]


def test_orbax_alone_finds_dotted_names_and_tied_ones_once(saved: tuple[Path, list[Any]]) -> None:
    shapes = ocp.StandardCheckpointer().metadata(saved[0] / "7" / "arrays").item_metadata
    assert tuple(shapes["net.encode.weight"].shape) == (8, 4)
    assert "net.decode.weight" not in shapes and "optimizer.state.0.exp_avg" in shapes
    with ocp.CheckpointManager(saved[0]) as manager:
        assert manager.latest_step() == 7


def spread(objects: dict[str, Any], sharding: Any) -> dict[str, Any]:
    """Shard the matrix of a net over devices."""
    box = objects["net"].encode.weight
    box.value = jax.device_put(box.value, sharding)
    return objects


@pytest.mark.parametrize("sharding", [ROWS, COLUMNS, SingleDeviceSharding(jax.devices()[2])], ids=str)
def test_arrays_go_to_where_the_parameters_are(sharding: Any, saved: tuple[Path, list[Any]]) -> None:
    objects = spread(make(4, steps=0), sharding)
    with CheckpointManager(saved[0]) as manager:
        manager.restore(**objects)
    assert same(contents(objects), saved[1])
    assert objects["net"].encode.weight.value.sharding == sharding
    assert objects["optimizer"].state_dict()["state"][0]["exp_avg"].sharding == sharding
    assert not objects["net"].decode.bias.value.committed


def test_sharded_arrays_are_saved(tmp_path: Path) -> None:
    objects = spread(make(3), ROWS)
    before = contents(objects)
    with CheckpointManager(tmp_path) as manager:
        manager.save(0, **objects)
        again = spread(make(4, steps=3), COLUMNS)
        manager.restore(**again)
    assert same(contents(again), before)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (None, None),
        (jax.devices()[1], SingleDeviceSharding(jax.devices()[1])),
        (NamedSharding(MESH, PartitionSpec()), NamedSharding(MESH, PartitionSpec())),
        (lambda name, like: ROWS if name == "net.encode.weight" and like.shape == (8, 4) else None, ROWS),
    ],
    ids=["default", "device", "sharding", "function"],
)
def test_model_without_data_is_filled(device: Any, expected: Any, saved: tuple[Path, list[Any]]) -> None:
    with jm.device("meta"):
        objects = make(4, steps=0)
    box = objects["net"].encode.weight
    with CheckpointManager(saved[0]) as manager:
        manager.restore(**objects, device=device)
    assert same(contents(objects), saved[1])
    assert objects["net"].encode.weight is box is objects["optimizer"].param_groups[0]["params"][0]
    if expected is not None:
        assert box.value.sharding == expected
        assert objects["optimizer"].state_dict()["state"][0]["exp_avg"].sharding == expected
    assert len({id(p.value) for p in objects["net"].parameters()}) == 4


def test_restored_arrays_can_be_donated(saved: tuple[Path, list[Any]]) -> None:
    objects = spread(make(4, steps=0), ROWS)
    with CheckpointManager(saved[0]) as manager:
        manager.restore(net=objects["net"], optimizer=objects["optimizer"])
        step = jm.jit(lambda net, optimizer: optimizer.step(), donate=True)
        step(objects["net"], objects["optimizer"])
        manager.restore(**objects)
    assert same(contents(objects), saved[1])


@pytest.mark.parametrize("state", ["lazy", "deleted"])
def test_places_that_hold_nothing_are_filled(state: str, tmp_path: Path) -> None:
    net = nn.Linear(2, 3)
    with CheckpointManager(tmp_path) as manager:
        manager.save(0, net=net)
        other = nn.LazyLinear(3) if state == "lazy" else nn.Linear(2, 3)
        if state == "deleted":
            other.weight.value.delete()
        manager.restore(net=other)
    assert other.weight.tolist() == net.weight.tolist()


def narrow(objects: dict[str, Any]) -> None:
    objects["net"].norm = nn.BatchNorm1d(5)


def rename(objects: dict[str, Any]) -> None:
    objects["net"].normalize = objects["net"].norm
    del objects["net"].norm


def lengthen(objects: dict[str, Any]) -> None:
    objects["optimizer"].add_param_group({"params": [nn.Parameter(jnp.ones(1))]})


def refuse(objects: dict[str, Any]) -> None:
    def set_state(state: Any) -> None:
        objects["data"].taken = -1
        jm.rand(3)
        raise ValueError("no such place")

    objects["data"].set_state = set_state


MISFITS = {
    narrow: r"net: Error.*Net:\s+size mismatch for norm.weight: .*\[8\].*\[5\].*\s+size mismatch for norm.bias",
    rename: r'net: Error.*\s+Missing key\(s\) in state_dict: "normalize.weight".*\s+Unexpected key\(s\).*"norm.weight"',
    lengthen: "optimizer: loaded state dict has a different number of parameter groups",
    refuse: "data: no such place",
}


@pytest.mark.parametrize("change", MISFITS, ids=lambda change: change.__name__)
def test_what_does_not_fit_changes_nothing(change: Callable[[Any], None], saved: tuple[Path, list[Any]]) -> None:
    objects = make(5, steps=1)
    change(objects)
    before = contents(objects)
    with CheckpointManager(saved[0]) as manager, pytest.raises(RuntimeError, match=r"(?s)restoring .*/7'.*") as caught:
        manager.restore(**objects)
    caught.match("(?s)" + MISFITS[change])
    if change is refuse:
        objects["data"].taken = 5
    assert same(contents(objects), before)


def test_all_misfits_are_in_one_error(saved: tuple[Path, list[Any]]) -> None:
    objects = make(5)
    narrow(objects)
    lengthen(objects)
    with CheckpointManager(saved[0]) as manager, pytest.raises(RuntimeError, match="(?s)net: .*norm.*optimizer: "):
        manager.restore(**objects)


def test_lenient_restore_tells_what_did_not_match(saved: tuple[Path, list[Any]]) -> None:
    objects = make(5)
    rename(objects)
    with CheckpointManager(saved[0]) as manager:
        restored = manager.restore(net=objects["net"], other=Position(), strict=False)
    assert restored.missing_keys[:2] == ["other", "net.normalize.weight"]
    assert restored.unexpected_keys[0] == "net.norm.weight"


def test_object_that_was_not_saved_is_named(saved: tuple[Path, list[Any]]) -> None:
    with CheckpointManager(saved[0]) as manager:
        with pytest.raises(RuntimeError, match=r"Missing object\(s\).*: model; it holds net, optimizer, "):
            manager.restore(model=Net())


def test_arrays_are_as_they_were_when_save_returned(tmp_path: Path) -> None:
    host = np.zeros(1_000_000, np.float32)
    net = nn.Linear(1000, 1000, bias=False)
    grow = jm.jit(lambda net: net.weight.data.add_(1.0), donate=True)
    with CheckpointManager(tmp_path) as manager:
        for step in range(3):
            expected = np.array(net.weight.value)
            manager.save(step, net=net, host=host)
            host += 1
            grow(net)
            grow(net)
            values = manager.restore(step, net=None, host=None).values
            np.testing.assert_array_equal(values["net"]["weight"], expected)
            assert (np.asarray(values["host"]) == step).all()


DTYPES = "bool int8 uint16 int64 uint4 int4 float16 bfloat16 float64 complex128 float8_e4m3 float8_e5m2".split()
ODD = {
    "dtypes": {name: np.arange(6).reshape(2, 3).astype(jnp.dtype(name)) for name in DTYPES},
    "names": {"a/b": jnp.ones(1), "a%2Fb": jnp.zeros(1), "": jnp.ones(2), "/": jnp.ones(3), "\ud800": jnp.ones(4)},
    "empty": jnp.zeros((0, 3)),
    "scalar": np.float32(2),
    "key": jax.random.key(3),
    "plain": [None, True, 2**70, 0.1, float("-inf"), 1 - 2j, "τ\n\0", b"\xff", (), {1: {"a": [()]}}],
}


def test_odd_values_keep_type_and_bits(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        manager.save(0, **ODD)
        values = manager.restore(**dict.fromkeys(ODD)).values
    assert repr(values["plain"]) == repr(ODD["plain"])
    assert jax.random.key_data(values["key"]).tolist() == [0, 3]
    for ours, theirs in zip(jax.tree.leaves(values), jax.tree.leaves(ODD), strict=True):
        if hasattr(theirs, "nbytes") and theirs is not ODD["key"]:
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


REFUSED = [
    (lambda m: m.save(True), TypeError, "step must be an int, got bool"),
    (lambda m: m.restore(Position()), TypeError, "step must be an int, got Position: objects are given by name"),
    (lambda m: jm.jit(lambda x: m.save(3, x=x))(1.0), RuntimeError, "save was called while a function is traced"),
    (lambda m: m.save(3, metrics=[1]), TypeError, "metrics must be numbers by name, got list"),
    (lambda m: m.save(-1), ValueError, "step must not be negative, got -1"),
    (lambda m: m.save(1), ValueError, r"step 1 is lower than 2, the newest in .*: delete the steps above it"),
    (lambda m: m.save(2, force=True), ValueError, r"there is a checkpoint of step 2 in .*: delete\(2\) first"),
    (lambda m: m.save(3, rng_state=1), ValueError, "the name 'rng_state' is taken"),
    (lambda m: m.save(3, config={"act": print}), TypeError, r"cannot save obj\['config'\]\['act'\]: builtin"),
    (lambda m: m.save(3, metrics={"other": 1}), ValueError, "the metrics lack 'loss', by which the best is found"),
    (lambda m: m.restore(5), FileNotFoundError, "there is no checkpoint of step 5 in .*, only of 2"),
    (lambda m: m.delete(5), FileNotFoundError, "there is no checkpoint of step 5 in .*, only of 2"),
    (lambda m: m.restore(device="moon"), RuntimeError, "Expected one of cpu, .*: moon"),
    (lambda m: CheckpointManager(m.directory, max_to_keep=0), ValueError, "max_to_keep must be positive, got 0"),
    (lambda m: CheckpointManager(m.directory, best_fn="a"), ValueError, "best_mode must be 'min' or 'max', got None"),
    (lambda m: CheckpointManager(m.directory).best_step(), ValueError, "give CheckpointManager a best_fn"),
    (lambda m: CheckpointManager(m.directory, read_only=True).save(3), OSError, "opened with read_only=True"),
    (lambda m: CheckpointManager(m.directory, read_only=True).delete(2), OSError, "opened with read_only=True"),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED, ids=map(str, range(len(REFUSED))))
def test_wrong_calls_are_explained(call: Any, kind: type[Exception], message: str, tmp_path: Path) -> None:
    with CheckpointManager(tmp_path, best_fn="loss", best_mode="min") as manager:
        manager.save(2, x=1)
        with pytest.raises(kind, match=message):
            call(manager)
        assert manager.all_steps() == [2] and manager.restore().values == {"x": 1}


def test_closed_manager_takes_no_more(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(0, x=1)
    manager.close()
    manager.close()
    with pytest.raises(ValueError, match="this manager has been closed, make another one"):
        manager.save(1)
    assert manager.restore().values == {"x": 1}


def test_same_step_is_saved_once(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        assert manager.latest_step() is None
        assert [manager.save(step) for step in (0, 0, 1)] == [True, False, True]
        with pytest.raises(ValueError, match="delete"):
            manager.save(0, force=True)


KEPT = [
    ({}, [0, 1, 2, 3, 4, 5]),
    ({"max_to_keep": 2}, [4, 5]),
    ({"max_to_keep": 1, "keep_period": 3}, [0, 3, 5]),
    ({"save_interval_steps": 2}, [0, 2, 4]),
    ({"max_to_keep": 2, "best_fn": "loss", "best_mode": "min"}, [2, 4, 5]),
    ({"max_to_keep": 1, "best_fn": lambda metrics: metrics["loss"]}, [0, 5]),
    ({"max_to_keep": 1, "enable_async_checkpointing": False}, [5]),
]
LOSSES = [9.0, 5.0, 1.0, float("nan"), 2.0, 8.0]


@pytest.mark.parametrize(("options", "expected"), KEPT, ids=map(str, range(len(KEPT))))
def test_checkpoints_are_kept_by_age_period_and_merit(options: Any, expected: list[int], tmp_path: Path) -> None:
    with CheckpointManager(tmp_path, **options) as manager:
        for step, loss in enumerate(LOSSES):
            manager.save(step, metrics={"loss": loss}, loss=loss)
        assert manager.all_steps() == expected
    with CheckpointManager(tmp_path, read_only=True, **options) as manager:
        if "best_fn" in options:
            assert manager.best_step() == (2 if "best_mode" in options else 0)
    assert sorted(os.listdir(tmp_path)) == list(map(str, expected))


def test_manager_sees_what_another_wrote_and_deletes(tmp_path: Path) -> None:
    looking = CheckpointManager(tmp_path / "runs", read_only=True)
    assert looking.all_steps() == [] and not looking.should_save(0) and not (tmp_path / "runs").exists()
    with CheckpointManager(tmp_path / "runs") as writing:
        writing.save(1, x=1)
        writing.save(2, x=2)
        writing.delete(1)
    looking.reload()
    assert looking.restore().values == {"x": 2} and looking.all_steps() == [2]
    assert os.listdir(tmp_path / "runs") == ["2"]


def test_relative_folder_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with CheckpointManager("runs") as manager:
        monkeypatch.chdir("/")
        manager.save(1)
    assert (tmp_path / "runs/1").is_dir()


def test_random_state_is_restored_even_if_nothing_else_is(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        manager.save(0)
        first = jm.rand(3).tolist()
        manager.restore()
    assert jm.rand(3).tolist() == first


DAMAGES = ["tree", "tree/metadata", "arrays", "arrays/manifest.ocdbt", "arrays/d"]


# One read that fails makes Orbax close its event loop; what tensorstore then says of the others comes too late.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_told_from_intact_ones(damage: str, tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        for step in range(3):
            manager.save(step, x=jnp.full(3, step))
    for step in (1, 2):
        path = tmp_path / str(step) / damage
        if path.is_dir():
            shutil.rmtree(path)
        else:
            os.truncate(path, path.stat().st_size // 2)
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(CheckpointError, match=r"step 2: '.*/2' is damaged.*; step 0 is intact: restore\(0, ...\)"):
            manager.restore(x=None)
        assert manager.restore(0, x=None).values["x"].tolist() == [0, 0, 0]
        assert manager.save(3, x=jnp.full(3, 3))
        assert manager.restore(x=None).values["x"].tolist() == [3, 3, 3]
    gc.collect()


def test_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.StandardSave({"w": jnp.ones(2)}))
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(CheckpointError, match="something else wrote it .*; no other one is intact"):
            manager.restore()


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(OSError, match="cannot keep checkpoints in .*: name a folder that can be written to"):
            CheckpointManager(tmp_path / path)


def test_missing_orbax_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxmodules\[checkpoint\]'"):
        CheckpointManager(tmp_path)
