"""Optimizers: PyTorch's classes and settings, optax's arithmetic."""

from jaxmodules.optim.adam import Adam as Adam
from jaxmodules.optim.adamw import AdamW as AdamW
from jaxmodules.optim.optimizer import Optimizer as Optimizer
from jaxmodules.optim.sgd import SGD as SGD
