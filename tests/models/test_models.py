"""Models as one would port them, against the PyTorch they come from: names, files, outputs and a training step."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F
from tests.models.cases import CASES, Batch, Case, disturb

every_model = pytest.mark.parametrize("case", CASES, ids=str)


def batch_of(case: Case) -> tuple[Batch, Batch]:
    rng = np.random.RandomState(0)
    inputs = case.inputs(rng)
    return inputs, case.labels(inputs, rng)


def tensors(arrays: Batch) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def numpy(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Compare dicts of arrays by name, relative to the largest number in each."""
    assert sorted(ours) == sorted(theirs)
    for name, value in theirs.items():
        scale = max(1.0, np.abs(numpy(value)).max())
        np.testing.assert_allclose(numpy(ours[name]), numpy(value), rtol=0, atol=tolerance * scale, err_msg=name)


@jm.jit
def predict(net: nn.Module, inputs: Any) -> tuple[jax.Array, ...]:
    """Return the predictions of all heads."""
    output = net(**inputs)
    return output if isinstance(output, tuple) else (output,)


@torch.no_grad()
def their_predictions(theirs: Any, inputs: Batch) -> tuple[torch.Tensor, ...]:
    options = {"use_cache": False, "return_dict": False} if "input_ids" in inputs else {}
    output = theirs(**tensors(inputs), **options)
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return output if isinstance(output, tuple) else (output,)


def build_theirs(case: Case) -> torch.nn.Module:
    torch.manual_seed(0)
    theirs = case.theirs(**case.settings)
    disturb(theirs)
    return theirs.eval()


@cache
def trained(case: Case) -> SimpleNamespace:
    """Run both sides once: what they predict, the loss and its gradients, and the state that a step leaves."""
    theirs = build_theirs(case)
    net = case.ours(**case.settings)
    net.load_state_dict(theirs.state_dict())
    inputs, labels = batch_of(case)
    logits = (predict(net.eval(), inputs), their_predictions(theirs, inputs))

    @jm.jit
    def step(net: nn.Module, optimizer: jm.optim.Optimizer, inputs: Any, labels: Any) -> Any:
        loss, grads = jm.value_and_grad(lambda net: case.loss(net(**inputs), *labels))(net)
        optimizer.step(grads)
        return loss, grads

    name, options = case.optimizer
    optimizer = getattr(jm.optim, name)(net.parameters(), **options)
    loss, grads = step(net.train(), optimizer, inputs, list(labels.values()))
    their_loss = case.their_loss(theirs.train(), tensors(inputs), tensors(labels))
    their_loss.backward()
    getattr(torch.optim, name)(theirs.parameters(), **options).step()
    return SimpleNamespace(
        logits=logits,
        loss=({"loss": loss}, {"loss": their_loss}),
        grads=(grads, {name: parameter.grad for name, parameter in theirs.named_parameters()}),
        state=(net.state_dict(), theirs.state_dict()),
    )


@every_model
def test_names_and_shapes_are_those_of_the_published_model(case):
    with jm.device("meta"), torch.device("meta"):
        ours, theirs = case.ours(**case.published), case.theirs(**case.published)
    expected = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == expected
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


def through_a_file(write: Callable[[torch.nn.Module, Path], None]) -> Callable[[torch.nn.Module, Path], Any]:
    def load(theirs: torch.nn.Module, path: Path) -> Any:
        write(theirs, path)
        return jm.load(path)

    return load


LOADERS = {
    "state_dict": lambda theirs, path: theirs.state_dict(),
    "safetensors": through_a_file(
        lambda theirs, path: safetensors.torch.save_file({k: v.clone() for k, v in theirs.state_dict().items()}, path)
    ),
}


@every_model
@pytest.mark.parametrize("loader", LOADERS)
def test_state_loads_as_it_is(case, loader, tmp_path):
    theirs, net = build_theirs(case), case.ours(**case.settings)
    state = LOADERS[loader](theirs, tmp_path / "model")
    assert str(net.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
    assert_close(net.state_dict(), theirs.state_dict(), 0)


@every_model
def test_predictions_are_equal(case):
    for ours, theirs in zip(*trained(case).logits, strict=True):
        assert theirs.abs().max() > 0.1
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@every_model
def test_loss_and_gradients_are_equal(case):
    result = trained(case)
    assert_close(*result.loss, 1e-5)
    assert_close(*result.grads, 1e-4)


@every_model
def test_state_after_a_training_step_is_equal(case):
    assert_close(*trained(case).state, 1e-5)
