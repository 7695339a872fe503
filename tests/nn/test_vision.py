"""What the table can't say of resampling: warnings, axes that go far down, other types."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules import nn
from jaxmodules.nn import functional as F

IMAGE = np.random.default_rng(0).standard_normal((1, 2, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("name, more", [("upsample", ("area",)), ("upsample_nearest", ()), ("upsample_bilinear", ())])
def test_deprecated_names_warn_and_work(name: str, more: tuple[Any, ...]) -> None:
    with pytest.warns(UserWarning, match=rf"`nn.functional.{name}` is deprecated. Use `nn.functional.interpolate`"):
        found = getattr(F, name)(IMAGE, None, 2, *more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = getattr(torch.nn.functional, name)(torch.tensor(IMAGE), None, 2, *more)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


def test_corners_have_to_be_chosen() -> None:
    with pytest.warns(UserWarning, match="Default grid_sample and affine_grid behavior has changed"):
        grid = F.affine_grid(jnp.eye(2, 3)[None], (1, 1, 2, 2))
    with pytest.warns(UserWarning, match="Default grid_sample and affine_grid behavior has changed"):
        assert F.grid_sample(jnp.ones((1, 1, 3, 3)), grid).shape == (1, 1, 2, 2)
    with pytest.warns(UserWarning, match="for unit-size grids when align_corners=True"):
        np.testing.assert_array_equal(F.affine_grid(jnp.eye(2, 3)[None], (1, 1, 1, 1), True), jnp.zeros((1, 1, 1, 2)))


def test_infinities_stay_where_they_are() -> None:
    image = IMAGE.copy()
    image[0, 0, 1, 2] = np.inf
    for options in (dict(mode="bilinear"), dict(mode="bicubic"), dict(mode="nearest")):
        expected = torch.nn.functional.interpolate(torch.tensor(image), size=(9, 7), **options)
        np.testing.assert_allclose(F.interpolate(image, (9, 7), **options), expected, 1e-5, 1e-5)


def test_double_precision_is_kept() -> None:
    with jax.enable_x64(True):
        image, grid = IMAGE.astype(np.float64), np.random.default_rng(1).uniform(-1, 1, (1, 3, 3, 2))
        for options in (dict(mode="bicubic"), dict(mode="bilinear", antialias=True), dict(mode="nearest-exact")):
            expected = torch.nn.functional.interpolate(torch.tensor(image), size=(3, 7), **options)
            np.testing.assert_allclose(F.interpolate(image, (3, 7), **options), expected, 1e-12, strict=True)
        expected = torch.nn.functional.grid_sample(torch.tensor(image), torch.tensor(grid), align_corners=False)
        np.testing.assert_allclose(F.grid_sample(image, grid, align_corners=False), expected, 1e-12, strict=True)


def test_second_derivatives_agree_forward_and_reverse() -> None:
    grid = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (1, 2, 2, 2)), np.float32)
    for function, x in (
        (lambda x: (F.interpolate(x, (3, 4), mode="bicubic") ** 3).sum(), IMAGE[:, :1, :2, :2]),
        (lambda x: (F.grid_sample(IMAGE, x, "bicubic", align_corners=False) ** 2).sum(), grid),
    ):
        forward, reverse = jax.jacfwd(jax.jacrev(function))(x), jax.jacrev(jax.jacrev(function))(x)
        np.testing.assert_allclose(forward, reverse, rtol=1e-4, atol=1e-4)


def test_upsample_reads_pickles_that_did_not_say_how_they_scale() -> None:
    state = nn.Upsample(scale_factor=1.5).__getstate__()
    del state["recompute_scale_factor"]
    net = nn.Upsample.__new__(nn.Upsample)
    net.__setstate__(state)
    assert net.recompute_scale_factor is True
