"""Labels for parameters by the patterns that their names match, as optax takes them."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import jax

from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter


def labels(params: Any, patterns: Mapping[Any, Any]) -> Any:
    """Return a tree like ``params`` that holds, for each array, the label of the first pattern its name matches.

    It is what :func:`optax.multi_transform` takes as labels and, with labels ``True`` and ``False``,
    :func:`optax.masked` as a mask: ``jm.optim.Optimizer(net, optax.multi_transform(rules, jm.labels(net, patterns)))``.

    Args:
        params: a dict of arrays by name, a nested one (:func:`jaxmodules.tree`), or any pytree; a module stands for
            the dict of its trainable parameters that :func:`jaxmodules.functionalize` gives.
        patterns: labels by pattern, in order: a string as in a shell (``"*.bias"``, ``"layer[12].*"``) that the whole
            dotted name has to match, or a compiled regular expression that is searched for.

    Raises:
        ValueError: naming the arrays that no pattern matches.

    Examples:
        >>> import jaxmodules as jm
        >>> labels(jm.nn.Sequential(jm.nn.Linear(3, 2)), {"*.bias": "no_decay", "*": "decay"})
        {'0.bias': 'no_decay', '0.weight': 'decay'}
    """
    if isinstance(params, Module):
        params = {name: box.value for name, box in params.named_parameters() if box.requires_grad}
    unmatched: list[str] = []

    def choose(path: Any, _: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        for pattern, label in patterns.items():
            if pattern.search(name) if isinstance(pattern, re.Pattern) else fnmatchcase(name, pattern):
                return label
        unmatched.append(name)
        return None

    labelled = jax.tree_util.tree_map_with_path(choose, params, is_leaf=lambda node: isinstance(node, Parameter))
    if unmatched:
        raise ValueError(
            f"no pattern of {list(patterns)} matches {', '.join(unmatched)}: end with a pattern '*' for the rest"
        )
    return labelled
