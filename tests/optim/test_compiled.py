"""Optimizers in ``jm.jit``: settings are arguments, changes of structure are honoured, history is torch's."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.bench import _with_jaxmodules, _with_raw
from tests.optim.configs import Settings, every_optimizer
from tests.optim.helpers import SMALL, Counted, Grads, Pair, draw, gradients, loss_of, mlp, train_step, values

SETTINGS: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("SGD", {"lr": 1}, [{"lr": 0.5}, {"lr": np.float32(0.25)}, {"lr": jnp.float32(0.1)}, {"lr": 0}]),
    ("SGD", {"momentum": 0.9, "weight_decay": 1, "dampening": 0.5},
     [{"momentum": 0.5}, {"weight_decay": 0.1, "dampening": 0.1}, {"momentum": 1}]),
    ("Adam", {"lr": 0.1}, [{"betas": (0.5, 0.9)}, {"betas": [0.8, 0.99], "lr": 0.01}, {"eps": 0.1}]),
    ("AdamW", {"lr": 0.1}, [{"weight_decay": 0.5}, {"lr": 1}]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs", "changes"), SETTINGS)
def test_changed_numbers_are_honoured_without_a_retrace(name: str, kwargs: Any, changes: Any) -> None:
    pair = Pair(name, **kwargs)
    compiled = Counted(pair.optimizer)
    for change, grads in zip([{}, {}, *changes], gradients(10), strict=False):
        pair.set(**{key: value.item() if hasattr(value, "item") else value for key, value in change.items()})
        pair.optimizer.param_groups[0].update(change)
        pair.step(grads, compiled)
    pair.check()
    assert compiled.traces == 1


def other(value: Any) -> Any:
    """Return another setting of the same kind."""
    if isinstance(value, tuple):
        return tuple(map(other, value))
    return value if isinstance(value, bool | None) else value * 0.9  # flags, and what torch chooses itself


@every_optimizer
def test_all_numbers_of_every_optimizer_may_change(name: str, kwargs: Settings) -> None:
    pair = Pair(name, shapes=SMALL, **kwargs)
    compiled = Counted(pair.optimizer)
    settings = pair.oracle.defaults
    for grads in gradients(4, shapes=SMALL):
        pair.step(grads, compiled)
        settings = {key: other(value) for key, value in settings.items()}
        pair.set(**settings)
    pair.check()
    assert compiled.traces == 1


SWITCHES: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("SGD", {}, [{"momentum": 0.9}, {"momentum": 0}, {"momentum": 0.5}, {"nesterov": True}]),
    ("SGD", {"momentum": 0.9}, [{"dampening": 0.5}, {"weight_decay": 0.1}, {"dampening": 0}, {"maximize": True}]),
    ("Adam", {"lr": 0.1}, [{"weight_decay": 0.5}, {"weight_decay": 0}, {"maximize": True}]),
    ("AdamW", {"lr": 0.1, "amsgrad": True}, [{"weight_decay": 0}, {"amsgrad": False}, {"amsgrad": True}]),
]


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("name", "kwargs", "changes"), SWITCHES)
def test_switches_are_honoured(name: str, kwargs: Any, changes: Any, compile_it: bool) -> None:
    pair = Pair(name, **kwargs)
    step = Counted(pair.optimizer) if compile_it else None
    all_grads = iter(gradients(10))
    for change in [{}, *changes]:
        pair.set(**change)
        for _ in range(2):
            pair.step(next(all_grads), step)
    pair.check()
    pair.check_state()


def test_a_switch_back_uses_the_first_program_again() -> None:
    pair = Pair("SGD")
    compiled = Counted(pair.optimizer)
    for weight_decay in (0, 0.1, 0, 0.2, 0.0):
        pair.set(weight_decay=weight_decay)
        pair.step(draw(1), compiled)
    assert compiled.traces == 2


@pytest.mark.parametrize("setting", ["lr", "momentum", "weight_decay", "dampening"])
def test_a_setting_made_inside_a_compiled_function(setting: str) -> None:
    pair = Pair("SGD", momentum=0.9)

    def change(optimizer: Any) -> None:
        optimizer.param_groups[0][setting] = optimizer.param_groups[0][setting] * 0.5 + 0.25

    compiled = Counted(pair.optimizer, change)
    for grads in gradients(4):
        change(pair.oracle)
        pair.step(grads, compiled)
    pair.check()
    assert pair.optimizer.param_groups[0][setting] == pytest.approx(pair.oracle.param_groups[0][setting])


def test_a_constant_set_inside_reads_as_it_was_written() -> None:
    pair = Pair("SGD")
    Counted(pair.optimizer, lambda optimizer: optimizer.param_groups[0].update(lr=0.05))(draw(1))
    assert pair.optimizer.param_groups[0]["lr"] == 0.05


def test_a_compiled_group_change_reaches_other_compiled_functions() -> None:
    box = nn.Parameter(jnp.ones(2))
    optimizer = jm.optim.SGD([box], lr=0.5)
    step = Counted(optimizer)
    step([jnp.zeros(2)])
    jm.jit(lambda optimizer, decay: optimizer.param_groups[0].update(weight_decay=decay))(optimizer, 1.0)
    step([jnp.zeros(2)])
    assert box.value.tolist() == [0.5, 0.5]


MASKS = [(1, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1), (0, 1, 1, 0), (0, 0, 0, 0), (1, 1, 1, 1)]


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("name", "kwargs"), [("Adam", {"lr": 0.1}), ("SGD", {"momentum": 0.9, "dampening": 0.5})], ids=["Adam", "SGD"]
)
def test_parameters_without_gradient_keep_their_history(name: str, kwargs: Any, compile_it: bool) -> None:
    pair = Pair(name, **kwargs)
    step = Counted(pair.optimizer) if compile_it else None
    for mask, grads in zip(MASKS, gradients(len(MASKS)), strict=True):
        given: Grads = [grad if there else None for there, grad in zip(mask, grads, strict=True)]
        pair.step(given, step)
        pair.check_state()
    pair.check()


def test_frozen_parameters_start_their_history_when_they_thaw() -> None:
    net = mlp()
    net[0].requires_grad_(False)
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1)
    compiled = jm.jit(train_step)
    for frozen in (True, True, False, True, False):
        net[0].requires_grad_(not frozen)
        before = values(net[0])
        compiled(net, optimizer)
        assert frozen == all((a == b).all() for a, b in zip(before, values(net[0]), strict=True))
    assert [float(own["step"]) for own in optimizer.state_dict()["state"].values()] == [2, 2, 5, 5]


def test_toggling_requires_grad_compiles_each_kind_once() -> None:
    net, traces = mlp(), []
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1)
    compiled = jm.jit(lambda net, optimizer: traces.append(1) or train_step(net, optimizer))
    compiled(net, optimizer)
    for frozen in (True, False, True, False):
        net[0].requires_grad_(not frozen)
        compiled(net, optimizer)
    settled = len(traces)
    for frozen in (True, False):
        net[0].requires_grad_(not frozen)
        compiled(net, optimizer)
    assert len(traces) == settled <= 3


def test_two_networks_train_in_turn() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 4)
    optimizer = jm.optim.Adam([*one.parameters(), *other.parameters()], lr=0.1)
    step = jm.jit(train_step)
    for net in (one, other, one, one):
        step(net, optimizer)
    assert [float(own["step"]) for own in optimizer.state_dict()["state"].values()] == [3, 3, 1, 1]


def test_compiled_steps_use_grad_attributes() -> None:
    net, twin = mlp(), mlp()
    optimizer, other = jm.optim.SGD(net.parameters(), lr=0.1), jm.optim.SGD(twin.parameters(), lr=0.1)

    @jm.jit
    def step(net: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        jm.backward(loss_of, net)
        optimizer.step()

    for _ in range(3):
        step(net, optimizer)
        train_step(twin, other)
    np.testing.assert_allclose(net[0].weight.numpy(), twin[0].weight.numpy(), rtol=1e-6)


def test_a_group_added_during_compiled_training() -> None:
    net = mlp()
    optimizer = jm.optim.Adam(net[0].parameters(), lr=0.1)
    step = Counted(optimizer, donate=True)
    grads = draw(1, [p.shape for p in net.parameters()])
    step(grads[:2])
    optimizer.add_param_group({"params": net[2].parameters(), "lr": 0.0})
    step(grads)
    step(grads)
    assert [float(own["step"]) for own in optimizer.state_dict()["state"].values()] == [3, 3, 2, 2]


def test_donation_leaves_nothing_deleted_behind() -> None:
    pair = Pair("AdamW", lr=0.1, amsgrad=True)
    step = Counted(pair.optimizer, donate=True)
    for grads in gradients(4):
        pair.step([None, *grads[1:]], step)
    for own in pair.optimizer.state.values():
        assert not any(value.is_deleted() for value in own.values())
    pair.step(draw(3))
    pair.check()


def test_a_local_optimizer_in_a_compiled_function() -> None:
    def two_steps(net: Any) -> None:
        optimizer = jm.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        train_step(net, optimizer)
        train_step(net, optimizer)

    net, twin = mlp(), mlp()
    jm.jit(two_steps)(net)
    two_steps(twin)
    np.testing.assert_allclose(net[0].weight.numpy(), twin[0].weight.numpy(), rtol=1e-6)


def test_a_refused_step_under_plain_jax_jit_changes_nothing() -> None:
    net = mlp()
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="a traced value was about to be stored in the parameter"):
        jax.jit(lambda: train_step(net, optimizer))()
    train_step(net, optimizer)
    assert [float(own["step"]) for own in optimizer.state_dict()["state"].values()] == [1, 1, 1, 1]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_of_net_and_optimizer_train_on_equally(clone: Callable[[Any], Any]) -> None:
    net = mlp()
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1, amsgrad=True)
    step = jm.jit(train_step, donate=True)
    step(net, optimizer)
    twin, its_optimizer = clone((net, optimizer))
    for _ in range(2):
        step(net, optimizer)
        step(twin, its_optimizer)
    for ours, theirs in zip(values(net), values(twin), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_optimizer
def test_a_pickled_copy_of_every_optimizer_steps_equally(name: str, kwargs: Settings) -> None:
    pair = Pair(name, **kwargs)
    first, second = gradients(2)
    pair.step(first)
    boxes, optimizer = pickle.loads(pickle.dumps((pair.ours, pair.optimizer)))
    pair.step(second)
    optimizer.step([jnp.asarray(grad) for grad in second])
    assert repr(optimizer) == repr(pair.optimizer)
    np.testing.assert_equal(values(boxes), values(pair.ours))


def test_eager_steps_do_not_keep_an_optimizer_alive() -> None:
    net = mlp()
    optimizer = jm.optim.SGD(net.parameters())
    train_step(net, optimizer)
    ghost = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert ghost() is None


def test_optimizers_of_one_class_share_their_eager_program() -> None:
    from jaxmodules.optim.optimizer import _compiled

    Pair("SGD", lr=0.125).step(draw(1))
    before = _compiled.cache_info().misses
    Pair("SGD", lr=0.25).step(draw(1))
    assert _compiled.cache_info().misses == before


def test_the_program_of_a_step_costs_what_raw_optax_costs() -> None:
    ours, arguments = _with_jaxmodules.make_function(50)
    raw, raw_arguments = _with_raw.make_function(50)
    with jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        cost = jm.jit(ours).lower(*arguments).compile().cost_analysis()
        expected = jax.jit(raw).lower(*raw_arguments).compile().cost_analysis()
    for what in ("flops", "bytes accessed"):
        assert cost[what] == pytest.approx(expected[what], rel=0.01)


def test_rearranging_inside_a_foreign_transform_is_an_error() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 4)
    optimizer = jm.optim.Adam([*first.parameters(), *second.parameters()])

    def step(x: jax.Array) -> jax.Array:
        loss, grads = jm.value_and_grad(lambda net: (net(x) ** 2).mean())(first)
        optimizer.step(grads)
        return loss

    with pytest.raises(RuntimeError, match="rearrange its state"):
        jm.vmap(step)(jnp.ones((1, 2, 3), jnp.float32))


def test_shape_of_a_step_that_rearranges_is_known() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 4)
    optimizer = jm.optim.Adam([*first.parameters(), *second.parameters()])

    def step(net: nn.Module, optimizer: jm.optim.Optimizer, x: jax.Array) -> jax.Array:
        loss, grads = jm.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
        optimizer.step(grads)
        return loss

    assert jm.eval_shape(step, first, optimizer, jnp.ones((2, 3), jnp.float32)).shape == ()


def test_a_setting_that_is_set_to_itself_inside_a_compiled_function_stays_exact() -> None:
    pair = Pair("Adam")

    def change(optimizer: Any) -> None:
        group = optimizer.param_groups[0]
        group["betas"] = (group["betas"][0] * 0.9, group["betas"][1])

    compiled = Counted(pair.optimizer, change)
    compiled(draw(1))
    assert pair.optimizer.param_groups[0]["betas"] == (pytest.approx(0.81), 0.999)


@pytest.mark.parametrize("value", [lambda x: x, lambda x: [x, x], lambda x: jnp.ones(3) * x, lambda x: {"in": x}])
@pytest.mark.parametrize("key", ["new", "nesterov"])
def test_a_traced_value_does_not_stay_behind_in_a_group(key: str, value: Any) -> None:
    pair = Pair("SGD")
    before = pair.optimizer.param_groups[0].copy()

    def step(optimizer: Any, x: Any) -> None:
        optimizer.param_groups[0][key] = value(x)

    with pytest.raises(jm.LeakError, match=f"the setting '{key}' of a parameter group"):
        jm.jit(step)(pair.optimizer, jnp.float32(1))
    after = pair.optimizer.param_groups[0]
    assert after.keys() == before.keys() and after["nesterov"] is False


@pytest.mark.parametrize("donate", [False, True], ids=["kept", "donated"])
def test_state_lies_where_its_parameter_does(donate: bool) -> None:
    rows = jax.sharding.NamedSharding(jax.make_mesh((4,), ("rows",)), jax.sharding.PartitionSpec("rows"))
    box = nn.Parameter(jax.device_put(jnp.ones((8, 3), jnp.float32), rows))
    optimizer = jm.optim.Adam([box])
    step = jm.jit(lambda optimizer, grad: optimizer.step([grad]), donate=donate)
    grad = jax.device_put(jnp.ones((8, 3), jnp.float32), rows)
    step.lower(optimizer, grad)  # makes the state
    assert [cell.value.sharding == rows for cell in optimizer._cohorts[0].cells] == [False, True, True]
    step(optimizer, grad)
    assert optimizer.state[box]["exp_avg"].sharding.is_equivalent_to(rows, 2)
    step(optimizer, grad)
    assert jm.explain(step).traces == 1
