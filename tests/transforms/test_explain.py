"""``jm.explain``: what made the last trace necessary is named, by argument, module path and attribute; nothing else."""

import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, counted, mlp, multiply


class Net(nn.Module):
    """A net with something of each kind that a program is compiled for."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop, self.out = nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 3)
        self.options = {"taps": [1, 2.5], "name": "a"}
        self.register_buffer("mean", jnp.zeros((1, 3)))

    def forward(self, x: Any) -> Any:
        for child in self.children():
            x = child(x)
        return x


def stepped(*calls: Callable[[Any], Any]) -> Any:
    """Return a compiled function that was called once, and once after each change of its net."""
    net = Net()

    @jm.jit
    def step(net: Any, x: Any) -> Any:
        return net(x)

    step(net, BATCH)
    for change in calls:
        change(net)
        step(net, BATCH)
    return step


GLOBAL = nn.Dropout(0.5).eval()


def add_one(module: Any, args: Any, output: Any) -> Any:
    return output + 1


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "attribute": (lambda net: setattr(net.drop, "p", 0.3), "net.drop.p: 0.5 -> 0.3"),
    "__dict__": (lambda net: vars(net).update(scale=2), "net.scale: nothing -> 2"),
    "item": (lambda net: net.options["taps"].__setitem__(1, 3.5), "net.options['taps'][1]: 2.5 -> 3.5"),
    "item added": (lambda net: net.options.update(new=None), "net.options['new']: nothing -> None"),
    "flag of one": (lambda net: net.drop.eval(), "net.drop.training: True -> False"),
    "flag of all": (lambda net: net.eval(), "net.training: True -> False (and 3 below it)"),
    "hook": (lambda net: net.fc.register_forward_hook(add_one), "net.fc._forward_hooks: nothing -> [add_one]"),
    "freeze": (lambda net: net.fc.weight.requires_grad_(False), "net.fc.weight.requires_grad: True -> False"),
    "freeze all": (lambda net: net.requires_grad_(False), "net.fc.bias.requires_grad: True -> False (and 3 others)"),
    "class": (lambda net: setattr(net, "drop", nn.Tanh()), "net.drop: Dropout -> Tanh"),
    "container": (lambda net: setattr(net, "fc", nn.Sequential(net.fc)), "net.fc: Linear -> Sequential"),
    "added": (lambda net: net.add_module("more", mlp()[2]), "net.more: nothing -> Tanh"),
    "deleted": (lambda net: delattr(net, "out"), "net.out: Linear -> nothing"),
    "tied": (
        lambda net: setattr(net.out, "weight", net.fc.weight),
        "net.out.weight: Parameter -> the same as net.fc.weight",
    ),
    "shared": (lambda net: setattr(net, "out", net.fc), "net.out: Linear -> the same as net.fc"),
    "shared anew": (lambda net: setattr(net, "more", net.fc), "net.more: nothing -> the same as net.fc"),
    "no bias": (lambda net: setattr(net.out, "bias", None), "net.out.bias: Parameter -> nothing"),
    "no buffer": (lambda net: setattr(net, "mean", None), "net.mean: an array -> nothing"),
    "buffer": (lambda net: net.register_buffer("more", jnp.zeros(3)), "net.more: nothing -> an array"),
    "shape of a buffer": (lambda net: setattr(net, "mean", jnp.zeros(3)), "net.mean: shape (1, 3) -> (3,)"),
    "order": (
        lambda net: net._modules.update(drop=net._modules.pop("drop")),
        "net: order (mean, fc, drop, out) -> (mean, fc, out, drop)",
    ),
    "function": (lambda net: setattr(net, "measure", add_one), "net.measure: nothing -> add_one"),
    "parameter": (lambda net: setattr(net.fc.weight, "scale", 2.0), "net.fc.weight.scale: nothing -> 2.0"),
    "not persistent": (
        lambda net: net._non_persistent_buffers_set.add("mean"),
        "net._non_persistent_buffers_set: nothing -> {'mean'}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_change_of_the_structure_is_named(kind: str) -> None:
    change, text = CHANGES[kind]
    assert str(jm.explain(stepped(change))) == f"step was traced 2 times; the last because {text}"


ARGUMENTS: dict[str, tuple[Any, Any, list[str]]] = {
    "shape": (BATCH, BATCH[:2], ["argument x: shape (4, 3) -> (2, 3)"]),
    "dtype": (BATCH, BATCH.astype(np.float16), ["argument x: float32 -> float16"]),
    "weak type": (jnp.float32(1), 1.0, ["argument x: weak type False -> True"]),
    "one of many": ([X, {"a": X}], [X, {"a": X[:2]}], ["argument x[1]['a']: shape (3,) -> (2,)"]),
    "added": ([X], [X, X], ["argument x[1]: nothing -> an array"]),
    "container": ([X], (X,), ["arguments: PyTreeDef((([*],), {})) -> PyTreeDef((((*,),), {}))"]),
    "several": (BATCH, X.astype(int), ["argument x: shape (4, 3) -> (3,)", "argument x: float32 -> int32"]),
    "module for an array": (X, Custom(multiply), ["argument x: an array -> nothing"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_change_of_an_argument_is_named(kind: str) -> None:
    before, after, texts = ARGUMENTS[kind]
    step = jm.jit(lambda x: [leaf + 1 for leaf in jax.tree.leaves(x)])
    step(before)
    step(after)
    assert [str(one) for one in jm.explain(step).differences][: len(texts)] == texts


def test_static_argument_is_named() -> None:
    step = jm.jit(lambda x, mode: x * len(mode), static_argnames="mode")
    step(X, "a")
    step(X, mode="a")
    step(X, mode="bb")
    assert str(jm.explain(step)).endswith("because argument mode: 'a' -> 'bb'")


def test_differences_are_entries() -> None:
    (one,) = jm.explain(stepped(lambda net: setattr(net.drop, "p", 0.3))).differences
    assert (one.kind, one.path, one.before, one.after) == ("attribute", "net.drop.p", "0.5", "0.3")


def test_every_flag_is_an_entry() -> None:
    explanation = jm.explain(stepped(lambda net: net.eval()))
    paths = {"net.training", "net.fc.training", "net.drop.training", "net.out.training"}
    assert {one.path for one in explanation.differences} == paths


def test_first_call_and_no_call() -> None:
    step = jm.jit(counted(multiply))
    assert str(jm.explain(step)) == "multiply has never been traced: it was not called"
    step(Custom(multiply), X)
    assert str(jm.explain(step)) == "multiply was traced once, for its first call"
    assert jm.explain(step).compared_with is None


def test_count_is_that_of_the_traces() -> None:
    function, net = counted(lambda net, x: net(x)), Net()
    step = jm.jit(function)
    for x in (BATCH, BATCH, BATCH[:2], BATCH):
        for mode in (True, False, True):
            step(net.train(mode), x)
            assert jm.explain(step).traces == len(function.calls)


def test_new_object_of_equal_structure_is_no_trace() -> None:
    step = stepped()
    step(Net(), BATCH)
    assert jm.explain(step).traces == 1


def test_last_trace_is_compared_with_the_one_most_like_it() -> None:
    net = Net()
    step = stepped(lambda net: net.eval(), lambda net: (net.train(), setattr(net.drop, "p", 0.3)))
    assert jm.explain(step).compared_with == 1
    assert "(most like trace 1) because net.drop.p: 0.5 -> 0.3" in str(jm.explain(step))
    step(net, BATCH)
    assert jm.explain(step).traces == 3


def test_dropped_programs_are_told() -> None:
    step = stepped()
    step.clear_cache()
    step(Net(), BATCH)
    assert "nothing differs from before: its programs were dropped" in str(jm.explain(step))


def test_writes_that_depend_on_shapes_are_told() -> None:
    def body(module: Any, x: Any) -> Any:
        if x.shape[0] > 2:
            module.total = x
        return x

    compiled = jm.jit(Custom(body))
    for x in (X[:1], X):
        compiled(x)
    assert "what it writes depends on shapes: False -> True" in str(jm.explain(compiled))


def test_global_read_in_an_inner_function_is_named() -> None:
    step = jm.jit(lambda x: jax.vmap(lambda row: GLOBAL(row))(x))
    step(BATCH)
    GLOBAL.p = 0.25
    step(BATCH)
    assert str(jm.explain(step)).endswith("because GLOBAL.p: 0.5 -> 0.25")


def test_setting_of_jax_is_named() -> None:
    step = jm.jit(lambda x: x @ x)
    step(X)
    with jax.default_matmul_precision("highest"):
        step(X)
    assert "jax_default_matmul_precision: None -> highest" in str(jm.explain(step))


def test_gradient_that_is_there_is_named() -> None:
    net = Custom(multiply)
    step = jm.jit(lambda: jm.backward(lambda net: net(X).sum(), net))
    step()
    step()
    assert str(jm.explain(step)).endswith("because net.weight.grad: None -> an array")


@pytest.mark.parametrize("order", ["net, optimizer", "optimizer, net"])
def test_setting_of_an_optimizer_is_named(order: str) -> None:
    net = Custom(multiply)
    optimizer = jm.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step(net: Any, optimizer: Any) -> None:
        optimizer.step(jm.grad(lambda net: net(X).sum())(net))

    compiled = jm.jit(step if order == "net, optimizer" else lambda optimizer, net: step(net, optimizer))
    arguments = (net, optimizer) if order == "net, optimizer" else (optimizer, net)
    compiled(*arguments)
    optimizer.param_groups[0]["nesterov"] = True
    compiled(*arguments)
    assert str(jm.explain(compiled)).endswith("because optimizer.param_groups[0]['nesterov']: False -> True")
    net.weight.scale = 2.0
    compiled(*arguments)
    assert str(jm.explain(compiled)).endswith("because net.weight.scale: nothing -> 2.0")


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(jnp.ones(3))

    @jm.jit
    def run(self, x: Any) -> Any:
        return self.weight * x

    def forward(self, x: Any) -> Any:
        return self.weight * x


class Holder:
    @jm.jit
    def run(self, x: Any) -> Any:
        return x + 1


COMPILED: dict[str, Callable[[], Any]] = {
    "module": lambda: jm.jit(Counter()),
    "bound method": lambda: jm.jit(Counter().forward),
    "method": lambda: Counter().run,
    "method of a plain object": functools.partial(getattr, Holder(), "run"),
    "partial": lambda: jm.jit(functools.partial(multiply, Counter())),
    "donating": lambda: jm.jit(lambda x: x * 2, donate=True),
    "decorator": lambda: jm.jit(donate=False)(lambda x: x * 2),
}


@pytest.mark.parametrize("kind", COMPILED)
def test_all_that_jit_returns_can_be_explained(kind: str) -> None:
    compiled = COMPILED[kind]()
    before = jm.explain(compiled).traces
    compiled(X)
    compiled(X[:1])
    compiled(X)
    explanation = jm.explain(compiled)
    assert explanation.traces == before + 2
    assert str(explanation).endswith("shape (3,) -> (1,)")


def test_method_of_a_module_is_called_by_its_name() -> None:
    compiled = jm.jit(Counter().forward)
    compiled(X)
    assert str(jm.explain(compiled)) == "Counter.forward was traced once, for its first call"


def test_compiled_module_is_explained_by_itself() -> None:
    net = Counter()
    net.compile()
    net(X)
    net(X[:1])
    assert str(jm.explain(net)) == "Counter was traced 2 times; the last because argument x: shape (3,) -> (1,)"


def test_nested_functions_are_explained_each() -> None:
    net = Net().eval()
    inner = jm.jit(lambda net, x: net(x))
    outer = jm.jit(lambda net, x: inner(net, x))
    outer(net, BATCH)
    net.drop.p = 0.3
    outer(net, BATCH)
    texts = {str(jm.explain(function)) for function in (inner, outer)}
    assert texts == {"<lambda> was traced 2 times; the last because net.drop.p: 0.5 -> 0.3"}


@pytest.mark.parametrize("value", [len, multiply, None, nn.Tanh(), jax.jit(jnp.sin), 3])
def test_what_is_not_compiled_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="expected what jm.jit returned, or a module after net.compile"):
        jm.explain(value)


def test_trace_that_fails_is_not_counted() -> None:
    step = jm.jit(lambda x: x[5:] @ X)
    with pytest.raises(TypeError, match="dot"):
        step(X)
    assert jm.explain(step).traces == 0


def test_explanation_keeps_no_module_alive() -> None:
    step, net = jm.jit(lambda net, x: net(x)), Net()
    step(net, BATCH)
    gone = weakref.ref(net), weakref.ref(net.fc.weight)
    del net
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
