"""Whatever changes a model between compiled calls is seen, wherever it is written; nothing else retraces."""

import copy
import gc
import pickle
import random
import types
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, counted, same


class Scaled(nn.Module):
    """A net that depends on attributes, a list, a dict, a frozen parameter, names of children and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.scale = 2.0
        self.taps = [1.0]
        self.options = {"shift": 0.5}
        self.register_buffer("mean", jnp.ones((1, 3)))

    def forward(self, x: Any) -> Any:
        for child in self.children():
            x = child(x)
        frozen = sum(1.0 for p in self.parameters() if not p.requires_grad)
        mean = 0.0 if self.mean is None else self.mean
        return (x + mean) * self.scale + sum(self.taps) + self.options["shift"] + frozen + len(self.state_dict())


def compiled() -> tuple[Any, Any, Any]:
    """Return a net, its compiled call, and the counter of its traces."""
    function = counted(lambda net, x: net(x))
    return Scaled(), jm.jit(function), function


WRITES: dict[str, Callable[[Any], Any]] = {
    "__dict__": lambda net: net.__dict__.__setitem__("scale", 3.0),
    "vars update": lambda net: vars(net).update(scale=3.0),
    "__ior__": lambda net: net.__dict__.__ior__({"scale": 3.0}),
    "__dict__ assigned": lambda net: setattr(net, "__dict__", dict(vars(net), scale=3.0)),
    "__setstate__": lambda net: net.__setstate__({"scale": 3.0}),
    "list replaced": lambda net: net.__dict__.__setitem__("taps", [1.0, 2.0]),
    "list": lambda net: net.taps.append(2.0),
    "dict": lambda net: net.options.update(shift=2.0),
    "_modules in __dict__": lambda net: net.__dict__.__setitem__("_modules", {"a": net.a}),
    "_modules assigned": lambda net: setattr(net, "_modules", {"a": net.a}),
    "_modules deleted": lambda net: net._modules.__delitem__("b"),
    "_modules reordered": lambda net: net._modules.update(a=net._modules.pop("a")),
    "_modules then added": lambda net: (setattr(net, "_modules", {"a": net.a}), net._modules.update(c=nn.Tanh())),
    "_modules renamed": lambda net: net._modules.update(c=net._modules.pop("a"), d=nn.ReLU()),
    "_parameters assigned": lambda net: setattr(net.a, "_parameters", dict(net.a._parameters, bias=None)),
    "_parameters in __dict__": lambda net: net.a.__dict__.update(_parameters=dict(net.a._parameters, bias=None)),
    "_parameters then written": lambda net: (
        net.a.__dict__.update(_parameters=dict(net.a._parameters)),
        net.a._parameters.update(bias=None),
    ),
    "_buffers assigned": lambda net: setattr(net, "_buffers", {"mean": None}),
    "_buffers in __dict__": lambda net: net.__dict__.update(_buffers={"mean": None}),
    "non-persistent": lambda net: net._non_persistent_buffers_set.add("mean"),
    "non-persistent assigned": lambda net: setattr(net, "_non_persistent_buffers_set", {"mean"}),
    "child hidden in __dict__": lambda net: net.__dict__.update(b=net._modules.pop("b")),
    "hooks assigned": lambda net: setattr(net.a, "_forward_hooks", {7: lambda module, args, out: out + 1}),
    "hooks in __dict__": lambda net: net.a.__dict__.update(_forward_hooks={7: lambda module, args, out: out + 1}),
    "hook written": lambda net: net.a._forward_hooks.update({7: lambda module, args, out: out + 1}),
    "state dict hook": lambda net: net._register_state_dict_hook(lambda module, state, *_: {}),
    "requires_grad": lambda net: net.a.weight.requires_grad_(False),
    "forward on the instance": lambda net: setattr(net, "forward", lambda x: x * net.scale),
    "forward in __dict__": lambda net: net.__dict__.update(forward=lambda x: x * net.scale),
    "class of a child": lambda net: setattr(net.a, "__class__", Doubled),
}  # fmt: skip


class Doubled(nn.Linear):
    def forward(self, input: Any) -> Any:
        return 2 * super().forward(input)


@pytest.mark.parametrize("kind", WRITES)
def test_write_is_seen_at_once(kind: str) -> None:
    net, call, function = compiled()
    before = call(net, BATCH)
    WRITES[kind](net)
    same(call(net, BATCH), net(BATCH))
    assert len(function.calls) == 2 or not np.array_equal(before, net(BATCH))
    traces = len(function.calls)
    same(call(net, BATCH), net(BATCH))
    assert len(function.calls) == traces


CLONES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "cloudpickle": lambda net: pickle.loads(cloudpickle.dumps(net)),
    "pytree": lambda net: jax.tree.map(jnp.copy, net),
}


@pytest.mark.parametrize("kind", ["__dict__", "vars update", "_modules assigned", "hook written", "non-persistent"])
@pytest.mark.parametrize("clone", CLONES)
def test_write_into_a_copy_is_seen_at_once(clone: str, kind: str) -> None:
    original, call, _ = compiled()
    call(original, BATCH)
    net = CLONES[clone](original)
    call(net, BATCH)
    WRITES[kind](net)
    same(call(net, BATCH), net(BATCH))
    if clone != "copy":
        same(call(original, BATCH), original(BATCH))


REMOVALS: dict[str, Callable[[Any], Any]] = {
    "del": lambda net: net.__dict__.__delitem__("extra"),
    "pop": lambda net: net.__dict__.pop("extra"),
    "popitem": lambda net: net.__dict__.popitem(),
    "delattr": lambda net: delattr(net, "extra"),
}


@pytest.mark.parametrize("kind", REMOVALS)
def test_attribute_taken_out_of_the_dict_is_seen(kind: str) -> None:
    net = Custom(lambda module, x: x * getattr(module, "extra", 3.0))
    call = jm.jit(net)
    net.__dict__.setdefault("extra", 2.0)
    same(call(X), 2 * X)
    REMOVALS[kind](net)
    same(call(X), 3 * X)


SAME: dict[str, Callable[[Any], Any]] = {
    "__dict__": lambda net: net.__dict__.update(scale=2.0),
    "attribute": lambda net: setattr(net, "scale", 2.0),
    "list": lambda net: setattr(net, "taps", [1.0]),
    "_modules assigned": lambda net: setattr(net, "_modules", dict(net._modules)),
    "_parameters assigned": lambda net: setattr(net.a, "_parameters", dict(net.a._parameters)),
    "new child": lambda net: setattr(net, "a", nn.Linear(3, 3)),
    "new parameter": lambda net: setattr(net.a, "weight", nn.Parameter(jnp.ones((3, 3)))),
    "hook and back": lambda net: net.a.register_forward_hook(print).remove(),
    "name that is not there": lambda net: net._non_persistent_buffers_set.discard("other"),
    "gradient": lambda net: setattr(net.a.weight, "grad", jnp.ones((3, 3))),
    "labels": lambda net: jm.functionalize(net),
    "compile": lambda net: net.a.compile(),
    "moved and back": lambda net: setattr(net, "b", net._modules.pop("b")),
}


@pytest.mark.parametrize("kind", SAME)
def test_what_does_not_change_the_structure_does_not_retrace(kind: str) -> None:
    net, call, function = compiled()
    call(net, BATCH)
    for _ in range(2):
        SAME[kind](net)
        same(call(net, BATCH), net(BATCH))
    assert len(function.calls) == 1


def test_attribute_in_the_dict_of_a_parameter_is_seen() -> None:
    net = Custom(lambda module, x: x * module.weight.scale)
    net.weight.scale = 1.0
    call = jm.jit(net)
    same(call(X), X)
    net.weight.__dict__["scale"] = 2.0
    same(call(X), 2 * X)


def test_traced_value_written_into_the_dict_is_refused_there() -> None:
    net = Custom(lambda module, x: module.__dict__.__setitem__("last", x))
    with pytest.raises(RuntimeError, match="'Custom.last', which outl"):
        jm.jit(net)(X)
    assert "last" not in vars(net)


def test_dict_of_a_module_is_one_object() -> None:
    net, call, _ = compiled()
    own = net.__dict__
    call(net, BATCH)
    own["scale"] = 3.0
    assert net.__dict__ is own and type(own.copy()) is dict
    same(call(net, BATCH), net(BATCH))


def test_setting_of_a_hook_that_changes_in_place_is_seen() -> None:
    class Hook:
        scale = 1.0

        def __call__(self, module: Any, args: Any, output: Any) -> Any:
            return output * self.scale

    net, hook = nn.Linear(3, 3), Hook()
    net.register_forward_hook(hook)
    call = jm.jit(net)
    same(call(BATCH), net(BATCH))
    hook.scale = 2.0
    same(call(BATCH), net(BATCH))


def test_state_dict_hook_is_in_a_copy_by_pytree() -> None:
    net = nn.Linear(3, 3)
    jax.tree.map(jnp.copy, net)
    net._register_state_dict_hook(lambda module, state, prefix, metadata: {"seen": 1})
    assert jax.tree.map(jnp.copy, net).state_dict() == {"seen": 1}


EDITS: dict[str, Callable[[Any, random.Random], Any]] = {
    "nothing": lambda net, draw: None,
    "append": lambda net, draw: net.body.append(nn.Linear(3, 3, bias=draw.random() < 0.5)),
    "delete": lambda net, draw: net.body.pop(draw.randrange(len(net.body))) if len(net.body) > 1 else None,
    "replace": lambda net, draw: net.body.__setitem__(0, draw.choice([nn.Linear, Doubled])(3, 3)),
    "swap": lambda net, draw: net.body._modules.update({"0": net.body[-1], str(len(net.body) - 1): net.body[0]}),
    "share": lambda net, draw: net.body.append(net.body[0]) if len(net.body) < 5 else None,
    "tie": lambda net, draw: setattr(net.body[-1], "weight", net.body[0].weight),
    "untie": lambda net, draw: setattr(net.body[-1], "weight", nn.Parameter(jnp.full((3, 3), draw.random()))),
    "freeze": lambda net, draw: draw.choice(list(net.parameters())).requires_grad_(draw.random() < 0.5),
    "bias": lambda net, draw: setattr(net.body[0], "bias", draw.choice([None, nn.Parameter(jnp.ones(3))])),
    "mode": lambda net, draw: draw.choice(list(net.modules())).train(draw.random() < 0.5),
    "scale": lambda net, draw: net.__dict__.update(scale=draw.choice([1.0, 2.0])),
    "list": lambda net, draw: net.taps.append(1.0) if len(net.taps) < 3 else net.taps.clear(),
    "dict": lambda net, draw: setattr(net, "_modules", dict(net._modules)),
    "hook": lambda net, draw: draw.choice(list(net.body)).register_forward_hook(_add_one),
    "unhook": lambda net, draw: [layer._forward_hooks.clear() for layer in net.body],
    "buffer": lambda net, draw: setattr(net, "mean", draw.choice([jnp.ones((1, 3)), jnp.zeros((1, 3)), None])),
    "value": lambda net, draw: net.body[0].weight.data.mul_(0.5),
    "load": lambda net, draw: net.load_state_dict({k: v * 0.9 for k, v in net.state_dict().items()}),
}  # fmt: skip


def _add_one(module: Any, args: Any, output: Any) -> Any:
    return output + 1


class Edited(Scaled):
    def __init__(self) -> None:
        super().__init__()
        del self.a, self.b
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.Linear(3, 3))
        del self.body[1]

    def forward(self, x: Any) -> Any:
        return super().forward(x) + self.training + sum(2.0 for layer in self.body if layer.training)


@pytest.mark.parametrize("seed", range(3))
def test_random_edits_are_seen_and_rest_does_not_retrace(seed: int) -> None:
    draw, net, function = random.Random(seed), Edited(), counted(lambda net, x: net(x))
    call = jm.jit(function)
    call(net, BATCH)
    for _ in range(20):
        names = draw.choices(list(EDITS), k=draw.choice([0, 1, 1, 2, 3]))
        for name in names:
            EDITS[name](net, draw)
        before = len(function.calls)
        np.testing.assert_allclose(call(net, BATCH), net(BATCH), rtol=1e-4, atol=1e-4, err_msg=str(names))
        assert names or len(function.calls) == before
        traces = len(function.calls)
        call(net, BATCH)
        assert len(function.calls) == traces, names


def test_earlier_structure_gets_its_program_again() -> None:
    draw, net, function = random.Random(7), Edited(), counted(lambda net, x: net(x))
    call, versions = jm.jit(function), []
    for name in ("append", "replace", "tie", "freeze", "hook", "scale", "list"):
        EDITS[name](net, draw)
        call(net, BATCH)
        versions.append(copy.deepcopy(net))
    traces = len(function.calls)
    for version in (*versions, *reversed(versions)):
        same(call(version, BATCH), version(BATCH))
    assert len(function.calls) == traces


def test_parent_behind_a_weak_reference_is_state() -> None:
    class Child(nn.Module):
        def __init__(self, parent: nn.Module) -> None:
            super().__init__()
            self.parent = weakref.ref(parent)

        def forward(self, x: Any) -> Any:
            return x * self.parent().weight

    parent = Custom(lambda module, x: module.child(x))
    parent.child = Child(parent)
    clone = jax.tree.map(lambda leaf: 2 * leaf, parent)
    gc.collect()
    assert clone.child.parent() is clone
    same(jm.jit(parent.child)(X), parent(X))
    same(jm.jit(clone)(X), 2 * parent(X))


def test_method_replaced_on_the_instance_is_seen() -> None:
    net = Custom(lambda module, x: module.measure(x))
    net.measure = types.MethodType(lambda module, x: x * module.weight, net)
    call = jm.jit(net)
    same(call(X), X * net.weight)
    net.measure = types.MethodType(lambda module, x: x + module.weight, net)
    same(call(X), X + net.weight)


def test_attribute_in_a_slot_is_seen() -> None:
    class Slotted(nn.Module):
        __slots__ = ("scale",)

        def forward(self, x: Any) -> Any:
            return x * self.scale

    net, function = Slotted(), counted(lambda net, x: net(x))
    call = jm.jit(function)
    for scale in (2.0, 3.0, 2.0):
        net.scale = scale
        same(call(net, X), scale * X)
    assert len(function.calls) == 2
