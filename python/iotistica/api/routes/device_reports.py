"""What agents report by HTTP, where MQTT is down: state and logs (reference section 5.1)."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid as uuids
import zlib
from uuid import UUID

import orjson

from iotistica._native import Undecodable, decode
from iotistica.api.batch import Batch
from iotistica.api.families.family import Incoming
from iotistica.api.families.log_lines import ENCODINGS, entry, inflate
from iotistica.api.families.state import Reports, State
from iotistica.api.http import Reply, Request, json_reply
from iotistica.api.models import reports as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest, Forbidden, TooLarge
from iotistica.limits import limits_of
from iotistica.ops import request_id
from iotistica.settings import Settings
from iotistica.store.documents import json_text
from iotistica.store.logs import LogStore
from iotistica.store.pool import Pool
from iotistica.store.reports import ReportStore
from iotistica.streams import Streams

_MOST_LOG_BYTES = 10 << 20
_WORTH_DEFLATING = 2048


class DeviceReports:
    """Handlers for an agent's own key."""

    def __init__(self, settings: Settings, pool: Pool, streams: Streams) -> None:
        async def send(batch: Batch) -> None:
            # No disk to lay it by: the agent gets 503, keeps its report and sends it again.
            await batch.write(streams)

        self._state = State(Reports(ReportStore(pool), streams.channels, send))
        self._logs = streams.logs
        self._store = LogStore(pool)
        self._most_bytes = settings.max_message_bytes
        self._limits = limits_of(settings)

    @route(
        "PATCH",
        "/api/v1/device/state",
        agents=True,
        limit="device-data",
        reply=models.Ok,
        errors=(413,),
    )
    async def state(self, request: Request, caller: Principal) -> Reply:
        """A report of state, in any form that MQTT takes; as a rule the agent's UUID is its key."""
        message = self._incoming(request, caller)
        refusals = await self._state.take([message])
        for refusal in refusals:
            if refusal.reason == "foreign_agent":
                raise Forbidden(refusal.error)
            raise BadRequest(refusal.error)
        return json_reply({"status": "ok"})

    def _incoming(self, request: Request, caller: Principal) -> Incoming:
        if (size := len(request.body)) > self._most_bytes:
            raise TooLarge(f"the body has {size} bytes; at most {self._most_bytes} are allowed")
        coding = request.headers.get("content-encoding", "")
        body = inflate(request.body, coding, self._most_bytes)
        try:
            value = orjson.loads(decode(body, self._limits))
        except Undecodable as error:
            raise BadRequest(f"the body cannot be read: {error}") from None
        agent = str(caller.agent)
        if isinstance(value, dict):
            for name in ("uuid", "deviceUuid"):
                if str(value.get(name) or agent).lower() != agent:
                    raise Forbidden("the key belongs to another agent")
        return Incoming(
            tenant=caller.tenant,
            agent=agent,
            rest="",
            topic="",
            value=value,
            payload=body,
            received_ms=time.time_ns() // 1_000_000,
        )

    @route(
        "POST",
        "/api/v1/device/:uuid/logs",
        agents=True,
        limit="device-data",
        reply=models.LogBatch,
        status=202,
        errors=(413,),
    )
    async def logs(self, uuid: UUID, request: Request, caller: Principal) -> Reply:
        """Lines of containers, as NDJSON or JSON; a batch of the same X-Batch-Id counts once a day.

        A line has `message`, and may have `serviceName`, `timestamp`, `level`, `isStderr`,
        `isSystem`, `meta`.
        """
        body, encoding = await _as_it_is_kept(request)
        batch = request_id(request.headers.get("x-batch-id"))
        identifier = batch or str(uuids.uuid4())
        fields = entry(
            agent=str(uuid),
            batch=identifier,
            body=body,
            encoding=encoding,
            content_type=request.headers.get("content-type", "application/json"),
            source="http",
            received_ms=time.time_ns() // 1_000_000,
        )
        name = batch or ""
        if await self._logs.add(caller.tenant, [fields], agent=str(uuid), batch=name):
            return json_reply({"batchId": identifier, "accepted": True, "queued": True}, 202)
        return json_reply({"batchId": identifier, "accepted": True, "duplicate": True})

    @route("POST", "/api/v1/device/:uuid/logs/dropped-summaries", agents=True, limit="device-data")
    async def dropped(
        self, uuid: UUID, body: models.DroppedSummaries, caller: Principal
    ) -> models.Received:
        """What an agent had to drop of its logs; the same summary counts once."""
        at = body.moment()
        summaries = []
        for one in body.summaries:
            text = json_text(one)
            digest = hashlib.sha256(f"{body.reported_at}\0{text}".encode()).digest()[:16]
            summaries.append((text, digest))
        await self._store.dropped(caller.agent, at, summaries)
        count = len(summaries)
        return models.Received(status="ok", received=count, message=f"{count} summaries are kept")


async def _as_it_is_kept(request: Request) -> tuple[bytes, str]:
    """Body and encoding for the stream; the front door has inflated it, Redis need not hold that.

    Raises `BadRequest`, `TooLarge`.
    """
    body = request.body
    encoding = request.headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in ENCODINGS:
        allowed = ", ".join(ENCODINGS)
        raise BadRequest(f"Content-Encoding {encoding[:32]!r} is not known; allowed: {allowed}")
    if not body:
        raise BadRequest("the body is empty; lines as NDJSON or JSON are expected")
    if len(body) > _MOST_LOG_BYTES:
        raise TooLarge(f"the body has {len(body)} bytes; at most {_MOST_LOG_BYTES} are allowed")
    if encoding == "identity" and len(body) >= _WORTH_DEFLATING:
        return await asyncio.to_thread(zlib.compress, body, 1), "deflate"
    return body, encoding
