"""A traced value that would outlive its trace is refused at the write, by name, and nothing is half-changed."""

import copy
import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, assert_clean, multiply, plain, same


@dataclasses.dataclass
class Record:
    seen: Any = None


def new_list(net: Any, x: Any) -> None:
    net.fresh = []
    net.fresh.append(x)


def new_record(net: Any, x: Any) -> None:
    net.fresh = Record(x)


class Layer(nn.Module):
    def __init__(self, x: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(x)


def net_of(write: Any) -> Custom:
    def body(net: Any, x: Any) -> Any:
        if net.writes:
            write(net, x * 2)
        return x * 2

    net = Custom(body, writes=True, note=0, items=[], table={"a": None}, record=Record(), free=None)
    net.space = types.SimpleNamespace(seen=None)
    net.child = nn.Linear(3, 3)
    net.register_buffer("empty", None)
    net.register_parameter("absent", None)
    return net


FOREIGN: dict[str, tuple[Any, str]] = {
    "value": (lambda net, x: setattr(net.weight, "value", x), "parameter"),
    "data": (lambda net, x: setattr(net.weight, "data", x), "parameter"),
    "data in place": (lambda net, x: net.weight.data.add_(x), "parameter"),
    "item": (lambda net, x: net.weight.__setitem__(0, x[0]), "parameter"),
    "child": (lambda net, x: setattr(net.child.bias, "value", x), "parameter"),
    "grad": (lambda net, x: setattr(net.weight, "grad", x), "grad of the parameter"),
    "buffer": (lambda net, x: setattr(net, "total", x), "buffer '.*total'"),
    "buffer dict": (lambda net, x: net._buffers.__setitem__("total", x), "buffer '.*total'"),
    "buffers update": (lambda net, x: net._buffers.update(total=x), "buffer '.*total'"),
    "load_state_dict": (lambda net, x: net.load_state_dict({"total": x}, strict=False), "total"),
    "update": (lambda net, x: jm.update(net, {"weight": x}), "parameter"),
    "init": (lambda net, x: nn.init.uniform_(net.weight), "parameter|random operation"),
}
ALWAYS: dict[str, tuple[Any, str]] = {
    "attribute": (lambda net, x: setattr(net, "note", x), "attribute '.*note'"),
    "list attribute": (lambda net, x: setattr(net, "note", [x]), "attribute '.*note'"),
    "nested attribute": (lambda net, x: setattr(net, "note", {"a": (x, 1)}), "attribute '.*note'"),
    "attribute of a child": (lambda net, x: setattr(net.child, "note", x), "attribute '.*note'"),
    "record attribute": (new_record, "attribute '.*fresh'"),
    "empty buffer": (lambda net, x: setattr(net, "empty", x), "buffer '.*empty'"),
    "new buffer": (lambda net, x: net.register_buffer("fresh", x), "buffer '.*fresh'"),
    "Buffer": (lambda net, x: setattr(net, "fresh", nn.Buffer(x)), "buffer '.*fresh'"),
    "new parameter": (lambda net, x: setattr(net, "fresh", nn.Parameter(x)), "parameter '.*fresh'"),
    "registered parameter": (lambda net, x: net.register_parameter("absent", nn.Parameter(x)), "parameter '.*absent'"),
    "replaced parameter": (lambda net, x: setattr(net, "weight", nn.Parameter(x)), "parameter '.*weight'"),
    "parameter dict": (lambda net, x: net._parameters.__setitem__("weight", nn.Parameter(x)), "parameter '.*weight'"),
    "parameter over a buffer": (lambda net, x: setattr(net, "total", nn.Parameter(x)), "parameter '.*total'"),
    "parameter over a child": (lambda net, x: setattr(net, "child", nn.Parameter(x)), "parameter '.*child'"),
    "parameter over an attribute": (lambda net, x: setattr(net, "free", nn.Parameter(x)), "parameter '.*free'"),
    "new child": (lambda net, x: setattr(net, "fresh", Layer(x)), "module '.*fresh'"),
    "replaced child": (lambda net, x: setattr(net, "child", Layer(x)), "module '.*child'"),
    "child over a buffer": (lambda net, x: net._modules.update(child=Layer(x)), "module '.*child'"),
    "added child": (lambda net, x: net.add_module("fresh", Layer(x)), "module '.*fresh'"),
    "child in a container": (lambda net, x: setattr(net, "fresh", nn.ModuleList([Layer(x)])), "module '.*fresh'"),
    "parameter in a container": (lambda net, x: setattr(net, "fresh", nn.ParameterList([x])), "module '.*fresh'"),
    "parameter in a list": (lambda net, x: setattr(net, "note", [nn.Parameter(x)]), "attribute '.*note'"),
    "module in a list": (lambda net, x: setattr(net, "note", [Layer(x)]), "attribute '.*note'"),
}
IN_PLACE: dict[str, tuple[Any, str]] = {
    "append": (lambda net, x: net.items.append(x), "attribute '.*items'"),
    "dict item": (lambda net, x: net.table.update(a=x), "attribute '.*table'"),
    "record": (lambda net, x: setattr(net.record, "seen", x), "attribute '.*record'"),
    "namespace": (lambda net, x: setattr(net.space, "seen", [x]), "attribute '.*space'"),
    "new list": (new_list, "attribute '.*fresh'"),
}

JM = {
    "jm.jit": lambda net: jm.jit(net)(X),
    "donated": lambda net: jm.jit(net, donate=True)(X),
    "method": lambda net: jm.jit(lambda net, x: net(x))(net, X),
    "jm.grad": lambda net: jm.jit(jm.grad(lambda net: net(X).sum()))(net),
    "jm.eval_shape": lambda net: jm.eval_shape(net, X),
}
RAW = {
    "jax.jit": lambda net: jax.jit(lambda x: net(x))(X),
    "jax.grad": lambda net: jax.grad(lambda x: net(x).sum())(X),
    "jax.vmap": lambda net: jax.vmap(lambda x: net(x))(BATCH),
    "jax.eval_shape": lambda net: jax.eval_shape(lambda x: net(x), X),
    "scan": lambda net: jax.lax.scan(lambda c, x: (c, net(x)), 0.0, BATCH),
    "scan in jm.jit": lambda net: jm.jit(lambda net: jax.lax.scan(lambda c, x: (c, net(x)), 0.0, BATCH))(net),
    "cond in jm.jit": lambda net: jm.jit(lambda x: jax.lax.cond(x[0] > 0, lambda y: net(y), lambda y: y, x))(X),
    "checkpoint in jm.jit": lambda net: jm.jit(lambda net, x: jax.checkpoint(lambda y: net(y))(x))(net, X),
    "jax.grad in jm.jit": lambda net: jm.jit(lambda net, x: jax.grad(lambda y: net(y).sum())(x))(net, X),
    "jm.jit in jax.jit": lambda net: jax.jit(lambda x: jm.jit(net)(x))(X),
}  # fmt: skip


def describe(net: nn.Module) -> list[Any]:
    """List what a module holds, by identity of its boxes, children and arrays."""
    rows: list[Any] = []
    for path, module in net.named_modules():
        for registry in (module._parameters, module._buffers, module._modules):
            rows += [(path, name, id(value)) for name, value in registry.items()]
        rows += [(path, k, repr(v)) for k, v in module.__dict__.items() if not k.startswith("_") and k != "body"]
        rows += [(path, k, id(p._value), id(p._grad)) for k, p in module._parameters.items() if p is not None]
    return rows


def refused(net: Custom, run: Any, match: str) -> None:
    before = describe(net)
    with pytest.raises(RuntimeError, match=match):
        run(net)
    assert_clean(net)
    assert describe(net) == before
    net.writes = False
    same(jm.jit(net)(X), 2 * X)


@pytest.mark.parametrize("kind", ALWAYS)
@pytest.mark.parametrize("run", ["jm.jit", "jm.eval_shape"])
def test_structure_cannot_take_up_traced_values(kind: str, run: str) -> None:
    write, match = ALWAYS[kind]
    refused(net_of(write), JM[run], match)


@pytest.mark.parametrize(
    ("kind", "run"),
    [*((kind, "jm.jit") for kind in IN_PLACE), *(("append", run) for run in JM if run not in ("jm.jit", "jm.grad"))],
)
def test_containers_cannot_take_up_traced_values(kind: str, run: str) -> None:
    write, match = IN_PLACE[kind]
    refused(net_of(write), JM[run], match)


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("run", ["jax.jit"])
def test_state_that_is_not_threaded_cannot_take_up_traced_values(kind: str, run: str) -> None:
    write, match = FOREIGN[kind]
    refused(net_of(write), RAW[run], match)


@pytest.mark.parametrize("kind", ["value", "buffer", "grad"])
@pytest.mark.parametrize("run", RAW)
def test_every_foreign_trace_is_recognised(kind: str, run: str) -> None:
    write, match = FOREIGN[kind]
    refused(net_of(write), RAW[run], match)


@pytest.mark.parametrize("kind", ["attribute", "new parameter", "new child", "parameter over a buffer"])
@pytest.mark.parametrize("run", ["jax.jit", "jax.grad", "scan in jm.jit", "jax.grad in jm.jit"])
def test_structure_is_guarded_in_every_trace(kind: str, run: str) -> None:
    write, match = ALWAYS[kind]
    refused(net_of(write), RAW[run], match)


def test_message_names_the_path_and_what_to_do() -> None:
    net = nn.Sequential(plain(), nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(RuntimeError, match=r"buffer '1\.0\.running_mean'.*give the module to the transform"):
        jax.jit(lambda x: net[1](x))(BATCH)


def test_message_names_the_attributes_on_the_way() -> None:
    net = Custom(lambda module, x: module.block(x), block=nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(RuntimeError, match=r"buffer 'Custom\.block\.0\.running_mean'"):
        jax.jit(lambda x: net(x))(BATCH)


def test_copied_net_names_the_attributes_on_the_way() -> None:
    net = copy.deepcopy(Custom(lambda module, x: module.block(x), block=nn.Sequential(nn.BatchNorm1d(3))))
    with pytest.raises(RuntimeError, match=r"buffer 'Custom\.block\.0\.running_mean'"):
        jax.jit(lambda x: net(x))(BATCH)


def test_message_names_a_bound_parameter() -> None:
    net = plain()
    with pytest.raises(RuntimeError, match=r"parameter '0\.weight' of shape \(4, 3\)"):
        jm.jit(lambda net: jax.grad(lambda s: net[0].weight.data.mul_(s).sum() * s)(1.0))(net)


def test_hyperparameter_of_an_optimizer_is_guarded() -> None:
    net = plain()
    optimizer = jm.optim.SGD(net.parameters(), lr=0.1)

    def write(x: Any) -> Any:
        optimizer.param_groups[0]["lr"] = x
        return x

    with pytest.raises(RuntimeError, match="traced value was about to be stored"):
        jax.jit(write)(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_optimizer_step_under_a_foreign_trace_leaves_it_usable() -> None:
    net = plain()
    optimizer = jm.optim.Adam(net.parameters())
    step = jm.jit(lambda net, optimizer, x: optimizer.step(jm.grad(lambda net: net(x).sum())(net)))
    with pytest.raises(RuntimeError, match="traced value was about to be stored"):
        jax.jit(lambda x: step(net, optimizer, x))(BATCH)
    before = net[0].weight.numpy().copy()
    step(net, optimizer, BATCH)
    assert not np.array_equal(net[0].weight.numpy(), before)
    assert all(not isinstance(v, jax.core.Tracer) for state in optimizer.state.values() for v in state.values())


def test_hyperparameter_is_written_under_jm_jit() -> None:
    net = plain()
    optimizer = jm.optim.SGD(net.parameters(), lr=0.5)

    def decay(net: Any, optimizer: Any) -> None:
        optimizer.param_groups[0]["lr"] *= 0.5

    compiled = jm.jit(decay)
    compiled(net, optimizer)
    compiled(net, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.125


def built(x: Any) -> Any:
    net = Custom(lambda module, x: x * module.weight * module.items[0], items=[x])
    net.weight.value, net.total, net.note = x, x * 2, {"a": x}
    net.child = Layer(x)
    net.register_buffer("fresh", x)
    net.items.append(x)
    accumulate(net, x)
    net.child.weight.grad = x
    return net(x) + net.total + jnp.asarray(net.child.weight.grad)


@pytest.mark.parametrize("transform", [jm.jit, jax.jit, jm.eval_shape], ids=["jm.jit", "jax.jit", "jm.eval_shape"])
def test_module_built_in_the_trace_may_hold_traced_values(transform: Any) -> None:
    out = jm.eval_shape(built, X) if transform is jm.eval_shape else transform(built)(X)
    assert out.shape == (3,) and (transform is jm.eval_shape or jnp.allclose(out, built(jnp.asarray(X))))


def test_module_built_in_the_trace_goes_through_every_transform() -> None:
    def function(x: Any) -> Any:
        net = Custom(lambda module, x: x * module.weight * module.items[0], items=[x * 2])
        grads = jm.grad(lambda net: net(x).sum())(net)
        return grads["weight"], jm.vmap(net)(jnp.stack([x, x]))

    grad, rows = jm.jit(function)(X)
    same(grad, 2 * X * X)
    same(rows[0], X * np.array([1, 2, 3]) * 2 * X)


@pytest.mark.parametrize("transform", [jm.grad, jm.vmap, jm.jit, jm.eval_shape])
def test_gradients_do_not_leak_from_any_transform(transform: Any) -> None:
    net = Custom(multiply)

    def function(x: Any) -> Any:
        return jm.backward(lambda: net(x).sum(), net)

    try:
        jm.eval_shape(function, X) if transform is jm.eval_shape else transform(function)(jnp.asarray(X))
    except RuntimeError as error:
        assert "traced value was about to be stored" in str(error) or "differs between" in str(error)
    assert_clean(net)


@pytest.mark.parametrize("place", ["value", "buffer", "attribute"])
def test_concrete_values_may_be_written_in_any_trace(place: str) -> None:
    def body(module: Any, x: Any) -> Any:
        with jax.ensure_compile_time_eval():
            new = jnp.ones(3)
        setattr(
            *{"value": (module.weight, "value"), "buffer": (module, "total"), "attribute": (module, "note")}[place], new
        )
        return x

    net = Custom(body)
    jax.jit(lambda x: net(x))(X)
    assert_clean(net)
