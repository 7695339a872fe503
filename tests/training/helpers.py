"""A small run with all that a resumed one has to repeat: dropout, statistics, a schedule, shuffling, early stopping."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F

X = np.random.RandomState(0).rand(20, 3).astype(np.float32)
Y = (X.sum(1, keepdims=True) > 1.5).astype(np.float32)
SCHEDULE = optax.cosine_decay_schedule(1e-2, 20)
SIZE = 4
STEPS = 5  # in an epoch


@jm.jit
def train_step(net: nn.Module, optimizer: jm.optim.Optimizer, x: jax.Array, y: jax.Array) -> Any:
    loss, grads = jm.value_and_grad(lambda net: F.mse_loss(net(x), y))(net)
    optimizer.step(grads)
    return loss, {"double": 2 * loss}


@jm.jit
def eval_step(net: nn.Module, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    return {"mse": F.mse_loss(net(x), y)}


def batches(order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the data in an order."""
    for start in range(0, len(order), SIZE):
        chosen = order[start : start + SIZE]
        yield X[chosen], Y[chosen]


def shuffled() -> Any:
    return jm.training.Batches(X, Y, batch_size=SIZE, shuffle=True)


class Eager(jm.training.Callback):
    """Draws from the host's stream between steps, as a step that is not compiled may, and ends in the end."""

    def __init__(self, stop_at: int | None = None, number: int = signal.SIGINT) -> None:
        self.stop_at = stop_at
        self.number = number

    def on_step(self, run: jm.training.Run) -> None:
        bias = run.objects["net"][0].bias
        bias.data.add_(1e-3 * jm.rand(1))
        if run.step == self.stop_at:
            signal.raise_signal(self.number)


def run(folder: Path, data: Any, stop_at: int | None = None, **options: Any) -> jm.training.History:
    """Run or continue, as a script does that is started."""
    jm.manual_seed(0)
    np.random.seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
    optimizer = jm.optim.Adam(net.parameters(), lr=SCHEDULE)
    options.setdefault("epochs", 3)
    callbacks = [
        jm.training.Checkpoint(folder / "run", every_steps=options.pop("every_steps", None)),
        jm.training.Evaluate(eval_step, [(X, Y)], every_steps=4),
        jm.training.EarlyStopping("test_mse", patience=2),
        jm.training.CSVLogger(folder / "epochs.csv"),
        jm.training.CSVLogger(folder / "steps.csv", every_steps=2),
        Eager(stop_at),
        *options.pop("callbacks", []),
    ]
    return jm.fit(train_step, data(), net, optimizer, callbacks=callbacks, progress=False, **options)


def results(folder: Path) -> dict[str, Any]:
    """Return all that a run leaves behind."""
    (file,) = (folder / "run").iterdir()
    texts = {name: (folder / name).read_text() for name in ("epochs.csv", "steps.csv")}
    return {"name": file.name, **texts, **jm.load(file)}


def assert_same_bits(ours: Any, theirs: Any) -> None:
    """Compare nested containers of arrays bit by bit, but for the place of the data, which may be told in two ways."""
    paths, ours_structure = jax.tree_util.tree_flatten_with_path(ours)
    leaves, structure = jax.tree.flatten(theirs)
    assert ours_structure == structure
    for (path, our), their in zip(paths, leaves, strict=True):
        if "'data'" not in jax.tree_util.keystr(path):
            np.testing.assert_array_equal(our, their, err_msg=jax.tree_util.keystr(path))


if __name__ == "__main__":
    run(Path(sys.argv[1]), shuffled, every_steps=3, callbacks=[lambda run, metrics: print("epoch", flush=True)])
    raise SystemExit("this run is there to be killed")
