"""``jm.export.to_onnx``: onnxruntime computes what the module does."""

import builtins
import logging
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F
from tests.export.helpers import LeNet, array


class Tagger(nn.Module):
    """Embeds tokens, mixes them by attention and a recurrent network in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True)
        self.rnn = nn.LSTM(4, 3, batch_first=True, bidirectional=True)

    def forward(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        output, (hidden, _) = self.rnn(self.layer(self.embedding(tokens)))
        return output, hidden


def run(model: Any, *args: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(model if isinstance(model, str) else model.SerializeToString())
    return session.run(None, {node.name: np.asarray(arg) for node, arg in zip(session.get_inputs(), args, strict=True)})


def names_and_shapes(nodes: Any) -> dict[str, list[Any]]:
    return {n.name: [d.dim_param or d.dim_value for d in n.type.tensor_type.shape.dim] for n in nodes}


MODELS = [
    (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), lambda n: array(n, 3)),
    (LeNet, lambda n: array(n, 1, 8, 8)),
    (Tagger, lambda n: np.arange(5 * n, dtype=np.int32).reshape(n, 5) % 7),
    (lambda: nn.MaxPool3d(3, 2, padding=1, ceil_mode=True), lambda n: array(n, 2, 5, 5, 5)),
    (lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 3, 2), nn.AdaptiveAvgPool2d((4, 3))), lambda n: array(n, 2, 4, 4)),
]


@pytest.mark.parametrize(("make", "example"), MODELS, ids=["MLP", "LeNet", "Tagger", "MaxPool3d", "adaptive"])
def test_onnxruntime_agrees(make: Any, example: Any, tmp_path: Path) -> None:
    net = make().eval()
    path = tmp_path / "net.onnx"
    model = jm.export.to_onnx(net, example(2), path, dynamic_shapes=({0: "batch"},), verify=False)
    onnx.checker.check_model(model)
    for given in (example(2), example(3)):
        for ours, theirs in zip(run(str(path), given), jax.tree.leaves(jax.jit(net)(given)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_inputs_and_outputs_have_names_and_shapes() -> None:
    def function(left: jax.Array, pair: Any) -> Any:
        return left + pair["right"], left.sum()

    args, shapes = (array(2, 3), {"right": array(2, 3)}), {"left": {0: "n"}, "pair": {"right": {0: "n"}}}
    model = jm.export.to_onnx(function, args, dynamic_shapes=shapes)
    assert names_and_shapes(model.graph.input) == {"left": ["n", 3], "pair_right": ["n", 3]}
    assert names_and_shapes(model.graph.output) == {"output_0": ["n", 3], "output_1": []}
    model = jm.export.to_onnx(function, args, input_names=["a", "b"], output_names=["y", "z"], opset_version=18)
    assert names_and_shapes(model.graph.output) == {"y": [2, 3], "z": []}
    assert model.opset_import[0].version == 18


def test_outputs_may_be_inputs_and_each_other() -> None:
    model = jm.export.to_onnx(lambda output, x: (output, x + 1, x + 1, output), (array(3), array(3)))
    assert list(names_and_shapes(model.graph.output)) == [f"output_{i}" for i in range(4)]
    model = jm.export.to_onnx(lambda output: output, array(3))
    assert list(names_and_shapes(model.graph.output)) == ["output#2"]


def test_conversion_leaves_logging_and_jax_alone() -> None:
    handlers = list(logging.getLogger().handlers)
    x = array(2, 3)
    expected, functions = F.gelu(F.relu(x)), (jnp.cumsum, jax.nn.relu, jax.lax.add)
    jm.export.to_onnx(nn.Sequential(nn.ReLU(), nn.GELU()), x, verify=False)
    np.testing.assert_array_equal(jax.jit(lambda x: F.gelu(F.relu(x)))(x), expected)
    assert (jnp.cumsum, jax.nn.relu, jax.lax.add) == functions
    assert logging.getLogger().handlers == handlers


def test_operation_without_a_counterpart_is_named_with_its_module() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Conv3d(2, 2, 3))
    with pytest.raises(NotImplementedError, match="cannot express convolution.* in 'Sequential/1' of Seq"):
        jm.export.to_onnx(net, array(1, 2, 4, 4, 4))


def test_wrong_model_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax2onnx

    honest = jax2onnx.to_onnx
    monkeypatch.setattr(jax2onnx, "to_onnx", lambda f, *rest, **kw: honest(lambda x: [f(x)[0] * 1.01], *rest, **kw))
    with pytest.raises(RuntimeError, match="returns 'output' that differs by up to"):
        jm.export.to_onnx(nn.Identity(), array(2, 3))


def test_unrunnable_model_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="onnxruntime cannot run the model .*NOT_IMPLEMENTED"):
        jm.export.to_onnx(nn.Linear(3, 2).bfloat16(), jnp.ones((2, 3), jnp.bfloat16))


REFUSED = [
    (lambda: jm.export.to_onnx(nn.BatchNorm1d(3), array(2, 3)), RuntimeError, r"call eval\(\) on the module"),
    (lambda: jm.export.to_onnx(nn.Dropout(), array(2, 3)), RuntimeError, "Dropout draws random numbers"),
    (
        lambda: jm.export.to_onnx(nn.ReLU(), jax.ShapeDtypeStruct((2, 3), np.float32)),
        TypeError,
        "got shapes alone: give example arrays, or verify=False",
    ),
    (lambda: jm.export.to_onnx(nn.ReLU(), array(2, 3), input_names=["a", "b"]), ValueError, "input_names length"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_cannot_be_converted_says_why(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("missing", ["jax2onnx", "onnxruntime"])
def test_missing_libraries_name_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.delitem(sys.modules, missing, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jaxmodules\[onnx\]'"):
        jm.export.to_onnx(nn.ReLU(), array(2, 3))
