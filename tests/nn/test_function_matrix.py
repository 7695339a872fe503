"""What every function has to have besides PyTorch's results: one row of the table stands for each."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules.nn import functional as F
from tests.rows import rows
from tests.table import Call, is_float, leaves, to_torch

FIRST = {call.name: (family, call) for family, call in reversed(rows("CALLS"))}
PARAMS = [pytest.param(call, id=name, marks=pytest.mark.xdist_group(family)) for name, (family, call) in FIRST.items()]
# attention is projections, masks, weights, averages and a combination
MOST_PROGRAMS = {"multi_head_attention_forward": 6}
# those with a gradient, or a place, that is chosen rather than derived, and some of the rest
BENT = ("cosine_similarity", "embedding", "softsign", "softmax", "layer_norm", "huber_loss", "lp_pool1d", "l1_loss")

compiled: Counter[str] = Counter()
jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **more: compiled.update([event]))


def run(call: Call, arrays: dict[str, Any]) -> list[Any]:
    return leaves(getattr(F, call.name)(**arrays, **call.options))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("call", PARAMS)
def test_eager_call_is_a_few_programs_compiled_once(call: Call) -> None:
    arrays = jax.tree.map(jax.device_put, call.make())
    run(call, arrays)  # the state of the generator may be made here
    jax.clear_caches()
    for most in (MOST_PROGRAMS.get(call.name, 3), 0):
        compiled.clear()
        run(call, arrays)
        assert compiled["/jax/core/compile/backend_compile_duration"] <= most


def up(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64) if is_float(value) else value


def curvature(outputs: list[Any], functions: Any) -> Any:
    """Reduce the results to a number that bends with each."""
    return sum(functions.sin(output).sum() for output in outputs if is_float(output))


def bends(call: Call) -> bool:
    return call.name in BENT and "dtype" not in call.options and any(map(is_float, call.make().values()))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("call", [call for _, call in rows("CALLS") if bends(call)], ids=str)
def test_second_derivatives_equal_torch(call: Call) -> None:
    with jax.enable_x64(True):
        arrays = jax.tree.map(up, call.make())
        key = next(key for key in call.arrays if is_float(arrays[key]))
        direction = np.random.default_rng(5).standard_normal(arrays[key].shape)
        tensors = {name: to_torch(array) for name, array in arrays.items()}
        point = tensors[key].requires_grad_()
        outputs = leaves(getattr(torch.nn.functional, call.name)(**tensors, **call.options))
        (slope,) = torch.autograd.grad(curvature(outputs, torch), point, create_graph=True)
        (expected,) = torch.autograd.grad((slope * torch.tensor(direction)).sum(), point)

        @jax.jit
        def found(value: jax.Array) -> jax.Array:
            gradient = jax.grad(lambda value: curvature(run(call, {**arrays, key: value}), jnp))
            return jax.grad(lambda value: (gradient(value) * direction).sum())(value)

        ours, expected = found(jnp.asarray(arrays[key])), expected.numpy()
        assert jnp.isfinite(ours).all()
        # those of a norm at zero are NaN in PyTorch
        np.testing.assert_allclose(np.where(np.isnan(expected), np.nan, ours), expected, 1e-7, 1e-9)
