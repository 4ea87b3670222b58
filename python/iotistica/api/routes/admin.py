"""`/api/v1/admin/…`: what administrators look after (reference section 5.2)."""

from __future__ import annotations

from iotistica import keys
from iotistica.api.models import admin as models
from iotistica.api.presence import gap_s, tell
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import Conflict
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.store.presence import PresenceStore
from iotistica.streams import Streams


class Admin:
    """Handlers of the watch on agents and of the log stream."""

    def __init__(self, settings: Settings, pool: Pool, streams: Streams) -> None:
        self._presence = PresenceStore(pool, offline_after_s=settings.agent_offline_after_s)
        self._streams = streams
        self._every_s = settings.presence_check_s
        self._offline_after_s = settings.agent_offline_after_s

    @route("GET", "/api/v1/admin/heartbeat", needs="settings:read", limit="admin")
    async def heartbeat(self) -> models.HeartbeatReply:
        """How agents that fall silent are found, and whether somebody looks."""
        found = await self._presence.watch(gap_s=gap_s(self._every_s))
        heartbeat = models.Heartbeat(
            enabled=found is not None and found["is_watching"],
            check_interval_s=self._every_s,
            offline_after_s=self._offline_after_s,
            watching_since=None if found is None else found["since"],
            last_check_at=None if found is None else found["checked_at"],
        )
        return models.HeartbeatReply(heartbeat=heartbeat)

    @route(
        "POST",
        "/api/v1/admin/heartbeat/check",
        needs="settings:write",
        limit="admin",
        errors=(409,),
    )
    async def check(self, caller: Principal) -> models.Checked:
        """Look now which of the tenant's agents are silent.

        409 while no control process hears agents: then everybody would be.
        """
        gap = gap_s(self._every_s)
        found = await self._presence.watch(gap_s=gap)
        if found is None or not found["is_watching"]:
            raise Conflict("no control process watches now, so silence says nothing")
        changes = await self._presence.check_tenant(caller.tenant, gap_s=gap)
        await tell(self._streams.channels, changes)
        offline = [change.agent for change in changes]
        return models.Checked(
            message=f"Heartbeat check completed: {len(offline)} went offline", offline=offline
        )

    @route("GET", "/api/v1/admin/log-queue/stats", needs="settings:read", limit="admin")
    async def log_queue(self, caller: Principal) -> models.LogQueue:
        """How full the stream of the tenant's container logs is, and how far its writers are."""
        standing = await self._streams.logs.standing(caller.tenant)
        return models.LogQueue(stream=keys.log_stream(caller.tenant), **standing)  # type: ignore[arg-type]
