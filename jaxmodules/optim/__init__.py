"""Optimizers: PyTorch's classes and settings, optax's arithmetic."""

from jaxmodules.optim import lr_scheduler as lr_scheduler
from jaxmodules.optim import swa_utils as swa_utils
from jaxmodules.optim._stateless import (
    swap_in_optimizer_params_and_state as swap_in_optimizer_params_and_state,
)
from jaxmodules.optim.adadelta import Adadelta as Adadelta
from jaxmodules.optim.adafactor import Adafactor as Adafactor
from jaxmodules.optim.adagrad import Adagrad as Adagrad
from jaxmodules.optim.adam import Adam as Adam
from jaxmodules.optim.adamax import Adamax as Adamax
from jaxmodules.optim.adamw import AdamW as AdamW
from jaxmodules.optim.asgd import ASGD as ASGD
from jaxmodules.optim.lbfgs import LBFGS as LBFGS
from jaxmodules.optim.muon import Muon as Muon
from jaxmodules.optim.nadam import NAdam as NAdam
from jaxmodules.optim.optimizer import Optimizer as Optimizer
from jaxmodules.optim.radam import RAdam as RAdam
from jaxmodules.optim.rmsprop import RMSprop as RMSprop
from jaxmodules.optim.rprop import Rprop as Rprop
from jaxmodules.optim.sgd import SGD as SGD
from jaxmodules.optim.sparse_adam import SparseAdam as SparseAdam
