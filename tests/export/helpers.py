"""What the tests of programs share: a small model and arrays for it."""

import jax
import numpy as np

from jaxmodules import nn
from jaxmodules.nn import functional as F


class LeNet(nn.Module):
    """Convolves, normalises, pools, flattens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2 * 4 * 4, 3)

    def forward(self, image: jax.Array) -> jax.Array:
        x = F.max_pool2d(F.relu(self.norm(self.conv(image))), 2)
        return self.fc(x.reshape(x.shape[0], -1))


def array(*shape: int) -> np.ndarray:
    """Draw numbers; for one number of axes the same."""
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)
