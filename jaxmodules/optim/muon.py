"""Muon."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodules.optim._checks import check_number
from jaxmodules.optim._elementwise import wide
from jaxmodules.optim.optimizer import Optimizer

_HIGHEST = jax.lax.Precision.HIGHEST


class _MuonState(NamedTuple):
    count: Any
    momentum_buffer: Any


def _rounded(x: jax.Array, dtype: Any = jnp.bfloat16) -> jax.Array:
    """Cast to a dtype; a cast alone is one that XLA leaves out where the next operation would undo it."""
    kind = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, kind.nexp, kind.nmant).astype(dtype)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_HIGHEST, preferred_element_type=jnp.float32)


def _orthogonalized(g: jax.Array, coefficients: Sequence[Any], steps: int, eps: Any) -> jax.Array:
    """Return about the nearest semi-orthogonal matrix, by Newton-Schulz iterations in bfloat16.

    A sum of two products is rounded once: in PyTorch it is one ``addmm``.
    """
    a, b, c = (jnp.asarray(k, jnp.float32) for k in coefficients)
    is_tall = g.shape[0] > g.shape[1]
    x = _rounded(g.T if is_tall else g).astype(jnp.float32)
    norm = jnp.maximum(_rounded(jnp.sqrt(jnp.sum(x * x))), jnp.asarray(eps).astype(jnp.bfloat16))
    x = _rounded(x / norm.astype(jnp.float32))

    def iterate(_: Any, x: jax.Array) -> jax.Array:
        gram = _rounded(_product(x, x.T))
        update = _rounded(b * gram.astype(jnp.float32) + c * _product(gram, gram))
        return _rounded(a * x.astype(jnp.float32) + _product(update, x))

    x = jax.lax.fori_loop(0, steps, iterate, x)
    return x.T if is_tall else x


def _lerp(start: jax.Array, end: jax.Array, weight: Any, complement: Any) -> jax.Array:
    """Interpolate from the nearer end, as PyTorch does: results are rounded to few digits later on."""
    gap = end - start
    return jnp.where(weight < 0.5, start + weight * gap, end - complement * gap)


def _lr_ratio(adjust_lr_fn: str | None, shape: Sequence[int]) -> float:
    rows, columns = shape
    return 0.2 * math.sqrt(max(shape)) if adjust_lr_fn == "match_rms_adamw" else math.sqrt(max(1, rows / columns))


def _check(params: Any) -> None:
    for p in params:
        if p.ndim != 2:
            raise ValueError(
                f"Muon only supports 2D parameters whereas we found a parameter with size: torch.Size({[*p.shape]})"
                " (give the others to another optimizer, such as AdamW)"
            )


class Muon(Optimizer):
    r"""Step along the orthogonalised momentum (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/).

    The counterpart of :class:`torch.optim.Muon`, for the matrices of hidden layers; other parameters go to another
    optimizer.

    .. math::
        b \leftarrow b + (1 - \mu)(g - b), \quad
        u = \mathrm{NS}(g + \mu (b - g)), \quad
        p \leftarrow (1 - \gamma\lambda) p - \gamma r u

    ``NS`` replaces the singular values of a matrix by numbers near one, with iterations
    :math:`X \leftarrow aX + (b A + c A^2) X`, :math:`A = X X^T`, in bfloat16.

    Args:
        params: a module, parameters, named parameters, or groups; all of two axes.
        lr: the learning rate :math:`\gamma`.
        weight_decay: the fraction :math:`\lambda`, times ``lr``, that a step takes off the parameters.
        momentum: :math:`\mu`.
        nesterov: look ahead along the momentum; otherwise :math:`u = \mathrm{NS}(b)`.
        ns_coefficients: :math:`a`, :math:`b` and :math:`c`.
        eps: the smallest norm that a matrix is divided by before the iterations.
        ns_steps: how many iterations.
        adjust_lr_fn: the factor :math:`r`: ``"original"``, the default, for
            :math:`\sqrt{\max(1, rows / columns)}`; ``"match_rms_adamw"`` for :math:`0.2\sqrt{\max(rows, columns)}`
            (Liu et al., 2025, https://arxiv.org/abs/2502.16982), which suits settings that were tuned for AdamW.

    Raises:
        ValueError: if a setting is out of range, or a parameter has not two axes.
        RuntimeError: on a step with complex parameters.

    Examples:
        >>> import jaxmodules as jm
        >>> jm.optim.Muon([jm.nn.Linear(2, 1).weight]).param_groups[0]["momentum"]
        0.95
    """

    complements = frozenset({"momentum"})
    fixed = frozenset({"ns_steps"})
    counter = "count"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        if not callable(lr):
            check_number(lr, "lr")
            if not lr >= 0.0:
                raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not momentum >= 0.0:
            raise ValueError(f"momentum should be >= 0 but is: {momentum}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight decay should be >= 0 but is: {weight_decay}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(
                f"Adjust learning rate function {adjust_lr_fn} is not supported (expected 'original' or"
                " 'match_rms_adamw')"
            )
        settings = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, settings)
        _check(box for group in self.param_groups for box in group["params"])

    @staticmethod
    def rule(
        *,
        lr: Any,
        weight_decay: Any,
        one_minus_momentum: Any,
        nesterov: bool,
        ns_coefficients: Sequence[Any],
        eps: Any,
        ns_steps: int,
        adjust_lr_fn: str | None,
        **_: Any,
    ) -> optax.GradientTransformation:
        """Return the optax transformation for a group's settings."""
        momentum = 1 - one_minus_momentum

        def init(params: Any) -> _MuonState:
            _check(params.values())
            if any(jnp.iscomplexobj(p) for p in params.values()):
                raise RuntimeError("Muon does not support complex parameters")
            if ns_steps >= 100:
                raise ValueError(
                    f"Number of steps must be less than 100 for computational efficiency, got ns_steps={ns_steps}"
                )
            if len(ns_coefficients) != 3:
                raise ValueError(f"Coefficients must be a tuple of exactly 3 values, got {len(ns_coefficients)}")
            return _MuonState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

        def blended(g: jax.Array, b: jax.Array) -> jax.Array:
            return _rounded(_lerp(wide(b), wide(g), one_minus_momentum, momentum), b.dtype)

        def change(g: jax.Array, b: jax.Array, p: jax.Array) -> jax.Array:
            ahead = _lerp(wide(g), wide(b), momentum, one_minus_momentum) if nesterov else wide(b)
            u = _orthogonalized(_rounded(ahead, g.dtype), ns_coefficients, ns_steps, eps)
            less = wide(_rounded((1 - lr * weight_decay) * wide(p), p.dtype)) - wide(p)
            return less - lr * _lr_ratio(adjust_lr_fn, p.shape) * wide(u)

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            buffer = jax.tree.map(blended, updates, state.momentum_buffer)
            changes = jax.tree.map(change, updates, buffer, params)
            return changes, _MuonState(optax.safe_increment(state.count), buffer)

        return optax.GradientTransformation(init, update)

    def _export(self, state: dict[str, Any]) -> dict[str, Any]:
        return {"momentum_buffer": state["momentum_buffer"]}

    def _import(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "count": 1}
