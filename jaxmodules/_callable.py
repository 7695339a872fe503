"""Packages that can be called, where one name stands for a function and for the files around it."""

import sys
import types
from collections.abc import Callable
from typing import Any


def make_callable(package: str, function: Callable[..., Any]) -> None:
    """Let calls of a package, by its name, go to ``function``."""

    class CallablePackage(types.ModuleType):  # Python looks __call__ up on the class
        __call__ = staticmethod(function)

    CallablePackage.__qualname__ = CallablePackage.__name__ = "module"
    sys.modules[package].__class__ = CallablePackage
