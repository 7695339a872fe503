"""Modules without memory: the meta device, ``jax.eval_shape`` of a constructor, and where new arrays go."""

import copy
import pickle
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxmodules as jm
from jaxmodules import nn

Check = Callable[..., None]
SHAPE = jax.ShapeDtypeStruct((2, 3), jnp.float32)


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(4)])
        self.up, self.down = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.gate, self.norm = nn.Linear(width, hidden, bias=False), nn.LayerNorm(width)

    def forward(self, x: Any) -> Any:
        y = self.norm(x)
        x = x + sum(layer(y) for layer in self.attention)
        return x + self.down(self.gate(y) * self.up(y))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32000, 4096)
        self.blocks = nn.Sequential(*(Block(4096, 11008) for _ in range(32)))
        self.head = nn.Linear(4096, 32000, bias=False)

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks(self.embedding(x)))


def on_meta() -> Llama:
    with jm.device("meta"):
        return Llama()


BUILD = {"meta": on_meta, "jax": lambda: jax.eval_shape(lambda: Llama()), "jm": lambda: jm.eval_shape(lambda: Llama())}


@pytest.mark.parametrize("way", BUILD)
def test_seven_billion_parameters_take_no_memory_and_no_samples(way: str) -> None:
    before = jm.get_rng_state()
    tracemalloc.start()
    net = BUILD[way]()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(p.numel() for p in net.parameters()) > 6.7e9 and peak < 100e6
    assert isinstance(net.head.weight.value, jax.ShapeDtypeStruct) and net.head.weight.is_meta
    np.testing.assert_array_equal(jm.get_rng_state(), before)


def test_shapes_are_computed_without_memory() -> None:
    net = on_meta()
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    assert jm.eval_shape(net, tokens) == jax.ShapeDtypeStruct((2, 8, 32000), jnp.float32)
    assert "6,738,411,520 parameters" in jm.summary(net)


LAYERS: dict[str, Callable[[Any], Any]] = {
    "Linear": lambda s: s.Linear(3, 2),
    "Bilinear": lambda s: s.Bilinear(3, 2, 4),
    "Conv2d": lambda s: s.Conv2d(3, 4, 2),
    "BatchNorm1d": lambda s: s.BatchNorm1d(3),
    "Embedding": lambda s: s.Embedding(5, 3, padding_idx=1),
    "LSTM": lambda s: s.LSTM(3, 4, num_layers=2),
    "GroupNorm": lambda s: s.GroupNorm(2, 4),
    "PReLU": lambda s: s.PReLU(),
    "Transformer": lambda s: s.TransformerEncoderLayer(8, 2),
    "Decoder": lambda s: s.TransformerDecoderLayer(8, 2),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_meta_layers_have_torchs_shapes_and_draw_nothing(layer: str, libraries: Any) -> None:
    (theirs, ours), before = libraries, jm.get_rng_state()
    with torch.device("meta"):
        expected = LAYERS[layer](theirs)
    with jm.device("meta"):
        net = LAYERS[layer](ours)
    assert {k: tuple(v.shape) for k, v in expected.state_dict().items()} == {
        k: v.shape for k, v in net.state_dict().items()
    }
    assert all(isinstance(value, jax.ShapeDtypeStruct) for value in net.state_dict().values())
    assert repr(net) == repr(expected)
    np.testing.assert_array_equal(jm.get_rng_state(), before)


@pytest.mark.parametrize("build", [lambda: nn.LSTM(3, 4), lambda: nn.BatchNorm1d(3), lambda: nn.Linear(3, 2)])
def test_shapes_of_a_constructor_are_those_of_the_module(build: Any) -> None:
    shapes = jax.eval_shape(build)
    assert jax.tree.structure(shapes) == jax.tree.structure(build())
    assert jax.tree.leaves(shapes) == [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in jax.tree.leaves(build())]


@pytest.mark.parametrize("kind", ["Linear", "LayerNorm", "MultiheadAttention", "TransformerEncoderLayer", "RNN"])
def test_device_argument_meta_draws_nothing(kind: str) -> None:
    args: Any = {"LayerNorm": (8,), "Linear": (8, 2)}.get(kind, (8, 2))
    before = jm.get_rng_state()
    net = getattr(nn, kind)(*args, device="meta")
    assert all(p.is_meta and p.device == jm.device("meta") for p in net.parameters())
    np.testing.assert_array_equal(jm.get_rng_state(), before)


def test_drawing_without_a_key_is_refused_when_compiled() -> None:
    with pytest.raises(RuntimeError, match="with no key bound"):
        jax.jit(lambda: nn.Linear(3, 2))()

    @jax.jit
    def build(key: Any) -> Any:
        with jm.fork_rng(key):
            return nn.Linear(3, 2)

    assert build(jax.random.key(0)).weight.shape == (2, 3)


def test_user_code_builds_on_meta() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(jm.randn(3, 4))
            self.register_buffer("mask", jnp.ones((3, 3)))
            self.register_buffer("index", np.arange(3), persistent=False)
            nn.init.orthogonal_(self.scale)
            self.scale.data[0] = 1.0
            self.scale.data.normal_().mul_(2.0)
            self.scale.data *= 0.5

    with jm.device("meta"):
        net = Net()
    for leaves in (jax.tree.leaves(net), jax.tree.leaves(jax.eval_shape(lambda: Net()))):
        assert [(leaf.shape, leaf.dtype.name) for leaf in leaves] == [
            ((3, 4), "float32"),
            ((3, 3), "float32"),
            ((3,), "int32"),
        ]


@pytest.mark.parametrize("name", [n for n in dir(nn.init) if n.endswith("_") and not n.startswith("_")])
def test_initialisers_leave_meta_parameters_alone(name: str) -> None:
    weight, before = nn.Parameter(jax.ShapeDtypeStruct((4, 4, 3), jnp.float32)), jm.get_rng_state()
    if name in ("eye_", "sparse_"):
        weight = nn.Parameter(SHAPE)
    extra = {"constant_": (1.0,), "sparse_": (0.5,)}.get(name, ())
    assert getattr(nn.init, name)(weight, *extra) is weight and weight.is_meta
    np.testing.assert_array_equal(jm.get_rng_state(), before)


def test_samples_on_meta_have_shapes_alone() -> None:
    before = jm.get_rng_state()
    with jm.device("meta"):
        drawn = jm.rand(2, 3), jm.randn(4), jm.randint(3, (2,)), jm.randperm(4), jm.normal(0.0, 1.0, (5,))
    assert [a.shape for a in drawn] == [(2, 3), (4,), (2,), (4,), (5,)]
    assert all(isinstance(a, jax.ShapeDtypeStruct) for a in drawn)
    np.testing.assert_array_equal(jm.get_rng_state(), before)


def test_parameter_on_meta_shows_what_it_has() -> None:
    weight = nn.Linear(3, 2, device="meta").half().weight
    assert repr(weight) == "Parameter containing:\nArray(..., device='meta', size=(2, 3), dtype=float16)"
    assert repr(weight.data) == "Array(..., device='meta', size=(2, 3), dtype=float16)"
    assert (weight.shape, weight.dtype, weight.ndim, weight.numel()) == ((2, 3), jnp.float16, 2, 6)
    assert weight.data.shape == (2, 3) and weight.data.is_meta and weight.requires_grad
    assert not nn.Linear(3, 2).weight.is_meta


REFUSED: dict[str, Callable[[Any], Any]] = {
    "call": lambda net: net(jnp.ones((1, 3))),
    "operator": lambda net: net.weight * 2,
    "numpy": lambda net: np.asarray(net.weight),
    "float": lambda net: float(net.bias),
    "method": lambda net: net.weight.data.sum(),
}


@pytest.mark.parametrize("use", REFUSED)
def test_use_of_a_meta_parameter_says_what_to_do(use: str) -> None:
    with pytest.raises(NotImplementedError, match=r"Cannot copy out of meta tensor; no data!.*jm\.eval_shape\(net"):
        REFUSED[use](nn.Linear(3, 2, device="meta"))


def test_compiled_call_names_what_has_no_data() -> None:
    with pytest.raises(NotImplementedError, match=r"no data! '0\.weight' of shape \(4, 3\) is on the meta device"):
        jm.jit(nn.Sequential(nn.Linear(3, 4, device="meta")))(jnp.ones((1, 3)))


def test_training_step_is_lowered_without_memory() -> None:
    with jm.device("meta"):
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    optimizer = jm.optim.Adam(net.parameters())

    def step(net: Any, optimizer: Any, x: Any) -> Any:
        loss, grads = jm.value_and_grad(lambda net: jnp.mean(net(x)))(net)
        optimizer.step(grads)
        return loss

    assert jm.eval_shape(step, net, optimizer, SHAPE) == jax.ShapeDtypeStruct((), jnp.float32)
    assert "tensor<4x3xf32>" in jm.jit(step).lower(net, optimizer, SHAPE).as_text()
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(net))


def test_modules_follow_each_other_to_meta() -> None:
    meta = nn.Linear(3, 2).to("meta").bfloat16()
    net = nn.BatchNorm1d(3).to(meta.weight)
    assert net.weight.is_meta and net.running_mean == jax.ShapeDtypeStruct((3,), jnp.bfloat16)
    assert net.weight.data.device == jm.device("meta")


def test_move_from_meta_is_torchs_error() -> None:
    with pytest.raises(NotImplementedError, match=r"no data! Please use .*\.to_empty\(\) instead of .*\.to\(\)"):
        nn.Linear(3, 2, device="meta").to("cpu")


def test_to_empty_then_reset_draws_the_usual_weights() -> None:
    jm.manual_seed(3)
    expected = nn.BatchNorm1d(3), nn.Linear(3, 2)
    jm.manual_seed(3)
    for net, other in zip((nn.BatchNorm1d(3, device="meta"), nn.Linear(3, 2, device="meta")), expected, strict=True):
        assert net.to_empty(device="cpu") is net
        net.reset_parameters()
        assert all(map(np.array_equal, net.state_dict().values(), other.state_dict().values()))


def test_to_empty_keeps_tying_and_goes_to_a_sharding() -> None:
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "x"), PartitionSpec("x"))
    with jm.device("meta"):
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].weight = net[0].weight
    net.to_empty(device=sharding)
    assert net[1].weight is net[0].weight and net[0].weight.value.sharding == sharding


def test_load_with_assign_gives_a_meta_module_its_arrays() -> None:
    source, net = nn.BatchNorm1d(3), nn.BatchNorm1d(3, device="meta")
    net.weight.requires_grad_(False)
    assert str(net.load_state_dict(source.state_dict(), assign=True)) == "<All keys matched successfully>"
    assert not net.weight.is_meta and not net.weight.requires_grad
    assert net.running_var is source.running_var


def test_load_without_assign_warns_and_does_nothing() -> None:
    theirs, net = torch.nn.Linear(3, 2, device="meta"), nn.Linear(3, 2, device="meta")
    with pytest.warns(UserWarning) as expected:
        theirs.load_state_dict(torch.nn.Linear(3, 2).state_dict())
    with pytest.warns(UserWarning, match="which is a no-op") as ours:
        net.load_state_dict(nn.Linear(3, 2).state_dict())
    assert [str(w.message) for w in ours] == [str(w.message) for w in expected]
    assert net.weight.is_meta


def test_load_of_a_meta_state_dict_is_refused() -> None:
    net = nn.Linear(3, 2)
    before = net.state_dict()
    with pytest.raises(RuntimeError, match=r"an exception occurred : \('Cannot copy out of meta tensor; no data!',\)"):
        net.load_state_dict(nn.Linear(3, 2, device="meta").state_dict())
    assert all(value is before[name] for name, value in net.state_dict().items())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_meta_module_is_copied(duplicate: Any) -> None:
    net = duplicate(nn.BatchNorm1d(3).to("meta"))
    assert net.weight.is_meta and net.running_mean == jax.ShapeDtypeStruct((3,), jnp.float32)


def test_functionalize_and_update_fill_a_meta_module() -> None:
    net, source = nn.Linear(3, 2, device="meta"), nn.Linear(3, 2)
    apply, params, state = jm.functionalize(net)
    assert jax.eval_shape(apply, params, state, SHAPE)[0] == jax.ShapeDtypeStruct((2, 2), jnp.float32)
    jm.update(net, jm.functionalize(source)[1])
    np.testing.assert_array_equal(net(jnp.ones((2, 3))), source(jnp.ones((2, 3))))


def test_lazy_modules_find_their_shapes_on_meta() -> None:
    with jm.device("meta"):
        net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    assert jm.eval_shape(net, SHAPE) == jax.ShapeDtypeStruct((2, 4), jnp.float32)
    assert net[0].weight.is_meta and net[0].weight.shape == (4, 3) and net[1].running_mean.shape == (4,)


def test_skip_init_allocates_what_meta_describes() -> None:
    before = jm.get_rng_state()
    assert nn.utils.skip_init(nn.Linear, 3, 2).weight.value.shape == (2, 3)
    np.testing.assert_array_equal(jm.get_rng_state(), before)


def test_new_arrays_go_to_the_innermost_place() -> None:
    first, second = jax.devices()[1:3]
    with jm.device(first):
        with jm.device(second):
            inner = nn.BatchNorm1d(3)
        net, sample, buffer = nn.Linear(3, 2), jm.rand(3), nn.Buffer(jnp.ones(3))
    assert all(leaf.devices() == {second} for leaf in jax.tree.leaves(inner))
    assert all(leaf.devices() == {first} for leaf in [*jax.tree.leaves(net), sample, buffer.data])
    assert nn.Linear(3, 2).weight.value.devices() == {jax.devices()[0]}


def test_weights_are_the_same_wherever_they_are_put() -> None:
    nets = []
    for place in ("cpu:0", jax.devices()[3], None):
        jm.manual_seed(0)
        nets.append(nn.Linear(3, 2, device=place))
    assert nets[1].weight.value.devices() == {jax.devices()[3]}
    assert all(np.array_equal(net.weight.value, nets[2].weight.value) for net in nets)


def test_writes_in_place_keep_the_place() -> None:
    device = jax.devices()[2]
    net = nn.Linear(3, 2, device=device)
    net.reset_parameters()
    net.bias.data.copy_(np.ones(2))
    assert net.weight.value.devices() == net.bias.value.devices() == {device}


def test_place_may_be_a_sharding_or_decorate_a_function() -> None:
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "x"), PartitionSpec("x"))
    net = jm.device(sharding)(lambda: nn.Linear(3, 4))()
    assert net.weight.value.sharding == sharding and net.bias.value.sharding == sharding


def test_place_is_the_threads_own_and_ends_with_its_block() -> None:
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(nn.Parameter(jnp.ones(2)).is_meta))
    with pytest.raises(KeyError, match="stop"), jm.device("meta"):
        thread.start()
        thread.join()
        raise KeyError("stop")
    assert seen == [False] and not nn.Parameter(jnp.ones(2)).is_meta


@pytest.mark.parametrize("name", ["cpu", "cpu:1", "cuda", "cuda:3", "meta"])
def test_device_is_a_plain_object_as_in_torch(name: str) -> None:
    ours, theirs = jm.device(name), torch.device(name)
    assert (ours.type, ours.index, str(ours), repr(ours)) == (theirs.type, theirs.index, str(theirs), repr(theirs))
    assert ours == jm.device(theirs) == copy.copy(ours) and hash(ours) == hash(jm.device(name))


def test_devices_compare_by_what_they_name() -> None:
    cpu = jax.devices()[0]
    assert jm.device("cpu") == jm.device("cpu", 0) == cpu == jm.device(cpu) != jm.device("meta")
    assert nn.Linear(3, 2).weight.device == jm.device("cpu") and hash(jm.device(cpu)) == hash(cpu)


@pytest.mark.parametrize(
    "given, error", [("nope", RuntimeError), ("cpu:x", RuntimeError), (1.5, TypeError), (None, TypeError)]
)
def test_what_is_no_device_is_refused(given: Any, error: Any) -> None:
    with pytest.raises(error, match="(?i)expected"):
        jm.device(given)


def test_device_that_is_not_there_is_refused_where_it_is_used() -> None:
    place = jm.device("cuda:7")
    with pytest.raises(RuntimeError, match="device 'cuda:7' is not there: this process has cpu:0"), place:
        pass
