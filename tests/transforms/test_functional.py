"""``functionalize``, ``update`` and ``functional_call``: arrays in, arrays out, the module left alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, arrays, assert_arrays, assert_clean, mlp, plain, same


def test_params_are_trainable_and_state_is_the_rest() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    net[0].weight.requires_grad_(False)
    _, params, state = jm.functionalize(net)
    assert list(params) == ["0.bias", "1.weight", "1.bias"]
    assert list(state) == ["0.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jm.jit], ids=["eager", "jax.jit", "jm.jit"])
def test_apply_is_the_module_and_leaves_it_alone(wrap: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    apply, params, state = jm.functionalize(net)
    before = arrays(net)
    out, new_state = wrap(apply)(params, state, BATCH)
    out2, new_state = wrap(apply)(params, new_state, 2 * BATCH)
    assert_arrays(arrays(net), before)
    same(out, net(BATCH))
    same(out2, net(2 * BATCH))
    assert_arrays(dict(sorted({**params, **new_state}.items())), dict(sorted(arrays(net).items())))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, nn.Parameter])
def test_apply_takes_arrays_of_any_kind(kind: Any) -> None:
    net = plain()
    apply, params, state = jm.functionalize(net)
    out, new_state = apply({name: kind(p) for name, p in params.items()}, state, BATCH)
    same(out, net(BATCH))
    assert not isinstance(out, nn.Parameter) and new_state == {}


def test_apply_passes_arguments_by_name() -> None:
    net = nn.Bilinear(3, 3, 2)
    apply, params, state = jm.functionalize(net)
    same(apply(params, state, input2=BATCH, input1=2 * BATCH)[0], net(2 * BATCH, BATCH))


def test_apply_runs_the_module_as_it_is_now() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3))
    apply, params, state = jm.functionalize(net)
    net.eval()
    out, new_state = apply(params, state, BATCH)
    same(out, net(BATCH))
    assert_arrays(new_state, state)


def test_apply_needs_a_key_under_a_foreign_trace() -> None:
    apply, params, state = jm.functionalize(nn.Sequential(nn.Dropout(0.5)))
    with pytest.raises(RuntimeError, match=r"no key bound.*apply\(..., rng=key\)"):
        jax.jit(apply)(params, state, BATCH)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jax.jit"])
def test_apply_draws_from_its_key(wrap: Any, key: Any) -> None:
    apply, params, state = jm.functionalize(nn.Sequential(nn.Dropout(0.5)))
    draw, before = wrap(lambda rng: apply(params, state, jnp.ones((8, 8)), rng=rng)[0]), jm.get_rng_state()
    first, other = draw(key), draw(jax.random.split(key)[0])
    same(first, draw(key))
    assert not jnp.array_equal(first, other)
    np.testing.assert_array_equal(jm.get_rng_state(), before)


def test_key_gives_the_same_mask_eagerly_and_compiled(key: Any) -> None:
    apply, params, state = jm.functionalize(mlp())
    same(apply(params, state, BATCH, rng=key)[0], jax.jit(apply)(params, state, BATCH, rng=key)[0])


def test_tied_parameter_is_one_leaf() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    apply, params, state = jm.functionalize(net)
    assert list(params) == ["0.weight", "0.bias", "1.bias"]
    params["0.weight"] = 2 * jnp.eye(3, dtype=jnp.float32)
    expected = 2 * (2 * BATCH + params["0.bias"][None]) + params["1.bias"][None]
    same(apply(params, state, BATCH)[0], expected)


class Twin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        zeros = jnp.zeros(3)
        self.register_buffer("a", zeros)
        self.register_buffer("b", zeros)

    def forward(self, x: Any) -> Any:
        self.b = self.b + x
        return self.a + self.b


def test_buffers_that_share_an_array_are_two() -> None:
    net = Twin()
    apply, params, state = jm.functionalize(net)
    _, state = apply(params, state, X)
    out, state = apply(params, state, X)
    same(out, 2 * X)
    assert set(state) == {"a", "b"}


def test_shared_module_is_one_set_of_buffers() -> None:
    norm = nn.BatchNorm1d(3)
    net = nn.Sequential(norm, norm)
    apply, params, state = jm.functionalize(net)
    _, state = jax.jit(apply)(params, state, BATCH)
    assert int(state["0.num_batches_tracked"]) == 2 and "1.num_batches_tracked" not in state


BAD: dict[str, tuple[Any, str]] = {
    "missing": (lambda p, s: ({"weight": p["weight"]}, s), "params does not fit the module: missing bias"),
    "unexpected": (lambda p, s: ({**p, "extra": X}, s), "params does not fit the module: unexpected extra"),
    "shape": (lambda p, s: ({**p, "bias": X[:1]}, s), r"bias has shape \(1,\), expected \(2,\)"),
    "state": (lambda p, s: (p, {"total": X}), "state does not fit the module: unexpected total"),
    "all": (lambda p, s: ({"weight": X, "b": X}, s), r"missing bias; unexpected b; weight has shape \(3,\), expected"),
}


@pytest.mark.parametrize("kind", BAD)
def test_apply_names_what_does_not_fit(kind: str) -> None:
    change, match = BAD[kind]
    apply, params, state = jm.functionalize(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match=match):
        apply(*change(params, state), BATCH)


def test_functionalize_takes_a_module() -> None:
    with pytest.raises(TypeError, match="expected a Module, got 3"):
        jm.functionalize(3)


def test_optax_trains_the_plain_pytree() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    apply, params, state = jm.functionalize(net)
    rule = optax.adam(0.1)

    @jax.jit
    def step(params: Any, state: Any, opt: Any) -> Any:
        def loss(params: Any) -> Any:
            out, new = apply(params, state, BATCH)
            return jnp.mean((out - 1) ** 2), new

        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = rule.update(grads, opt)
        return optax.apply_updates(params, updates), state, opt, value

    opt, losses = rule.init(params), []
    for _ in range(20):
        params, state, opt, value = step(params, state, opt)
        losses.append(float(value))
    jm.update(net, params, state)
    assert losses[-1] < losses[0] / 2 and int(net[1].num_batches_tracked) == 20
    assert all(net.state_dict()[name] is array for name, array in {**params, **state}.items())


def test_update_takes_tied_names_numpy_and_parts() -> None:
    net = plain()
    assert jm.update(net, {"2.bias": np.array([7.0], np.float32)}) is net
    same(net[2].bias, [7.0])


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"0.bias": np.zeros(4, np.float32), "9.bias": X}, "unexpected 9.bias"),
        ({"0.bias": np.zeros(4, np.float32), "2.bias": X}, r"2.bias has shape \(3,\), expected \(1,\)"),
    ],
)
def test_update_changes_all_or_nothing(params: Any, match: str) -> None:
    net = plain()
    before = arrays(net)
    with pytest.raises(RuntimeError, match=match):
        jm.update(net, params)
    assert_arrays(arrays(net), before)


def test_update_under_a_foreign_trace_changes_nothing() -> None:
    net = plain()
    before = arrays(net)
    with pytest.raises(RuntimeError, match="traced value was about to be stored"):
        jax.jit(lambda b: jm.update(net, {"0.bias": np.ones(4, np.float32), "2.bias": b}) and b)(jnp.ones(1))
    assert_arrays(arrays(net), before)


def pair(tied: bool = False) -> tuple[Any, Any]:
    """Return the same net in both libraries."""
    nets = []
    for library in (nn, torch.nn):

        class Net(library.Module):
            def __init__(self, library: Any = library) -> None:
                super().__init__()
                self.a, self.b = library.Linear(3, 3), library.Linear(3, 3)
                self.norm = library.BatchNorm1d(3)
                if tied:
                    self.b.weight = self.a.weight

            def forward(self, x: Any, scale: float = 1.0) -> Any:
                return self.norm(self.b(self.a(x)) * scale)

        nets.append(Net())
    nets[0].load_state_dict(nets[1].state_dict())
    return nets[0], nets[1]


ONES, TWOS = np.ones((3, 3), np.float32), np.full((3, 3), 2.0, np.float32)
CALLS: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "dict": ({"a.weight": ONES}, {}, False),
    "tuple of dicts": (({"a.weight": ONES}, {"b.bias": ONES[0]}), {}, False),
    "empty": ({}, {}, False),
    "single argument": ({"a.weight": ONES}, {"args": BATCH}, False),
    "kwargs": ({"a.weight": ONES}, {"kwargs": {"scale": 3.0}}, False),
    "buffers": ({"norm.running_mean": ONES[0], "norm.running_var": ONES[0]}, {}, False),
    "unexpected": ({"c.weight": ONES}, {}, False),
    "strict missing": ({"a.weight": ONES}, {"strict": True}, False),
    "strict unexpected": ({"a.weight": ONES, "c.weight": ONES}, {"strict": True}, False),
    "doubled": (({"a.weight": ONES}, {"a.weight": TWOS}), {}, False),
    "tied": ({"a.weight": ONES}, {}, True),
    "tied by its second name": ({"b.weight": ONES}, {}, True),
    "tied twice": ({"a.weight": ONES, "b.weight": TWOS}, {}, True),
    "untied": ({"a.weight": ONES}, {"tie_weights": False}, True),
    "untied twice": ({"a.weight": ONES, "b.weight": TWOS}, {"tie_weights": False}, True),
    "no dict": (3, {}, False),
}


def convert(value: Any, array: Any) -> Any:
    if isinstance(value, dict):
        return {k: convert(v, array) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(convert(v, array) for v in value)
    return array(value) if hasattr(value, "shape") else value


def called(call: Any, net: Any, dicts: Any, settings: Any, array: Any) -> Any:
    settings = {"args": (BATCH,), **settings}
    try:
        out = call(net, convert(dicts, array), **convert(settings, array))
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        return type(error), None
    return None, np.asarray(out.detach() if isinstance(out, torch.Tensor) else out)


@pytest.mark.parametrize("kind", CALLS)
def test_functional_call_is_that_of_torch(kind: str) -> None:
    dicts, settings, tied = CALLS[kind]
    ours, theirs = pair(tied)
    error, out = called(jm.functional_call, ours, dicts, settings, jnp.asarray)
    expected_error, expected = called(torch.func.functional_call, theirs, dicts, settings, torch.tensor)
    assert error == expected_error
    if expected is not None:
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dict", "buffers", "empty", "tied"])
def test_functional_call_writes_what_torch_writes(kind: str) -> None:
    dicts, settings, tied = CALLS[kind]
    ours, theirs = pair(tied)
    called(jm.functional_call, ours, dicts, settings, jnp.asarray)
    called(torch.func.functional_call, theirs, dicts, settings, torch.tensor)
    assert_arrays(arrays(ours), {k: v.detach().numpy() for k, v in theirs.state_dict().items()})


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("strict missing", r"Missing key\(s\): .*b.bias"),
        ("strict unexpected", r"Unexpected key\(s\): .*c.weight"),
        ("doubled", "a.weight.* multiple dictionaries; behavior of functional call is ambiguous"),
        ("tied twice", "tied"),
        ("no dict", "Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts"),
    ],
)
def test_functional_call_says_what_torch_says(kind: str, match: str) -> None:
    dicts, settings, tied = CALLS[kind]
    arrays_of = (jnp.asarray, torch.tensor)
    for call, net, array in zip((jm.functional_call, torch.func.functional_call), pair(tied), arrays_of, strict=True):
        with pytest.raises((ValueError, RuntimeError), match=match):
            call(net, convert(dicts, array), (array(BATCH),), **settings)


def test_functional_call_is_differentiable_in_any_transform() -> None:
    net = Custom(accumulate)
    theirs = jax.grad(lambda w: jnp.sum((jnp.zeros(3) + X) * w**2))(net.weight.value)
    given = {"total": jnp.zeros(3)}
    ours = jax.jit(jax.grad(lambda w: jnp.sum(jm.functional_call(net, {**given, "weight": w**2}, X))))(net.weight.value)
    same(ours, theirs)
    same(net.total, 0 * X)
    assert_clean(net)


def test_ensemble_in_the_way_of_torch() -> None:
    nets = [plain() for _ in range(3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *[jm.functionalize(net)[1] for net in nets])
    out = jax.vmap(lambda p, x: jm.functional_call(nets[0], p, (x,)), (0, None))(stacked, BATCH)
    same(out, jnp.stack([net(BATCH) for net in nets]))
