"""check_finite names the first module that computes NaN or Inf, forward or backward, eagerly or compiled."""

import copy
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import Custom, arrays, assert_arrays, counted, same

X = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def logarithm(module: Any, x: Any) -> Any:
    """Give NaN where the input is negative, -Inf where it is zero."""
    return jnp.log(x)


def root(module: Any, x: Any) -> Any:
    """Give zeros, with a slope that is not finite."""
    return jnp.sqrt(x * 0.0)


def net(body: Any = logarithm) -> nn.Sequential:
    return nn.Sequential(nn.Identity(), nn.Sequential(Custom(body), nn.ReLU()), nn.Linear(3, 1))


def call_jit(net: Any, x: Any) -> Any:
    return jm.jit(lambda net, x: net(x))(net, x)


def call_vmap(net: Any, x: Any) -> Any:
    return jax.vmap(net)(x)


def call_vmap_in_jit(net: Any, x: Any) -> Any:
    return jm.jit(lambda net, x: jax.vmap(net)(x))(net, x)


def call_scan(net: Any, x: Any) -> Any:
    return jm.jit(lambda net, x: jax.lax.scan(lambda carry, row: (carry, net(row)), 0, x)[1])(net, x)


def call_checkpoint(net: Any, x: Any) -> Any:
    return jm.jit(jm.grad(lambda net, x: jax.checkpoint(net)(x).sum()))(net, x)


def call_grad(net: Any, x: Any) -> Any:
    return jm.grad(lambda net, x: net(x).sum())(net, x)


def call_grad_in_jit(net: Any, x: Any) -> Any:
    return jm.jit(jm.grad(lambda net, x: net(x).sum()))(net, x)


FORWARD = {
    "eager": lambda net, x: net(x),
    "jit": call_jit,
    "vmap": call_vmap,
    "vmap in jit": call_vmap_in_jit,
    "scan": call_scan,
    "checkpoint": call_checkpoint,
    "grad": call_grad,
    "grad in jit": call_grad_in_jit,
}
BACKWARD = {name: FORWARD[name] for name in ("grad", "grad in jit", "checkpoint")}


@pytest.mark.parametrize("run", FORWARD.values(), ids=FORWARD)
def test_the_first_output_that_is_not_finite_is_named(run: Any) -> None:
    watched = net()
    jm.debug.check_finite(watched)
    run(watched, X)
    with pytest.raises(FloatingPointError, match=r"the output of Sequential\.1\.0 \(Custom\) has \d NaN"):
        run(watched, -X)
    run(watched, X)


@pytest.mark.parametrize("run", BACKWARD.values(), ids=BACKWARD)
def test_the_first_gradient_that_is_not_finite_is_named(run: Any) -> None:
    watched = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Custom(root), nn.ReLU()), nn.Linear(3, 1))
    jm.debug.check_finite(watched)
    watched(X)
    with pytest.raises(FloatingPointError, match=r"the gradient of the input of Sequential\.1\.0 \(Custom\) has 6"):
        run(watched, X)


@pytest.mark.parametrize("run", BACKWARD.values(), ids=BACKWARD)
def test_the_gradient_of_a_parameter_of_the_first_module_is_looked_at(run: Any) -> None:
    watched = nn.Sequential(Custom(lambda module, x: jnp.sqrt(module.weight[None] * 0.0) + x), nn.Linear(3, 1))
    jm.debug.check_finite(watched)
    message = r"the gradient of the parameter 'weight' of Sequential\.0 \(Custom\) has 3 NaN"
    with pytest.raises(FloatingPointError, match=message):
        run(watched, X)


@pytest.mark.parametrize("run", [FORWARD["eager"], FORWARD["jit"]], ids=["eager", "jit"])
def test_the_message_counts_and_tells_what_was_not_finite_before(run: Any) -> None:
    watched = nn.Sequential(nn.Linear(3, 2))
    watched[0].weight.data[0, 0] = jnp.inf
    watched[0].bias.data[...] = jnp.nan
    jm.debug.check_finite(watched)
    message = (
        "the output of Sequential.0 (Linear) has 4 NaN among 4 elements (shape (2, 2), float32); its input has 1 Inf;"
        " its parameter 'weight' has 1 Inf; its parameter 'bias' has 2 NaN"
    )
    with pytest.raises(FloatingPointError, match=f"(?m)^{re.escape(message)}$"):
        run(watched, X.at[0, 0].set(jnp.inf))


def test_the_root_itself_and_nested_outputs_are_named() -> None:
    watched = Custom(lambda module, x: {"labels": jnp.arange(3), "pair": (x, jnp.log(x))})
    jm.debug.check_finite(watched)
    with pytest.raises(FloatingPointError, match=r"^the output\['pair'\]\[1\] of Custom has 6 NaN"):
        watched(-X)


def test_a_loss_outside_any_module_is_not_named() -> None:
    watched = nn.Linear(3, 1)
    jm.debug.check_finite(watched)
    assert jnp.isnan(jm.jit(lambda net: jnp.log(-(net(X) ** 2)).sum())(watched))


def test_nothing_is_written_back_by_a_step_that_raises() -> None:
    watched = nn.Sequential(nn.BatchNorm1d(3), Custom(logarithm), nn.Dropout(0.5), nn.Linear(3, 1))
    optimizer = jm.optim.SGD(watched.parameters(), 0.1)
    jm.debug.check_finite(watched)

    def step(net: Any, optimizer: Any) -> None:
        optimizer.step(jm.grad(lambda net: net(X).sum())(net))

    before, state = arrays(watched), jm.get_rng_state()
    for donate in (False, True):
        with pytest.raises(FloatingPointError, match=r"Sequential\.1 \(Custom\) has 3 NaN"):
            jm.jit(step, donate=donate)(watched, optimizer)
        assert_arrays(arrays(watched), before)
        assert (jm.get_rng_state() == state).all()


def test_programs_from_before_are_used_again_when_the_check_is_removed() -> None:
    watched = net()
    function = counted(lambda net, x: net(x))
    compiled = jm.jit(function)
    compiled(watched, X)
    check = jm.debug.check_finite(watched)
    with pytest.raises(FloatingPointError, match="Custom"):
        compiled(watched, -X)
    check.remove()
    check.remove()
    assert jnp.isnan(compiled(watched, -X)).all() and len(function.calls) == 2


def test_a_with_block_ends_the_check_and_raises_what_plain_jax_jit_has_found() -> None:
    watched = net()
    apply, params, state = jm.functionalize(watched)
    with pytest.raises(FloatingPointError, match=r"Sequential\.1\.0"), jm.debug.check_finite(watched):
        jax.jit(apply)(params, state, -X)
    assert jnp.isnan(watched(-X)).all()


def test_an_error_in_a_with_block_is_not_replaced() -> None:
    watched = net()
    with pytest.raises(KeyError, match="mine"), jm.debug.check_finite(watched):
        jax.jit(jm.functionalize(watched)[0])(*jm.functionalize(watched)[1:], -X)
        raise KeyError("mine")


def test_two_nets_are_watched_apart() -> None:
    one, two = net(), net()
    jm.debug.check_finite(one)
    compiled = jm.jit(lambda one, two, x, y: (one(x), two(y)))
    compiled(one, two, X, -X)
    with pytest.raises(FloatingPointError, match=r"Sequential\.1\.0"):
        compiled(one, two, -X, X)


def test_equal_blocks_are_told_apart_in_a_trace() -> None:
    watched = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(4)))
    watched[2][0].bias.data[0] = jnp.nan
    jm.debug.check_finite(watched)
    with pytest.raises(FloatingPointError, match=r"Sequential\.2\.0 \(Linear\)"):
        call_jit(watched, X)


def test_outputs_and_gradients_are_those_without_the_check() -> None:
    watched = nn.MultiheadAttention(3, 1)
    compiled = jm.jit(jm.value_and_grad(lambda net: net(X, X, X)[0].sum()))
    expected = compiled(watched)
    with jm.debug.check_finite(watched):
        jax.tree.map(same, compiled(watched), expected)


def test_copies_are_watched_too_and_only_modules_can_be() -> None:
    watched = net()
    jm.debug.check_finite(watched)
    with pytest.raises(FloatingPointError, match=r"Sequential\.1\.0"):
        call_jit(copy.deepcopy(watched), -X)
    with pytest.raises(TypeError, match="expected a Module to watch, got 3"):
        jm.debug.check_finite(3)  # type: ignore[arg-type]
