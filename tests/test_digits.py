"""The main job: learns, and a killed run ends where an uninterrupted one does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxmodules as jm
from jaxmodules.examples import digits

EPOCHS = "--epochs=3"


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert digits.main([EPOCHS, f"--out={folder}"]) > 0.93
    return folder


def run_and_kill_after_first_epoch(folder: Path) -> None:
    command = [sys.executable, "-m", "jaxmodules.examples.digits", EPOCHS, f"--out={folder}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if b"epoch  1/3" in line and b"44/44" in line:
            break
    while not (folder / "checkpoint.safetensors").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL


def test_killed_run_resumes_to_the_same_weights(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_and_kill_after_first_epoch(tmp_path)
    assert len(jm.load(tmp_path / "checkpoint.safetensors")["losses"]) < 3
    digits.main([EPOCHS, f"--out={tmp_path}"])
    assert "continuing after epoch" in capsys.readouterr().out
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (tmp_path, whole_run))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_finished_run_is_evaluated_and_left_alone(whole_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole_run / "checkpoint.safetensors").stat().st_mtime_ns
    assert digits.main([EPOCHS, f"--out={whole_run}"]) > 0.93
    printed = capsys.readouterr().out
    assert "finished after epoch 3" in printed
    assert "fc1.weight" in printed and "LeNet(" in printed and "test accuracy" in printed
    assert (whole_run / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_results_are_written(whole_run: Path) -> None:
    assert sorted(file.name for file in whole_run.iterdir()) == [
        "checkpoint.safetensors",
        "loss.png",
        "weights.safetensors",
    ]
    assert (whole_run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_other_seed_is_refused_until_restarted(whole_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        digits.main([EPOCHS, "--seed=1", f"--out={whole_run}"])
    assert "is of a run with --seed 0, got --seed 1: add --restart" in capsys.readouterr().err
