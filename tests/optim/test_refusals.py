"""Settings that constructors refuse: those of torch's database and more, refused by both in the same words."""

import jax.numpy as jnp
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.configs import REFUSED, Settings, ours

MORE: list[tuple[str, Settings, type[Exception], str]] = [
    ("ASGD", {"lr": -1}, ValueError, "Invalid learning rate: -1"),
    ("Adadelta", {"rho": -0.1}, ValueError, "Invalid rho value: -0.1"),
    ("Adadelta", {"eps": -1}, ValueError, "Invalid epsilon value: -1"),
    ("Adadelta", {"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
    ("Adagrad", {"initial_accumulator_value": -1}, ValueError, "Invalid initial_accumulator_value value: -1"),
    ("Adagrad", {"eps": -1}, ValueError, "Invalid epsilon value: -1"),
    ("Adagrad", {"fused": True, "foreach": True}, RuntimeError, "`fused` and `foreach` cannot be `True` together"),
    ("Adagrad", {"fused": True, "differentiable": True}, RuntimeError, "`fused` does not support `differentiable`"),
    ("Adamax", {"betas": (-0.1, 0)}, ValueError, "Invalid beta parameter at index 0: -0.1"),
    ("Adamax", {"eps": -1}, ValueError, "Invalid epsilon value: -1"),
    ("NAdam", {"eps": -1}, ValueError, "Invalid epsilon value: -1"),
    ("NAdam", {"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
    ("RAdam", {"eps": -1}, ValueError, "Invalid epsilon value: -1"),
    ("RAdam", {"lr": float("nan")}, ValueError, "Invalid learning rate: nan"),
    ("RMSprop", {"alpha": -1}, ValueError, "Invalid alpha value: -1"),
    ("RMSprop", {"eps": -1}, ValueError, "Invalid epsilon value: -1"),
    ("RMSprop", {"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
    ("Rprop", {"etas": (0.5, 1.0)}, ValueError, "Invalid eta values: 0.5, 1.0"),
    ("SparseAdam", {"lr": 0}, ValueError, "Invalid learning rate: 0"),
    ("SparseAdam", {"eps": 0}, ValueError, "Invalid epsilon value: 0"),
]


@pytest.mark.parametrize(("name", "kwargs", "error", "words"), REFUSED + MORE, ids=lambda value: str(value)[:40])
def test_what_torch_refuses_is_refused(name: str, kwargs: Settings, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1))], **kwargs)
    with pytest.raises(error, match=words):
        getattr(jm.optim, name)([nn.Parameter(jnp.ones(1, jnp.float32))], **ours(kwargs))


def test_sparse_adam_takes_no_complex_parameters() -> None:
    words = r"Complex params at indices \[\[1, 0\]\]: SparseAdam does not support complex parameters"
    theirs = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=words):
        torch.optim.SparseAdam([{"params": [box]} for box in theirs])
    boxes = nn.Parameter(jnp.ones(2, jnp.float32)), nn.Parameter(jnp.ones(2, jnp.complex64))
    with pytest.raises(ValueError, match=words):
        jm.optim.SparseAdam([{"params": [box]} for box in boxes])
