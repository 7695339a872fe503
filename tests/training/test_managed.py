"""``jm.fit`` with a CheckpointManager: an interrupted run ends where a whole one does, bit for bit."""

import signal
from pathlib import Path
from typing import Any

import pytest

import jaxmodules as jm
from jaxmodules.checkpoint import CheckpointManager
from tests.training.helpers import STEPS, Eager, X, Y, assert_same_bits, eval_step, nn, shuffled, train_step


def run(folder: Path, stop_at: int | None = None, number: int = signal.SIGINT, **options: Any) -> dict[str, Any]:
    """Run or continue, as a script does that is started, and return all that a run leaves behind."""
    jm.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
    optimizer = jm.optim.Adam(net.parameters(), lr=1e-2)
    scheduler = jm.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    settings = {"max_to_keep": 2, **options.pop("manager", {})}
    with CheckpointManager(folder, **settings) as manager:
        callbacks = [
            jm.training.Checkpoint(manager, every_steps=options.pop("every_steps", None), **options.pop("saving", {})),
            jm.training.Evaluate(eval_step, [(X, Y)]),
            lambda run, metrics: scheduler.step(),
            Eager(stop_at, number),
        ]
        history = jm.fit(
            train_step, shuffled(), net, optimizer, epochs=options.pop("epochs", 3), also={"scheduler": scheduler},
            callbacks=callbacks, progress=False,
        )  # fmt: skip
        objects = {"net": net, "optimizer": optimizer, "scheduler": scheduler}
        states = {name: value.state_dict() for name, value in objects.items()}
        return {"rows": history.rows, "rng": jm.get_rng_state(), "steps": manager.all_steps(), **states}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop_at", [2, STEPS, 2 * STEPS - 1])
def test_interrupted_run_ends_like_a_whole_one(stop_at: int, tmp_path: Path, whole: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path, stop_at)
    assert f"{tmp_path}/{stop_at} holds it" in caught.value.__notes__[0]
    parts = run(tmp_path)
    assert_same_bits({**parts, "steps": whole["steps"]}, whole)


def test_termination_waits_for_the_last_save(tmp_path: Path, whole: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="143"):
        run(tmp_path, 7, signal.SIGTERM)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "7"]
    assert_same_bits(run(tmp_path), whole)


def test_saves_within_epochs_and_at_their_ends(tmp_path: Path, whole: dict[str, Any]) -> None:
    frequent = run(tmp_path, every_steps=1, manager={"max_to_keep": None, "save_interval_steps": 2})
    assert frequent["steps"] == [1, 2, 4, 6, 8, 10, 12, 14, 15]
    assert_same_bits({**frequent, "steps": whole["steps"]}, whole)


def test_run_continues_before_the_end_of_an_epoch(tmp_path: Path, whole: dict[str, Any]) -> None:
    run(tmp_path, epochs=2, every_steps=1, saving={"every_epochs": None}, manager={"max_to_keep": None})
    parts = run(tmp_path, manager={"max_to_keep": None})
    assert parts["steps"] == [*range(1, 11), 15]
    assert_same_bits({**parts, "steps": whole["steps"]}, whole)


def test_manager_keeps_the_best_epoch(tmp_path: Path) -> None:
    result = run(tmp_path, manager={"max_to_keep": 1, "best_fn": "test_mse", "best_mode": "min"})
    best = min(result["rows"], key=lambda row: row["test_mse"])
    with CheckpointManager(tmp_path, best_fn="test_mse", best_mode="min") as manager:
        assert manager.best_step() == best["step"]
        assert manager.metrics(best["step"]) == best


def test_new_run_replaces_what_is_there(tmp_path: Path) -> None:
    run(tmp_path, epochs=2)
    assert run(tmp_path, epochs=1, saving={"resume": False})["steps"] == [STEPS]


def test_extra_entries_are_values(tmp_path: Path) -> None:
    run(tmp_path, epochs=1, saving={"extra": {"config": "small"}})
    with CheckpointManager(tmp_path) as manager:
        assert manager.restore().values == {"config": "small"}
    with pytest.raises(ValueError, match="extra must not hold net: the run saves what has this name"):
        run(tmp_path, epochs=2, saving={"extra": {"net": 1}})


def test_other_objects_are_refused(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    with CheckpointManager(tmp_path) as manager, pytest.raises(RuntimeError, match="Missing object.*: model") as caught:
        saving = jm.training.Checkpoint(manager)
        jm.fit(lambda model, x: 0.0, [X], nn.Linear(1, 1), callbacks=[saving], progress=False)
    assert "resume=False" in caught.value.__notes__[0]


@pytest.mark.parametrize("options", [{"keep": 2}, {"best": "loss"}])
def test_settings_of_the_manager_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager, pytest.raises(ValueError, match="its own max_to_keep and best_fn"):
        jm.training.Checkpoint(manager, **options)
