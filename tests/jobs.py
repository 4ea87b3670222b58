"""Jobs on a real database: agents, a clock that stands still, and the chore that moves them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.rest import Answer, Rest

from iotistica.api.auth import Tokens
from iotistica.api.foreman import Foreman
from iotistica.api.http import Request
from iotistica.api.principal import Principal
from iotistica.api.route import Route, routes_of
from iotistica.api.routes.agent_jobs import AgentJobRoutes
from iotistica.api.routes.job_handlers import JobHandlerRoutes
from iotistica.api.routes.jobs import Jobs
from iotistica.api.table import Table
from iotistica.store.agent_jobs import AgentJobs
from iotistica.store.agents import AgentStore
from iotistica.store.job_handlers import JobHandlers
from iotistica.store.job_templates import JobTemplates
from iotistica.store.jobs import JobStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams

DOCUMENT = {"steps": [{"action": "run", "command": "uptime"}], "z": 1, "a": None}
MOST_OUTPUT = 1000


@dataclass
class Clock:
    """Stands still until told."""

    now: datetime = field(default_factory=lambda: datetime(2026, 3, 1, 12, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Callers:
    """Users by token, agents by their UUID as key."""

    def __init__(self, key: str, tenants: dict[str, str]) -> None:
        self._tokens = Tokens(key.encode())
        self._tenants = tenants

    async def identify(self, request: Request, route: Route) -> Principal:
        agent = request.headers.get("x-device-api-key")
        if agent is None:
            return await self._tokens.identify(request, route)
        return Principal(kind="agent", tenant=self._tenants[agent], id=agent)


@dataclass
class Yard:
    """The routes of jobs and the foreman, on one clock."""

    rest: Rest
    pool: Pool
    streams: Streams
    foreman: Foreman
    store: AgentJobs
    clock: Clock
    tenants: dict[str, str]

    @property
    def tenant(self) -> str:
        return self.rest.tenant

    async def hire(self, count: int, tenant: str | None = None) -> list[str]:
        """New agents, by UUID."""
        owner = tenant or self.tenant
        agents = sorted(str(uuid.uuid4()) for _ in range(count))
        await AgentStore(self.pool).ensure_tenant(owner)
        names = [(agent, f"pump-{index}") for index, agent in enumerate(agents)]
        await AgentStore(self.pool).add_agents(owner, names)
        self.tenants |= dict.fromkeys(agents, owner)
        return agents

    async def execute(self, **order: Any) -> dict[str, Any]:
        """Order a job; for all, unless told otherwise."""
        whole = {"job_name": "j", "job_document": DOCUMENT, "target_type": "all", **order}
        answer = await self.rest.ask("POST", "/api/v1/jobs/execute", whole)
        assert answer.status == 201, answer.body
        return dict(answer.body["job"])

    async def next(self, agent: str) -> Answer:
        """The agent polls."""
        return await self.rest.ask("GET", f"/api/v1/agents/{agent}/jobs/next", key=agent)

    async def say(self, agent: str, job: str, **said: Any) -> Answer:
        """The agent reports."""
        path = f"/api/v1/agents/{agent}/jobs/{job}/status"
        return await self.rest.ask("PATCH", path, said, key=agent)

    async def finish(self, agents: Sequence[str], job: str, status: str) -> None:
        """They report this end."""
        for agent in agents:
            assert (await self.say(agent, job, status=status)).status == 200

    async def job(self, job: str) -> dict[str, Any]:
        """As an operator sees it."""
        answer = await self.rest.ask("GET", f"/api/v1/jobs/executions/{job}")
        assert answer.status == 200, answer.body
        return dict(answer.body)

    async def counts(self, job: str) -> dict[str, int]:
        """Agents by where they stand, without those of which there are none."""
        found = await self.job(job)
        named = ((name, value) for name, value in found.items() if name.endswith("_agents"))
        return {
            name.removesuffix("_agents"): value
            for name, value in named
            if isinstance(value, int) and value
        }

    async def part(self, agent: str) -> dict[str, Any]:
        """The newest job of an agent."""
        answer = await self.rest.ask("GET", f"/api/v1/agents/{agent}/jobs")
        assert answer.status == 200, answer.body
        return dict(answer.body["jobs"][0])

    async def told(self) -> list[tuple[str, bytes]]:
        """Topics and payloads of what waits in the outbox, which is empty then."""
        entries = await self.streams.outbox.read("test", count=100_000)
        await self.streams.outbox.done([entry_id for entry_id, _ in entries])
        found = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]
        return [(one[b"topic"].decode(), one[b"payload"]) for one in found]


def open_yard(rest: Rest, pool: Pool, streams: Streams, key: str) -> Yard:
    """Everything on one clock."""
    clock, tenants = Clock(), dict[str, str]()
    store, channels = AgentJobs(pool), streams.channels
    parts = [
        JobHandlerRoutes(JobHandlers(pool)),
        Jobs(JobStore(pool), JobTemplates(pool), channels, clock=clock),
        AgentJobRoutes(store, channels, most_output_bytes=MOST_OUTPUT, clock=clock),
    ]
    table = Table([one for part in parts for one in routes_of(part)], Callers(key, tenants))
    return Yard(
        rest=Rest(table, rest.tenant, rest.identity),
        pool=pool,
        streams=streams,
        foreman=Foreman(pool, streams.outbox, channels, clock=clock),
        store=store,
        clock=clock,
        tenants=tenants,
    )
