"""The training step in PyTorch, eager."""

import torch
from torch import nn as torch_nn

from jaxmodules.bench._measure import Side
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


def make_step(blocks: int) -> Side:
    """Return a training step that keeps its state between calls."""
    net = torch_nn.Sequential(*(Block() for _ in range(blocks)))
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    x, y = map(torch.from_numpy, make_batch())

    def step() -> float:
        optimizer.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
