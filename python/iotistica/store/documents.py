"""JSON as PostgreSQL can hold it."""

from __future__ import annotations

import re
from typing import Any

import orjson

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""NUL in JSON, which no jsonb holds; not where its backslash is itself escaped."""


def json_text(value: Any) -> str:
    """JSON of a value, without NUL."""
    return without_nul(orjson.dumps(value).decode())


def without_nul(text: str, instead: str = "") -> str:
    """JSON without NUL; `instead` is JSON that takes its place."""
    return _NUL.sub(lambda found: found[1] + instead, text) if "\\u0000" in text else text


def holds_nul(text: str) -> bool:
    """Whether JSON holds NUL."""
    return "\\u0000" in text and _NUL.search(text) is not None
