"""What one thread sees of a model that another is tracing, and compiled calls from odd places."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import Custom, X, accumulate, assert_clean, multiply, same


def while_tracing(net: nn.Module, look: Callable[[], Any]) -> Any:
    """Call ``look`` in another thread in the middle of a trace of ``net``; return what it gives."""
    inside, looking, found = threading.Event(), threading.Event(), []

    def run() -> None:
        inside.wait(30)
        looking.set()
        found.append(look())

    def function(net: Any, x: Any) -> Any:
        inside.set()
        looking.wait(30)
        return net(x)

    thread = threading.Thread(target=run)
    thread.start()
    jm.jit(function)(net, X)
    thread.join(30)
    return found[0]


LOOKS: dict[str, Callable[[Any], Any]] = {
    "value": lambda net: net.weight.value,
    "operator": lambda net: net.weight * 1,
    "data": lambda net: net.weight.data * 1,
    "numpy": lambda net: np.asarray(net.weight),
    "buffer": lambda net: net.total + 1,
    "call": lambda net: net(X),
    "state_dict": lambda net: net.state_dict()["weight"],
    "buffers in state_dict": lambda net: net.state_dict()["total"] + 1,
    "named_buffers": lambda net: dict(net.named_buffers())["total"] + 1,
    "parameters": lambda net: next(net.parameters()).value,
    "pytree": lambda net: jax.tree.leaves(net)[0],
    "functionalize": lambda net: jm.functionalize(net)[1]["weight"],
    "gradient": lambda net: jm.grad(lambda net: net(X).sum())(net)["weight"],
    "compiled": lambda net: jm.jit(net)(X),
}


@pytest.mark.parametrize("kind", LOOKS)
def test_reads_never_see_what_another_thread_traces(kind: str) -> None:
    net = Custom(multiply)
    net.weight.value = jnp.ones(3, jnp.float32)
    found = while_tracing(net, lambda: LOOKS[kind](net))
    assert not isinstance(found, jax.core.Tracer)
    same(found, X if kind in ("call", "gradient", "compiled") else np.ones(3))


WRITES: dict[str, Callable[[Any], Any]] = {
    "value": lambda net: setattr(net.weight, "value", 5 * X),
    "data": lambda net: net.weight.data.copy_(5 * X),
    "load_state_dict": lambda net: net.load_state_dict({"weight": 5 * X, "total": X}),
    "buffer": lambda net: setattr(net, "total", 5 * X),
}


@pytest.mark.parametrize("kind", WRITES)
def test_writes_wait_for_the_trace_of_another_thread(kind: str) -> None:
    net = Custom(multiply)
    while_tracing(net, lambda: WRITES[kind](net))
    same(net.total if kind == "buffer" else net.weight.value, 5 * X)
    assert_clean(net)


def test_trace_of_another_model_is_not_waited_for() -> None:
    net, other, inside, done = Custom(multiply), Custom(accumulate), threading.Event(), threading.Event()
    cached = jm.jit(lambda net, x: net(x))
    cached(other, X)

    def run() -> None:
        inside.wait(30)
        for _ in range(3):
            cached(other, X)
            assert other.weight.value is not None and other.state_dict()
        done.set()

    def function(net: Any, x: Any) -> Any:
        inside.set()
        assert done.wait(30)
        return net(x)

    thread = threading.Thread(target=run)
    thread.start()
    jm.jit(function)(net, X)
    thread.join(30)
    same(other.total, 4 * X)


def test_compiled_function_calls_itself_in_its_own_trace() -> None:
    net = Custom(accumulate)

    @jm.jit
    def run(net: Any, x: Any) -> Any:
        return net(x[0]) + (run(net, x[1:]) if len(x) > 1 else 0.0)

    run(net, np.stack([X, X, X]))
    same(net.total, 3 * X)
    run(net, np.stack([X, X, X]))
    same(net.total, 6 * X)
    assert_clean(net)


def test_compiled_call_of_the_same_function_in_a_hook() -> None:
    net, other = Custom(multiply), Custom(accumulate)
    compiled = jm.jit(lambda net, x: net(x))
    net.register_forward_hook(lambda module, args, output: output + compiled(other, args[0]))
    outer = jm.jit(lambda net, other, x: net(x))
    for count in (1, 2):
        same(outer(net, other, X), X * X + count * X * X)
    assert_clean(net)
    assert_clean(other)


class Last:
    """Call a compiled function when it goes."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __del__(self) -> None:
        self.call()


def test_compiled_call_when_an_object_goes_in_a_trace() -> None:
    net = Custom(accumulate)
    cached = jm.jit(lambda net, x: net(x))
    cached(net, X)

    def function(net: Any, x: Any) -> Any:
        Last(lambda: cached(net, x))
        return net(x)

    jm.jit(function)(net, X)
    same(net.total, 3 * X)
    assert_clean(net)


def test_compiled_call_in_a_signal_handler() -> None:
    net = Custom(accumulate)
    compiled, outer = (
        jm.jit(lambda net, x: net(x)),
        jm.jit(lambda net, x: [net(x), signal.raise_signal(signal.SIGUSR1)][0]),
    )
    compiled(net, X)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: compiled(net, X))
    try:
        outer(net, X)
    finally:
        signal.signal(signal.SIGUSR1, before)
    same(net.total, 3 * X)
    assert_clean(net)


def test_generator_that_stops_between_compiled_calls() -> None:
    net = Custom(accumulate)
    compiled = jm.jit(lambda net, x: net(x))

    def run() -> Any:
        while True:
            yield compiled(net, X)

    steps = [run(), run()]
    for step in (*steps, *steps):
        next(step)
    same(net.total, 4 * X)


def test_compiled_call_from_a_callback() -> None:
    net, inner = Custom(multiply), Custom(accumulate)
    compiled = jm.jit(lambda net, x: net(x))
    compiled(inner, X)

    def callback(x: Any) -> np.ndarray:
        return np.asarray(compiled(inner, np.asarray(x)))

    outer = jm.jit(lambda net, x: jax.pure_callback(callback, jax.ShapeDtypeStruct((3,), jnp.float32), net(x)))
    outer(net, X)
    same(inner.total, X + X * X)
    assert_clean(inner)
