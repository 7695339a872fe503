"""Train in processes that are killed while they save, until one comes to the end; a program, for a test to run.

Everything is imported once, and no JAX backend is started here: each training is a fork of this process. A step takes
no time, so a training is always saving. A line on the pipe tells the parent how far a training has come.
"""

import argparse
import hashlib
import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmodules as jm
from jaxmodules.checkpoint import CheckpointManager


class Momentum:
    """An optimizer in NumPy, for which nothing compiles."""

    def __init__(self, net: jm.nn.Module) -> None:
        self.net = net
        self.velocity = {name: np.zeros(value.shape, np.float32) for name, value in net.named_parameters()}
        self.count = 0

    def step(self) -> None:
        for name, parameter in self.net.named_parameters():
            value = np.asarray(parameter.value)
            noise = np.asarray(jm.rand(*value.shape)) - np.float32(0.5)
            self.velocity[name] = np.float32(0.9) * self.velocity[name] + noise + np.float32(0.1) * value
            parameter.value = jax.device_put(value - np.float32(0.01) * self.velocity[name])
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"velocity": dict(self.velocity), "count": self.count, "share": self.count / 3}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["share"] == state["count"] / 3
        self.velocity = {name: np.array(value) for name, value in state["velocity"].items()}
        self.count = state["count"]


def make() -> dict[str, Any]:
    jm.manual_seed(0)
    net = jm.nn.Sequential(jm.nn.Linear(30, 40), jm.nn.Linear(40, 30))
    return {"net": net, "optimizer": Momentum(net)}


def digest(objects: dict[str, Any]) -> str:
    state = objects["optimizer"].state_dict()
    arrays = [*objects["net"].state_dict().values(), *state["velocity"].values(), jm.get_rng_state(), state["count"]]
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()


def check(folder: Path, manager: CheckpointManager) -> None:
    """Fail unless every checkpoint there is can be loaded and is of one moment, and nothing else is there."""
    objects = make()
    for step in manager.all_steps():
        assert manager.restore(step, **objects, moment=None).values["moment"] == step == objects["optimizer"].count
    assert sorted(os.listdir(folder)) == sorted(map(str, manager.all_steps())), os.listdir(folder)


def train(folder: Path, until: int | None, report: int) -> None:
    """Continue a training and tell of every step that is safe."""
    with CheckpointManager(folder, max_to_keep=2) as manager:
        check(folder, manager)
        objects = make()
        start = manager.restore(**objects).step if manager.all_steps() else 0
        os.write(report, b"%d\n" % start)
        for step in range(start + 1, sys.maxsize if until is None else until + 1):
            objects["optimizer"].step()
            manager.save(step, **objects, moment=step)
            os.write(report, b"%d\n" % (step - 1))
    os.write(report, digest(objects).encode())


def simulate(until: int, report: int) -> None:
    """Train without saving anything."""
    objects = make()
    for _ in range(until):
        objects["optimizer"].step()
    os.write(report, digest(objects).encode())


def fork(function: Any, *args: Any) -> tuple[int, Any]:
    """Call a function in a child; return its number and what it writes to its last argument."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function(*args, writing)
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(writing)
    return child, os.fdopen(reading)


def result(child: int, lines: Any) -> str:
    """Wait for a child that ends by itself, and return the last line of its report."""
    text = lines.read()
    assert os.waitpid(child, 0)[1] == 0
    return text.split()[-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--longest", type=float, default=0.04)
    given = parser.parse_args()
    assert not {"orbax", "tensorstore"} & set(sys.modules), "import jaxmodules must not import Orbax"
    importlib.import_module("orbax.checkpoint")
    chance = random.Random(given.seed)
    safe, resumed = 0, []
    for _ in range(given.kills):
        child, lines = fork(train, given.folder, None)
        start = int(lines.readline() or -1)
        assert start >= safe, f"step {safe} was complete, but the training went on from {start}"
        before = [int(lines.readline()) for _ in range(chance.randrange(3))]
        time.sleep(chance.uniform(0, given.longest))
        os.kill(child, signal.SIGKILL)
        safe = max([start, *before, *map(int, lines.read().split())])
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        resumed.append(start)
    until = safe + 3
    final = result(*fork(train, given.folder, until))
    assert final == result(*fork(simulate, until)), "the resumed training ended elsewhere"
    print(f"{given.kills} kills, {until} steps, resumed from {resumed}")


if __name__ == "__main__":
    main()
