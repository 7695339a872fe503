"""Padding of the trailing axes."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import as_array
from jaxmodules._typing import Array, ArrayLike

_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(
    input: ArrayLike,
    pad: Sequence[int],
    mode: Literal["constant", "reflect", "replicate", "circular"] = "constant",
    value: float | None = None,
) -> Array:
    """Pad the trailing axes, the last axis first; negative sizes crop.

    Args:
        input: the array to pad.
        pad: ``(before_last, after_last, before_second_to_last, ...)``.
        mode: what to pad with: ``value``, the mirrored inside, the edge, or the other end.
        value: fill of ``'constant'`` padding, 0 by default.

    Shape:
        ``(*, size) -> (*, size + before + after)`` for every axis that ``pad`` names

    Raises:
        RuntimeError: if there are more sizes than axes, a mode can't pad that far or has no use for ``value``.
        NotImplementedError: if ``mode`` is unknown or does not pad the given number of axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.pad(jnp.arange(3), (1, 2), mode="constant", value=9).tolist()
        [9, 0, 1, 2, 9, 9]
    """
    input, sizes = as_array(input), tuple(int(size) for size in pad)
    if len(sizes) % 2:
        raise RuntimeError(f"Padding length must be divisible by 2, but got pad={list(sizes)}")
    if len(sizes) > 2 * input.ndim:
        raise RuntimeError(
            "Padding length should be less than or equal to two times the input dimension"
            f" but got padding length {len(sizes)} and input of dimension {input.ndim}"
        )
    # torch lists the last axis first
    pairs = tuple(zip(sizes[-2::-2], sizes[::-2], strict=True))
    for size, (before, after) in zip(input.shape[input.ndim - len(pairs) :], pairs, strict=True):
        if size + before + after < 0:
            raise RuntimeError(f"pad={list(sizes)} crops more than there is in an input of size {list(input.shape)}")
    if mode != "constant":
        _check_mode(input, pairs, mode, value)
    return _pad(input, 0 if value is None else value, ((0, 0),) * (input.ndim - len(pairs)) + pairs, mode)


@partial(jax.jit, static_argnames=("pairs", "mode"), inline=True)
def _pad(input: Array, value: Array, pairs: tuple[tuple[int, int], ...], mode: str) -> Array:
    if mode == "constant":
        fill = lax.convert_element_type(value, input.dtype)
        return lax.pad(input, fill, [(before, after, 0) for before, after in pairs])
    window = tuple(
        slice(max(-before, 0), size - max(-after, 0)) for size, (before, after) in zip(input.shape, pairs, strict=True)
    )
    grown = [(max(before, 0), max(after, 0)) for before, after in pairs]
    return jnp.pad(input[window], grown, mode=_MODES[mode])


def _check_mode(input: Array, pairs: tuple[tuple[int, int], ...], mode: str, value: float | None) -> None:
    if mode not in _MODES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}, expected 'constant' or one of {sorted(_MODES)}")
    if value is not None:
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument, got value={value!r}')
    if not 1 <= len(pairs) <= 3 or input.ndim - len(pairs) not in (1, 2):
        raise NotImplementedError(
            f"Padding size {2 * len(pairs)} is not supported for {input.ndim}D input tensor"
            " (non-constant modes pad the last 1 to 3 axes of an input with one or two axes more)"
        )
    for axis, (before, after) in enumerate(pairs, input.ndim - len(pairs)):
        size = input.shape[axis]
        if mode == "reflect" and max(before, after) >= size:
            raise RuntimeError(
                "Padding size should be less than the corresponding input dimension, but got:"
                f" padding ({before}, {after}) at dimension {axis} of input {list(input.shape)}"
            )
        if mode == "circular" and max(before, after) > size:
            raise RuntimeError(
                "Padding value causes wrapping around more than once:"
                f" padding ({before}, {after}) at dimension {axis} of input {list(input.shape)}"
            )
