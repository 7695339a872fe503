"""Take a model elsewhere: programs that run without its code.

The name stands for two things: called, ``jm.export(net, example_args)`` is :func:`~jaxmodules.export.program.export`,
as :func:`torch.export.export` is in PyTorch.
"""

from jaxmodules._callable import make_callable
from jaxmodules.export.program import ExportedProgram as ExportedProgram
from jaxmodules.export.program import export as export
from jaxmodules.export.program import load as load

make_callable(__name__, export)
