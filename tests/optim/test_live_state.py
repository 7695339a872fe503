"""``optimizer.state`` and ``param_groups``: what is written there is what the next step uses, as in torch."""

import copy
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.helpers import Counted, Pair, draw, gradients

Change = Callable[[Any, Any, Any], Any]  # of an optimizer, its parameters, and the library


def scale(optimizer: Any, ps: Any, lib: Any) -> None:
    for own in optimizer.state.values():
        for name in [name for name in own if name != "step"]:
            own[name] = own[name] * 0.5


def set_steps(optimizer: Any, ps: Any, lib: Any) -> None:
    for p in ps[:2]:
        optimizer.state[p]["step"] = lib.asarray(7.0)


def empty_one(optimizer: Any, ps: Any, lib: Any) -> None:
    for name in list(optimizer.state[ps[1]]):
        del optimizer.state[ps[1]][name]


def assign(optimizer: Any, ps: Any, lib: Any) -> None:
    optimizer.state = defaultdict(dict)


def set_whole(optimizer: Any, ps: Any, lib: Any) -> None:
    optimizer.state[ps[0]] = {name: value * 2 for name, value in optimizer.state[ps[0]].items()}


def move(optimizer: Any, ps: Any, lib: Any) -> None:
    """Move a parameter to a group of its own, and back."""
    group = optimizer.param_groups[0]
    if len(optimizer.param_groups) == 1:
        group["params"].pop()
        optimizer.param_groups.append({**group, "params": [ps[-1]], "lr": 0.5})
    else:
        del optimizer.param_groups[1]
        group["params"].append(ps[-1])


def leave_out(optimizer: Any, ps: Any, lib: Any) -> None:
    """Take a group away, and have its parameter back with the state it had."""
    if len(optimizer.param_groups[0]["params"]) == 4:
        optimizer.param_groups[0]["params"].pop()
    else:
        optimizer.add_param_group({"params": ps[3], "lr": 0.5})


CHANGES: list[Change] = [
    scale,
    set_steps,
    lambda o, ps, lib: o.state.pop(ps[1]),
    empty_one,
    lambda o, ps, lib: o.state.clear(),
    assign,
    set_whole,
    move,
    leave_out,
    lambda o, ps, lib: o.load_state_dict(copy.deepcopy(o.state_dict())),
    lambda o, ps, lib: o.param_groups[0].update(betas=(0.5, 0.9)),
    lambda o, ps, lib: setattr(o, "param_groups", [{**o.param_groups[0], "lr": 0.5}]),
]


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("change", CHANGES, ids=itertools.count())
def test_what_is_written_is_what_the_next_step_uses(change: Change, compile_it: bool) -> None:
    pair = Pair("Adam", lr=0.1)
    step = Counted(pair.optimizer, donate=True) if compile_it else pair.optimizer.step
    for i, grads in enumerate(gradients(6)):
        if i in (2, 4):
            change(pair.optimizer, pair.ours, jnp)
            change(pair.oracle, pair.theirs, torch)
        held = [p for group in pair.optimizer.param_groups for p in group["params"]]
        order = [[p is box for p in pair.ours].index(True) for box in held]
        pair.step(grads, lambda arrays, order=order: step([arrays[i] for i in order]))
    pair.check()
    pair.check_state()


@pytest.mark.parametrize("change", [*CHANGES[:3], *CHANGES[4:6]], ids=itertools.count())
def test_state_written_inside_a_compiled_function(change: Change) -> None:
    pair = Pair("Adam", lr=0.1)
    compiled = jm.jit(lambda optimizer: change(optimizer, pair.ours, jnp) and None)
    for i, grads in enumerate(gradients(6)):
        if i in (2, 4):
            compiled(pair.optimizer)
            change(pair.oracle, pair.theirs, torch)
        pair.step(grads)
    pair.check()


def test_a_part_of_the_state_is_not_removed_inside_a_compiled_function() -> None:
    pair = Pair("Adam")
    pair.step(draw(1))
    with pytest.raises(RuntimeError, match="can change and reset the state that an optimizer keeps, but not"):
        jm.jit(lambda optimizer: empty_one(optimizer, pair.ours, jnp))(pair.optimizer)
    pair.check_state()


def test_writing_an_array_of_state_does_not_retrace() -> None:
    pair = Pair("Adam", lr=0.1)
    step = Counted(pair.optimizer)
    for i, grads in enumerate(gradients(4)):
        if i > 0:
            scale(pair.optimizer, pair.ours, jnp)
            scale(pair.oracle, pair.theirs, torch)
        pair.step(grads, step)
    pair.check()
    assert step.traces == 1


def test_state_set_before_the_first_step_is_begun_from() -> None:
    pair = Pair("Adam", lr=0.1)
    for lib, optimizer, ps in ((jnp, pair.optimizer, pair.ours), (torch, pair.oracle, pair.theirs)):
        for p in ps:
            moments = {"exp_avg": lib.ones(p.shape), "exp_avg_sq": lib.ones(p.shape)}
            optimizer.state[p].update({"step": lib.asarray(10.0), **moments})
    pair.step(draw(1))
    pair.check()
    pair.check_state()


def test_state_reads_as_torchs_does() -> None:
    pair = Pair("Adam")
    assert (len(pair.optimizer.state), pair.optimizer.state == {}) == (0, True)
    pair.step(draw(1))
    ours, theirs = pair.optimizer.state, pair.oracle.state
    assert isinstance(ours, dict)
    assert list(ours) == pair.ours
    assert [list(own) for own in ours.values()] == [list(own) for own in theirs.values()]
    assert str(ours).startswith("defaultdict(<class 'dict'>, {Parameter containing:")
    assert (pair.ours[0] in ours, None in ours, ours.get(None)) == (True, False, None)
    assert type(copy.deepcopy(ours)) is defaultdict


def test_state_under_other_keys_is_kept_and_saved() -> None:
    box = nn.Parameter(jnp.ones(2))
    for optimizer in (jm.optim.Adam([box]), torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])):
        optimizer.state["epoch"] = 3
        optimizer.state["more"]["name"] = "x"
        state = optimizer.state_dict()["state"]
        assert state == {"epoch": 3, "more": {"name": "x"}}
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert dict(optimizer.state) == state


def test_a_value_of_another_shape_is_refused() -> None:
    pair = Pair("Adam")
    pair.step(draw(1))
    with pytest.raises(
        RuntimeError, match=r"exp_avg of parameter 0 has shape \(7,\) where it is set, expected \(4, 3\)"
    ):
        pair.optimizer.state[pair.ours[0]]["exp_avg"] = jnp.zeros(7)


def test_a_removed_name_is_a_key_error() -> None:
    pair = Pair("Adam")
    pair.step(draw(1))
    with pytest.raises(KeyError, match="nothing"):
        del pair.optimizer.state[pair.ours[0]]["nothing"]
    with pytest.raises(KeyError, match="nothing"):
        pair.optimizer.state[pair.ours[0]]["nothing"]


def test_writing_to_the_shared_state_of_a_transformation() -> None:
    import optax

    box, other = nn.Parameter(jnp.ones(1)), nn.Parameter(jnp.ones(1))
    optimizer = jm.optim.Optimizer([box, other], optax.sgd(optax.piecewise_constant_schedule(1.0, {2: 0.0})))
    optimizer.step([jnp.ones(1), jnp.ones(1)])
    name = next(iter(optimizer.state[box]))
    optimizer.state[box][name] = 5
    optimizer.step([jnp.ones(1), jnp.ones(1)])
    assert (box.value.tolist(), int(optimizer.state[other][name])) == ([0.0], 6)


def test_a_new_key_in_a_group_and_one_less() -> None:
    for optimizer in (jm.optim.SGD([nn.Parameter(jnp.ones(1))]), torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])):
        group = optimizer.param_groups[0]
        group["initial_lr"] = group.setdefault("lr", 5.0)
        assert optimizer.state_dict()["param_groups"][0]["initial_lr"] == 1e-3
        del group["initial_lr"]
        assert "initial_lr" not in optimizer.state_dict()["param_groups"][0]


def test_a_required_setting_that_is_missing() -> None:
    for lib, module, box in (
        (jm, jm.optim.optimizer, nn.Parameter(jnp.ones(1))),
        (torch, sys.modules["torch.optim.optimizer"], torch.nn.Parameter(torch.ones(1))),
    ):
        assert repr(module.required) == "<required parameter>"
        with pytest.raises(ValueError, match="didn't specify a value of required optimization parameter lr"):
            lib.optim.Optimizer([box], {"lr": module.required})


def test_older_state_dicts_lack_flags() -> None:
    for name in ("SGD", "AdamW"):
        pair = Pair(name, maximize=True)
        pair.step(draw(1))
        for optimizer in (pair.optimizer, pair.oracle):
            state = optimizer.state_dict()
            for flag in ("maximize", "foreach", "differentiable", "fused"):
                del state["param_groups"][0][flag]
            optimizer.load_state_dict(state)
        ours, theirs = (o.state_dict()["param_groups"] for o in (pair.optimizer, pair.oracle))
        assert {k: ours[0][k] for k in theirs[0]} == theirs[0]
        assert ours[0]["maximize"] is False


def test_names_in_a_loaded_state_are_taken_over() -> None:
    box = nn.Parameter(jnp.ones(1))
    named, plain = jm.optim.SGD([("weight", box)]), jm.optim.SGD([box])
    plain.load_state_dict(named.state_dict())
    named.load_state_dict(jm.optim.SGD([box]).state_dict())
    assert plain.param_groups[0]["param_names"] == named.param_groups[0]["param_names"] == ["weight"]


def test_a_replaced_parameter_does_not_get_the_gradients_of_its_successor() -> None:
    for named in (False, True):
        net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        old = net[1]
        optimizer = jm.optim.SGD(net.named_parameters() if named else net.parameters(), lr=0.5)
        for step in range(2):
            before = np.array(old.weight), np.array(net[0].weight)
            optimizer.step(jm.grad(lambda net: net(jnp.ones((1, 1), jnp.float32)).sum())(net))
            moved = bool(before[0] != np.array(old.weight)), bool(before[1] != np.array(net[0].weight))
            assert moved == (step == 0, True)
            net[1] = nn.Linear(1, 1)
