"""Names by which gradients find their parameters again."""

import itertools
from typing import Any

_count = itertools.count(1)


def label(module: Any) -> dict[str, Any]:
    """Mark every parameter of ``module`` with its name below it, and return the trainable ones by name.

    A gradient is a dict by name; an optimizer given ``net.parameters()`` knows only boxes. The labels join the two:
    a box keeps each name it has gone by, with the number of the labelling, so that the names of one dict can be
    matched to the boxes of one labelling.
    """
    number = next(_count)
    trainable = {}
    for name, parameter in module.named_parameters():
        labels = parameter.__dict__.setdefault("_labels", {})
        labels.pop(name, None)
        labels[name] = number
        if parameter.requires_grad:
            trainable[name] = parameter
    return trainable
