"""What a run of the simulator shall do."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from uuid import UUID, uuid5

from iotistica.errors import ConfigError

METRICS_PER_SAMPLE = 5
_NAMESPACE = UUID("6f1c1d4e-52a0-5d27-9a3f-0f6a0f1c7b11")
_SHARES = ("duplicates", "malformed", "late")


class Format(enum.StrEnum):
    """How a payload is encoded."""

    JSON = "json"
    MSGPACK = "msgpack"
    JSON_DEFLATE = "json+deflate"
    MSGPACK_DEFLATE = "msgpack+deflate"
    COMPACT = "compact"
    """Key-compacted tuples, as MessagePack."""
    LEGACY = "legacy"
    """Key-compacted in the older form, as JSON."""
    MIXED = "mixed"
    """Each of the above in turn."""


PLAIN = tuple(form for form in Format if form is not Format.MIXED)
COMPACTED = frozenset({Format.COMPACT, Format.LEGACY, Format.MIXED})
"""Formats whose agents publish their dictionary first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Size, speed and faults of a run."""

    agents: int
    messages: int | None = None
    """MQTT messages of the whole fleet; None for no end."""
    duration_s: float | None = None
    rate: float | None = None
    """Messages a second of the whole fleet; None for as fast as the broker acknowledges."""
    readings: int = 12 * METRICS_PER_SAMPLE
    """Readings in each message."""
    form: Format = Format.MIXED
    duplicates: float = 0.0
    malformed: float = 0.0
    late: float = 0.0
    late_days: int = 7
    """How far back late messages reach, at the most."""
    learning: bool = False
    """Whether agents that compact begin with a short dictionary and extend it as they go."""
    seed: str = "0"
    outstanding: int = 32
    """Messages an agent may have published and not yet seen acknowledged."""
    reports: bool = False
    """Whether agents report state, metrics and logs beside; no part of the figures."""

    def __post_init__(self) -> None:
        for name in _SHARES:
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ConfigError(f"--{name} is {share:g}; a share lies between 0 and 1")
        if self.malformed + self.late > 1:
            raise ConfigError(
                f"--malformed {self.malformed:g} and --late {self.late:g} exclude each other, "
                "so together they may not exceed 1"
            )
        if self.rate is not None and self.rate <= 0:
            raise ConfigError(f"--rate is {self.rate:g}; it must be more than 0 messages a second")

    def quota(self, index: int) -> int | None:
        """Messages of the agent number `index`."""
        if self.messages is None:
            return None
        return self.messages // self.agents + (index < self.messages % self.agents)

    def agent(self, tenant: str, index: int) -> str:
        """UUID of an agent: the same for the same tenant, seed and number."""
        return str(uuid5(_NAMESPACE, f"{tenant}/{self.seed}/{index}"))
