"""How the ledger of a night looks: cost, data, hyperparameters, versions and digests in one grid."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from fleetssd.cli.reading import pairs
from fleetssd.ledger import ledger_lines


def ledger_table(spent: dict[str, Any]) -> Table:
    """Return the grid that a person reads."""
    grid = pairs("ledger")
    for name, value in ledger_lines(spent):
        grid.add_row(f"[dim]{name}[/]", escape(value))
    return grid
