"""Cursors of lists: where a page ended, opaque to those who hand them back."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from iotistica.errors import BadRequest

T = TypeVar("T")

Id: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""A position among ids of the database."""
Text: TypeAlias = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")]
"""A position among texts."""
Name: TypeAlias = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00]*$")]
"""A position among names."""


def write(position: Any) -> str:
    """A cursor of anything that JSON can say."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def read(cursor: str | None, kind: type[T]) -> T | None:
    """What a cursor was made of. Raises `BadRequest` for one that was not given by us."""
    if cursor is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, msgspec.MsgspecError):
        raise BadRequest(f"parameter cursor is {cursor[:64]!r}; allowed is one given") from None


def follow(rows: Sequence[T], limit: int, position: Callable[[T], Any]) -> str | None:
    """The cursor after a page, by the position of its last row; none after one that is not full."""
    return write(position(rows[-1])) if len(rows) == limit else None


def plain(rows: Sequence[T], limit: int, position: Callable[[T], Any]) -> str | None:
    """The same of a position that clients may read as it is, such as an id."""
    return str(position(rows[-1])) if len(rows) == limit else None
