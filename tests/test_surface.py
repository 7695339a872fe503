"""The public names of torch.nn, their signatures and methods, against ours; the README lists what is left out."""

import ast
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"
ROOMS = [
    "nn",
    "nn.functional",
    "nn.grad",
    "nn.init",
    "nn.parameter",
    "nn.modules.lazy",
    "nn.utils",
    "nn.utils.parametrizations",
    "nn.utils.parametrize",
    "nn.utils.prune",
    "nn.utils.rnn",
    "optim",
    "optim.lr_scheduler",
    "optim.swa_utils",
]


COLLECTIONS = ("nn", "nn.functional", "nn.utils")  # of what other files define


def left_out() -> set[str]:
    """Read the names that the README says are left out."""
    section = README.read_text().split("## What is left out")[1].split("\n## ")[0]
    return set(re.findall(r"`([\w.]+)`", section))


LEFT_OUT = left_out()


def is_of_torch(home: str, value: Any) -> bool:
    own = home.startswith("torch") or isinstance(value, types.BuiltinFunctionType)
    return own and value is not torch.Tensor


def public(room: str) -> Iterator[tuple[str, Any]]:
    """Yield what torch defines in a room for others, without what is left out."""
    module = importlib.import_module(f"torch.{room}")
    for name, value in sorted(vars(module).items()):
        if isinstance(value, types.ModuleType) or not callable(value) or name.startswith("_") or name in LEFT_OUT:
            continue
        home = getattr(value, "__module__", None) or ""
        if home.startswith(f"torch.{room}") or (room in COLLECTIONS and is_of_torch(home, value)):
            yield name, value


NAMES = [pytest.param(room, name, value, id=f"{room}.{name}") for room in ROOMS for name, value in public(room)]
CLASSES = [p for p in NAMES if isinstance(p.values[2], type)]


def ours(room: str, name: str) -> Any:
    return getattr(importlib.import_module(f"jaxmodules.{room}"), name)


@pytest.mark.parametrize("room", ROOMS)
def test_no_name_is_missing(room: str) -> None:
    try:
        module = importlib.import_module(f"jaxmodules.{room}")
    except ModuleNotFoundError:
        module = None
    missing = [name for name, _ in public(room) if not hasattr(module, name)]
    assert not missing, f"{len(missing)} names of torch.{room} are missing: {', '.join(missing)}"


def parameters(function: Any) -> list[tuple[str, Any]] | None:
    """List the parameters of one of torch's functions with their defaults; ``None`` where they can't be known."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        signature = None
    if signature is not None and not all(
        p.name == "self" or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in signature.parameters.values()
    ):
        return [(p.name, plain(p.default)) for p in signature.parameters.values()]
    return documented(function)


def documented(function: Any) -> list[tuple[str, Any]] | None:
    """Read parameters from the first line of a docstring, where builtin functions have them."""
    found = re.search(rf"^\s*{function.__name__}\((.*?)\)\s*(->|$)", function.__doc__ or "", re.MULTILINE)
    if found is None:
        return None
    try:
        node = ast.parse(f"def f({found[1]}): pass").body[0]
    except SyntaxError:
        return None
    assert isinstance(node, ast.FunctionDef)
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    defaults = [eval(ast.unparse(d), {}) for d in (*node.args.defaults, *filter(None, node.args.kw_defaults))]
    required = ["none"] * (len(names) - len(defaults))
    return list(zip(names, [*required, *defaults], strict=True))


def plain(default: Any) -> Any:
    """Write a default in a way that both libraries share."""
    if default is inspect.Parameter.empty:
        return "none"
    if isinstance(default, int | float | str | tuple | type(None)):
        return default
    return getattr(default, "__name__", str(default)).removeprefix("torch.")


def compare(theirs: Any, mine: Any, what: str) -> None:
    expected = parameters(theirs)
    if expected is None or what == "one_hot":  # documented with a name that it does not take
        return
    found = [(p.name, plain(p.default)) for p in inspect.signature(mine).parameters.values()]
    assert found == expected, f"{what}: expected {expected}, got {found}"


@pytest.mark.parametrize("room, name, value", NAMES)
def test_signatures_are_those_of_torch(room: str, name: str, value: Any) -> None:
    mine = ours(room, name)
    if not isinstance(value, type):
        compare(value, mine, name)
        return
    if value.__init__ is not object.__init__ and not issubclass(value, torch.Tensor):
        compare(value.__init__, mine.__init__, f"{name}.__init__")
    if issubclass(value, torch.nn.Module) and value.forward is not torch.nn.Module.forward:
        compare(value.forward, mine.forward, f"{name}.forward")


@pytest.mark.parametrize("room, name, value", CLASSES)
def test_classes_have_the_methods_of_torch(room: str, name: str, value: Any) -> None:
    mine = ours(room, name)
    members = [m for cls in value.__mro__ if cls.__module__.startswith("torch.nn") for m in vars(cls)]
    missing = sorted({m for m in members if not m.startswith("_") and not hasattr(mine, m)} - LEFT_OUT)
    assert not missing, f"torch.{room}.{name} also has {', '.join(missing)}"


FILES = [info.name for info in pkgutil.iter_modules(torch.nn.modules.__path__) if not info.name.startswith("_")]


@pytest.mark.parametrize("file", FILES)
def test_classes_are_found_in_the_files_of_torch(file: str) -> None:
    theirs = vars(importlib.import_module(f"torch.nn.modules.{file}"))
    names = {n for n, v in theirs.items() if isinstance(v, type) and v.__module__.endswith(f".{file}") and n[0] != "_"}
    if names:
        found = vars(importlib.import_module(f"jaxmodules.nn.modules.{file}"))
        assert not names - found.keys()
