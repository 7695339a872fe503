"""Save and load state: weights, optimizers, random state and the plain values around them.

The name stands for two things, as it does in PyTorch and JAX together: called, ``jm.checkpoint(f)`` is
:func:`jm.remat <jaxmodules.transforms.remat.remat>`, which JAX calls ``jax.checkpoint``.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

from jaxmodules.checkpoint.files import CheckpointError as CheckpointError
from jaxmodules.checkpoint.files import load as load
from jaxmodules.checkpoint.files import save as save
from jaxmodules.transforms.remat import remat


class _Package(types.ModuleType):
    """A package that can be called: Python looks ``__call__`` up on the class."""

    def __call__(self, f: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return remat(f, **options)


sys.modules[__name__].__class__ = _Package
