"""How a linear cross entropy is cut into pieces."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxmodules._shapes import accumulation_dtype
from jaxmodules._typing import DType


@dataclasses.dataclass(slots=True, frozen=True)
class LinearCrossEntropyOptions:
    """Ask for a linear cross entropy that never holds the scores of the whole batch.

    The batch is processed in chunks, whose scores are computed again for the gradient. The result and the gradients
    are those of the plain loss. Arithmetic runs in ``float32`` or wider whatever the policy, and derivatives of any
    order and mode exist.

    Args:
        allow_retain_graph: accepted for PyTorch's sake; a pullback can always be called again.
        batch_chunk_size: rows per chunk.
        chunking_method: how to choose ``batch_chunk_size``: ``'aspect_ratio'`` (the scores of a chunk take about as
            much memory as the input), ``'aspect_ratio:N'`` (an N-th of it), ``'auto'``, or ``None`` (do not).
        acc_policy: accepted for PyTorch's sake; ours is ``'accurate'``.
        acc_dtype: the type to accumulate in: that of the input, or ``float32`` for the short floating point types.

    Raises:
        ValueError: if an option is unknown.

    Examples:
        >>> LinearCrossEntropyOptions(batch_chunk_size=4).batch_chunk_size
        4
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: Literal["accurate", "balanced", "compact", "auto"] = "auto"
    acc_dtype: DType | None = None

    def __post_init__(self) -> None:
        if self.acc_policy not in ("auto", "accurate", "balanced", "compact"):
            raise ValueError(
                f"invalid acc_policy: {self.acc_policy!r}, expected 'auto', 'accurate', 'balanced' or 'compact'"
            )
        if self.chunking_method is not None and self.chunking_method != "auto":
            name, colon, factor = self.chunking_method.partition(":")
            if name != "aspect_ratio" or (colon and not (factor.isdigit() and int(factor) > 0)):
                raise ValueError(
                    f"invalid chunking_method: {self.chunking_method!r},"
                    " expected 'auto', 'aspect_ratio', 'aspect_ratio:N' or None"
                )
        size = self.batch_chunk_size
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(f"batch_chunk_size must be positive int or None, got {size!r}")
        allowed = [np.dtype(kind) for kind in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)]
        if self.acc_dtype is not None and self.acc_dtype not in allowed:
            names = ", ".join(dtype.name for dtype in allowed)
            raise ValueError(
                f"acc_dtype must be one of {{None, {names}}}, got {self.acc_dtype!r}."
                " Pass acc_dtype=None to let the op pick automatically."
            )

    def chunk_size(self, num_batches: int, in_features: int, num_classes: int, dtype: DType) -> int:
        """Return the number of rows per chunk for a loss of these sizes.

        Raises:
            ValueError: if two options ask for different sizes.
            RuntimeError: if ``acc_dtype`` does not go with an input of type ``dtype``.
        """
        if self.acc_dtype is not None and self.acc_dtype not in (np.dtype(dtype), accumulation_dtype(dtype)):
            raise RuntimeError(
                "linear_cross_entropy supports float32 acc_dtype with float16/bfloat16 inputs, but got"
                f" {np.dtype(self.acc_dtype)} acc_dtype and {np.dtype(dtype)} inputs."
            )
        given, method = self.batch_chunk_size, self.chunking_method
        if method == "auto":
            short = np.dtype(dtype).itemsize < 4
            method = None if given is not None else "aspect_ratio" if short else "aspect_ratio:2"
        if method is None:
            return max(1, num_batches if given is None else min(given, num_batches))
        target = -(-num_batches // -(-num_classes // in_features))
        size = min((1 << (target - 1).bit_length()) // int(method.partition(":")[2] or 1), num_batches)
        if given is not None and given != size:
            raise ValueError(
                f"batch_chunk_size (={given}) and chunking_method ('{method}') give different chunk sizes"
                f" ({given} vs {size}); pass only one."
            )
        return max(1, size)
