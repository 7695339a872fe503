"""Take a model elsewhere: programs that run without its code, and its arrays in the forms of other libraries.

The name stands for two things: called, ``jm.export(net, example_args)`` is :func:`~jaxmodules.export.program.export`,
as :func:`torch.export.export` is in PyTorch.
"""

from jaxmodules._callable import make_callable
from jaxmodules.export._dynamic_shapes import Dim as Dim
from jaxmodules.export.equinox import from_equinox as from_equinox
from jaxmodules.export.equinox import to_equinox as to_equinox
from jaxmodules.export.flax import from_linen as from_linen
from jaxmodules.export.flax import from_nnx as from_nnx
from jaxmodules.export.flax import to_linen as to_linen
from jaxmodules.export.flax import to_nnx as to_nnx
from jaxmodules.export.onnx import to_onnx as to_onnx
from jaxmodules.export.program import ExportedProgram as ExportedProgram
from jaxmodules.export.program import export as export
from jaxmodules.export.program import load as load
from jaxmodules.export.trees import from_dict as from_dict
from jaxmodules.export.trees import from_npz as from_npz
from jaxmodules.export.trees import from_safetensors as from_safetensors
from jaxmodules.export.trees import to_dict as to_dict
from jaxmodules.export.trees import to_npz as to_npz
from jaxmodules.export.trees import to_safetensors as to_safetensors

make_callable(__name__, export)
