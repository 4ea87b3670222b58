"""Models of exports."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from iotistica.api import window
from iotistica.api.models import Text, Time
from iotistica.errors import BadRequest
from iotistica.exports.forms import Name
from iotistica.store.exports import READING_COLUMNS, Chosen, columns_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AgentExportQuery(msgspec.Struct, kw_only=True):
    """Readings with `start <= time <= end`, or buckets of `resolution` that hold any of that time.

    `end` is now where it is left out. `columns` chooses columns, in their order. `format` goes
    before the Accept field.
    """

    start: Time
    end: Time | None = None
    metric: Annotated[list[Text], Meta(max_length=1000)] = []
    resolution: Literal["raw", "1m", "1h", "daily"] = "raw"
    columns: Annotated[list[Text], Meta(max_length=20)] = []
    format: Name | None = None

    def chosen(self, now: datetime, agents: list[UUID] | None) -> Chosen:
        """What is asked for. Raises `BadRequest`."""
        start, end = window.between(self.start, self.end or "now", now)
        return Chosen(
            agents=agents,
            metrics=self.metric or None,
            start=start or _EPOCH,
            end=end or now,
            level=self.resolution,
            columns=self._columns(),
        )

    def _columns(self) -> list[str]:
        there_are = columns_of(self.resolution)
        for number, name in enumerate(self.columns):
            if name not in there_are or name in self.columns[:number]:
                rule = "is given twice" if name in there_are else "is not known"
                raise BadRequest(
                    f"parameter columns: {name[:64]!r} {rule}; with resolution={self.resolution} "
                    f"there are {', '.join(there_are)}"
                )
        default = READING_COLUMNS if self.resolution == "raw" else there_are
        return list(self.columns or default)


class ExportQuery(AgentExportQuery, kw_only=True):
    """The same of several agents, or of all."""

    agent: Annotated[list[UUID], Meta(max_length=1000)] = []
