"""``jm.export``: programs for processes that have only JAX."""

import builtins
import functools
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F
from tests.export.helpers import LeNet, array

Pair = namedtuple("Pair", "first second")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 1, 8, 8)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.jax"


def assert_same(ours: Any, theirs: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


ALONE = """
import builtins, sys
find = builtins.__import__
def only(name, *rest):
    if name.partition(".")[0] in ("jaxmodules", "torch"):
        raise ImportError(name)
    return find(name, *rest)
builtins.__import__ = only
import jax, numpy as np
folder, x = sys.argv[1], np.load(sys.argv[1] + "/x.npy")

program = jax.export.deserialize(open(folder + "/embedded.jax", "rb").read())
np.save(folder + "/embedded.npy", jax.jit(program.call)(x))
np.save(folder + "/gradient.npy", jax.grad(lambda x: program.call(x).sum())(x))

from safetensors.flax import load_file
program = jax.export.deserialize(open(folder + "/inputs.jax", "rb").read())
weights = load_file(folder + "/inputs.jax.safetensors")
np.save(folder + "/inputs.npy", jax.jit(program.call)(weights, x))
np.save(folder + "/other.npy", jax.jit(program.call)({**weights, "fc.bias": weights["fc.bias"] + 1}, x))
assert "jaxmodules" not in sys.modules
"""


def test_process_with_only_jax_runs_and_differentiates(tmp_path: Path) -> None:
    net, x = LeNet().eval(), images(3)
    shapes = ({0: "batch"},)
    jm.export(net, images(2), dynamic_shapes=shapes).save(tmp_path / "embedded.jax", vjp_order=1)
    jm.export(net, images(2), dynamic_shapes=shapes, weights="inputs").save(tmp_path / "inputs.jax")
    np.save(tmp_path / "x.npy", x)
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], check=True, cwd=tmp_path)
    results = {name: np.load(tmp_path / f"{name}.npy") for name in ("embedded", "inputs", "other", "gradient")}
    assert_same(results["embedded"], net(x))
    assert_same(results["inputs"], net(x))
    assert_same(results["other"], net(x) + 1)
    assert_same(results["gradient"], jax.grad(lambda x: net(x).sum())(jnp.asarray(x)))


@pytest.mark.parametrize("weights", ["embedded", "inputs"])
def test_loaded_program_is_the_saved_one(path: Path, weights: Any) -> None:
    net, x = LeNet().eval(), images(2)
    program = jm.export(net, (x,), weights=weights)
    program.save(path)
    loaded = jm.export.load(path)
    state = () if weights == "embedded" else (loaded.state_dict,)
    assert repr(loaded) == repr(program) and loaded.weights == weights
    assert_same(loaded.state_dict, program.state_dict)
    assert_same(loaded(*state, x), net(x))


def test_inputs_are_named_as_in_the_state_dict() -> None:
    net = LeNet().eval()
    program = jm.export(net, images(2), weights="inputs")
    assert program.state_dict.keys() == net.state_dict().keys()
    assert_same(program(net.state_dict(), images(2)), net(images(2)))
    assert repr(program) == "ExportedProgram(LeNet: ({9 arrays}, float32[2,1,8,8]) -> float32[2,3] for cpu)"


def test_several_platforms_from_this_one() -> None:
    program = jm.export(nn.Linear(3, 2), array(4, 3), platforms=("cpu", "gpu", "tpu"))
    assert program.exported.platforms == ("cpu", "cuda", "tpu")
    assert "stablehlo.dot_general" in program.mlir_module()
    assert program(array(4, 3)).shape == (4, 2)


def test_half_precision_weights_come_back(path: Path) -> None:
    net, x = nn.Linear(3, 2).bfloat16(), jnp.ones((4, 3), jnp.bfloat16)
    for weights in ("embedded", "inputs"):
        jm.export(net, x, weights=weights).save(path)
        loaded = jm.export.load(path)
        out = loaded(*([loaded.state_dict] if loaded.state_dict else []), x)
        assert out.dtype == jnp.bfloat16
        np.testing.assert_array_equal(out, net(x))


def test_meta_net_is_exported_with_its_weights_as_inputs(path: Path) -> None:
    with jm.device("meta"):
        net = nn.Linear(3, 2)
    program = jm.export(net, jax.ShapeDtypeStruct((4, 3), np.float32), weights="inputs")
    program.save(path)
    assert os.listdir(path.parent) == [path.name] and jm.export.load(path).state_dict == {}
    weights = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    assert_same(program(weights, np.ones((4, 3), np.float32)), np.full((4, 2), 3, np.float32))


def train_step(net: nn.Module, optimizer: jm.optim.Optimizer, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    loss, gradients = jm.value_and_grad(lambda net: F.cross_entropy(net(x), y))(net)
    optimizer.step(gradients)
    return {"loss": loss}


def test_training_step_returns_what_is_new(path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    optimizer = jm.optim.Adam(net.named_parameters(), lr=0.1)
    x, y = array(5, 3), np.array([0, 1, 1, 0, 1], np.int32)
    shapes = (None, None, "batch, 3", "batch")
    program = jm.export(train_step, (net, optimizer, x, y), dynamic_shapes=shapes, weights="inputs+outputs")
    program.save(path)
    program = jm.export.load(path)
    state = program.state_dict
    compiled = jm.jit(train_step)
    for _ in range(3):
        out, new = program(state, x, y)
        state |= new
        assert_same(out, compiled(net, optimizer, x, y))
    assert {"net.0.weight", "net.1.running_mean", "rng", "optimizer.state[0].0.weight.exp_avg"} <= new.keys()
    assert "optimizer.param_groups[0].lr" in state.keys() - new.keys()
    assert_same({name: state[f"net.{name}"] for name in net.state_dict()}, dict(net.state_dict()))


def test_torch_style_step_is_exported() -> None:
    net = nn.Linear(3, 2)
    optimizer = jm.optim.SGD(net.parameters(), lr=0.1)

    def step(x: jax.Array) -> jax.Array:
        loss = jm.backward(lambda: (net(x) ** 2).mean(), net)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    program = jm.export(step, array(4, 3), weights="inputs+outputs")
    assert {"net.weight", "net.bias", "optimizer.param_groups[0].lr"} == program.state_dict.keys()
    _, new = program(program.state_dict, array(4, 3))
    step(array(4, 3))
    assert_same(new, {"net.weight": net.weight.value, "net.bias": net.bias.value})


def test_buffer_may_be_called_rng() -> None:
    net = nn.Sequential(nn.Dropout())
    net.register_buffer("rng", jnp.zeros(3))
    program = jm.export(net, array(4, 3), weights="inputs+outputs")
    assert program.state_dict.keys() == {"rng", "rng#2"}
    assert program(program.state_dict, array(4, 3))[1].keys() == {"rng#2"}


CALLABLES = {
    "jax.numpy": lambda net: jnp.sin,
    "jm.jit": lambda net: jm.jit(lambda x: net(x)),
    "partial": lambda net: functools.partial(lambda n, x: n(x), net),
    "jm.vmap": lambda net: jm.vmap(lambda x: net(x)),
    "parameter": lambda net: lambda x: x @ net.weight.T,
    "list": lambda net: (lambda nets: lambda x: nets[0](x))([net]),
}


@pytest.mark.parametrize("make", CALLABLES.values(), ids=CALLABLES.keys())
def test_functions_of_all_kinds_are_exported(make: Any) -> None:
    function = make(nn.Linear(3, 2))
    program = jm.export(function, array(4, 3), weights="inputs")
    assert_same(program(program.state_dict, array(4, 3)), function(jnp.asarray(array(4, 3))))


def test_state_that_a_function_hides_is_not_baked_in() -> None:
    hidden = {"deep": [[[[[[[[[[nn.Linear(3, 2)]]]]]]]]]]}

    def function(x: jax.Array) -> jax.Array:
        inner = hidden["deep"]
        while isinstance(inner, list):
            inner = inner[0]
        return inner(x)

    with pytest.raises(jm.UnboundStateError, match="used in 'Linear' was read"):
        jm.export(function, array(4, 3))


def test_program_too_large_for_a_file_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jm.export.ExportedProgram.save.__globals__, "_LIMIT", 1000)
    with pytest.raises(ValueError, match=r"bytes, more than a file can hold .*weights='inputs'"):
        jm.export(nn.Linear(30, 20), array(4, 30)).save(path)


def test_exporting_leaves_everything_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout())
    before, rng = net.state_dict(), jm.get_rng_state()
    jm.export(net, array(4, 3), weights="inputs+outputs")
    assert_same(net.state_dict(), before)
    np.testing.assert_array_equal(jm.get_rng_state(), rng)


SHAPES = [
    (({0: "b"},), "float32[b,3]"),
    (({-1: "c", 0: None},), "float32[4,c]"),
    ({"x": {0: "b"}}, "float32[b,3]"),
    ((("b", None),), "float32[b,3]"),
    ((["b", 3],), "float32[b,3]"),
    (("2*b, ...",), "float32[2*b,3]"),
    (({0: torch.export.Dim("b", min=2, max=8)},), "float32[b,3]"),
    (({0: torch.export.Dim.STATIC},), "float32[4,3]"),
    ((None,), "float32[4,3]"),
]


@pytest.mark.parametrize(("shapes", "spelled"), SHAPES, ids=[str(i) for i in range(len(SHAPES))])
def test_sizes_are_left_open(shapes: Any, spelled: str) -> None:
    assert repr(jm.export(lambda x: x, array(4, 3), dynamic_shapes=shapes)).count(spelled) == 2


@pytest.mark.parametrize("make", [jm.export.Dim, torch.export.Dim], ids=["ours", "torch"])
def test_bounds_decide_comparisons(make: Any) -> None:
    def pairs(x: jax.Array) -> jax.Array:
        return x[:-1] if x.shape[0] > 1 else x

    dim = make("b", min=2, max=9)
    assert jm.export(pairs, array(4, 3), dynamic_shapes=({0: dim},))(array(3, 3)).shape == (2, 3)
    with pytest.raises(Exception, match="'b' > '1' is inconclusive") as caught:
        jm.export(pairs, array(4, 3), dynamic_shapes=({0: "b"},))
    assert "give it bounds" in " ".join(caught.value.__notes__)


NEEDS_SIZES = {
    "NumPy": lambda x: x[np.arange(x.shape[0])],
    "Python": lambda x: x[: int(np.asarray(x.shape[0]))],
    "interpolate": lambda x: F.interpolate(x[None], scale_factor=2),
    "adaptive pooling": lambda x: F.adaptive_avg_pool1d(x.T, 3),
}


@pytest.mark.parametrize("function", NEEDS_SIZES.values(), ids=NEEDS_SIZES)
def test_what_has_to_know_an_open_size_is_told(function: Any) -> None:
    with pytest.raises(Exception, match="depend on a size that dynamic_shapes leaves open"):
        jm.export(function, array(4, 3), dynamic_shapes=("b, n",))


def test_containers_keywords_and_fixed_arguments() -> None:
    def function(x: Any, scale: float, *, rest: Any, flip: bool) -> Any:
        out = Pair(x["a"] * scale, rest.second + 1)
        return {"out": out if flip else None, "none": None, "number": 2}

    args, kwargs = ({"a": array(4, 3), "b": "text"}, 3.0), {"rest": Pair(None, array(4)), "flip": True}
    shapes = {"x": {"a": {0: "n"}}, "rest": (None, {0: "n"})}
    program = jm.export(function, args, kwargs, dynamic_shapes=shapes)
    out = program({"a": array(2, 3), "b": None}, rest=(None, array(2)))
    assert_same(out, {"out": (array(2, 3) * 3, array(2) + 1), "none": None, "number": 2})


def test_methods_modes_and_settings_are_those_of_the_moment() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.factor = nn.Linear(3, 2), 2.0

        def encode(self, x: jax.Array) -> jax.Array:
            return self.linear(x) * self.factor

    net, x = Scaled(), array(4, 3)
    program = jm.export(net.encode, x, weights="inputs")
    expected, net.factor = net.encode(x), 5.0
    assert program.state_dict.keys() == {"linear.weight", "linear.bias"}
    assert_same(program(program.state_dict, x), expected)


def make_lazy() -> nn.Module:
    return nn.LazyLinear(3)


def make_meta() -> nn.Module:
    with jm.device("meta"):
        return nn.Linear(3, 2)


def leaves_gradients(net: nn.Module, x: jax.Array) -> jax.Array:
    return jm.backward(lambda: net(x).sum(), net)


X = array(4, 3)
REFUSED = [
    (lambda: jm.export(3, X), TypeError, "expected a module or a function to export, got 3"),
    (lambda: jm.export(nn.Linear(3, 2), (X, X)), TypeError, "at most 1 positional arguments .input., got 2"),
    (lambda: jm.export(nn.Linear(3, 2), X, weights="none"), ValueError, "'embedded', 'inputs', .*got 'none'"),
    (lambda: jm.export(nn.Linear(3, 2), X, platforms=["xpu"]), ValueError, r"some of cpu, .*, got \['xpu'\]"),
    (lambda: jm.export(make_lazy(), X), RuntimeError, "LazyLinear has uninitialized parameters"),
    (lambda: jm.export(make_meta(), X), NotImplementedError, "no data! 'weight' of shape"),
    (lambda: jm.export(nn.BatchNorm1d(3), X), RuntimeError, r"writes running_mean, .*call eval\(\) on the module"),
    (lambda: jm.export(nn.Dropout(), X, weights="inputs"), RuntimeError, "Dropout draws random numbers, which"),
    (lambda: jm.export(leaves_gradients, (nn.Linear(3, 2), X)), RuntimeError, r"leaves gradients in .grad"),
    (lambda: jm.export(lambda x: "text", X), TypeError, "returns a str at output, expected arrays"),
    (lambda: jm.export(lambda x: [x, nn.ReLU()], X), TypeError, r"returns a ReLU at output\[1\]"),
    (lambda: jax.jit(lambda x: jm.export(nn.ReLU(), x))(X), TypeError, "input is a traced value .*outside jit"),
    (lambda: jm.export(nn.ReLU(), X, dynamic_shapes=({2: "b"},)), ValueError, "names axis 2 of input, which has 2"),
    (lambda: jm.export(nn.ReLU(), X, dynamic_shapes=(("b",),)), ValueError, r"of shape \(4, 3\), expected"),
    (lambda: jm.export(nn.ReLU(), X, dynamic_shapes={"x": None}), ValueError, "names x, expected .* input"),
    (lambda: jm.export(nn.ReLU(), X, dynamic_shapes=(None, None)), ValueError, "each of the 1 positional"),
    (lambda: jm.export(nn.ReLU(), X, dynamic_shapes=({0: 7},)), ValueError, "gives 7 for axis 0 of input"),
    (lambda: jm.export.Dim("b", min=3, max=2), ValueError, "1 <= min <= max for the size 'b', got min=3 and max=2"),
    (lambda: jm.export(len, ([X],), dynamic_shapes=({0: "b"},)), ValueError, "which is a list"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_cannot_be_exported_says_why(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_wrong_inputs_are_told_by_jax() -> None:
    program = jm.export(nn.Linear(3, 2), X)
    with pytest.raises(ValueError, match=r"expected \(4, 3\) and called with \(5, 3\)"):
        program(array(5, 3))
    with pytest.raises(ValueError, match="tuple of length 2 in the invocation and a tuple of length 1"):
        program(X, X)


def test_damaged_files_are_noticed(path: Path) -> None:
    jm.export(nn.ReLU(), X).save(path)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for broken in (b"", content[:-1], content[:100], bytes(flipped), b"PK\x03\x04" + content):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="cannot load '.*net.jax': .* truncated, damaged or of another kind"):
            jm.export.load(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        jm.export.load(path.with_name("absent"))


def test_arrays_of_another_program_are_refused(path: Path) -> None:
    jm.export(nn.Linear(3, 2), X, weights="inputs").save(path)
    jm.save({"weight": np.ones((5, 3), np.float32), "scale": X}, f"{path}.safetensors")
    problems = r"bias is missing; scale is not taken; weight is float32\[5,3\], expected float32\[2,3\]"
    with pytest.raises(ValueError, match=problems):
        jm.export.load(path)
    Path(f"{path}.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot load '.*safetensors', the arrays of"):
        jm.export.load(path)


def test_failed_save_leaves_the_old_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = jm.export(nn.Linear(3, 2), X, weights="inputs")
    program.save(path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    program.state_dict = {**program.state_dict, "bias": object()}
    with pytest.raises(TypeError, match="object"):
        program.save(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_missing_flatbuffers_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = jm.export(nn.ReLU(), X)
    find = builtins.__import__
    for name in [name for name in sys.modules if name.startswith(("flatbuffers", "jax._src.export.ser"))]:
        monkeypatch.delitem(sys.modules, name)

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("flatbuffers"):
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jaxmodules\[export\]'"):
        program.save(path)


OPEN = [
    (lambda: nn.Conv2d(2, 3, 3, padding="same"), "b,2,6,6"),
    (lambda: nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "b,2,4*t,4"),
    (lambda: nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1)), "b,2,4*t,4"),
    (lambda: nn.GroupNorm(1, 2), "b,2,t"),
    (lambda: ClassToken(), "b,t,4"),
    (lambda: nn.LSTM(3, 4, batch_first=True, bidirectional=True), "b,t,3"),
    (lambda: nn.GRUCell(3, 4), "b,3"),
    (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2), "b,t,4"),
    (lambda: nn.MultiheadAttention(4, 2), "t,b,4|t,b,4|t,b,4"),
    (lambda: CausalAttention(), "b,t,4"),
    (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), "b,2,3,3"),
]


class ClassToken(nn.Module):
    """Puts a parameter before every sequence, in PyTorch's way."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(jnp.ones((1, 1, 4)))

    def forward(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([self.token.expand(x.shape[0], -1, -1), x, self.token.repeat(x.shape[0], 2, 1)], 1)


class CausalAttention(nn.Module):
    """Attends to what came before, by the mask and by the flag."""

    def forward(self, x: jax.Array) -> jax.Array:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        masked = F.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        return masked + F.scaled_dot_product_attention(x, x, x, is_causal=True)


@pytest.mark.parametrize(("make", "shapes"), OPEN, ids=[str(i) for i in range(len(OPEN))])
def test_layers_take_open_batches_and_sequences(make: Any, shapes: str) -> None:
    net = make().eval()
    open_sizes = {"b": 3, "t": 5, "4*t": 20}
    each = shapes.split("|")
    args = tuple(array(*(open_sizes.get(size) or int(size) for size in one.split(","))) for one in each)
    program = jm.export(net, args, dynamic_shapes=tuple(each))
    assert_same(program(*args), net(*args))
