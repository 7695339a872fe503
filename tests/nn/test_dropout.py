"""What the rows of the table can't say of dropout: warnings, and what becomes of the gradient."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F


@pytest.mark.parametrize("name, ndim", [(f"dropout{rank}d", ndim) for rank in (2, 3) for ndim in range(1, 7)])
def test_ranks_warn_as_in_torch(name: str, ndim: int) -> None:
    def heard(functions: Any, x: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert tuple(getattr(functions, name)(x, training=False).shape) == x.shape
        return [str(warning.message) for warning in caught]

    assert heard(F, np.ones((1,) * ndim)) == heard(torch.nn.functional, torch.ones((1,) * ndim))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "dropout1d", "feature_alpha_dropout"])
def test_values_and_gradients_are_those_of_torch(name: str, p: float) -> None:
    def function(x: jnp.ndarray) -> Any:
        output = getattr(F, name)(x, p, training=True)
        return output.sum(), output

    given = torch.full((400, 2), 2.0, requires_grad=True)
    theirs = getattr(torch.nn.functional, name)(given, p, training=True)
    theirs.sum().backward()
    (_, ours), gradient = jm.value_and_grad(function, has_aux=True)(jnp.full((400, 2), 2.0))
    np.testing.assert_allclose(np.unique(ours), np.unique(theirs.detach()), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.unique(gradient), np.unique(given.grad), rtol=1e-6)
    assert ((gradient == 0) == (ours == ours.min())).all()


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
def test_what_is_not_a_number_shows_through(name: str) -> None:
    x = jnp.full(200, jnp.nan)
    assert jnp.isnan(getattr(F, name)(x, 0.5, training=True)).all()
    assert jnp.isnan(getattr(F, name)(x, 1.0, training=True)).all()


@pytest.mark.parametrize("name", ["Dropout", "AlphaDropout", "FeatureAlphaDropout", "Dropout1d"])
def test_short_floats_stay_short(name: str) -> None:
    output = getattr(nn, name)(0.25)(jnp.ones((50, 4), jnp.bfloat16))
    assert output.dtype == jnp.bfloat16 and len(np.unique(output.astype(jnp.float32))) == 2


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    before = jm.get_rng_state()
    for net in (nn.Dropout().eval(), nn.Dropout(0.0), nn.Dropout(1.0), nn.AlphaDropout().eval(), nn.RReLU().eval()):
        net(jnp.ones((2, 3)))
    np.testing.assert_array_equal(jm.get_rng_state(), before)
