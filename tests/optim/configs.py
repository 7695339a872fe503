"""The configurations of the optimizers: torch's own database and more, one table for all tests."""

import itertools
import warnings
from typing import Any

import jax.numpy as jnp
import pytest
import torch

with warnings.catch_warnings():  # of packages that torch's own tests use and these don't
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_optimizers import optim_db

Settings = dict[str, Any]

# The configuration of each optimizer that uses most of it.
MAIN: dict[str, Settings] = {
    "ASGD": {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 5, "weight_decay": 0.1},
    "Adadelta": {"rho": 0.95, "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
    "Adafactor": {"lr": 0.1, "weight_decay": 0.1, "d": 1.5, "maximize": True},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.5, "weight_decay": 0.1, "initial_accumulator_value": 0.1},
    "Adam": {"lr": 0.1, "betas": (0.5, 0.9999), "weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"lr": 0.1, "betas": (0.5, 0.9999), "weight_decay": 0.1, "amsgrad": True, "maximize": True},
    "Adamax": {"lr": 0.1, "betas": (0.5, 0.9999), "weight_decay": 0.1},
    "NAdam": {"lr": 0.1, "momentum_decay": 0.5, "weight_decay": 0.1, "decoupled_weight_decay": True},
    "RAdam": {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True},
    "RMSprop": {"lr": 0.1, "alpha": 0.9, "momentum": 0.9, "centered": True, "weight_decay": 0.1},
    "Rprop": {"lr": 0.1, "etas": (0.3, 2.0), "step_sizes": (0.01, 0.5)},
    "SGD": {"lr": 0.1, "momentum": 0.5, "dampening": 0.9, "weight_decay": 0.1, "maximize": True},
    "SparseAdam": {"lr": 0.1, "betas": (0.5, 0.9), "maximize": True},
}
EXTRA: list[tuple[str, Settings]] = [
    ("ASGD", {"t0": 0}),
    ("Adam", {"lr": 0.1, "betas": (0.0, 0.0), "eps": 1e-3}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1, "lr": 0.01}),
    ("AdamW", {"weight_decay": 0}),
    ("Adamax", {"betas": (0.0, 0.0)}),
    ("RAdam", {"lr": 0.1, "betas": (0.5, 0.99999)}),
    ("RMSprop", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0, "momentum": 1}),
]


def ours(kwargs: Settings) -> Settings:
    """Return settings of torch's with arrays of ours."""
    return {key: _converted(value, lambda tensor: jnp.asarray(tensor.numpy())) for key, value in kwargs.items()}


def theirs(kwargs: Settings) -> Settings:
    """Return settings that torch takes on a CPU: without tensors, which are for CUDA graphs, like ``capturable``."""
    return {key: _converted(value, torch.Tensor.item) for key, value in kwargs.items() if key != "capturable"}


def _converted(value: Any, convert: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_converted(part, convert) for part in value)
    return convert(value) if isinstance(value, torch.Tensor) else value


def _database() -> list[tuple[str, Settings]]:
    return [
        (info.name, row.kwargs)
        for info, device in itertools.product(INFOS, ("cpu", "cuda"))
        for row in info.optim_inputs_func(device=device)
    ]


def _refused() -> list[tuple[str, Settings, type[Exception], str]]:
    rows = [(info.name, row) for info in INFOS for row in info.optim_error_inputs_func("cpu", torch.float32)]
    return [
        (name, row.optimizer_error_input.kwargs, row.error_type, row.error_regex)
        for name, row in rows
        if row.optimizer_error_input.params is None
    ]


def _label(value: Any) -> str:
    return str(value).replace(" ", "")


INFOS = [info for info in optim_db if info.name in MAIN]
COMPLEX = [
    (info.name, MAIN[info.name]) for info in INFOS if info.supports_complex and not info.only_supports_sparse_grads
]
DATABASE = _database()
REFUSED = _refused()
CONFIGS = list(
    {(name, str(theirs(kw))): (name, kw) for name, kw in reversed([*DATABASE, *MAIN.items(), *EXTRA])}.values()
)
every_config = pytest.mark.parametrize(("name", "kwargs"), CONFIGS, ids=_label)
every_optimizer = pytest.mark.parametrize(("name", "kwargs"), list(MAIN.items()), ids=list(MAIN))
