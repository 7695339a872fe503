"""Optimizers written as one writes them for torch: no rule, a ``step`` over ``param_groups`` and ``state``."""

import copy
import pickle
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.helpers import draw, gradients, mlp, to_torch, train_step, values


class _Steps:
    """The body of an optimizer for either library."""

    param_groups: Any
    state: Any

    def __init__(self, params: Any, lr: float = 0.1, betas: tuple[float, float] = (0.5, 0.9), decay: float = 0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "decay": decay})  # type: ignore[call-arg]

    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state[p], group)
        return loss

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        first, second = group["betas"]
        if group["decay"] != 0:
            grad = grad + group["decay"] * p.data
        if len(state) == 0:
            state["step"] = 0
            state["mean"] = grad * 0
            state["start"] = p.data * 1
            state["name"] = "x"
        state["step"] += 1
        state["mean"] = first * state["mean"] + (1 - first) * grad
        state["scale"] = second * state.get("scale", 0.25)
        mean = state["mean"] / (1 - first ** state["step"])
        p.data.add_(state["scale"] * (state["start"] - p.data), alpha=0.1)
        p.data.add_(mean, alpha=-group["lr"])


class Ours(_Steps, jm.optim.Optimizer):
    pass


class Theirs(_Steps, torch.optim.Optimizer):
    pass


class Both:
    """Equal parameters under an optimizer of ours and one of torch's, and a count of traces."""

    def __init__(self, compile_it: bool, **kwargs: Any) -> None:
        self.ours = [nn.Parameter(jnp.asarray(a)) for a in draw(0)]
        self.theirs = [torch.nn.Parameter(torch.tensor(a)) for a in draw(0)]
        self.optimizer, self.oracle = Ours(self.ours, **kwargs), Theirs(self.theirs, **kwargs)
        self.traces = 0

        def step(optimizer: Any, grads: Any) -> None:
            self.traces += 1
            optimizer.step(grads)

        self.run = jm.jit(step, donate=True) if compile_it else step

    def step(self, grads: Any) -> None:
        for parameter, grad in zip(self.theirs, grads, strict=True):
            parameter.grad = None if grad is None else torch.tensor(grad)
        self.oracle.step()
        self.run(self.optimizer, [None if grad is None else jnp.asarray(grad) for grad in grads])

    def check(self) -> None:
        for ours, theirs in zip(self.ours, self.theirs, strict=True):
            np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
        ours, theirs = self.optimizer.state_dict()["state"], self.oracle.state_dict()["state"]
        assert {i: sorted(own) for i, own in ours.items()} == {i: sorted(own) for i, own in theirs.items()}
        assert {i: own["step"] for i, own in ours.items()} == {i: own["step"] for i, own in theirs.items()}


both_ways = pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])


@both_ways
@pytest.mark.parametrize("decay", [0, 0.5])
def test_an_own_step_trains_as_in_torch(compile_it: bool, decay: float) -> None:
    both = Both(compile_it, decay=decay)
    for i, grads in enumerate(gradients(8)):
        if i == 4:
            settled = both.traces
            for optimizer in (both.optimizer, both.oracle):
                optimizer.param_groups[0]["lr"] = 0.05
        both.step(grads)
    both.check()
    assert both.traces == settled or not compile_it


@both_ways
def test_parameters_that_come_later(compile_it: bool) -> None:
    both = Both(compile_it)
    first, *others = gradients(4)
    both.step([*first[:2], None, None])
    for grads in others:
        both.step(grads)
    both.check()


def test_state_changed_between_compiled_steps() -> None:
    both = Both(True)
    for i, grads in enumerate(gradients(6)):
        if i in (2, 4):
            for optimizer in (both.optimizer, both.oracle):
                for own in optimizer.state.values():
                    own.update(step=1, mean=own["mean"] * 2)
                del optimizer.state[optimizer.param_groups[0]["params"][1]]
        both.step(grads)
    both.check()


def test_state_dicts_go_both_ways() -> None:
    both = Both(True)
    for grads in gradients(2):
        both.step(grads)
    ours, theirs = both.optimizer.state_dict(), both.oracle.state_dict()
    both.oracle.load_state_dict(to_torch(ours))
    both.optimizer.load_state_dict(theirs)
    for grads in gradients(2, seed=5):
        both.step(grads)
    both.check()


def test_loaded_arrays_take_the_dtype_of_the_parameter_but_for_the_step() -> None:
    box = nn.Parameter(jnp.ones(2, jnp.bfloat16))
    optimizer = Ours([box])
    own = {"step": jnp.float32(3), "mean": jnp.ones(2, jnp.float32)}
    optimizer.load_state_dict({"state": {0: own}, "param_groups": optimizer.state_dict()["param_groups"]})
    assert [optimizer.state[box][name].dtype.name for name in own] == ["float32", "bfloat16"]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_train_on_equally(clone: Any) -> None:
    net = mlp()
    optimizer = Ours(net.parameters())
    train_step(net, optimizer)
    twin, its = clone((net, optimizer))
    train_step(net, optimizer)
    train_step(twin, its)
    for one, other in zip(values(net), values(twin), strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradients_in_grad_are_used_and_kept() -> None:
    box = nn.Parameter(jnp.ones(2))
    optimizer = Ours([box])
    box.grad = jnp.ones(2)
    assert optimizer.step(lambda: 5) == 5
    assert (box.grad.tolist(), float(box.value[0]) < 1) == ([1, 1], True)


class Hoarder(jm.optim.Optimizer):
    """Keeps arrays where a compiled function can't thread them."""

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            self.state[p].setdefault("history", []).append(p.grad)


def test_a_list_of_traced_arrays_in_the_state_is_an_error() -> None:
    box = nn.Parameter(jnp.ones(2))
    optimizer = Hoarder([box], {})
    optimizer.step([jnp.ones(2)])
    assert len(optimizer.state[box]["history"]) == 1
    with pytest.raises(RuntimeError, match="about to be stored in 'history', a list, in the state of an optimizer"):
        jm.jit(lambda optimizer, grads: optimizer.step(grads))(optimizer, [jnp.ones(2)])


class Counting(jm.optim.Optimizer):
    """Has a setting that is an attribute."""

    factor = 1.0

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            p.data.sub_(p.grad * self.factor)


def test_attributes_are_what_a_step_is_compiled_for() -> None:
    box = nn.Parameter(jnp.ones(1))
    optimizer = Counting([box], {})
    step = jm.jit(lambda optimizer, grads: optimizer.step(grads))
    for factor in (1.0, 2.0, 2.0):
        optimizer.factor = factor
        step(optimizer, [jnp.ones(1)])
    assert box.value.tolist() == [-4]


@both_ways
def test_a_schedule_counts_own_steps(compile_it: bool) -> None:
    optimizer = Ours([nn.Parameter(jnp.ones(1))], lr=lambda count: 1.0 / (count + 1))
    step = lambda optimizer, grads: optimizer.step(grads)  # noqa: E731 - compiled or not
    step = jm.jit(step) if compile_it else step
    for _ in range(3):
        step(optimizer, [jnp.ones(1)])
    assert optimizer.param_groups[0]["lr"] == 0.25
