"""The training step in PyTorch, eager."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn as torch_nn

from jaxmodules.bench._measure import Side
from jaxmodules.bench._tasks import Task
from jaxmodules.bench._with_raw import LEARNING_RATE, MOMENTUM, WIDTH, make_batch

namespace = torch_nn
torch.set_num_threads(1)  # quickest for operations this small, and leaves the other sides their cores


class Block(torch_nn.Module):
    """A linear layer and tanh, with the running mean of what comes out."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch_nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.linear(x))
        with torch.no_grad():
            self.mean.mul_(1 - MOMENTUM).add_(x.mean(0), alpha=MOMENTUM)
        return x


def make_step(blocks: int, **options: Any) -> Side:
    """Return a training step that keeps its state between calls; the options are those of the optimizer."""
    net = torch_nn.Sequential(*(Block() for _ in range(blocks)))
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, **options)
    x, y = map(torch.from_numpy, make_batch())

    def step() -> float:
        optimizer.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def make_model_step(task: Task, state_dict: Mapping[str, Any], lr: float, momentum: float) -> Side:
    """Return the training step of a model of the comparison, on two threads, from the same arrays."""
    net = task.build(torch_nn)
    net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state_dict.items()})
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    x, y = map(torch.from_numpy, task.make_batch())

    def step() -> float:
        torch.set_num_threads(2)
        optimizer.zero_grad()
        loss = torch_nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        torch.set_num_threads(1)
        return loss.item()

    return step


def make_file_sides(build: Callable[[Any], Any], pickled: str, plain: str, written: str) -> dict[str, Side]:
    """Save the weights of a net in files of both kinds, and return what reads and writes such files."""
    net = build(torch_nn)
    state = net.state_dict()
    torch.save(state, pickled)
    safetensors.torch.save_file(state, plain)

    def fill() -> None:
        torch.set_num_threads(2)
        net.load_state_dict(safetensors.torch.load_file(plain))
        torch.set_num_threads(1)

    return {"load": lambda: torch.load(pickled), "save": lambda: torch.save(state, written), "fill": fill}
