"""One run from beginning to end: provision, publish, verify."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from iotistica.settings import Settings
from iotistica.simulator.fleet import Fleet, Progress
from iotistica.simulator.ledger import AgentLedger
from iotistica.simulator.target import Target, connector
from iotistica.simulator.verify import Verifier
from iotistica.store.agents import AgentStore
from iotistica.store.census import CensusStore
from iotistica.store.pool import open_pool
from iotistica.streams import Streams

_LONG_STATEMENT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did."""

    agents: int
    messages: int
    """Acknowledged, copies and malformed ones not counted."""
    readings: int
    published: int
    """Acknowledged publishes, copies and malformed ones included."""
    sessions: int
    seconds: float


@asynccontextmanager
async def provisioned(
    fleet: Fleet, readings: int, target: Target, settings: Settings
) -> AsyncIterator[Verifier]:
    """Make the agents of a fleet exist, and prepare to judge what it will do."""
    settings = settings.model_copy(
        update={
            "database_url": target.database_url,
            "database_pool_size": 2,
            "database_statement_timeout_s": _LONG_STATEMENT_S,
        }
    )
    pool = await open_pool(settings, application_name="iotistica-simulate")
    streams = Streams(target.redis_url)
    try:
        agents = AgentStore(pool)
        await agents.ensure_tenant(target.tenant)
        names = [(agent.uuid, f"simulated-{agent.index}") for agent in fleet.agents]
        await agents.add_agents(target.tenant, names)
        yield Verifier(
            target.tenant,
            readings,
            census=CensusStore(pool),
            letters=streams,
            since=await streams.last_dead_letter(target.tenant),
        )
    finally:
        await streams.close()
        await pool.close()


async def publish(
    fleet: Fleet, target: Target, report: Callable[[Progress], None]
) -> list[AgentLedger]:
    """Run the fleet against a platform. Raises `StoreUnavailable`, `mqtt.Refused`."""
    connect = await connector(target, [agent.uuid for agent in fleet.agents])
    return await fleet.run(connect, report)


def summarize(fleet: Fleet, ledgers: list[AgentLedger], readings: int) -> Summary:
    """The figures of a finished run."""
    progress = fleet.progress()
    messages = sum(len(ledger.sent) for ledger in ledgers)
    return Summary(
        agents=len(ledgers),
        messages=messages,
        readings=messages * readings,
        published=progress.published,
        sessions=progress.sessions,
        seconds=round(progress.seconds, 3),
    )
