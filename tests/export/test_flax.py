"""Flax: every standard layer computes the same with our arrays in its layout, and the other way round."""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from flax.core import freeze

import jaxmodules as jm
from jaxmodules import export, nn
from tests.rows import rows

E, H, L = 4, 2, 5  # features, heads, length
rngs = nnx.Rngs(0)


def last(x: Any) -> Any:
    """Put channels last: (N, C, ...) -> (N, ..., C)."""
    return np.moveaxis(np.asarray(x), 1, -1)


class Row(NamedTuple):
    """A layer in three libraries, made lazily, and how it is called."""

    ours: Callable[[], nn.Module]
    linen: Callable[[], Any]
    nnx: Callable[[], Any]
    shape: tuple[int, ...]
    order: Callable[[Any], Any] = np.asarray  # from our order of axes to theirs
    times: int = 1  # how many inputs
    kwargs: dict[str, Any] = {}


def conv(ours: Any, size: tuple[int, ...], groups: int = 1) -> Row:
    settings: dict[str, Any] = dict(strides=(2,) * len(size), padding=[(1, 1)] * len(size), feature_group_count=groups)
    return Row(
        lambda: ours(E, 6, size, stride=2, padding=1, groups=groups, bias=groups == 1),
        lambda: linen.Conv(6, size, use_bias=groups == 1, **settings),
        lambda: nnx.Conv(E, 6, size, use_bias=groups == 1, rngs=rngs, **settings),
        (2, E, *(5, 4, 3)[: len(size)]),
        last,
    )


def transposed(ours: Any, size: tuple[int, ...]) -> Row:
    # the padding is of the dilated input: what the window reaches beyond it, less ours
    settings: dict[str, Any] = dict(strides=(2,) * len(size), padding=[(k - 2, k - 1) for k in size])
    return Row(
        lambda: ours(E, 3, size, stride=2, padding=1, output_padding=1),
        lambda: linen.ConvTranspose(3, size, **settings),
        lambda: nnx.ConvTranspose(E, 3, size, rngs=rngs, **settings),
        (2, E, *(3, 4, 3)[: len(size)]),
        last,
    )


def norm(ours: Any, name: str, *, linen_kwargs: Any = None, nnx_kwargs: Any = None, shape: Any = (3, E)) -> Row:
    def make(library: Any, kwargs: Any, *args: Any, **more: Any) -> Any:
        return getattr(library, name)(*args, epsilon=1e-5, **(kwargs or {}), **more)

    order = last if len(shape) > 2 and "Layer" not in name else np.asarray
    return Row(
        ours,
        lambda: make(linen, linen_kwargs),
        lambda: make(nnx, linen_kwargs if nnx_kwargs is None else nnx_kwargs, E, rngs=rngs),
        shape,
        order,
    )


def randomised(layer: nn.Module) -> nn.Module:
    """Give parameters and running statistics values that tell them apart."""
    for i, parameter in enumerate(layer.parameters()):
        parameter.value = np.random.default_rng(i).normal(size=parameter.shape).astype(parameter.dtype)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = jnp.linspace(-1, 1, module.num_features, dtype=jnp.float32)
            module.running_var = jnp.linspace(0.5, 2, module.num_features, dtype=jnp.float32)
    return layer


BATCH = dict(use_running_average=True)
ROWS = {
    "Linear": Row(lambda: nn.Linear(E, 3), lambda: linen.Dense(3), lambda: nnx.Linear(E, 3, rngs=rngs), (2, E)),
    "Linear-no-bias": Row(
        lambda: nn.Linear(E, 3, bias=False),
        lambda: linen.Dense(3, use_bias=False),
        lambda: nnx.Linear(E, 3, use_bias=False, rngs=rngs),
        (2, E),
    ),
    "Conv1d": conv(nn.Conv1d, (3,)),
    "Conv2d": conv(nn.Conv2d, (3, 2)),
    "Conv2d-groups": conv(nn.Conv2d, (3, 2), groups=2),
    "Conv3d": conv(nn.Conv3d, (3, 2, 2)),
    "ConvTranspose1d": transposed(nn.ConvTranspose1d, (3,)),
    "ConvTranspose2d": transposed(nn.ConvTranspose2d, (3, 4)),
    "ConvTranspose3d": transposed(nn.ConvTranspose3d, (3, 4, 2)),
    "LayerNorm": norm(lambda: nn.LayerNorm(E), "LayerNorm"),
    "LayerNorm-2d": Row(
        lambda: nn.LayerNorm((3, E)),
        lambda: linen.LayerNorm(1e-5, reduction_axes=(-2, -1), feature_axes=(-2, -1)),
        lambda: None,
        (2, 3, E),
    ),
    "LayerNorm-plain": norm(
        lambda: nn.LayerNorm(E, elementwise_affine=False),
        "LayerNorm",
        linen_kwargs=dict(use_bias=False, use_scale=False),
    ),
    "RMSNorm": norm(lambda: nn.RMSNorm(E, eps=1e-5), "RMSNorm"),
    "GroupNorm": norm(
        lambda: nn.GroupNorm(2, E),
        "GroupNorm",
        linen_kwargs=dict(num_groups=2),
        nnx_kwargs=dict(num_groups=2),
        shape=(2, E, 3, 2),
    ),
    "BatchNorm2d": norm(lambda: nn.BatchNorm2d(E), "BatchNorm", linen_kwargs=BATCH, shape=(2, E, 3, 2)),
    "InstanceNorm2d": norm(lambda: nn.InstanceNorm2d(E, affine=True), "InstanceNorm", shape=(2, E, 3, 2)),
    "PReLU": Row(nn.PReLU, linen.PReLU, nnx.PReLU, (2, E)),
    "MultiheadAttention": Row(
        lambda: nn.MultiheadAttention(E, H, batch_first=True),
        lambda: linen.MultiHeadDotProductAttention(H),
        lambda: nnx.MultiHeadAttention(H, E, decode=False, rngs=rngs),
        (2, L, E),
        times=3,
    ),
    "MultiheadAttention-sizes": Row(
        lambda: nn.MultiheadAttention(E, H, kdim=6, vdim=6, bias=False, batch_first=True),
        lambda: linen.MultiHeadDotProductAttention(H, use_bias=False),
        lambda: nnx.MultiHeadAttention(H, E, in_kv_features=6, use_bias=False, decode=False, rngs=rngs),
        (2, L, E),
        times=3,
    ),
}


def make_rnn(cell: str, library: Any, layers: int, both: bool) -> Any:
    """Return RNNs around cells, as many as PyTorch has in one layer."""

    def one(size: int, **kwargs: Any) -> Any:
        made = getattr(library, cell)
        return library.RNN(made(E) if library is linen else made(size, E, rngs=rngs), **kwargs)

    size = 2 * E if both else E
    made = [
        library.Bidirectional(one(E if i == 0 else size), one(E if i == 0 else size)) if both else one(E)
        for i in range(layers)
    ]
    return made[0] if layers == 1 else library.Sequential(made) if library is linen else library.Sequential(*made)


def recurrent(ours: Any, cell: str, layers: int = 1, both: bool = False, **kwargs: Any) -> Row:
    return Row(
        lambda: ours(E, E, layers, bidirectional=both, batch_first=True, **kwargs),
        lambda: make_rnn(cell, linen, layers, both),
        lambda: make_rnn(cell, nnx, layers, both),
        (2, L, E),
    )


ROWS |= {
    "RNN": recurrent(nn.RNN, "SimpleCell"),
    "LSTM": recurrent(nn.LSTM, "OptimizedLSTMCell"),
    "LSTM-no-bias": recurrent(nn.LSTM, "OptimizedLSTMCell", bias=False),
    "LSTM-deep": recurrent(nn.LSTM, "OptimizedLSTMCell", 2, True),
    "GRU": recurrent(nn.GRU, "GRUCell"),
    "GRU-no-bias": recurrent(nn.GRU, "GRUCell", bias=False),
}

LINEN_ONLY = (
    "Conv1d Conv3d ConvTranspose1d ConvTranspose3d Linear-no-bias LayerNorm-2d LayerNorm-plain LSTM-deep".split()
)
NNX_ROWS = [name for name in ROWS if name not in LINEN_ONLY]  # what is left out has the same rules


def ready(name: str, library: str) -> tuple[nn.Module, Any, list[np.ndarray]]:
    """Return our layer, theirs and how to run it, and inputs in our order."""
    row = ROWS[name]
    ours = randomised(row.ours()).eval()
    if name == "GRU" and library == "nnx":
        ours.bias_hh_l0.data[2 * E :] = 0
    shapes = [row.shape] * row.times
    if name == "MultiheadAttention-sizes":
        shapes[1:] = [(2, L, 6)] * 2
    inputs = [np.random.default_rng(9 + i).normal(size=s).astype(np.float32) for i, s in enumerate(shapes)]
    return ours, runner(name, library), inputs


@functools.cache
def runner(name: str, library: str) -> tuple[Any, Callable[..., Any]]:
    """Return their layer, and a compiled function of its arrays and inputs."""
    theirs = getattr(ROWS[name], library)()
    if library == "linen":
        return theirs, jax.jit(theirs.apply)
    graph, _ = nnx.split(theirs)
    return theirs, jax.jit(lambda state, *inputs: nnx.merge(graph, state)(*inputs))


def assert_same(ours: nn.Module, theirs: Callable[..., Any], inputs: list[np.ndarray], order: Any) -> None:
    expected = ours(*inputs)
    expected = expected[0] if isinstance(expected, tuple) else expected
    np.testing.assert_allclose(theirs(*map(order, inputs)), order(expected), rtol=1e-5, atol=1e-5)


def numbers(net: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in net.state_dict().items()}


def perturbed(tree: Any) -> Any:
    """Return other arrays of the same shapes, positive as a variance has to be."""
    return jax.tree.map(lambda a: np.random.default_rng(a.size).uniform(0.5, 1.5, a.shape).astype(a.dtype), tree)


@pytest.mark.parametrize("name", ROWS)
def test_linen_layer_computes_the_same_and_gives_all_back(name: str) -> None:
    ours, (_, run), inputs = ready(name, "linen")
    before = numbers(ours)
    variables = export.to_linen(ours)
    assert_same(ours, functools.partial(run, variables), inputs, ROWS[name].order)
    assert export.from_linen(ours, variables) == ([], [])
    jax.tree.map(np.testing.assert_array_equal, numbers(ours), before)


@pytest.mark.parametrize("name", [name for name in ROWS if "no-bias" not in name])
def test_layer_computes_the_same_as_linen_with_its_variables(name: str) -> None:
    ours, (_, run), inputs = ready(name, "linen")
    variables = perturbed(export.to_linen(ours))
    export.from_linen(ours, variables)
    assert_same(ours, functools.partial(run, variables), inputs, ROWS[name].order)
    jax.tree.map(np.testing.assert_array_equal, export.to_linen(ours), variables)


@pytest.mark.parametrize("name", NNX_ROWS)
def test_nnx_layer_computes_the_same_and_gives_all_back(name: str) -> None:
    ours, (theirs, run), inputs = ready(name, "nnx")
    before = numbers(ours)
    nnx.update(theirs, export.to_nnx(ours))
    assert_same(ours, functools.partial(run, nnx.state(theirs)), inputs, ROWS[name].order)
    assert export.from_nnx(ours, theirs) == ([], [])
    jax.tree.map(np.testing.assert_array_equal, numbers(ours), before)


@pytest.mark.parametrize("name", [name for name in NNX_ROWS if "no-bias" not in name])
def test_layer_computes_the_same_as_nnx_with_its_state(name: str) -> None:
    ours, (theirs, run), inputs = ready(name, "nnx")
    nnx.update(theirs, perturbed(export.to_nnx(ours)))
    export.from_nnx(ours, nnx.state(theirs))
    assert_same(ours, functools.partial(run, nnx.state(theirs)), inputs, ROWS[name].order)


class Model(nn.Module):
    """A small CNN with attention, containers of each kind and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.position = nn.Parameter(jnp.ones((1, 6, 8), jnp.float32))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.heads = nn.ModuleDict({"mean": nn.Linear(8, 2), "scale": nn.Linear(8, 2)})

    def forward(self, x: Any) -> Any:
        x = self.features(x)
        x = x.reshape(x.shape[0], 8, -1).swapaxes(1, 2) + self.position
        x = x + self.attention(x, x, x)[0]
        for block in self.blocks:
            x = x + block(x)
        return self.heads["mean"](x) * self.heads["scale"](x)


class Linen(linen.Module):
    def setup(self) -> None:
        layers = [linen.Conv(8, (3, 3), padding=1), linen.BatchNorm(True, epsilon=1e-5), linen.relu]
        self.features = linen.Sequential(layers)
        self.position = self.param("position", jax.nn.initializers.normal(), (1, 6, 8))
        self.attention = linen.MultiHeadDotProductAttention(2)
        self.blocks = [linen.Dense(8) for _ in range(2)]
        self.heads = {"mean": linen.Dense(2), "scale": linen.Dense(2)}

    def __call__(self, x: Any) -> Any:
        x = self.features(x)
        x = x.reshape(x.shape[0], -1, 8) + self.position
        x = x + self.attention(x)
        for block in self.blocks:
            x = x + block(x)
        return self.heads["mean"](x) * self.heads["scale"](x)


class NNX(nnx.Module):
    def __init__(self) -> None:
        norm = nnx.BatchNorm(8, use_running_average=True, epsilon=1e-5, rngs=rngs)
        self.features = nnx.Sequential(nnx.Conv(3, 8, (3, 3), padding=1, rngs=rngs), norm, nnx.relu)
        self.position = nnx.Param(jnp.zeros((1, 6, 8), jnp.float32))
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, dropout_rate=0.1, deterministic=True, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])
        self.heads = nnx.Dict(mean=nnx.Linear(8, 2, rngs=rngs), scale=nnx.Linear(8, 2, rngs=rngs))

    __call__ = Linen.__call__


IMAGES = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32)


def test_model_goes_to_linen_and_back() -> None:
    net, model = Model().eval(), Linen()
    randomised(net)
    apply = jax.jit(model.apply)
    assert_tokens(net, lambda x: apply(export.to_linen(net), x))
    variables = jax.jit(model.init)(jax.random.key(0), last(IMAGES))
    export.from_linen(net, variables)
    assert_tokens(net, lambda x: apply(variables, x))


def test_model_goes_to_nnx_and_back() -> None:
    net, model = Model().eval(), NNX()
    export.from_nnx(net, model)
    assert_tokens(net, model)
    nnx.update(model, export.to_nnx(randomised(net)))
    assert_tokens(net, model)
    state = nnx.state(model)
    nnx.replace_by_pure_dict(state, export.to_nnx(net, numpy=True))


def assert_tokens(net: nn.Module, theirs: Callable[[Any], Any]) -> None:
    np.testing.assert_allclose(theirs(last(IMAGES)), net(IMAGES), rtol=1e-4, atol=1e-5)


def paths(tree: Any) -> set[str]:
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree)}


NAMES = {"0": "Conv_0", "1": "", "1.2": "deep.Dense_1"}


@pytest.mark.parametrize(
    "rename",
    [NAMES, lambda name: NAMES.get(name)],
    ids=["mapping", "function"],
)
def test_modules_are_renamed(rename: Any) -> None:
    net = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1, bias=False)))
    tree = export.to_linen(net, rename=rename)["params"]
    assert paths(tree) == {"Conv_0/kernel", "Conv_0/bias", "layers_0/kernel", "layers_0/bias", "deep/Dense_1/kernel"}
    assert export.from_linen(net, {"params": tree}, rename=rename) == ([], [])


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"2": "a", "0.weight": "b"}, r"has no module or own parameter for: \['0.weight', '2'\]"),
        ({"0": "fc", "1": "fc"}, r"layer '0' \(Linear\) and layer '1' \(Linear\) both have 'fc.kernel'"),
    ],
)
def test_wrong_names_are_refused(rename: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export.to_linen(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), rename=rename)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", jnp.array(7, dtype=jnp.int32))


def test_embedding_and_what_is_tied_to_it() -> None:
    net = Tied()
    variables = export.to_linen(net)
    assert paths(variables) == {"params/embed/embedding"}
    tokens, params = np.array([[1, 4]]), variables["params"]["embed"]
    np.testing.assert_array_equal(linen.Embed(5, 3).apply({"params": params}, tokens), net.embed(tokens))
    head = {"params": {"head": {"kernel": np.arange(15.0).reshape(3, 5)}}}
    assert export.from_linen(net, head) == ([], [])
    np.testing.assert_array_equal(net.embed.weight.numpy(), np.arange(15.0).reshape(3, 5).T)
    with pytest.raises(RuntimeError, match="head.weight and embed.weight are tied but given different values"):
        export.from_linen(net, {"params": {**head["params"], "embed": {"embedding": np.ones((5, 3))}}})


def test_other_buffers_go_on_request() -> None:
    net = Tied()
    assert paths(export.to_linen(net, buffers=True)) == {"params/embed/embedding", "buffers/steps"}
    tree = export.to_nnx(net, buffers=True)
    net.steps = net.steps + 1
    export.from_nnx(net, tree)
    assert int(net.steps) == 7


def test_bias_that_flax_has_once_goes_to_one_side() -> None:
    net = nn.LSTMCell(2, 3)
    export.from_linen(net, perturbed(export.to_linen(net)))
    assert not net.bias_ih.numpy().any() and net.bias_hh.numpy().all()


def test_bias_that_we_lack_has_to_be_zero() -> None:
    net = nn.GRUCell(2, 3, bias=False)
    variables = perturbed(export.to_linen(net))
    with pytest.raises(NotImplementedError, match=r"the GRUCell has no bias, and hn.bias is not zero"):
        export.from_linen(net, variables)


def test_one_report_names_every_problem_and_nothing_changes() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = numbers(net)
    tree = {"params": {"layers_0": {"kernel": np.zeros((2, 3)), "bias": np.zeros(2)}, "layers_1": {"bias": "text"}}}
    with pytest.raises(RuntimeError, match="loading variables for Sequential") as error:
        export.from_linen(net, {**tree, "cache": {"a": np.ones(1)}})
    for line in (
        'Unexpected key(s) in variables: "cache.a"',
        'Missing key(s) in variables: "params.layers_1.scale", "batch_stats.layers_1.mean", "batch_stats.layers_1.var"',
        "size mismatch for params.layers_0.kernel: the shape in the variables is (2, 3), the shape in current model is"
        " (3, 2)",
        'expected an array of numbers for "params.layers_1.bias", got str',
    ):
        assert line in str(error.value)
    jax.tree.map(np.testing.assert_array_equal, numbers(net), before)


def test_lenient_load_returns_what_it_left_out() -> None:
    net = nn.Linear(3, 2)
    report = export.from_nnx(net, {"bias": np.ones(2), "more": {0: np.ones(1)}}, strict=False)
    assert report == (["kernel"], ["more.0"]) and net.bias.numpy().all()


@pytest.mark.parametrize(
    "wrap", [freeze, lambda tree: jax.tree.map(lambda a: linen.Partitioned(a, (None,) * a.ndim), tree)]
)
def test_variables_may_be_frozen_and_boxed(wrap: Any) -> None:
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    export.from_linen(other, wrap(export.to_linen(net)))
    jax.tree.map(np.testing.assert_array_equal, numbers(other), numbers(net))


def test_meta_module_is_filled() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.LSTM(2, 2), nn.BatchNorm1d(2))
    with jm.device("meta"):
        empty = nn.Sequential(nn.Linear(3, 2), nn.LSTM(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    variables = export.to_linen(net)
    with pytest.raises(ValueError, match="cannot export '0.weight': it is on the meta device"):
        export.to_linen(empty)
    export.from_linen(empty, {"params": variables["params"]})
    jax.tree.map(np.testing.assert_array_equal, export.to_linen(empty)["params"], variables["params"])


def test_dtypes_stay_those_of_the_module() -> None:
    net = nn.LSTM(2, 2).to(jnp.bfloat16)
    assert {a.dtype for a in jax.tree.leaves(export.to_linen(net))} == {jnp.dtype("bfloat16")}
    export.from_linen(net, export.to_linen(nn.LSTM(2, 2)))
    assert net.weight_ih_l0.dtype == net.bias_hh_l0.dtype == jnp.bfloat16


def test_missing_flax_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flax.nnx", None)
    with pytest.raises(ImportError, match=r"from_nnx\(net, model\) needs Flax: pip install flax"):
        export.from_nnx(nn.Linear(1, 1), object())


def make_parametrized() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))


REFUSED = {
    "groups": (lambda: nn.ConvTranspose1d(2, 2, 1, groups=2), r"ConvTranspose has no groups, and the layer has 2"),
    "slopes": (lambda: nn.PReLU(3), r"PReLU has one slope, and the layer has 3"),
    "statistics": (lambda: nn.InstanceNorm1d(2, track_running_stats=True), "InstanceNorm has no running statistics"),
    "bias_kv": (lambda: nn.MultiheadAttention(2, 1, add_bias_kv=True), "attention has no bias_k and bias_v"),
    "projection": (lambda: nn.LSTM(2, 2, proj_size=1), "cells have no projection"),
    "computed": (make_parametrized, "in flax.nnx: it is no parameter but computed"),
    "gru": (lambda: nn.GRU(2, 2), r"no counterpart for fc.bias_hh_l0\[4:6\], which is not zero"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_flax_cannot_express_is_refused_by_name(name: str) -> None:
    make, message = REFUSED[name]
    net = nn.Module()
    net.fc = make()
    with pytest.raises(NotImplementedError, match=f"cannot express.*fc.*{message}"):
        export.to_nnx(net)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda net: export.from_linen(net, {"kernel": np.ones((1, 1))}),
            ValueError,
            r"'params', got \['kernel'\]: wrap",
        ),
        (lambda net: export.from_linen(net, [1]), TypeError, "expected a dict of variables, got list"),
        (lambda net: export.to_linen(net, rename="fc"), TypeError, "rename must be a dict of names or a function"),
        (lambda net: export.from_nnx(net, [1]), TypeError, "expected an nnx.Module, its state or a dict, got list"),
    ],
)
def test_wrong_arguments_are_explained(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call(nn.Linear(1, 1))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True, but")
@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_every_layer_of_the_library_comes_back_exactly(library: str) -> None:
    to, back = getattr(export, f"to_{library}"), getattr(export, f"from_{library}")
    exact = 0
    for _, row in rows("LAYERS"):
        net = randomised(row.make(nn))
        for name, parameter in net.named_parameters():
            if "GRU" in row.name and name.startswith("bias_hh"):
                parameter.value = np.zeros(parameter.shape, parameter.dtype)
        before = numbers(net)
        try:
            assert back(net, to(net, remove_duplicate=False)) == ([], [])
        except NotImplementedError:
            assert row.name.startswith(("ConvTranspose", "InstanceNorm", "LSTM", "MultiheadAttention", "PReLU")), row
            continue
        for name, array in numbers(net).items():
            assert array.tobytes() == before[name].tobytes(), f"{name} of {row}"
        exact += bool(before)
    assert exact > 100
