"""``from_torch``: the counterpart of a live torch module."""

import warnings
from collections.abc import Mapping
from typing import Any

from jaxmodules.interop._converter import Converter
from jaxmodules.interop._counterparts import check_counterpart, check_key
from jaxmodules.interop._live import check_module
from jaxmodules.nn.modules.module import Module

_SHOWN = 3  # places of one class in a message


def from_torch(module: Any, mapping: Mapping[Any, Any] | None = None) -> Module:
    """Build the counterpart of a torch module: the same tree, with weights, buffers, flags and tying.

    Modules of ``torch.nn`` become those of the same name here, with every attribute they have: parametrizations,
    weight norms, pruning and lazy modules included. What is shared in the torch module, is shared in the result.
    Dtypes stay (64-bit ones need ``jax_enable_x64``), and parameters on the meta device have no data here either. The
    torch module is left as it is, and no memory is shared with it. Gradients are not taken over.

    Args:
        module: a :class:`torch.nn.Module`.
        mapping: what stands for classes of your own and for functions, as :func:`~jaxmodules.interop.register` takes
            it; looked up before what is registered, and before the classes of ``torch.nn``.

    Returns:
        The counterpart.

    Raises:
        TypeError: if ``module`` is no torch module, or some classes or functions in it have no counterpart: each is
            named, with its places and what to do.
        RuntimeError: if what a registered function returns does not fit the weights, with PyTorch's report.

    Warns:
        UserWarning: if there are hooks, which are functions on tensors and can't be carried over.

    Examples:
        >>> import torch
        >>> from_torch(torch.nn.Sequential(torch.nn.Conv2d(1, 6, 5, padding="same"), torch.nn.ReLU()))
        Sequential(
          (0): Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1), padding=same)
          (1): ReLU()
        )
    """
    check_module(module, "from_torch(module); load_state_dict takes state dicts of torch as they are")
    if not isinstance(mapping, Mapping | None):
        raise TypeError(f"expected a mapping of classes, got {mapping!r}: give {{TheirClass: YourClass}}")
    mapping = dict(mapping or {})
    for theirs, ours in mapping.items():
        check_key(theirs)
        check_counterpart(theirs, ours)
    converter = Converter(module, mapping)
    made = converter(module)
    if converter.unknown:
        raise TypeError(_unknown(module, converter.unknown))
    if converter.misfits:
        raise converter.misfits[0]
    if converter.lost:
        listed = "\n".join(f"    {hook}" for hook in converter.lost)
        warnings.warn(
            f"from_torch: {len(converter.lost)} hooks stay behind, as functions on tensors do not run on JAX arrays:\n"
            f"{listed}\nRegister their counterparts on the result, or give them in mapping: {{hook: your_hook}}",
            stacklevel=2,
        )
    return made


def _unknown(module: Any, unknown: Mapping[str, list[str]]) -> str:
    """Say what has no counterpart, where it is and what to do."""
    lines = []
    for name, places in unknown.items():
        shown = ", ".join(repr(place) if place else "the module itself" for place in places[:_SHOWN])
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        lines.append(f"    {name}, at {shown}{more}")
    listed = "\n".join(lines)
    return (
        f"from_torch: there is no counterpart here of some classes or functions in {type(module).__name__}:\n{listed}\n"
        "Write each as a jaxmodules Module with the same attribute names, or as a function on arrays, and say what it"
        " stands for: jm.interop.register(Theirs, Ours), or jm.from_torch(module, {Theirs: Ours}). Where the"
        " attributes differ, give a function of (module, convert) that returns the counterpart."
        " (Of a wrapper such as DataParallel or a compiled module, convert what is inside: .module, ._orig_mod.)"
    )
