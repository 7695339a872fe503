"""The rows of the table, a file for each family of layers and functions.

Each file has any of ``LAYERS`` (:class:`~tests.table.Case`), ``CALLS`` (:class:`~tests.table.Call`), and what has to be
refused: ``REFUSED_LAYERS``, rows of (name, constructor arguments, keyword arguments, input shapes or ``None`` where
the constructor raises, message), and ``REFUSED_CALLS``, rows of (name, arguments, keyword arguments, message). A pair
of messages is torch's and ours, where torch's is of no use to anybody.
"""

import importlib
import pkgutil
from typing import Any

import pytest

FAMILIES = {info.name: importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}


def rows(kind: str) -> list[tuple[str, Any]]:
    """List all rows of a kind, each with its family."""
    return [(family, row) for family, module in FAMILIES.items() for row in getattr(module, kind, ())]


def params(kind: str) -> list[Any]:
    """List all rows of a kind for ``pytest.mark.parametrize``; a family stays in one process."""
    return [
        pytest.param(row, id=str(row), marks=pytest.mark.xdist_group(f"{kind}-{family}")) for family, row in rows(kind)
    ]


def refusals(kind: str) -> list[Any]:
    """List all rows of a kind that has to be refused, one argument a column."""
    return [
        pytest.param(*row, id=f"{row[0]}-{row[-1]}", marks=pytest.mark.xdist_group(f"{kind}-{family}"))
        for family, row in rows(kind)
    ]
