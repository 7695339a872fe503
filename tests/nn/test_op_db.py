"""PyTorch's own database of operator samples, for every function of ``nn.functional`` in it: values and gradients."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules.nn import functional as F
from tests.table import cotangents, is_float, leaves

with warnings.catch_warnings():  # of packages that torch's own tests use and these don't
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PREFIX = "nn.functional."
# What is left out, and why.
RANDOM = "what it returns is a matter of chance: tests/nn/test_random_layers.py"
LEFT_OUT = dict.fromkeys(
    ("dropout", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "rrelu"), RANDOM
)
MOST = 48  # of the products of all options that some functions have, so many are taken, evenly spread
TOLERANCE = 5e-5


def name_of(info: Any) -> str:
    return info.name.removeprefix(PREFIX)


INFOS = [
    pytest.param(info, id=f"{name_of(info)}-{info.variant_test_name}", marks=pytest.mark.xdist_group(f"op-{info.name}"))
    for info in op_db
    if info.name.startswith(PREFIX) and name_of(info) not in LEFT_OUT
]


EAGER = {"one_hot": "the number of classes is read from the values"}
# the database has the table first
TURNED = {"embedding", "embedding_bag"}


def ours(name: str) -> Any:
    """Return our function, with its arguments in the order of the database."""
    function = getattr(F, name)
    return (
        (lambda weight, input, *args, **kwargs: function(input, weight, *args, **kwargs))
        if name in TURNED
        else function
    )


def to_ours(value: Any) -> Any:
    """Turn an argument of torch's into ours."""
    if isinstance(value, torch.Tensor):
        return jnp.asarray(value.detach().resolve_conj().numpy().copy())
    if isinstance(value, torch.dtype):
        return jnp.dtype(str(value).removeprefix("torch."))
    if isinstance(value, tuple | list):
        return type(value)(map(to_ours, value))
    if isinstance(value, dict):
        return {k: to_ours(v) for k, v in value.items()}
    if type(value).__name__ == "LinearCrossEntropyOptions":
        from jaxmodules import nn

        return nn.LinearCrossEntropyOptions(**{k: to_ours(v) for k, v in vars(value).items()})
    if callable(value) and getattr(value, "__module__", "") == "torch.nn.functional":
        return getattr(F, value.__name__)
    return value


def numbered(args: Any) -> dict[str, Any]:
    """Name the positional arguments."""
    return {f"argument {i}": value for i, value in enumerate(args)}


def run_torch(function: Any, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the outputs, and the gradients of the arguments that have one."""
    outputs = leaves(function(*args, **kwargs))
    floating = [output for output in outputs if is_float(output)]
    pairs = [p for p in zip(floating, map(torch.tensor, cotangents(outputs)), strict=True) if p[0].requires_grad]
    if pairs:
        torch.autograd.backward(*zip(*pairs, strict=True))
    given = numbered(args) | kwargs
    tensors = {k: v for k, v in given.items() if isinstance(v, torch.Tensor) and v.requires_grad and v.is_leaf}
    return outputs, {k: v.grad for k, v in tensors.items() if v.grad is not None}


def run_ours(name: str, args: Any, kwargs: Any, wanted: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the outputs and the gradients, compiled together."""
    given = numbered(args) | kwargs
    arrays = {k: v for k, v in given.items() if isinstance(v, jax.Array)}

    def function(trained: dict[str, Any], arrays: dict[str, Any]) -> Any:
        every = {**given, **arrays, **trained}
        result = leaves(ours(name)(*(every[i] for i in numbered(args)), **{k: every[k] for k in kwargs}))
        return [leaf for leaf in result if is_float(leaf)], result

    @jax.jit
    def compiled(arrays: dict[str, Any]) -> Any:
        floating, pullback, result = jax.vjp(
            lambda trained: function(trained, arrays), {k: arrays[k] for k in wanted}, has_aux=True
        )
        return result, pullback([jnp.asarray(c, x.dtype) for c, x in zip(cotangents(floating), floating, strict=True)])[
            0
        ]

    if name in EAGER:
        return function({}, {})[1], {}
    return compiled(arrays)


def compare(info: Any, sample: Any) -> None:
    args, kwargs = [sample.input, *sample.args], sample.kwargs
    outputs, gradients = run_torch(info.op, args, kwargs)
    result, found = run_ours(name_of(info), [to_ours(a) for a in args], to_ours(kwargs), gradients)
    for number, (one, other) in enumerate(zip(result, outputs, strict=True)):
        assert one.shape == tuple(other.shape), f"output {number}: expected {tuple(other.shape)}, got {one.shape}"
        np.testing.assert_allclose(one, other.detach().numpy(), TOLERANCE, TOLERANCE, err_msg=f"output {number}")
    for key, gradient in gradients.items():
        np.testing.assert_allclose(found[key], gradient, TOLERANCE, TOLERANCE, err_msg=f"gradient of {key}")


@pytest.mark.parametrize("info", INFOS)
def test_samples_of_the_database(info: Any) -> None:
    torch.manual_seed(0)
    samples = list(info.sample_inputs("cpu", torch.float32, requires_grad=True))
    problems = []
    for sample in samples[:: -(-len(samples) // MOST)]:
        try:
            compare(info, sample)
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            problems.append(f"{sample.summary()[:300]}: {type(error).__name__}: {' '.join(lines[:6])}")
    assert not problems, f"{len(problems)} samples:\n" + "\n".join(problems[:8])


@pytest.mark.parametrize("info", [param for param in INFOS if param.values[0].error_inputs_func])
def test_errors_of_the_database(info: Any) -> None:
    problems = []
    for given in info.error_inputs("cpu"):
        sample = given.sample_input
        args, kwargs = [to_ours(a) for a in (sample.input, *sample.args)], to_ours(sample.kwargs)
        try:
            with pytest.raises(given.error_type, match=given.error_regex):
                ours(name_of(info))(*args, **kwargs)
        except (Exception, pytest.fail.Exception) as error:
            problems.append(f"{given.error_regex}: {type(error).__name__}: {str(error)[:300]}")
    assert not problems, f"{len(problems)} errors:\n" + "\n".join(problems[:8])
