"""Models of the dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import Meta

from iotistica.api import window
from iotistica.api.models import Text, Time
from iotistica.streams import Filter

LetterId = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,20}-[0-9]{1,20}$",
        extra_json_schema={"examples": ["1795453097011-0"]},
    ),
]


class Filters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which letters; all that are given must fit."""

    ids: Annotated[list[LetterId], Meta(max_length=1000)] = []
    reason: Text | None = None
    stage: Text | None = None
    agent: Text | None = None
    since: Time | None = None
    until: Time | None = None

    def filter(self) -> Filter:
        """As the stream takes it. Raises `BadRequest`."""
        return Filter(
            ids=frozenset(self.ids),
            reason=self.reason,
            stage=self.stage,
            agent=self.agent,
            since=None if self.since is None else window.moment("since", self.since),
            until=None if self.until is None else window.moment("until", self.until),
        )


class LetterQuery(Filters, kw_only=True):
    """Which letters to list."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    cursor: LetterId | None = None


class PurgeQuery(Filters, kw_only=True):
    """Which letters to remove."""

    all: bool = False
    cursor: Text | None = None


class Replay(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Which letters to replay."""

    filters: Filters = msgspec.field(default_factory=Filters)
    all: bool = False
    """To be said where no filter is given."""
    dry_run: bool = False
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    cursor: Text | None = None
    """Of an earlier answer: go on where it ended."""


class LetterView(TypedDict):
    """A letter without its payload."""

    id: str
    tenant: str
    agent: str | None
    topic: str | None
    stage: str
    reason: str
    error: str
    readings: int
    attempts: int
    replays: int
    failed_at: datetime | None
    received_ms: int
    original_id: str | None
    bytes: int


class LetterPage(TypedDict):
    """Letters, the youngest first."""

    count: int
    letters: list[LetterView]
    cursor: str | None


class LetterSummary(TypedDict):
    """How many letters there are of what."""

    letters: int
    readings: int
    reasons: dict[str, int]
    stages: dict[str, int]
    agents: dict[str, int]
    complete: bool
    """Whether all letters were looked at."""
    total: int
    bound: int


class WholeLetter(LetterView):
    """A letter."""

    payload: str
    """Base64."""
    explained: Any
    """The payload decoded as far as it goes."""


class Proof(TypedDict):
    """What became of a letter."""

    id: str
    tenant: str
    agent: str | None
    result: Literal["passed", "still_bad", "failed"]
    inserted: int
    duplicate: int
    rejected: int
    stage: str | None
    reason: str | None
    error: str | None


class Replayed(TypedDict):
    """What became of the letters."""

    dryRun: bool
    count: int
    passed: int
    still_bad: int
    failed: int
    inserted: int
    duplicate: int
    rejected: int
    reasons: dict[str, int]
    letters: list[Proof]
    cursor: str | None


class Purged(TypedDict):
    """How many letters were removed."""

    purged: int
    cursor: str | None
