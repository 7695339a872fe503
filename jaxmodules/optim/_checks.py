"""What the constructors of optimizers refuse, in PyTorch's words."""

from typing import Any

import numpy as np


def check_number(value: Any, name: str) -> None:
    """Raise ValueError if a hyperparameter is an array of more than one element."""
    if int(np.prod(np.shape(value))) != 1:
        raise ValueError(f"Tensor {name} must be 1-element, got shape {tuple(np.shape(value))}")


def check_lr(lr: Any) -> None:
    """Raise ValueError if a learning rate is neither a number from zero up nor a schedule."""
    if not callable(lr):
        check_number(lr, "lr")
        check_not_negative(lr, "learning rate")


def check_not_negative(value: Any, what: str) -> None:
    """Raise ValueError if a hyperparameter is below zero or not a number."""
    if not value >= 0.0:
        raise ValueError(f"Invalid {what}: {value}")


def check_fractions(betas: tuple[Any, Any]) -> None:
    """Raise ValueError if the decay rates of two moments are not from zero up and below one."""
    for i, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")


def check_betas(betas: tuple[Any, Any]) -> None:
    """Raise ValueError if the decay rates of two moments are not two fractions of one kind."""
    if len({hasattr(beta, "shape") for beta in betas}) != 1:
        raise ValueError("betas must be either both floats or both Tensors")
    for i, beta in enumerate(betas):
        check_number(beta, f"betas[{i}]")
    check_fractions(betas)


def check_flags(*, fused: Any = None, foreach: Any, differentiable: Any) -> None:
    """Raise RuntimeError if flags exclude each other, as PyTorch does."""
    if fused and differentiable:
        raise RuntimeError("`fused` does not support `differentiable`")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def check_arrays(foreach: Any, capturable: Any, **settings: Any) -> None:
    """Raise ValueError if a setting is an array where PyTorch's ``foreach`` can't take one."""
    for name, value in settings.items():
        if foreach and not capturable and hasattr(value, "shape"):
            raise ValueError(f"{name} as a Tensor is not supported for capturable=False and foreach=True")


def is_off(setting: Any) -> bool:
    """Tell, in an update rule, whether a switch is off."""
    return isinstance(setting, int | float) and setting == 0
