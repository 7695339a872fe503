"""What runs beside the steps: evaluation, early stopping, checkpoints, logs, batches."""

import sys
import types
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.training import Batches, Callback, Checkpoint, CSVLogger, EarlyStopping, Evaluate, TensorBoardLogger

ONES = [np.ones(2, np.float32)] * 3


def fit(step: Any, data: Any, *objects: Any, **options: Any) -> jm.training.History:
    return jm.fit(step, data, *objects, progress=False, **options)


def losses(*values: float) -> Any:
    """Return a step whose loss is the next of these in every epoch of one batch."""
    given = iter(values)
    return lambda *args: next(given)


def test_evaluation_is_in_evaluation_mode_and_leaves_no_trace() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    net[1].eval()
    modes: list[list[bool]] = []

    def step(net: nn.Module, x: Any) -> float:
        modes.append([module.training for module in net.modules()])
        jm.rand(3), np.random.rand(), jm.random.next_key()
        return 1.0

    before = jm.get_rng_state(), np.random.get_state()[2]
    run: Any = types.SimpleNamespace(objects={"net": net}, epoch=0)
    assert Evaluate(step, ONES).measure(run) == {"test_loss": 1.0}
    assert modes == [[False, False, False]] * 3
    assert [module.training for module in net.modules()] == [True, True, False]
    assert np.array_equal(before[0], jm.get_rng_state()) and before[1] == np.random.get_state()[2]


def test_evaluation_takes_objects_and_a_prefix() -> None:
    seen: list[Any] = []
    evaluate = Evaluate(lambda *args: seen.append(args) or {"mse": 2.0}, [np.ones(1)], "a", "b", prefix="valid/")
    history = fit(lambda net, x: 1.0, ONES, nn.Identity(), callbacks=[evaluate])
    assert history["valid/mse"] == [2.0] and seen[0][:2] == ("a", "b") and len(seen) == 1


def test_evaluation_within_epochs_is_logged(tmp_path: Path) -> None:
    evaluate = Evaluate(lambda net, x: 3.0, ONES, every_steps=2, every_epochs=None)
    log = CSVLogger(tmp_path / "log.csv", every_steps=1)
    fit(lambda net, x: 1.0, ONES, nn.Identity(), callbacks=[log, evaluate])
    assert log.path.read_text() == "epoch,step,loss,test_loss\n1,1,1.0,\n1,2,1.0,\n1,2,,3.0\n1,3,1.0,\n"


def test_evaluation_refuses_an_iterator() -> None:
    with pytest.raises(TypeError, match="list_iterator is an iterator, which can be used once"):
        Evaluate(lambda x: 1.0, iter(ONES))


@pytest.mark.parametrize(
    ("values", "options", "epochs"),
    [
        ((3, 2, 1, 0), {}, 4),
        ((3, 2, 2, 0), {}, 3),
        ((3, 2, 2, 1), {"patience": 2}, 4),
        ((3, 4, 5, 5), {"mode": "max"}, 4),
        ((3, 2.9, 0, 0), {"min_delta": 0.5}, 2),
        ((3, float("nan"), 0, 0), {}, 2),
    ],
)
def test_early_stopping(values: tuple[float, ...], options: dict[str, Any], epochs: int) -> None:
    history = fit(losses(*values), ONES[:1], epochs=4, callbacks=[EarlyStopping(**options)])
    assert len(history.rows) == epochs


def test_early_stopping_waits_for_an_evaluation_that_is_due_later() -> None:
    evaluate = Evaluate(losses(2, 2), ONES[:1], nn.Identity(), every_epochs=2)
    history = fit(lambda x: 1.0, ONES, epochs=9, callbacks=[EarlyStopping("test_loss"), evaluate])
    assert len(history.rows) == 4


def test_watching_what_nobody_measures_is_an_error() -> None:
    with pytest.raises(KeyError, match="a callback watches 'acc', but the metrics of an epoch are epoch, loss"):
        fit(lambda x: 1.0, ONES, callbacks=[EarlyStopping("acc")])


def test_more_patience_continues_a_stopped_run(tmp_path: Path) -> None:
    lengths = []
    for patience in (1, 1, 3):
        callbacks = [EarlyStopping(patience=patience), Checkpoint(tmp_path)]
        lengths.append(len(fit(lambda x: 1.0, ONES, epochs=9, callbacks=callbacks).rows))
    assert lengths == [2, 2, 4]


def test_checkpoints_keep_the_newest_and_the_best(tmp_path: Path) -> None:
    save = Checkpoint(tmp_path, keep=2, best="loss")
    fit(losses(3, 1, 2, 4), ONES[:1], epochs=4, callbacks=[save])
    assert [file.name for file in save.files()] == ["step-00000003.safetensors", "step-00000004.safetensors"]
    assert jm.load(tmp_path / "best.safetensors")["fit"]["history"][-1] == {"epoch": 2, "step": 2, "loss": 1.0}


def test_checkpoint_in_one_file_with_extra_entries(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    save = Checkpoint(tmp_path / "new/run.safetensors", extra=lambda run: {"at": run.step})
    fit(lambda net, x: 1.0, ONES, net, callbacks=[save], also={"other": nn.Linear(2, 2)})
    saved = jm.load(save.path)
    assert list(saved) == ["net", "other", "fit", "at"] and saved["at"] == 3
    np.testing.assert_array_equal(saved["net"]["weight"], net.weight.value)


def test_beginning_anew_replaces_what_there_was(tmp_path: Path) -> None:
    fit(lambda x: 1.0, ONES, epochs=3, callbacks=[Checkpoint(tmp_path, keep=None)])
    save = Checkpoint(tmp_path, resume=False, keep=None)
    assert len(fit(lambda x: 1.0, ONES, epochs=2, callbacks=[save]).rows) == 2
    assert [file.name for file in save.files()] == ["step-00000003.safetensors", "step-00000006.safetensors"]


def test_what_has_a_state_is_saved_and_restored(tmp_path: Path) -> None:
    class Counter(Callback):
        count = 0

        def on_step(self, run: jm.training.Run) -> None:
            self.count += 1

        def state_dict(self) -> int:
            return self.count

        def load_state_dict(self, state: int) -> None:
            self.count = state

    counters = [Counter(), Counter(), Counter()]
    for epochs, counter in enumerate(counters, 1):
        fit(lambda x: 1.0, ONES, epochs=epochs, callbacks=[Checkpoint(tmp_path), counter])
    assert [counter.count for counter in counters] == [3, 6, 9]


def test_generators_are_saved(tmp_path: Path) -> None:
    drawn = []
    for seed in (5, 6):
        generator = jm.Generator().manual_seed(seed)
        fit(lambda generator, x: jm.rand(1, generator=generator)[0], ONES, generator, callbacks=[Checkpoint(tmp_path)])
        drawn.append(float(jm.rand(1, generator=generator)[0]))
    assert drawn[0] == drawn[1]


def test_callbacks_are_called_in_order() -> None:
    calls: list[str] = []
    hooks = ("on_setup", "on_start", "on_step", "on_metrics", "on_epoch", "after_epoch", "on_end", "on_close")
    members = {name: lambda self, *args, name=name: calls.append(name) for name in hooks}
    fit(lambda x: jnp.float32(1), ONES[:2], callbacks=[type("Every", (Callback,), members)()])
    assert calls == [*hooks[:3], "on_step", "on_metrics", *hooks[3:]]


def test_metrics_of_a_step_can_be_read_at_once() -> None:
    seen: list[dict[str, float]] = []

    class Reads(Callback):
        def on_step(self, run: jm.training.Run) -> None:
            seen.append(run.metrics)
            if run.step == 2:
                run.stop("enough")

    fit(lambda x: x.sum(), [jnp.ones(n) for n in range(1, 9)], callbacks=[Reads()])
    assert seen == [{"loss": 1.0}, {"loss": 2.0}]


def test_csv_gets_columns_as_they_come(tmp_path: Path) -> None:
    steps = iter([{"a": 1}, {"b": 2}])
    fit(lambda x: next(steps), ONES[:1], epochs=2, callbacks=[CSVLogger(tmp_path / "logs/a.csv")])
    assert (tmp_path / "logs/a.csv").read_text() == "epoch,step,a,b\n1,1,1.0,\n2,2,,2.0\n"


class Writer:
    """Stands for tensorboardX's."""

    calls: list[tuple[Any, ...]] = []

    def __init__(self, folder: str, purge_step: int | None, filename_suffix: str) -> None:
        self.calls.append((folder, purge_step))

    def add_scalar(self, *args: Any) -> None:
        self.calls.append(args)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.calls.append(("closed",))


def test_tensorboard_gets_steps_and_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(Writer, "calls", [])
    for epochs in (1, 2):
        log = TensorBoardLogger(tmp_path / "events", every_steps=2)
        fit(lambda x: 1.0, ONES, epochs=epochs, callbacks=[log, Checkpoint(tmp_path / "run")])
    folder = str(tmp_path / "events")
    assert Writer.calls[:4] == [(folder, None), ("step/loss", 1.0, 2), ("epoch/loss", 1.0, 3), ("closed",)]
    assert Writer.calls[4:6] == [(folder, 4), ("step/loss", 1.0, 4)]


def test_tensorboard_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"needs tensorboardX: pip install 'jaxmodules\[tensorboard\]'"):
        TensorBoardLogger("events")


def test_batches_of_pytrees_in_whole_sizes() -> None:
    batches = Batches({"x": np.arange(5)}, batch_size=2, drop_last=True)
    assert len(batches) == 2 and [batch["x"].tolist() for batch in batches] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("arrays", "size", "message"),
    [
        ((np.ones(2), np.ones(3)), 1, r"expects arrays of one length, got lengths \[2, 3\]"),
        ((), 1, "expects arrays of one length"),
        ((np.ones(2),), 0, "batch_size must be positive, got 0"),
    ],
)
def test_bad_batches_are_refused(arrays: Any, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(*arrays, batch_size=size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Checkpoint("a", keep=0), "keep must be positive, or None for all, got 0"),
        (lambda: EarlyStopping(patience=0), "patience must be positive, got 0"),
        (lambda: EarlyStopping(mode="least"), "mode must be 'min' or 'max', got 'least'"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
