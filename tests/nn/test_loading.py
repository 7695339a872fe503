"""Loading in the corners: versions of layers, extra state, hooks, devices and dtypes, and failures midway."""

import copy
import gc
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules._tracing import epoch

Check = Callable[..., None]

NETS = {
    "norm": lambda s: s.Sequential(s.Linear(2, 2), s.BatchNorm1d(2)),
    "still": lambda s: s.Sequential(s.Linear(2, 2), s.BatchNorm1d(2, track_running_stats=False)),
    "instance": lambda s: s.Sequential(s.InstanceNorm2d(2)),
    "tied": lambda s: tied(s),
    "shared": lambda s: s.Sequential(*[s.BatchNorm1d(2)] * 2),
    "nested": lambda s: s.ModuleDict({"a": s.ParameterDict({"y": deep(s), "x": s.array([2.0]), "n": None})}),
    "list": lambda s: s.ParameterList([s.array([1.0]), s.Parameter(s.array([2.0])), None, 3, deep(s)]),
    "lazy": lambda s: s.Sequential(s.LazyLinear(2)),
    "scalar": lambda s: buffered(s, s.array(1.0)),
    "hidden": lambda s: buffered(s, s.array([1.0]), persistent=False),
}


def tied(s: Any) -> Any:
    net = s.Sequential(s.Linear(2, 2, bias=False), s.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    return net


def deep(s: Any) -> Any:
    return s.ParameterDict({"z": s.array([5.0])})


def buffered(s: Any, value: Any, persistent: bool = True) -> Any:
    net = s.Module()
    net.register_buffer("a", value, persistent)
    return net


LOADS = [
    ("norm", "state['1.num_batches_tracked'] += 5; load(state); out = load(drop(state))"),
    ("norm", "state = drop(state); state._metadata = {'1': {'version': 1}}; out = load(state)"),
    ("norm", "out = load(net.half().state_dict(), assign=True)"),
    ("norm", "out = load(state, assign=True); out = net[1].running_mean"),
    ("norm", "net.requires_grad_(False); load(state, assign=True)"),
    ("still", "out = load(other('norm'), strict=False)"),
    ("tied", "state['1.weight'] = state['1.weight'] * 2; load(state); out = net[0].weight is net[1].weight"),
    ("tied", "state['0.weight'] = state['1.weight'] * 2; load(state)"),
    ("shared", "state['0.running_mean'] = state['1.running_mean'] * 2 + 1; load(state)"),
    ("tied", "load(state, assign=True); out = net[0].weight is net[1].weight"),
    ("tied", "load(net.state_dict(keep_vars=True), assign=True); out = net[0].weight is net[1].weight"),
    ("nested", "out = [state, load(state), repr(net)]"),
    ("nested", "state['a.y.z'] *= 2; load(state, assign=True)"),
    ("list", "out = [state, load(state), repr(net), len(net), net[3]]"),
    ("lazy", "out = [load(s.Sequential(s.Linear(3, 2)).state_dict()), net[0].weight.shape]"),
    ("scalar", "load({'a': s.array([3.0])})"),
    ("scalar", "load({'a': s.array([3.0])}, assign=True)"),
    ("scalar", "out = load({'a': s.Parameter(s.array(2.0))})"),
    ("scalar", "out = load({'a': s.Parameter(s.array(2.0))}, assign=True)"),
    ("hidden", "out = load({'a': s.array([2.0])}, strict=False, assign=True)"),
    ("norm", "p = state['0.bias'] = s.Parameter(s.array([1.0, 2.0])); load(state, True, True); out = p is net[0].bias"),
    ("norm", "net[0].register_load_state_dict_pre_hook(lambda m, d, p, *a: out.append([p, list(d)])); load(state)"),
    ("norm", "net.register_load_state_dict_pre_hook(rename); old = prefixed(state); out = [load(old), list(old)]"),
    ("norm", "[post(m, lambda m, k, n=n: out.append(n)) for n, m in net.named_modules()]; load(state)"),
]  # fmt: skip

FAILURES = [
    ("norm", "state = drop(state); state._metadata = {'1': {'version': 2}}; load(state)"),
    ("still", "load(other('norm'))"),
    ("instance", "load({'0.running_mean': s.array([0.0, 0.0]), '0.running_var': s.array([0.0, 0.0])})"),
    ("tied", "del state['1.weight']; load(state)"),
    ("lazy", "s.Sequential(s.Linear(3, 2)).load_state_dict(state)"),
    ("hidden", "load({'a': s.array([2.0])}, assign=True)"),
    ("scalar", "load({'a': s.array([3.0, 2.0])})"),
    ("norm", "state['0.bias'] = None; state['0.weight'] = 1.0; load(state)"),
    ("norm", "state['0.a.b'] = state['0'] = state[''] = state['0.weight.x'] = s.array(1.0); load(state)"),
    ("norm", "net[0].register_load_state_dict_pre_hook(lambda m, d, p, *a: d.pop(p + 'bias')); load(state)"),
    ("norm", "net[0]._get_name = lambda: 'Zed'; net[0].load_state_dict({})"),
]  # fmt: skip


def drop(state: Any) -> Any:
    return OrderedDict((k, v) for k, v in state.items() if "tracked" not in k)


def prefixed(state: Any) -> Any:
    return OrderedDict((f"old.{k}", v) for k, v in state.items())


def rename(module: Any, state: Any, prefix: str, *rest: Any) -> None:
    for key in [k for k in state if k.startswith(f"{prefix}old.")]:
        state[prefix + key.removeprefix(f"{prefix}old.")] = state.pop(key)


def scope(s: Any, name: str) -> dict[str, Any]:
    """What a statement sees: the library, a net, its state, and helpers."""
    net = NETS[name](s)
    helpers = {"drop": drop, "prefixed": prefixed, "rename": rename, "other": lambda n: NETS[n](s).state_dict()}
    methods = {"load": net.load_state_dict, "post": s.Module.register_load_state_dict_post_hook}
    return {**helpers, **methods, "s": s, "net": net, "state": net.state_dict(), "out": []}


@pytest.mark.parametrize("name,statement", LOADS)
def test_loading_does_what_torch_does(both: Check, name: str, statement: str) -> None:
    def script(s: Any) -> Any:
        names = scope(s, name)
        exec(statement, names)
        return [names["out"], names["net"]]

    both(script)


@pytest.mark.parametrize("name,statement", FAILURES)
def test_failing_says_what_torch_says(both: Check, name: str, statement: str) -> None:
    both(lambda s: exec(statement, scope(s, name)), raises=RuntimeError)


class Extra(nn.Module):
    """A module with extra state beside a layer, and plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 2)
        self.level, self.history = 5, ["made"]

    def forward(self, x: Any) -> Any:
        return self.lin(x) * self.level

    def get_extra_state(self) -> Any:
        return self.level

    def set_extra_state(self, state: Any) -> None:
        self.level = state
        self.history.append("set")


def vandal(module: Any, *rest: Any) -> None:
    """Change whatever a hook can reach, then raise."""
    root = ROOT[0]
    root[0].level, root[0].new, root[0].lin.late = 8, "attribute", nn.Linear(1, 1)
    root[0].lin.register_buffer("scratch", jnp.ones(1), persistent=False)
    root[0].lin.weight.requires_grad_(False)
    root[0].history.append("hook")
    root.eval()
    raise KeyError("in the middle")


ROOT: list[Any] = []


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("error", ["pre", "post", "extra", "shape"])
def test_a_failure_in_the_middle_changes_nothing(error: str, assign: bool) -> None:
    net, state = nn.Sequential(Extra(), Extra(), nn.Linear(2, 2)), nn.Sequential(Extra(), Extra(), nn.Linear(2, 2))
    state = state.state_dict() | {"0._extra_state": 7}
    ROOT[:] = [net]
    if error == "shape":
        state["2.bias"] = jnp.ones(3)
    elif error == "extra":
        net[1].__class__ = type("Vandal", (Extra,), {"set_extra_state": vandal})
    else:
        getattr(net[2], f"register_load_state_dict_{error}_hook")(vandal)
    values, traces = jax.tree.map(np.asarray, net.state_dict()), []
    run = jm.jit(lambda net, x: [traces.append(1), net(x)][1])
    want = run(net, jnp.ones((1, 2)))
    boxes = list(net.parameters())
    with pytest.raises((KeyError, RuntimeError), match="in the middle|size mismatch"):
        net.load_state_dict(state, assign=assign)
    assert (net[0].level, net[0].history, net.training, hasattr(net[0], "new")) == (5, ["made"], True, False)
    assert all(a is b and b.requires_grad for a, b in zip(boxes, net.parameters(), strict=True))
    assert list(net[0].lin._buffers) == list(net[0].lin._modules) == []
    jax.tree.map(np.testing.assert_array_equal, dict(values), dict(net.state_dict()))
    np.testing.assert_array_equal(run(net, jnp.ones((1, 2))), want)
    assert traces == [1]


@pytest.mark.parametrize("assign,moves", [(False, False), (True, True)])
def test_loading_retraces_nothing(assign: bool, moves: bool) -> None:
    net, traces = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), []
    run = jm.jit(lambda net, x: [traces.append(1), net(x)][1])
    run(net, jnp.ones((3, 2)))
    before = epoch.count
    state = NETS["norm"](nn).state_dict()
    made = epoch.count - before
    net.load_state_dict(state, assign=assign)
    assert (epoch.count - before > made) == moves
    twin = NETS["norm"](nn)
    twin.load_state_dict(state)
    np.testing.assert_allclose(run(net, jnp.ones((3, 2))), twin(jnp.ones((3, 2))), rtol=1e-6)
    assert traces == [1]


def test_an_optimizer_made_after_assigning_trains_the_new_parameters() -> None:
    net = nn.Linear(2, 2)
    net.load_state_dict({"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}, assign=True)
    optimizer = jm.optim.SGD(net.parameters(), lr=0.5)

    @jm.jit
    def step(net: Any, optimizer: Any) -> None:
        optimizer.step(jm.grad(lambda net: net(jnp.ones((1, 2))).sum())(net))

    step(net, optimizer)
    assert net.weight.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "int32", "uint8", "bool", "float8_e4m3fn"])
def test_checkpoints_of_torch_load_in_any_dtype(dtype: str) -> None:
    net, saved = nn.Linear(1, 2), torch.tensor([0.0, 1.0]).to(getattr(torch, dtype))
    net.load_state_dict({"weight": saved[:, None], "bias": saved})
    assert (net.bias.dtype, net.bias.tolist()) == (jnp.float32, [0.0, 1.0])
    if saved.is_floating_point():
        net.load_state_dict({"weight": saved[:, None], "bias": saved}, assign=True)
        assert net.bias.dtype == jax.dtypes.canonicalize_dtype(jnp.dtype(dtype))


@pytest.mark.parametrize("array", [np.float64(3), np.array([3]), np.array(3, ">f4"), np.ones(1, jnp.bfloat16) * 3])
def test_scalars_load_from_any_array_of_one_element(array: Any) -> None:
    net = buffered(nn, jnp.array(1.0))
    net.load_state_dict({"a": array})
    assert (net.a.shape, float(net.a)) == ((), 3.0)


def test_a_copied_array_goes_where_the_model_is_and_an_assigned_one_stays() -> None:
    first, second = jax.devices()[:2]
    state = {key: jax.device_put(value, second) for key, value in nn.Linear(2, 2).state_dict().items()}
    for net, home in ((nn.Linear(2, 2), first), (nn.Linear(2, 2).to(first), first)):
        net.load_state_dict(state)
        assert net.weight.devices() == {home}
        net.load_state_dict(state, assign=True)
        assert net.weight.devices() == {second}


def test_a_sharded_parameter_stays_sharded() -> None:
    net = nn.Linear(2, 4)
    sharding = jax.NamedSharding(jax.make_mesh((4,), ("x",)), jax.P("x"))
    net.weight.value = jax.device_put(net.weight.value, sharding)
    net.load_state_dict(nn.Linear(2, 4).state_dict())
    assert net.weight.sharding == sharding


@pytest.mark.parametrize("missing", ["get", "set"])
@pytest.mark.parametrize("strict", [True, False])
def test_half_of_the_extra_state(both: Check, missing: str, strict: bool) -> None:
    def script(s: Any) -> Any:
        methods = {"get_extra_state": lambda self: 3, "set_extra_state": lambda self, state: None}
        del methods[f"{missing}_extra_state"]
        net = s.Sequential(type("Half", (s.Module,), methods)())
        return [net.state_dict(), net.load_state_dict(net.state_dict(), strict=strict)]

    both(script, raises=RuntimeError if strict else ())


@pytest.mark.parametrize("value", ["s.array([1.0, 2.0])", "{'a': [1, None]}", "None", "'text'", "b''"])
def test_extra_state_may_be_anything(both: Check, value: str) -> None:
    def script(s: Any) -> Any:
        class Holder(s.Module):
            def get_extra_state(self) -> Any:
                return self.held

            def set_extra_state(self, state: Any) -> None:
                self.held = state

        source, target = Holder(), Holder()
        source.held = eval(value, {"s": s})
        return [target.load_state_dict(source.state_dict()), target.held == source.held, list(source.state_dict())]

    both(script)


def test_versions_are_torchs(both: Check) -> None:
    def script(s: Any) -> Any:
        layers = s.BatchNorm2d(2), s.InstanceNorm1d(2), s.MultiheadAttention(4, 2), s.Bilinear(1, 1, 1), s.LSTM(1, 1)
        net = s.Sequential(*layers, s.TransformerEncoderLayer(4, 2, 8), s.Sequential(s.PReLU(), s.SyncBatchNorm(2)))
        return [net.state_dict(prefix="top.")._metadata, net.state_dict()._metadata]

    both(script)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_metadata_survives_copies(both: Check, again: Callable[[Any], Any]) -> None:
    both(lambda s: again(NETS["norm"](s).state_dict())._metadata)


LACKING = [
    ("s.Conv2d(1, 1, 1)", "padding_mode"),
    ("s.Softmax()", "dim"),
    ("s.LSTM(1, 1)", "proj_size"),
    ("s.MultiheadAttention(4, 2)", "_qkv_same_embed_dim"),
    ("s.Upsample(scale_factor=2)", "recompute_scale_factor"),
    ("s.Linear(1, 1)", "_load_state_dict_post_hooks"),
    ("s.Linear(1, 1)", "_non_persistent_buffers_set"),
]


@pytest.mark.parametrize("layer,attribute", LACKING)
def test_state_from_before_an_attribute_existed(both: Check, layer: str, attribute: str) -> None:
    def script(s: Any) -> Any:
        net = eval(layer, {"s": s})
        old = {name: value for name, value in net.__dict__.items() if name != attribute}
        revived = type(net).__new__(type(net))
        revived.__setstate__(old)
        return [getattr(revived, attribute), revived.load_state_dict(net.state_dict())]

    both(script)


def test_a_load_leaves_nothing_to_the_garbage_collector() -> None:
    net, state = NETS["norm"](nn), NETS["norm"](nn).state_dict()
    gc.collect()
    gc.disable()
    old = weakref.ref(net[0].weight.value)
    net.load_state_dict(state)
    is_alive = old() is not None
    gc.enable()
    assert not is_alive


def test_what_was_donated_can_be_loaded_again() -> None:
    net = nn.Linear(2, 2)
    state = {name: jnp.array(value) for name, value in net.state_dict().items()}
    jax.jit(lambda weight: 2 * weight, donate_argnums=0)(net.weight.value)
    net.load_state_dict(state)
    np.testing.assert_array_equal(net.weight.value, state["weight"])


def test_lazy_parameters_can_not_be_shared_yet(both: Check) -> None:
    both(lambda s: s.Sequential(s.LazyLinear(2)).share_memory(), raises=RuntimeError)


@pytest.mark.parametrize("index", ["[0]", "[0, 1], [1, 0]", ":, [1]", "[]", "[True, False]"])
def test_lists_index_a_parameter(both: Check, index: str) -> None:
    def script(s: Any) -> Any:
        weight = s.Linear(2, 2).weight
        exec(f"weight.data[{index}] = 5", {"weight": weight})
        return [weight, eval(f"weight[{index}]", {"weight": weight})]

    both(script)
