"""Where an error came from: the path of the failing module, in the message."""

import opcode
import weakref
from types import TracebackType
from typing import Any

from jaxmodules._keys import FOREIGN

_KINDS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
_RAISE = opcode.opmap["RAISE_VARARGS"]


class _Place:
    """The module that an error was raised in, and the way to it from the outermost one it has passed through."""

    __slots__ = ("args", "kind", "outermost", "path")

    def __init__(self, error: Exception, module: Any) -> None:
        self.args = error.args
        self.kind = type(module).__name__
        self.path = ""
        self.outermost = weakref.ref(module)


def locate(error: Exception, module: Any) -> None:
    """Take note that ``error`` leaves a call of ``module``, and write the path known so far into its message.

    The class and the beginning of the message stay. What user code raises itself is left alone, and what is raised in
    a module that no other has called: there is no path to tell.
    """
    place = error.__dict__.get("_jm_place")
    if place is None:
        if isinstance(error, _KINDS) and not _is_of_the_user(error.__traceback__):
            error._jm_place = _Place(error, module)  # type: ignore[attr-defined]
        return
    inner = place.outermost()
    if inner is module or inner is None:  # ``super().__call__``, or an error that was kept and raised again
        return
    step = next((name for name, child in module.named_modules() if child is inner), None)
    step = step or getattr(inner, "_jm_scope", None) or type(inner).__name__
    place.path = f"{step}.{place.path}" if place.path else step
    place.outermost = weakref.ref(module)
    _rewrite(error, place.args, f"(in {type(module).__name__}.{place.path} ({place.kind}))")


def _rewrite(error: Exception, args: tuple[Any, ...], where: str) -> None:
    """Put ``where`` behind the message; in a note, where the message is not the error's first argument."""
    error.args = args
    if args and isinstance(args[0], str) and str(error) == args[0]:
        error.args = (f"{args[0]}{chr(10) if chr(10) in args[0] else ' '}{where}", *args[1:])
    else:
        error.__notes__ = [*(n for n in getattr(error, "__notes__", []) if not n.startswith("(in ")), where]


def _is_of_the_user(traceback: TracebackType | None) -> bool:
    """Tell whether the innermost frame is a ``raise`` or ``assert`` in code that is no library's."""
    if traceback is None:
        return True
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    home = frame.f_globals.get("__name__", "").partition(".")[0]
    return home not in FOREIGN and frame.f_code.co_code[traceback.tb_lasti] == _RAISE
