"""Initialisers: the same seed gives the weights that ``torch.nn.init`` gives."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules import random
from jaxmodules.nn import init
from jaxmodules.nn.parameter import Parameter

Case = tuple[str, tuple[int, ...], dict[str, Any]]

EXACT: list[Case] = [
    ("uniform_", (3, 5), {}),
    ("uniform_", (300, 70), {"a": -0.2, "b": 0.5}),
    ("normal_", (3, 5), {"mean": 1.0, "std": 0.1}),
    ("normal_", (300, 71), {"std": 0.02}),
    ("constant_", (3, 5), {"val": 0.3}),
    ("ones_", (3, 5), {}),
    ("zeros_", (3, 5), {}),
    ("eye_", (3, 5), {}),
    ("eye_", (5, 3), {}),
    ("dirac_", (4, 2, 3), {}),
    ("dirac_", (3, 16, 5, 5), {}),
    ("dirac_", (6, 2, 4, 3, 5), {"groups": 3}),
    ("xavier_uniform_", (30, 7), {"gain": 2.0}),
    ("xavier_uniform_", (8, 4, 3, 3), {}),
    ("xavier_normal_", (8, 4, 3, 3), {"gain": 0.5}),
    ("kaiming_uniform_", (30, 7), {"a": 5**0.5}),
    ("kaiming_uniform_", (8, 4, 3), {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_normal_", (8, 4, 3, 3), {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_normal_", (64, 129), {"nonlinearity": "tanh"}),
    ("sparse_", (20, 7), {"sparsity": 0.35}),
    ("sparse_", (3, 5), {"sparsity": 0.5, "std": 1.0}),
    ("trunc_normal_", (3, 4), {"std": 0.02}),
    ("trunc_normal_", (40, 30), {"a": -0.5, "b": 0.9}),
    ("trunc_normal_", (3, 4), {"a": 1.5, "b": 1.9}),
    ("trunc_normal_", (40, 30), {"mean": 0.5, "a": 0.4, "b": 0.6}),
]
CLOSE: list[Case] = [
    ("orthogonal_", (5, 3), {}),
    ("orthogonal_", (8, 4, 3, 3), {"gain": 2.0}),
    ("orthogonal_", (40, 40), {}),
    ("orthogonal_", (3, 100), {}),
]
BAD: list[Case] = [
    ("eye_", (2, 3, 4), {}),
    ("dirac_", (2, 3), {}),
    ("dirac_", (5, 2, 3), {"groups": 2}),
    ("xavier_uniform_", (3,), {}),
    ("xavier_normal_", (3,), {}),
    ("kaiming_uniform_", (3,), {}),
    ("kaiming_normal_", (3, 4), {"mode": "fan"}),
    ("kaiming_normal_", (3, 4), {"nonlinearity": "gelu"}),
    ("kaiming_uniform_", (3, 4), {"a": True}),
    ("orthogonal_", (3,), {}),
    ("sparse_", (3,), {"sparsity": 0.1}),
    ("uniform_", (3,), {"a": 1.0, "b": 0.0}),
    ("normal_", (3,), {"std": -1.0}),
]
KINDS: dict[str, Callable[[Any], Any]] = {
    "Parameter": Parameter,
    "data": lambda array: Parameter(array).data,
    "numpy": lambda array: array,
    "jax": jnp.asarray,
}


@pytest.fixture(autouse=True)
def same_seed() -> Iterator[None]:
    torch.manual_seed(7)
    with random.fork_rng():
        random.manual_seed(7)
        yield


def run_both(case: Case) -> tuple[np.ndarray, np.ndarray]:
    name, shape, kwargs = case
    expected = getattr(torch.nn.init, name)(torch.empty(shape), **kwargs)
    actual = getattr(init, name)(np.empty(shape, np.float32), **kwargs)
    np.testing.assert_array_equal(random.rand(3), torch.rand(3).numpy(), err_msg="the streams are out of step")
    return actual, expected.numpy()


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_weights_have_the_bits_of_torch(case: Case) -> None:
    np.testing.assert_array_equal(*run_both(case))


@pytest.mark.parametrize("case", CLOSE, ids=str)
def test_orthogonal_weights_are_torchs_to_rounding(case: Case) -> None:
    np.testing.assert_allclose(*run_both(case), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [EXACT[1], EXACT[4], EXACT[11], EXACT[19], EXACT[22], CLOSE[1]], ids=str)
def test_every_kind_of_tensor_gets_the_same_values(case: Case, kind: str) -> None:
    name, shape, kwargs = case
    expected = getattr(torch.nn.init, name)(torch.empty(shape), **kwargs).numpy()
    tensor = KINDS[kind](np.full(shape, np.nan, np.float32))
    out = getattr(init, name)(tensor, **kwargs)
    np.testing.assert_allclose(np.asarray(out), expected, atol=1e-5)
    assert out.dtype == np.float32 and isinstance(out, type(tensor))
    assert (out is tensor) == (kind != "jax")


def test_a_jax_array_is_left_as_it_was() -> None:
    array = jnp.ones((3, 4))
    assert not jnp.array_equal(init.normal_(array), array)
    np.testing.assert_array_equal(array, np.ones((3, 4)))


@pytest.mark.parametrize("case", [*EXACT, *CLOSE], ids=str)
def test_half_precision_keeps_the_dtype(case: Case) -> None:
    name, shape, kwargs = case
    out = getattr(init, name)(jnp.zeros(shape, jnp.bfloat16), **kwargs)
    assert out.dtype == jnp.bfloat16 and out.shape == shape
    assert bool(jnp.isfinite(out).all())


@pytest.mark.parametrize("case", [EXACT[1], EXACT[15], EXACT[22], CLOSE[0], EXACT[19]], ids=str)
def test_a_generator_of_its_own_is_drawn_from(case: Case) -> None:
    name, shape, kwargs = case
    expected = getattr(torch.nn.init, name)(torch.empty(shape), **kwargs, generator=torch.Generator().manual_seed(3))
    actual = getattr(init, name)(np.empty(shape, "f"), **kwargs, generator=random.Generator().manual_seed(3))
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(random.rand(3), torch.rand(3).numpy())


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_arguments_raise_torchs_error(case: Case) -> None:
    name, shape, kwargs = case
    with pytest.raises((ValueError, RuntimeError), match=".") as error:
        getattr(torch.nn.init, name)(torch.empty(shape), **kwargs)
    with pytest.raises(error.type, match=str(error.value).split("[")[0].replace("(", r"\(")):
        getattr(init, name)(np.empty(shape, np.float32), **kwargs)


def test_a_list_is_no_tensor() -> None:
    with pytest.raises(TypeError, match="expected a Parameter.*got list"):
        init.ones_([1.0])


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_zero_elements_are_left_alone_with_a_warning(name: str) -> None:
    tensor = np.empty((0, 3), np.float32)
    with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op") as record:
        assert getattr(init, name)(tensor) is tensor
    assert record[0].filename == __file__


def test_a_mean_far_outside_warns() -> None:
    with pytest.warns(UserWarning, match="mean is more than 2 std from") as record:
        out = init.trunc_normal_(np.empty(100, np.float32), mean=-1.0, std=0.1, a=0.0, b=0.3)
    assert out.min() >= 0 and out.max() <= np.float32(0.3) and record[0].filename == __file__


@pytest.mark.parametrize("param", [None, 0.2, 1])
@pytest.mark.parametrize("name", ["linear", "conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gain_is_torchs(name: str, param: float | None) -> None:
    assert init.calculate_gain(name, param) == torch.nn.init.calculate_gain(name, param)


ALIASES = [name for name in torch.nn.init.__all__ if f"{name}_" in torch.nn.init.__all__]


@pytest.mark.parametrize("name", ALIASES)
def test_old_spelling_warns_and_forwards(name: str) -> None:
    case = next(case for case in [*EXACT, *CLOSE] if case[0] == f"{name}_")
    with pytest.warns(FutureWarning, match=f"`nn.init.{name}` is now deprecated in favor of `nn.init.{name}_`."):
        old = getattr(init, name)(np.empty(case[1], np.float32), **case[2])
    random.manual_seed(7)
    np.testing.assert_array_equal(old, getattr(init, f"{name}_")(np.empty(case[1], np.float32), **case[2]))


@pytest.mark.parametrize("name", sorted(set(torch.nn.init.__all__) - set(ALIASES)))
def test_signature_is_torchs(name: str) -> None:
    mine, theirs = (inspect.signature(getattr(module, name)).parameters for module in (init, torch.nn.init))
    assert {k: p.default for k, p in mine.items()} == {k: p.default for k, p in theirs.items()}


RANDOM = [EXACT[i] for i in (1, 3, 12, 14, 15, 17, 19, 22, 24)] + CLOSE[:2]


@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_under_a_trace_values_come_from_the_bound_key(case: Case) -> None:
    name, shape, kwargs = case

    def draw(key: jax.Array) -> jax.Array:
        with random.fork_rng(key):
            return getattr(init, name)(jnp.zeros(shape), **kwargs)

    first, again, other = (jax.jit(draw)(jax.random.key(seed)) for seed in (0, 0, 1))
    assert jnp.array_equal(first, again) and not jnp.array_equal(first, other)
    assert first.shape == shape and first.dtype == jnp.float32
    eager = getattr(init, name)(np.empty(shape, np.float32), **kwargs)
    np.testing.assert_allclose(first.std(), eager.std(), rtol=0.35)
    if name == "sparse_":
        np.testing.assert_array_equal(jnp.count_nonzero(first, axis=0), np.count_nonzero(eager, axis=0))


def test_filling_compiles_nothing(caplog: pytest.LogCaptureFixture) -> None:
    parameter = Parameter(np.zeros((20, 30), np.float32))
    with jax.log_compiles():
        for name, _, kwargs in [*EXACT, *CLOSE]:
            if not name.startswith("dirac"):
                getattr(init, name)(parameter, **kwargs)
        assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
        jax.jit(lambda x: x + 1234)(1.0)
    assert "Compiling" in caplog.text
