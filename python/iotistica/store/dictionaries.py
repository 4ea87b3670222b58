"""Key-compaction dictionaries of agents: the current one, and some before it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from iotistica.dictionaries.dictionary import Dictionary, Wanted
from iotistica.dictionaries.shelf import Shelf
from iotistica.store.pool import Connection, Pool, Row, unavailable

# A transaction may commit later than its time: what is that young is looked at again.
_OVERLAP = timedelta(seconds=60)

_COLUMNS = (
    "v.agent_uuid::text, v.serial, v.version, v.hash, v.fields, v.enums, v.metrics, v.devices, "
    "v.learned_at, v.serial = m.serial AS is_current"
)

_DIGESTS = """
SELECT m.agent_uuid::text, m.full_digest, v.digest FROM dictionary_metadata AS m
JOIN dictionary_versions AS v ON v.agent_uuid = m.agent_uuid AND v.serial = m.serial
WHERE m.agent_uuid = ANY ($1::text[]::uuid[])
"""
# In the order of agents, as everybody who locks several of them.
_MAKE = """
INSERT INTO dictionary_metadata (agent_uuid, tenant_id)
SELECT a.uuid, a.tenant_id FROM unnest($1::text[]::uuid[], $2::text[]) AS m (agent, tenant)
JOIN agents AS a ON a.uuid = m.agent AND a.tenant_id = m.tenant
ORDER BY a.uuid
ON CONFLICT (agent_uuid) DO NOTHING
"""
_LOCK = """
SELECT agent_uuid::text, serial, full_digest FROM dictionary_metadata
WHERE agent_uuid = ANY ($1::text[]::uuid[])
ORDER BY agent_uuid FOR NO KEY UPDATE
"""
_NUMBER = "SELECT nextval('dictionary_serials') FROM generate_series(1, $1::integer)"
_KNOWN = """
SELECT agent_uuid::text, digest FROM dictionary_versions
WHERE agent_uuid = ANY ($1::text[]::uuid[])
"""
_CURRENT = f"""
SELECT {_COLUMNS} FROM dictionary_metadata AS m
JOIN dictionary_versions AS v ON v.agent_uuid = m.agent_uuid AND v.serial = m.serial
WHERE m.agent_uuid = ANY ($1::text[]::uuid[])
"""  # noqa: S608 - constants
_LEARN = """
INSERT INTO dictionary_versions
    (agent_uuid, digest, serial, version, hash, fields, enums, metrics, devices)
SELECT * FROM unnest($1::text[]::uuid[], $2::bytea[], $3::bigint[], $4::bigint[], $5::text[],
                     $6::jsonb[], $7::jsonb[], $8::jsonb[], $9::jsonb[])
ON CONFLICT (agent_uuid, digest) DO UPDATE SET serial = excluded.serial, learned_at = now()
"""
_MOVE_ON = """
UPDATE dictionary_metadata AS m
SET serial = new.serial, full_digest = new.full_digest, changed_at = now()
FROM unnest($1::text[]::uuid[], $2::bigint[], $3::bytea[]) AS new (agent, serial, full_digest)
WHERE m.agent_uuid = new.agent
"""
_PRUNE = """
DELETE FROM dictionary_versions AS v
USING (
    SELECT agent_uuid, digest, row_number() OVER (PARTITION BY agent_uuid ORDER BY serial DESC) AS n
    FROM dictionary_versions WHERE agent_uuid = ANY ($1::text[]::uuid[])
) AS ranked
WHERE v.agent_uuid = ranked.agent_uuid AND v.digest = ranked.digest AND ranked.n > $2
"""
_FIND = f"""
SELECT DISTINCT ON (w.number) w.number, {_COLUMNS}
FROM unnest($2::text[]::uuid[], $3::bigint[], $4::text[])
    WITH ORDINALITY AS w (agent, version, hash, number)
JOIN dictionary_metadata AS m ON m.agent_uuid = w.agent AND m.tenant_id = $1
JOIN dictionary_versions AS v ON v.agent_uuid = w.agent AND v.version = w.version
    AND (w.hash IS NULL OR v.hash = w.hash)
ORDER BY w.number, v.serial DESC
"""  # noqa: S608 - constants
_SHELF = f"""
SELECT {_COLUMNS} FROM dictionary_metadata AS m
JOIN dictionary_versions AS v ON v.agent_uuid = m.agent_uuid
WHERE m.agent_uuid = $2::text::uuid AND m.tenant_id = $1 AND ($3::bigint IS NULL OR v.version = $3)
ORDER BY v.serial DESC
"""  # noqa: S608 - constants
_CHANGED = """
SELECT tenant_id, agent_uuid::text, serial, now() AS at FROM dictionary_metadata
WHERE changed_at > coalesce($1::timestamptz, now()) - $2::interval
UNION ALL
SELECT NULL, NULL, 0, now()
"""


@dataclass(frozen=True, slots=True)
class Digests:
    """Of the last dictionary that came as a whole, and of the current one."""

    full: bytes | None
    current: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A dictionary in the table."""

    agent: str
    dictionary: Dictionary
    serial: int
    is_current: bool
    learned_at: datetime


class DictionaryStore:
    """Dictionaries of all agents. Every method raises `DatabaseUnavailable`.

    `versions`: how many of an agent are kept, the current one included.
    """

    def __init__(self, pool: Pool, *, versions: int = 8) -> None:
        self._pool = pool
        self._versions = versions

    async def digests(self, agents: Sequence[str]) -> dict[str, Digests]:
        """What is known of each of these agents that has a dictionary."""
        if not agents:
            return {}
        with unavailable("look up dictionaries"):
            rows = await self._pool.fetch(_DIGESTS, agents)
        return {row["agent_uuid"]: Digests(row["full_digest"], row["digest"]) for row in rows}

    @asynccontextmanager
    async def changing(self, members: Mapping[str, str]) -> AsyncIterator[dict[str, Shelf]]:
        """Shelves of agents, given with their tenants; what they learn is committed at the end.

        An agent that is not the tenant's has none. Others who change them wait meanwhile.
        """
        agents = sorted(members)
        with unavailable("keep dictionaries"):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_MAKE, agents, [members[agent] for agent in agents])
                shelves, serials = await _shelves(connection, agents)
                before = {agent: shelf.full for agent, shelf in shelves.items()}
                yield shelves
                changed = {
                    agent: shelf
                    for agent, shelf in shelves.items()
                    if shelf.learned or shelf.full != before[agent]
                }
                if changed:
                    await self._keep(connection, changed, serials)

    async def _keep(
        self, connection: Connection, shelves: Mapping[str, Shelf], serials: dict[str, int]
    ) -> None:
        learned: dict[tuple[str, bytes], tuple[int, Dictionary]] = {}
        news = [(agent, one) for agent, shelf in shelves.items() for one in shelf.learned]
        # After the rows are locked: who comes later has higher ones.
        numbers = await connection.fetch(_NUMBER, len(news))
        for (agent, dictionary), (serial,) in zip(news, numbers, strict=True):
            learned[agent, dictionary.digest] = (serial, dictionary)
            serials[agent] = serial
        if learned:
            rows = [
                (agent, digest, serial, *_values(dictionary))
                for (agent, digest), (serial, dictionary) in learned.items()
            ]
            await connection.execute(_LEARN, *(list(column) for column in zip(*rows, strict=True)))
        agents = list(shelves)
        fulls = [shelves[agent].full for agent in agents]
        await connection.execute(_MOVE_ON, agents, [serials[agent] for agent in agents], fulls)
        await connection.execute(_PRUNE, agents, self._versions)

    async def current(self, agents: Sequence[str]) -> list[Kept]:
        """The current dictionary of each of these agents that has one."""
        with unavailable("look up dictionaries"):
            rows = await self._pool.fetch(_CURRENT, agents)
        return [_kept(row) for row in rows]

    async def find(self, tenant: str, wanted: Iterable[Wanted]) -> dict[Wanted, Kept]:
        """Those of the tenant's dictionaries that are kept; the last one of several."""
        asked = list(wanted)
        columns = (
            [one.agent for one in asked],
            [one.version for one in asked],
            [one.hash for one in asked],
        )
        with unavailable("look up dictionaries"):
            rows = await self._pool.fetch(_FIND, tenant, *columns)
        return {asked[row["number"] - 1]: _kept(row) for row in rows}

    async def shelf(self, tenant: str, agent: str, version: int | None = None) -> list[Kept]:
        """All that are kept of an agent, or those of one version, the last one first."""
        with unavailable("look up dictionaries"):
            rows = await self._pool.fetch(_SHELF, tenant, agent, version)
        return [_kept(row) for row in rows]


class DictionaryChanges:
    """Which dictionaries changed, so that those who remember them can forget them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._until: datetime | None = None
        self._told: dict[str, int] = {}

    async def newest(self) -> dict[str, list[str]]:
        """Agents whose dictionary changed since the last call, by tenant. Raises
        `DatabaseUnavailable`."""
        with unavailable("read which dictionaries changed"):
            rows = await self._pool.fetch(_CHANGED, self._until, _OVERLAP)
        self._until = rows[-1]["at"]
        found: dict[str, list[str]] = {}
        told: dict[str, int] = {}
        for row in rows[:-1]:
            agent, serial = row["agent_uuid"], row["serial"]
            told[agent] = serial
            if self._told.get(agent) != serial:
                found.setdefault(row["tenant_id"], []).append(agent)
        self._told = told
        return found


async def _shelves(
    connection: Connection, agents: Sequence[str]
) -> tuple[dict[str, Shelf], dict[str, int]]:
    """Locked shelves, and the serials that they have."""
    shelves: dict[str, Shelf] = {}
    serials: dict[str, int] = {}
    for row in await connection.fetch(_LOCK, agents):
        shelves[row["agent_uuid"]] = Shelf(full=row["full_digest"], known=set())
        serials[row["agent_uuid"]] = row["serial"]
    for row in await connection.fetch(_KNOWN, list(shelves)):
        shelves[row["agent_uuid"]].known.add(row["digest"])
    for row in await connection.fetch(_CURRENT, list(shelves)):
        shelves[row["agent_uuid"]].current = _dictionary(row)
    return shelves, serials


def _values(dictionary: Dictionary) -> tuple[Any, ...]:
    parts = dictionary.parts()
    return (
        dictionary.version,
        dictionary.hash,
        *(parts[name].decode() for name in ("", "enums", "metrics", "agents")),
    )


def _dictionary(row: Row) -> Dictionary:
    fields = orjson.loads(row["fields"])
    return Dictionary(
        version=row["version"],
        hash=row["hash"],
        fields={index: fields[str(index)] for index in sorted(map(int, fields))},
        enums=orjson.loads(row["enums"]),
        metrics=orjson.loads(row["metrics"]),
        devices=orjson.loads(row["devices"]),
    )


def _kept(row: Row) -> Kept:
    return Kept(
        agent=row["agent_uuid"],
        dictionary=_dictionary(row),
        serial=row["serial"],
        is_current=row["is_current"],
        learned_at=row["learned_at"],
    )
