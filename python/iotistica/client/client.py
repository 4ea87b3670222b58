"""The client, and the parts of the API that it has words for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from iotistica.api.models import agents as agent_models
from iotistica.api.models import alerts as alert_models
from iotistica.api.models import endpoints as endpoint_models
from iotistica.api.models import events as event_models
from iotistica.api.models import identity as identity_models
from iotistica.api.models import jobs as job_models
from iotistica.api.models import metrics as metric_models
from iotistica.api.models import mqtt_users as mqtt_models
from iotistica.api.models import queries as query_models
from iotistica.api.models import readings as reading_models
from iotistica.api.models import target_state as target_models
from iotistica.client.transport import Login, Transport, segment

_V1 = "/api/v1"
_MQTT_USERS = f"{_V1}/auth/mqtt-users"


class Client:
    """`async with Client(url, token=…)`, `api_key=…` or `login=Login(name, password)`.

    What it has no word for, `client.transport.call` does, with the same types and errors.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        api_key: str | None = None,
        login: Login | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
    ) -> None:
        """Raises `ValueError` for more than one credential."""
        self.transport = Transport(
            url, token=token, api_key=api_key, login=login, timeout_s=timeout_s, retries=retries
        )
        self.agents = Agents(self.transport)
        self.events = Events(self.transport)
        self.targets = Targets(self.transport)
        self.jobs = Jobs(self.transport)
        self.readings = Readings(self.transport)
        self.alerts = Alerts(self.transport)
        self.users = Users(self.transport)
        self.mqtt_users = MqttUsers(self.transport)

    async def __aenter__(self) -> Client:
        """Open the session. Raises `Denied`, `StoreUnavailable`."""
        await self.transport.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.transport.close()


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

    async def tag(self, agent: UUID | str, tags: dict[str, str]) -> dict[str, str]:
        """Set tags; all that the agent has then. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}/tags"
        body = {"tags": tags}
        found = await self._transport.call("PUT", path, agent_models.AgentTags, body=body)
        return found.tags


class Events:
    """What happened."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(
        self, query: event_models.Search | None = None
    ) -> AsyncIterator[event_models.Event]:
        """Every event and change that fits, newest first, page after page."""
        asked = query or event_models.Search()
        async for page in self._transport.pages(f"{_V1}/events/search", event_models.Events, asked):
            for event in page.events:
                yield event

    async def snapshot(self, agent: UUID | str, at: str) -> event_models.Snapshot:
        """What is known of an agent at a time (ISO 8601). Raises `NotFound`."""
        path = f"{_V1}/events/device/{segment(agent)}/snapshot"
        body = event_models.Moment(timestamp=at)
        return await self._transport.call("POST", path, event_models.Snapshot, body=body)


class Targets:
    """What agents should be."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, agent: UUID | str) -> target_models.TargetState:
        """The target state of an agent. Raises `NotFound`."""
        return await self._transport.call("GET", _target(agent), target_models.TargetState)

    async def set(
        self, agent: UUID | str, target: target_models.Target, *, etag: str | None = None
    ) -> target_models.Written:
        """Replace it at once. Raises `PreconditionFailed` where it is not at `etag` any more."""
        headers = {} if etag is None else {"if-match": f'"{etag}"'}
        return await self._transport.call(
            "POST", _target(agent), target_models.Written, body=target, headers=headers
        )

    async def drift(self, agent: UUID | str) -> target_models.Drift:
        """What the agent reports against what it should be. Raises `NotFound`."""
        path = f"{_V1}/agents/{segment(agent)}/drift"
        return await self._transport.call("GET", path, target_models.Drift)

    async def apply(self, order: target_models.Apply) -> target_models.Applied:
        """One target state for many agents."""
        path = f"{_V1}/target-state/apply"
        return await self._transport.call("POST", path, target_models.Applied, body=order)


class Jobs:
    """Work for agents."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def execute(self, order: job_models.Execute) -> job_models.Job:
        """Order a job."""
        path = f"{_V1}/jobs/execute"
        done = await self._transport.call("POST", path, job_models.Executed, body=order)
        return done["job"]

    async def get(self, job: str) -> job_models.Job:
        """A job with the counts of its agents. Raises `NotFound`."""
        path = f"{_V1}/jobs/executions/{segment(job)}"
        return await self._transport.call("GET", path, job_models.Job)

    async def cancel(self, job: str, reason: str = "") -> None:
        """Stop a job wherever it has not ended. Raises `NotFound`, `Conflict`."""
        path = f"{_V1}/jobs/executions/{segment(job)}/cancel"
        body = job_models.Cancel(reason=reason)
        await self._transport.call("POST", path, job_models.Done, body=body)


class Readings:
    """Telemetry."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def timeseries(
        self, agent: UUID | str, query: reading_models.SeriesQuery
    ) -> reading_models.Series:
        """Readings of an agent, the newest first. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/timeseries"
        return await self._transport.call("GET", path, reading_models.Series, query=query)

    async def latest(self, agent: UUID | str, *metrics: str) -> reading_models.Latest:
        """The newest reading of each series, or of these metrics. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/latest"
        query = reading_models.LatestQuery(metrics=list(metrics))
        return await self._transport.call("GET", path, reading_models.Latest, query=query)

    async def hourly(
        self, agent: UUID | str, metric: str, window: reading_models.RangeQuery
    ) -> reading_models.Buckets:
        """Hours of a metric, the newest first, by device. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/{segment(metric)}/hourly"
        return await self._transport.call("GET", path, reading_models.Buckets, query=window)

    async def daily(
        self, agent: UUID | str, metric: str, window: reading_models.RangeQuery
    ) -> reading_models.Buckets:
        """Days of a metric, the newest first, by device. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/{segment(metric)}/daily"
        return await self._transport.call("GET", path, reading_models.Buckets, query=window)

    async def summary(self, agent: UUID | str) -> reading_models.ReadingSummary:
        """How many readings of each metric there are, and since when. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/summary"
        return await self._transport.call("GET", path, reading_models.ReadingSummary)

    async def query(self, body: query_models.QueryBody) -> query_models.QueryAnswer:
        """Metrics of many agents, by agents and tags. Raises `BadRequest`."""
        path = f"{_V1}/readings/query"
        return await self._transport.call("POST", path, query_models.QueryAnswer, body=body)

    async def catalog(
        self, *, search: str | None = None
    ) -> AsyncIterator[metric_models.CatalogMetric]:
        """Every metric of the tenant whose name has the text in it."""
        query = metric_models.CatalogQuery(search=search, limit=1000)
        path = f"{_V1}/metrics/catalog"
        async for page in self._transport.pages(path, metric_models.MetricCatalog, query):
            for metric in page["metrics"]:
                yield metric


class Alerts:
    """Alerts, and the rules that raise them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(
        self, query: alert_models.AlertQuery | None = None
    ) -> AsyncIterator[alert_models.AlertView]:
        """Every alert that fits, page after page."""
        asked = query or alert_models.AlertQuery()
        async for page in self._transport.pages(f"{_V1}/alerts", alert_models.AlertPage, asked):
            for alert in page.alerts:
                yield alert

    async def acknowledge(self, alert: int) -> alert_models.AlertView:
        """Say that somebody knows. Raises `NotFound`."""
        path = f"{_V1}/alerts/{alert}/acknowledge"
        return await self._transport.call("PATCH", path, alert_models.AlertView)

    async def rule(self, body: Any) -> alert_models.RuleView:
        """Make a rule (`RuleBody` of docs/alerts.md). Raises `BadRequest`."""
        path = f"{_V1}/alert-rules"
        return await self._transport.call("POST", path, alert_models.RuleView, body=body)


class Users:
    """Users of the tenant."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def me(self) -> identity_models.Me:
        """Who calls. Raises `Denied`."""
        reply = await self._transport.call("GET", f"{_V1}/auth/me", identity_models.MeReply)
        return reply.user

    async def change_password(self, current: str, new: str) -> None:
        """Replace the caller's own password. Raises `Denied`, `BadRequest`."""
        await self._transport.change_password(current, new)

    async def create(self, new: identity_models.CreateUser) -> identity_models.UserView:
        """A user. Raises `Conflict`."""
        return await self._transport.call(
            "POST", f"{_V1}/users", identity_models.UserView, body=new
        )


class MqttUsers:
    """Users of the broker, and what they may do there."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(
        self, query: mqtt_models.MqttUserQuery | None = None
    ) -> AsyncIterator[mqtt_models.MqttUserView]:
        """Every user that fits, page after page."""
        asked = query or mqtt_models.MqttUserQuery()
        async for page in self._transport.pages(_MQTT_USERS, mqtt_models.MqttUserPage, asked):
            for user in page.users:
                yield user

    async def get(self, user: int) -> mqtt_models.MqttUserDetail:
        """A user with its rules. Raises `NotFound`."""
        path = f"{_MQTT_USERS}/{user}"
        return await self._transport.call("GET", path, mqtt_models.MqttUserDetail)

    async def create(self, new: mqtt_models.MqttUserBody) -> mqtt_models.MadeMqttUser:
        """A user; its password, where none was given, is shown this once. Raises `Conflict`."""
        return await self._transport.call("POST", _MQTT_USERS, mqtt_models.MadeMqttUser, body=new)

    async def change(
        self, user: int, change: mqtt_models.MqttUserChange
    ) -> mqtt_models.MadeMqttUser:
        """Another password, let in or kept out. Raises `NotFound`, `Conflict`."""
        path = f"{_MQTT_USERS}/{user}"
        return await self._transport.call("PATCH", path, mqtt_models.MadeMqttUser, body=change)

    async def delete(self, user: int) -> None:
        """Remove a user. Raises `NotFound`, `Conflict`."""
        await self._transport.call("DELETE", f"{_MQTT_USERS}/{user}", type(None))

    async def allow(self, user: int, rule: mqtt_models.AclBody) -> mqtt_models.AclView:
        """Give a user a rule. Raises `BadRequest`, `NotFound`, `Conflict`."""
        path = f"{_MQTT_USERS}/{user}/acls"
        return await self._transport.call("POST", path, mqtt_models.AclView, body=rule)

    async def disallow(self, rule: int) -> None:
        """Remove a rule. Raises `NotFound`, `Conflict`."""
        await self._transport.call("DELETE", f"{_V1}/auth/mqtt-acls/{rule}", type(None))


def _target(agent: UUID | str) -> str:
    return f"{_V1}/agents/{segment(agent)}/target-state"
