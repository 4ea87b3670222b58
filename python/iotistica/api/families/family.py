"""The interface between the control process and the families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A decoded message of an agent that belongs to the tenant in its topic."""

    tenant: str
    agent: str
    """UUID, lower case."""
    rest: str
    """Levels of the topic after the kind: `anomaly` of `…/events/anomaly`; may be empty."""
    topic: str
    value: Any
    """JSON value, whichever encoding it came in."""
    payload: bytes
    """As it came."""
    received_ms: int
    """Epoch milliseconds of its reception; the same however often it is handed over."""
    retained: bool = False
    """Whether the broker sends it because it keeps it, to a subscription that is not shared."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that can never pass; it becomes a dead letter of its tenant."""

    message: Incoming
    reason: str
    """Short fixed name of the rule, fit for a metric label."""
    error: str
    """One sentence that names field, value and rule."""


class Family(Protocol):
    """Messages of one kind. One writer calls it at a time in a process, other processes too."""

    @property
    def filters(self) -> Sequence[str]:
        """What it subscribes to, below `i/+/a/+/`; never what the platform itself publishes."""

    @property
    def shared(self) -> bool:
        """Whether the control processes divide its messages; else each of them hears them all."""

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        """Commit messages, given in order of arrival; those that can never pass.

        They are acknowledged after it returns. Raises `StoreUnavailable`: then all of them come
        again, as they do after a crash, so a message may take effect only once however often it is
        given. An error of PostgreSQL that blames the data halves the batch until the guilty one is
        alone.
        """


def by_topic(families: Mapping[str, T], kind: str, rest: str) -> T | None:
    """What takes a topic: by kind and next level (`events/anomaly`), else by kind."""
    return families.get(f"{kind}/{rest.partition('/')[0]}") or families.get(kind)
