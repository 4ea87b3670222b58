"""The key of an agent: rotation and its history; and signs of life."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from uuid import UUID

import orjson

from iotistica import log
from iotistica._native import format_topic
from iotistica.api.agent_changes import AgentChanges
from iotistica.api.callers import device_keys
from iotistica.api.device_keys import DeviceKeys
from iotistica.api.http import Request
from iotistica.api.models.registration import (
    KeyStatus,
    Page,
    PastRotation,
    Pong,
    Rotated,
    Rotation,
    Rotations,
)
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import NotFound, StoreUnavailable
from iotistica.settings import Settings
from iotistica.store.agent_keys import AgentKeyStore
from iotistica.streams import Outgoing, Streams

_KEY_BYTES = 32

_log = log.get(__name__)


class AgentKeys:
    """Handlers for the agent's own key."""

    def __init__(
        self,
        store: AgentKeyStore,
        *,
        keys: DeviceKeys,
        streams: Streams,
        changes: AgentChanges,
        settings: Settings,
    ) -> None:
        self._store = store
        self._keys = keys
        self._streams = streams
        self._changes = changes
        self._grace_s = settings.device_key_grace_s

    @route("POST", "/api/v1/device/:uuid/rotate-key", agents=True, errors=(409,))
    async def rotate(
        self, request: Request, caller: Principal, uuid: UUID, body: Rotation | None
    ) -> Rotated:
        """Replace the key that was used to ask; it is good for a grace period yet.

        Where the answer is lost, ask again with the old key.
        """
        new = secrets.token_hex(_KEY_BYTES)
        done = await self._store.rotate(
            uuid,
            used_hashes=[self._keys.digest(key) for key in device_keys(request)],
            new_hash=self._keys.digest(new),
            grace_s=self._grace_s,
            reason=(body or Rotation()).reason,
            origin=request.origin,
        )
        await self._changes.tell([caller.id])
        await self._tell(caller, done.rotated_at, done.old_valid_until)
        return Rotated(
            uuid=caller.id,
            api_key=new,
            new_api_key=new,
            rotated_at=done.rotated_at,
            ends=done.old_valid_until,
            grace_period_ends=done.old_valid_until,
        )

    @route("GET", "/api/v1/device/:uuid/key-status", agents=True, needs="device:read")
    async def status(self, caller: Principal, uuid: UUID) -> KeyStatus:
        """When the key was made and rotated."""
        row = await self._store.status(caller.tenant, uuid)
        if row is None:
            raise NotFound(f"agent {uuid} does not exist")
        return KeyStatus(
            device_uuid=row["uuid"],
            device_name=row["name"],
            issued_at=row["issued_at"],
            last_rotated_at=row["last_rotated_at"],
            grace_period_ends=row["grace_period_ends"],
            previous_key_valid=row["grace_period_ends"] is not None,
        )

    @route("GET", "/api/v1/device/:uuid/rotation-history", agents=True, needs="device:read")
    async def history(self, caller: Principal, uuid: UUID, query: Page) -> Rotations:
        """Rotations of the key, newest first."""
        if await self._store.status(caller.tenant, uuid) is None:
            raise NotFound(f"agent {uuid} does not exist")
        rows = await self._store.history(caller.tenant, uuid, limit=query.limit)
        return Rotations(
            device_uuid=str(uuid),
            count=len(rows),
            history=[
                PastRotation(
                    id=row["id"],
                    issued_at=row["issued_at"],
                    rotated_at=row["rotated_at"],
                    grace_period_ends=row["valid_until"],
                    reason=row["reason"],
                    ip_address=row["ip_address"],
                )
                for row in rows
            ],
        )

    @route("GET", "/api/v1/device/:uuid/ping", agents=True, limit="device-data")
    async def ping(self, caller: Principal, uuid: UUID) -> Pong:
        """Whether the key is good and the API is there; asks no server."""
        return Pong(uuid=caller.id, timestamp=datetime.now(UTC))

    async def _tell(self, caller: Principal, rotated_at: datetime, until: datetime) -> None:
        """Tell the agent below its own topics; never the key itself."""
        event = {
            "event": "api_key_rotated",
            "grace_period_ends": until,
            "message": "The key was rotated; whoever holds the former one must replace it",
            "timestamp": rotated_at,
        }
        topic = format_topic(caller.tenant, caller.id, "config/api-key-rotation")
        payload = orjson.dumps(event, option=orjson.OPT_UTC_Z)
        try:
            await self._streams.outbox.put([Outgoing(topic, payload)])
        except StoreUnavailable as error:
            # The rotation is done and its answer holds the key: others learn of it a little later.
            _log.warning("a rotation was not told", agent=caller.id, error=str(error))
