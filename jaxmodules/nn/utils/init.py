"""Modules made without drawing their initial values."""

import inspect
from typing import Any, TypeVar

from jaxmodules._device import device
from jaxmodules.nn.modules.module import Module

_M = TypeVar("_M", bound=Module)


def skip_init(module_cls: type[_M], *args: Any, **kwargs: Any) -> _M:
    """Make a module whose parameters and buffers hold anything, without drawing random numbers.

    Args:
        module_cls: the class; its constructor takes ``device`` and does nothing with parameters but initialise them.
        args: arguments of the constructor.
        kwargs: keyword arguments of the constructor.

    Raises:
        RuntimeError: if ``module_cls`` is no Module, or its constructor takes no ``device``.

    Examples:
        >>> from jaxmodules import nn
        >>> skip_init(nn.Linear, 5, 1).weight.shape
        (1, 5)
    """
    if not issubclass(module_cls, Module):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError("Module must support a 'device' arg to skip initialization")
    place = kwargs.pop("device", None)
    with device("meta"):
        module = module_cls(*args, **kwargs)
    return module.to_empty(device=place)
