"""Embedding layers."""

from typing import Any, Self

import numpy as np

from jaxmodules._shapes import host_value
from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.functional.sparse import embedding_renorm, normalize_padding_idx
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import blank


class Embedding(Module):
    """Look up vectors by index, see :func:`~jaxmodules.nn.functional.embedding`.

    Args:
        num_embeddings: number of vectors.
        embedding_dim: size of each vector.
        padding_idx: the vector that receives no gradient and is zero at first.
        max_norm: vectors with a larger norm are scaled down to it when they are looked up.
        norm_type: the ``p`` of that norm.
        scale_grad_by_freq: divide the gradient of a vector by the number of times it was looked up.
        sparse: accepted for PyTorch's sake; gradients are dense.
        device: where the vectors live.
        dtype: type of the vectors, ``float32`` by default.

    Shape:
        ``(*) -> (*, embedding_dim)``

    Attributes:
        weight: ``(num_embeddings, embedding_dim)``, drawn from the standard normal distribution.

    Raises:
        AssertionError: if ``padding_idx`` is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Embedding(10, 3, padding_idx=0)(jnp.array([[0, 2, 0, 5]])).shape
        (1, 4, 3)
    """

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    sparse: bool
    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Array | np.ndarray | Parameter | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = normalize_padding_idx(padding_idx, num_embeddings)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        self.weight = Parameter(_table((num_embeddings, embedding_dim), _weight, dtype), requires_grad=not _freeze)
        if device is not None:
            self.to(device)
        if _weight is None:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new values, as ``__init__`` does."""
        init.normal_(self.weight)
        self._fill_padding_idx_with_zero()

    def forward(self, input: Array) -> Array:
        """Look up the vectors of ``input``."""
        if self.max_norm is not None:
            self.weight.value = embedding_renorm(input, self.weight, self.max_norm, self.norm_type)
        return F.embedding(
            input, self.weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq, sparse=self.sparse
        )

    def extra_repr(self) -> str:
        """Show the sizes and the settings that differ from their defaults."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq is not False:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        return text + (", sparse=True" if self.sparse is not False else "")

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Array | np.ndarray | Parameter,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Self:
        """Make a layer from a matrix of vectors, frozen unless told.

        Args:
            embeddings: the vectors, ``(num_embeddings, embedding_dim)``.
            freeze: whether the vectors stay as they are in training.
            padding_idx: as in the constructor; the vector is not set to zero.
            max_norm: as in the constructor.
            norm_type: as in the constructor.
            scale_grad_by_freq: as in the constructor.
            sparse: as in the constructor.

        Raises:
            AssertionError: if ``embeddings`` is not a matrix.

        Examples:
            >>> import jax.numpy as jnp
            >>> from jaxmodules import nn
            >>> nn.Embedding.from_pretrained(jnp.array([[1.0, 2.5], [4.0, 5.0]]))(jnp.array([1])).tolist()
            [[4.0, 5.0]]
        """
        _check_matrix(embeddings)
        return cls(
            *embeddings.shape,
            _weight=embeddings,
            _freeze=freeze,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
        )

    def _fill_padding_idx_with_zero(self) -> None:
        _fill_with_zero(self.weight, self.padding_idx)


class EmbeddingBag(Module):
    """Look up vectors by index and reduce each bag of them to one, see :func:`~jaxmodules.nn.functional.embedding_bag`.

    Args:
        num_embeddings: number of vectors.
        embedding_dim: size of each vector.
        max_norm: vectors with a larger norm are scaled down to it when they are looked up.
        norm_type: the ``p`` of that norm.
        scale_grad_by_freq: divide the gradient of a vector by the number of times it was looked up.
        mode: ``'sum'``, ``'mean'`` or ``'max'``.
        sparse: accepted for PyTorch's sake; gradients are dense.
        include_last_offset: whether offsets have one entry more, where the last bag ends.
        padding_idx: the vector that counts for nothing, receives no gradient and is zero at first.
        device: where the vectors live.
        dtype: type of the vectors, ``float32`` by default.

    Shape:
        ``(B, N) -> (B, embedding_dim)``, or ``(N), (B) -> (B, embedding_dim)`` with offsets

    Attributes:
        weight: ``(num_embeddings, embedding_dim)``, drawn from the standard normal distribution.

    Raises:
        AssertionError: if ``padding_idx`` is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.EmbeddingBag(10, 3, mode="sum")(jnp.array([1, 2, 4, 5]), jnp.array([0, 3])).shape
        (2, 3)
    """

    num_embeddings: int
    embedding_dim: int
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    weight: Parameter
    mode: str
    sparse: bool
    include_last_offset: bool
    padding_idx: int | None

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Array | np.ndarray | Parameter | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.padding_idx = normalize_padding_idx(padding_idx, num_embeddings, "padding_idx")
        self.weight = Parameter(_table((num_embeddings, embedding_dim), _weight, dtype))
        if device is not None:
            self.to(device)
        if _weight is None:
            self.reset_parameters()
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset

    def reset_parameters(self) -> None:
        """Draw new values, as ``__init__`` does."""
        init.normal_(self.weight)
        self._fill_padding_idx_with_zero()

    def forward(self, input: Array, offsets: Array | None = None, per_sample_weights: Array | None = None) -> Array:
        """Look up the vectors of ``input`` and reduce each bag; arguments are those of the function."""
        if self.max_norm is not None:
            self.weight.value = embedding_renorm(input, self.weight, self.max_norm, self.norm_type)
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            scale_grad_by_freq=self.scale_grad_by_freq,
            mode=self.mode,
            sparse=self.sparse,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        """Show the sizes and the settings that differ from their defaults."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm!r}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type!r}"
        if self.scale_grad_by_freq is not False:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq!r}"
        text += f", mode={self.mode!r}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx!r}"

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Array | np.ndarray | Parameter,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Self:
        """Make a layer from a matrix of vectors, frozen unless told; see :meth:`Embedding.from_pretrained`.

        Raises:
            AssertionError: if ``embeddings`` is not a matrix.

        Examples:
            >>> import jax.numpy as jnp
            >>> from jaxmodules import nn
            >>> nn.EmbeddingBag.from_pretrained(jnp.array([[1.0, 2.5], [4.0, 5.0]]))(jnp.array([[0, 1]])).tolist()
            [[2.5, 3.75]]
        """
        _check_matrix(embeddings)
        layer = cls(
            *embeddings.shape,
            _weight=embeddings,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            mode=mode,
            sparse=sparse,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )
        layer.weight.requires_grad = not freeze
        return layer

    def _fill_padding_idx_with_zero(self) -> None:
        _fill_with_zero(self.weight, self.padding_idx)


def _table(shape: tuple[int, int], given: Any, dtype: DType | None) -> Any:
    """Return the vectors that were given, or storage for them."""
    if given is None:
        return blank(shape, dtype)
    if tuple(given.shape) != shape:
        raise AssertionError(
            "Shape of weight does not match num_embeddings and embedding_dim:"
            f" got {list(given.shape)}, expected {list(shape)}"
        )
    return given


def _check_matrix(embeddings: Array | np.ndarray | Parameter) -> None:
    if len(embeddings.shape) != 2:
        raise AssertionError(
            f"Embeddings parameter is expected to be 2-dimensional, got shape {list(embeddings.shape)}"
        )


def _fill_with_zero(weight: Parameter, row: int | None) -> None:
    if row is None:
        return
    values = host_value(weight.value)
    if values is None:
        weight.data[row] = 0
    else:  # on the host, because building a model compiles nothing
        padding = np.arange(len(values))[:, None] == row
        weight.copy_(np.where(padding, values.dtype.type(0), values))
