"""Dead letters of an agent that is not registered yet."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from iotistica._native import format_topic
from iotistica.streams import DeadLetter, Filter, Streams

START_MS = time.time_ns() // 1_000_000 - 3_600_000
FAILED = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass
class Letters:
    """What a tenant's letters are made of, and where they lie."""

    tenant: str
    agent: str
    streams: Streams

    def letter(self, number: int = 0, **changes: Any) -> DeadLetter:
        """A letter of one reading, which passes once its agent is registered."""
        reading = {"metric": "m", "value": 1.5, "timestamp": START_MS + number}
        message = {"messages": [{"deviceName": "d", "readings": [reading]}]}
        whole = DeadLetter(
            data=orjson.dumps(message),
            topic=format_topic(self.tenant, self.agent, "endpoints/modbus").encode(),
            original_id=f"{START_MS}-0",
            error=f"agent {self.agent} is not one of tenant",
            reason="unknown_agent",
            stage="topic",
            failed_at=FAILED,
            agent=self.agent,
            received_ms=START_MS,
        )
        return replace(whole, **changes)

    async def park(self, *letters: DeadLetter, tenant: str | None = None) -> list[str]:
        """Write letters; their ids."""
        tenant = tenant or self.tenant
        before = await self.streams.letters.newest(tenant)
        await self.streams.dead_letter(tenant, letters)
        page = await self.streams.letters.page(tenant, Filter(), after=before)
        return [letter.id for letter in page.letters]

    async def left(self) -> list[str]:
        """Ids of those that are there."""
        page = await self.streams.letters.page(self.tenant, Filter())
        return [letter.id for letter in page.letters]
