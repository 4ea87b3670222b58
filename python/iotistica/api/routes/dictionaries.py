"""`/api/v1/agents/:uuid/dictionary`: with what an agent's compacted telemetry is read."""

from __future__ import annotations

from uuid import UUID

from iotistica.api.http import Request
from iotistica.api.models.dictionaries import (
    AgentDictionary,
    Asked,
    DictionaryQuery,
    DictionaryVersion,
)
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.dictionaries.library import Library
from iotistica.errors import NotFound
from iotistica.settings import Settings
from iotistica.store import journal
from iotistica.store.agents import AgentStore
from iotistica.store.dictionaries import DictionaryStore, Kept
from iotistica.store.pool import Pool, unavailable
from iotistica.streams import Streams


class AgentDictionaries:
    """Handlers of the dictionaries of agents."""

    def __init__(self, settings: Settings, pool: Pool, streams: Streams) -> None:
        self._pool = pool
        self._agents = AgentStore(pool)
        self._store = DictionaryStore(pool)
        self._library = Library.of(settings, pool, streams)

    @route("GET", "/api/v1/agents/:uuid/dictionary", needs="device:read", errors=(404,))
    async def show(self, uuid: UUID, query: DictionaryQuery, caller: Principal) -> AgentDictionary:
        """The dictionary of an agent: the current one, or the last of a version."""
        kept = await self._store.shelf(caller.tenant, str(uuid))
        wanted = query.version
        found = [one for one in kept if wanted is None or one.dictionary.version == wanted]
        if not found:
            which = "dictionary" if wanted is None else f"dictionary of version {wanted}"
            raise NotFound(f"agent {uuid} has no {which}")
        dictionary, version = found[0].dictionary, _version(found[0])
        return AgentDictionary(
            agent_uuid=str(uuid),
            version=version.version,
            hash=version.hash,
            learned_at=version.learned_at,
            is_current=version.is_current,
            fields={str(index): name for index, name in dictionary.fields.items()},
            enums=dict(dictionary.enums),
            metrics=dict(dictionary.metrics),
            devices=dict(dictionary.devices),
            versions=[_version(one) for one in kept],
        )

    @route(
        "POST",
        "/api/v1/agents/:uuid/dictionary/resync",
        needs="device:control",
        status=202,
        errors=(404,),
    )
    async def resync(self, request: Request, uuid: UUID) -> Asked:
        """Ask an agent to send its dictionary as a whole, unless it was asked a moment ago."""
        tenant, agent = request.caller.tenant, str(uuid)
        if not await self._agents.agents_of(tenant, [agent]):
            raise NotFound(f"agent {uuid} does not exist")
        known = await self._store.current([agent])
        expected = known[0].dictionary.version if known else None
        if not await self._library.ask(tenant, agent, expected=expected):
            return Asked(message="The agent was asked a moment ago", requested=False)
        entry = journal.Entry(
            event_type="agent.dictionary_asked", subject=f"agent/{uuid}", agent=uuid
        )
        with unavailable("write the journal"):
            await journal.record(self._pool, request.origin, entry)
        return Asked(message="The agent is asked for its dictionary", requested=True)


def _version(kept: Kept) -> DictionaryVersion:
    return DictionaryVersion(
        version=kept.dictionary.version,
        hash=kept.dictionary.hash,
        learned_at=kept.learned_at,
        is_current=kept.is_current,
    )
