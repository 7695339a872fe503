"""Resampling along the spatial axes, one axis after the other, at positions that are known when tracing."""

import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, is_floating
from jaxmodules._typing import Array, ArrayLike, Shape
from jaxmodules.nn.functional._resampling import Taps, antialiased_taps, cubic_taps, linear_taps, nearest_places
from jaxmodules.nn.functional.pooling_adaptive import adaptive_avg_pool_nd

_Scales = tuple[float | None, ...]

_RANKS = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3, "lanczos": 2}
_ANY_RANK = ("nearest", "nearest-exact", "area")
_ANTIALIASED = ("bilinear", "bicubic", "lanczos")
_MANY_TAPS = 32


def interpolate(
    input: ArrayLike,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Array:
    """Resample the spatial axes to a size, or by a factor.

    Args:
        input: ``(N, C, *)`` with one to three spatial axes.
        size: the spatial sizes of the output, one for all or one each.
        scale_factor: the factors of the spatial sizes, one for all or one each, instead of ``size``.
        mode: ``"nearest"``, ``"nearest-exact"`` (which rounds positions as image libraries do) or ``"area"`` (the
            mean of what an output element covers) for any rank; ``"linear"``, ``"bilinear"`` and ``"trilinear"`` for
            one, two and three axes; ``"bicubic"`` and ``"lanczos"`` (with ``antialias``) for two.
        align_corners: whether the centres of the corner elements coincide, rather than their outer corners; for the
            interpolating modes only, where it is ``False`` by default.
        recompute_scale_factor: whether positions follow from the sizes instead of ``scale_factor`` itself; it makes
            a difference where the size was rounded.
        antialias: whether to widen the filter when the size goes down, as Pillow does.

    Shape:
        ``(N, C, *) -> (N, C, *size)``, where ``size`` is ``int(input_size * scale_factor)`` if not given

    Raises:
        ValueError: if options contradict each other or are of a wrong number.
        NotImplementedError: if the mode does not suit the number of axes or the type of ``input``.
        RuntimeError: if a size is not positive.
        TypeError: if ``size`` is not of ints.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.interpolate(jnp.array([[[0.0, 4.0]]]), scale_factor=2, mode="linear").tolist()
        [[[0.0, 1.0, 3.0, 4.0]]]
    """
    input = as_array(input)
    (input,) = cast("interpolate", input)
    if mode in _ANY_RANK and align_corners is not None:
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic |"
            f" trilinear, but got align_corners={align_corners} with mode={mode!r}"
        )
    sizes, scales = _output_sizes(input, size, scale_factor, recompute_scale_factor, mode)
    if antialias and not (mode in _ANTIALIASED and input.ndim == 4):
        raise ValueError(
            "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D tensor as"
            f" input, but got mode={mode!r} and {input.ndim}-D input"
        )
    _check_mode(input, mode, align_corners, antialias)
    if mode == "area":
        return adaptive_avg_pool_nd(input, sizes, rank=len(sizes))
    _check_sizes(input, sizes)
    _check_dtype(input, mode)
    if input.dtype == np.uint8 and mode in _RANKS:
        return _interpolate_bytes(input, mode, sizes, scales, bool(align_corners), antialias)
    return _interpolate(input, mode, sizes, scales, bool(align_corners), antialias)


def upsample(
    input: ArrayLike,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Array:
    """Resample as :func:`interpolate` does; deprecated in its favour.

    Examples:
        >>> import warnings
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     F.upsample(jnp.array([[[0.0, 4.0]]]), 4).tolist()
        [[[0.0, 0.0, 4.0, 4.0]]]
    """
    _warn_deprecated("upsample")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(
    input: ArrayLike,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Array:
    """Resample as ``interpolate(..., mode="nearest")`` does; deprecated in its favour."""
    _warn_deprecated("upsample_nearest")
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(
    input: ArrayLike,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Array:
    """Resample as ``interpolate(..., mode="bilinear", align_corners=True)`` does; deprecated in its favour."""
    _warn_deprecated("upsample_bilinear")
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


@partial(jax.jit, static_argnames=("mode", "sizes", "scales", "align_corners", "antialias"), inline=True)
def _interpolate(input: Array, mode: str, sizes: Shape, scales: _Scales, align_corners: bool, antialias: bool) -> Array:
    if mode in _ANY_RANK:
        output, real = input, np.dtype(np.float64 if input.dtype == np.float64 else np.float32)
        for axis, (size, scale) in reversed([*enumerate(zip(sizes, scales, strict=True), 2)]):
            output = _pick(output, axis, nearest_places(input.shape[axis], size, scale, mode == "nearest-exact", real))
        return output
    output = input.astype(accumulation_dtype(input.dtype))
    for axis, taps in _axis_taps(input, mode, sizes, scales, align_corners, antialias):
        output = _combine(output, axis, taps)
    return output.astype(input.dtype)


@partial(jax.jit, static_argnames=("mode", "sizes", "scales", "align_corners", "antialias"), inline=True)
def _interpolate_bytes(
    input: Array, mode: str, sizes: Shape, scales: _Scales, align_corners: bool, antialias: bool
) -> Array:
    """Interpolate in fixed point and round after each axis, as PyTorch and Pillow do."""
    output = input.astype(np.int32)
    for axis, taps in _axis_taps(input, mode, sizes, scales, align_corners, antialias):
        weights, bits = taps.fixed_point()
        total = _sum_taps(output, axis, taps.places, weights) + (1 << (bits - 1))
        output = jnp.clip(total >> bits, 0, 255)
    return output.astype(np.uint8)


def _axis_taps(
    input: Array, mode: str, sizes: Shape, scales: _Scales, align_corners: bool, antialias: bool
) -> Iterator[tuple[int, Taps]]:
    """Yield the axes to resample, last first, and what the elements of the output along each are made of."""
    taps: Callable[..., Taps] = cubic_taps if mode == "bicubic" else linear_taps
    if antialias:
        taps = partial(antialiased_taps, mode)
    # PyTorch computes positions in this type, and leaves an axis of the right size alone in these cases
    real = np.dtype(np.float32 if is_floating(input.dtype) and input.dtype != np.float64 else np.float64)
    keeps = antialias or input.dtype == np.uint8
    for axis in reversed(range(2, input.ndim)):
        length, size = input.shape[axis], sizes[axis - 2]
        if not (keeps and length == size):
            yield axis, taps(length, size, scales[axis - 2], align_corners, real)


def _pick(input: Array, axis: int, places: np.ndarray) -> Array:
    """Take elements along one axis: by repeating them where all are wanted equally often."""
    length = input.shape[axis]
    factor, rest = divmod(len(places), length)
    if not rest and (places == np.arange(len(places)) // factor).all():
        spread = jnp.broadcast_to(
            jnp.expand_dims(input, axis + 1), (*input.shape[: axis + 1], factor, *input.shape[axis + 1 :])
        )
        return spread.reshape(*input.shape[:axis], len(places), *input.shape[axis + 1 :])
    if not is_floating(input.dtype):
        return jnp.take(input, places, axis, mode="clip")
    return _combine(input, axis, Taps(places[:, None], np.ones((len(places), 1), input.dtype), length))


def _combine(input: Array, axis: int, taps: Taps) -> Array:
    """Make the elements of the output along one axis as weighted sums; gradients are products with a matrix.

    The transpose of a gather is a scatter, which takes many times as long.
    """

    @jax.custom_jvp
    def combine(input: Array) -> Array:
        return _sum_taps(input, axis, taps.places, taps.weights)

    @combine.defjvp
    def combine_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        return combine(*primals), _contract(tangents[0], axis, taps.matrix(input.dtype))

    if taps.places.shape[1] > _MANY_TAPS:
        return _contract(input, axis, taps.matrix(input.dtype))
    return combine(input)


def _sum_taps(input: Array, axis: int, places: np.ndarray, weights: np.ndarray) -> Array:
    """Add up the elements at each row of ``places`` along one axis, weighted."""
    shape = (1,) * axis + (-1,) + (1,) * (input.ndim - axis - 1)
    parts = (
        jnp.take(input, place, axis, mode="clip") * weight.reshape(shape)
        for place, weight in zip(places.T, weights.T.astype(input.dtype), strict=True)
    )
    return reduce(operator.add, parts)


def _contract(input: Array, axis: int, matrix: np.ndarray) -> Array:
    """Multiply ``matrix`` with one axis."""
    output = lax.dot_general(matrix, input, (((1,), (axis,)), ((), ())), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(output, 0, axis)


def _output_sizes(
    input: Array, size: Any, factors: Any, recompute_scale_factor: bool | None, mode: str
) -> tuple[Shape, _Scales]:
    """Return the spatial sizes of the output, and the factors that its positions follow from, where not the sizes."""
    spatial = input.shape[2:]
    if size is not None and factors is not None:
        raise ValueError(
            f"only one of size or scale_factor should be defined, but got size={size} and scale_factor={factors}"
        )
    if size is None and factors is None:
        raise ValueError("either size or scale_factor should be defined")
    if size is not None:
        if recompute_scale_factor:
            raise ValueError(f"recompute_scale_factor is not meaningful with an explicit size, got size={size}")
        return _given_sizes(spatial, size), (None,) * len(spatial)
    if not isinstance(factors, list | tuple):
        factors = (factors,) * len(spatial)
    if len(factors) != len(spatial):
        raise ValueError(
            "Input and scale_factor must have the same number of spatial dimensions, but got input with spatial"
            f" dimensions of {list(spatial)} and scale_factor of shape {factors}. Please provide input tensor"
            " in (N, C, d1, d2, ...,dK) format and scale_factor in (s1, s2, ...,sK) format."
        )
    if not all(isinstance(factor, int | float | np.number) for factor in factors):
        raise TypeError(f"scale_factor must be a number or a sequence of numbers, but got {factors!r}")
    factors = tuple(map(float, factors))
    scaled = [length * factor for length, factor in zip(spatial, factors, strict=True)]
    if not all(abs(length) < 2**63 for length in scaled):
        raise RuntimeError(
            f"value cannot be converted to type int64_t without overflow: scale_factor={factors} asks for {scaled}"
        )
    sizes = tuple(map(int, scaled))
    return sizes, (None,) * len(spatial) if recompute_scale_factor or mode == "area" else factors


def _given_sizes(spatial: Shape, size: Any) -> Shape:
    several = isinstance(size, list | tuple)
    if several and len(size) != len(spatial):
        raise ValueError(
            "Input and output must have the same number of spatial dimensions, but got input with spatial dimensions"
            f" of {list(spatial)} and output size of {size}. Please provide input tensor in (N, C, d1, d2, ...,dK)"
            " format and output size in (o1, o2, ...,oK) format."
        )
    try:
        return tuple(operator.index(one) for one in (size if several else (size,) * len(spatial)))
    except TypeError:
        raise TypeError(
            "expected size to be one of int or Tuple[int] or Tuple[int, int] or Tuple[int, int, int],"
            f" but got size={size!r}"
        ) from None


def _check_mode(input: Array, mode: str, align_corners: bool | None, antialias: bool) -> None:
    dims = input.ndim
    known = mode in _ANY_RANK or mode in _RANKS
    if known and 3 <= dims <= 5 and mode in ("linear", "bilinear", "trilinear") and dims != _RANKS[mode] + 2:
        raise NotImplementedError(f"Got {dims}D input, but {mode} mode needs {_RANKS[mode] + 2}D input")
    if not known or not 3 <= dims <= 5 or (mode in _RANKS and dims != _RANKS[mode] + 2):
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {dims}D) for the modes: nearest | linear |"
            f" bilinear | bicubic | trilinear | lanczos | area | nearest-exact (got {mode})"
        )
    if mode == "lanczos" and align_corners:
        raise ValueError("Lanczos mode does not support align_corners=True")
    if mode == "lanczos" and not antialias:
        raise ValueError("Lanczos mode requires antialias=True")


def _check_sizes(input: Array, sizes: Shape) -> None:
    if min(sizes) <= 0 or min(input.shape[2:]) <= 0:
        before, after = (
            ", ".join(f"{name}: {size}" for name, size in zip("DHW"[-len(sizes) :], shape, strict=True))
            for shape in (input.shape[2:], sizes)
        )
        joined = " and" if len(sizes) == 1 else ""
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input ({before}){joined} output ({after})"
        )
    if input.shape[1] == 0:
        raise RuntimeError(
            f"Non-empty {input.ndim}D data tensor expected but got a tensor with sizes {list(input.shape)}"
        )


def _check_dtype(input: Array, mode: str) -> None:
    if not is_floating(input.dtype) and not (input.dtype == np.uint8 and mode not in ("linear", "trilinear")):
        raise NotImplementedError(
            f'"interpolate" not implemented for {input.dtype.name!r} with mode={mode!r}, expected a floating point'
            " array (convert it first: input.astype(jnp.float32))"
        )


def _warn_deprecated(name: str) -> None:
    warnings.warn(
        f"`nn.functional.{name}` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=3,
    )
