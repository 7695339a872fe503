"""PyTorch's own databases of test inputs, and how a sample of theirs runs in both libraries."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxmodules import nn
from tests.table import cotangents, dtype_name, is_float, leaves

with warnings.catch_warnings():  # of packages that torch's own tests use and these don't
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db as op_db
    from torch.testing._internal.common_modules import module_db as module_db

TOLERANCE = 5e-5
Arguments = dict[str, Any]


def to_ours(value: Any, double: Any = np.float32) -> Any:
    """Turn an argument of torch's into ours; ``double`` is the type for arrays of double precision."""
    if isinstance(value, torch.Tensor):
        array = value.detach().resolve_conj().numpy().copy()
        return jnp.asarray(array, double if array.dtype == np.float64 else None)
    if isinstance(value, torch.dtype):
        return jnp.dtype(str(value).removeprefix("torch."))
    if isinstance(value, torch.nn.TransformerEncoderLayer):
        return _encoder_layer(value)
    if isinstance(value, torch.nn.Module):
        return getattr(nn, type(value).__name__)()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_ours(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return getattr(nn, type(value).__name__)(**fields)
    if isinstance(value, tuple | list):
        return type(value)(to_ours(part, double) for part in value)
    if isinstance(value, dict):
        return {k: to_ours(v, double) for k, v in value.items()}
    if callable(value) and not isinstance(value, type):
        return getattr(nn.functional, value.__name__)
    return value


def _encoder_layer(theirs: torch.nn.TransformerEncoderLayer) -> nn.Module:
    """Build our layer with the settings and weights of torch's."""
    attention, linear = theirs.self_attn, theirs.linear1
    ours = nn.TransformerEncoderLayer(
        attention.embed_dim,
        attention.num_heads,
        linear.out_features,
        theirs.dropout.p,
        to_ours(theirs.activation),
        theirs.norm1.eps,
        attention.batch_first,
        theirs.norm_first,
        linear.bias is not None,
    )
    ours.load_state_dict(theirs.state_dict())
    return ours


def named(args: Any, kwargs: Arguments) -> Arguments:
    """Give the positional arguments names too."""
    return {str(i): value for i, value in enumerate(args)} | kwargs


def call(function: Callable[..., Any], arguments: Arguments) -> Any:
    """Call a function with arguments from :func:`named`."""
    positional = [value for name, value in arguments.items() if name.isdigit()]
    return function(*positional, **{name: value for name, value in arguments.items() if not name.isdigit()})


def run_torch(function: Callable[..., Any], arguments: Arguments, trained: list[str]) -> tuple[list[Any], Arguments]:
    """Return the outputs, and the gradients of the arguments in ``trained`` that have one."""
    tensors = {name: arguments[name].detach().clone().requires_grad_() for name in trained}
    outputs = leaves(call(function, arguments | tensors))
    floating = [output for output in outputs if is_float(output)]
    pairs = [p for p in zip(floating, map(torch.tensor, cotangents(outputs)), strict=True) if p[0].requires_grad]
    if pairs:
        torch.autograd.backward(*zip(*pairs, strict=True))
    return outputs, {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}


def run_ours(
    function: Callable[..., Any], params: Any, arguments: Arguments, trained: Any, compiles: bool
) -> tuple[list[Any], Any, Any, Arguments]:
    """Return the outputs and the new state of ``function(params, arguments)``, and the gradients of both."""
    arrays = {name: value for name, value in arguments.items() if isinstance(value, jax.Array)}

    def run(params: Any, arrays: Arguments) -> Any:
        def inner(params: Any, chosen: Arguments) -> Any:
            result, state = function(params, arguments | arrays | chosen)
            result = leaves(result)
            return [leaf for leaf in result if is_float(leaf)], (result, state)

        floating, pullback, (result, state) = jax.vjp(inner, params, {k: arrays[k] for k in trained}, has_aux=True)
        given = [jnp.asarray(c, x.dtype) for c, x in zip(cotangents(floating), floating, strict=True)]
        return result, state, *pullback(given)

    return (jax.jit(run) if compiles else run)(params, arrays)


def close(ours: Any, theirs: Any, what: str) -> None:
    """Compare an array with a tensor, or with the zeros that a missing gradient stands for."""
    expected = np.zeros(ours.shape, np.float32) if theirs is None else theirs.detach().numpy()
    assert ours.shape == expected.shape, f"{what}: expected shape {expected.shape}, got {ours.shape}"
    if theirs is not None:
        assert dtype_name(ours) == dtype_name(theirs), f"{what}: expected {theirs.dtype}, got {ours.dtype}"
    np.testing.assert_allclose(ours, expected, TOLERANCE, TOLERANCE, err_msg=what)


def in_brief(error: BaseException) -> str:
    """Write an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:6])}"
