"""POST `/api/v1/mqtt/decompress`: one payload, explained by the code that ingestion runs."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor
from typing import Any
from uuid import UUID

import orjson

from iotistica._native import Context, InvalidTopic, Limits, explain, format_topic, parse_topic
from iotistica.api.models.broker_monitor import Packed, Unpacked
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.dictionaries.library import Library
from iotistica.errors import BadRequest, NotFound, TooLarge
from iotistica.monitor.payload import written
from iotistica.store.agents import AgentStore

_MOST_BYTES = 256 * 1024
_MOST_INFLATED_BYTES = 2 * 1024 * 1024
_LIMITS = Limits(
    max_message_bytes=_MOST_BYTES, max_inflated_bytes=_MOST_INFLATED_BYTES, max_elements=50_000
)
_MOST_REJECTS = 20
_STAGES = ("topic", "inflate", "decode", "expand")
_TOPIC = "endpoints/payload"


class Payloads:
    """The handler. It decodes in a thread, as one payload may take long."""

    def __init__(self, agents: AgentStore, library: Library, executor: Executor) -> None:
        self._agents = agents
        self._library = library
        self._executor = executor

    @route("POST", "/api/v1/mqtt/decompress", needs="data:read", errors=(404, 413))
    async def decompress(self, caller: Principal, body: Packed) -> Unpacked:
        """Show what a payload is: its encodings, its sizes, and what it says.

        At most 256 KiB, and 2 MiB once inflated; nothing is stored.
        """
        payload = written(body.payload, body.encoding)
        if len(payload) > _MOST_BYTES:
            size = len(payload)
            raise TooLarge(f"payload has {size} bytes; at most {_MOST_BYTES} are allowed")
        topic = _topic(caller.tenant, body)
        context = await self._context(caller.tenant, topic)
        report = await asyncio.get_running_loop().run_in_executor(
            self._executor, _explained, topic, payload, context
        )
        return _unpacked(report)

    async def _context(self, tenant: str, topic: str | None) -> Context:
        """With the dictionaries of the agent in the topic. Raises `NotFound`."""
        context = Context(tenant, _LIMITS)
        if topic is None:
            return context
        agent = parse_topic(topic).agent
        if not _is_uuid(agent) or not await self._agents.agents_of(tenant, [agent]):
            raise NotFound(f"agent {agent[:64]} does not exist")
        for held in await self._library.all(tenant, agent):
            context.put_dictionary(agent, held.version, held.json)
        return context


def _is_uuid(agent: str) -> bool:
    try:
        return str(UUID(agent)) == agent
    except ValueError:
        return False


def _topic(tenant: str, body: Packed) -> str | None:
    """Where the payload came from, as far as it is told. Raises `BadRequest`, `NotFound`."""
    if body.topic is None:
        return None if body.agent is None else format_topic(tenant, str(body.agent), _TOPIC)
    try:
        parsed = parse_topic(body.topic)
    except InvalidTopic as error:
        raise BadRequest(f"field topic: {error}") from None
    agent = parsed.agent if body.agent is None else str(body.agent)
    if parsed.tenant != tenant or parsed.agent != agent:
        raise NotFound(f"agent {parsed.agent[:64]} does not exist, or is not the one named")
    return body.topic


def _explained(topic: str | None, payload: bytes, context: Context) -> dict[str, Any]:
    report = explain(topic, payload, context, now_ms=time.time_ns() // 1_000_000)
    return dict(orjson.loads(report))


def _unpacked(report: dict[str, Any]) -> Unpacked:
    size, inflated = report["bytes"], report.get("inflated_bytes")
    wrapping, form = report["wrapping"]["is"], report.get("format")
    chain = [
        *([wrapping] if wrapping != "none" else []),
        *([form["is"]] if form else []),
        *(["compact"] if report.get("compact") else []),
    ]
    broken = [one["detail"] for one in report["rejects"] if one["stage"] in _STAGES]
    return Unpacked(
        chain=chain,
        bytes=size,
        inflated_bytes=inflated,
        ratio=round(inflated / size, 2) if inflated is not None and size else None,
        decoded=report.get("decoded"),
        expanded=report.get("expanded"),
        readings=len(report["rows"]),
        rejects=report["rejects"][:_MOST_REJECTS],
        error=broken[0] if broken else None,
    )
