"""Gradients accumulated over microbatches: one big batch's step, and the numbers of torch's loop."""

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.helpers import draw, values

PARTS, STEPS = 4, 3
BATCH = draw(0, [(8, 3)])[0]
WEIGHTS = dict(zip(("weight", "bias"), draw(1, [(2, 3), (2,)]), strict=True))


def build(name: str) -> tuple[Any, Any]:
    net = nn.Linear(3, 2)
    net.load_state_dict(WEIGHTS)
    return net, getattr(jm.optim, name)(net.parameters(), lr=0.1)


def loss_of(net: Any, x: Any) -> Any:
    return (net(x) ** 2).mean()


def whole(net: Any, optimizer: Any, x: Any) -> None:
    optimizer.step(jm.grad(loss_of)(net, x))


def loop(net: Any, optimizer: Any, x: Any) -> None:
    optimizer.zero_grad()
    for part in x.reshape(PARTS, -1, 3):
        jm.backward(lambda part=part: loss_of(net, part) / PARTS, net)
    optimizer.step()


def scan(net: Any, optimizer: Any, x: Any) -> None:
    optimizer.zero_grad()
    jm.scan(lambda _, part: (_, jm.backward(lambda: loss_of(net, part) / PARTS, net)), None, x.reshape(PARTS, -1, 3))
    optimizer.step()


def scan_of_dicts(net: Any, optimizer: Any, x: Any) -> None:
    def add(total: Any, part: Any) -> Any:
        return jax.tree.map(jnp.add, total, jm.grad(loss_of)(net, part)), None

    zeros = {name: jnp.zeros_like(p.value) for name, p in net.named_parameters()}
    total, _ = jm.scan(add, zeros, x.reshape(PARTS, -1, 3))
    optimizer.step({name: gradient / PARTS for name, gradient in total.items()})


def expected(name: str) -> list[np.ndarray]:
    """Train torch's net by its accumulation loop."""
    net = torch.nn.Linear(3, 2)
    net.load_state_dict({k: torch.tensor(v) for k, v in WEIGHTS.items()})
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for part in torch.tensor(BATCH).reshape(PARTS, -1, 3):
            (loss_of(net, part) / PARTS).backward()
        optimizer.step()
    return [p.detach().numpy() for p in net.parameters()]


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("way", [whole, loop, scan, scan_of_dicts], ids=lambda way: way.__name__)
def test_microbatches_make_the_step_of_their_batch_and_of_torch(way: Callable[..., None], compile_it: bool) -> None:
    net, optimizer = build("Adam")
    step = jm.jit(way, donate=True) if compile_it else way
    for _ in range(STEPS):
        step(net, optimizer, BATCH)
    for ours, theirs in zip(values(net), expected("Adam"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_microbatches_in_calls_of_their_own(name: str) -> None:
    net, optimizer = build(name)
    traces = []
    accumulate = jm.jit(lambda net, x: traces.append(1) or jm.backward(lambda: loss_of(net, x) / PARTS, net))
    apply = jm.jit(lambda optimizer: traces.append(1) or (optimizer.step(), optimizer.zero_grad())[0])
    for step in range(STEPS):
        for part in BATCH.reshape(PARTS, -1, 3):
            accumulate(net, part)
        apply(optimizer)
        if step == 0:
            settled = len(traces)
    assert len(traces) == settled
    for ours, theirs in zip(values(net), expected(name), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_every_fourth_call_of_one_program_steps() -> None:
    net, optimizer = build("Adam")
    traces = []

    def micro(net: Any, optimizer: Any, x: Any, number: Any) -> None:
        traces.append(1)
        jm.backward(lambda: loss_of(net, x) / PARTS, net)

        def apply() -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        jm.cond(number % PARTS == PARTS - 1, apply, lambda: None)

    compiled = jm.jit(micro)
    for number in range(STEPS * PARTS):
        compiled(net, optimizer, BATCH.reshape(PARTS, -1, 3)[number % PARTS], number)
    assert len(traces) <= 3
    for ours, theirs in zip(values(net), expected("Adam"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def multi_steps() -> Any:
    return optax.MultiSteps(optax.adam(0.1), PARTS)


FORMS = {"eager": (multi_steps, False), "compiled": (lambda: multi_steps().gradient_transformation(), True)}


@pytest.mark.parametrize("form", FORMS)
def test_multi_steps(form: str) -> None:
    transformation, compile_it = FORMS[form]
    net, _ = build("SGD")
    optimizer = jm.optim.Optimizer(net, transformation())
    step = jm.jit(whole, donate=True) if compile_it else whole
    for number in range(STEPS * PARTS):
        before = values(net)
        step(net, optimizer, BATCH.reshape(PARTS, -1, 3)[number % PARTS])
        has_moved = any((a != b).any() for a, b in zip(before, values(net), strict=True))
        assert has_moved == (number % PARTS == PARTS - 1)
    for ours, theirs in zip(values(net), expected("Adam"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_multi_steps_resume_between_two_microbatches() -> None:
    net, _ = build("SGD")
    optimizer = jm.optim.Optimizer(net, multi_steps())
    parts = BATCH.reshape(PARTS, -1, 3)
    for part in parts[:3]:
        whole(net, optimizer, part)
    twin = copy.deepcopy(net)
    again = jm.optim.Optimizer(twin, multi_steps())
    again.load_state_dict(optimizer.state_dict())
    for one, its in ((net, optimizer), (twin, again)):
        jm.jit(whole)(one, its, parts[3])
    for ours, theirs in zip(values(twin), values(net), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not (values(twin)[0] == WEIGHTS["weight"]).any()
