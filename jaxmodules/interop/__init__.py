"""The way from live PyTorch objects and back, in a process that has torch as well.

torch is never imported here: what is given to these functions comes from it, and brings it along.
"""

from jaxmodules.interop._counterparts import register as register
from jaxmodules.interop.comparing import Comparison as Comparison
from jaxmodules.interop.comparing import Row as Row
from jaxmodules.interop.comparing import compare as compare
from jaxmodules.interop.incoming import from_torch as from_torch
from jaxmodules.interop.outgoing import to_torch as to_torch
