"""JAX's transforms, for functions of stateful objects.

Each is a short function over the state core. It finds the stateful objects in a call (arguments, closure, globals),
reads their slots, runs JAX's transform on a pure function that swaps traced arrays into those very objects, and
writes back what changed: buffers, random keys, optimizer state. They nest in each other and in JAX's own.

Loops and branches trace their functions once beforehand, and so hand on only what these write (see ``_stage``).
Written values travel as the ``Changes`` of ``_call``; what is written, and what is not, is known after the trace.
A tracer never stays behind: the swap is undone whatever happens, and a write that would leak is refused.
"""

from jaxmodules.transforms import _share as _share
from jaxmodules.transforms.autodiff import backward as backward
from jaxmodules.transforms.autodiff import grad as grad
from jaxmodules.transforms.autodiff import value_and_grad as value_and_grad
from jaxmodules.transforms.branches import cond as cond
from jaxmodules.transforms.branches import switch as switch
from jaxmodules.transforms.capture import capture as capture
from jaxmodules.transforms.derivatives import hessian as hessian
from jaxmodules.transforms.derivatives import jacfwd as jacfwd
from jaxmodules.transforms.derivatives import jacrev as jacrev
from jaxmodules.transforms.derivatives import jvp as jvp
from jaxmodules.transforms.derivatives import linearize as linearize
from jaxmodules.transforms.derivatives import vjp as vjp
from jaxmodules.transforms.explain import explain as explain
from jaxmodules.transforms.functional import functional_call as functional_call
from jaxmodules.transforms.functional import functionalize as functionalize
from jaxmodules.transforms.functional import stack_module_state as stack_module_state
from jaxmodules.transforms.functional import tree as tree
from jaxmodules.transforms.functional import update as update
from jaxmodules.transforms.jit import jit as jit
from jaxmodules.transforms.labels import labels as labels
from jaxmodules.transforms.loops import fori_loop as fori_loop
from jaxmodules.transforms.loops import scan as scan
from jaxmodules.transforms.loops import while_loop as while_loop
from jaxmodules.transforms.mapping import eval_shape as eval_shape
from jaxmodules.transforms.mapping import vmap as vmap
from jaxmodules.transforms.remat import remat as remat
