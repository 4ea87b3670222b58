"""What goes in and comes out of the API: the same models check requests and make the document."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

Text: TypeAlias = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")]
"""Any characters but NUL, which PostgreSQL cannot hold."""

Time: TypeAlias = Annotated[
    str, Meta(max_length=64, extra_json_schema={"examples": ["2026-01-31T12:00:00Z"]})
]
"""ISO 8601; without zone it is UTC."""

Span: TypeAlias = Annotated[
    str,
    Meta(
        max_length=16, pattern=r"^[1-9][0-9]{0,5}[smhdw]$", extra_json_schema={"examples": ["5m"]}
    ),
]
"""A length of time: a number of seconds, minutes, hours, days or weeks."""
