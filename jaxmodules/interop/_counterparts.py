"""What of ours stands for what of torch's: the same name in the same file, unless something else is said."""

import enum
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from jaxmodules.interop._live import live_torch

_T = TypeVar("_T")
_HOMES = ("torch.nn.modules.", "jaxmodules.nn.modules")  # some of torch's files are several of ours

registry: dict[Any, Any] = {}  # by class or function of theirs, or its dotted name


@overload
def register(theirs: Any, counterpart: _T) -> _T: ...


@overload
def register(theirs: Any) -> Callable[[_T], _T]: ...


def register(theirs: Any, counterpart: Any = None) -> Any:
    """Say what stands for a class of your own, or a function, in :func:`~jaxmodules.from_torch`.

    A module class of ours stands for one of torch's where the two have the same attributes, as after porting: the
    counterpart is made without ``__init__``, and gets every attribute of the torch module: children, parameters and
    buffers converted, plain values as they are. Where the two differ, write a function instead.

    Args:
        theirs: a class of torch modules, whose subclasses are not meant, a function that modules have in an
            attribute, or the dotted name of either, such as ``"timm.layers.LayerNorm2d"``.
        counterpart: a :class:`~jaxmodules.nn.Module` class; or a function of ``(module, convert)``, or of ``module``
            alone, that returns the counterpart of a torch module. ``convert`` gives our counterpart of anything in
            that module: of a child, a parameter, a function. Weights of the counterpart that do not come from there
            are loaded afterwards by their names. For a function, the function of ours. Without it, a decorator is
            returned.

    Returns:
        The counterpart.

    Raises:
        TypeError: if ``theirs`` is no class, function or name, or ``counterpart`` can't be called.

    Examples:
        >>> from jaxmodules import nn
        >>> @register("my_torch_models.Scale")
        ... class Scale(nn.Module):
        ...     def forward(self, x):
        ...         return x * self.weight
        >>> @register("my_torch_models.Head")
        ... def make_head(theirs, convert):
        ...     return nn.Sequential(convert(theirs.norm), nn.Linear(theirs.width, theirs.classes))
    """
    check_key(theirs)
    if counterpart is None:
        return functools.partial(register, theirs)
    check_counterpart(theirs, counterpart)
    registry[theirs] = counterpart
    return counterpart


def check_key(theirs: Any) -> None:
    """Raise TypeError unless ``theirs`` can stand in a mapping of counterparts."""
    if not callable(theirs) and not isinstance(theirs, str):
        raise TypeError(f"expected a class or function of torch's, or its dotted name, got {theirs!r}")
    torch = live_torch()
    if torch is not None and isinstance(theirs, torch.nn.Module):
        raise TypeError(f"expected a class, got a {type(theirs).__name__} module: give type(module)")


def check_counterpart(theirs: Any, counterpart: Any) -> None:
    """Raise TypeError unless ``counterpart`` can make, or be, what stands for ``theirs``."""
    if not callable(counterpart):
        raise TypeError(
            f"expected a Module class, or a function of (module, convert), to stand for {theirs!r}, got {counterpart!r}"
        )


def takes_two(make: Callable[..., Any]) -> bool:
    """Tell whether a registered function takes ``convert`` beside the module."""
    try:
        inspect.signature(make).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # it tells no signature
        pass
    return True


def registered(thing: Any, mapping: Mapping[Any, Any]) -> Any:
    """Return what a mapping, or else the registry, has for a class or function; ``None`` if neither has it."""
    for table in (mapping, registry):
        for key in (thing, dotted_name(thing)):
            if key in table:
                return table[key]
    return None


def dotted_name(thing: Any) -> str:
    """Return the name by which a class or function can be imported."""
    qualified = getattr(thing, "__qualname__", repr(thing))
    name = thing.__name__ if qualified.startswith("_VariableFunctionsClass.") else qualified  # torch.sin and its like
    return f"{getattr(thing, '__module__', None) or 'builtins'}.{name}"


def is_of_torch(thing: Any) -> bool:
    """Tell whether a class or function comes from torch itself."""
    return (getattr(thing, "__module__", None) or "").partition(".")[0] == "torch"


def twin_class(theirs: type) -> Any:
    """Return the class of ours with the name, and in the file, of one of torch's; ``None`` if there is none."""
    return _find(theirs.__module__, theirs.__qualname__) if is_of_torch(theirs) else None


def twin_function(theirs: Any) -> Any:
    """Return the function of ours that is one of torch's by its name; ``None`` if there is none."""
    torch: Any = live_torch()
    if not is_of_torch(theirs):
        return None
    functional = vars(torch.nn.functional).items()
    name = next((name for name, value in functional if value is theirs), theirs.__name__)
    return _find("torch.nn.functional", name) or _find(theirs.__module__, name)


def twin_member(theirs: enum.Enum) -> Any:
    """Return the member of ours that is one of an enumeration of torch's; ``None`` if there is none."""
    ours = twin_class(type(theirs))
    return None if ours is None else ours[theirs.name]


def is_plain_function(value: Any) -> bool:
    """Tell whether a function works on whatever it is given: it is Python's own, or JAX's, or ours."""
    home = (getattr(value, "__module__", None) or "builtins").partition(".")[0]
    return home in ("jax", "jaxlib", "jaxmodules") or home in sys.stdlib_module_names


FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


def _find(home: str, name: str) -> Any:
    """Return what a file of ours has under a name of torch's."""
    if "." in name:
        return None
    homes = [home.replace("torch", "jaxmodules", 1)] + ([_HOMES[1]] if home.startswith(_HOMES[0]) else [])
    for place in homes:
        try:
            found = getattr(importlib.import_module(place), name, None)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return found
    return None
