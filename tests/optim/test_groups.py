"""Parameters and groups: what the constructor and ``add_param_group`` take and refuse, in torch's words."""

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.configs import Settings, every_optimizer
from tests.optim.helpers import Pair, mlp, train_step, values

GIVEN: dict[str, Callable[[Any], Any]] = {
    "generator": lambda net: net.parameters(),
    "list": lambda net: list(net.parameters()),
    "named": lambda net: net.named_parameters(),
    "groups": lambda net: [{"params": net[0].parameters()}, {"params": net[2].parameters()}],
    "named groups": lambda net: [
        {"params": [(k, p) for k, p in net.named_parameters() if ("bias" in k) == bias]} for bias in (True, False)
    ],
    "single": lambda net: [{"params": net[0].weight}, {"params": [net[0].bias, *net[2].parameters()]}],
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_every_way_to_give_parameters_trains_the_same(given: Callable[[Any], Any]) -> None:
    one, other = mlp(), mlp()
    optimizers = jm.optim.Adam(one, lr=0.1), jm.optim.Adam(given(other), lr=0.1)
    for _ in range(3):
        train_step(one, optimizers[0])
        train_step(other, optimizers[1])
    np.testing.assert_allclose(np.concatenate(values(one), None), np.concatenate(values(other), None), rtol=1e-6)


def test_groups_have_settings_of_their_own() -> None:
    net = mlp()
    before = values(net)
    groups = [{"params": net[0].parameters(), "lr": 0.0}, {"params": net[2].parameters()}]
    train_step(net, jm.optim.SGD(groups, lr=0.1))
    moved = [bool((a != b).any()) for a, b in zip(before, values(net), strict=True)]
    assert moved == [False, False, True, True]


def test_tied_parameters_are_stepped_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    optimizer = jm.optim.SGD(net.named_parameters(), lr=0.5)
    before = net[0].weight.numpy()
    optimizer.step({"0.weight": jnp.ones((3, 3))})
    np.testing.assert_allclose(net[1].weight.numpy(), before - 0.5, rtol=1e-6)


def test_add_param_group() -> None:
    first, second = nn.Parameter(jnp.ones(2)), nn.Parameter(jnp.ones(2))
    optimizer = jm.optim.SGD([first], lr=0.5)
    optimizer.add_param_group({"params": second, "lr": 0.25})
    optimizer.step([jnp.ones(2), jnp.ones(2)])
    assert (first.value[0], second.value[0]) == (0.5, 0.75)


def test_add_param_group_does_not_write_into_its_argument() -> None:
    group = {"params": [nn.Parameter(jnp.ones(2))]}
    jm.optim.SGD([group])
    assert list(group) == ["params"]


@every_optimizer
def test_signature_is_torchs(name: str, kwargs: Settings) -> None:
    ours, theirs = (
        [(p.name, p.default, p.kind) for p in inspect.signature(getattr(library, name)).parameters.values()]
        for library in (jm.optim, torch.optim)
    )
    assert ours == theirs


@every_optimizer
def test_repr_is_torchs(name: str, kwargs: Settings) -> None:
    pair = Pair(name, **kwargs)
    for optimizer, parameter in ((pair.optimizer, nn.Parameter), (pair.oracle, torch.nn.Parameter)):
        data = jnp.ones(1) if parameter is nn.Parameter else torch.ones(1)
        optimizer.add_param_group({"params": parameter(data), "lr": 0.5})
    assert repr(pair.optimizer) == repr(pair.oracle)


@pytest.mark.parametrize("read", [dict, lambda g: {**g}, lambda g: dict(g.items()), lambda g: g.copy()])
def test_a_group_reads_as_a_dict_of_plain_values(read: Callable[[Any], dict[str, Any]]) -> None:
    optimizer = jm.optim.Adam(mlp(), lr=0.5)
    group = read(optimizer.param_groups[0])
    assert (group["lr"], group["betas"], group["amsgrad"]) == (0.5, (0.9, 0.999), False)


def parameter(library: Any, size: int = 1) -> Any:
    return library.nn.Parameter(library.tensor([[1.0] * size]))


class Ours:
    """What scripts need of torch, by our names."""

    nn, optim, tensor = nn, jm.optim, staticmethod(jnp.array)


ERRORS: list[tuple[type[Exception], str, Callable[[Any, Any], Any]]] = [
    (TypeError, "should be an iterable of Tensors or dicts, but got ", lambda s, p: s.optim.SGD(p)),
    (ValueError, "optimizer got an empty parameter list", lambda s, p: s.optim.SGD([])),
    (TypeError, "optimizer can only optimize Tensors, but one of the params is int", lambda s, p: s.optim.SGD([3])),
    (TypeError, "need to be organized in ordered collections", lambda s, p: s.optim.SGD([{"params": {p}}])),
    (KeyError, "params", lambda s, p: s.optim.SGD([{"lr": 1}])),
    (ValueError, "appear in more than one parameter group", lambda s, p: s.optim.SGD([{"params": p}, {"params": p}])),
    (ValueError, "Some param names are missing", lambda s, p: s.optim.SGD([("weight", p), parameter(s)])),
    (ValueError, "with/without names. cannot add param group with names to the optimizer",
     lambda s, p: s.optim.SGD([{"params": [p]}, {"params": [("weight", parameter(s))]}])),
    (ValueError, "with/without names. cannot add param group without names to the optimizer",
     lambda s, p: s.optim.SGD([{"params": [("weight", p)]}, {"params": [parameter(s)]}])),
    (TypeError, "param_group must be a dict, but got <class 'list'>",
     lambda s, p: s.optim.SGD([p]).add_param_group([parameter(s)])),
    (ValueError, "Invalid learning rate: -1.0", lambda s, p: s.optim.SGD([p], lr=-1.0)),
    (ValueError, "Invalid momentum value: -0.5", lambda s, p: s.optim.SGD([p], momentum=-0.5)),
    (ValueError, "Invalid weight_decay value: -1", lambda s, p: s.optim.SGD([p], weight_decay=-1)),
    (ValueError, "requires a momentum and zero dampening", lambda s, p: s.optim.SGD([p], nesterov=True)),
    (ValueError, "requires a momentum and zero dampening",
     lambda s, p: s.optim.SGD([p], momentum=0.9, dampening=0.1, nesterov=True)),
    (ValueError, "Tensor lr must be 1-element", lambda s, p: s.optim.SGD([p], lr=s.tensor([0.1, 0.2]))),
    (ValueError, "Tensor lr must be 1-element", lambda s, p: s.optim.Adam([p], lr=s.tensor([0.1, 0.2]))),
    (ValueError, "Invalid learning rate: -1", lambda s, p: s.optim.Adam([p], lr=-1)),
    (ValueError, "Invalid epsilon value: -1.0", lambda s, p: s.optim.Adam([p], eps=-1.0)),
    (ValueError, "Invalid beta parameter at index 0: 1.0", lambda s, p: s.optim.Adam([p], betas=(1.0, 0.0))),
    (ValueError, "Invalid beta parameter at index 1: -1.0", lambda s, p: s.optim.Adam([p], betas=(0.5, -1.0))),
    (ValueError, "either both floats or both Tensors", lambda s, p: s.optim.Adam([p], betas=(0.9, s.tensor(0.99)))),
    (ValueError, "Invalid weight_decay value: -1", lambda s, p: s.optim.AdamW([p], weight_decay=-1)),
    (RuntimeError, "`fused` and `foreach` cannot be", lambda s, p: s.optim.AdamW([p], fused=True, foreach=True)),
    (RuntimeError, "`fused` does not support", lambda s, p: s.optim.SGD([p], fused=True, differentiable=True)),
]  # fmt: skip


@pytest.mark.parametrize("library", [torch, Ours], ids=["torch", "ours"])
@pytest.mark.parametrize(("error", "words", "script"), ERRORS, ids=range(len(ERRORS)))
def test_bad_arguments_raise_what_torch_raises(
    error: type[Exception], words: str, script: Callable[[Any, Any], Any], library: Any
) -> None:
    with pytest.raises(error, match=words):
        script(library, parameter(library))


def test_a_parameter_twice_in_a_group_is_warned_of_and_steps_once() -> None:
    box = nn.Parameter(jnp.ones(1))
    with pytest.warns(UserWarning, match="optimizer contains a parameter group with duplicate parameters"):
        optimizer = jm.optim.SGD([("a", box), ("b", box)], lr=0.5)
    optimizer.step([jnp.ones(1)])
    assert box.value.tolist() == [0.5]


def test_a_refused_group_changes_nothing() -> None:
    box = nn.Parameter(jnp.ones(1))
    optimizer = jm.optim.SGD([box])
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        optimizer.add_param_group({"params": [nn.Parameter(jnp.ones(1)), box]})
    assert optimizer.state_dict() == before


def test_something_else_than_settings_or_a_transformation_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an optax transformation or a dict of settings, got 0.1"):
        jm.optim.Optimizer(mlp(), 0.1)


def test_an_optimizer_without_a_rule_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Optimizer must define rule\(\), or be given an optax"):
        jm.optim.Optimizer(mlp(), {"lr": 0.1}).step([])
