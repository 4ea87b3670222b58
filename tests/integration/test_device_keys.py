"""Keys of agents: who has them, how fast a change is noticed, and rotation."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import pytest
from tests.agent_double import AgentDouble
from tests.integration.test_registration import ByTable, provisioning_key
from tests.rest import KEY, Rest

from iotistica import keys
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.device_keys import DeviceKeys
from iotistica.errors import Forbidden
from iotistica.settings import Settings
from iotistica.store.agent_keys import AgentKeyStore
from iotistica.store.pool import Pool, open_pool
from iotistica.streams import Streams
from iotistica.streams.notices import Notices

Make = Callable[..., AgentDouble]


@pytest.fixture
async def agent(rest: Rest) -> AgentDouble:
    """An agent that is in."""
    double = AgentDouble(ask=ByTable(rest), provisioning_key=await provisioning_key(rest))
    await double.come_in()
    return double


def known(pool: Pool, **changes: object) -> DeviceKeys:
    """What another process remembers."""
    settings = Settings.load(jwt_secret=KEY, **changes)
    return DeviceKeys(AgentKeyStore(pool), AgentDigests(settings), settings)


@asynccontextmanager
async def listening(device_keys: DeviceKeys, redis_url: str) -> AsyncIterator[None]:
    notices, heard = Notices(redis_url, keys.AGENTS_CHANNEL), asyncio.Event()
    task = asyncio.create_task(device_keys.run(notices, heard))
    await asyncio.wait_for(heard.wait(), 10)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await notices.close()


async def refused(device_keys: DeviceKeys, key: str) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                if await device_keys.identify(key) is None:
                    return
            except Forbidden:
                return
            await asyncio.sleep(0.01)


async def test_a_key_is_taken_from_either_header(rest: Rest, agent: AgentDouble) -> None:
    path = f"/api/v1/device/{agent.uuid}/ping"
    for headers in (
        {"X-Device-API-Key": agent.api_key},
        {"Authorization": f"Bearer {agent.api_key}"},
        {"X-Device-API-Key": "unknown", "X-Device-API-Key-Previous": agent.api_key},
    ):
        answer = await rest.ask("GET", path, role=None, headers=headers)
        assert answer.status == 200
    wrong = await rest.ask("GET", path, key=secrets.token_hex(32))
    assert (wrong.status, wrong.body["error"]) == (401, "Unauthorized")
    assert (await rest.ask("GET", path, role=None)).status == 401
    assert (await rest.ask("GET", path, key="x" * 600)).status == 401


async def test_a_known_key_asks_no_server(pool: Pool, database: str, agent: AgentDouble) -> None:
    """The steady state of the poll: no query, no trip to Redis."""
    own = await open_pool(Settings(database_url=database), application_name="test")
    device_keys = known(own)
    first = await device_keys.identify(agent.api_key)
    await own.close()
    assert first is not None
    for _ in range(1000):
        assert await device_keys.identify(agent.api_key) is first


async def test_a_deactivated_agent_is_refused_everywhere_at_once(
    rest: Rest, pool: Pool, redis_url: str, agent: AgentDouble
) -> None:
    elsewhere = known(pool, device_key_recheck_s=3600)
    async with listening(elsewhere, redis_url):
        assert await elsewhere.identify(agent.api_key) is not None
        path = f"/api/v1/agents/{agent.uuid}/active"
        answer = await rest.ask("PATCH", path, {"is_active": False})
        assert answer.body["device"]["is_active"] is False
        await refused(elsewhere, agent.api_key)
        ping = await agent.call("GET", f"/api/v1/device/{agent.uuid}/ping")
        assert (ping.status, ping.body["message"]) == (403, f"agent {agent.uuid} is deactivated")
        # Nor does it get in again by registering.
        assert (await agent.register()).status == 403
        assert (await agent.challenge()).status == 404
        await rest.ask("PATCH", path, {"is_active": True})
        assert (await agent.call("GET", f"/api/v1/device/{agent.uuid}/ping")).status == 200


async def test_a_change_that_nobody_told_is_noticed_at_the_next_check(
    pool: Pool, connection: asyncpg.Connection, agent: AgentDouble
) -> None:
    device_keys = known(pool)
    assert await device_keys.identify(agent.api_key) is not None
    await connection.execute("UPDATE agents SET is_active = false")
    assert await device_keys.identify(agent.api_key) is not None
    await device_keys.recheck()
    with pytest.raises(Forbidden):
        await device_keys.identify(agent.api_key)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE agents SET is_active = false",
        "UPDATE agents SET device_api_key_hash = 'another'",
        "UPDATE agents SET pop_verified = false",
        "DELETE FROM agents",
    ],
)
async def test_a_check_reads_only_what_changed(
    pool: Pool,
    connection: asyncpg.Connection,
    agent: AgentDouble,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device_keys = known(pool)
    await device_keys.recheck()
    first = await device_keys.identify(agent.api_key)
    assert first is not None
    with monkeypatch.context() as patch:
        patch.delattr(AgentKeyStore, "holders")
        # What agents do all the time is no change of a key.
        await connection.execute("UPDATE agents SET last_seen_at = now(), name = name")
        await device_keys.recheck()
        assert await device_keys.identify(agent.api_key) is first
        await connection.execute(change)
        await device_keys.recheck()
    with suppress(Forbidden):
        assert await device_keys.identify(agent.api_key) is None


async def test_what_was_missed_is_checked_when_redis_is_back(
    pool: Pool, connection: asyncpg.Connection, redis_url: str, agent: AgentDouble
) -> None:
    device_keys = known(pool, device_key_recheck_s=3600)
    assert await device_keys.identify(agent.api_key) is not None
    await connection.execute("UPDATE agents SET is_active = false")
    async with listening(device_keys, redis_url):
        await refused(device_keys, agent.api_key)


async def test_an_agent_is_known_while_the_database_is_away(
    pool: Pool, database: str, agent: AgentDouble
) -> None:
    own = await open_pool(Settings(database_url=database), application_name="test")
    device_keys = known(own)
    assert await device_keys.identify(agent.api_key) is not None
    own.terminate()
    assert await device_keys.identify(agent.api_key) is not None


async def test_rotation_gives_a_new_key_and_leaves_the_old_one_a_while(
    rest: Rest, agent: AgentDouble
) -> None:
    path = f"/api/v1/device/{agent.uuid}"
    status = await agent.call("GET", f"{path}/key-status")
    assert status.body["previousKeyValid"] is False
    assert status.body["lastRotatedAt"] is None
    old, before = agent.api_key, datetime.now(UTC)
    answer = await agent.rotate()
    assert answer.status == 200
    new = answer.body["newApiKey"]
    assert len(new) == 64
    assert new != old
    ends = datetime.fromisoformat(answer.body["gracePeriodEnds"])
    assert abs(ends - before - timedelta(days=7)) < timedelta(seconds=10)
    for key in (old, new):
        assert (await rest.ask("GET", f"{path}/ping", key=key)).status == 200
    status = await agent.call("GET", f"{path}/key-status")
    assert status.body["previousKeyValid"] is True
    assert datetime.fromisoformat(status.body["gracePeriodEnds"]) == ends
    history = (await agent.call("GET", f"{path}/rotation-history")).body
    assert history["count"] == 1
    assert history["history"][0]["reason"] == "requested by the agent"
    assert history["history"][0]["ipAddress"] == "192.0.2.1"
    # Operators see it too; those of others do not.
    assert (await rest.ask("GET", f"{path}/rotation-history")).body == history
    foreign = await rest.ask("GET", f"{path}/rotation-history", tenant="0" * 12)
    assert foreign.status == 404
    assert (await rest.ask("GET", f"{path}/key-status", tenant="0" * 12)).status == 404


async def test_an_old_key_ends_with_its_grace_period(
    rest: Rest, pool: Pool, connection: asyncpg.Connection, agent: AgentDouble
) -> None:
    old = agent.api_key
    await agent.rotate()
    await connection.execute("UPDATE agent_key_history SET valid_until = now() + '0.3 s'::interval")
    device_keys = known(pool)
    assert await device_keys.identify(old) is not None
    await refused(device_keys, old)
    path = f"/api/v1/device/{agent.uuid}"
    assert (await rest.ask("POST", f"{path}/rotate-key", key=old)).status in (401, 409)


async def test_a_rotation_whose_answer_was_lost_is_made_again_by_the_old_key(
    rest: Rest, agent: AgentDouble
) -> None:
    path, old = f"/api/v1/device/{agent.uuid}", agent.api_key
    lost = (await rest.ask("POST", f"{path}/rotate-key", key=old)).body
    again = (await rest.ask("POST", f"{path}/rotate-key", {"reason": "lost"}, key=old)).body
    # The key that nobody got is void, and the old one does not live longer for it.
    assert (await rest.ask("GET", f"{path}/ping", key=lost["newApiKey"])).status == 401
    assert again["gracePeriodEnds"] == lost["gracePeriodEnds"]
    for key in (old, again["newApiKey"]):
        assert (await rest.ask("GET", f"{path}/ping", key=key)).status == 200
    history = (await rest.ask("GET", f"{path}/rotation-history", key=old)).body["history"]
    assert [one["reason"] for one in history] == ["lost", "requested by the agent"]


async def test_two_rotations_at_once_leave_one_key(rest: Rest, agent: AgentDouble) -> None:
    path, old = f"/api/v1/device/{agent.uuid}", agent.api_key
    ask = (rest.ask("POST", f"{path}/rotate-key", key=old) for _ in range(4))
    answers = await asyncio.gather(*ask)
    assert [answer.status for answer in answers] == [200] * 4
    made = [answer.body["newApiKey"] for answer in answers]
    good = [key for key in made if (await rest.ask("GET", f"{path}/ping", key=key)).status == 200]
    assert len(good) == 1


async def test_the_rotation_event_stays_below_the_agents_own_topics_and_has_no_key(
    streams: Streams, agent: AgentDouble
) -> None:
    """⚠ The reference sends the key itself, to a topic outside of the agent's."""
    answer = await agent.rotate()
    [(_, fields)] = await streams.outbox.read("test", count=10)
    message = dict(zip(fields[::2], fields[1::2], strict=True))
    assert message[b"topic"].decode() == agent.topic("config/api-key-rotation")
    assert message[b"retain"] == b"0"
    event = orjson.loads(message[b"payload"])
    assert event["event"] == "api_key_rotated"
    assert event["grace_period_ends"] == answer.body["gracePeriodEnds"]
    assert answer.body["newApiKey"].encode() not in message[b"payload"]


async def test_a_key_opens_nothing_of_another_agent(rest: Rest, agent: AgentDouble) -> None:
    other = AgentDouble(ask=agent.ask, provisioning_key=agent.provisioning_key)
    await other.come_in()
    for method, path in (
        ("GET", "device/{}/ping"),
        ("POST", "device/{}/rotate-key"),
        ("GET", "device/{}/key-status"),
        ("GET", "device/{}/rotation-history"),
        ("GET", "devices/{}"),
        ("GET", "agents/{}"),
        ("GET", "agents/{}/tags"),
        ("DELETE", "agents/{}"),
    ):
        answer = await agent.call(method, f"/api/v1/{path.format(other.uuid)}")
        assert (answer.status, answer.body["message"]) == (403, "the key belongs to another agent")
    for path in ("agents", "fleets", "groups", "tags/keys", "provisioning-keys"):
        assert (await agent.call("GET", f"/api/v1/{path}")).status == 403
