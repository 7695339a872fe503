"""A training loop for those who do not want to write theirs again: small, optional, and exact when it is resumed.

:func:`fit` calls a step, an ordinary function that is usually compiled by ``jm.jit``, for every batch. It knows nothing
of losses, models or optimizers: what the step changes is in the objects that the step is given, and whatever of these
has a ``state_dict`` is in a checkpoint. All else is a :class:`Callback` or is left to the step.

Four things make a resumed run end with the bits of an uninterrupted one. State is saved between two steps only. Data
draws from a random stream of its own, and its place is a state plus a number of batches to read again (``_feed``).
Means are sums in double precision that a checkpoint holds. Callbacks that save run after those that decide.
"""

from jaxmodules.training.batches import Batches as Batches
from jaxmodules.training.callbacks import Callback as Callback
from jaxmodules.training.callbacks import EarlyStopping as EarlyStopping
from jaxmodules.training.callbacks import Evaluate as Evaluate
from jaxmodules.training.history import History as History
from jaxmodules.training.loggers import CSVLogger as CSVLogger
from jaxmodules.training.loggers import TensorBoardLogger as TensorBoardLogger
from jaxmodules.training.loop import fit as fit
from jaxmodules.training.run import Run as Run
from jaxmodules.training.saving import Checkpoint as Checkpoint
