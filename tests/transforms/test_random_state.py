"""Randomness in transforms: threaded, never baked in, and an error where no key is bound."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.random import next_key
from tests.transforms.helpers import same

ONES = np.ones((4, 16), np.float32)


def dropout() -> Any:
    return nn.Sequential(nn.Dropout(0.5))


WRAPS: dict[str, Any] = {
    "eager": lambda net: net,
    "jm.jit": jm.jit,
    "donated": lambda net: jm.jit(net, donate=True),
    "nested": lambda net: jm.jit(lambda x: jm.jit(net)(x)),
    "jm.grad": lambda net: lambda x: jm.grad(lambda x: (net(x).sum(), net(x)), has_aux=True)(x)[1],
    "jm.jit(jm.grad)": lambda net: jm.jit(jm.grad(lambda x: net(x).sum())),
}


@pytest.mark.parametrize("kind", WRAPS)
def test_draws_advance_and_are_not_constants(kind: str) -> None:
    run = WRAPS[kind](dropout())
    draws = [np.array(run(jnp.asarray(ONES))) for _ in range(3)]
    assert not any(np.array_equal(draws[i], draws[j]) for i, j in [(0, 1), (1, 2), (0, 2)])


@pytest.mark.parametrize("kind", ["jm.jit", "donated", "nested"])
def test_same_seed_gives_the_same_masks_eagerly_and_compiled(kind: str) -> None:
    net = dropout()
    run = WRAPS[kind](net)
    jm.manual_seed(7)
    eager = [net(ONES) for _ in range(3)]
    jm.manual_seed(7)
    same([run(ONES) for _ in range(3)], eager)


def test_eager_and_compiled_draws_take_turns() -> None:
    net = dropout()
    run = jm.jit(net)
    jm.manual_seed(7)
    eager = [net(ONES) for _ in range(4)]
    jm.manual_seed(7)
    same([run(ONES), net(ONES), run(ONES), net(ONES)], eager)


def test_two_draws_in_one_program_differ() -> None:
    net = dropout()
    first, second = jm.jit(lambda x: (net(x), net(x)))(ONES)
    assert not jnp.array_equal(first, second)


def test_evaluation_draws_nothing() -> None:
    net = dropout().eval()
    state = jm.get_rng_state()
    same(jm.jit(net)(ONES), ONES)
    np.testing.assert_array_equal(jm.get_rng_state(), state)


DRAWS: dict[str, Any] = {
    "rand": lambda: jm.rand(8),
    "randn": lambda: jm.randn(8),
    "randint": lambda: jm.randint(0, 1000, (8,)),
    "randperm": lambda: jm.randperm(64),
    "bernoulli": lambda: jm.bernoulli(jnp.full(64, 0.5)),
    "init": lambda: nn.Linear(3, 3).weight.value,
    "next_key": lambda: jax.random.bits(next_key(), (8,)),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_no_draw_becomes_a_constant(kind: str) -> None:
    compiled = jm.jit(lambda: DRAWS[kind]())
    assert not jnp.array_equal(compiled(), compiled())


@pytest.mark.parametrize("kind", DRAWS)
def test_draw_under_a_foreign_trace_is_an_error(kind: str) -> None:
    state = jm.get_rng_state()
    with pytest.raises(RuntimeError, match=r"no key bound.*jm.fork_rng\(key\)"):
        jax.jit(lambda: DRAWS[kind]())()
    np.testing.assert_array_equal(jm.get_rng_state(), state)


FOREIGN: dict[str, Any] = {
    "jax.jit": lambda net: jax.jit(net)(ONES),
    "jax.vmap": lambda net: jax.vmap(net)(ONES),
    "jax.vmap of jm.jit": lambda net: jax.vmap(jm.jit(net))(ONES),
    "jm.jit of jax.vmap": lambda net: jm.jit(lambda x: jax.vmap(net)(x))(ONES),
    "jax.jit of jm.jit": lambda net: jax.jit(lambda x: jm.jit(net)(x))(ONES),
    "jax.jit of jm.grad": lambda net: jax.jit(jm.grad(lambda x: net(x).sum()))(ONES),
    "scan": lambda net: jax.lax.scan(lambda c, x: (c, net(x)), 0, ONES),
    "scan in jm.jit": lambda net: jm.jit(lambda x: jax.lax.scan(lambda c, x: (c, net(x)), 0, x))(ONES),
    "checkpoint in jm.jit": lambda net: jm.jit(lambda x: jax.checkpoint(lambda x: net(x))(x))(ONES),
    "jax.eval_shape": lambda net: jax.eval_shape(lambda x: net(x), ONES),
    "jax.jit of a pytree": lambda net: jax.jit(lambda net, x: net(x))(net, ONES),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_layer_under_a_foreign_trace_is_an_error(kind: str) -> None:
    net, state = dropout(), jm.get_rng_state()
    with pytest.raises(RuntimeError, match=r"no key bound.*apply\(..., rng=key\)"):
        FOREIGN[kind](net)
    np.testing.assert_array_equal(jm.get_rng_state(), state)
    net(ONES)


@pytest.mark.parametrize("kind", [k for k in FOREIGN if "vmap" not in k])
def test_key_bound_inside_makes_it_work(kind: str, key: Any) -> None:
    inner = dropout()

    def body(x: Any) -> Any:
        with jm.fork_rng(key):
            return inner(x)

    wrapped = nn.Sequential(nn.Identity())
    wrapped[0].forward = body
    FOREIGN[kind](wrapped)
    same(jax.jit(body)(ONES), body(ONES))


def test_fork_rng_gives_the_same_eagerly_and_compiled(key: Any) -> None:
    net = dropout()
    compiled = jm.jit(net)
    with jm.fork_rng(key):
        eager = [net(ONES), net(ONES)]
    for _ in range(2):
        with jm.fork_rng(key):
            same([compiled(ONES), compiled(ONES)], eager)


def test_fork_rng_puts_the_state_back() -> None:
    compiled = jm.jit(dropout())
    with jm.fork_rng():
        first = compiled(ONES)
    same(compiled(ONES), first)


def test_fork_rng_inside_a_compiled_function_takes_a_key_argument(key: Any) -> None:
    net = dropout()

    @jm.jit
    def run(key: Any) -> Any:
        with jm.fork_rng(key):
            return net(ONES)

    other = jax.random.split(key)[0]
    same(run(key), run(key))
    assert not jnp.array_equal(run(key), run(other))


@pytest.mark.parametrize("kind", ["typed", "raw", "rbg", "int"])
def test_keys_of_every_kind(kind: str) -> None:
    net = dropout()
    bound = {
        "typed": jax.random.key(1),
        "raw": jax.random.PRNGKey(1),
        "rbg": jax.random.key(1, impl="rbg"),
        "int": 1,
    }[kind]
    compiled = jm.jit(net)
    with jm.fork_rng(bound):
        first, second = compiled(ONES), compiled(ONES)
    assert not jnp.array_equal(first, second)


def test_generator_in_the_closure_is_threaded() -> None:
    generator = jm.Generator().manual_seed(1)
    draw = jm.jit(lambda: jm.rand(8, generator=generator))
    first, second = draw(), draw()
    generator.manual_seed(1)
    same(draw(), first)
    assert not jnp.array_equal(first, second)


def test_generator_as_an_attribute_is_threaded() -> None:
    net = nn.Identity()
    net.generator = jm.Generator().manual_seed(1)
    net.forward = lambda x: x + jm.rand(16, generator=net.generator)[None]
    compiled = jm.jit(net)
    assert not jnp.array_equal(compiled(ONES), compiled(ONES))


def test_default_generator_as_an_argument_is_one_stream() -> None:
    def draw(generator: Any) -> Any:
        return jax.random.bits(generator.next_key(), (4,)), jax.random.bits(next_key(), (4,))

    jm.manual_seed(3)
    eager = draw(jm.default_generator)
    jm.manual_seed(3)
    compiled = jm.jit(draw)(jm.default_generator)
    assert not jnp.array_equal(*compiled)
    same(compiled[0].astype(float), eager[0].astype(float))


def test_unseen_generator_is_an_error() -> None:
    class Hidden:
        generator = jm.Generator()

    with pytest.raises(RuntimeError, match="a Generator of your own must be an argument"):
        jm.jit(lambda: jm.rand(2, generator=Hidden.generator))()


def test_manual_seed_between_calls_is_honoured() -> None:
    compiled = jm.jit(dropout())
    jm.manual_seed(5)
    first = compiled(ONES)
    compiled(ONES)
    jm.manual_seed(5)
    same(compiled(ONES), first)


def test_state_is_saved_and_restored_between_compiled_calls() -> None:
    compiled = jm.jit(dropout())
    compiled(ONES)
    state = jm.get_rng_state()
    first = compiled(ONES)
    jm.set_rng_state(state)
    same(compiled(ONES), first)
