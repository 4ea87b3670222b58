"""The web application: everything that answers a request, whichever server carries it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from iotistica import ops, supervisor, tasks
from iotistica.api.agent_parts import AgentParts, agent_handlers
from iotistica.api.auth import Tokens
from iotistica.api.identity import Identity
from iotistica.api.peers import Peers
from iotistica.api.presence import Presence, presence_of
from iotistica.api.route import Route, routes_of
from iotistica.api.routes.admission import Admission
from iotistica.api.routes.agent_jobs import AgentJobRoutes
from iotistica.api.routes.api_keys import ApiKeys
from iotistica.api.routes.audit import Audit
from iotistica.api.routes.audit_log import AuditLog
from iotistica.api.routes.dead_letters import DeadLetters
from iotistica.api.routes.documents import Documents
from iotistica.api.routes.jobs import Jobs
from iotistica.api.routes.readings import Readings
from iotistica.api.routes.roles import Roles
from iotistica.api.routes.sessions import Sessions
from iotistica.api.routes.system import System
from iotistica.api.routes.users import Users
from iotistica.api.table import Table
from iotistica.audit.auditor import Auditor
from iotistica.settings import Settings
from iotistica.store.agent_jobs import AgentJobs
from iotistica.store.agents import AgentStore
from iotistica.store.job_templates import JobTemplates
from iotistica.store.jobs import JobStore
from iotistica.store.journal import Journal
from iotistica.store.ledger import LedgerStore
from iotistica.store.pool import Pool, open_pool
from iotistica.store.roles import RoleStore
from iotistica.store.series import SeriesStore
from iotistica.streams import Streams

_ENCODERS = 1
"""Threads that decode replayed letters: queries come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What handlers are made of."""

    settings: Settings
    pool: Pool
    streams: Streams
    peers: Peers
    probe: ops.Probe
    identity: Identity
    presence: Presence
    agents: AgentParts


def handlers(parts: Parts) -> list[Any]:
    """Every part of the API. Opens nothing, so that the routes can be listed without a server."""
    ledger = LedgerStore(parts.pool)
    return [
        System(parts.probe, parts.peers),
        Sessions(parts.identity, parts.settings),
        Admission(parts.identity, parts.pool, parts.settings),
        Users(parts.identity, RoleStore(parts.pool)),
        Roles(parts.identity, RoleStore(parts.pool)),
        ApiKeys(parts.identity),
        AuditLog(Journal(parts.pool)),
        Readings(SeriesStore(parts.pool)),
        Audit(Auditor(parts.streams.ledger, ledger), ledger, AgentStore(parts.pool)),
        *agent_handlers(parts.agents),
        DeadLetters(
            settings=parts.settings,
            pool=parts.pool,
            streams=parts.streams,
            executor=ThreadPoolExecutor(_ENCODERS, "encode"),
        ),
        Jobs(JobStore(parts.pool), JobTemplates(parts.pool), parts.streams.channels),
        AgentJobRoutes(
            AgentJobs(parts.pool),
            parts.streams.channels,
            most_output_bytes=parts.settings.job_output_max_bytes,
        ),
    ]


def routes(parts: Parts) -> list[Route]:
    """Every route of the API."""
    found = [route for part in handlers(parts) for route in routes_of(part)]
    return [*found, *routes_of(Documents(found))]


class Application:
    """An open application and its table of routes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.probe = parts.probe
        self.table = Table(
            routes(parts),
            parts.identity.callers,
            parts.identity.gate,
            heard=parts.presence.seen,
        )
        self._chores = [
            asyncio.create_task(parts.presence.repeat()),
            asyncio.create_task(parts.agents.run()),
        ]

    @classmethod
    async def open(
        cls, assignment: supervisor.Assignment, tokens: Tokens, *, stopping: Callable[[], bool]
    ) -> Application:
        """Open what the handlers need. Raises `ConfigError`."""
        settings = assignment.settings

        def reasons() -> Sequence[str]:
            return ["the process is stopping"] if stopping() else []

        pool = await open_pool(settings, application_name=assignment.name)
        streams = Streams(settings.require("redis_url"), outbox_most=settings.outbox_max_messages)
        agents = AgentParts.of(settings, pool, streams)
        parts = Parts(
            settings=settings,
            pool=pool,
            streams=streams,
            presence=presence_of(settings, pool, streams),
            agents=agents,
            peers=Peers(assignment.name, assignment.parameters["peers"]),
            probe=ops.Probe("iotistica-api", ready=reasons),
            identity=Identity(settings, pool, tokens, agents.device_keys),
        )
        parts.identity.start()
        return cls(parts)

    async def close(self) -> None:
        """Close the connections."""
        await tasks.end(self._chores)
        await self._parts.identity.close()
        await self._parts.peers.close()
        await self._parts.streams.close()
        await self._parts.pool.close()
