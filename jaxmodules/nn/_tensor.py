"""The methods of a torch tensor as functions of a JAX array: what code written for PyTorch calls on a parameter.

``METHODS`` says what each name does; a Parameter and its ``.data`` have them all (see ``_writable``). A name that JAX
arrays have too has PyTorch's meaning (``std()`` is unbiased, ``sort()`` gives values and indices, ``repeat(2)`` tiles)
unless it is called with a keyword that only JAX has (``axis``, ``keepdims``, ``ddof``, ...). ``IN_PLACE`` lists those
that have a form with an underscore and keep the shape.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodules._tracing import Tracer
from jaxmodules.nn._tensor_shape import SHAPE_METHODS, axes_of, axis_of, narrow_dtype

special = jax.scipy.special


class ValuesIndices(NamedTuple):
    """What a reduction over one axis found, and where."""

    values: Any
    indices: Any


def _check_index(index: Any, size: int, error: type[Exception] = IndexError) -> None:
    """Raise if an index is out of range; traced ones can't be looked at."""
    if not isinstance(index, Tracer) and index.size and not (0 <= int(index.min()) and int(index.max()) < size):
        raise error(f"index out of range: expected 0 to {size - 1}, got {int(index.min())} to {int(index.max())}")


def _reduction(function: Callable[..., Any], *, typed: bool = False) -> Callable[..., Any]:
    def reduce(array: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        kind = {"dtype": narrow_dtype(dtype)} if typed and dtype is not None else {}
        return function(array, axis=axes_of(dim, array.ndim), keepdims=keepdim, **kind)

    return reduce


def _spread(function: Callable[..., Any]) -> Callable[..., Any]:
    def spread(
        array: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
    ) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        ddof = int(unbiased) if correction is None else correction
        return function(array, axis=axes_of(dim, array.ndim), keepdims=keepdim, ddof=ddof)

    return spread


def _located(array: Any, dim: int, keepdim: bool, indices: Any) -> ValuesIndices:
    axis = axis_of(dim, array.ndim)
    if array.ndim == 0:
        return ValuesIndices(array, jnp.zeros((), int))
    indices = jnp.expand_dims(indices, axis)
    found = ValuesIndices(jnp.take_along_axis(array, indices, axis), indices)
    return found if keepdim else ValuesIndices(*(part.squeeze(axis) for part in found))


def _extremum(reduce: Any, locate: Any, choose: Any) -> Callable[..., Any]:
    def extremum(array: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        if isinstance(dim, int) and not isinstance(dim, bool):
            where = locate(array, axis=axis_of(dim, array.ndim)) if array.ndim else 0
            return _located(array, dim, keepdim, where)
        other = dim if other is None else other
        return reduce(array) if other is None else choose(array, other)

    return extremum


def _locator(function: Callable[..., Any]) -> Callable[..., Any]:
    def locate(array: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        if array.ndim == 0:
            return jnp.zeros((), int)
        return function(
            array, axis=None if dim is None else axis_of(dim, array.ndim), keepdims=keepdim and dim is not None
        )

    return locate


def _cumulative(function: Callable[..., Any]) -> Callable[..., Any]:
    def cumulate(array: Any, dim: int, *, dtype: Any = None) -> Any:
        return function(array, axis=axis_of(dim, array.ndim), dtype=None if dtype is None else narrow_dtype(dtype))

    return cumulate


def _norm(array: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    array = array if dtype is None else array.astype(dtype)
    if p == "nuc":
        return jnp.linalg.norm(array, "nuc", axis=axes_of(dim, array.ndim), keepdims=keepdim)
    return jnp.linalg.vector_norm(
        array, axis=axes_of(dim, array.ndim), keepdims=keepdim, ord=2 if p in ("fro", None) else p
    )


def _sort(array: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> ValuesIndices:
    indices = _argsort(array, dim, descending)
    return ValuesIndices(
        jnp.take_along_axis(array, indices, axis_of(dim, array.ndim)) if array.ndim else array, indices
    )


def _argsort(array: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    if array.ndim == 0:
        return jnp.zeros((), int)
    return jnp.argsort(array, axis_of(dim, array.ndim), stable=True, descending=descending)


def _topk(array: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesIndices:
    axis = axis_of(dim, array.ndim)
    if not 0 <= k <= (array.shape[axis] if array.ndim else 1):
        raise RuntimeError(f"selected index k out of range: got k={k} for the shape {tuple(array.shape)}")
    order = _sort(array, dim, largest)
    return ValuesIndices(*(jax.lax.slice_in_dim(part, 0, k, axis=axis) for part in order)) if array.ndim else order


def _kthvalue(array: Any, k: int, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    size = array.shape[axis_of(dim, array.ndim)] if array.ndim else 1
    if not 0 < k <= size:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {dim}: got {k} of {size}")
    return _located(array, dim, keepdim, SHAPE_METHODS["select"](_argsort(array, dim), dim, k - 1) if array.ndim else 0)


def _median(array: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        return jnp.sort(array.ravel())[(array.size - 1) // 2]
    return _kthvalue(array, (array.shape[axis_of(dim, array.ndim)] + 1) // 2 if array.ndim else 1, dim, keepdim)


def _quantile(
    array: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    axis = None if dim is None else axis_of(dim, array.ndim)
    return jnp.quantile(array, jnp.asarray(q, array.dtype), axis=axis, keepdims=keepdim, method=interpolation)


def _nonzero(array: Any, *, as_tuple: bool = False) -> Any:
    return jnp.nonzero(jnp.atleast_1d(array)) if as_tuple else jnp.argwhere(array)


def _unique(
    array: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: Any = None
) -> Any:
    return jnp.unique(array, return_inverse=return_inverse, return_counts=return_counts, axis=dim)


def _index_select(array: Any, dim: int, index: Any) -> Any:
    axis = axis_of(dim, array.ndim)
    _check_index(index, array.shape[axis])
    return jnp.take(array, index, axis=axis)


def _places(array: Any, dim: int, index: Any) -> tuple[Any, ...]:
    """Return the index arrays of the elements that ``gather`` and ``scatter`` speak of."""
    axis = axis_of(dim, array.ndim)
    if index.ndim != array.ndim:
        raise RuntimeError(
            f"Index tensor must have the same number of dimensions as self tensor: got {index.ndim} and {array.ndim}"
        )
    _check_index(index, array.shape[axis], RuntimeError)
    places = jnp.indices(index.shape, sparse=True)
    return tuple(index if i == axis else place for i, place in enumerate(places))


def _gather(array: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    return array[_places(array, dim, index)]


def _scatter(array: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None) -> Any:
    source = value if src is None else src
    if getattr(source, "ndim", 0):
        source = source[tuple(map(slice, index.shape))]
    method = {None: "set", "add": "add", "multiply": "multiply"}[reduce]
    return getattr(array.at[_places(array, dim, index)], method)(source)


def _scatter_add(array: Any, dim: int, index: Any, src: Any) -> Any:
    return _scatter(array, dim, index, src, reduce="add")


def _indexed(method: str) -> Callable[..., Any]:
    def indexed(array: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
        axis = axis_of(dim, array.ndim)
        _check_index(index, array.shape[axis])
        place = array.at[(slice(None),) * axis + (index,)]
        return getattr(place, method)(source if type(alpha) is int and alpha == 1 else alpha * source)

    return indexed


def _index_put(array: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    place = array.at[tuple(indices)]
    return place.add(values) if accumulate else place.set(values)


def _masked_fill(array: Any, mask: Any, value: Any) -> Any:
    if mask.dtype != bool:
        raise RuntimeError(f"masked_fill_ only supports boolean masks, but got mask with dtype {mask.dtype}")
    array, mask = jnp.broadcast_arrays(array, mask)
    return jnp.where(mask, jnp.asarray(value).astype(array.dtype), array)


def _masked_select(array: Any, mask: Any) -> Any:
    array, mask = jnp.broadcast_arrays(array, mask)
    return array[mask]


def _masked_scatter(array: Any, mask: Any, source: Any) -> Any:
    mask = jnp.broadcast_to(mask, array.shape)
    if not isinstance(mask, Tracer) and int(mask.sum()) > source.size:
        raise RuntimeError(f"masked_scatter: expected at least {int(mask.sum())} elements in source, got {source.size}")
    order = jnp.cumsum(mask.ravel()).reshape(mask.shape) - 1
    return jnp.where(mask, source.ravel()[order], array) if source.size else array


def _where(array: Any, condition: Any, other: Any) -> Any:
    return jnp.where(condition, array, other)


def _renorm(array: Any, p: float, dim: int, maxnorm: float) -> Any:
    others = tuple(axis for axis in range(array.ndim) if axis != axis_of(dim, array.ndim))
    norms = _norm(array, p, others, keepdim=True)
    return array * jnp.where(norms > maxnorm, maxnorm / (norms + 1e-7), 1)


def _scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    def scaled(array: Any, other: Any, *, alpha: Any = 1) -> Any:
        is_one = isinstance(alpha, int | float) and alpha == 1  # it may be traced
        return function(array, other if is_one else alpha * other)

    return scaled


def _div(array: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode not in (None, "floor", "trunc"):
        raise RuntimeError(f"div expected rounding_mode to be None, 'trunc', or 'floor' but found {rounding_mode!r}")
    if rounding_mode == "floor":
        return jnp.floor_divide(array, other)
    quotient = jnp.true_divide(array, other)
    return quotient if rounding_mode is None else jnp.trunc(quotient).astype(jnp.result_type(array, other))


def _clamp(array: Any, min: Any = None, max: Any = None) -> Any:
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    return jnp.clip(array, min, max)


def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    def fused(array: Any, first: Any, second: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        return beta * array + alpha * function(first, second)

    return fused


def _product(name: str, *ranks: int) -> Callable[..., Any]:
    """Return the matrix product of operands that must have these numbers of axes."""

    def product(array: Any, other: Any) -> Any:
        if (array.ndim, other.ndim) != ranks:
            raise RuntimeError(f"{name}() expects {ranks[0]} and {ranks[1]} axes, got {array.ndim} and {other.ndim}")
        return jnp.matmul(array, other)

    return product


def _softmax(function: Callable[..., Any]) -> Callable[..., Any]:
    def softmax(array: Any, dim: int, dtype: Any = None) -> Any:
        return function(array if dtype is None else array.astype(dtype), axis=axis_of(dim, array.ndim))

    return softmax


def _equal(array: Any, other: Any) -> bool:
    return array.shape == other.shape and bool((array == other).all())


def _allclose(array: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    return bool(jnp.allclose(array, other, rtol, atol, equal_nan))


def _isclose(array: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    return jnp.isclose(array, other, rtol, atol, equal_nan)


def _named(names: str, where: Any = jnp) -> dict[str, Callable[..., Any]]:
    return {name: getattr(where, name) for name in names.split()}


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **_named("abs absolute acos acosh asin asinh atan atanh ceil cos cosh deg2rad exp exp2 expm1 floor log log10"),
    **_named("log1p log2 nan_to_num positive rad2deg reciprocal round sign sin sinc sinh sqrt square tan tanh trunc"),
    **_named("digamma erf erfc erfinv i0 logit", special),
    "fix": jnp.trunc, "frac": lambda array: array - jnp.trunc(array), "lgamma": special.gammaln, "neg": jnp.negative,
    "negative": jnp.negative, "relu": jax.nn.relu, "rsqrt": jax.lax.rsqrt, "sgn": jnp.sign, "sigmoid": jax.nn.sigmoid,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    **_named("bitwise_and bitwise_or bitwise_xor bitwise_not copysign float_power fmod gcd greater greater_equal"),
    **_named("heaviside hypot lcm less less_equal logical_and logical_or logical_xor logical_not multiply"),
    **_named("nextafter not_equal remainder true_divide"),
    "add": _scaled(jnp.add), "sub": _scaled(jnp.subtract), "subtract": _scaled(jnp.subtract), "mul": jnp.multiply,
    "div": _div, "divide": _div, "floor_divide": jnp.floor_divide, "pow": jnp.power, "atan2": jnp.arctan2,
    "arctan2": jnp.arctan2, "eq": jnp.equal, "ne": jnp.not_equal, "lt": jnp.less, "le": jnp.less_equal,
    "gt": jnp.greater, "ge": jnp.greater_equal, "xlogy": special.xlogy,
    "lerp": lambda array, end, weight: array + weight * (end - array),
    "addcmul": lambda array, tensor1, tensor2, *, value=1: array + value * tensor1 * tensor2,
    "addcdiv": lambda array, tensor1, tensor2, *, value=1: array + value * tensor1 / tensor2,
    "addmm": _fused(jnp.matmul), "addmv": _fused(jnp.matmul), "baddbmm": _fused(jnp.matmul), "addr": _fused(jnp.outer),
    "clamp": _clamp, "clip": _clamp, "clamp_min": lambda array, min: _clamp(array, min),
    "clamp_max": lambda array, max: _clamp(array, max=max),
}  # fmt: skip
_PLACING: dict[str, Callable[..., Any]] = {
    "cumprod": _cumulative(jnp.cumprod), "cumsum": _cumulative(jnp.cumsum), "index_add": _indexed("add"),
    "index_copy": _indexed("set"), "index_fill": _indexed("set"), "index_put": _index_put,
    "masked_fill": _masked_fill, "masked_scatter": _masked_scatter, "renorm": _renorm, "scatter": _scatter,
    "scatter_add": _scatter_add, "tril": lambda array, diagonal=0: jnp.tril(array, diagonal),
    "triu": lambda array, diagonal=0: jnp.triu(array, diagonal),
}  # fmt: skip
METHODS: dict[str, Callable[..., Any]] = {
    **_ELEMENTWISE, **_ARITHMETIC, **_PLACING, **SHAPE_METHODS,
    **_named("angle conj cov cross diag fliplr flipud fmax fmin inner isfinite isinf isnan isneginf isposinf"),
    **_named("isreal kron matmul maximum minimum outer trace vdot"),
    "all": _reduction(jnp.all), "allclose": _allclose, "amax": _reduction(jnp.max), "amin": _reduction(jnp.min),
    "any": _reduction(jnp.any), "argmax": _locator(jnp.argmax), "argmin": _locator(jnp.argmin), "argsort": _argsort,
    "bmm": _product("bmm", 3, 3), "cholesky": lambda array: jnp.linalg.cholesky(array),
    "count_nonzero": lambda array, dim=None: jnp.count_nonzero(array, axis=axes_of(dim, array.ndim)),
    "det": jnp.linalg.det, "dist": lambda array, other, p=2: _norm(array - other, p),
    "equal": _equal, "gather": _gather, "ger": jnp.outer, "index_select": _index_select, "inverse": jnp.linalg.inv,
    "is_nonzero": lambda array: bool(array), "isclose": _isclose, "kthvalue": _kthvalue,
    "log_softmax": _softmax(jax.nn.log_softmax),
    "logdet": lambda array: jnp.log(jnp.linalg.det(array)), "logsumexp": _reduction(jax.nn.logsumexp),
    "masked_select": _masked_select, "max": _extremum(jnp.max, jnp.argmax, jnp.maximum),
    "mean": _reduction(jnp.mean, typed=True), "median": _median, "min": _extremum(jnp.min, jnp.argmin, jnp.minimum),
    "mm": _product("mm", 2, 2), "mv": _product("mv", 2, 1), "nansum": _reduction(jnp.nansum, typed=True),
    "nanmean": _reduction(jnp.nanmean, typed=True), "nonzero": _nonzero, "norm": _norm, "pinverse": jnp.linalg.pinv,
    "prod": _reduction(jnp.prod, typed=True), "qr": jnp.linalg.qr, "quantile": _quantile,
    "slogdet": jnp.linalg.slogdet, "softmax": _softmax(jax.nn.softmax), "sort": _sort, "std": _spread(jnp.std),
    "sum": _reduction(jnp.sum, typed=True), "topk": _topk, "unique": _unique, "var": _spread(jnp.var), "where": _where,
}  # fmt: skip
IN_PLACE = frozenset({*_ELEMENTWISE, *_ARITHMETIC, *_PLACING})


@functools.cache
def _keywords(function: Callable[..., Any]) -> frozenset[str] | None:
    """Return the names that a function of the table can be called with; ``None`` for one of JAX's own."""
    if not function.__module__.startswith("jaxmodules"):
        return None
    code = function.__code__
    return frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def call(name: str, array: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call the method ``name``; what JAX says of a wrong shape or value is raised as PyTorch's RuntimeError."""
    function = METHODS[name]
    known = _keywords(function)
    if kwargs and known is not None and not kwargs.keys() <= known and hasattr(array, name):
        return getattr(array, name)(*args, **kwargs)
    try:
        return function(array, *args, **kwargs)
    except (TypeError, ValueError) as error:
        trace = error.__traceback__
        is_signature = trace is None or trace.tb_next is None
        if type(error) not in (TypeError, ValueError) or is_signature or "ndarray or scalar" in str(error):
            raise
        raise RuntimeError(f"{name}(): {error}") from error
