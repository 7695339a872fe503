"""Which gradient belongs to which parameter: by name or by position, never by a dict's order."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmodules.nn._writable import unbox
from jaxmodules.nn.parameter import Parameter


def match(grads: Any, boxes: Sequence[Parameter], names: Mapping[str, Parameter]) -> dict[int, Any]:
    """Return the gradient of each parameter by the parameter's ``id``; those of parameters of others are left out.

    Args:
        grads: what ``jm.value_and_grad`` returned: a dict by name, a tuple of them for several modules, an array for
            a single parameter, or a list with one array (or ``None``) for each parameter.
        boxes: the optimizer's parameters.
        names: the optimizer's own names for them, as far as it was given any.

    Raises:
        ValueError: if a gradient matches no parameter, or more than one.
        RuntimeError: if a gradient has another shape than its parameter.
        TypeError: if ``grads`` is none of these.
    """
    if isinstance(grads, Mapping):
        pairs = _by_name([grads], boxes, names)
    elif isinstance(grads, list | tuple) and grads and all(isinstance(g, Mapping) for g in grads):
        pairs = _by_name(grads, boxes, names)
    elif isinstance(grads, list | tuple):
        if len(grads) != len(boxes):
            raise ValueError(f"expected one gradient for each of {len(boxes)} parameters, got {len(grads)}")
        pairs = [(box, grad, f"number {i}") for i, (box, grad) in enumerate(zip(boxes, grads, strict=True))]
    elif isinstance(grads, jax.Array | np.ndarray) and len(boxes) == 1:
        pairs = [(boxes[0], grads, "number 0")]
    else:
        raise TypeError(
            f"expected gradients as jm.value_and_grad returns them (a dict by parameter name, or one array for each of"
            f" the {len(boxes)} parameters), got {type(grads).__name__}"
        )
    return _checked(pairs)


def _checked(pairs: Sequence[tuple[Parameter, Any, str]]) -> dict[int, Any]:
    matched: dict[int, Any] = {}
    for box, grad, what in pairs:
        if grad is None:
            continue
        grad = unbox(grad)
        if not hasattr(grad, "shape"):
            raise TypeError(f"gradient {what} must be an array, got {grad!r}")
        if tuple(grad.shape) != tuple(box.shape):
            raise RuntimeError(
                f"gradient {what} has shape {tuple(grad.shape)}, but its parameter has shape {tuple(box.shape)}"
            )
        if id(box) in matched:
            raise ValueError(f"gradient {what} and another one belong to the same parameter")
        matched[id(box)] = grad
    return matched


def _by_name(
    dicts: Sequence[Mapping[str, Any]], boxes: Sequence[Parameter], names: Mapping[str, Parameter]
) -> list[tuple[Parameter, Any, str]]:
    pairs: list[tuple[Parameter, Any, str]] = []
    taken: set[int] = set()
    alike = Counter(frozenset(grads) for grads in dicts)
    for grads in reversed(dicts):  # the last module was labelled last
        found = _resolve(grads, boxes, names, taken, alike[frozenset(grads)])
        alike[frozenset(grads)] -= 1
        taken.update(id(box) for box in found.values())
        pairs += [(found[name], grad, repr(name)) for name, grad in grads.items() if name in found]
    return pairs


def _resolve(
    grads: Mapping[str, Any], boxes: Sequence[Parameter], names: Mapping[str, Parameter], taken: set[int], alike: int
) -> dict[str, Parameter]:
    """Return the parameter that each name means: by the optimizer's names, else by the newest labelling that fits.

    Names that the labelling gave to parameters the optimizer does not hold are left out. There may be as many
    labellings that fit as there are dicts with these names, ``alike``: they came in this order.
    """
    if grads.keys() <= names.keys():
        present = {name: names[name] for name in grads if not _has_gone(names[name], name)}
        if present or not grads:
            return present
    labelled: dict[Any, dict[str, Parameter]] = {}
    for box in boxes:
        for name, labelling in box.__dict__.get("_labels", {}).items():
            if id(box) not in taken and labelling.is_current():
                labelled.setdefault(labelling, {})[name] = box
    newest = sorted(labelled, key=lambda labelling: labelling.number, reverse=True)
    held = [{n: b for n, b in labelled[x].items() if n in grads} for x in newest if grads.keys() <= x.names]
    found = {tuple((name, id(box)) for name, box in sorted(group.items())): group for group in held if group}
    candidates = list(found.values())
    fitting = [group for group in candidates if all(_fits(grads[name], box) for name, box in group.items())]
    if len(fitting) > alike:
        raise ValueError(
            f"these gradients may be those of {len(fitting)} modules of the optimizer, which have parameters of the"
            f" same names and shapes: {_some(grads)}: take the gradient of one module that holds them all, or give a"
            " list with a gradient or None for each of the optimizer's parameters"
        )
    if fitting or candidates:
        return (fitting or candidates)[0]
    known = {*names, *(name for group in labelled.values() for name in group)}
    raise ValueError(
        f"these gradients match no parameter of the optimizer: {_some(set(grads) - known or grads)} (it knows"
        f" {_some(known) or 'no names'}): give it the module's parameters, or net.named_parameters() where names of"
        " several modules are mixed; parameters put into a module later are given by add_param_group"
    )


def _has_gone(box: Parameter, name: str) -> bool:
    """Tell whether another parameter has taken the place in the module that had this name."""
    labelling = box.__dict__.get("_labels", {}).get(name)
    return labelling is not None and not labelling.is_current()


def _fits(grad: Any, box: Parameter) -> bool:
    return grad is None or tuple(getattr(grad, "shape", ())) == tuple(box.shape)


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names))[:8])
