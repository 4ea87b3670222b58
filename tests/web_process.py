"""The control path as one web process has it, without a web server; several share the servers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.rest import KEY, Answer, Rest

from iotistica import tasks
from iotistica.api import control_path
from iotistica.api.auth import Tokens
from iotistica.api.http import Request
from iotistica.api.principal import Principal
from iotistica.api.route import Route, routes_of
from iotistica.api.routes.state_poll import StatePoll
from iotistica.api.table import Table
from iotistica.errors import Denied
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams


@dataclass
class DeviceKeys:
    """Agents by their keys, all of them remembered."""

    agents: dict[str, Principal] = field(default_factory=dict)
    tokens: Tokens = field(default_factory=lambda: Tokens(KEY.encode()))

    def remembered(self, key: str) -> Principal | None:
        return self.agents.get(key)

    async def identify(self, request: Request, route: Route) -> Principal:
        key = request.headers.get("x-device-api-key")
        if key is None:
            return await self.tokens.identify(request, route)
        if key not in self.agents:
            raise Denied("the device key is not valid")
        return self.agents[key]


class Control(Rest):
    """One process: asks its routes as an operator, polls as agents."""

    def __init__(self, pool: Pool, streams: Streams, tenant: str, settings: Settings) -> None:
        self.pool = pool
        self.keys = DeviceKeys()
        self.seen: list[str] = []
        parts = control_path.handlers(
            settings,
            pool,
            streams,
            device_keys=self.keys,
            seen=lambda *agents: self.seen.extend(agents),
        )
        self.poller = next(part for part in parts if isinstance(part, StatePoll))
        self.cache = self.poller._cache
        routes = [route for part in parts for route in routes_of(part)]
        # Identity: tokens need none here.
        super().__init__(Table(routes, self.keys), tenant, None)  # type: ignore[arg-type]

    async def add_agent(self, tenant: str | None = None, name: str = "a") -> str:
        """A new agent; its UUID, which is its key too."""
        agent, owner = str(uuid.uuid4()), tenant or self.tenant
        await AgentStore(self.pool).ensure_tenant(owner)
        await AgentStore(self.pool).add_agents(owner, [(agent, name)])
        self.know(agent, owner)
        return agent

    def know(self, agent: str, tenant: str | None = None) -> None:
        """Let the agent in by its UUID as its key."""
        self.keys.agents[agent] = Principal(kind="agent", tenant=tenant or self.tenant, id=agent)

    async def poll(self, agent: str, etag: str | None = None) -> Answer:
        headers = {} if etag is None else {"if-none-match": etag}
        target = f"/api/v1/device/{agent}/state"
        return await self.ask("GET", target, key=agent, headers=headers)

    def at_once(self, agent: str, **headers: str) -> Any:
        """The short cut's answer."""
        given = {"x-device-api-key": agent} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.poller.answer(f"/api/v1/device/{agent}/state", given.get)

    async def write(self, method: str, agent: str, rest: str, body: Any = None, **more: Any) -> Any:
        """A change by an operator that must pass; the answer's body."""
        answer = await self.ask(method, f"/api/v1/agents/{agent}{rest}", body, **more)
        assert answer.status in (200, 201, 202), answer.body
        return answer.body


@asynccontextmanager
async def running(control: Control) -> AsyncIterator[Control]:
    """The process with what runs beside its handlers."""
    task = asyncio.create_task(control.poller.run())
    try:
        async with asyncio.timeout(10):
            await control.cache.heard.wait()
            while control.cache._follower._mark is None:
                await asyncio.sleep(0.01)
        yield control
    finally:
        await tasks.end([task])
