"""``jm.jit`` compiles once for a structure, again when it changes, and never runs a stale program."""

import collections
import copy
import dataclasses
import enum
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from tests.transforms.helpers import BATCH, Custom, X, accumulate, counted, multiply, plain, same


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Config:
    scale: float = 1.0
    inner: Any = None


@dataclasses.dataclass(slots=True)
class SlottedConfig:
    scale: float = 1.0


class Plain:
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def read(self) -> float:
        return self.scale


Pair = collections.namedtuple("Pair", "a b")
one, two = (lambda x: 1.0), (lambda x: 2.0)
REPLACED: dict[str, tuple[Any, Any, Any]] = {
    "int": (1, 2, lambda v: v),
    "float": (1.0, 2.0, lambda v: v),
    "negative zero": (0.0, -0.0, lambda v: float(np.copysign(1, v))),
    "numpy negative zero": (np.float32(0.0), np.float32(-0.0), lambda v: float(np.copysign(1, v))),
    "complex negative zero": (1 + 0.0j, complex(1, -0.0), lambda v: float(np.copysign(1, v.imag))),
    "nan": (1.0, float("nan"), lambda v: 3.0 if v != v else v),
    "bool for int": (1, True, lambda v: 5.0 if v is True else 1.0),
    "float for int": (1, 1.0, lambda v: 5.0 if isinstance(v, float) else 1.0),
    "str": ("a", "bb", len),
    "bytes": (b"a", b"bb", len),
    "None": (None, 2.0, lambda v: 1.0 if v is None else v),
    "tuple": ((1,), (2,), lambda v: v[0]),
    "bools in a tuple": ((1,), (True,), lambda v: 5.0 if v[0] is True else 1.0),
    "list for tuple": ((1,), [1], lambda v: 5.0 if isinstance(v, list) else 1.0),
    "namedtuple": (Pair(1, 2), Pair(1, 3), lambda v: v.b),
    "namedtuple for tuple": ((1, 2), Pair(1, 2), lambda v: 5.0 if hasattr(v, "b") else 1.0),
    "dict order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}, lambda v: next(iter(v.values()))),
    "frozenset": (frozenset("a"), frozenset("ab"), len),
    "enum": (Colour.RED, Colour.BLUE, lambda v: v.value),
    "dtype": (jnp.float32, jnp.int32, lambda v: 2.0 if v == jnp.int32 else 1.0),
    "lambda": (one, two, lambda v: v(0)),
    "partial": (functools.partial(one), functools.partial(two), lambda v: v(0)),
    "bound method": (Plain(1.0).read, Plain(2.0).read, lambda v: v()),
    "class": (int, float, lambda v: float(v("2")) + (v is float)),
    "slice": (slice(0, 1), slice(0, 2), lambda v: v.stop),
    "numpy array": (np.array([1.0], np.float32), np.array([2.0], np.float32), lambda v: v[0]),
    "numpy dtype": (np.array([1], np.int8), np.array([1], np.int16), lambda v: v.dtype.itemsize),
    "jax array": (jnp.array([1.0], jnp.float32), jnp.array([2.0], jnp.float32), lambda v: v[0]),
}


@pytest.mark.parametrize("kind", REPLACED)
def test_replaced_attribute_is_honoured(kind: str) -> None:
    old, new, measure = REPLACED[kind]
    net = Custom(lambda module, x: x * measure(module.setting), setting=old)
    compiled = jm.jit(net)
    for value in (old, new, old, new):
        net.setting = value
        same(compiled(X), X * measure(value))


@pytest.mark.parametrize("kind", [k for k in REPLACED if k != "jax array"])
def test_attribute_that_comes_back_reuses_its_program(kind: str) -> None:
    old, new, measure = REPLACED[kind]
    function = counted(lambda net, x: net(x))
    net, compiled = Custom(lambda module, x: x * measure(module.setting)), jm.jit(function)
    for value in (old, new, old, new):
        net.setting = value
        compiled(net, X)
    assert len(function.calls) == 2


MUTATED: dict[str, tuple[Any, Any, Any]] = {
    "list": (lambda: [1.0], lambda v: v.append(1.0), len),
    "list item": (lambda: [1.0], lambda v: v.__setitem__(0, 2.0), lambda v: v[0]),
    "dict": (lambda: {"a": 1.0}, lambda v: v.update(a=2.0), lambda v: v["a"]),
    "nested": (lambda: {"a": [(1.0, [1.0])]}, lambda v: v["a"][0][1].append(1.0), lambda v: len(v["a"][0][1])),
    "defaultdict": (lambda: collections.defaultdict(float), lambda v: v["a"], lambda v: 1.0 + len(v)),
    "ordered": (lambda: collections.OrderedDict(a=1, b=2), lambda v: v.move_to_end("a"), lambda v: [*v].index("a")),
    "deque": (lambda: collections.deque([1.0, 2.0]), lambda v: v.rotate(), lambda v: v[0]),
    "set": (lambda: {1}, lambda v: v.add(2), len),
    "numpy array": (lambda: np.array([1.0], np.float32), lambda v: v.fill(2.0), lambda v: v[0]),
    "numpy in a tuple": (lambda: (np.array([1.0], np.float32),), lambda v: v[0].fill(2.0), lambda v: v[0][0]),
    "dataclass": (Config, lambda v: setattr(v, "scale", 2.0), lambda v: v.scale),
    "nested record": (lambda: Config(1.0, Config()), lambda v: vars(v.inner).update(scale=2), lambda v: v.inner.scale),
    "dataclass with slots": (SlottedConfig, lambda v: setattr(v, "scale", 2.0), lambda v: v.scale),
    "namespace": (lambda: types.SimpleNamespace(a=1.0), lambda v: setattr(v, "a", 2.0), lambda v: v.a),
    "plain object": (Plain, lambda v: setattr(v, "scale", 2.0), lambda v: v.scale),
    "bound method": (lambda: Plain().read, lambda v: setattr(v.__self__, "scale", 2.0), lambda v: v()),
    "partial": (lambda: functools.partial(max, [1.0]), lambda v: v.args[0].append(2.0), lambda v: v()),
    "bytearray": (lambda: bytearray(b"\x01"), lambda v: v.__setitem__(0, 2), lambda v: v[0]),
}  # fmt: skip


@pytest.mark.parametrize("kind", MUTATED)
def test_attribute_changed_in_place_is_honoured(kind: str) -> None:
    make, mutate, measure = MUTATED[kind]
    net = Custom(lambda module, x: x * float(measure(module.setting)), setting=make())
    compiled = jm.jit(net)
    before = compiled(X)
    mutate(net.setting)
    same(compiled(X), net(X))
    assert not jnp.array_equal(before, net(X))


def test_object_that_refers_to_itself_is_a_setting() -> None:
    config = Config()
    config.inner = {"me": config}
    net = Custom(lambda module, x: x * module.config.scale, config=config)
    compiled = jm.jit(net)
    same(compiled(X), X)
    config.scale = 3.0
    same(compiled(X), 3 * X)


def test_attribute_of_a_parameter_is_honoured() -> None:
    net = Custom(lambda module, x: x * module.weight.scale)
    net.weight.scale = 1.0
    compiled = jm.jit(net)
    compiled(X)
    net.weight.scale = 2.0
    same(compiled(X), 2 * X)


def test_attribute_deleted_is_honoured() -> None:
    net = Custom(lambda module, x: x * getattr(module, "setting", 3.0), setting=2.0)
    compiled = jm.jit(net)
    compiled(X)
    del net.setting
    same(compiled(X), 3 * X)


def test_train_and_eval_are_two_programs() -> None:
    function = counted(lambda net, x: net(x))
    net, compiled = nn.Sequential(nn.BatchNorm1d(3)), jm.jit(function)
    for mode in (True, False, True, False, True):
        net.train(mode)
        compiled(net, BATCH)
    assert len(function.calls) == 2


def test_mode_of_one_layer_is_honoured() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(1.0))
    compiled = jm.jit(net)
    same(compiled(BATCH), jnp.zeros((4, 3), jnp.float32))
    net[1].eval()
    same(compiled(BATCH), net[0](BATCH))


VALUE_WRITES: dict[str, Any] = {
    "value": lambda net: setattr(net.weight, "value", 2 * X),
    "data": lambda net: setattr(net.weight, "data", 2 * X),
    "data in place": lambda net: net.weight.data.mul_(2),
    "item": lambda net: net.weight.__setitem__(0, 5.0),
    "buffer": lambda net: setattr(net, "total", jnp.ones(3, jnp.float32)),
    "numpy buffer": lambda net: setattr(net, "total", np.ones(3, np.float32)),
    "buffer dict": lambda net: net._buffers.__setitem__("total", jnp.ones(3, jnp.float32)),
    "load_state_dict": lambda net: net.load_state_dict({"weight": -X, "total": X}),
    "grad": lambda net: setattr(net.weight, "grad", jnp.ones(3, jnp.float32)),
    "zero_grad": lambda net: net.zero_grad(),
    "update": lambda net: jm.update(net, {"weight": jnp.ones(3, jnp.float32)}),
    "same mode": lambda net: net.train(),
    "same flag": lambda net: net.requires_grad_(True),
    "unrelated module": lambda net: nn.Linear(3, 3),
    "unrelated net": lambda net: plain().eval(),
    "copy": copy.deepcopy,
    "pytree": lambda net: jax.tree.map(lambda leaf: leaf + 1, net),
    "state_dict": lambda net: net.state_dict(),
    "apply": lambda net: jm.functionalize(net)[0]({"weight": X}, {"total": X}, X),
    "grad transform": lambda net: jm.grad(lambda net: net(X).sum())(net),
}


@pytest.mark.parametrize("kind", VALUE_WRITES)
def test_value_writes_never_retrace(kind: str) -> None:
    function = counted(lambda net, x: net(x) + net.total)
    net, compiled = Custom(multiply), jm.jit(function)
    compiled(net, X)
    for _ in range(2):
        VALUE_WRITES[kind](net)
        same(compiled(net, X), net(X) + net.total)
    assert len(function.calls) == 1


def hook_plus(module: Any, args: Any, output: Any) -> Any:
    return output + 1


def hook_times(module: Any, args: Any, output: Any) -> Any:
    return output * 3


def either(module: Any, args: Any, *rest: Any) -> Any:
    return rest[-1] * (10 if len(rest) == 2 else 7)


def pre_either(module: Any, args: Any, *rest: Any) -> Any:
    return ((args[0] * 5,), {}) if rest else (args[0] * 2,)


HOOKS: dict[str, Any] = {
    "forward": [lambda net: net.register_forward_hook(hook_plus)],
    "two": [lambda net: net.register_forward_hook(hook_plus), lambda net: net.register_forward_hook(hook_times)],
    "prepended": [
        lambda net: net.register_forward_hook(hook_plus),
        lambda net: net.register_forward_hook(hook_times, prepend=True),
    ],
    "with kwargs": [
        lambda net: net.register_forward_hook(either),
        lambda net: net.register_forward_hook(either, with_kwargs=True),
    ],
    "pre": [lambda net: net.register_forward_pre_hook(pre_either)],
    "pre with kwargs": [lambda net: net.register_forward_pre_hook(pre_either, with_kwargs=True)],
    "child": [lambda net: net[0].register_forward_hook(hook_times)],
    "global": [lambda net: register_module_forward_hook(hook_plus)],
    "global with kwargs": [
        lambda net: register_module_forward_hook(either),
        lambda net: register_module_forward_hook(either, with_kwargs=True),
    ],
    "global pre": [lambda net: register_module_forward_pre_hook(pre_either)],
}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("together", [False, True], ids=["in turn", "together"])
def test_hooks_added_and_removed_are_honoured(kind: str, together: bool) -> None:
    net = plain()
    compiled, handles = jm.jit(net), []
    try:
        for register in HOOKS[kind]:
            handles.append(register(net))
            same(compiled(BATCH), net(BATCH))
            None if together else handles[-1].remove()
    finally:
        for handle in handles:
            handle.remove()
    same(compiled(BATCH), net(BATCH))


def test_hooks_cleared_in_their_dict_are_honoured() -> None:
    net = Custom(multiply)
    compiled = jm.jit(net)
    net.register_forward_hook(hook_times)
    compiled(X)
    net._forward_hooks.clear()
    same(compiled(X), net(X))


def test_state_in_a_hook_is_an_argument() -> None:
    net, probe = Custom(multiply), Custom(multiply)
    net.register_forward_hook(lambda module, args, output: probe(output))
    compiled = jm.jit(net)
    compiled(X)
    probe.weight.data.mul_(2)
    same(compiled(X), net(X))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        bias = 0.0 if self.a.bias is None else self.a.bias.sum()
        extra = [m(x).sum() for name, m in self.named_children() if name not in ("a", "b")]
        frozen = sum(2.0 for p in self.parameters() if not p.requires_grad)
        return self.b(self.a(x)) + bias + sum(extra) + frozen + getattr(self, "shift", jnp.zeros((1, 3), jnp.float32))


STRUCTURE: dict[str, Any] = {
    "tie": lambda net: setattr(net.b, "weight", net.a.weight),
    "untie": lambda net: setattr(net.b, "weight", nn.Parameter(net.b.weight.value + 1)),
    "tie modules": lambda net: setattr(net, "b", net.a),
    "untie modules": lambda net: setattr(net, "b", nn.Linear(3, 3)),
    "replace parameter": lambda net: setattr(net.a, "weight", nn.Parameter(jnp.ones((3, 3), jnp.float32))),
    "replace in _parameters": lambda net: net.a._parameters.__setitem__("weight", nn.Parameter(np.eye(3, dtype="f4"))),
    "drop parameter": lambda net: setattr(net.a, "bias", None),
    "add parameter": lambda net: setattr(net.a, "bias", nn.Parameter(jnp.ones(3, jnp.float32))),
    "freeze": lambda net: net.a.weight.requires_grad_(False),
    "unfreeze": lambda net: setattr(net.a.weight, "requires_grad", True),
    "replace child": lambda net: setattr(net, "a", nn.Linear(3, 3)),
    "replace in _modules": lambda net: net._modules.__setitem__("a", nn.Linear(3, 3)),
    "replace _modules": lambda net: setattr(net, "_modules", dict(net._modules, a=nn.Linear(3, 3))),
    "wrap child": lambda net: net.set_submodule("a", nn.Linear(3, 3)),
    "add child": lambda net: net.add_module("c", nn.Linear(3, 3)),
    "delete child": lambda net: delattr(net, "c"),
    "add buffer": lambda net: net.register_buffer("shift", jnp.ones((1, 3), jnp.float32)),
    "none buffer": lambda net: setattr(net, "shift", None),
    "array buffer": lambda net: setattr(net, "shift", jnp.full((1, 3), 3.0, jnp.float32)),
    "buffer in _buffers": lambda net: net._buffers.__setitem__("shift", jnp.full((3, 3), 4.0, jnp.float32)[:1]),
    "delete in _buffers": lambda net: net._buffers.pop("shift"),
}


def test_structural_changes_are_honoured() -> None:
    net = Tied()
    net.forward = types.MethodType(Tied.forward, net)
    compiled = jm.jit(net)
    for name, change in STRUCTURE.items():
        if name in ("array buffer",):
            net._buffers["shift"] = None
        change(net)
        if net._buffers.get("shift", 0) is None:
            net.shift = jnp.zeros((1, 3), jnp.float32)
        np.testing.assert_allclose(compiled(BATCH), net(BATCH), rtol=1e-5, atol=1e-5, err_msg=name)


def test_buffer_takes_turns_with_none() -> None:
    net = Custom(lambda module, x: x if module.total is None else x + module.total)
    compiled = jm.jit(net)
    for value in (jnp.ones(3, jnp.float32), None, jnp.full(3, 2.0, jnp.float32), None):
        net.total = value
        same(compiled(X), net(X))


def test_networks_of_equal_structure_share_a_program() -> None:
    function = counted(lambda net, x: net(x))
    compiled, nets = jm.jit(function), [plain() for _ in range(3)]
    for net in (*nets, *nets):
        same(compiled(net, BATCH), net(BATCH))
    compiled(plain(), BATCH)
    assert len(function.calls) == 1


def test_objects_are_never_mixed_up() -> None:
    a, b = Custom(accumulate), Custom(accumulate)
    compiled = jm.jit(lambda first, second, x: (first(x), second(2 * x)))
    for first, second in [(a, b), (b, a), (a, b), (a, a)]:
        compiled(first, second, X)
    same(a.total, (1 + 2 + 1 + 1 + 2) * X)
    same(b.total, (2 + 1 + 2) * X)


def test_same_module_twice_is_another_program_than_two() -> None:
    a, b = Custom(accumulate), Custom(accumulate)
    compiled = jm.jit(lambda first, second: first is second)
    assert [bool(compiled(*pair)) for pair in [(a, b), (a, a), (b, a), (b, b)]] == [False, True, False, True]


def test_argument_that_is_also_in_the_closure_is_recognised() -> None:
    a, b = Custom(multiply), Custom(multiply)
    b.weight.data.mul_(2)
    compiled = jm.jit(lambda net: (net(X), a(X) if net is a else b(X) * 10))
    for net in (a, b, a):
        same(compiled(net)[1], a(X) if net is a else b(X) * 10)


def test_classes_of_equal_content_are_two_programs() -> None:
    class Double(nn.Linear):
        def forward(self, input: Any) -> Any:
            return 2 * super().forward(input)

    function, nets = jm.jit(lambda net, x: net(x)), [nn.Linear(3, 2), Double(3, 2)]
    for net in (*nets, *nets):
        same(function(net, BATCH), net(BATCH))


def test_new_shapes_and_dtypes_retrace() -> None:
    net = Custom(accumulate)
    compiled = jm.jit(net)
    compiled(X)
    net.weight.value, net.total = jnp.ones(2, jnp.float32), jnp.zeros(2, jnp.float32)
    same(compiled(X[:2]), X[:2])


def test_forward_that_counts_its_calls_is_never_stale() -> None:
    def body(module: Any, x: Any) -> Any:
        module.count += 1
        return x * module.count

    net = Custom(body, count=0)
    compiled = jm.jit(net)
    same([compiled(X) for _ in range(4)], [X, 2 * X, 3 * X, 4 * X])


@pytest.mark.parametrize("setting", [0.5, 0.0])
def test_hyperparameter_of_an_optimizer_is_no_constant(setting: float) -> None:
    net = Custom(multiply)
    optimizer = jm.optim.SGD(net.parameters(), lr=0.1)
    function = counted(lambda net, optimizer: optimizer.step(jm.grad(lambda net: net(X).sum())(net)))
    step = jm.jit(function)
    step(net, optimizer)
    optimizer.param_groups[0]["lr"] = setting
    before = net.weight.value
    step(net, optimizer)
    same(net.weight, before - setting * X)
    assert len(function.calls) == 1


@pytest.mark.parametrize("name", ["_labels", "_grad"])
def test_module_attribute_named_as_a_parameters_own_is_honoured(name: str) -> None:
    net = Custom(lambda module, x: getattr(module, name) * x)
    setattr(net, name, 2.0)
    compiled = jm.jit(net)
    same(compiled(X), 2 * X)
    setattr(net, name, 3.0)
    same(compiled(X), 3 * X)
