"""The shape of the code: imports point down, files and functions are short, everything public is documented."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import FunctionType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxmodules"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES}

# Lowest first. A file imports from lines above its own, and from files that match the same pattern.
LEVELS = [
    ["_batching", "_tracing", "_typing"],
    ["_boundary", "_callable", "_device", "_files", "_mt19937", "_shapes", "_table", "_tracked"],
    ["_autocast", "_generator", "_handles"],
    ["random"],
    ["nn._draws", "nn._tensor_shape"],
    ["nn._tensor"],
    ["nn._writable"],
    ["_keys", "nn.functional*", "nn.parameter"],
    ["_tracked", "nn.grad", "nn.init"],
    ["_keys"],
    ["_leaks"],
    ["_gradient_hooks", "state"],
    ["nn.modules._backward_hooks"],
    ["nn.modules._hooks"],
    ["nn.modules._attributes"],
    ["nn.modules._*"],
    ["nn.modules.module"],
    ["nn.utils.rnn"],
    ["nn.modules*"],
    ["nn.utils*"],
    ["transforms*"],
    ["checkpoint*", "debug", "export*", "interop*", "optim*", "sharding*", "summary"],
    ["amp", "training*"],
    ["nn"],
    [""],
    ["bench*", "examples*"],
]
USERS = ("bench", "examples")
MAX_FILE = 600
MAX_FUNCTION = 60


def level_of(module: str) -> tuple[int, str]:
    """Return the level of a module of the package and the pattern that gives it."""
    name = module.removeprefix("jaxmodules").removeprefix(".")
    for level, patterns in enumerate(LEVELS):
        for pattern in patterns:
            if fnmatchcase(name, pattern):
                return level, pattern
    raise AssertionError(f"{module} has no level: add it to LEVELS in {Path(__file__).name}")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and module of everything that a file imports, wherever in the file that is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import: name the file in full"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield node.lineno, submodule if submodule in MODULES else str(node.module)


def is_user(module: str) -> bool:
    return module.split(".")[1:2] != [] and module.split(".")[1] in USERS


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    level, pattern = level_of(module)
    for line, target in imports_of(MODULES[module]):
        if target.split(".")[0] == "jaxmodules":
            below, other = level_of(target)
            assert below < level or other == pattern, f"{MODULES[module]}:{line}: {module} must not import {target}"


@pytest.mark.parametrize("module", [module for module in MODULES if not is_user(module)])
def test_library_imports_concrete_files_and_no_torch(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and module != "jaxmodules":
            assert node.module != "jaxmodules", f"{MODULES[module]}:{node.lineno}: import the file that defines it"
    roots = {target.split(".")[0] for _, target in imports_of(MODULES[module])}
    assert "torch" not in roots, f"{MODULES[module]}: torch is the tests' oracle, never a run-time dependency"


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE, f"{path}: split it: a file holds one family"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            assert length <= MAX_FUNCTION, f"{path}:{node.lineno}: {node.name} has {length} lines"


def public_members(module: str) -> Iterator[tuple[str, object]]:
    """Yield what a module defines for others: its classes with their methods, its functions."""
    loaded = importlib.import_module(module)
    for name, value in vars(loaded).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module:
            continue
        if isinstance(value, type | FunctionType):
            yield f"{module}.{name}", value
        if isinstance(value, type):
            for attribute, member in vars(value).items():
                inner = getattr(member, "__func__", getattr(member, "fget", member))
                if not attribute.startswith("_") and isinstance(inner, FunctionType):
                    yield f"{module}.{name}.{attribute}", getattr(value, attribute)


@pytest.mark.parametrize("module", [m for m in MODULES if ".bench" not in m])
def test_public_names_are_documented(module: str) -> None:
    assert importlib.import_module(module).__doc__, f"{module} has no docstring"
    bare = [name for name, member in public_members(module) if not inspect.getdoc(member)]
    assert not bare, f"without a docstring: {', '.join(bare)}"
