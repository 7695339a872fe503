"""What the rows of the table can't say of activations."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F

INPLACE = ["ReLU", "ReLU6", "RReLU", "Hardtanh", "Hardsigmoid", "Hardswish", "SiLU", "Mish", "ELU", "CELU", "SELU"]
SPECIAL = np.array([np.inf, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize("name", [*INPLACE, "LeakyReLU"])
def test_inplace_is_shown_and_leaves_the_input_alone(name: str) -> None:
    ours, theirs = getattr(nn, name)(inplace=True), getattr(torch.nn, name)(inplace=True)
    assert repr(ours) == repr(theirs) and ours.inplace
    x = jnp.array([-1.0, 2.0])
    np.testing.assert_allclose(ours.eval()(x), theirs.eval()(torch.tensor([-1.0, 2.0])), rtol=1e-6)
    assert x.tolist() == [-1.0, 2.0]


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "rrelu", "hardtanh", "elu", "celu", "selu"])
def test_underscored_functions_return_what_the_others_do(name: str) -> None:
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    result = getattr(F, f"{name}_")(x)
    np.testing.assert_array_equal(result, getattr(F, name)(x))
    np.testing.assert_allclose(result, getattr(torch.nn.functional, f"{name}_")(torch.tensor(x)), 1e-6, 1e-6)
    assert "inplace" not in inspect.signature(getattr(F, f"{name}_")).parameters


def test_threshold_and_limits_in_the_wrong_order_in_place() -> None:
    assert F.threshold_(jnp.array([0.5, 2.0]), 1.0, 20.0).tolist() == [20.0, 2.0]
    expected = torch.nn.functional.hardtanh_(torch.tensor([0.0, 1.5, 3.0]), 2, 1)
    np.testing.assert_array_equal(F.hardtanh_(jnp.array([0.0, 1.5, 3.0]), 2, 1), expected)


def test_hardtanh_takes_its_old_arguments_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="`min_value` is deprecated and renamed to `min_val`"):
        net = nn.Hardtanh(min_value=-3.0)
    with pytest.warns(FutureWarning, match="`max_value` is deprecated and renamed to `max_val`"):
        assert repr(nn.Hardtanh(max_value=5)) == "Hardtanh(min_val=-1.0, max_val=5)"
    assert net.min_val == -3.0 and isinstance(nn.ReLU6(), nn.Hardtanh)


@pytest.mark.parametrize(
    "name",
    ["celu", "elu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "relu",
     "relu6", "rrelu", "selu", "silu", "softplus", "softshrink", "softsign"],
)  # fmt: skip
def test_infinities_and_nan_go_where_they_go_in_torch(name: str) -> None:
    np.testing.assert_array_equal(getattr(F, name)(SPECIAL), getattr(torch.nn.functional, name)(torch.tensor(SPECIAL)))


@pytest.mark.parametrize("name", ["celu", "elu", "gelu", "hardswish", "logsigmoid", "mish", "selu", "silu", "softplus"])
def test_second_derivatives_equal_torch(name: str) -> None:
    x = np.array([-30.0, -2.0, -0.5, 0.5, 2.0, 30.0], np.float32)
    given = torch.tensor(x, requires_grad=True)
    (first,) = torch.autograd.grad(getattr(torch.nn.functional, name)(given).sum(), given, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), given)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(getattr(F, name))))(x), second, rtol=1e-4, atol=1e-5)


def test_rrelu_passes_the_gradient_by_the_slope_it_drew() -> None:
    slopes = jm.grad(lambda x: F.rrelu(x, 0.2, 0.4, training=True).sum())(jnp.full(1000, -1.0))
    assert ((slopes >= 0.2) & (slopes < 0.4)).all() and len(np.unique(slopes)) > 900
    assert (jm.grad(lambda x: F.rrelu(x, training=True).sum())(jnp.ones(5)) == 1).all()


def test_hard_gumbel_softmax_has_the_gradient_of_the_soft_one() -> None:
    scores = jnp.array([[0.5, -0.5, 1.0], [0.0, 2.0, 0.0]])

    def gradient(hard: bool) -> jax.Array:
        jm.manual_seed(0)
        return jm.grad(lambda x: (F.gumbel_softmax(x, 0.7, hard=hard) * jnp.arange(6.0).reshape(2, 3)).sum())(scores)

    np.testing.assert_allclose(gradient(True), gradient(False), rtol=1e-6)
    assert set(np.unique(F.gumbel_softmax(scores, hard=True))) == {0.0, 1.0}
    with pytest.warns(UserWarning, match="`eps` parameter is deprecated and has no effect"):
        F.gumbel_softmax(scores, eps=0.1)


@pytest.mark.parametrize("name", ["Softmax", "Softmin", "LogSoftmax"])
def test_layers_without_an_axis_warn(name: str) -> None:
    with pytest.warns(UserWarning, match="Implicit dimension choice for .*soft.* has been deprecated"):
        assert getattr(nn, name)()(jnp.zeros((2, 3))).shape == (2, 3)
