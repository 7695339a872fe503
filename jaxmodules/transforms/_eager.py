"""Loops and branches outside any transform: compiled once for their functions, and kept as long as these live."""

import types
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jaxmodules.transforms.jit import jit

_Programs = dict[tuple[Hashable, tuple["_Weak", ...]], Any]
_programs: "weakref.WeakKeyDictionary[Any, _Programs]" = weakref.WeakKeyDictionary()


class _Weak:
    """A function that what is compiled for it does not keep alive; equal for one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        is_method = isinstance(function, types.MethodType)
        self._ref: Any = weakref.WeakMethod(function) if is_method else weakref.ref(function)
        self._hash = hash(self._ref)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self._ref()

    def __call__(self, *args: Any) -> Any:
        return self._ref()(*args)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Weak) and self._ref == other._ref


def compiled(functions: Sequence[Callable[..., Any]], settings: Hashable, build: Callable[..., Any]) -> Any:
    """Return ``build(*functions)``, a function of arrays and state, compiled; the same again for the same functions.

    Args:
        functions: what ``build`` puts together.
        settings: what else the result depends on.
        build: returns the function to compile.
    """
    try:
        weak = [_Weak(function) for function in functions]
        home = getattr(functions[0], "__self__", functions[0])
        programs = _programs.setdefault(home, {})
    except TypeError:  # no function, or one that can't be referred to weakly
        return jit(build(*functions))
    key = settings, tuple(weak)
    if key not in programs:
        for dead in [old for old in programs if any(function.__wrapped__ is None for function in old[1])]:
            del programs[dead]
        programs[key] = jit(build(*weak))
    return programs[key]
