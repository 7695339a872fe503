"""The keyword arguments that say where and of what type a module's arrays are."""

from collections.abc import Mapping
from typing import Any

_KEYS = ("device", "dtype", "memory_format")


def factory_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Gather ``device`` and ``dtype`` from the keyword arguments that a module was given.

    The counterpart of ``torch.nn.factory_kwargs``. Where a module has an argument of one of these names itself,
    they can be given inside ``factory_kwargs``.

    Raises:
        TypeError: if there is any other keyword, or one is given twice.

    Examples:
        >>> from jaxmodules import nn
        >>> nn.factory_kwargs({"dtype": "bfloat16", "factory_kwargs": {"device": "cpu"}})
        {'device': 'cpu', 'dtype': 'bfloat16'}
    """
    given = dict(kwargs or {})
    gathered = dict(given.pop("factory_kwargs", {}))
    if unexpected := given.keys() - set(_KEYS):
        raise TypeError(f"unexpected kwargs {unexpected}, expected only {', '.join(_KEYS)}, factory_kwargs")
    for key in _KEYS:
        if key in given:
            if key in gathered:
                raise TypeError(f"{key} specified twice, in **kwargs and in factory_kwargs")
            gathered[key] = given[key]
    return gathered
