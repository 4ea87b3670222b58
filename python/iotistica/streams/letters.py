"""Dead letters: what can never pass, kept with its reason and its original bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message, or what is left of it, that can never pass; `data` is its original payload."""

    data: bytes
    topic: str | bytes
    original_id: str | bytes
    error: str
    reason: str
    stage: str
    failed_at: datetime
    agent: str = ""
    attempts: int = 0
    readings: int = 0

    def fields(self, tenant: str) -> list[str | bytes | int]:
        """Flat field list of its stream entry."""
        return [
            *("data", self.data, "topic", self.topic, "original_id", self.original_id),
            *("error", self.error, "reason", self.reason, "stage", self.stage),
            *("attempts", self.attempts, "failed_at", self.failed_at.isoformat()),
            *("tenant", tenant, "agent", self.agent, "readings", self.readings),
        ]
