"""Ready-made parametrizations: weight norm, spectral norm, orthogonal matrices."""

from enum import Enum, auto
from functools import partial
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import as_array
from jaxmodules._typing import Array
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.nn.utils._norms import (
    WHOLE,
    divide_by_sigma,
    norm_except_dim,
    power_iteration,
    scale_to_norm,
    unit_vector,
)
from jaxmodules.nn.utils.parametrize import register_parametrization
from jaxmodules.random import normal_values, randn, to_jax

_M = TypeVar("_M", bound=Module)


class _OrthMaps(Enum):
    matrix_exp = auto()
    cayley = auto()
    householder = auto()


class _Orthogonal(Module):
    """Map any matrix, or batch of matrices, to one with orthonormal columns, or rows if it is wide."""

    shape: tuple[int, ...]
    orthogonal_map: _OrthMaps
    base: Array | None

    def __init__(self, weight: Any, orthogonal_map: _OrthMaps, *, use_trivialization: bool = True) -> None:
        super().__init__()
        if jnp.iscomplexobj(weight) and orthogonal_map is _OrthMaps.householder:
            raise ValueError("The householder parametrization does not support complex tensors.")
        self.shape = tuple(weight.shape)
        self.orthogonal_map = orthogonal_map
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, X: Array) -> Array:
        """Return the orthogonal matrix."""
        return _orthogonal(X, getattr(self, "base", None), self.orthogonal_map)

    def right_inverse(self, Q: Array) -> Array:
        """Return what :meth:`forward` maps to ``Q``, made orthogonal if it is not."""
        if tuple(Q.shape) != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape torch.Size({list(self.shape)})."
                f" Got a tensor of shape torch.Size({list(Q.shape)})."
            )
        tall = Q.mT if Q.shape[-2] < Q.shape[-1] else Q
        if hasattr(self, "base"):
            *batch, n, k = tall.shape
            if n != k:
                tall = jnp.concatenate([tall, randn(*batch, n, n - k, dtype=tall.dtype)], axis=-1)
            self.base = _nearest_orthogonal(tall, is_complete=n != k)
            return jnp.broadcast_to(-jnp.eye(*Q.shape[-2:], dtype=Q.dtype), Q.shape)
        if self.orthogonal_map is not _OrthMaps.householder:
            raise NotImplementedError(
                "It is not possible to assign to the matrix exponential or the Cayley parametrizations when"
                " use_trivialization=False."
            )
        reflectors = _reflectors(tall)
        return reflectors.mT if tall is not Q else reflectors


@partial(jax.jit, static_argnames=("orthogonal_map",), inline=True)
def _orthogonal(X: Array, base: Array | None, orthogonal_map: _OrthMaps) -> Array:
    is_wide = X.shape[-2] < X.shape[-1]
    X = X.mT if is_wide else X
    Q = _householder(X) if orthogonal_map is _OrthMaps.householder else _from_skew(X, orthogonal_map)
    Q = Q if base is None else base @ Q
    return Q.mT if is_wide else Q


def _from_skew(X: Array, orthogonal_map: _OrthMaps) -> Array:
    """Return the first columns of the orthogonal matrix that the lower triangle of ``X`` stands for."""
    n, k = X.shape[-2:]
    lower = jnp.tril(X)
    lower = jnp.concatenate([lower, jnp.zeros((*X.shape[:-1], n - k), X.dtype)], axis=-1)  # (..., n, n)
    skew = lower - lower.conj().mT
    if orthogonal_map is _OrthMaps.matrix_exp:
        return jax.scipy.linalg.expm(skew)[..., :k]
    half, identity = skew / 2, jnp.broadcast_to(jnp.eye(n, dtype=X.dtype), skew.shape)
    return jnp.linalg.solve(identity - half, identity + half)[..., :k]


def _householder(X: Array) -> Array:
    """Return the product of the reflections in the columns below the diagonal, with the diagonal's signs.

    The product is :math:`I - V T^{-1} V^T` with a triangular :math:`T` (Joffrain et al., 2006), which, unlike LAPACK's
    routine, has a derivative in JAX.
    """
    n, k = X.shape[-2:]
    identity = jnp.broadcast_to(jnp.eye(n, k, dtype=X.dtype), X.shape)
    V = jnp.tril(X, -1) + identity
    gram = V.mT @ V
    T = (jnp.triu(gram) + jnp.triu(gram, 1)) / 2
    solved = lax.linalg.triangular_solve(T, V[..., :k, :].mT, left_side=True)
    diagonal = jnp.diagonal(X, axis1=-2, axis2=-1)
    return (identity - V @ solved) * lax.stop_gradient(jnp.trunc(diagonal))[..., None, :]


@partial(jax.jit, static_argnames=("is_complete",), inline=True)
def _nearest_orthogonal(Q: Array, is_complete: bool) -> Array:
    """Return ``Q`` if its columns are orthonormal and the matrix was not completed, else its QR factor."""
    factor, upper = jnp.linalg.qr(Q)
    signs = jnp.sign(jnp.diagonal(upper, axis1=-2, axis2=-1))
    made = factor * signs[..., None, :]
    if is_complete:
        return made
    n = Q.shape[-2]
    gram = Q.conj().mT @ Q
    error = jnp.abs(gram - jnp.broadcast_to(jnp.eye(n, dtype=Q.dtype), gram.shape))
    tolerance = 10.0 * n * jnp.finfo(Q.dtype).eps + 1e-5 * jnp.eye(n)
    return jnp.where(jnp.all(error <= jnp.broadcast_to(tolerance, error.shape)), Q, made)


@partial(jax.jit, inline=True)
def _reflectors(Q: Array) -> Array:
    """Return the reflections whose product is the QR factor of ``Q``, with its signs on the diagonal."""
    packed, tau = jnp.linalg.qr(Q, mode="raw")
    A = packed.mT
    diagonal = jnp.sign(jnp.diagonal(A, axis1=-2, axis2=-1))
    diagonal = jnp.where(tau == 0, -diagonal, diagonal)
    rows = jnp.arange(diagonal.shape[-1])
    return A.at[..., rows, rows].set(diagonal)


def orthogonal(
    module: _M,
    name: str = "weight",
    orthogonal_map: Literal["matrix_exp", "cayley", "householder"] | None = None,
    *,
    use_trivialization: bool = True,
) -> _M:
    r"""Keep a matrix, or each of a batch of matrices, orthogonal or unitary.

    .. math:: Q^H Q = I \text{ for a tall matrix}, \quad Q Q^H = I \text{ for a wide one}

    Args:
        module: the module.
        name: the parameter or buffer, of shape ``(..., m, n)``.
        orthogonal_map: how an orthogonal matrix is made of any: ``"matrix_exp"`` and ``"cayley"``,
            :math:`(I + A/2)(I - A/2)^{-1}`, of a skew-symmetric one, ``"householder"`` as a product of reflections.
            By default ``"matrix_exp"`` for square and complex matrices, ``"householder"`` for others.
        use_trivialization: whether to measure from a base point, the buffer ``base`` (Lezcano-Casado, 2019). The first
            value is then the present one, made orthogonal if it is not.

    Returns:
        The module.

    Raises:
        ValueError: if there is no such array, it has less than two axes, or the map is unknown or real only.

    Examples:
        >>> from jaxmodules import nn
        >>> Q = orthogonal(nn.Linear(2, 4)).weight
        >>> abs(Q.T @ Q).round(3).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    weight = _tensor(module, name)
    if weight.ndim < 2:
        raise ValueError(f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions.")
    if orthogonal_map is None:
        is_square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if is_square or jnp.iscomplexobj(weight) else "householder"
    if orthogonal_map not in _OrthMaps.__members__:
        raise ValueError(
            f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}'
        )
    parametrization = _Orthogonal(weight, _OrthMaps[orthogonal_map], use_trivialization=use_trivialization)
    return register_parametrization(module, name, parametrization, unsafe=True)


class _WeightNorm(Module):
    """Multiply a direction by a magnitude."""

    dim: int

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = WHOLE if dim is None else dim

    def forward(self, weight_g: Array, weight_v: Array) -> Array:
        """Return ``weight_v`` with the norms ``weight_g``."""
        return scale_to_norm(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: Array) -> tuple[Array, Array]:
        """Return the norms of ``weight``, and ``weight``."""
        return norm_except_dim(weight, self.dim), weight


class WeightNormCompatHook:
    """Rename what the older weight norm saved as ``weight_g`` and ``weight_v``."""

    compared_by_content = True

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        olds = [f"{prefix}{self.name}_g", f"{prefix}{self.name}_v"]
        if all(old in state_dict for old in olds):
            for i, old in enumerate(olds):
                state_dict[f"{prefix}parametrizations.{self.name}.original{i}"] = state_dict.pop(old)


def weight_norm(module: _M, name: str = "weight", dim: int | None = 0) -> _M:
    r"""Separate the magnitude of a parameter from its direction (Salimans & Kingma, 2016).

    .. math:: w = g \frac{v}{\lVert v \rVert}

    ``module.parametrizations.weight.original0`` is the magnitude, ``original1`` the direction. A ``state_dict`` of the
    older :func:`jaxmodules.nn.utils.weight_norm` loads as well.

    Args:
        module: the module.
        name: the parameter.
        dim: the axis of which each slice has a norm of its own; ``None`` for one norm of the whole.

    Returns:
        The module.

    Examples:
        >>> from jaxmodules import nn
        >>> weight_norm(nn.Linear(20, 40)).parametrizations.weight.original0.shape
        (40, 1)
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    module._register_load_state_dict_pre_hook(WeightNormCompatHook(name))
    return module


class _SpectralNorm(Module):
    """Divide a weight by an estimate of its largest singular value, which gets better in training."""

    dim: int
    eps: float
    n_power_iterations: int
    _u: Array
    _v: Array

    def __init__(self, weight: Any, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        ndim = weight.ndim
        if not -ndim <= dim < ndim:
            raise IndexError(f"Dimension out of range (expected to be in range of [-{ndim}, {ndim - 1}] but got {dim})")
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.dim = dim % ndim
        self.eps = eps
        if ndim > 1:
            self.n_power_iterations = n_power_iterations
            height = weight.shape[self.dim]
            for buffer, size in (("_u", height), ("_v", weight.size // height)):
                start = to_jax(normal_values((size,), dtype=weight.dtype))
                self.register_buffer(buffer, unit_vector(start, eps))
            self._power_method(weight, 15)

    def forward(self, weight: Array) -> Array:
        """Return the normalised weight."""
        if weight.ndim == 1:
            return unit_vector(weight, self.eps)
        if self.training:
            self._power_method(weight, self.n_power_iterations)
        return divide_by_sigma(weight, self._u, self._v, dim=self.dim)

    def right_inverse(self, value: Array) -> Array:
        """Return ``value``."""
        return value

    def _power_method(self, weight: Array, iterations: int) -> None:
        self._u, self._v = power_iteration(
            as_array(weight), self._u, self._v, dim=self.dim, iterations=iterations, eps=self.eps, starts_with_u=True
        )


def spectral_norm(
    module: _M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> _M:
    r"""Divide a parameter by its largest singular value (Miyato et al., 2018), a vector by its norm.

    .. math:: W_{SN} = W / \sigma(W), \quad \sigma(W) = \max_{h \ne 0} \lVert W h \rVert / \lVert h \rVert

    The singular value is estimated by the power method, of which every read of the parameter in training mode does
    some iterations. A parameter of more than two axes counts as a matrix with its axis ``dim`` in front.

    Args:
        module: the module.
        name: the parameter.
        n_power_iterations: how many iterations a read does.
        eps: the least norm that is divided by.
        dim: the axis of the outputs; 0, but 1 for transposed convolutions.

    Returns:
        The module.

    Raises:
        ValueError: if there is no such array, or ``n_power_iterations`` is not positive.
        IndexError: if there is no axis ``dim``.

    Examples:
        >>> from jaxmodules import nn
        >>> spectral_norm(nn.Linear(20, 40)).parametrizations.weight[0]._u.shape
        (40,)
    """
    weight = _tensor(module, name)
    if dim is None:
        dim = 1 if getattr(module, "transposed", False) else 0
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))


def _tensor(module: Module, name: str) -> Any:
    weight = getattr(module, name, None)
    if not isinstance(weight, jax.Array | Parameter):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    return weight
