"""A hook that stores what it sees: refused under a trace, with its places as they were; free to do so eagerly."""

import functools
import types
import weakref
from collections import UserList, defaultdict, deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn

X = np.ones((2, 3), np.float32)
last: Any = None
cache: dict[str, Any] = {}


class Recorder:
    """An object of the user's that stores in every way an object can."""

    shared: list[Any] = []

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.last: Any = None

    def append(self, module: Any, args: Any, output: Any) -> None:
        self.seen.append({"output": (output,)})

    def assign(self, module: Any, args: Any, output: Any) -> None:
        self.last = output

    def share(self, module: Any, args: Any, output: Any) -> None:
        self.shared.append(output)

    def assign_to_class(self, module: Any, args: Any, output: Any) -> None:
        type(self).newest = output

    def __call__(self, module: Any, args: Any, output: Any) -> None:
        self.last = [output]


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


KEY = Holder(None)


class Slotted:
    __slots__ = ("seen",)


def into_global(module: Any, args: Any, output: Any) -> None:
    global last
    last = output


def into_table(module: Any, args: Any, output: Any) -> None:
    cache.setdefault("outputs", []).append(output)


DEFAULT = Recorder()


def into_default(module: Any, args: Any, output: Any, store: Any = DEFAULT) -> None:
    store.seen.append(output)


def into_itself(module: Any, args: Any, output: Any) -> None:
    into_itself.last = output


def nonlocal_hook() -> tuple[Any, Any]:
    kept = None

    def hook(module: Any, args: Any, output: Any) -> None:
        nonlocal kept
        kept = output

    return hook, lambda: kept


def storing(place: Any, store: Any) -> tuple[Any, Any]:
    """Return a hook that does ``store(place, output)``, and a view of the place."""
    return lambda module, args, output: store(place, output), lambda: place


def method(name: str) -> Any:
    recorder = Recorder()
    return getattr(recorder, name), lambda: [vars(recorder), vars(Recorder)]


def listing() -> Any:
    module = nn.Module()
    module.seen = []
    return module


def partial(place: list[Any]) -> tuple[Any, Any]:
    return functools.partial(lambda place, module, args, output: place.append(output), place), lambda: place


PLACES: dict[str, Any] = {
    "list": lambda: storing([], list.append),
    "dict": lambda: storing({"a": 1}, lambda d, o: d.update(a=o)),
    "set": lambda: storing(set(), lambda s, o: s.add(Holder(o))),
    "deque": lambda: storing(deque([1, 2], maxlen=2), deque.append),
    "defaultdict": lambda: storing(defaultdict(list), lambda d, o: d["x"].append(o)),
    "nested": lambda: storing({"a": [{"b": []}]}, lambda d, o: d["a"][0]["b"].append((1, o))),
    "long list": lambda: storing(list(range(3000)), list.append),
    "user list": lambda: storing(UserList(), lambda u, o: u.append(o)),
    "weak dict": lambda: storing(weakref.WeakKeyDictionary(), lambda d, o: d.update({KEY: o})),
    "namespace": lambda: storing(types.SimpleNamespace(seen=None), lambda n, o: setattr(n, "seen", o)),
    "slots": lambda: storing(Slotted(), lambda s, o: setattr(s, "seen", o)),
    "helper": lambda: storing([], lambda place, o: (lambda value: place.append(value))(o)),
    "module's list": lambda: storing(listing(), lambda m, o: m.seen.append(o)),
    "nonlocal": nonlocal_hook,
    "global": lambda: (into_global, lambda: last),
    "global table": lambda: (into_table, lambda: cache),
    "default": lambda: (into_default, lambda: vars(DEFAULT)),
    "function": lambda: (into_itself, lambda: vars(into_itself)),
    "partial": lambda: partial([]),
    "method": lambda: method("append"),
    "attribute": lambda: method("assign"),
    "class list": lambda: method("share"),
    "class attribute": lambda: method("assign_to_class"),
    "callable object": lambda: method("__call__"),
}


def show(view: Any) -> str:
    """Write what a place holds, objects by their attributes."""
    place = view()
    inner = [vars(item) if isinstance(item, Holder) else item for item in place] if isinstance(place, set) else place
    held = getattr(place, "__dict__", {})
    return f"{inner!r} {held!r} {getattr(place, 'seen', None)!r}"


TRACES = {
    "jit": lambda net: jm.jit(lambda net, x: net(x))(net, X),
    "grad": lambda net: jm.grad(lambda net: net(X).sum())(net),
    "raw jit": lambda net: jax.jit(lambda x: net(x))(X),
}


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("case", PLACES)
def test_stored_output_is_taken_out_and_refused(case: str, trace: str) -> None:
    hook, view = PLACES[case]()
    net = nn.Sequential(nn.Linear(3, 2))
    net[0].register_forward_hook(hook)
    before = show(view)
    with pytest.raises(RuntimeError, match="forward hook .* of 'Sequential.0' stored a traced value.*jm.capture"):
        TRACES[trace](net)
    assert show(view) == before


def test_hook_of_a_module_that_stores_in_it_is_named() -> None:
    net = nn.Linear(3, 2)
    net.seen = []
    net.register_forward_hook(lambda module, args, output: module.seen.append(output))
    with pytest.raises(RuntimeError, match="stored a traced value in 'Linear.seen"):
        jax.jit(lambda x: net(x))(X)
    assert net.seen == []


def test_pre_hook_may_not_store_either() -> None:
    net, seen = nn.Linear(3, 2), []
    net.register_forward_pre_hook(lambda module, args: seen.append(args))
    with pytest.raises(RuntimeError, match="forward pre-hook .* stored a traced value in 'seen"):
        jm.jit(net)(X)
    assert seen == []


def test_what_a_failing_hook_stored_is_taken_out() -> None:
    net, seen = nn.Linear(3, 2), []
    net.register_forward_hook(lambda module, args, output: [seen.append(output), 1 / 0])
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        jm.jit(net)(X)
    assert seen == []


def test_eager_hook_stores() -> None:
    net, seen = nn.Linear(3, 2), []
    net.register_forward_hook(lambda module, args, output: seen.append(output))
    np.testing.assert_array_equal(net(X), seen[0])


def test_hook_may_store_what_is_not_traced() -> None:
    net, seen = nn.Linear(3, 2), []
    net.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    jm.jit(net)(X)
    assert seen == [(2, 2)]


def test_hook_registered_in_the_trace_stores_for_it() -> None:
    @jm.jit
    def both(net: Any, x: Any) -> Any:
        seen: list[Any] = []
        with net[0].register_forward_hook(lambda module, args, output: seen.append(output)):
            return net(x), seen

    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    output, (inner,) = both(net, X)
    np.testing.assert_allclose(output, jnp.tanh(inner), rtol=1e-6)


def test_container_that_belongs_to_the_trace_takes_more() -> None:
    net, seen = nn.Linear(3, 2), []
    net.register_forward_hook(lambda module, args, output: seen.append(output))

    @jax.jit
    def both(x: Any) -> Any:
        seen[:] = [x]
        net(x)
        return [seen.pop() for _ in range(2)]

    assert [a.shape for a in both(X)] == [(2, 2), (2, 3)]


BACKWARD = {
    "register_full_backward_hook": "backward hook",
    "register_full_backward_pre_hook": "backward pre-hook",
    "register_backward_hook": "backward hook",
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("register", BACKWARD)
def test_backward_hook_stores_eagerly_and_not_in_a_compiled_pass(register: str) -> None:
    net, seen = nn.Linear(3, 2), []
    getattr(net, register)(lambda module, *gradients: seen.append(gradients))
    step = jm.grad(lambda net: net(X).sum())
    step(net)
    assert len(seen) == 1 and not isinstance(seen[0][-1][0], jax.core.Tracer)
    with pytest.raises(RuntimeError, match=f"the {BACKWARD[register]} .* of 'Linear' stored .* in 'seen"):
        jm.jit(step)(net)
    assert len(seen) == 1


def test_parameter_hook_stores_eagerly_and_not_in_a_compiled_pass() -> None:
    net, seen = nn.Linear(3, 2), []
    net.weight.register_hook(lambda g: seen.append(g))
    step = jm.grad(lambda net: net(X).sum())
    np.testing.assert_array_equal(step(net)["weight"], seen[0])
    with pytest.raises(RuntimeError, match="the gradient hook .* of 'weight' stored a traced value in 'seen"):
        jm.jit(step)(net)
    assert len(seen) == 1


def test_accumulation_hook_may_not_store_in_a_compiled_pass() -> None:
    net, seen = nn.Linear(3, 2), []
    net.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad))
    with pytest.raises(RuntimeError, match="the post-accumulate hook .* stored a traced value in 'seen"):
        jm.jit(lambda net: jm.backward(lambda: net(X).sum(), net))(net)
    assert seen == [] and net.weight.grad is None
