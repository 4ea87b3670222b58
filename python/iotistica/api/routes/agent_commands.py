"""Commands to one agent over MQTT (reference sections 1.3 and 5.2)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from iotistica._native import format_topic
from iotistica.api import cursors
from iotistica.api.agent_brokers import AgentBrokers
from iotistica.api.http import Request
from iotistica.api.models import target_state as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest, StoreUnavailable
from iotistica.instants import iso
from iotistica.store import journal
from iotistica.store.agent_updates import AgentUpdates
from iotistica.store.pool import Pool, unavailable
from iotistica.store.targets import TargetStore
from iotistica.streams.outbox import Outbox, Outgoing
from iotistica.targets.processing import Signer

_BROKER, _UPDATE = "shadow/name/device-state/update/delta", "agent/update"
_FIRST_YEAR, _LAST_YEAR = 2000, 2999


class AgentCommands:
    """Handlers that send something to an agent; the outbox keeps it until the broker has it."""

    def __init__(self, pool: Pool, store: TargetStore, outbox: Outbox, signer: Signer) -> None:
        self._pool = pool
        self._brokers = AgentBrokers(pool)
        self._store = store
        self._outbox = outbox
        self._signer = signer
        self._updates = AgentUpdates(pool)

    @route("PUT", "/api/v1/agents/:uuid/broker", needs="device:control")
    async def broker(self, request: Request, uuid: UUID, body: models.Broker) -> models.Sent:
        """Tell the agent which broker to use from now on."""
        tenant = request.caller.tenant
        state = await self._store.state(tenant, uuid)
        broker = await self._brokers.told(tenant, body)
        now_s = int(time.time())
        command = {
            "state": {"mqtt": {"broker": broker}},
            "metadata": {"mqtt": {"timestamp": now_s}},
            "version": state.version,
            "timestamp": now_s,
        }
        await self._send(request, uuid, _BROKER, command, event="agent.broker_set", shown=broker)
        await self._brokers.assign(tenant, uuid, body.broker_id)
        return models.Sent(message="Broker sent to the agent", command=command)

    @route("POST", "/api/v1/agents/:uuid/update-agent", needs="device:control", status=202)
    async def update(self, request: Request, uuid: UUID, body: models.Update) -> models.Sent:
        """Tell the agent to install a version of its software.

        `GET /agents/:uuid/updates` tells what becomes of it.
        """
        at = None if body.scheduled_time is None else _scheduled(body.scheduled_time)
        order: dict[str, Any] = {"version": body.version}
        if at is not None:
            order["scheduled_time"] = iso(at)
        if body.force:
            order["force"] = True
        command = self._signer.command(order, now=datetime.now(UTC))
        update = await self._updates.order(
            request.origin, uuid, body.version, scheduled=at, shown=order
        )
        try:
            await self._put(request, uuid, _UPDATE, command)
        except StoreUnavailable:
            await self._updates.give_up(update, "the command could not be sent")
            raise
        return models.Sent(message="Update command sent to the agent", command=command)

    @route("GET", "/api/v1/agents/:uuid/updates", needs="device:read")
    async def updates(
        self, caller: Principal, uuid: UUID, query: models.UpdateQuery
    ) -> models.Updates:
        """Updates of the agent's software, newest first, and how far each is."""
        rows = await self._updates.listed(
            caller.tenant,
            uuid,
            below=cursors.read(query.cursor, cursors.Id),
            limit=query.limit,
        )
        found = [models.UpdateView(**row) for row in rows]
        cursor = cursors.follow(found, query.limit, lambda update: update.id)
        return models.Updates(count=len(found), updates=found, cursor=cursor)

    async def _send(
        self,
        request: Request,
        uuid: UUID,
        rest: str,
        command: dict[str, Any],
        *,
        event: str,
        shown: dict[str, Any],
    ) -> None:
        await self._put(request, uuid, rest, command)
        entry = journal.Entry(event_type=event, subject=f"agent/{uuid}", agent=uuid, after=shown)
        with unavailable("write the journal"):
            await journal.record(self._pool, request.origin, entry)

    async def _put(self, request: Request, uuid: UUID, rest: str, command: dict[str, Any]) -> None:
        topic = format_topic(request.caller.tenant, str(uuid), rest)
        await self._outbox.put([Outgoing(topic, orjson.dumps(command))])


def _scheduled(at: datetime) -> datetime:
    """In UTC where it names no zone. Raises `BadRequest` for a year that is no plan."""
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        raise BadRequest(
            f"field scheduled_time is in the year {at.year}; "
            f"{_FIRST_YEAR} to {_LAST_YEAR} are allowed"
        )
    return at if at.tzinfo else at.replace(tzinfo=UTC)
