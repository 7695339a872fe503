"""Train a LeNet on handwritten digits, and survive being killed.

``python -m jaxmodules.examples.digits`` trains on the 1,797 digits that come with scikit-learn and leaves in
``runs/digits/``: a checkpoint, the loss curve and the weights. Interrupt it at any moment, or kill it, and start it
again: it continues and ends with exactly the weights of a run that nobody interrupted.

The model reads as in PyTorch. What is JAX about it is ``@jm.jit``: each of the two decorated functions is compiled
once into one program, and the state it changes (weights, running statistics, optimizer, random numbers) is written
back into the objects after every call.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F
from jaxmodules.training import Batches, Checkpoint, Evaluate

try:
    from matplotlib.figure import Figure
    from sklearn.datasets import load_digits
except ImportError as error:
    raise ImportError(f"this example needs {error.name}: pip install 'jaxmodules[run]'") from error

BATCH_SIZE = 32


class LeNet(nn.Module):
    """Two convolutions and three linear layers (LeCun et al., 1998), with batch normalisation and dropout."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 5, padding=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.dropout = nn.Dropout(0.3)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.features(x).reshape(x.shape[0], -1)
        x = self.dropout(F.relu(self.fc1(x)))
        return self.fc3(F.relu(self.fc2(x)))


@jm.jit
def train_step(net: LeNet, optimizer: jm.optim.Optimizer, images: jax.Array, labels: jax.Array) -> Any:
    """Take one step of gradient descent; return the loss and the fraction of right answers."""

    def loss_fn(net: LeNet) -> tuple[jax.Array, jax.Array]:
        logits = net(images)
        return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).mean()

    (loss, accuracy), grads = jm.value_and_grad(loss_fn, has_aux=True)(net)
    optimizer.step(grads)
    return loss, {"accuracy": accuracy}


@jm.jit
def accuracy_of(net: LeNet, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Return the fraction of images that the net names rightly."""
    return {"accuracy": (net(images).argmax(1) == labels).mean()}


def load_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return training and test data: images (N, 1, 16, 16) of zero mean, labels (N,)."""
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = pixels.reshape(-1, 1, 8, 8).repeat(2, axis=2).repeat(2, axis=3).astype(np.float32)  # (N, 1, 16, 16)
    images = (images - images.mean()) / images.std()
    labels = labels.astype(np.int32)
    order = np.random.RandomState(0).permutation(len(labels))
    train, test = order[360:], order[:360]
    return (images[train], labels[train]), (images[test], labels[test])


def draw_losses(losses: list[float], path: Path) -> None:
    """Draw the mean loss of every epoch."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="training loss", yscale="log", title="LeNet on digits")
    axes.plot(range(1, len(losses) + 1), losses, marker=".")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> float:
    """Train, or continue to, and return the accuracy on the test set."""
    parser = argparse.ArgumentParser(description="Train a LeNet on scikit-learn's handwritten digits.")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder for the results")
    parser.add_argument("--restart", action="store_true", help="begin anew, whatever the folder holds")
    args = parser.parse_args(argv)
    file = args.out / "checkpoint.safetensors"
    train, test = load_data()

    jm.manual_seed(args.seed)
    net = LeNet()
    batches = Batches(*train, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    schedule = optax.cosine_decay_schedule(2e-3, args.epochs * len(batches))
    optimizer = jm.optim.AdamW(net.parameters(), lr=schedule, weight_decay=1e-2)
    print(net, jm.summary(net), sep="\n\n", end="\n\n")

    if file.exists() and not args.restart and (seed := jm.load(file)["seed"]) != args.seed:
        parser.error(f"{file} is of a run with --seed {seed}, got --seed {args.seed}: add --restart")
    evaluate = Evaluate(accuracy_of, Batches(*test, batch_size=len(test[1])), net)

    def notes(run: jm.training.Run) -> dict[str, Any]:
        return {"seed": args.seed, "losses": [row["loss"] for row in run.history.rows]}

    checkpoint = Checkpoint(file, resume=not args.restart, extra=notes)
    history = jm.fit(train_step, batches, net, optimizer, epochs=args.epochs, callbacks=[evaluate, checkpoint])

    jm.save(net.state_dict(), args.out / "weights.safetensors")
    draw_losses(history["loss"], args.out / "loss.png")
    print(f"test accuracy {history['test_accuracy'][-1]:.2%}; results in {args.out}/")
    return history["test_accuracy"][-1]


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the same command continues") from None
