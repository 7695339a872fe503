"""Arrays that stay in their file until they are asked for."""

import math
import mmap
import os
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from jaxmodules._device import parse_device
from jaxmodules.checkpoint._errors import CheckpointError
from jaxmodules.random import copy_to_jax


class MappedFile:
    """A file mapped into memory, for :class:`LazyTensor` to read from.

    What is read is copied, and a page of the file is let go of once it has been: neither does the process grow with
    the file, nor can a later change of the file reach an array.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            self.map: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None

    def view(self, dtype: np.dtype, shape: tuple[int, ...], offset: int, strides: tuple[int, ...] | None) -> np.ndarray:
        """Return a part of the file as an array, for the moment: nothing may hold on to it.

        Raises:
            CheckpointError: if the file is shorter than it was, so that reading on would kill the process.
            ValueError: if the file has been closed.
        """
        if self.map is None:
            raise ValueError(f"cannot read {self.path!r}: it has been closed: read it inside the with block")
        size = self.map.size()
        if size < self.size:
            raise CheckpointError(
                f"cannot read {self.path!r}: it had {self.size:,} bytes when it was opened and has {size:,} now:"
                " let the program that writes it finish, and open it again"
            )
        return np.ndarray(shape, dtype, self.map, offset, strides)

    def release(self) -> None:
        """Give back the memory that the file was read through."""
        release(self.map)

    def close(self) -> None:
        """Unmap the file."""
        if self.map is not None:
            with suppress(BufferError):  # another thread is reading: it unmaps it
                self.map.close()
            self.map = None


def release(memory: Any) -> None:
    """Give back what a mapped file was read through, if this is one; what is still being read is mapped again."""
    if isinstance(memory, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)  # all of it: reading a page maps its neighbours too


class LazyTensor(NDArrayOperatorsMixin):
    """An array in a file: shape and dtype are known, and the elements are read when they are asked for.

    Indexing reads a part, ``numpy.asarray`` and :meth:`to_jax` read it whole, and so does everything else that an
    array can do: operators, ``jnp`` functions, methods. The counterpart of what ``get_slice`` of
    :func:`safetensors.safe_open` returns.
    """

    is_meta = False

    def __init__(
        self,
        file: MappedFile,
        dtype: np.dtype,
        shape: tuple[int, ...],
        offset: int,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._file = file
        self._offset = offset
        self._strides = strides

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes of the elements."""
        return self.size * self.dtype.itemsize

    def to_jax(self, dtype: Any = None, device: Any = None) -> jax.Array:
        """Read the array to a device, or each device's part of it to several.

        Args:
            dtype: what to cast to while reading; by default the dtype of the file, or the 32-bit one where JAX has
                64 bits switched off.
            device: a device, as :class:`jm.device <jaxmodules.device>` takes it, or a Sharding.

        Raises:
            CheckpointError: if the file has been truncated since it was opened.
            ValueError: if the file has been closed.
        """
        try:
            return copy_to_jax(self._view(), dtype, parse_device(device))
        finally:
            self._file.release()

    def _view(self) -> np.ndarray:
        return self._file.view(self.dtype, self.shape, self._offset, self._strides)

    def __getitem__(self, index: Any) -> Any:
        try:
            return np.array(self._view()[index])
        finally:
            self._file.release()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array in a file cannot be had without copying it")
        return self[...].astype(self.dtype if dtype is None else dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        read = [np.asarray(value) if isinstance(value, LazyTensor) else value for value in inputs]
        return getattr(ufunc, method)(*read, **kwargs)

    def __jax_array__(self) -> jax.Array:
        return self.to_jax()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(np.asarray(self), name)

    def __reduce__(self) -> Any:
        return np.array, (np.asarray(self),)

    def __repr__(self) -> str:
        return f"LazyTensor(shape={self.shape}, dtype={self.dtype.name}, file={os.path.basename(self._file.path)!r})"


def _flatten(tensor: LazyTensor) -> tuple[tuple[jax.Array], None]:
    return (tensor.to_jax(),), None


def _unflatten(_: None, children: Any) -> Any:
    return children[0]


jax.tree_util.register_pytree_node(LazyTensor, _flatten, _unflatten)
