"""When agents were heard, and who is online; events whenever that changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from iotistica.store.pool import Pool, unavailable
from iotistica.store.turn import turn

_TURN = "presence"

# Rows are locked in the order of their agents, as every writer of many agents does; what another
# process wrote meanwhile is then seen, so a change is told once. News from long ago says when an
# agent was heard, not that it is there.
_SEEN = """
WITH before AS (
    SELECT agents.uuid, agents.tenant_id, seen.at,
           NOT agents.is_online AND seen.at > now() - $3::interval AS comes
    FROM agents JOIN unnest($1::text[]::uuid[], $2::timestamptz[]) AS seen (uuid, at)
        ON seen.uuid = agents.uuid
    ORDER BY agents.uuid FOR NO KEY UPDATE OF agents
), updated AS (
    UPDATE agents
    SET last_seen_at = greatest(last_seen_at, before.at),
        is_online = is_online OR comes,
        last_connectivity_event = CASE WHEN comes THEN before.at ELSE last_connectivity_event END
    FROM before WHERE agents.uuid = before.uuid
)
INSERT INTO agent_events (tenant_id, agent_uuid, source, type, time)
SELECT tenant_id, uuid, 'presence', 'online', at FROM before WHERE comes
RETURNING tenant_id, agent_uuid::text, true AS online, time
"""

_LEAVE = """\
    ORDER BY uuid FOR NO KEY UPDATE OF agents SKIP LOCKED
), updated AS (
    UPDATE agents SET is_online = false, last_connectivity_event = now()
    FROM silent WHERE agents.uuid = silent.uuid
)
INSERT INTO agent_events (tenant_id, agent_uuid, source, type, time, data)
SELECT tenant_id, uuid, 'presence', 'offline', now(),
       jsonb_build_object('lastSeenAt', last_seen_at)
FROM silent
RETURNING tenant_id, agent_uuid::text, false AS online, time
"""
# Silence counts from when somebody began to watch: a platform that was away heard nobody.
_CHECK = f"""
WITH watch AS (
    INSERT INTO presence_watch AS kept (since, checked_at) VALUES (now(), now())
    ON CONFLICT (one) DO UPDATE
    SET since = CASE WHEN kept.checked_at < now() - $2::interval THEN now() ELSE kept.since END,
        checked_at = now()
    RETURNING since
), silent AS (
    SELECT uuid, tenant_id, last_seen_at FROM agents, watch
    WHERE is_online AND greatest(last_seen_at, since) < now() - $1::interval
{_LEAVE}"""  # noqa: S608 (constants only)
_WATCH = """
SELECT since, checked_at, checked_at >= now() - $1::interval AS is_watching FROM presence_watch
"""
# For an operator: of one tenant, and only while somebody watches, or silence would say nothing.
_CHECK_TENANT = f"""
WITH silent AS (
    SELECT uuid, tenant_id, last_seen_at FROM agents, presence_watch
    WHERE tenant_id = $1 AND is_online AND checked_at >= now() - $3::interval
      AND greatest(last_seen_at, since) < now() - $2::interval
{_LEAVE}"""  # noqa: S608 (constants only)


@dataclass(frozen=True, slots=True)
class Change:
    """An agent came or went."""

    tenant: str
    agent: str
    online: bool
    time: datetime


class PresenceStore:
    """Presence of all agents. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool, *, offline_after_s: float) -> None:
        self._pool = pool
        self._offline_after = timedelta(seconds=offline_after_s)

    async def seen(self, heard: Mapping[str, float]) -> list[Change]:
        """Note when agents (UUIDs) were heard, epoch seconds; those that came online."""
        at = [datetime.fromtimestamp(second, UTC) for second in heard.values()]
        with unavailable("note who was seen"):
            return _changes(
                await self._pool.fetch(_SEEN, list(heard), at, self._offline_after, timeout=10)
            )

    async def check(self, *, gap_s: float) -> list[Change]:
        """Those that have been silent for too long, which are now offline.

        By one process at a time: for another the answer is empty. Where nobody checked for
        `gap_s`, silence counts anew.
        """
        gap = timedelta(seconds=gap_s)
        with unavailable("look who is silent"):
            async with turn(self._pool, _TURN) as connection:
                if connection is None:
                    return []
                return _changes(await connection.fetch(_CHECK, self._offline_after, gap))

    async def watch(self, *, gap_s: float) -> asyncpg.Record | None:
        """Since when somebody watches without a gap, when they looked last, and whether they do;
        None where nobody ever did."""
        with unavailable("look who watches"):
            return await self._pool.fetchrow(_WATCH, timedelta(seconds=gap_s))

    async def check_tenant(self, tenant: str, *, gap_s: float) -> list[Change]:
        """As `check`, of one tenant; none where nobody watches."""
        gap = timedelta(seconds=gap_s)
        with unavailable("look who is silent"):
            return _changes(await self._pool.fetch(_CHECK_TENANT, tenant, self._offline_after, gap))


def _changes(rows: list[asyncpg.Record]) -> list[Change]:
    return [Change(row["tenant_id"], row["agent_uuid"], row["online"], row["time"]) for row in rows]
