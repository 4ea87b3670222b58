"""The web application: everything that answers a request, whichever server carries it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from iotistica import ops, supervisor, tasks
from iotistica.api import control_path
from iotistica.api.agent_parts import AgentParts, agent_handlers
from iotistica.api.alerting import alert_handlers
from iotistica.api.auth import Tokens
from iotistica.api.broker_parts import broker_handlers
from iotistica.api.express import Express, Running
from iotistica.api.identity import Identity
from iotistica.api.live.channels import Stores
from iotistica.api.live.entrance import Entrance
from iotistica.api.live.hub import Hub
from iotistica.api.live.listener import Listener
from iotistica.api.monitoring import monitoring_handlers
from iotistica.api.peers import Peers
from iotistica.api.presence import Presence, presence_of
from iotistica.api.queries import query_handlers
from iotistica.api.route import Route, routes_of
from iotistica.api.routes import state_poll
from iotistica.api.routes.admin import Admin
from iotistica.api.routes.admission import Admission
from iotistica.api.routes.agent_jobs import AgentJobRoutes
from iotistica.api.routes.agent_reports import AgentReports
from iotistica.api.routes.api_keys import ApiKeys
from iotistica.api.routes.audit import Audit
from iotistica.api.routes.audit_log import AuditLog
from iotistica.api.routes.dead_letters import DeadLetters
from iotistica.api.routes.device_reports import DeviceReports
from iotistica.api.routes.dictionaries import AgentDictionaries
from iotistica.api.routes.documents import Documents
from iotistica.api.routes.events import Events
from iotistica.api.routes.job_handlers import JobHandlerRoutes
from iotistica.api.routes.jobs import Jobs
from iotistica.api.routes.live import Live
from iotistica.api.routes.roles import Roles
from iotistica.api.routes.sessions import Sessions
from iotistica.api.routes.system import System
from iotistica.api.routes.users import Users
from iotistica.api.table import Table
from iotistica.audit.auditor import Auditor
from iotistica.settings import Settings
from iotistica.store.agent_jobs import AgentJobs
from iotistica.store.agents import AgentStore
from iotistica.store.chronicle import Chronicle
from iotistica.store.job_handlers import JobHandlers
from iotistica.store.job_templates import JobTemplates
from iotistica.store.jobs import JobStore
from iotistica.store.journal import Journal
from iotistica.store.ledger import LedgerStore
from iotistica.store.live import LiveStore
from iotistica.store.pool import Pool, open_pool
from iotistica.store.roles import RoleStore
from iotistica.store.targets import TargetStore
from iotistica.streams import Streams

EXPRESS_PATHS = (state_poll.PATH,)
"""Routes that have a short cut; known before anything is open."""
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
        Live(),
        Sessions(parts.identity, parts.settings),
        Admission(parts.identity, parts.pool, parts.settings),
        Users(parts.identity, RoleStore(parts.pool)),
        Roles(parts.identity, RoleStore(parts.pool)),
        ApiKeys(parts.identity),
        AuditLog(Journal(parts.pool)),
        Events(Chronicle(parts.pool), TargetStore(parts.pool)),
        Admin(parts.settings, parts.pool, parts.streams),
        *query_handlers(parts.settings, parts.pool),
        Audit(Auditor(parts.streams.ledger, ledger), ledger, AgentStore(parts.pool)),
        *agent_handlers(parts.agents),
        *broker_handlers(parts.agents, parts.identity.limiter),
        DeadLetters(
            settings=parts.settings,
            pool=parts.pool,
            streams=parts.streams,
            executor=ThreadPoolExecutor(_ENCODERS, "encode"),
        ),
        *control_path.handlers(
            parts.settings,
            parts.pool,
            parts.streams,
            device_keys=parts.agents.device_keys,
            seen=parts.presence.seen,
        ),
        *alert_handlers(parts.settings, parts.pool),
        *monitoring_handlers(parts.settings, parts.pool, parts.streams),
        DeviceReports(parts.settings, parts.pool, parts.streams),
        AgentReports(parts.pool),
        AgentDictionaries(parts.settings, parts.pool, parts.streams),
        Jobs(JobStore(parts.pool), JobTemplates(parts.pool), parts.streams.channels),
        JobHandlerRoutes(JobHandlers(parts.pool)),
        AgentJobRoutes(
            AgentJobs(parts.pool),
            parts.streams.channels,
            most_output_bytes=parts.settings.job_output_max_bytes,
        ),
    ]


def routes(parts: Parts) -> list[Route]:
    """Every route of the API."""
    return _routes(handlers(parts))


def _routes(found: Sequence[Any]) -> list[Route]:
    declared = [route for part in found for route in routes_of(part)]
    return [*declared, *routes_of(Documents(declared))]


class Application:
    """An open application and its table of routes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.probe = parts.probe
        self._handlers = handlers(parts)
        self._running: list[asyncio.Task[None]] = []
        self.express = {one.path: one for one in self._handlers if isinstance(one, Express)}
        """Short cuts by their routes, which are among `EXPRESS_PATHS`."""
        self.table = Table(
            _routes(self._handlers),
            parts.identity.callers,
            parts.identity.gate,
            heard=parts.presence.seen,
        )
        store = LiveStore(parts.pool)
        self._hub = Hub(parts.settings.require("redis_url"))
        self.live = Listener(
            table=self.table,
            entrance=Entrance(
                self.table,
                parts.identity.callers,
                store,
                cors_origins=parts.settings.cors_origins,
            ),
            hub=self._hub,
            stores=Stores(store, parts.streams),
            settings=parts.settings,
        )
        """WebSockets; whoever opened the application has a listening socket for it."""

    @classmethod
    async def open(
        cls, assignment: supervisor.Assignment, tokens: Tokens, *, stopping: Callable[[], bool]
    ) -> Application:
        """Open what the handlers need. Raises `ConfigError`."""
        settings = assignment.settings

        def reasons() -> Sequence[str]:
            return ["the process is stopping"] if stopping() else []

        pool = await open_pool(settings, application_name=assignment.name)
        streams = Streams.of(settings)
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
        opened = cls(parts)
        opened.start()
        return opened

    def start(self) -> None:
        """Start what runs beside the handlers."""
        works = [one.run() for one in self._handlers if isinstance(one, Running)]
        works += [
            self._parts.presence.chore().repeat(),
            self._parts.agents.run(),
            self._hub.run(),
        ]
        self._running = [asyncio.create_task(work) for work in works]

    async def close(self) -> None:
        """End what runs beside the handlers, and close the connections."""
        await self.live.close()
        await tasks.end(self._running)
        await self._parts.identity.close()
        await self._parts.peers.close()
        await self._parts.streams.close()
        await self._parts.pool.close()
