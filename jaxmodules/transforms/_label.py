"""Names by which gradients find their parameters again."""

import itertools
import weakref
from collections.abc import Iterable
from typing import Any

_count = itertools.count(1)


class Labelling:
    """One occasion on which a module's parameters were given names: its number, and all the names."""

    __slots__ = ("__weakref__", "_module", "names", "number")

    def __init__(self, module: Any, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.number = next(_count)
        self._module = weakref.ref(module)
        _newest[module] = self.number

    def is_current(self) -> bool:
        """Tell whether the module has not been labelled again: what has no newer label is in it no more."""
        module = self._module()
        return module is None or _newest[module] == self.number


_newest: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def label(module: Any) -> dict[str, Any]:
    """Mark every parameter of ``module`` with its name below it, and return the trainable ones by name.

    A gradient is a dict by name; an optimizer given ``net.parameters()`` knows only boxes. The labels join the two:
    a box keeps each name it has gone by, with the labelling that gave it, so that the names of one dict can be
    matched to the boxes of one labelling.
    """
    trainable = {}
    parameters = dict(module.named_parameters())
    labelling = Labelling(module, parameters)
    for name, parameter in parameters.items():
        labels = parameter.__dict__.setdefault("_labels", {})
        labels.pop(name, None)
        labels[name] = labelling
        if parameter.requires_grad:
            trainable[name] = parameter
    return trainable
