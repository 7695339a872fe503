"""An interrupted run ends where an uninterrupted one does, bit for bit."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jaxmodules as jm
from tests.training.helpers import SIZE, STEPS, X, Y, assert_same_bits, batches, results, run, shuffled

ELSEWHERE = jax.devices()[1]
ENDED = "the run ended after step .* the same call continues from there"


class Iterates:
    """A loader whose iterators know where they are, as Grain's do."""

    def __iter__(self) -> "Place":
        return Place()


class Place:
    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> "Place":
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        if self.taken == STEPS:
            raise StopIteration
        self.taken += 1
        return X[self.taken :][:SIZE], Y[self.taken :][:SIZE]

    def get_state(self) -> dict[str, int]:
        return {"taken": self.taken}

    def set_state(self, state: dict[str, int]) -> None:
        self.taken = state["taken"]


class Loader:
    """A loader that knows where it is, as torchdata's do; its order is its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)
        self.before = self.generator.get_state()
        self.taken = self.start = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.before = self.generator.get_state()
        order = torch.randperm(len(X), generator=self.generator).numpy()
        for self.taken, batch in enumerate(batches(order), 1):
            if self.taken > self.start:
                yield batch
        self.before, self.taken, self.start = self.generator.get_state(), 0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["before"])
        self.start = int(state["taken"])


def drawn_from_numpy() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for x, y in batches(np.random.permutation(len(X))):
        yield x + np.float32(np.random.rand()), y


def drawn_from_ours() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for x, y in batches(np.asarray(jm.randperm(len(X)))):
        yield x + np.asarray(jm.rand(1)), y


def torch_loader() -> Any:
    torch.manual_seed(0)
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), SIZE, shuffle=True
    )


DATA = {
    "Batches": (shuffled, {}),
    "function": (lambda: lambda epoch: drawn_from_ours(), {"device": ELSEWHERE}),
    "function and NumPy": (lambda: lambda epoch: drawn_from_numpy(), {"device": ELSEWHERE}),
    "iterator": (drawn_from_ours, {"epochs": 1}),
    "torch": (torch_loader, {"device": ELSEWHERE}),
    "iterators with a state": (Iterates, {}),
    "iterator with a state": (lambda: iter(Iterates()), {"epochs": 1}),
    "loader with a state": (Loader, {}),
    "steps": (shuffled, {"epochs": None, "steps": 12}),
}


@pytest.mark.parametrize("kind", DATA)
def test_interrupted_run_ends_like_a_whole_one(kind: str, tmp_path: Path) -> None:
    data, options = DATA[kind]
    whole = run(tmp_path / "whole", data, **options)
    for stop_at in (2, 8):  # in the middle of the first epoch and of the second
        if stop_at < whole["step"][-1]:
            with pytest.raises(KeyboardInterrupt, match=ENDED):
                run(tmp_path / "parts", data, stop_at, **options)
    parts = run(tmp_path / "parts", data, **options)
    assert_same_bits(parts.rows, whole.rows)
    assert_same_bits(results(tmp_path / "parts"), results(tmp_path / "whole"))


@pytest.mark.parametrize("stop_at", [STEPS, 2 * STEPS - 1])
def test_run_interrupted_at_the_ends_of_epochs_ends_like_a_whole_one(stop_at: int, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", shuffled)
    with pytest.raises(KeyboardInterrupt, match=ENDED):
        run(tmp_path / "parts", shuffled, stop_at)
    assert run(tmp_path / "parts", shuffled).rows == whole.rows
    assert_same_bits(results(tmp_path / "parts"), results(tmp_path / "whole"))


def test_killed_process_is_continued(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.helpers", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout is not None and process.stdout.readline() == b"epoch\n"
    while not (tmp_path / "killed/run/step-00000006.safetensors").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait()
    run(tmp_path / "killed", shuffled)
    run(tmp_path / "whole", shuffled)
    assert_same_bits(results(tmp_path / "killed"), results(tmp_path / "whole"))


def test_reading_ahead_changes_nothing(tmp_path: Path) -> None:
    rows = [run(tmp_path / str(n), shuffled, prefetch=n, device=ELSEWHERE).rows for n in (0, 1, 4)]
    assert rows[0] == rows[1] == rows[2]


def test_finished_run_is_left_alone(tmp_path: Path) -> None:
    before = run(tmp_path, shuffled, epochs=1)
    (file,) = (tmp_path / "run").iterdir()
    time_before = file.stat().st_mtime_ns
    assert run(tmp_path, shuffled, epochs=1).rows == before.rows
    assert file.stat().st_mtime_ns == time_before


def test_longer_run_continues_a_finished_one(tmp_path: Path) -> None:
    run(tmp_path / "parts", shuffled, epochs=1)
    assert run(tmp_path / "parts", shuffled).rows == run(tmp_path / "whole", shuffled).rows


def test_more_steps_continue_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    short = run(tmp_path / "parts", shuffled, epochs=None, steps=7)
    assert short["step"] == [5, 7]
    assert run(tmp_path / "parts", shuffled).rows == run(tmp_path / "whole", shuffled).rows


def test_second_signal_ends_at_once_with_a_whole_checkpoint(tmp_path: Path) -> None:
    class Twice(jm.training.Callback):
        def on_step(self, run: jm.training.Run) -> None:
            if run.step == 8:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="^$"):
        run(tmp_path / "parts", shuffled, callbacks=[Twice()])
    assert results(tmp_path / "parts")["fit"]["step"] == STEPS
    assert run(tmp_path / "parts", shuffled).rows == run(tmp_path / "whole", shuffled).rows


def test_termination_saves_and_exits(tmp_path: Path) -> None:
    def terminate(run: jm.training.Run, metrics: dict[str, float]) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit, match="143") as caught:
        run(tmp_path, shuffled, callbacks=[terminate])
    assert "the same call continues" in caught.value.__notes__[0]
    assert results(tmp_path)["fit"]["epoch"] == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_interrupt_ends_an_evaluation(tmp_path: Path) -> None:
    def slow(epoch: int) -> Iterator[np.ndarray]:
        signal.raise_signal(signal.SIGINT)
        yield X
        raise AssertionError("the second batch was asked for")

    evaluate = jm.training.Evaluate(lambda net, x: 0.0, slow)
    with pytest.raises(KeyboardInterrupt, match=ENDED):
        run(tmp_path, shuffled, callbacks=[evaluate])
    saved = results(tmp_path)
    assert saved["fit"]["epoch"] == 0 and saved["fit"]["data"]["taken"] == STEPS


def test_interrupt_of_the_data_saves(tmp_path: Path) -> None:
    def interrupted(epoch: int) -> Iterator[Any]:
        yield from list(shuffled())[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="^$"):
        run(tmp_path, lambda: interrupted)
    assert results(tmp_path)["fit"]["step"] == 2


def test_data_that_fail_for_the_signal_do_not_keep_from_saving(tmp_path: Path) -> None:
    def failing(epoch: int) -> Iterator[Any]:
        yield from list(shuffled())[:2]
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("a worker exited unexpectedly")

    with pytest.raises(KeyboardInterrupt, match=ENDED):
        run(tmp_path, lambda: failing)
    assert results(tmp_path)["fit"]["step"] == 2


def test_run_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    thread = threading.Thread(target=run, args=(tmp_path, shuffled), kwargs={"epochs": 1})
    thread.start()
    thread.join()
    assert results(tmp_path)["fit"]["epoch"] == 1


def test_other_objects_are_refused(tmp_path: Path) -> None:
    net = jm.nn.Linear(1, 1)
    save = jm.training.Checkpoint(tmp_path / "a.safetensors")
    jm.fit(lambda net, x: 0.0, [X], net, callbacks=[save], progress=False)
    again = jm.training.Checkpoint(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="nothing was saved under the names model, only net, fit") as caught:
        jm.fit(lambda model, x: 0.0, [X], net, callbacks=[again], progress=False)
    assert "resume=False" in caught.value.__notes__[0]


def test_shorter_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=ENDED):
        run(tmp_path, shuffled, 3)
    with pytest.raises(ValueError, match="data ended after 1 batches, but 3 of this epoch had been used"):
        run(tmp_path, lambda: [(X, Y)])


def test_started_generator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=ENDED):
        run(tmp_path, drawn_from_ours, 3, epochs=1)
    started = drawn_from_ours()
    next(started)
    with pytest.raises(ValueError, match="data is a generator that has been started"):
        run(tmp_path, lambda: started, epochs=1)
