"""`logs/{container}`: lines of containers by MQTT (reference section 1.4), into the log stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from iotistica.api.families.family import Incoming, Refusal
from iotistica.api.families.log_lines import entry
from iotistica.streams import LogStreams


class Logs:
    """Appends lines to the stream that the reference has for those that come by HTTP."""

    filters = ("logs/#",)
    shared = True

    def __init__(self, streams: LogStreams) -> None:
        self._streams = streams

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        """Append them, one entry a message, so that what comes again can be told by its times."""
        refusals = []
        by_tenant: dict[str, list[list[str | bytes | int]]] = {}
        for message in messages:
            lines = _lines(message)
            if lines is None:
                rule = "a line of a log is a string, or an object with message"
                refusals.append(Refusal(message, "not_a_line", rule))
                continue
            fields = entry(
                agent=message.agent,
                batch="",
                body=orjson.dumps(lines),
                source="mqtt",
                received_ms=message.received_ms,
            )
            by_tenant.setdefault(message.tenant, []).append(fields)
        for tenant, lists in by_tenant.items():
            await self._streams.add(tenant, lists)
        return refusals


def _lines(message: Incoming) -> list[dict[str, Any]] | None:
    value = message.value
    found = []
    for one in value if isinstance(value, list) else [value]:
        line = {"message": one} if isinstance(one, str) else one
        if not isinstance(line, dict) or "message" not in line:
            return None
        named = line.get("serviceName") or line.get("containerName") or message.rest
        found.append({**line, "serviceName": named})
    return found
