"""How many agents a tenant may have, and until when new ones may come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Without bounds where nothing says otherwise."""

    most_agents: int | None = None
    """Active ones of each tenant."""
    until: datetime | None = None
    """After it no new agent comes in; those that are in stay."""

    @property
    def is_bounded(self) -> bool:
        """Whether there is anything to look at."""
        return self.most_agents is not None or self.until is not None


UNLIMITED = Allowance()
