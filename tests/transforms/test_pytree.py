"""Modules as pytrees: JAX's copy semantics, dotted names, nothing mutable shared."""

import collections
import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, arrays, assert_arrays, mlp, multiply, plain, same


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Config:
    scale: float = 2.0
    net: Any = None


def copied(net: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf, net)


def test_leaves_are_parameters_and_buffers_under_dotted_names() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    flat, _ = jax.tree_util.tree_flatten_with_path(net)
    names = [jax.tree_util.keystr(path).removeprefix(".") for path, _ in flat]
    assert names == [*(n for n, _ in net.named_parameters()), *(n for n, _ in net.named_buffers())]
    assert all(leaf is net.state_dict()[name] for name, (_, leaf) in zip(names, flat, strict=True))


def test_round_trip_is_an_equal_module() -> None:
    net = mlp()
    new = copied(net)
    assert type(new) is type(net) and repr(new) == repr(net) and new is not net
    assert_arrays(arrays(new), arrays(net))
    assert [n for n, _ in new.named_modules()] == [n for n, _ in net.named_modules()]


@pytest.mark.parametrize("method", ["eval", "freeze", "attribute", "hook", "buffer"])
def test_structures_are_equal_when_the_modules_are(method: str) -> None:
    change = {
        "eval": lambda net: net.eval(),
        "freeze": lambda net: net[0].weight.requires_grad_(False),
        "attribute": lambda net: setattr(net, "note", [1]),
        "hook": lambda net: net.register_forward_hook(print),
        "buffer": lambda net: setattr(net[1], "running_mean", None),
    }[method]
    a, b = mlp(), mlp()
    assert jax.tree.structure(a) == jax.tree.structure(b)
    change(b)
    assert jax.tree.structure(a) != jax.tree.structure(b)
    change(a)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def test_structure_of_a_copy_is_that_of_the_original() -> None:
    net = Custom(multiply, config=Config(net=nn.Linear(2, 2)), items=[1, {"a": 2}])
    assert jax.tree.structure(copied(net)) == jax.tree.structure(net)
    assert len(jax.tree.leaves(net)) == 4


def test_tied_parameters_are_one_leaf_and_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight, net[2] = net[0].weight, net[0]
    assert len(jax.tree.leaves(net)) == 3
    new = copied(net)
    assert new[1].weight is new[0].weight is not net[0].weight and new[2] is new[0]


def test_copy_keeps_flags_and_drops_gradients() -> None:
    net = plain().eval()
    net[0].weight.requires_grad_(False)
    net[0].weight.note = "mine"
    net[0].weight.grad = jnp.ones((4, 3))
    new = copied(net)
    assert not new.training and not new[0].weight.requires_grad and new[0].weight.note == "mine"
    assert new[0].weight.grad is None


def test_non_persistent_buffers_stay_so() -> None:
    net = Custom(multiply)
    net.register_buffer("cache", jnp.ones(2), persistent=False)
    assert "cache" not in copied(net).state_dict() and "cache" in dict(copied(net).named_buffers())


MUTABLE: dict[str, tuple[Any, Any]] = {
    "list": ([1], lambda v: v.append(2)),
    "dict": ({"a": 1}, lambda v: v.update(a=2)),
    "nested": ({"a": [1]}, lambda v: v["a"].append(2)),
    "list in a tuple": (([1],), lambda v: v[0].append(2)),
    "set": ({1}, lambda v: v.add(2)),
    "deque": (collections.deque([1], maxlen=3), lambda v: v.append(2)),
    "defaultdict": (collections.defaultdict(list, a=[1]), lambda v: v["a"].append(2)),
    "ordered dict": (collections.OrderedDict(a=1), lambda v: v.update(b=2)),
    "counter": (collections.Counter("a"), lambda v: v.update("b")),
    "numpy": (np.array([1]), lambda v: v.fill(2)),
    "dataclass": (Config(), lambda v: setattr(v, "scale", 3.0)),
    "partial": (functools.partial(max, [1]), lambda v: v.args[0].append(2)),
    "bytearray": (bytearray(b"a"), lambda v: v.extend(b"b")),
}


@pytest.mark.parametrize("kind", MUTABLE)
def test_copy_shares_nothing_mutable(kind: str) -> None:
    value, mutate = MUTABLE[kind]
    net = Custom(multiply, note=value)
    new = copied(net)
    before = repr(net.note)
    assert type(new.note) is type(net.note) and repr(new.note) == before
    mutate(new.note)
    assert repr(net.note) == before
    assert repr(copied(new).note) == repr(new.note)


def test_copy_of_a_deque_keeps_its_length() -> None:
    assert copied(Custom(multiply, note=collections.deque([1], maxlen=3))).note.maxlen == 3


@pytest.mark.parametrize("value", [Colour.RED, print, Config, jnp.float32, None, "text", ...], ids=repr)
def test_constants_stay_the_same_object(value: Any) -> None:
    assert copied(Custom(multiply, note=value)).note is value


def test_changes_of_a_copy_stay_in_the_copy() -> None:
    net = nn.Sequential(Custom(accumulate), nn.Linear(3, 3))
    new = copied(net)
    before = arrays(net)
    new(X)
    new[1].weight.data.zero_()
    new.append(nn.Identity())
    new[0].register_forward_hook(print)
    new.eval()
    assert_arrays(arrays(net), before)
    assert len(net) == 2 and not net[0]._forward_hooks and net.training


class Linked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.order = [self.a, self.b]
        self.by_name = {"a": self.a}
        self.config = Config(net=self.b)
        self.method = self.scale
        self.partial = functools.partial(self.scale, 2.0)
        self.factor = 1.0
        object.__setattr__(self.a, "parent", self)
        self.a.register_forward_hook(self.hook)

    def hook(self, module: Any, args: Any, output: Any) -> Any:
        return output * self.factor

    def scale(self, x: Any) -> Any:
        return x * self.factor

    def forward(self, x: Any) -> Any:
        return self.method(self.order[0](x)) + self.config.net(x) + self.partial()


def test_what_points_inside_points_inside_the_copy() -> None:
    net = Linked()
    new = copied(net)
    assert new.order[0] is new.a is new.by_name["a"] and new.config.net is new.b and new.a.parent is new
    assert new.method.__self__ is new and new.partial.func.__self__ is new
    assert next(iter(new.a._forward_hooks.values())).__self__ is new
    new.factor = 3.0
    same(new(BATCH), (new.b(BATCH) + 9 * (BATCH @ new.a.weight.value.T + new.a.bias.value[None]) + 6.0))
    assert net.factor == 1.0


@pytest.mark.parametrize("leaf", [None, object(), 1.5, "x"], ids=["None", "object", "float", "str"])
def test_leaves_may_be_anything(leaf: Any) -> None:
    new = jax.tree.map(lambda _: leaf, plain())
    assert new[0].weight.value is leaf and isinstance(new[0].weight, nn.Parameter)
    assert jax.tree.structure(jax.tree.map(lambda _: 0, plain())) == jax.tree.structure(plain())


def test_prefixes_and_specs_fit_a_module() -> None:
    net = plain()
    specs = jax.tree.map(lambda leaf: leaf.ndim, net)
    mapped = jax.tree.map(lambda leaf, n: leaf * n, net, specs)
    same(mapped[0].weight, 2 * net[0].weight.value)
    assert jax.tree.leaves(jax.tree_util.tree_map_with_path(lambda path, leaf: len(path), net)) == [1] * 4


def test_arithmetic_over_two_modules() -> None:
    a, b = plain(), plain()
    mean = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    same(mean[0].bias, (a[0].bias.value + b[0].bias.value) / 2)


def test_device_put_and_eval_shape() -> None:
    net, device = plain(), jax.devices()[-1]
    assert all(p.value.devices() == {device} for p in jax.device_put(net, device).parameters())
    shapes = jax.eval_shape(lambda net: net, net)
    assert isinstance(shapes, nn.Sequential) and shapes[0].weight.value == jax.ShapeDtypeStruct((4, 3), jnp.float32)


def test_jax_jit_takes_and_returns_modules() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    calls: list[int] = []

    @jax.jit
    def run(net: Any, x: Any) -> Any:
        calls.append(1)
        return net(x), net

    before = arrays(net)
    out, new = run(net, BATCH)
    run(copied(net), BATCH)
    assert_arrays(arrays(net), before)
    same(out, net(BATCH))
    assert_arrays(arrays(new), arrays(net))
    assert len(calls) == 1 and new is not net


def test_jax_grad_and_scan_over_modules() -> None:
    net = plain()
    grads = jax.grad(lambda net: jnp.sum(net(BATCH)))(net)
    assert_arrays({n: p.value for n, p in grads.named_parameters()}, jm.grad(lambda net: jnp.sum(net(BATCH)))(net))
    nets = [nn.Linear(3, 3) for _ in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    out, _ = jax.lax.scan(lambda x, net: (jnp.tanh(net(x)), None), jnp.asarray(BATCH), stacked)
    expected = functools.reduce(lambda x, net: jnp.tanh(net(x)), nets, BATCH)
    same(out, expected)


def test_module_is_the_carry_of_a_scan() -> None:
    net, _ = jax.lax.scan(lambda net, x: (net, net(x)), Custom(accumulate), jnp.asarray(BATCH))
    same(net.total, BATCH.sum(0))


def test_modules_of_other_structure_do_not_stack() -> None:
    with pytest.raises(ValueError, match="Mismatch custom node data|Custom node type mismatch|pytree"):
        jax.tree.map(jnp.add, nn.Linear(3, 2), nn.Linear(3, 2).eval())


def test_parameter_is_a_pytree_of_one_leaf() -> None:
    box = nn.Parameter(X, requires_grad=False)
    new = jax.tree.map(lambda leaf: leaf * 2, {"a": box})["a"]
    assert isinstance(new, nn.Parameter) and not new.requires_grad
    same(new, 2 * X)
    same(jax.jit(lambda box: box * 2)(box), 2 * X)


def test_copy_is_a_module_for_jm_jit() -> None:
    net = Custom(accumulate)
    compiled = jm.jit(lambda net, x: net(x))
    compiled(net, X)
    new = copied(net)
    compiled(new, X)
    same(new.total, 2 * X)
    same(net.total, X)


def test_containers_survive() -> None:
    net = nn.ModuleDict({"list": nn.ModuleList([nn.Linear(2, 2)]), "vectors": nn.ParameterList([jnp.ones(2)])})
    net["dict"] = nn.ParameterDict({"p": nn.Parameter(jnp.ones(2))})
    new = copied(net)
    assert_arrays(arrays(new), arrays(net))
    new["list"].append(nn.Linear(2, 2))
    new["vectors"].append(jnp.ones(1))
    assert len(net["list"]) == 1 and len(net["vectors"]) == 1 and len(new["vectors"]) == 2


class State(NamedTuple):
    net: Any
    step: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Run:
    net: Any
    rest: Any


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "dict": lambda net: {"net": net},
    "tuple": lambda net: (net,),
    "list": lambda net: [net],
    "named tuple": lambda net: State(net, 1),
    "dataclass": lambda net: Run(net, optax.adam(0.1).init(net)),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("jit", [jax.jit, jm.jit], ids=["jax", "jm"])
def test_module_lies_in_any_pytree(holder: str, jit: Any) -> None:
    net = plain()
    held = HOLDERS[holder](net)

    def find(tree: Any) -> Any:
        return next(m for m in jax.tree.leaves(tree, is_leaf=lambda m: isinstance(m, nn.Sequential)) if callable(m))

    same(jit(lambda held, x: find(held)(x))(jax.tree.map(lambda leaf: leaf, held), BATCH), net(BATCH))


def test_key_paths_are_dotted_names_wherever_the_module_lies() -> None:
    flat, _ = jax.tree_util.tree_flatten_with_path({"net": mlp().requires_grad_(False)})
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in flat]
    assert names == [f"net.{n}" for n, _ in [*mlp().named_parameters(), *mlp().named_buffers()]]


def test_none_in_place_of_every_leaf() -> None:
    empty = jax.tree.map(lambda leaf: None, plain())
    assert isinstance(empty, nn.Sequential) and empty[0].weight.value is None and jax.tree.leaves(empty) == []
    filled = jax.tree.map(lambda _, leaf: leaf, empty, plain(), is_leaf=lambda leaf: leaf is None)
    assert filled[0].weight.shape == (4, 3)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.Sequential, nn.Module])
def test_modules_are_leaves_where_they_are_asked_to_be(kind: Any) -> None:
    net = mlp()
    leaves = jax.tree.leaves({"net": net, "x": 1}, is_leaf=lambda node: isinstance(node, kind))
    assert (leaves[0] is net) == isinstance(net, kind) and leaves[-1] == 1


def test_leaves_are_moved_waited_for_and_fetched() -> None:
    net, mesh = plain(), jax.sharding.Mesh(np.array(jax.devices()), "x")
    shardings = jax.tree.map(
        lambda leaf: NamedSharding(mesh, PartitionSpec("x") if leaf.shape == (4, 3) else PartitionSpec()), net
    )
    moved = jax.block_until_ready(jax.device_put(net, shardings))
    assert moved[0].weight.value.sharding == shardings[0].weight.value
    assert moved[2].weight.value.sharding.is_fully_replicated
    assert isinstance(jax.device_get(moved)[0].weight.value, np.ndarray)
    same(moved(BATCH), net(BATCH))


def test_shapes_tell_where_a_compiled_constructor_puts_its_arrays() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "x")

    def build(key: Any) -> Any:
        with jm.fork_rng(key):
            return nn.Linear(3, 4)

    shapes = jax.eval_shape(lambda: nn.Linear(3, 4))
    shardings = jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec("x")), shapes)
    net = jax.jit(build, out_shardings=shardings)(jax.random.key(0))
    assert net.weight.value.sharding == NamedSharding(mesh, PartitionSpec("x"))
    assert jax.tree.structure(net) == jax.tree.structure(shapes)


def test_trees_of_shapes_are_mapped_with_modules() -> None:
    shapes, net = jax.eval_shape(mlp), mlp()
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    assert isinstance(zeros, nn.Sequential) and zeros[1].running_var.shape == (4,)
    assert jax.tree.all(jax.tree.map(lambda shape, leaf: shape.shape == leaf.shape, shapes, net))


def test_casts_and_differences_are_modules() -> None:
    net = plain()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), net)
    assert half(jnp.asarray(BATCH, jnp.bfloat16)).dtype == jnp.bfloat16 and net[0].weight.dtype == jnp.float32
    pairs = jax.tree.map(lambda leaf: (leaf, -leaf), net)
    inner = jax.tree.structure((0, 0))
    plus, minus = jax.tree.transpose(jax.tree.structure(net), inner, pairs)
    same(optax.tree.norm(optax.tree.add(plus, minus)), 0)


def test_optax_takes_a_module_for_its_parameters() -> None:
    net, rule = plain(), optax.adam(0.1)

    @jax.jit
    def step(net: Any, state: Any) -> Any:
        updates, state = rule.update(jax.grad(lambda net: jnp.mean(net(BATCH) ** 2))(net), state, net)
        return optax.apply_updates(net, updates), state

    trained, state = step(*step(net, rule.init(net)))
    assert jax.tree.structure(trained) == jax.tree.structure(net) and int(state[0].count) == 2
    optimizer = jm.optim.Optimizer(net, rule)
    for _ in range(2):
        optimizer.step(jm.grad(lambda net: jnp.mean(net(BATCH) ** 2))(net))
    assert_arrays(arrays(trained), arrays(net))
