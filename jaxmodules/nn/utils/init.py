"""Modules made without drawing their initial values."""

import inspect
from typing import Any, TypeVar

import numpy as np

from jaxmodules._mt19937 import HostStream
from jaxmodules._typing import DType
from jaxmodules.nn.modules.module import Module
from jaxmodules.random import Generator, bind_generator

_M = TypeVar("_M", bound=Module)


class _Blank(HostStream):
    """Return untouched memory instead of samples."""

    def uniform(
        self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, dtype: DType = np.float32
    ) -> np.ndarray:
        """Return zeros."""
        return np.zeros(shape, dtype)

    def normal(
        self, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0, dtype: DType = np.float32
    ) -> np.ndarray:
        """Return zeros."""
        return np.zeros(shape, dtype)


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
    device = kwargs.pop("device", None)
    generator = Generator()
    generator.host = _Blank()
    with bind_generator(generator):
        module = module_cls(*args, **kwargs)
    return module.to_empty(device=device)
