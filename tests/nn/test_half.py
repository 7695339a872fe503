"""Layers and losses in half precision: the types of outputs and gradients, and what refuses a mixture, are torch's."""

from functools import cache
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.rows import rows
from tests.table import Case, build_pair, is_float, leaves, to_torch

ROWS = {row.name: row for _, row in reversed(rows("LAYERS"))}  # the first row of each layer
# without a kernel for short types in torch
UNKNOWN = {"MultiMarginLoss", "MultiLabelMarginLoss", "CTCLoss", "AvgPool3d", "LPPool3d"}

pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight"),
]


def shorten(tree: Any, dtype: str, library: Any) -> Any:
    """Make arrays or tensors of the NumPy arrays in a tree, those of floating point of a short type."""

    def convert(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        array = to_torch(value) if library is torch else jnp.asarray(value)
        if value.dtype != np.float32:
            return array
        return array.to(getattr(torch, dtype)) if library is torch else array.astype(dtype)

    return jax.tree.map(convert, tree)


def name(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.").replace("int32", "int64")


@cache
def theirs(case: Case, dtype: str, converts: bool) -> tuple[list[str], dict[str, str]]:
    """Name the types of torch's outputs and gradients."""
    _, net = build_pair(case)
    net.train(case.modes[0] == "train").to(getattr(torch, dtype) if converts else None)
    inputs, options = (shorten(given, dtype, torch) for given in (case.make_inputs(), case.make_options()))
    outputs = leaves(net(*inputs, **options))
    differentiable = [output.float().sum() for output in outputs if output.requires_grad]
    if differentiable:
        sum(differentiable).backward()
    return list(map(name, outputs)), {k: name(p.grad) for k, p in net.named_parameters() if p.grad is not None}


def ours(case: Case, dtype: str, converts: bool) -> tuple[list[str], dict[str, str]]:
    """Name the types of our outputs and gradients."""
    net, _ = build_pair(case)
    net.train(case.modes[0] == "train").to(dtype if converts else None)
    inputs, options = (shorten(given, dtype, jax) for given in (case.make_inputs(), case.make_options()))

    def loss(net: Any, *inputs: Any) -> Any:
        outputs = leaves(net(*inputs, **options))
        return sum((x.astype(jnp.float32).sum() for x in outputs if is_float(x)), jnp.zeros(())), outputs

    gradients, outputs = jm.eval_shape(lambda *inputs: jm.grad(loss, has_aux=True)(net, *inputs), *inputs)
    return list(map(name, outputs)), {k: name(gradient) for k, gradient in gradients.items()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [row for row in ROWS.values() if row.name not in UNKNOWN], ids=lambda row: row.name)
def test_outputs_and_gradients_are_of_the_types_of_torch(case: Case, dtype: str) -> None:
    outputs, gradients = theirs(case, dtype, True)
    found = ours(case, dtype, True)
    assert found[0] == outputs
    assert {k: found[1][k] for k in gradients} == gradients


WITH_PARAMETERS = [row for row in ROWS.values() if "dtype" in signature(getattr(torch.nn, row.name)).parameters]


@pytest.mark.parametrize("case", WITH_PARAMETERS, ids=lambda row: row.name)
def test_short_inputs_of_layers_in_float32_are_taken_or_refused_as_in_torch(case: Case) -> None:
    try:
        expected = theirs(case, "bfloat16", False)
    except (RuntimeError, ValueError) as error:
        with pytest.raises(type(error), match="(?i)type"):
            ours(case, "bfloat16", False)
        return
    outputs, gradients = ours(case, "bfloat16", False)
    assert outputs == expected[0] and {k: gradients[k] for k in expected[1]} == expected[1]


@pytest.mark.parametrize("bias", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("types", [("bfloat16", "float32"), ("float32", "bfloat16"), ("int32", "float32")])
def test_linear_refuses_mixed_types_in_the_words_of_torch(types: tuple[str, str], bias: str | None) -> None:
    shapes = [((2, 3), types[0]), ((4, 3), types[1])] + ([] if bias is None else [((4,), bias)])
    with pytest.raises(RuntimeError, match="same dtype, but got") as expected:
        torch.nn.functional.linear(*(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in shapes))
    message = str(expected.value)
    for theirs, ours in (("c10::BFloat16", "bfloat16"), ("float", "float32"), ("int", "int32")) if bias is None else ():
        message = message.replace(f"{theirs} ", f"{ours} ").removesuffix(theirs) + (
            ours if message.endswith(f" {theirs}") else ""
        )
    with pytest.raises(RuntimeError, match=message):
        nn.functional.linear(*(jnp.zeros(shape, dtype) for shape, dtype in shapes))


@pytest.mark.parametrize("convert", ["bfloat16", "half"])
def test_a_net_trains_in_half_precision(convert: str) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.GELU(), torch.nn.Linear(8, 1))
    ours = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 1))
    ours.load_state_dict(theirs.state_dict())
    getattr(ours, convert)(), getattr(theirs, convert)()
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    dtype = name(next(ours.parameters()))
    expected = (theirs(shorten(x, dtype, torch)) ** 2).mean()
    expected.backward()
    loss, gradients = jm.jit(jm.value_and_grad(lambda net, x: (net(x) ** 2).mean()))(ours, shorten(x, dtype, jax))
    np.testing.assert_allclose(np.float32(loss), expected.item(), rtol=0.02)
    for key, parameter in theirs.named_parameters():
        assert gradients[key].dtype == dtype
        np.testing.assert_allclose(gradients[key].astype(np.float32), parameter.grad.float(), rtol=0.1, atol=0.02)
