"""What a cell of text means. Pure."""

from __future__ import annotations

import re
from typing import Any

# Nineteen digits are nanoseconds since 1970.
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")


def number(cell: Any) -> Any:
    """Text that is a number as one, nothing where it is empty; anything else unchanged."""
    if cell.__class__ is not str:
        return cell
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        return cell
    # Python's own way to write a number is nobody else's.
    return cell if "_" in cell else value


def code(cell: Any) -> Any:
    """Text that is an integer as one; anything else unchanged."""
    if cell.__class__ is str and _INTEGER.fullmatch(cell):
        return int(cell)
    return cell
