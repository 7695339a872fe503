"""Equinox: every standard layer computes the same with our arrays in it, and the other way round."""

import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodules import export, nn

E, L = 4, 5  # features, length
KEY = jax.random.key(0)

Row = tuple[Callable[[], nn.Module], Callable[[], Any], list[tuple[int, ...]]]


def conv(name: str, size: tuple[int, ...], **kwargs: Any) -> Row:
    settings: dict[str, Any] = dict(kernel_size=size, stride=2, padding=1, **kwargs)
    has_bias = settings.pop("bias", True)
    return (
        lambda: getattr(nn, name)(E, 6, bias=has_bias, **settings),
        lambda: getattr(eqx.nn, name)(E, 6, use_bias=has_bias, key=KEY, **settings),
        [(2, E, *(5, 4, 3)[: len(size)])],
    )


ROWS: dict[str, Row] = {
    "Linear": (lambda: nn.Linear(E, 3), lambda: eqx.nn.Linear(E, 3, key=KEY), [(2, E)]),
    "Conv1d": conv("Conv1d", (3,)),
    "Conv2d-groups": conv("Conv2d", (3, 2), groups=2),
    "Conv3d": conv("Conv3d", (3, 2, 2), bias=False),
    "ConvTranspose1d": conv("ConvTranspose1d", (3,)),
    "ConvTranspose2d-groups": conv("ConvTranspose2d", (3, 4), groups=2, output_padding=1),
    "ConvTranspose3d": conv("ConvTranspose3d", (3, 2, 2), bias=False),
    "LayerNorm": (lambda: nn.LayerNorm((3, E)), lambda: eqx.nn.LayerNorm((3, E)), [(2, 3, E)]),
    "RMSNorm": (lambda: nn.RMSNorm(E, eps=1e-5), lambda: eqx.nn.RMSNorm(E, use_bias=False), [(2, E)]),
    "GroupNorm": (lambda: nn.GroupNorm(2, E), lambda: eqx.nn.GroupNorm(2, E), [(2, E, 3)]),
    "PReLU": (nn.PReLU, eqx.nn.PReLU, [(2, E)]),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(E, 2, batch_first=True),
        lambda: eqx.nn.MultiheadAttention(
            2, E, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=KEY
        ),
        [(2, L, E)] * 3,
    ),
    "MultiheadAttention-sizes": (
        lambda: nn.MultiheadAttention(E, 2, kdim=6, vdim=3, bias=False, batch_first=True),
        lambda: eqx.nn.MultiheadAttention(2, E, 6, 3, key=KEY),
        [(2, L, E), (2, L, 6), (2, L, 3)],
    ),
    "LSTMCell": (lambda: nn.LSTMCell(E, 3), lambda: eqx.nn.LSTMCell(E, 3, key=KEY), [(2, E), (2, 3), (2, 3)]),
    "GRUCell": (lambda: nn.GRUCell(E, 3), lambda: eqx.nn.GRUCell(E, 3, key=KEY), [(2, E), (2, 3)]),
    "GRUCell-no-bias": (
        lambda: nn.GRUCell(E, 3, bias=False),
        lambda: eqx.nn.GRUCell(E, 3, use_bias=False, key=KEY),
        [(2, E), (2, 3)],
    ),
}


def randomised(net: nn.Module) -> nn.Module:
    """Give parameters values that tell them apart."""
    for i, parameter in enumerate(net.parameters()):
        parameter.value = np.random.default_rng(i).normal(size=parameter.shape).astype(parameter.dtype)
    return net


@eqx.filter_jit
def run_layer(model: Any, *inputs: Any) -> Any:
    return jax.vmap(model)(*inputs)


def assert_same(ours: nn.Module, theirs: Any, shapes: list[tuple[int, ...]]) -> None:
    inputs: list[Any] = [np.random.default_rng(9 + i).normal(size=s).astype(np.float32) for i, s in enumerate(shapes)]
    if isinstance(ours, nn.LSTMCell):
        inputs[1:] = [tuple(inputs[1:])]
    expected = ours(*inputs)
    expected = expected[0] if isinstance(ours, nn.MultiheadAttention) else expected
    for a, b in zip(jax.tree.leaves(run_layer(theirs, *inputs)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def numbers(net: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in net.state_dict().items()}


@pytest.mark.parametrize("name", ROWS)
def test_layer_computes_the_same_and_gives_all_back(name: str) -> None:
    make, make_theirs, shapes = ROWS[name]
    ours = randomised(make())
    before = numbers(ours)
    theirs = export.to_equinox(ours, make_theirs())
    assert_same(ours, theirs, shapes)
    assert export.from_equinox(ours, theirs) == ([], [])
    jax.tree.map(np.testing.assert_array_equal, numbers(ours), before)


@pytest.mark.parametrize("name", ROWS)
def test_our_layer_computes_the_same_with_their_arrays(name: str) -> None:
    make, make_theirs, shapes = ROWS[name]
    ours, theirs = randomised(make()), make_theirs()
    export.from_equinox(ours, theirs)
    assert_same(ours, theirs, shapes)


def test_embedding_keeps_name_and_layout() -> None:
    net = nn.Embedding(5, 3)
    model = export.to_equinox(net, eqx.nn.Embedding(5, 3, key=KEY))
    np.testing.assert_array_equal(model(jnp.array(4)), net(np.array(4)))


class Model(nn.Module):
    """A small CNN with attention, containers and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.position = nn.Parameter(jnp.ones((6, 8), jnp.float32))
        self.attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])

    def forward(self, x: Any) -> Any:
        x = self.features(x)
        x = x.reshape(x.shape[0], 8, -1).swapaxes(1, 2) + self.position.value[None]
        x = x + self.attention(x, x, x)[0]
        for block in self.blocks:
            x = x + block(x)
        return x


class Theirs(eqx.Module):
    features: eqx.nn.Sequential
    position: jax.Array
    attention: eqx.nn.MultiheadAttention
    blocks: list[eqx.nn.Linear]

    def __init__(self, mode: Any) -> None:
        norm = eqx.nn.BatchNorm(8, "batch", mode=mode, momentum=0.9)
        self.features = eqx.nn.Sequential(
            [eqx.nn.Conv2d(3, 8, 3, padding=1, key=KEY), norm, eqx.nn.Lambda(jax.nn.relu)]
        )
        self.position = jnp.zeros((6, 8), jnp.float32)
        self.attention = eqx.nn.MultiheadAttention(2, 8, key=KEY)
        self.blocks = [eqx.nn.Linear(8, 8, key=key) for key in jax.random.split(KEY)]

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.features(x, state)
        x = x.reshape(8, -1).T + self.position
        x = x + self.attention(x, x, x)
        for block in self.blocks:
            x = x + jax.vmap(block)(x)
        return x, state


IMAGES = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32)


@eqx.filter_jit
def run(model: Any, state: Any) -> Any:
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(IMAGES, state)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_model_goes_to_equinox_and_back(mode: str) -> None:
    net = randomised(Model())
    for _ in range(2):
        net(IMAGES)  # moves the running statistics
    net.eval()
    given = eqx.nn.make_with_state(Theirs)(mode)
    model, state = export.to_equinox(net, *given)
    np.testing.assert_allclose(run(eqx.nn.inference_mode(model), state)[0], net(IMAGES), rtol=1e-4, atol=1e-5)
    _, state = run(model, state)  # another training step: the running statistics go on from where they were
    net.train()(IMAGES)
    other = Model().eval()
    assert export.from_equinox(other, model, state) == ([], [])
    np.testing.assert_allclose(other.features[1].running_mean, net.features[1].running_mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run(eqx.nn.inference_mode(model), state)[0], other(IMAGES), rtol=1e-4, atol=1e-5)
    export.from_equinox(other, *given)  # neither the model nor the state was written to
    assert not other.position.numpy().any() and not np.any(other.features[1].running_mean)


def test_statistics_of_a_young_batch_norm_are_those_it_computes_with() -> None:
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch", momentum=0.9)
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    step = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = step(x, state)
    net = nn.BatchNorm1d(3)
    export.from_equinox(net, norm, state)
    np.testing.assert_allclose(net.running_mean, x.mean(0), rtol=1e-4, atol=1e-6)
    theirs = jax.vmap(eqx.nn.inference_mode(norm), axis_name="batch", in_axes=(0, None))(x, state)[0]
    np.testing.assert_allclose(theirs, net.eval()(x), rtol=1e-4, atol=1e-6)


def test_deep_lstm_is_a_list_of_cells() -> None:
    net = randomised(nn.LSTM(E, 3, 2, bidirectional=True))
    cells = [eqx.nn.LSTMCell(size, 3, key=KEY) for size in (E, E, 6, 6)]

    class Stack(eqx.Module):
        cells: list[eqx.nn.LSTMCell]

    model = export.to_equinox(nn.ModuleDict({"cells": net}), Stack(cells))
    np.testing.assert_array_equal(model.cells[3].weight_ih, net.weight_ih_l1_reverse.numpy())


def test_modules_are_renamed() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    model = eqx.nn.MLP(3, 1, 2, 1, key=KEY)
    model = export.to_equinox(net, model, rename={"0": "layers.0", "2": "layers.1"})
    x = jnp.arange(3, dtype=jnp.float32)
    np.testing.assert_allclose(model(x), net(x), rtol=1e-6)


def test_weight_norm_is_a_matter_of_names() -> None:
    net = nn.ModuleDict({"fc": nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))})
    original = "fc.parametrizations.weight.original"

    class Theirs(eqx.Module):
        fc: eqx.nn.WeightNorm

    theirs = Theirs(eqx.nn.WeightNorm(eqx.nn.Linear(3, 2, key=KEY)))
    rename = {f"{original}0": "fc.g", f"{original}1": "fc.layer.weight", "fc.bias": "fc.layer.bias"}
    x = jnp.arange(3, dtype=jnp.float32)
    theirs = export.to_equinox(randomised(net), theirs, rename=rename)
    np.testing.assert_allclose(theirs.fc(x), net["fc"](x), rtol=1e-5)


def test_missing_equinox_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match=r"to_equinox\(net, model\) needs Equinox: pip install equinox"):
        export.to_equinox(nn.Linear(1, 1), object())


def test_module_is_itself_a_tree_for_equinox() -> None:
    net = nn.Linear(3, 2)
    arrays, static = eqx.partition(net, eqx.is_array)
    x = np.ones((1, 3), np.float32)
    out = eqx.filter_jit(lambda arrays, x: eqx.combine(arrays, static)(x))(arrays, x)
    np.testing.assert_allclose(out, net(x), rtol=1e-6)


def test_one_report_names_every_problem() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    before = numbers(net)
    model = eqx.nn.Sequential([eqx.nn.Linear(3, 4, use_bias=False, key=KEY), eqx.nn.PReLU()])
    with pytest.raises(RuntimeError, match="loading module for Sequential") as there:
        export.to_equinox(net, model)
    with pytest.raises(RuntimeError, match="loading model for Sequential") as back:
        export.from_equinox(net, model)
    for line in (
        'Unexpected key(s) in module: "layers.0.bias", "layers.1.weight", "layers.1.bias"',
        'Missing key(s) in module: "layers.1.negative_slope"',
        "size mismatch for layers.0.weight: the shape in the module is (2, 3), the shape in current model is (4, 3)",
    ):
        assert line in str(there.value)
    assert 'Missing key(s) in model: "layers.0.bias", "layers.1.weight", "layers.1.bias"' in str(back.value)
    jax.tree.map(np.testing.assert_array_equal, numbers(net), before)


def test_lenient_transfer_moves_what_fits_by_name() -> None:
    net, model = nn.Linear(3, 2, bias=False), eqx.nn.Linear(3, 2, key=KEY)
    filled = export.to_equinox(net, model, strict=False)
    np.testing.assert_array_equal(filled.weight, net.weight.numpy())
    np.testing.assert_array_equal(filled.bias, model.bias)
    assert export.from_equinox(net, model, strict=False) == ([], ["bias"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: export.to_equinox(nn.Linear(1, 1), {}), TypeError, "expected an equinox.Module, got dict"),
        (
            lambda: export.to_equinox(
                nn.BatchNorm1d(2), eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "b", mode="ema")[0]
            ),
            ValueError,
            "is a BatchNorm, whose statistics are in a State: call",
        ),
        (
            lambda: export.to_equinox(nn.MultiheadAttention(2, 1, add_bias_kv=True), eqx.nn.PReLU()),
            NotImplementedError,
            "cannot express the MultiheadAttention in Equinox: Equinox's attention has no bias_k",
        ),
        (
            lambda: export.to_equinox(nn.ModuleList([nn.LSTM(2, 2, proj_size=1)]), eqx.nn.PReLU()),
            NotImplementedError,
            r"cannot express layer '0' \(LSTM\) in Equinox: .* no projection",
        ),
    ],
)
def test_what_cannot_be_is_explained(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
