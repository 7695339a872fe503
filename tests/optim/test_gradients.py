"""Which gradient goes to which parameter; and one that goes nowhere changes nothing."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.helpers import loss_of, mlp, train_step, values


def pair_of_nets() -> tuple[Any, Any, Any]:
    """Build two nets of equal names and shapes, and one optimizer over both."""
    one, other = mlp(), mlp(1)
    return one, other, jm.optim.SGD([*one.parameters(), *other.parameters()], lr=0.1)


def moved(before: list[np.ndarray], net: Any) -> bool:
    return any((a != b).any() for a, b in zip(before, values(net), strict=True))


@pytest.mark.parametrize("arrange", [sorted, lambda keys: sorted(keys, reverse=True)], ids=["sorted", "reversed"])
@pytest.mark.parametrize("given", ["parameters", "named_parameters"])
def test_the_order_of_a_dict_does_not_matter(given: str, arrange: Callable[[Any], list[str]]) -> None:
    one, other = mlp(), mlp()
    _, grads = jm.value_and_grad(loss_of)(one)
    jm.optim.SGD(getattr(one, given)(), lr=0.1).step(grads)
    _, grads = jm.value_and_grad(loss_of)(other)
    jm.optim.SGD(getattr(other, given)(), lr=0.1).step({key: grads[key] for key in arrange(grads)})
    for a, b in zip(values(one), values(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_tuple_of_dicts_for_several_modules() -> None:
    one, other, optimizer = pair_of_nets()
    before = values(one), values(other)
    grads = jm.grad(lambda a, b: loss_of(a) + 0 * loss_of(b), argnums=(0, 1))(one, other)
    optimizer.step(grads)
    assert moved(before[0], one)
    assert not moved(before[1], other)


def test_one_of_two_alike_modules_is_ambiguous() -> None:
    one, other, optimizer = pair_of_nets()
    grads = jm.grad(loss_of)(one)
    jm.grad(loss_of)(other)
    before = values(one), values(other)
    with pytest.raises(ValueError, match="may be those of 2 modules of the optimizer, .*: 0.bias, 0.weight"):
        optimizer.step(grads)
    assert not moved(before[0], one)
    assert not moved(before[1], other)


@pytest.mark.parametrize("given", ["parameters", "named_parameters"])
def test_gradients_of_parameters_of_others_are_left_out(given: str) -> None:
    net = mlp()
    before = values(net)
    train_step(net, jm.optim.SGD(getattr(net[2], given)(), lr=0.1))
    assert [bool((a != b).any()) for a, b in zip(before, values(net), strict=True)] == [False, False, True, True]


def test_shapes_tell_modules_of_equal_names_apart() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 4)
    optimizer = jm.optim.SGD([*one.parameters(), *other.parameters()], lr=0.1)
    grads = jm.grad(loss_of)(one)
    jm.grad(loss_of)(other)
    before = values(one), values(other)
    optimizer.step(grads)
    assert moved(before[0], one)
    assert not moved(before[1], other)


def test_equal_names_given_to_the_optimizer_do_not_mix() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = jm.optim.SGD([*one.named_parameters(), *other.named_parameters()], lr=0.1)
    before = values(one), values(other)
    optimizer.step(jm.grad(loss_of)(one))
    assert moved(before[0], one)
    assert not moved(before[1], other)


def test_a_list_with_none_leaves_a_parameter_alone() -> None:
    net = mlp()
    before = values(net)
    jm.optim.Adam(net.parameters()).step([None, jnp.ones(4), None, None])
    assert [bool((a != b).any()) for a, b in zip(before, values(net), strict=True)] == [False, True, False, False]


def test_a_single_parameter_takes_an_array() -> None:
    box = nn.Parameter(jnp.ones(2))
    jm.optim.SGD([box], lr=0.5).step(jm.grad(lambda p: p.value.sum())(box))
    assert box.value.tolist() == [0.5, 0.5]


def test_no_gradients_are_no_step() -> None:
    net = mlp()
    net.requires_grad_(False)
    before = values(net)
    train_step(net, jm.optim.Adam(net.parameters()))
    assert not moved(before, net)


BAD: list[tuple[type[Exception], str, Any]] = [
    (ValueError, r"match no parameter of the optimizer: nonsense \(it knows 0.bias, ", {"nonsense": np.ones(1)}),
    (ValueError, "match no parameter of the optimizer: 1.weight", {"0.bias": np.ones(4), "1.weight": np.ones(1)}),
    (RuntimeError, r"gradient '0.bias' has shape \(3,\), but its parameter has shape \(4,\)", {"0.bias": np.ones(3)}),
    (RuntimeError, r"gradient number 1 has shape \(1,\)", [None, np.ones(1), None, None]),
    (ValueError, "expected one gradient for each of 4 parameters, got 2", [np.ones(1), np.ones(1)]),
    (TypeError, "expected gradients as jm.value_and_grad returns them .*, got float", 0.5),
    (TypeError, "expected gradients .* got ArrayImpl", jnp.ones(3)),
    (TypeError, "gradient '2.bias' must be an array, got 'text'", {"0.bias": np.ones(4), "2.bias": "text"}),
]


@pytest.mark.parametrize("given", ["parameters", "named_parameters"])
@pytest.mark.parametrize(("error", "words", "grads"), BAD, ids=range(len(BAD)))
def test_a_bad_gradient_changes_nothing(error: type[Exception], words: str, grads: Any, given: str) -> None:
    net = mlp()
    optimizer = jm.optim.Adam(getattr(net, given)(), lr=0.1)
    train_step(net, optimizer)
    before, state = values(net), optimizer.state_dict()["state"]
    with pytest.raises(error, match=words):
        optimizer.step(grads)
    assert not moved(before, net)
    assert all(own["step"] == state[i]["step"] for i, own in optimizer.state_dict()["state"].items())


def test_a_gradient_given_twice_is_refused() -> None:
    net = nn.Linear(3, 2)
    optimizer = jm.optim.SGD(net.named_parameters(), lr=0.1)
    grads = jm.grad(loss_of)(net)
    with pytest.raises(ValueError, match="gradient 'weight' and another one belong to the same parameter"):
        optimizer.step((grads, grads))
