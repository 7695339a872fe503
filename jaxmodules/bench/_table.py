"""Print results as tables."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """Print a table: text in the first column flush left, figures in the others flush right."""
    table = Table(title=title, caption=note or None, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    wide = console if console.is_terminal else Console(width=120)
    wide.print(table, "")


def judge(value: float, bar: float) -> str:
    """Return a ratio with the verdict on whether it keeps within its bar."""
    return f"{value:.2f} ({'within' if value <= bar else 'ABOVE'} {bar:g})"


def in_units(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
