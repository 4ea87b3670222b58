"""The Python client against the running Cloud API, through the front door."""

from __future__ import annotations

import asyncio
import secrets
import socket
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from tests.cloud_api import AGENT, FOREIGN, ODD, TENANT, Api, token
from tests.receiver import receiving

from iotistica.api.models.agents import AgentQuery, NewAgent
from iotistica.api.models.endpoints import EndpointWritten
from iotistica.api.models.events import Search
from iotistica.api.models.identity import CreateKey, CreateUser, MadeKey
from iotistica.api.models.jobs import Execute
from iotistica.api.models.mqtt_users import (
    AclBody,
    MqttUserBody,
    MqttUserChange,
    MqttUserQuery,
)
from iotistica.api.models.queries import QueryBody, SubQuery
from iotistica.api.models.readings import RangeQuery, SeriesQuery
from iotistica.api.models.target_state import Target, Update
from iotistica.client import Client, Login
from iotistica.errors import (
    BadRequest,
    Conflict,
    Denied,
    Forbidden,
    IotisticaError,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
    TooSlow,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
PASSWORD = "correct horse battery"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client(api.url, token=token()) as client:
        yield client


async def test_agents_are_made_found_and_removed(client: Client) -> None:
    name = f"press [{secrets.token_hex(3)}] ü,%"
    made = [await client.agents.create(NewAgent(device_name=f"{name}{n}")) for n in range(5)]
    found = [one async for one in client.agents.all(AgentQuery(limit=2))]
    assert {one.uuid for one in made} <= {one.uuid for one in found}
    assert FOREIGN not in {str(one.uuid) for one in found}
    [one] = [one async for one in client.agents.all(AgentQuery(name=f"{name}3"))]
    assert one.uuid == made[3].uuid
    assert await client.agents.tag(one.uuid, {"hall": "3, left"}) == {"hall": "3, left"}
    tagged = [one.uuid async for one in client.agents.all(AgentQuery(tag=["hall:3, left"]))]
    assert tagged == [one.uuid]
    assert (await client.agents.set_active(one.uuid, False)).is_active is False
    await client.agents.delete(one.uuid)
    with pytest.raises(NotFound, match=f"agent {one.uuid} does not exist"):
        await client.agents.get(one.uuid)
    with pytest.raises(NotFound):
        await client.agents.get(FOREIGN)


async def test_readings_come_with_their_types(client: Client) -> None:
    series = await client.readings.timeseries(AGENT, SeriesQuery(metric=ODD, limit=3))
    assert [one["value"] for one in series["readings"]] == [1499, 1498, 1497]
    assert series["readings"][0]["time"].tzinfo is not None
    day = RangeQuery(start="2024-10-04", end="2024-10-04T23:00:00Z")
    for buckets in (
        await client.readings.hourly(AGENT, ODD, day),
        await client.readings.daily(AGENT, ODD, day),
    ):
        assert buckets["metric_name"] == ODD
        assert [one["sample_count"] for one in buckets["aggregates"]] == [1500]
    summary = await client.readings.summary(AGENT)
    assert {one["metric_name"]: one["total_readings"] for one in summary["metrics"]} == {
        ODD: 1500,
        "plain": 1500,
    }
    asked = SubQuery(metric=ODD, agent_uuids=[uuid.UUID(AGENT)], downsample="1d-max")
    found = await client.readings.query(QueryBody(start="2024-10-04", queries=[asked]))
    assert [point["value"] for point in found["results"][0][0]["dps"]] == [1499.0]
    assert {one["metric_name"] async for one in client.readings.catalog()} == {ODD, "plain"}
    latest = await client.readings.latest(AGENT, ODD, "plain")
    assert {one["metric_name"] for one in latest["readings"]} == {ODD, "plain"}
    with pytest.raises(BadRequest, match="parameter start is 'x'"):
        await client.readings.timeseries(AGENT, SeriesQuery(start="x"))


async def test_target_states_are_written_once_at_an_etag(client: Client) -> None:
    first = await client.targets.set(AGENT, Target(apps=[{"appId": "1", "name": "a"}]))
    second = Target(apps=[{"appId": "1", "name": "b"}])
    changed = await client.targets.set(AGENT, second, etag=first.etag)
    assert changed.version == first.version + 1
    with pytest.raises(PreconditionFailed):
        await client.targets.set(AGENT, second, etag=first.etag)
    assert (await client.targets.get(AGENT)).version == changed.version


async def test_what_happened_and_what_is_behind_an_agent(client: Client) -> None:
    made = await client.agents.create(NewAgent(device_name="line 4"))
    endpoint = {"name": "plc", "protocol": "modbus", "connection": {"host": "h"}}
    path = f"/api/v1/agents/{made.uuid}/devices?deploy=true"
    written = await client.transport.call("POST", path, EndpointWritten, body=endpoint)
    [device] = await client.agents.devices(made.uuid)
    assert (device.name, device.deployment_status) == ("plc", "deployed")
    assert device.config == written.device
    for version in ("1.0", "2.0"):
        await client.agents.update(made.uuid, Update(version=version))
    updates = [one async for one in client.agents.updates(made.uuid)]
    assert [(one.target_version, one.status) for one in updates] == [
        ("2.0", "pending"),
        ("1.0", "pending"),
    ]
    query = Search(deviceUuid=uuid.UUID(made.uuid), eventTypes=["agent.update_ordered"], limit=1)
    events = [one async for one in client.events.all(query)]
    assert [one.data["after"]["version"] for one in events] == ["2.0", "1.0"]
    then = await client.events.snapshot(made.uuid, events[0].timestamp.isoformat())
    assert then.target is not None
    assert then.target.config == {"endpoints": [written.device]}
    with pytest.raises(NotFound):
        await client.agents.devices(FOREIGN)


async def test_jobs_are_ordered_and_canceled(client: Client) -> None:
    document = {"steps": [{"action": "run"}]}
    job = await client.jobs.execute(
        Execute(
            job_name="look",
            job_document=document,
            target_type="device",
            target_agents=[uuid.UUID(AGENT)],
        )
    )
    assert (await client.jobs.get(job["job_id"]))["total_agents"] == 1
    await client.jobs.cancel(job["job_id"], "changed my mind")
    assert (await client.jobs.get(job["job_id"]))["status"] == "CANCELED"


async def test_a_login_is_renewed_when_its_token_has_expired(api: Api, client: Client) -> None:
    name = f"ada-{secrets.token_hex(4)}"
    user = CreateUser(
        username=name, email=f"{name}@example.org", password="for one day", role="operator"
    )
    await client.users.create(user)
    with pytest.raises(Conflict, match="is taken"):
        await client.users.create(user)
    async with Client(api.url, login=Login(name, "for one day", TENANT)) as ada:
        await ada.users.change_password("for one day", PASSWORD)
        assert (await ada.users.me()).username == name
        before = ada.transport._refresh
        ada.transport._token = token(key="x" * 64)
        assert (await ada.users.me()).username == name
        assert ada.transport._refresh != before
        with pytest.raises(Forbidden, match="lacks the permission user:write"):
            await ada.users.create(user)
        # Somebody logged the session out: the password still opens another.
        ada.transport._token = ada.transport._refresh = "gone"
        assert (await ada.users.me()).username == name
    with pytest.raises(Denied):
        async with Client(api.url, login=Login(name, "wrong", TENANT)):
            pass


async def test_a_service_has_a_key(api: Api, client: Client) -> None:
    body = CreateKey(name=f"reader-{secrets.token_hex(4)}", permissions=["data:read"])
    made = await client.transport.call("POST", "/api/v1/auth/api-keys", MadeKey, body=body)
    async with Client(api.url, api_key=made.key) as service:
        assert (await service.readings.latest(AGENT))["count"] == 2
        with pytest.raises(Forbidden):
            await service.agents.delete(AGENT)


async def test_a_query_that_takes_too_long_is_not_asked_again(api: Api, client: Client) -> None:
    connection = await asyncpg.connect(api.environment["DATABASE_URL"])
    try:
        await connection.execute("BEGIN; LOCK TABLE readings_latest IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(2 * 3):
            with pytest.raises(TooSlow, match=r"longer than 3 s \(IOTISTICA_QUERY_TIMEOUT_S\)"):
                await anext(client.readings.catalog())
    finally:
        await connection.close()


async def test_an_api_that_is_away_is_unavailable(api: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}", token="x", retries=1) as client:
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port} does not answer"):
            await client.users.me()


async def test_a_database_that_is_away_is_asked_again(api: Api, client: Client) -> None:
    connection = await asyncpg.connect(api.environment["DATABASE_URL"])
    await connection.execute("ALTER TABLE readings_latest RENAME TO away")
    query = client.readings.latest(AGENT)
    try:
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            async with Client(api.url, token=token(), retries=0) as hasty:
                await hasty.readings.latest(AGENT)
    finally:
        await connection.execute("ALTER TABLE away RENAME TO readings_latest")
        await connection.close()
    assert (await query)["count"] == 2


async def test_users_of_the_broker(client: Client) -> None:
    rule = AclBody(topic=f"i/{TENANT}/a/+/endpoints/#", access=5)
    name = secrets.token_hex(4)
    made = await client.mqtt_users.create(MqttUserBody(username=name, acls=[rule]))
    assert made.username == f"{TENANT}.{name}"
    assert made.password is not None
    with pytest.raises(Conflict):
        await client.mqtt_users.create(MqttUserBody(username=name))
    assert [one.id async for one in client.mqtt_users.all(MqttUserQuery(limit=1))] == [made.id]
    changed = await client.mqtt_users.change(made.id, MqttUserChange(is_active=False))
    assert (changed.is_active, changed.password) == (False, None)
    more = await client.mqtt_users.allow(made.id, AclBody(topic=f"i/{TENANT}/x", access=2))
    with pytest.raises(BadRequest, match="it must lie within the tenant"):
        await client.mqtt_users.allow(made.id, AclBody(topic="#", access=7))
    await client.mqtt_users.disallow(made.acls[0].id)
    assert [one.id for one in (await client.mqtt_users.get(made.id)).acls] == [more.id]
    await client.mqtt_users.delete(made.id)
    with pytest.raises(NotFound):
        await client.mqtt_users.get(made.id)


async def test_credentials_follow_no_redirect_and_strangers_are_no_crash() -> None:
    async with receiving(302, 200) as stranger, Client(stranger.url, api_key="k") as client:
        with pytest.raises(IotisticaError, match="the API answered 302"):
            await client.agents.tag(AGENT, {})
        assert len(stranger.received) == 1
        with pytest.raises(IotisticaError, match=f"{stranger.url} answers what this client"):
            await client.agents.tag(AGENT, {})


async def test_one_credential_is_enough() -> None:
    with pytest.raises(ValueError, match="one of token, api_key and login"):
        Client("http://x", token="t", api_key="k")
