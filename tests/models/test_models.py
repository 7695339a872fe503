"""Models as one would port them, against the PyTorch they come from: names, files, outputs and a training step."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxmodules as jm
from jaxmodules import nn
from tests.models import bert
from tests.models.cases import CASES, Batch, Case, disturb, ported, reference

pytestmark = pytest.mark.xdist_group("models")
every_model = pytest.mark.parametrize("case", CASES, ids=str)


def batch_of(case: Case) -> tuple[Batch, Batch]:
    rng = np.random.RandomState(case.seed)
    inputs = case.inputs(rng)
    return inputs, case.labels(inputs, rng)


def tensors(arrays: Batch) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def numpy(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Compare dicts of arrays by name, relative to the largest number in each."""
    assert sorted(ours) == sorted(theirs)
    for name, value in theirs.items():
        scale = max(1.0, np.abs(numpy(value)).max())
        np.testing.assert_allclose(numpy(ours[name]), numpy(value), rtol=0, atol=tolerance * scale, err_msg=name)


@jm.jit
def predict(net: nn.Module, inputs: Any) -> tuple[jax.Array, ...]:
    """Return the predictions of all heads."""
    output = net(**inputs)
    return output if isinstance(output, tuple) else (output,)


@partial(jm.jit, static_argnames="loss_fn")
def train_step(net: nn.Module, optimizer: jm.optim.Optimizer, loss_fn: Any, inputs: Any, labels: Any) -> Any:
    loss, grads = jm.value_and_grad(lambda net: loss_fn(net(**inputs), **labels))(net)
    optimizer.step(grads)
    return loss, grads


@torch.no_grad()
def their_predictions(theirs: Any, inputs: Batch) -> tuple[torch.Tensor, ...]:
    options = {"use_cache": False, "return_dict": False} if "input_ids" in inputs else {}
    output = theirs(**tensors(inputs), **options)
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return output if isinstance(output, tuple) else (output,)


def build_theirs(case: Case) -> torch.nn.Module:
    torch.manual_seed(0)
    theirs = case.theirs(**case.settings)
    disturb(theirs)
    return theirs.eval()


@cache
def trained(case: Case) -> SimpleNamespace:
    """Run both sides once: what they predict, the loss and its gradients, and the state that a step leaves."""
    theirs = build_theirs(case)
    net = case.ours(**case.settings)
    net.load_state_dict(theirs.state_dict())
    inputs, labels = batch_of(case)
    logits = (predict(net.eval(), inputs), their_predictions(theirs, inputs))

    name, options = case.optimizer
    optimizer = getattr(jm.optim, name)(net.parameters(), **options)
    loss, grads = train_step(net.train(), optimizer, case.loss, inputs, labels)
    their_loss = case.their_loss(theirs.train(), tensors(inputs), tensors(labels))
    their_loss.backward()
    getattr(torch.optim, name)(theirs.parameters(), **options).step()
    return SimpleNamespace(
        logits=logits,
        loss=({"loss": loss}, {"loss": their_loss}),
        grads=(grads, {name: parameter.grad for name, parameter in theirs.named_parameters()}),
        state=(net.state_dict(), theirs.state_dict()),
    )


@every_model
def test_names_and_shapes_are_those_of_the_published_model(case: Case) -> None:
    with jm.device("meta"), torch.device("meta"):
        ours, theirs = case.ours(**case.published), case.theirs(**case.published)
    expected = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == expected
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


def through_a_file(write: Callable[[torch.nn.Module, Path], None]) -> Callable[[torch.nn.Module, Path], Any]:
    def load(theirs: torch.nn.Module, path: Path) -> Any:
        write(theirs, path)
        return jm.load(path)

    return load


LOADERS = {
    "state_dict": lambda theirs, path: theirs.state_dict(),
    "safetensors": through_a_file(
        lambda theirs, path: safetensors.torch.save_file({k: v.clone() for k, v in theirs.state_dict().items()}, path)
    ),
}


@every_model
@pytest.mark.parametrize("loader", LOADERS)
def test_state_loads_as_it_is(case: Case, loader: str, tmp_path: Path) -> None:
    theirs, net = build_theirs(case), case.ours(**case.settings)
    state = LOADERS[loader](theirs, tmp_path / "model")
    assert str(net.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
    assert_close(net.state_dict(), theirs.state_dict(), 0)


@every_model
def test_predictions_are_equal(case: Case) -> None:
    for ours, theirs in zip(*trained(case).logits, strict=True):
        assert theirs.abs().max() > 0.1
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@every_model
def test_loss_and_gradients_are_equal(case: Case) -> None:
    result = trained(case)
    assert_close(*result.loss, 1e-5)
    assert_close(*result.grads, case.tolerance)


@every_model
def test_state_after_a_training_step_is_equal(case: Case) -> None:
    assert_close(*trained(case).state, case.tolerance / 10)  # a step is a small part of the gradients


CASE = {case.name: case for case in CASES}
LEFT = (np.arange(9) >= np.array([[0], [2], [5]])).astype(np.int64)
LLAMA_3 = dict(
    rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64,
)  # fmt: skip


def changed(name: str, settings: dict[str, Any] | None = None, **changes: Any) -> Case:
    return replace(CASE[name], settings=CASE[name].settings | (settings or {}), **changes)


MASKED_LM = {
    "ours": ported(bert.BertForMaskedLM, bert.BertConfig),
    "theirs": reference("bert", "BertForMaskedLM", attn_implementation="eager"),
}
VARIANTS = {  # a model, inputs in the place of its own, and those left out
    "GPT-2, no padding": (changed("GPT-2", dict(n_inner=20)), {}, ["attention_mask"]),
    "GPT-2, padding on the left": (CASE["GPT-2"], dict(attention_mask=LEFT, position_ids=LEFT.cumsum(1) * LEFT), []),
    "BERT, masked words only": (changed("BERT", **MASKED_LM), {}, ["attention_mask", "token_type_ids"]),
    "Llama 3": (changed("Llama", dict(rope_parameters=LLAMA_3, head_dim=16)), {}, ["attention_mask"]),
    "Llama, positions": (CASE["Llama"], dict(position_ids=np.arange(9)[None] + np.array([[0], [2], [40]])), []),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_predict_the_same(variant: str) -> None:
    case, more, left_out = VARIANTS[variant]
    inputs = {key: value for key, value in (batch_of(case)[0] | more).items() if key not in left_out}
    theirs, net = build_theirs(case), case.ours(**case.settings)
    net.load_state_dict(theirs.state_dict())
    seen = inputs.get("attention_mask", np.ones((3, 9))) == 1  # what stands in place of padding has no meaning
    one, other = predict(net.eval(), inputs)[0], their_predictions(theirs, inputs)[0]
    np.testing.assert_allclose(np.asarray(one)[seen], other.numpy()[seen], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["ResNet-50", "AlexNet"])
def test_same_seed_gives_the_same_model(name: str) -> None:
    theirs, net = CASE[name].theirs(**CASE[name].settings), CASE[name].ours(**CASE[name].settings)
    assert_close(net.state_dict(), theirs.state_dict(), 1e-6)


def test_positions_of_vit_stretch_to_other_images() -> None:
    theirs, net = build_theirs(CASE["ViT"]), CASE["ViT"].ours(**CASE["ViT"].settings)
    net.load_state_dict(theirs.state_dict())
    images = np.random.RandomState(0).standard_normal((1, 3, 16, 24)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images), interpolate_pos_encoding=True).logits
    predict_any_size = jm.jit(net.eval(), static_argnames="interpolate_pos_encoding")
    np.testing.assert_allclose(predict_any_size(images, interpolate_pos_encoding=True), expected, atol=1e-4)
    with pytest.raises(ValueError, match="expected images of 12 by 12 pixels"):
        net(images)


def test_text_generated_with_a_cache_is_equal() -> None:
    case = CASE["Llama"]
    theirs, net = build_theirs(case), case.ours(**case.settings)
    net.load_state_dict(theirs.state_dict())
    prompt = np.random.RandomState(0).randint(0, 50, (3, 7))
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones(prompt.shape, dtype=torch.long)
    expected = theirs.generate(torch.from_numpy(prompt), attention_mask=mask, **options)
    net.eval().allocate_cache(batch_size=3, length=13)
    generate = jm.jit(net.generate, static_argnames="max_new_tokens")
    for _ in range(2):  # what the first text left in the cache is no part of the second
        np.testing.assert_array_equal(generate(prompt, max_new_tokens=6), expected)
    assert net.state_dict().keys() == theirs.state_dict().keys()


def test_step_over_several_devices_is_equal() -> None:
    case = CASE["Llama"]
    mesh = jax.make_mesh((4,), ("model",), axis_types=(AxisType.Auto,))
    net = case.ours(**case.settings)
    net.load_state_dict(build_theirs(case).state_dict())
    for name, parameter in net.named_parameters():  # as in Megatron-LM: columns, then rows
        spec = (None, "model") if "o_proj" in name or "down" in name else ("model",) if "_proj" in name else ()
        parameter.data = jax.device_put(parameter.value, NamedSharding(mesh, PartitionSpec(*spec)))
    optimizer = jm.optim.AdamW(net.parameters(), **case.optimizer[1])
    loss, grads = train_step(net.train(), optimizer, case.loss, *batch_of(case))
    assert_close({"loss": loss}, trained(case).loss[1], 1e-5)
    assert_close(grads, trained(case).grads[1], case.tolerance)
    assert_close(net.state_dict(), trained(case).state[1], 1e-5)
    assert not net.model.layers[1].mlp.up_proj.weight.value.sharding.is_fully_replicated


def test_functionalized_model_gives_the_same_gradients_and_statistics() -> None:
    case = CASE["ResNet of Hugging Face"]
    net = case.ours(**case.settings)
    net.load_state_dict(build_theirs(case).state_dict())
    apply, params, buffers = jm.functionalize(net.train())
    inputs, labels = batch_of(case)

    @jax.jit
    def gradients(params: Any, buffers: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            logits, after = apply(params, buffers, **inputs)
            return case.loss(logits, **labels), after

        return jax.grad(loss_fn, has_aux=True)(params)

    grads, after = gradients(params, buffers)
    assert_close(grads, trained(case).grads[1], case.tolerance)
    assert_close(after, {name: trained(case).state[1][name] for name in buffers}, 1e-5)
