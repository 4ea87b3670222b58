"""Tables that people read, search and copy from."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table


def rendered(table: Table) -> str:
    """The table as text: no line is folded, none ends in spaces."""
    output = io.StringIO()
    # As wide as the widest cell: these lines are there to be searched and copied.
    Console(file=output, width=500, highlight=False, markup=False).print(table)
    return "".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines())
