"""Learning rate schedulers: PyTorch's classes and values, also in compiled functions."""

from jaxmodules.optim.lr_scheduler.composite import ChainedScheduler as ChainedScheduler
from jaxmodules.optim.lr_scheduler.composite import SequentialLR as SequentialLR
from jaxmodules.optim.lr_scheduler.cyclic import CyclicLR as CyclicLR
from jaxmodules.optim.lr_scheduler.cyclic import OneCycleLR as OneCycleLR
from jaxmodules.optim.lr_scheduler.decay import ConstantLR as ConstantLR
from jaxmodules.optim.lr_scheduler.decay import CosineAnnealingLR as CosineAnnealingLR
from jaxmodules.optim.lr_scheduler.decay import ExponentialLR as ExponentialLR
from jaxmodules.optim.lr_scheduler.decay import LinearLR as LinearLR
from jaxmodules.optim.lr_scheduler.decay import MultiStepLR as MultiStepLR
from jaxmodules.optim.lr_scheduler.decay import PolynomialLR as PolynomialLR
from jaxmodules.optim.lr_scheduler.decay import StepLR as StepLR
from jaxmodules.optim.lr_scheduler.functional import LambdaLR as LambdaLR
from jaxmodules.optim.lr_scheduler.functional import MultiplicativeLR as MultiplicativeLR
from jaxmodules.optim.lr_scheduler.plateau import ReduceLROnPlateau as ReduceLROnPlateau
from jaxmodules.optim.lr_scheduler.restarts import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from jaxmodules.optim.lr_scheduler.scheduler import EPOCH_DEPRECATION_WARNING as EPOCH_DEPRECATION_WARNING
from jaxmodules.optim.lr_scheduler.scheduler import LRScheduler as LRScheduler
from jaxmodules.optim.lr_scheduler.scheduler import _LRScheduler as _LRScheduler
