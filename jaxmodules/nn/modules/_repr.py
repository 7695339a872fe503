"""How a module prints: PyTorch's tree of names, classes and ``extra_repr``."""

from typing import Any


def indent(text: str, spaces: int) -> str:
    """Indent every line of ``text`` but the first."""
    first, *rest = text.split("\n")
    return "\n".join([first, *(" " * spaces + line if line.strip() else "" for line in rest)])


def module_repr(module: Any) -> str:
    """Return the printed form of a module and its children."""
    extra = module.extra_repr()
    extra_lines = extra.split("\n") if extra else []
    children = [f"({name}): {indent(repr(child), 2)}" for name, child in module._modules.items()]
    lines = extra_lines + children
    if not lines:
        body = ""
    elif len(extra_lines) == 1 and not children:
        body = extra_lines[0]
    else:
        body = "\n  " + "\n  ".join(lines) + "\n"
    return f"{module._get_name()}({body})"
