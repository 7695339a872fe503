"""The loop: what it calls, what it measures, what it says and what it refuses."""

import math
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

import jaxmodules as jm
from tests.training.helpers import X, Y, shuffled

ONES = [np.ones(2, np.float32)] * 3


def fit(step: Any, data: Any, *objects: Any, **options: Any) -> jm.training.History:
    return jm.fit(step, data, *objects, **{"progress": False, **options})


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((X, Y), (X, Y)),
        ([X, Y], (X, Y)),
        (X, (X,)),
        ({"x": X}, ({"x": X},)),
        (torch.from_numpy(X), (X,)),
        ({"x": [torch.ones(2, dtype=torch.bfloat16)], "name": "a"}, ({"x": [jnp.ones(2, jnp.bfloat16)], "name": "a"},)),
    ],
)
@pytest.mark.parametrize("device", [None, jax.devices()[1]], ids=["here", "there"])
def test_batches_become_arguments(batch: Any, expected: tuple[Any, ...], device: Any) -> None:
    seen: list[Any] = []
    fit(lambda *args: seen.append(args), [batch], device=device)
    assert jax.tree.structure(seen[0]) == jax.tree.structure(expected)
    for leaf, right in zip(jax.tree.leaves(seen[0]), jax.tree.leaves(expected), strict=True):
        assert leaf == right if isinstance(right, str) else leaf.dtype == right.dtype
        assert isinstance(leaf, str) or device is None or leaf.devices() == {device}


def test_batches_are_sharded() -> None:
    sharding = NamedSharding(jax.make_mesh((4,), ("data",)), PartitionSpec("data"))
    seen: list[Any] = []
    fit(seen.append, [np.ones((8, 2), np.float32)], device=sharding)
    assert seen[0].sharding == sharding


def test_memory_that_the_data_refills_is_not_shared() -> None:
    def refilled(epoch: int) -> Iterator[np.ndarray]:
        buffer = np.zeros(64, np.float32)
        for number in range(4):
            buffer[:] = number
            yield buffer

    seen: list[Any] = []
    fit(seen.append, refilled, prefetch=3, device=jax.devices()[0])
    assert [float(array[0]) for array in seen] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("result", "metrics"),
    [
        (jnp.float32(2.0), {"loss": 2.0}),
        (2, {"loss": 2.0}),
        (np.float64(2.0), {"loss": 2.0}),
        ({"a": jnp.ones(()), "b": True}, {"a": 1.0, "b": 1.0}),
        ((jnp.float32(2.0), {"a": 1}), {"loss": 2.0, "a": 1.0}),
        (torch.tensor(2.0, requires_grad=True), {"loss": 2.0}),
        (None, {}),
    ],
)
def test_results_of_steps_are_metrics(result: Any, metrics: dict[str, float]) -> None:
    assert fit(lambda x: result, ONES).rows == [{"epoch": 1, "step": 3, **metrics}]


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (jnp.ones(3), r"an array of shape \(3,\)"),
        ("a", "a str: 'a'"),
        ((1, 2), "a tuple"),
        ({"a": 1j}, "a complex: 1j"),
    ],
)
def test_other_results_are_refused(result: Any, got: str) -> None:
    with pytest.raises(TypeError, match=f"must return the loss, a dict of metrics, or .* it returned {got}"):
        fit(lambda x: result, ONES)


def test_means_are_over_samples() -> None:
    assert fit(lambda x: x[0], [np.full(3, 1.0), np.full(1, 5.0)])["loss"] == [2.0]


def test_shuffles_as_the_seed_says() -> None:
    orders: list[list[float]] = []
    for _ in range(2):
        jm.manual_seed(1)
        seen: list[Any] = []
        fit(lambda x, y, seen=seen: seen.append(x[:, 0].tolist()), shuffled(), epochs=2)
        orders.append(sum(seen, []))
    assert orders[0] == orders[1]
    assert sorted(orders[0][:20]) == sorted(orders[0][20:]) and orders[0][:20] != orders[0][20:]


def test_steps_end_a_run_and_an_iterator_keeps_its_rest() -> None:
    iterator = iter([np.ones(1)] * 9)
    assert fit(lambda x: 1.0, iterator, steps=4, device=jax.devices()[0])["step"] == [4]
    assert len(list(iterator)) == 5


def test_steps_that_end_with_the_data_end_the_epoch() -> None:
    runs: list[Any] = []
    fit(lambda x: 1.0, lambda epoch: iter(ONES), steps=6, callbacks=[lambda run, metrics: runs.append(run)])
    assert len(runs) == 2 and runs[0].epoch == 2


def test_function_gets_the_epoch() -> None:
    epochs: list[int] = []
    fit(lambda x: 1.0, lambda epoch: epochs.append(epoch) or ONES, epochs=3)
    assert epochs == [0, 1, 2]


def test_history_holds_what_was_measured() -> None:
    evaluate = jm.training.Evaluate(lambda net, x: x.sum(), ONES, every_epochs=2)
    history = fit(lambda net, x: 1.0, ONES, jm.nn.Identity(), epochs=2, callbacks=[evaluate])
    assert history["epoch"] == [1, 2] and history["test_loss"][1] == 2.0 and math.isnan(history["test_loss"][0])
    with pytest.raises(KeyError, match="'acc': the metrics are epoch, step, loss, test_loss"):
        history["acc"]


def test_errors_come_in_their_turn_and_everything_is_closed() -> None:
    def broken(epoch: int) -> Iterator[np.ndarray]:
        yield ONES[0]
        yield ONES[0]
        raise OSError("gone")

    class Closed(jm.training.Callback):
        closed = False

        def on_close(self) -> None:
            self.closed = True

    seen: list[Any] = []
    callback = Closed()
    with pytest.raises(OSError, match="gone"):
        fit(seen.append, broken, prefetch=4, device=jax.devices()[0], callbacks=[callback])
    assert len(seen) == 2 and callback.closed


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (3, {}, TypeError, "data must be an iterable of batches, or a function from the epoch to one, got int"),
        (iter(ONES), {"epochs": 2}, ValueError, r"data is an iterator \(list_iterator\), which serves one epoch"),
        (iter(ONES), {"steps": 5}, ValueError, "data gave no batches in epoch 2: an iterator serves one epoch"),
        ([], {}, ValueError, "data gave no batches in epoch 1"),
        (ONES, {"prefetch": -1}, ValueError, "prefetch must not be negative, got -1"),
        (ONES, {"callbacks": [3]}, TypeError, "expected a Callback, or a function of the run and its metrics, got 3"),
        (ONES, {"callbacks": [jm.training.EarlyStopping]}, TypeError, "expected a Callback"),
        (ONES, {"also": {"fit": 1}}, ValueError, "the names fit are taken"),
    ],
)
def test_bad_arguments_are_refused(data: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(lambda x: 1.0, data, **options)


def test_a_line_for_each_epoch_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    stop = jm.training.EarlyStopping(patience=1)
    fit(lambda x: (1.5, {"small": 1e-5}), ONES, epochs=3, callbacks=[stop], progress=None)
    first, second, end = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch  1/3  3/3  loss 1.5000  small 1.000e-05  ") and second.startswith("epoch  2/3  3/3")
    assert end == "stopped: loss has not improved on 1.5 for 1 epochs"


def test_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    fit(lambda x: 1.5, ONES, epochs=2, progress=True)
    assert "epoch  2/2" in (printed := capsys.readouterr().out) and "━" in printed and "loss 1.5000" in printed


def test_without_rich_a_bar_is_an_error_and_lines_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ["rich", *(name for name in sys.modules if name.split(".")[0] == "rich")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"needs rich: pip install 'jaxmodules\[run\]'"):
        fit(lambda x: 1.0, ONES, progress=True)
    fit(lambda x: 1.0, ONES, progress=None)
    assert capsys.readouterr().out.startswith("epoch  1/1  3/3  loss 1.0000")
