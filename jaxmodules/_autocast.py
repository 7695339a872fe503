"""Mixed precision by PyTorch's lists: which functions compute in a short type, and which in float32.

In an :class:`autocast` region the functions of ``nn.functional`` cast their arrays where they come in, by the lists
below. Parameters stay as they are: they are cast at every use, and their gradients come back in their own type.

PyTorch has a list for each kind of device, and so has this file. The one for CPUs leaves alone what is as exact in a
short type there; the one for accelerators sends more to ``float32``.

The region is part of the key of JAX's caches: a function compiled outside it is compiled anew inside, by ``jm.jit``
as by ``jax.jit``, and a call that finds its program pays nothing.
"""

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVarTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._device import device
from jaxmodules._shapes import as_array

_Arrays = TypeVarTuple("_Arrays")
_SHORT, _WIDEST, _FIRST, _BANNED = "short", "widest", "first", "banned"


def _rules(**names: str) -> dict[str, str]:
    return {name: rule for rule, group in names.items() for name in group.split()}


_BOTH = _rules(
    short="linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc prelu affine_grid"
    " scaled_dot_product_attention multi_head_attention_forward lstm rnn_tanh rnn_relu rnn_tanh_cell rnn_relu_cell",
    float32="mse_loss l1_loss smooth_l1_loss huber_loss kl_div poisson_nll_loss soft_margin_loss hinge_embedding_loss"
    " margin_ranking_loss multilabel_margin_loss multi_margin_loss cosine_embedding_loss triplet_margin_loss nll_loss"
    " cross_entropy ctc_loss adaptive_log_softmax binary_cross_entropy_with_logits",
)
_LISTS = {
    "cpu": _BOTH
    | _rules(
        float32="binary_cross_entropy grid_sample reflect_pad1d reflect_pad2d replicate_pad1d replicate_pad2d"
        " replicate_pad3d avg_pool3d adaptive_avg_pool3d max_pool3d adaptive_max_pool3d fractional_max_pool2d"
        " fractional_max_pool3d max_unpool2d max_unpool3d lp_pool3d",
        first="gru gru_cell lstm_cell",
    ),
    "cuda": _BOTH
    | _rules(
        short="gru gru_cell lstm_cell",
        float32="softmax softmin log_softmax gumbel_softmax softplus layer_norm rms_norm group_norm normalize pdist"
        " local_response_norm cosine_similarity pairwise_distance interpolate lp_pool1d lp_pool2d lp_pool3d"
        " multilabel_soft_margin_loss gaussian_nll_loss",
        widest="bilinear grid_sample",
        banned="binary_cross_entropy",
    ),
}
_PLATFORMS = {"cpu": "cpu", **dict.fromkeys(("cuda", "gpu", "rocm", "tpu", "METAL"), "cuda")}


class _Policy:
    """The lists of one kind of device and a short type."""

    __slots__ = ("dtype", "rules")

    def __init__(self, dtype: np.dtype, rules: dict[str, str]) -> None:
        self.dtype = dtype
        self.rules = rules

    def cast(self, name: str, arrays: Any) -> Any:
        rule = self.rules.get(name)
        if rule is None:
            return arrays
        if rule == _BANNED:
            raise RuntimeError(_UNSAFE)
        if rule in (_WIDEST, _FIRST):
            types = [array.dtype for array in arrays if _follows(array)] or [self.dtype]
            target = types[0] if rule == _FIRST else functools.reduce(jnp.promote_types, types)
        else:
            target = self.dtype if rule == _SHORT else np.dtype(np.float32)
        return tuple(_to(array, target) for array in arrays)


def _follows(array: Any) -> bool:
    """Tell whether an array is of a type that autocast changes: floating point, but not of double precision."""
    return array is not None and array.dtype != np.float64 and jnp.issubdtype(array.dtype, jnp.floating)


def _to(array: Any, dtype: np.dtype) -> Any:
    return lax.convert_element_type(array, dtype) if _follows(array) and array.dtype != dtype else array


class _Local(threading.local):
    def __init__(self) -> None:
        self.policy: _Policy | None = None
        self.before: list[tuple[_Policy | None, np.dtype | None, Any]] = []
        self.dtype: np.dtype | None = None


_local = _Local()
_regions: list[None] = []  # one for each region that any thread is in
_cache_key = jax.make_user_context(default_value=None)


def cast(name: str, *arrays: *_Arrays) -> tuple[*_Arrays]:
    """Return the arrays in the types that the function ``name`` computes in here; ``None`` stays.

    Raises:
        RuntimeError: if the function is not safe to use in this region.
    """
    if not _regions or _local.policy is None:
        return arrays
    return _local.policy.cast(name, arrays)


def cast_tree(name: str, tree: Any) -> Any:
    """Do what :func:`cast` does to all arrays, and boxes of arrays, in a tree."""
    if not _regions or _local.policy is None:
        return tree
    leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda value: hasattr(value, "__jax_array__"))
    return jax.tree.unflatten(treedef, _local.policy.cast(name, tuple(map(as_array, leaves))))


class autocast:
    """Compute in mixed precision: a context manager, and a decorator.

    Matrix products, convolutions, attention and recurrent layers run in ``dtype``; losses in ``float32``; all else in
    the type it is given. The lists are PyTorch's, those for the CPU where JAX computes on one, and those for CUDA
    elsewhere. They differ: on accelerators softmax, the norms of layers, groups and vectors, ``softplus``,
    ``interpolate`` and distances are computed in ``float32`` as well, and ``binary_cross_entropy`` is refused.
    ``jm.autocast("cuda")`` asks for these on any machine.

    Only functions of ``nn.functional``, and the layers made of them, take part: operators and ``jnp`` functions
    promote their arguments as ever. Parameters and their gradients keep their type, ``float64`` is left alone. The
    region holds for the thread that enters it, for what is traced and for what is called in it, compiled or not.
    The counterpart of :class:`torch.autocast`.

    Args:
        device_type: whose lists to use, ``"cpu"``, ``"cuda"``, ``"gpu"`` or ``"tpu"``; or ``dtype``.
        dtype: ``bfloat16`` or ``float16``; by default ``bfloat16`` on a CPU or TPU and ``float16`` on a GPU.
        enabled: whether to cast; ``False`` makes a region without, inside of one with.
        cache_enabled: accepted for PyTorch's sake.

    Raises:
        RuntimeError: if ``device_type`` names neither a device nor a type.
        TypeError: if what is decorated can't be called.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Linear(3, 2)
        >>> with autocast("bfloat16"):
        ...     output = net(jnp.ones((1, 3)))
        >>> output.dtype, net.weight.dtype
        (dtype(bfloat16), dtype('float32'))
    """

    def __init__(
        self, device_type: Any = None, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if device_type is not None and not (isinstance(device_type, str) and device_type in _PLATFORMS):
            device_type, dtype = None, _short_type(device_type)
        self.device = jax.default_backend() if device_type is None else device_type
        self.fast_dtype = default_dtype(self.device) if dtype is None else _short_type(dtype)
        self._enabled = enabled and _is_supported(self.device, self.fast_dtype)
        rules = _LISTS[_PLATFORMS.get(self.device, "cuda")]
        self._policy = _Policy(self.fast_dtype, rules) if self._enabled else None
        self._key = (self.fast_dtype.name, rules is _LISTS["cpu"]) if self._enabled else None

    def __enter__(self) -> "autocast":
        key = _cache_key(self._key)
        key.__enter__()
        _local.before.append((_local.policy, _local.dtype, key))
        _local.policy, _local.dtype = self._policy, self.fast_dtype
        _regions.append(None)
        return self

    def __exit__(self, *exception: Any) -> None:
        _regions.pop()
        _local.policy, _local.dtype, key = _local.before.pop()
        key.__exit__(*exception)

    def __call__(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate ``func``: its calls run in the region."""
        if not callable(func):
            raise TypeError(
                f"autocast()(func) requires a callable, but got {type(func).__name__}. Did you mean to use autocast as"
                " a context manager? For example: with jm.autocast('bfloat16'): output = model(input)"
            )

        @functools.wraps(func)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            with self:
                return func(*args, **kwargs)

        return decorated


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Tell whether this thread is in an :class:`autocast` region; ``device_type`` is accepted for PyTorch's sake.

    Examples:
        >>> is_autocast_enabled()
        False
    """
    return _local.policy is not None


def is_autocast_available(device_type: str) -> bool:
    """Tell whether :class:`autocast` has lists for a kind of device.

    Raises:
        RuntimeError: if there is no such kind.

    Examples:
        >>> is_autocast_available("cpu"), is_autocast_available("meta")
        (True, False)
    """
    return device(device_type).type in _PLATFORMS


def get_autocast_dtype(device_type: str | None = None) -> np.dtype:
    """Return the short type of the innermost region, outside of any the one that :class:`autocast` would take.

    Examples:
        >>> get_autocast_dtype("cpu")
        dtype(bfloat16)
    """
    return default_dtype(device_type or jax.default_backend()) if _local.dtype is None else _local.dtype


def default_dtype(device_type: str) -> np.dtype:
    """Return the short type that devices of this kind are made for: ``float16`` on GPUs."""
    return np.dtype(jnp.float16 if device_type in ("cuda", "gpu", "rocm") else jnp.bfloat16)


def _short_type(dtype: Any) -> np.dtype:
    try:
        return jnp.dtype(dtype)
    except TypeError:
        raise RuntimeError(
            f"User specified an unsupported autocast device_type '{dtype}': expected a type such as 'bfloat16', or one"
            f" of {', '.join(sorted(_PLATFORMS))}"
        ) from None


def _is_supported(device_type: str, dtype: np.dtype) -> bool:
    if dtype in (jnp.bfloat16, np.float16):
        return True
    name = device_type.upper()
    warnings.warn(
        f"In {name} autocast, but the target dtype is not supported. Disabling autocast.\n{name} Autocast only supports"
        f" dtypes of bfloat16, float16 currently, got {dtype}.",
        stacklevel=3,
    )
    return False


_UNSAFE = (
    "nn.functional.binary_cross_entropy and nn.BCELoss are unsafe to autocast.\n"
    "Many models use a sigmoid layer right before the binary cross entropy layer.\n"
    "In this case, combine the two layers using nn.functional.binary_cross_entropy_with_logits\n"
    "or nn.BCEWithLogitsLoss.  binary_cross_entropy_with_logits and BCEWithLogits are\n"
    "safe to autocast."
)
