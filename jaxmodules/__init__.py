"""PyTorch's modules for JAX: write a ``torch.nn`` model, get a pure, jit-compiled JAX function."""

from jaxmodules import checkpoint as checkpoint
from jaxmodules import nn as nn
from jaxmodules import optim as optim
from jaxmodules import random as random
from jaxmodules.checkpoint import load as load
from jaxmodules.checkpoint import save as save
from jaxmodules.random import Generator as Generator
from jaxmodules.random import bernoulli as bernoulli
from jaxmodules.random import default_generator as default_generator
from jaxmodules.random import fork_rng as fork_rng
from jaxmodules.random import get_rng_state as get_rng_state
from jaxmodules.random import initial_seed as initial_seed
from jaxmodules.random import manual_seed as manual_seed
from jaxmodules.random import normal as normal
from jaxmodules.random import rand as rand
from jaxmodules.random import rand_like as rand_like
from jaxmodules.random import randint as randint
from jaxmodules.random import randn as randn
from jaxmodules.random import randn_like as randn_like
from jaxmodules.random import randperm as randperm
from jaxmodules.random import seed as seed
from jaxmodules.random import set_rng_state as set_rng_state
from jaxmodules.summary import summary as summary
from jaxmodules.transforms import backward as backward
from jaxmodules.transforms import cond as cond
from jaxmodules.transforms import eval_shape as eval_shape
from jaxmodules.transforms import fori_loop as fori_loop
from jaxmodules.transforms import functional_call as functional_call
from jaxmodules.transforms import functionalize as functionalize
from jaxmodules.transforms import grad as grad
from jaxmodules.transforms import hessian as hessian
from jaxmodules.transforms import jacfwd as jacfwd
from jaxmodules.transforms import jacrev as jacrev
from jaxmodules.transforms import jit as jit
from jaxmodules.transforms import jvp as jvp
from jaxmodules.transforms import linearize as linearize
from jaxmodules.transforms import remat as remat
from jaxmodules.transforms import scan as scan
from jaxmodules.transforms import switch as switch
from jaxmodules.transforms import update as update
from jaxmodules.transforms import value_and_grad as value_and_grad
from jaxmodules.transforms import vjp as vjp
from jaxmodules.transforms import vmap as vmap
from jaxmodules.transforms import while_loop as while_loop

__version__ = "0.1.0"
