"""Threads that trace and run at the same time, and objects that go when nobody holds them."""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, assert_clean, multiply, plain, same


def in_threads(*jobs: Callable[[], Any]) -> list[Any]:
    """Run the jobs at the same time and return their results; raise the first error."""
    results: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def run(i: int) -> None:
        try:
            start.wait(30)
            results[i] = jobs[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def test_threads_trace_one_model_in_many_shapes() -> None:
    net = plain().eval()
    compiled = jm.jit(net)

    def job(first: int) -> Callable[[], Any]:
        return lambda: [compiled(np.ones((n, 3), np.float32)) for n in range(first, first + 8)]

    results = in_threads(job(1), job(4), job(1))
    expected = net(np.ones((1, 3), np.float32))
    for result in results:
        for out in result:
            same(out, np.broadcast_to(expected, out.shape))
    assert_clean(net)


def test_threads_run_cached_calls_while_another_traces() -> None:
    net = Custom(multiply)
    cached, traced = jm.jit(lambda net, x: net(x)), jm.jit(lambda net, x: jnp.sum(net(x)))
    cached(net, X)

    def tracing() -> None:
        for n in range(1, 30):
            traced.clear_cache()
            traced(net, np.ones((n, 3), np.float32)[0] * n)

    results = in_threads(tracing, lambda: [cached(net, X) for _ in range(300)])
    for out in results[1]:
        same(out, X * net.weight.value)
    assert_clean(net)


def test_threads_train_models_of_their_own_with_one_function() -> None:
    @jm.jit
    def step(net: Any, optimizer: Any, x: Any) -> None:
        optimizer.step(jm.grad(lambda net: jnp.mean(net(x) ** 2))(net))

    def job(seed: int) -> Callable[[], Any]:
        net = Custom(multiply)
        net.weight.value = jnp.full(3, float(seed + 1))
        optimizer = jm.optim.SGD(net.parameters(), lr=0.1)

        def run() -> Any:
            for _ in range(20):
                step(net, optimizer, X)
            return net.weight.value

        return run

    threaded = in_threads(*(job(i) for i in range(3)))
    same(threaded, [job(i)() for i in range(3)])


def test_threads_trace_different_models() -> None:
    def job() -> Callable[[], Any]:
        net = Custom(accumulate)
        return lambda: [jm.jit(lambda net, x: net(x))(net, X) for _ in range(5)] and net.total

    for result in in_threads(job(), job(), job()):
        same(result, 5 * X)


def test_exception_in_one_thread_leaves_the_other_alone() -> None:
    def fail() -> None:
        for _ in range(10):
            with pytest.raises(ValueError, match="stop"):
                jm.jit(Custom(lambda module, x: (_ for _ in ()).throw(ValueError("stop"))))(X)

    net = Custom(accumulate)
    in_threads(fail, lambda: [jm.jit(lambda net, x: net(x))(net, X) for _ in range(10)])
    same(net.total, 10 * X)


def test_random_binding_belongs_to_its_thread(key: Any) -> None:
    def bound() -> Any:
        with jm.fork_rng(key):
            return [jm.random.current_generator() is not jm.default_generator for _ in range(50)]

    results = in_threads(bound, lambda: [jm.random.current_generator() is jm.default_generator for _ in range(50)])
    assert all(map(all, results))


def cyclic() -> nn.Module:
    net = Custom(multiply)
    net.callbacks = [net.forward]
    return net


def parented() -> nn.Module:
    net = plain()
    net[0].family = [net]
    return net


def hooked() -> nn.Module:
    net = plain()
    net.register_forward_hook(lambda module, args, output: output * 1)
    net[0].register_forward_pre_hook(lambda module, args, root=net: None)
    return net


NETS: dict[str, Any] = {
    "plain": plain,
    "bound method in a list": cyclic,
    "parent in a list": parented,
    "hooks": hooked,
    "record": lambda: Custom(multiply, table={"a": [1]}),
}
USES: dict[str, Any] = {
    "jm.jit": lambda f, net: f(net),
    "kept gradient": lambda f, net: (f(net), jm.backward(lambda: jnp.sum(net(BATCH[0])), net)),
    "with optimizer": lambda f, net: f(net, jm.optim.Adam(net.parameters())),
    "in a list": lambda f, net: f([net]),
    "keyword": lambda f, net: f(net=net),
}


@pytest.mark.parametrize(("kind", "use"), [*((kind, "jm.jit") for kind in NETS), *(("plain", use) for use in USES)])
def test_compiled_function_does_not_keep_its_arguments_alive(kind: str, use: str) -> None:
    def call(net: Any, *rest: Any) -> Any:
        net = net[0] if isinstance(net, list) else net
        return jnp.sum(net(BATCH[0]))

    compiled, net = jm.jit(call), NETS[kind]()
    for _ in range(2):
        USES[use](compiled, net)
    refs = [
        weakref.ref(net),
        *(weakref.ref(p) for p in net.parameters()),
        *(weakref.ref(p.value) for p in net.parameters()),
    ]
    del net
    gc.collect()
    assert [ref() is None for ref in refs] == [True] * len(refs)


def test_donating_function_does_not_keep_its_arguments_alive() -> None:
    compiled, net = jm.jit(lambda net, x: net(x), donate=True), Custom(accumulate)
    compiled(net, X)
    refs = [weakref.ref(net), weakref.ref(net.total)]
    del net
    gc.collect()
    assert [ref() is None for ref in refs] == [True, True]


OTHERS: dict[str, Any] = {
    "grad": lambda net: jm.grad(lambda net: jnp.sum(net(BATCH)))(net),
    "vmap": lambda net: jm.vmap(net)(BATCH),
    "eval_shape": lambda net: jm.eval_shape(net, BATCH),
    "pytree": lambda net: jax.tree.map(jnp.ones_like, net),
    "jax.jit": lambda net: jax.jit(lambda net: net(BATCH))(net),
    "functionalize": lambda net: jm.functionalize(net)[0](*jm.functionalize(net)[1:], BATCH),
    "error": lambda net: failing(net),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_transforms_keep_nothing_alive(kind: str) -> None:
    net = plain()
    OTHERS[kind](net)
    refs = [weakref.ref(net), weakref.ref(net[0].weight), weakref.ref(net[0].weight.value)]
    del net
    gc.collect()
    assert [ref() is None for ref in refs] == [True] * 3


def failing(net: Any) -> None:
    with pytest.raises(TypeError, match="incompatible shapes"):
        jm.jit(lambda net: net(BATCH) + jnp.ones((7, 7)))(net)


def test_replaced_arrays_are_not_kept() -> None:
    net = Custom(accumulate)
    compiled = jm.jit(net)
    compiled(X)
    old = weakref.ref(net.total)
    compiled(X)
    gc.collect()
    assert old() is None


class Owner:
    def __init__(self) -> None:
        self.net = nn.Linear(3, 2)

    @jm.jit
    def run(self, x: Any) -> Any:
        return self.net(x)


def test_compiled_method_does_not_keep_its_instance_alive() -> None:
    owner = Owner()
    owner.run(BATCH)
    ref = weakref.ref(owner)
    del owner
    gc.collect()
    assert ref() is None


def test_compiled_function_itself_goes() -> None:
    compiled = jm.jit(plain())
    compiled(BATCH)
    ref = weakref.ref(compiled)
    del compiled
    gc.collect()
    assert ref() is None


def test_temporary_networks_reuse_the_program() -> None:
    calls: list[int] = []

    def run(net: Any, x: Any) -> Any:
        calls.append(1)
        return net(x)

    compiled = jm.jit(run)
    for i in range(5):
        net = nn.Linear(3, 2)
        net.bias.data.fill_(float(i))
        same(compiled(net, 0 * BATCH), np.full((4, 2), i))
        del net
        gc.collect()
    assert len(calls) == 1
