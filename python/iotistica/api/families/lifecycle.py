"""`agent/{type}`: agents about themselves, their updates first (reference section 1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from iotistica import keys, log
from iotistica.api.families.events import event_of
from iotistica.api.families.family import Incoming, Refusal
from iotistica.api.families.moments import epoch_ms, made_ms, moment
from iotistica.errors import StoreUnavailable
from iotistica.instants import iso
from iotistica.store.events import Event, EventStore, Step
from iotistica.streams import Channels

_OURS = ("update", "shell")
"""What the platform sends to agents on topics of this form."""
_LIVE = ("shell-output", "broker")
"""Forwarded and not kept: for whoever watches now."""
_STATUSES = {
    "update_command_received": "acknowledged",
    "update_scheduled": "scheduled",
    "update_started": "in_progress",
    "update_succeeded": "succeeded",
    "update_failed": "failed",
    "update_rejected": "rejected",
}
_MOST_TEXT = 2000

_occasional = log.Occasional(log.get(__name__))


class Lifecycle:
    """Keeps what happens to agents, moves their updates on, and forwards all of it."""

    filters = ("agent/+",)
    shared = True

    def __init__(self, store: EventStore, channels: Channels) -> None:
        self._store = store
        self._channels = channels

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        """Store and forward them."""
        refusals = []
        events: list[Event] = []
        steps: list[tuple[Event, Step]] = []
        versions: list[tuple[str, str]] = []
        live: list[Incoming] = []
        for message in messages:
            if message.rest in _OURS:
                continue
            if message.rest == "status" and not isinstance(message.value, dict):
                rule = "the status is no JSON object"
                refusals.append(Refusal(message, "not_an_object", rule))
                continue
            live.append(message)
            if message.rest in _LIVE:
                continue
            event = event_of(message, "agent")
            events.append(event)
            if (step := _step(message, event.time)) is not None:
                steps.append((event, step))
            if (version := _version(message)) is not None:
                versions.append((message.agent, version))
        await self._store.add_lifecycle(events, steps, versions)
        await self._forward(live)
        return refusals

    async def _forward(self, messages: Sequence[Incoming]) -> None:
        try:
            await self._channels.publish_many(
                (keys.lifecycle_channel(one.tenant, one.agent), _live(one)) for one in messages
            )
        except StoreUnavailable as error:
            _occasional.warning("live values were not published", error=str(error))


def _live(message: Incoming) -> bytes:
    at = iso(moment(made_ms(message.value, message.received_ms)))
    document = {"deviceUuid": message.agent, "type": message.rest, "data": message.value}
    return orjson.dumps({**document, "timestamp": at})


def _step(message: Incoming, at: datetime) -> Step | None:
    value = message.value
    if message.rest != "status" or value.get("type") not in _STATUSES:
        return None
    scheduled_ms = epoch_ms(value.get("scheduled_time"))
    exit_code = value.get("exit_code")
    is_code = isinstance(exit_code, int) and -(2**31) <= exit_code < 2**31
    return Step(
        agent=message.agent,
        status=_STATUSES[value["type"]],
        at=at,
        current_version=_text(value.get("current_version")),
        target_version=_text(value.get("target_version")),
        deployment_type=_text(value.get("deployment_type")),
        scheduled_time=moment(scheduled_ms) if scheduled_ms is not None else None,
        error=_text(value.get("error")),
        exit_code=int(exit_code) if is_code else None,
    )


def _version(message: Incoming) -> str | None:
    """The version that the agent runs from now on."""
    value = message.value
    if message.rest == "status":
        succeeded = value.get("type") == "update_succeeded"
        version = value.get("target_version") or value.get("current_version")
        return _text(version) if succeeded else None
    if message.rest not in ("version", "startup"):
        return None
    if isinstance(value, dict):
        value = value.get("version") or value.get("agent_version") or value.get("current_version")
    return _text(value)


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text[:_MOST_TEXT]
