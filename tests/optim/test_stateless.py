"""Parameters and state swapped in for a time: torch's steps on them, and nothing of it stays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.optim import swap_in_optimizer_params_and_state
from tests.optim.helpers import Pair, draw, gradients, to_torch

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [("SGD", {"momentum": 0.9}), ("Adam", {"lr": 0.1}), ("Rprop", {})]


def stepped(name: str, **kwargs: Any) -> Pair:
    pair = Pair(name, **kwargs)
    for grads in gradients(3):
        pair.step(grads)
    return pair


def boxes_of(values: Any) -> dict[str, nn.Parameter]:
    return {str(i): nn.Parameter(value) for i, value in enumerate(values)}


@pytest.mark.parametrize(("name", "kwargs"), OPTIMIZERS)
def test_steps_are_those_of_torch_and_the_own_state_comes_back(name: str, kwargs: dict[str, Any]) -> None:
    pair = stepped(name, **kwargs)
    saved, others = pair.optimizer.state_dict(), draw(7)
    grads = draw(8)
    boxes = boxes_of(map(jnp.asarray, others))
    theirs = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in zip(boxes, others, strict=True)}
    with swap_in_optimizer_params_and_state(pair.optimizer, boxes, saved):
        pair.optimizer.step(list(map(jnp.asarray, grads)))
    with torch.optim.swap_in_optimizer_params_and_state(pair.oracle, theirs, to_torch(saved)):
        for parameter, grad in zip(theirs.values(), grads, strict=True):
            parameter.grad = torch.tensor(grad)
        pair.oracle.step()
    for key, box in boxes.items():
        np.testing.assert_allclose(box.value, theirs[key].detach().numpy(), rtol=1e-6, atol=1e-6)
    for before, after in zip(jax.tree.leaves(saved), jax.tree.leaves(pair.optimizer.state_dict()), strict=True):
        np.testing.assert_array_equal(before, after)
    pair.step(grads)
    pair.check()
    pair.check_state()


def test_a_compiled_step_of_the_optimizer_still_fits_afterwards() -> None:
    pair = stepped("Adam")
    traces: list[int] = []
    step = jm.jit(lambda optimizer, grads: (traces.append(1), optimizer.step(grads))[1])
    pair.step(draw(1), lambda grads: step(pair.optimizer, grads))
    with (
        pytest.raises(KeyboardInterrupt, match="here"),
        swap_in_optimizer_params_and_state(pair.optimizer, boxes_of(pair.ours), pair.optimizer.state_dict()),
    ):
        raise KeyboardInterrupt("here")
    pair.step(draw(2), lambda grads: step(pair.optimizer, grads))
    pair.check()
    assert len(traces) == 1


BAD: list[tuple[str, Any]] = [
    ("a DCP-style optimizer state_dict, got list", lambda saved: []),
    (r"\['state'\] to be a dict mapping packed parameter ids .*, got list", lambda saved: {**saved, "state": []}),
    (r"\['param_groups'\] to be a list", lambda saved: {**saved, "param_groups": None}),
    ("different number of parameter groups .*: 2, expected 1", lambda saved: {**saved, "param_groups": [{}, {}]}),
    ("keyed by packed parameter ids", lambda saved: {**saved, "param_groups": [{"params": "abcd"}]}),
    ("different number of params .*: 1, expected 4", lambda saved: {**saved, "param_groups": [{"params": [0]}]}),
    (
        r"Keys only in swap-in: \['odd'\]",
        lambda saved: {**saved, "param_groups": [{**saved["param_groups"][0], "odd": 1}]},
    ),
    (r"got extra keys \[9\]", lambda saved: {**saved, "state": {9: {}}}),
]


@pytest.mark.parametrize(("words", "change"), BAD, ids=range(len(BAD)))
def test_what_does_not_fit_is_refused(words: str, change: Any) -> None:
    pair = stepped("SGD", momentum=0.9)
    saved = change(pair.optimizer.state_dict())
    with pytest.raises(RuntimeError, match=words):
        swap_in_optimizer_params_and_state(pair.optimizer, boxes_of(pair.ours), saved).__enter__()


def test_an_optimizer_that_has_not_stepped_is_refused() -> None:
    pair = Pair("SGD", momentum=0.9)
    with pytest.raises(RuntimeError, match="requires initialized optimizer state"):
        swap_in_optimizer_params_and_state(pair.optimizer, {}, pair.optimizer.state_dict()).__enter__()


@pytest.mark.parametrize(
    ("given", "words"), [({}, "0 parameters were given, expected 4"), (dict.fromkeys("abcd"), "'a' is None")]
)
def test_parameters_that_do_not_fit_are_refused(given: Any, words: str) -> None:
    pair = stepped("SGD", momentum=0.9)
    with pytest.raises(RuntimeError, match=words):
        swap_in_optimizer_params_and_state(pair.optimizer, given, pair.optimizer.state_dict()).__enter__()
