"""Agents, their tags, and what they report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from iotistica.api.models import agents as agent_models
from iotistica.api.models import endpoints as endpoint_models
from iotistica.api.models import reports as report_models
from iotistica.api.models import target_state as target_models
from iotistica.client.transport import Transport, segment

_V1 = "/api/v1"


class Agents:
    """Agents and their tags."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(
        self, query: agent_models.AgentQuery | None = None
    ) -> AsyncIterator[agent_models.Agent]:
        """Every agent that fits, page after page."""
        asked = query or agent_models.AgentQuery(limit=100)
        async for page in self._transport.pages(f"{_V1}/agents", agent_models.AgentPage, asked):
            for agent in page.agents:
                yield agent

    async def get(self, agent: UUID | str) -> agent_models.Agent:
        """One agent. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}"
        return await self._transport.call("GET", path, agent_models.Agent)

    async def create(self, new: agent_models.NewAgent) -> agent_models.Agent:
        """An agent that has not registered itself. Raises `Conflict`."""
        made = await self._transport.call("POST", f"{_V1}/agents", agent_models.Changed, body=new)
        return made.device

    async def set_active(self, agent: UUID | str, is_active: bool) -> agent_models.Agent:
        """Let an agent in, or shut it out: its key and its broker account. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}/active"
        body = agent_models.Activation(is_active=is_active)
        return (await self._transport.call("PATCH", path, agent_models.Changed, body=body)).device

    async def delete(self, agent: UUID | str) -> None:
        """Remove an agent; its readings stay. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}"
        await self._transport.call("DELETE", path, agent_models.Done)

    async def devices(self, agent: UUID | str) -> list[endpoint_models.Endpoint]:
        """The devices behind an agent, with what it says of them. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}/devices"
        found = await self._transport.call("GET", path, endpoint_models.Endpoints)
        return found.devices

    async def update(self, agent: UUID | str, order: target_models.Update) -> target_models.Sent:
        """Have it install a version of its software; `updates` tells what becomes of it.

        Raises `NotFound`.
        """
        path = f"{_V1}/agents/{segment(agent)}/update-agent"
        return await self._transport.call("POST", path, target_models.Sent, body=order)

    async def updates(self, agent: UUID | str) -> AsyncIterator[target_models.UpdateView]:
        """Every update of an agent, newest first. Raises `NotFound`."""
        path, query = f"{_V1}/agents/{segment(agent)}/updates", target_models.UpdateQuery()
        async for page in self._transport.pages(path, target_models.Updates, query):
            for update in page.updates:
                yield update

    async def logs(
        self, agent: UUID | str, query: report_models.LogQuery | None = None
    ) -> AsyncIterator[report_models.LogLine]:
        """What its containers wrote, newest first, page after page. Raises `NotFound`."""
        path, asked = f"{_V1}/agents/{segment(agent)}/logs", query or report_models.LogQuery()
        async for page in self._transport.pages(path, report_models.LogPage, asked):
            for line in page["logs"]:
                yield line

    async def metrics(
        self, agent: UUID | str, query: report_models.MetricsQuery | None = None
    ) -> list[report_models.MetricsView]:
        """Its processor, memory and disk, the newest first. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}/metrics"
        page = await self._transport.call("GET", path, report_models.MetricsPage, query=query)
        return page["metrics"]

    async def add_tags(self, agents: Sequence[UUID], tags: dict[str, str]) -> int:
        """Set tags of agents and leave their others; how many of the agents there are."""
        body = agent_models.BulkTags(agent_uuids=list(agents), tags=tags)
        path = f"{_V1}/agents/tags/bulk"
        return (await self._transport.call("POST", path, agent_models.Affected, body=body)).count

    async def untag(self, agent: UUID | str, *keys: str) -> dict[str, str]:
        """Take the tags of these keys away, or all; what is left. Raises `NotFound`."""
        path, query = (
            f"{_V1}/agents/{segment(agent)}/tags",
            agent_models.TagChoice(key=list(keys)),
        )
        found = await self._transport.call("DELETE", path, agent_models.AgentTags, query=query)
        return found.tags

    async def tag(self, agent: UUID | str, tags: dict[str, str]) -> dict[str, str]:
        """Give an agent these tags and no others. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}/tags"
        body = {"tags": tags}
        found = await self._transport.call("PUT", path, agent_models.AgentTags, body=body)
        return found.tags
