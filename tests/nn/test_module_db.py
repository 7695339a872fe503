"""PyTorch's own database of module inputs: every input of every layer in scope, in both modes, against torch."""

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.table import cotangents, is_float, leaves

with warnings.catch_warnings():  # of packages that torch's own tests use and these don't
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_modules import module_db

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# What is left out, and why: modules by name, and inputs by (module, part of the description).
LEFT_OUT: dict[str, str] = {}
FEW = 60  # more inputs than this go through a process of their own, in parts
TOLERANCE = 5e-5


def inputs_of(info: Any, training: bool) -> list[Any]:
    """Make the inputs of one layer; the same each time."""
    torch.manual_seed(0)
    make = info.module_inputs_func
    return list(make(info, device="cpu", dtype=torch.float32, requires_grad=False, training=training))


def parts() -> Iterator[Any]:
    """Yield each layer in each mode, long lists of inputs in parts."""
    for info in module_db:
        name = info.name.removeprefix("nn.")
        if name in LEFT_OUT:
            continue
        for training in (True, False):
            count = len(inputs_of(info, training))
            for start in range(0, count, FEW):
                mode = "train" if training else "eval"
                label = f"{name}-{mode}" + (f"-{start // FEW}" if count > FEW else "")
                yield pytest.param(info, training, start, id=label, marks=pytest.mark.xdist_group(f"db-{label}"))


def to_ours(value: Any) -> Any:
    """Turn an argument of torch's into ours."""
    if isinstance(value, torch.Tensor):
        return jnp.asarray(value.detach().numpy().copy())
    if isinstance(value, torch.dtype):
        return jnp.dtype(str(value).removeprefix("torch."))
    if isinstance(value, torch.nn.TransformerEncoderLayer):
        return encoder_layer(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_ours(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return getattr(nn, type(value).__name__)(**fields)
    if isinstance(value, tuple | list):
        return type(value)(map(to_ours, value))
    if isinstance(value, dict):
        return {k: to_ours(v) for k, v in value.items()}
    if callable(value) and not isinstance(value, type):
        return getattr(nn.functional, value.__name__)
    return value


def encoder_layer(theirs: torch.nn.TransformerEncoderLayer) -> nn.Module:
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


def is_trained(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and is_float(value)


def run_torch(net: torch.nn.Module, args: Any, kwargs: Any) -> tuple[list[Any], list[Any]]:
    """Return the outputs, and the gradients of every floating point input that has one."""
    args = [a.detach().clone().requires_grad_() if is_trained(a) else a for a in args]
    try:
        outputs = leaves(net(*args, **kwargs))
    except RuntimeError as error:
        if "derivative" not in str(error) and "requires_grad" not in str(error) and "differentiable" not in str(error):
            raise
        args = [args[0], *(a.detach() if isinstance(a, torch.Tensor) else a for a in args[1:])]
        outputs = leaves(net(*args, **kwargs))
    floating = [output for output in outputs if is_float(output)]
    pairs = [p for p in zip(floating, map(torch.tensor, cotangents(outputs)), strict=True) if p[0].requires_grad]
    if pairs:
        torch.autograd.backward(*zip(*pairs, strict=True))
    return outputs, [a.grad if is_trained(a) and a.requires_grad else None for a in args]


def run_ours(net: nn.Module, args: Any, kwargs: Any, wanted: list[int]) -> Any:
    """Return the outputs, the new buffers, and the gradients of parameters and inputs, compiled together."""
    apply, params, state = jm.functionalize(net)

    @jax.jit
    def compiled(params: Any, state: Any, args: Any) -> Any:
        def function(params: Any, trained: Any) -> Any:
            given = [trained.get(i, a) for i, a in enumerate(args)]
            result, new_state = apply(params, state, *given, **kwargs)
            result = leaves(result)
            return [leaf for leaf in result if is_float(leaf)], (result, new_state)

        floating, pullback, aux = jax.vjp(function, params, {i: args[i] for i in wanted}, has_aux=True)
        return *aux, pullback([jnp.asarray(cotangent) for cotangent in cotangents(floating)])

    return compiled(params, state, args)


def close(ours: Any, theirs: Any, what: str) -> None:
    expected = np.zeros(ours.shape, np.float32) if theirs is None else theirs.detach().numpy()
    assert ours.shape == expected.shape, f"{what}: expected shape {expected.shape}, got {ours.shape}"
    np.testing.assert_allclose(ours, expected, TOLERANCE, TOLERANCE, err_msg=what)


def compare(cls: Any, given: Any, training: bool) -> None:
    """Build both layers from one input of the database and compare everything they do."""
    make, call = given.constructor_input, given.forward_input
    theirs = cls(*make.args, **make.kwargs).train(training)
    ours = getattr(nn, cls.__name__)(*map(to_ours, make.args), **to_ours(make.kwargs)).train(training)
    if ours_is_lazy := hasattr(ours, "has_uninitialized_params"):
        theirs(*call.args, **call.kwargs)
        ours(*map(to_ours, call.args), **to_ours(call.kwargs))
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    outputs, gradients = run_torch(theirs, call.args, call.kwargs)
    wanted = [i for i, gradient in enumerate(gradients) if gradient is not None]
    args, kwargs = [to_ours(a) for a in call.args], to_ours(call.kwargs)
    result, state, (param_grads, input_grads) = run_ours(ours, args, kwargs, wanted)
    for one, other in zip(result, outputs, strict=True):
        close(one, other, "output")
    for i in wanted:
        close(input_grads[i], gradients[i], f"input {i}")
    for name, parameter in theirs.named_parameters():
        close(param_grads[name], parameter.grad, name)
    for name, buffer in theirs.named_buffers():
        close(state[name], buffer, name)
    assert not ours_is_lazy or type(ours).__name__ == type(theirs).__name__


@pytest.mark.parametrize("info, training, start", list(parts()))
def test_every_input_of_the_database(info: Any, training: bool, start: int) -> None:
    problems = []
    for number, given in enumerate(inputs_of(info, training)[start : start + FEW], start):
        try:
            compare(info.module_cls, given, training)
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            problems.append(f"{number} ({given.desc}): {type(error).__name__}: {' '.join(lines[:6])}")
    assert not problems, f"{len(problems)} inputs:\n" + "\n".join(problems[:10])


@pytest.mark.parametrize("info", [i for i in module_db if i.module_error_inputs_func], ids=lambda i: i.name)
def test_every_error_of_the_database(info: Any) -> None:
    make = info.module_error_inputs_func
    for given in make(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True):
        constructor, call = given.module_error_input.constructor_input, given.module_error_input.forward_input
        cls = getattr(nn, info.name.removeprefix("nn."))
        args, kwargs = [to_ours(a) for a in constructor.args], to_ours(constructor.kwargs)
        if call is None or "CONSTRUCTION" in str(given.error_on):
            with pytest.raises(given.error_type, match=given.error_regex):
                cls(*args, **kwargs)
            continue
        net = cls(*args, **kwargs)
        with pytest.raises(given.error_type, match=given.error_regex):
            net(*map(to_ours, call.args), **to_ours(call.kwargs))
