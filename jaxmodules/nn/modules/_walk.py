"""Traversal of a module tree, written once."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jaxmodules.nn.modules._attributes import is_module


def walk_modules(module: Any, memo: set[Any] | None, prefix: str, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
    """Yield ``module`` and every module below it, parents first, with dotted names."""
    memo = set() if memo is None else memo
    if module in memo:
        return
    if remove_duplicate:
        memo.add(module)
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)


def walk_members(
    module: Any,
    members: Callable[[Any], Iterable[tuple[str, Any]]],
    prefix: str,
    recurse: bool,
    remove_duplicate: bool,
) -> Iterator[tuple[str, Any]]:
    """Yield the named members of ``module`` and of every module below it."""
    memo: set[int] = set()
    kept: list[Any] = []  # keeps yielded objects alive, so that their ids stay theirs
    modules = module.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, module)]
    for path, owner in modules:
        for name, member in members(owner):
            if member is None or id(member) in memo:
                continue
            if remove_duplicate:
                memo.add(id(member))
                kept.append(member)
            yield (f"{path}.{name}" if path else name), member


def resolve(module: Any, target: str) -> Any:
    """Return the module at a dotted path.

    Raises:
        AttributeError: if a step of the path is missing or no module.
    """
    for step in target.split(".") if target else ():
        if not hasattr(module, step):
            raise AttributeError(f"{module._get_name()} has no attribute `{step}`")
        module = getattr(module, step)
        if not is_module(module):
            raise AttributeError(f"`{step}` is not an nn.Module")
    return module


def resolve_member(module: Any, target: str, is_right: Callable[[Any, str, Any], bool], what: str) -> Any:
    """Return the parameter or buffer at a dotted path.

    Raises:
        AttributeError: if a step of the path is missing, or what is there is something else.
    """
    path, _, name = target.rpartition(".")
    owner = module.get_submodule(path)
    if not hasattr(owner, name):
        raise AttributeError(f"{owner._get_name()} has no attribute `{name}`")
    value = getattr(owner, name)
    if not is_right(owner, name, value):
        raise AttributeError(f"`{name}` is not {what}")
    return value
