"""Save and load state: weights, optimizers, random state and the plain values around them.

The name stands for two things, as it does in PyTorch and JAX together: called, ``jm.checkpoint(f)`` is
:func:`jm.remat <jaxmodules.transforms.remat.remat>`, which JAX calls ``jax.checkpoint``.
"""

from jaxmodules._callable import make_callable
from jaxmodules.checkpoint.files import CheckpointError as CheckpointError
from jaxmodules.checkpoint.files import load as load
from jaxmodules.checkpoint.files import save as save
from jaxmodules.transforms.remat import remat

make_callable(__name__, remat)
