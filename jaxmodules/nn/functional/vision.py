"""Sampling images and volumes at positions that are arrays."""

import itertools
import math
import warnings
from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, check_floating, is_floating, scalar_type
from jaxmodules._typing import Array, ArrayLike, Shape

_MODES = ("bilinear", "nearest", "bicubic")
_PADDING_MODES = ("zeros", "border", "reflection")


def grid_sample(
    input: ArrayLike,
    grid: ArrayLike,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Array:
    """Sample every image at its own grid of positions.

    Args:
        input: ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        grid: for every element of the output its position ``(x, y)``, or ``(x, y, z)``, where -1 and 1 are the ends of
            the image; ``(N, H_out, W_out, 2)`` or ``(N, D_out, H_out, W_out, 3)``.
        mode: what to return between the elements: ``"bilinear"`` (trilinear in volumes), ``"nearest"`` or, in images,
            ``"bicubic"``.
        padding_mode: what is outside: ``"zeros"``, the nearest element of the ``"border"``, or the ``"reflection"`` of
            the image.
        align_corners: whether -1 and 1 are the centres of the corner elements rather than their outer corners;
            ``False``, with a warning, by default.

    Shape:
        ``(N, C, H, W), (N, H_out, W_out, 2) -> (N, C, H_out, W_out)``, and likewise with one axis more

    Raises:
        ValueError: if a mode is unknown.
        RuntimeError: if shapes or types do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> image = jnp.arange(4.0).reshape(1, 1, 2, 2)
        >>> F.grid_sample(image, jnp.array([[[[0.0, 0.0], [1.0, -1.0]]]]), align_corners=True).tolist()
        [[[[1.5, 1.0]]]]
    """
    input, grid = as_array(input), as_array(grid)
    input, grid = cast("grid_sample", input, grid)
    if mode not in _MODES:
        raise ValueError(
            f"nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', but got: '{mode}'"
        )
    if padding_mode not in _PADDING_MODES:
        raise ValueError(
            "nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or 'reflection',"
            f" but got: '{padding_mode}'"
        )
    if align_corners is None:
        _warn_of_corners()
    _check_grid(input, grid, mode)
    return _grid_sample(input, grid, mode, padding_mode, bool(align_corners))


def affine_grid(theta: ArrayLike, size: Sequence[int], align_corners: bool | None = None) -> Array:
    r"""Make the grid of positions that :func:`grid_sample` needs to transform images by affine maps.

    .. math:: (x, y) = \theta\,(x', y', 1)

    Args:
        theta: a matrix for every image, ``(N, 2, 3)``, or for every volume, ``(N, 3, 4)``.
        size: the size of the output images, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        align_corners: whether -1 and 1 are the centres of the corner elements rather than their outer corners;
            ``False``, with a warning, by default.

    Shape:
        ``(N, 2, 3) -> (N, H, W, 2)`` or ``(N, 3, 4) -> (N, D, H, W, 3)``

    Raises:
        ValueError: if ``theta`` is not of floating point, or does not fit ``size``.
        NotImplementedError: if ``size`` has neither 4 nor 5 elements.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.affine_grid(jnp.eye(2, 3)[None], (1, 1, 1, 2), align_corners=False).tolist()
        [[[[-0.5, 0.0], [0.5, 0.0]]]]
    """
    theta = as_array(theta)
    (theta,) = cast("affine_grid", theta)
    if align_corners is None:
        _warn_of_corners()
    if not is_floating(theta.dtype):
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    if len(size) not in (4, 5):
        raise NotImplementedError(
            "affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, respectively."
            f" Got size {size}."
        )
    rank = len(size) - 2
    if theta.ndim != 3 or theta.shape[1:] != (rank, rank + 1):
        raise ValueError(
            f"Expected a batch of {rank}D affine matrices of shape Nx{rank}x{rank + 1} for size {size}."
            f" Got {theta.shape}."
        )
    if align_corners and min(size[2:]) == 1:
        warnings.warn(
            "Since version 1.3.0, affine_grid behavior has changed for unit-size grids when align_corners=True. This"
            " is not an intended use case of affine_grid. See the documentation of affine_grid for details.",
            stacklevel=2,
        )
    elif any(length <= 0 for length in size):
        raise ValueError(f"Expected non-zero, positive output size. Got {size}")
    if theta.shape[0] != size[0]:
        raise RuntimeError(f"Expected size for first dimension of theta to be: {size[0]} but got: {theta.shape[0]}")
    return _affine_grid(theta, tuple(size[2:]), bool(align_corners))


@partial(jax.jit, static_argnames=("mode", "padding_mode", "align_corners"), inline=True)
def _grid_sample(input: Array, grid: Array, mode: str, padding_mode: str, align_corners: bool) -> Array:
    dtype = accumulation_dtype(input.dtype)
    spatial, out = input.shape[2:], grid.shape[1:-1]
    grid = grid.astype(dtype).reshape(grid.shape[0], math.prod(out), len(spatial))
    # PyTorch pads around the position, or around each of the elements that a cubic is made of
    around, around_each = ("zeros", padding_mode) if mode == "bicubic" else (padding_mode, "zeros")
    axes = []
    for axis, size in enumerate(spatial):
        # the last coordinate belongs to the first spatial axis
        position = _inside(_position(grid[..., -1 - axis], size, align_corners), size, around, align_corners)
        taps = _TAPS[mode](position)
        axes.append([(*_index(place, size, around_each, align_corners), weight) for place, weight in taps])
    values = input.astype(dtype).reshape(*input.shape[:2], math.prod(spatial))
    output = reduce(jnp.add, (_read(values, corner, spatial) for corner in itertools.product(*axes)))
    return output.reshape(*input.shape[:2], *out).astype(input.dtype)


@partial(jax.jit, static_argnames=("sizes", "align_corners"), inline=True)
def _affine_grid(theta: Array, sizes: Shape, align_corners: bool) -> Array:
    rank, values = len(sizes), theta.astype(accumulation_dtype(theta.dtype))
    columns = jnp.expand_dims(values, tuple(range(1, rank + 1)))  # (N, 1, ..., rank, rank + 1)
    output = columns[..., -1]
    for axis, size in enumerate(sizes):
        steps = np.linspace(-1, 1, size) * (1 if align_corners else (size - 1) / size) if size > 1 else np.zeros(size)
        shape = [1] * (rank + 2)
        shape[axis + 1] = size
        output = output + columns[..., rank - 1 - axis] * steps.astype(values.dtype).reshape(shape)
    return output.astype(theta.dtype)


def _position(coordinate: Array, size: int, align_corners: bool) -> Array:
    """Return where a coordinate between -1 and 1 is, counted in elements."""
    if align_corners:
        return (coordinate + 1) / 2 * (size - 1)
    return ((coordinate + 1) * size - 1) / 2


def _inside(position: Array, size: int, padding_mode: str, align_corners: bool) -> Array:
    """Move positions into the image; where that is a matter of chance, gradients are those of PyTorch."""
    if padding_mode == "zeros":
        return position
    if padding_mode == "reflection":
        position = _reflect(position, size, align_corners)
    # the ends count as outside, and so does NaN: no gradient there
    held = jnp.where(position >= size - 1, jnp.full_like(position, size - 1), 0)
    return jnp.where((position > 0) & (position < size - 1), position, held)


def _reflect(position: Array, size: int, align_corners: bool) -> Array:
    low, span = (0.0, size - 1) if align_corners else (-0.5, size)
    if span == 0:
        return jnp.zeros_like(position)
    offset = position - low
    sign = jnp.where(lax.stop_gradient(offset) < 0, -1, 1).astype(position.dtype)
    distance = offset * sign
    turns = lax.stop_gradient(jnp.floor(distance / span))
    extra = distance - turns * span
    return jnp.where(turns % 2 == 0, extra, span - extra) + low


def _linear_taps(position: Array) -> list[tuple[Array, Array]]:
    """Return the places of the two neighbours of a position, and their shares."""
    first = lax.stop_gradient(jnp.floor(position))
    share = position - first
    return [(first, 1 - share), (first + 1, share)]


def _nearest_taps(position: Array) -> list[tuple[Array, Array]]:
    place = lax.stop_gradient(jnp.round(position))
    return [(place, jnp.ones_like(place))]


def _cubic_taps(position: Array) -> list[tuple[Array, Array]]:
    """Return the places of the four neighbours of a position, and the cubic convolution kernel (a = -0.75) there."""
    first = lax.stop_gradient(jnp.floor(position))
    share = position - first

    def near(x: Array) -> Array:
        return (1.25 * x - 2.25) * x * x + 1

    def far(x: Array) -> Array:
        return ((-0.75 * x + 3.75) * x - 6) * x + 3

    weights = (far(share + 1), near(share), near(1 - share), far(2 - share))
    return [(first + step, weight) for step, weight in enumerate(weights, -1)]


_TAPS = {"bilinear": _linear_taps, "nearest": _nearest_taps, "bicubic": _cubic_taps}


def _index(place: Array, size: int, padding_mode: str, align_corners: bool) -> tuple[Array, Array]:
    """Return a place as an index that is inside, and whether it was."""
    place = lax.stop_gradient(_inside(place, size, padding_mode, align_corners))
    valid = (place >= 0) & (place < size)
    return jnp.where(valid, place, 0).astype(np.int32), valid


def _read(values: Array, corner: Sequence[tuple[Array, Array, Array]], spatial: Shape) -> Array:
    """Return one corner's elements times their weights; ``(N, C, all elements) -> (N, C, all positions)``."""
    index, valid, weight = corner[0]
    for (place, inside, share), size in zip(corner[1:], spatial[1:], strict=True):
        index, valid, weight = index * size + place, valid & inside, weight * share
    found = jax.vmap(lambda image, index: jnp.take(image, index, axis=1, mode="clip"))(values, index)
    return jnp.where(valid[:, None], found, 0) * weight[:, None]


def _warn_of_corners() -> None:
    warnings.warn(
        "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. Please specify"
        " align_corners=True if the old behavior is desired. See the documentation of grid_sample for details.",
        stacklevel=3,
    )


def _check_grid(input: Array, grid: Array, mode: str) -> None:
    shapes = f"but got input with sizes {list(input.shape)} and grid with sizes {list(grid.shape)}"
    if input.ndim and grid.ndim and input.shape[0] != grid.shape[0]:
        raise RuntimeError(f"grid_sampler(): expected grid and input to have same batch size, {shapes}")
    rank = input.ndim - 2
    if grid.ndim and grid.shape[-1] != rank:
        raise RuntimeError(
            f"grid_sampler(): expected grid to have size {rank} in last dimension,"
            f" but got grid with sizes {list(grid.shape)}"
        )
    for axis, size in enumerate(input.shape[2:], 2):
        if size == 0:
            raise RuntimeError(
                "grid_sampler(): expected input to have non-empty spatial dimensions,"
                f" but input has sizes {list(input.shape)} with dimension {axis} being empty"
            )
    if rank not in (2, 3) or input.ndim != grid.ndim:
        raise RuntimeError(
            f"grid_sampler(): expected {5 if input.ndim != 4 else 4}D input and grid with same number of dimensions,"
            f" {shapes}"
        )
    if mode == "bicubic" and rank != 2:
        raise RuntimeError(f"grid_sampler(): bicubic interpolation only supports 4D input, {shapes}")
    check_floating(input, "grid_sampler")
    if input.dtype != grid.dtype:
        raise RuntimeError(
            f"expected scalar type {scalar_type(input.dtype)} but found {scalar_type(grid.dtype)}:"
            " input and grid must be of one type"
        )
