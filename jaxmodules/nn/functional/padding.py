"""Padding of the trailing axes."""

import operator
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import as_array
from jaxmodules._typing import Array, ArrayLike, Pairs

_AXES = "DHW"
_KERNELS = {"reflect": "reflection_pad", "replicate": "replication_pad"}
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
        TypeError: if ``pad`` is not a sequence of ints.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.pad(jnp.arange(3), (1, 2), mode="constant", value=9).tolist()
        [9, 0, 1, 2, 9, 9]
    """
    input, sizes = as_array(input), _sizes(pad)
    if mode != "constant" and mode not in _MODES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}, expected 'constant' or one of {sorted(_MODES)}")
    if len(sizes) % 2:
        raise RuntimeError(f"Padding length must be divisible by 2, but got pad={list(sizes)}")
    if len(sizes) > 2 * input.ndim:
        raise RuntimeError(
            "Padding length should be less than or equal to two times the input dimension"
            f" but got padding length {len(sizes)} and input of dimension {input.ndim}"
        )
    # torch lists the last axis first
    pairs = tuple(zip(sizes[-2::-2], sizes[::-2], strict=True))
    if mode == "constant":
        _check_crops(input, pairs)
    else:
        _check_mode(input, pairs, mode, value)
        (input,) = cast(f"{mode}_pad{len(pairs)}d", input)
    return _pad(input, 0 if value is None else value, ((0, 0),) * (input.ndim - len(pairs)) + pairs, mode)


@partial(jax.jit, static_argnames=("pairs", "mode"), inline=True)
def _pad(input: Array, value: Array, pairs: Pairs, mode: str) -> Array:
    if mode == "constant":
        fill = lax.convert_element_type(value, input.dtype)
        return lax.pad(input, fill, [(before, after, 0) for before, after in pairs])
    grown = [(max(before, 0), max(after, 0)) for before, after in pairs]
    # the other end is that of the cropped axis; mirrored and repeated elements may have been cropped
    if mode == "circular":
        return jnp.pad(_crop(input, pairs), grown, mode="wrap")
    return _crop(jnp.pad(input, grown, mode=_MODES[mode]), pairs)


def _crop(input: Array, pairs: Pairs) -> Array:
    axes = zip(input.shape, pairs, strict=True)
    return input[tuple(slice(max(-before, 0), size - max(-after, 0)) for size, (before, after) in axes)]


def _sizes(pad: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(operator.index(size) for size in pad)
    except TypeError:
        raise TypeError(f"pad(): argument 'pad' (position 2) must be tuple of ints, but got {pad!r}") from None


def _check_crops(input: Array, pairs: Pairs) -> None:
    for axis, (before, after) in enumerate(pairs, input.ndim - len(pairs)):
        if input.shape[axis] + min(before, 0) + min(after, 0) < 0:
            raise RuntimeError(
                f"padding ({before}, {after}) at dimension {axis} crops more than there is"
                f" in an input of size {list(input.shape)}"
            )


def _check_mode(input: Array, pairs: Pairs, mode: str, value: float | None) -> None:
    if value is not None and value != 0:
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument, got value={value!r}')
    rank, shape = len(pairs), list(input.shape)
    if not 1 <= rank <= 3 or input.ndim - rank not in (1, 2):
        raise NotImplementedError(
            f"Padding size {2 * rank} is not supported for {input.ndim}D input tensor."
            " Non-constant modes pad the last 1 to 3 axes of an input with one or two axes more."
        )
    if mode == "circular":
        return _check_circular(input, pairs)
    if 0 in shape[-rank - 1 :]:
        raise RuntimeError(
            f"Expected {rank + 1}D or {rank + 2}D (batch mode) tensor with possibly 0 batch size"
            f" and other non-zero dimensions for input, but got: {shape}"
        )
    if input.dtype == bool:
        raise NotImplementedError(f"\"{_KERNELS[mode]}{rank}d\" not implemented for 'Bool' (pad an integer type)")
    for axis, (before, after) in reversed(list(enumerate(pairs, input.ndim - rank))):
        if mode == "reflect" and max(before, after) >= shape[axis]:
            raise RuntimeError(
                f"Argument #{2 * (input.ndim - axis) + 2}: Padding size should be less than the corresponding input"
                f" dimension, but got: padding ({before}, {after}) at dimension {axis} of input {shape}"
            )
    named = list(zip(_AXES[-rank:], shape[-rank:], pairs, strict=True))
    left = {name: size + before + after for name, size, (before, after) in named}
    if max(left.values()) < 1 or min(left.values()) < 0:
        raise RuntimeError(
            f"input ({', '.join(f'{name}: {size}' for name, size, _ in named)}) is too small."
            f" Calculated output {' '.join(f'{name}: {size}' for name, size in left.items())}"
        )


def _check_circular(input: Array, pairs: Pairs) -> None:
    for axis, (before, after) in enumerate(pairs, input.ndim - len(pairs)):
        left = input.shape[axis] + min(before, 0) + min(after, 0)
        if left < 0:
            raise RuntimeError(
                "Negative padding value is resulting in an empty dimension:"
                f" padding ({before}, {after}) at dimension {axis} of input {list(input.shape)}"
            )
        if max(before, after) > left:
            raise RuntimeError(
                "Padding value causes wrapping around more than once:"
                f" padding ({before}, {after}) at dimension {axis} of input {list(input.shape)}"
            )
