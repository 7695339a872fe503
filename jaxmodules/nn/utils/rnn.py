"""Sequences of different lengths in one array: padded, or packed without padding.

A packed sequence holds the first step of all sequences, longest first, then the second step of those that have one,
and so on. How many reach each step, ``batch_sizes``, is known on the host: it is part of what a compiled function
is compiled for, while the data and the order of the sequences are its arguments.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._shapes import as_array, host_value, normalize_dim
from jaxmodules._tracing import Tracer
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional.rnn import gather, packed_index, spread
from jaxmodules.nn.modules._convert import parse_device, parse_dtype
from jaxmodules.random import to_jax


class _Fields(NamedTuple):
    data: Array
    batch_sizes: np.ndarray
    sorted_indices: Array | None
    unsorted_indices: Array | None


class PackedSequence(_Fields):
    """Hold sequences of different lengths without padding; made by :func:`pack_padded_sequence` and its kin.

    It is a pytree: ``data`` and the indices are its leaves, ``batch_sizes`` is static.

    Args:
        data: the rows, ``(sum(batch_sizes), *)``; or ``(data, batch_sizes)``.
        batch_sizes: how many sequences reach each time step, known on the host.
        sorted_indices: which of the original sequences each one is; ``None`` where they came sorted by length.
        unsorted_indices: the inverse of that.

    Raises:
        ValueError: if ``batch_sizes`` is traced.
        AssertionError: if ``batch_sizes`` is missing.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> packed = nn.utils.rnn.pack_sequence([jnp.array([1, 2, 3]), jnp.array([4, 5]), jnp.array([6])])
        >>> packed.data.tolist(), packed.batch_sizes.tolist()
        ([1, 4, 6, 2, 5, 3], [3, 2, 1])
    """

    def __new__(
        cls,
        data: Any,
        batch_sizes: Any = None,
        sorted_indices: Any = None,
        unsorted_indices: Any = None,
    ) -> Self:
        """Check the parts and complete them."""
        if batch_sizes is None:
            if not (isinstance(data, list | tuple) and len(data) == 2):
                raise AssertionError(
                    "Expected data to be a list or tuple of length 2, (data, batch_sizes), where batch_sizes is not"
                    f" given; got {type(data).__name__}"
                )
            data, batch_sizes = data
        if isinstance(batch_sizes, Tracer):
            raise ValueError(
                "batch_sizes should always be on CPU, but they are traced. Instances of PackedSequence should never be"
                " created manually: make them with pack_sequence or pack_padded_sequence, outside the compiled function"
            )
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, np.asarray(batch_sizes, np.int64), sorted_indices, unsorted_indices)

    def to(self, *args: Any, device: Any = None, dtype: Any = None, **kwargs: Any) -> Self:
        """Convert ``data`` to a dtype and move it, with the indices, to a device; or follow another array in both.

        PyTorch's ``non_blocking``, ``copy`` and ``memory_format`` are accepted.
        """
        for value in args:
            if isinstance(value, jax.Array):
                device, dtype = value.sharding, value.dtype
            elif value is not None and not isinstance(value, bool):
                try:
                    dtype = parse_dtype(value)
                except TypeError:
                    device = parse_device(value)
        data = self.data if dtype is None else self.data.astype(dtype)
        place = parse_device(device)
        if place is None or (not isinstance(data, Tracer) and data.devices() == {place}):
            return self if data is self.data else type(self)(data, *self[1:])
        data, *indices = (None if array is None else jax.device_put(array, place) for array in (data, *self[2:]))
        return type(self)(data, self.batch_sizes, *indices)

    def cpu(self) -> Self:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Move to a GPU."""
        return self.to("cuda" if device is None else device)

    def double(self) -> Self:
        """Convert ``data`` to float64."""
        return self.to(dtype=np.float64)

    def float(self) -> Self:
        """Convert ``data`` to float32."""
        return self.to(dtype=np.float32)

    def half(self) -> Self:
        """Convert ``data`` to float16."""
        return self.to(dtype=np.float16)

    def long(self) -> Self:
        """Convert ``data`` to int64, which JAX narrows to int32 unless x64 is enabled."""
        return self.to(dtype=jax.dtypes.canonicalize_dtype(np.int64))

    def int(self) -> Self:
        """Convert ``data`` to int32."""
        return self.to(dtype=np.int32)

    def short(self) -> Self:
        """Convert ``data`` to int16."""
        return self.to(dtype=np.int16)

    def char(self) -> Self:
        """Convert ``data`` to int8."""
        return self.to(dtype=np.int8)

    def byte(self) -> Self:
        """Convert ``data`` to uint8."""
        return self.to(dtype=np.uint8)


def _flatten(sequence: PackedSequence) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    return (sequence.data, *sequence[2:]), tuple(sequence.batch_sizes.tolist())


def _flatten_with_keys(sequence: PackedSequence) -> tuple[list[tuple[Any, Any]], tuple[int, ...]]:
    leaves, batch_sizes = _flatten(sequence)
    names = map(jax.tree_util.GetAttrKey, ("data", "sorted_indices", "unsorted_indices"))
    return list(zip(names, leaves, strict=True)), batch_sizes


def _unflatten(batch_sizes: tuple[int, ...], leaves: Iterable[Any]) -> PackedSequence:
    data, *indices = leaves  # anything at all, where JAX rearranges trees
    return tuple.__new__(PackedSequence, (data, np.array(batch_sizes, np.int64), *indices))


jax.tree_util.register_pytree_with_keys(PackedSequence, _flatten_with_keys, _unflatten, _flatten)


def invert_permutation(permutation: ArrayLike | None) -> Any:
    """Return the inverse of a permutation; ``None`` for ``None``.

    Examples:
        >>> import numpy as np
        >>> invert_permutation(np.array([2, 0, 1])).tolist()
        [1, 2, 0]
    """
    if permutation is None:
        return None
    if isinstance(permutation, np.ndarray):
        return np.argsort(permutation)
    return jnp.argsort(as_array(permutation))


def pack_padded_sequence(
    input: ArrayLike, lengths: ArrayLike | Sequence[int], batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack sequences that were padded to one length.

    Args:
        input: ``(T, N, *)``, or ``(N, T, *)`` where ``batch_first``.
        lengths: the length of each sequence, known on the host.
        batch_first: whether the batch is the first axis.
        enforce_sorted: whether to insist on lengths in decreasing order; otherwise the sequences are sorted, and what
            is made of them is put back into their order.

    Raises:
        RuntimeError: if the lengths are traced, do not fit the input or are not in order.

    Examples:
        >>> import jax.numpy as jnp
        >>> padded = jnp.array([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
        >>> pack_padded_sequence(padded, [2, 1, 3], batch_first=True, enforce_sorted=False).data.tolist()
        [4, 1, 3, 5, 2, 6]
    """
    input = as_array(input)
    normalize_dim(1, input.ndim)
    if not input.size:
        raise RuntimeError("Cannot pack empty tensors.")
    sizes = _known(lengths)
    steps, batch = input.shape[:2][::-1] if batch_first else input.shape[:2]
    order = None
    if not enforce_sorted:
        order = np.argsort(-sizes, kind="stable")
        sizes = sizes[order]
    _check_lengths(sizes, steps, batch)
    time, sequence = np.nonzero(np.arange(sizes[0])[:, None] < sizes)
    source = sequence if order is None else order[sequence]
    places = source * steps + time if batch_first else time * batch + source
    return PackedSequence(gather(input, places), np.bincount(time), order)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Array, Any]:
    """Pad packed sequences to one length: the inverse of :func:`pack_padded_sequence`.

    Args:
        sequence: the packed sequences.
        batch_first: whether the batch is to be the first axis.
        padding_value: what to put after the end of a sequence.
        total_length: the length to pad to, that of the longest sequence by default.

    Returns:
        The sequences in their original order, ``(T, N, *)`` or ``(N, T, *)``, and their lengths (a NumPy array,
        except where their order is traced).

    Raises:
        ValueError: if ``total_length`` is less than the length of the longest sequence.

    Examples:
        >>> import jax.numpy as jnp
        >>> packed = pack_sequence([jnp.array([1, 2, 3]), jnp.array([4])])
        >>> padded, lengths = pad_packed_sequence(packed, batch_first=True)
        >>> padded.tolist(), lengths.tolist()
        ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    data, batch_sizes, _, order = sequence
    if total_length is not None and total_length < len(batch_sizes):
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got"
            f" total_length={total_length} and max sequence length being {len(batch_sizes)}"
        )
    data = as_array(data)
    index: Any = packed_index(batch_sizes, len(data), total_length)
    lengths: Any = (np.arange(batch_sizes[0])[:, None] < batch_sizes).sum(1)
    if order is not None:
        known = order if isinstance(order, np.ndarray) else host_value(order)
        index, lengths = (jnp.asarray(x) if known is None else x for x in (index, lengths))
        order = order if known is None else known
        index, lengths = index[:, order], lengths[order]
    return spread(data, index.T if batch_first else index, padding_value), lengths


def pad_sequence(
    sequences: ArrayLike | Sequence[ArrayLike],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Array:
    """Stack sequences of different lengths, padded to that of the longest.

    Concrete arrays are padded on the host, so that nothing is compiled for their lengths.

    Args:
        sequences: arrays ``(L, *)``, each with an ``L`` of its own.
        batch_first: whether the batch is to be the first axis.
        padding_value: what to put beside a sequence.
        padding_side: ``"right"`` to put it after the end, ``"left"`` to put it before the start.

    Shape:
        ``(T, N, *)``, or ``(N, T, *)`` where ``batch_first``

    Raises:
        RuntimeError: if there are no sequences, or their shapes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> pad_sequence([jnp.ones((25, 300)), jnp.ones((22, 300)), jnp.ones((15, 300))]).shape
        (25, 3, 300)
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}"
        )
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    arrays: list[Any] = [one if isinstance(one, np.ndarray) else as_array(one) for one in sequences]
    _check_sequences(arrays)
    steps = max(map(len, arrays))
    on_host = all(isinstance(one, np.ndarray) or host_value(one) is not None for one in arrays)
    library: Any = np if on_host else jnp
    axis = 0 if batch_first else 1
    padded = []
    for one in map(np.asarray, arrays) if on_host else arrays:
        missing = (steps - len(one), 0) if padding_side == "left" else (0, steps - len(one))
        padded.append(library.pad(one, [missing, *[(0, 0)] * (one.ndim - 1)], constant_values=padding_value))
    stacked = library.stack(padded, axis)
    return to_jax(stacked) if on_host else stacked


def unpad_sequence(
    padded_sequences: ArrayLike, lengths: ArrayLike | Sequence[int], batch_first: bool = False
) -> list[Array]:
    """List sequences without their padding: the inverse of :func:`pad_sequence`.

    Args:
        padded_sequences: ``(T, N, *)``, or ``(N, T, *)`` where ``batch_first``.
        lengths: the length of each sequence, known on the host.
        batch_first: whether the batch is the first axis.

    Raises:
        RuntimeError: if the lengths are traced.
        ValueError: if there are more or fewer lengths than sequences.

    Examples:
        >>> import jax.numpy as jnp
        >>> [one.tolist() for one in unpad_sequence(jnp.array([[1, 2], [3, 0]]), [2, 1])]
        [[1, 3], [2]]
    """
    padded = as_array(padded_sequences)
    if not batch_first:
        padded = padded.swapaxes(0, 1)
    return [one[: max(length, 0)] for one, length in zip(padded, _known(lengths).tolist(), strict=True)]


def pack_sequence(sequences: Sequence[ArrayLike], enforce_sorted: bool = True) -> PackedSequence:
    """Pack a list of sequences.

    Args:
        sequences: arrays ``(L, *)``, each with an ``L`` of its own.
        enforce_sorted: as in :func:`pack_padded_sequence`.

    Raises:
        RuntimeError: if there are no sequences, their shapes do not fit together, or they are not in order.

    Examples:
        >>> import jax.numpy as jnp
        >>> pack_sequence([jnp.array([4, 5]), jnp.array([1, 2, 3])], enforce_sorted=False).data.tolist()
        [1, 4, 2, 5, 3]
    """
    arrays: list[Any] = list(sequences)
    return pack_padded_sequence(pad_sequence(arrays), [len(one) for one in arrays], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Array]:
    """List the sequences that are packed: the inverse of :func:`pack_sequence`.

    Examples:
        >>> import jax.numpy as jnp
        >>> [one.tolist() for one in unpack_sequence(pack_sequence([jnp.array([1, 2, 3]), jnp.array([4])]))]
        [[1, 2, 3], [4]]
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)


def _known(lengths: Any) -> np.ndarray:
    """Return lengths as integers on the host."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(lengths)):
        raise RuntimeError(
            "lengths decide shapes, so they must be known when the function is compiled, but they are traced:"
            " give them as a list or a NumPy array that is no argument of the function (or a static one),"
            " or pack outside and pass the PackedSequence"
        )
    sizes = np.asarray(lengths).astype(np.int64)
    if sizes.ndim != 1:
        raise RuntimeError(f"'lengths' argument should be a 1D CPU int64 tensor, but got {sizes.ndim}D lengths")
    return sizes


def _check_lengths(sizes: np.ndarray, steps: int, batch: int) -> None:
    if len(sizes) != batch:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(sizes)} (batch_size={batch})"
        )
    if sizes[-1] <= 0:
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    if (np.diff(sizes) > 0).any():
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass"
            " `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement"
        )
    if sizes[0] > steps:
        raise RuntimeError(f"Expected lengths of at most {steps}, the time steps of the input, but got {sizes[0]}")


def _check_sequences(arrays: list[Any]) -> None:
    if not arrays:
        raise RuntimeError("received an empty list of sequences")
    for one in arrays:
        if one.ndim == 0:
            raise RuntimeError("pad_sequence: Expected sequences with a first axis to pad, but got a scalar")
        for axis, sizes in enumerate(zip(arrays[0].shape[1:], one.shape[1:], strict=False), 1):
            if sizes[0] != sizes[1]:
                raise RuntimeError(
                    f"The size of tensor a ({sizes[0]}) must match the size of tensor b ({sizes[1]}) at non-singleton"
                    f" dimension {axis}: sequences may differ in their first axis only"
                )
        if one.ndim != arrays[0].ndim:
            raise RuntimeError(
                f"pad_sequence: Expected sequences of {arrays[0].ndim} axes, as the first has, but got {one.ndim}"
            )
