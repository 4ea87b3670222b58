"""`events/{type}`: what agents found worth telling; kept as it came (reference section 1.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from iotistica.api.families.family import Incoming, Refusal
from iotistica.api.families.moments import is_dated, made_ms, moment
from iotistica.store.events import Event, EventStore

_DIGEST_BYTES = 16


class Events:
    """Keeps every event, those of types that nobody knows yet as well.

    The reference logs and drops all but `anomaly`. A family of its own may take a type over.
    """

    filters = ("events/#",)
    shared = True

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        """Store them."""
        await self._store.add([event_of(message, "events") for message in messages])
        return []


def event_of(message: Incoming, source: str) -> Event:
    """The event that a message tells of."""
    value = message.value
    text = message.rest.encode() + b"\0" + message.payload
    return Event(
        tenant=message.tenant,
        agent=message.agent,
        source=source,
        type=message.rest,
        time=moment(made_ms(value, message.received_ms)),
        data=value,
        digest=hashlib.sha256(text).digest()[:_DIGEST_BYTES] if is_dated(value) else None,
    )
