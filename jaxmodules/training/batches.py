"""Batches of arrays that are in memory."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxmodules.random import randperm


class Batches:
    """Cut arrays into batches along their first axis, in a new random order in every pass if told so.

    Each pass draws its order from the current generator: in :func:`fit` that of the data, in a loop of your own the
    one that ``jm.manual_seed`` seeds.

    Args:
        *arrays: NumPy or JAX arrays, or pytrees of them, of one length. A batch is a tuple of as many; of one alone,
            a batch is what it is itself (an array, a dict).
        batch_size: how many samples a batch has.
        shuffle: whether to go through the samples in random order.
        drop_last: whether to leave out the last batch if it is smaller. Each size of batch is compiled once.

    Raises:
        ValueError: if there are no arrays, lengths differ, or the size is not positive.

    Examples:
        >>> batches = Batches(np.arange(5), np.arange(5) ** 2, batch_size=2)
        >>> len(batches), [y.tolist() for x, y in batches]
        (3, [[0, 1], [4, 9], [16]])
    """

    def __init__(self, *arrays: Any, batch_size: int, shuffle: bool = False, drop_last: bool = False) -> None:
        lengths = [len(leaf) for leaf in jax.tree.leaves(arrays)]
        if not lengths or min(lengths) != max(lengths):
            raise ValueError(f"Batches expects arrays of one length, got lengths {lengths}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self.arrays = arrays
        self.samples = lengths[0]
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last

    def __len__(self) -> int:
        whole = self.samples / self.batch_size
        return math.floor(whole) if self.drop_last else math.ceil(whole)

    def __iter__(self) -> Iterator[Any]:
        order = np.asarray(randperm(self.samples)) if self.shuffle else None
        for number in range(len(self)):
            chosen: Any = slice(number * self.batch_size, (number + 1) * self.batch_size)
            if order is not None:
                chosen = order[chosen]
            batch = jax.tree.map(lambda array, chosen=chosen: array[chosen], self.arrays)
            yield batch if len(batch) > 1 else batch[0]
