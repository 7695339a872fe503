"""Save and load state: weights, optimizers, random state and the plain values around them.

The name stands for two things, as it does in PyTorch and JAX together: called, ``jm.checkpoint(f)`` is
:func:`jm.remat <jaxmodules.transforms.remat.remat>`, which JAX calls ``jax.checkpoint``.
"""

from jaxmodules._callable import make_callable
from jaxmodules.checkpoint._mapped import LazyTensor as LazyTensor
from jaxmodules.checkpoint.files import CheckpointError as CheckpointError
from jaxmodules.checkpoint.files import load as load
from jaxmodules.checkpoint.files import save as save
from jaxmodules.checkpoint.manager import CheckpointManager as CheckpointManager
from jaxmodules.checkpoint.manager import Restored as Restored
from jaxmodules.checkpoint.pretrained import from_pretrained_files as from_pretrained_files
from jaxmodules.checkpoint.pretrained import save_pretrained_files as save_pretrained_files
from jaxmodules.checkpoint.tensors import Tensors as Tensors
from jaxmodules.checkpoint.tensors import open as open
from jaxmodules.transforms.remat import remat

make_callable(__name__, remat)
