"""Train a LeNet on handwritten digits, and survive being killed.

``python -m jaxmodules.examples.digits`` trains on the 1,797 digits that come with scikit-learn and leaves in
``runs/digits/``: a checkpoint of every epoch, the loss curve and the weights. Interrupt it at any moment and start it
again: it continues from the last epoch and ends with exactly the weights of a run that nobody interrupted.

The model reads as in PyTorch. What is JAX about it is ``@jm.jit``: each of the two decorated functions is compiled
once into one program, and the state it changes (weights, running statistics, optimizer, random numbers) is written
back into the objects after every call.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F

try:
    from matplotlib.figure import Figure
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
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
    """Take one step of gradient descent; return the loss and the number of right answers."""

    def loss_fn(net: LeNet) -> tuple[jax.Array, jax.Array]:
        logits = net(images)
        return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()

    (loss, correct), grads = jm.value_and_grad(loss_fn, has_aux=True)(net)
    optimizer.step(grads)
    return loss, correct


@jm.jit
def accuracy_of(net: LeNet, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the fraction of images that the net names rightly."""
    return (net(images).argmax(1) == labels).mean()


def load_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return training and test data: images (N, 1, 16, 16) of zero mean, labels (N,)."""
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = pixels.reshape(-1, 1, 8, 8).repeat(2, axis=2).repeat(2, axis=3).astype(np.float32)  # (N, 1, 16, 16)
    images = (images - images.mean()) / images.std()
    labels = labels.astype(np.int32)
    order = np.random.RandomState(0).permutation(len(labels))
    train, test = order[360:], order[:360]
    return (images[train], labels[train]), (images[test], labels[test])


def batches(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the data once in random order, in batches of one size."""
    order = np.asarray(jm.randperm(len(labels)))
    for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        yield images[chosen], labels[chosen]


def train_epoch(net: LeNet, optimizer: jm.optim.Optimizer, data: tuple[np.ndarray, np.ndarray], title: str) -> float:
    """Go through the data once behind a progress bar; return the mean loss."""
    columns = "loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.1%}  {task.fields[speed]:,.0f} images/s"
    losses: list[float] = []
    correct = 0
    bar = Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(columns), TimeRemainingColumn())
    with bar:
        task = bar.add_task("", total=len(data[1]) // BATCH_SIZE, loss=float("nan"), accuracy=0.0, speed=0.0)
        start = time.perf_counter()
        for images, labels in batches(*data):
            loss, right = train_step(net, optimizer, images, labels)
            losses.append(float(loss))
            correct += int(right)
            seen = len(losses) * BATCH_SIZE
            speed = seen / (time.perf_counter() - start)
            bar.update(task, advance=1, loss=np.mean(losses), accuracy=correct / seen, speed=speed)
    return float(np.mean(losses))


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
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.safetensors"
    train, test = load_data()

    jm.manual_seed(args.seed)
    net = LeNet()
    optimizer = jm.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    losses: list[float] = []
    print(net, jm.summary(net), sep="\n\n", end="\n\n")

    if checkpoint.exists() and not args.restart:
        saved = jm.load(checkpoint)
        if saved["seed"] != args.seed:
            parser.error(f"{checkpoint} is of a run with --seed {saved['seed']}, got --seed {args.seed}: add --restart")
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        jm.set_rng_state(saved["rng"])
        losses = saved["losses"]
        done = len(losses) >= args.epochs
        print(f"{checkpoint}: {'finished after' if done else 'continuing after'} epoch {len(losses)}", flush=True)

    while len(losses) < args.epochs:
        losses.append(train_epoch(net, optimizer, train, f"epoch {len(losses) + 1:2}/{args.epochs}"))
        jm.save(
            {
                "net": net.state_dict(),
                "optimizer": optimizer.state_dict(),
                "rng": jm.get_rng_state(),
                "losses": losses,
                "seed": args.seed,
            },
            checkpoint,
        )

    jm.save(net.state_dict(), args.out / "weights.safetensors")
    draw_losses(losses, args.out / "loss.png")
    net.eval()
    accuracy = float(accuracy_of(net, jnp.asarray(test[0]), jnp.asarray(test[1])))
    print(f"test accuracy {accuracy:.2%}; results in {args.out}/")
    return accuracy


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the same command continues after the last whole epoch") from None
