"""Save and load state: weights, optimizers, random state and the plain values around them."""

from jaxmodules.checkpoint.files import CheckpointError as CheckpointError
from jaxmodules.checkpoint.files import load as load
from jaxmodules.checkpoint.files import save as save
