"""`agent/{type}` and `events/{type}` through both brokers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from tests.control import Place, until

from iotistica import keys
from iotistica.store.events import EventStore
from iotistica.store.pool import open_pool

NOW = datetime.now(UTC).replace(microsecond=0)


def at(second: int) -> str:
    return (NOW - timedelta(seconds=60 - second)).isoformat()


async def updates(place: Place) -> list[dict[str, Any]]:
    rows = await place.database.fetch("SELECT * FROM agent_updates ORDER BY id")
    return [dict(row) for row in rows]


async def events(place: Place, source: str) -> list[tuple[str, Any]]:
    rows = await place.database.fetch(
        "SELECT type, data FROM agent_events WHERE source = $1 ORDER BY id", source
    )
    return [(row["type"], orjson.loads(row["data"])) for row in rows]


async def ordered(place: Place) -> None:
    await place.database.execute(
        "INSERT INTO agent_updates (agent_uuid, target_version) VALUES ($1, '2.0')", place.agent
    )


async def test_an_update_moves_through_its_states(place: Place) -> None:
    await ordered(place)
    report = {"current_version": "1.0", "target_version": "2.0", "deployment_type": "docker"}
    steps = [
        ("update_command_received", "acknowledged"),
        ("update_scheduled", "scheduled"),
        ("update_started", "in_progress"),
        ("update_succeeded", "succeeded"),
    ]
    async with place.control():
        for second, (kind, status) in enumerate(steps):
            more = {"scheduled_time": at(30)} if kind == "update_scheduled" else {}
            value = {"type": kind, **report, **more, "timestamp": at(second)}
            await place.tell("agent/status", value)

            async def has_status(status: str = status) -> bool:
                (row,) = await updates(place)
                return bool(row["status"] == status)

            await until(has_status)
    (row,) = await updates(place)
    began = NOW - timedelta(seconds=60)
    assert row["acknowledged_at"] == began
    assert row["started_at"] == began + timedelta(seconds=2)
    assert row["timeout_at"] == began + timedelta(seconds=2, minutes=30)
    assert row["completed_at"] == began + timedelta(seconds=3)
    assert row["scheduled_time"] == began + timedelta(seconds=30)
    assert (row["current_version"], row["deployment_type"]) == ("1.0", "docker")
    version = "SELECT agent_version FROM agents WHERE uuid = $1"
    assert await place.database.fetchval(version, place.agent) == "2.0"
    assert [kind for _, kind in steps] == [
        "acknowledged",
        "scheduled",
        "in_progress",
        "succeeded",
    ]
    assert [kind["type"] for _, kind in await events(place, "agent")] == [k for k, _ in steps]


async def test_a_failed_update_says_why(place: Place) -> None:
    await ordered(place)
    value = {"type": "update_failed", "error": "no space", "exit_code": 28, "timestamp": at(0)}
    async with place.control():
        await place.tell("agent/status", value)

        async def failed() -> bool:
            return (await updates(place))[0]["status"] == "failed"

        await until(failed)
    (row,) = await updates(place)
    assert (row["error"], row["exit_code"]) == ("no space", 28)
    version = "SELECT agent_version FROM agents WHERE uuid = $1"
    assert await place.database.fetchval(version, place.agent) is None


async def test_a_step_that_comes_twice_or_late_moves_nothing_back(place: Place) -> None:
    started = {"type": "update_started", "target_version": "2.0", "timestamp": at(1)}
    received = {"type": "update_command_received", "timestamp": at(0)}
    done = {"type": "update_succeeded", "target_version": "2.0", "timestamp": at(2)}
    async with place.control():
        await place.tell("agent/status", started, received, done, started, done, received)
        await place.tell("agent/end", {"timestamp": at(3)})

        async def ended() -> bool:
            return any(kind == "end" for kind, _ in await events(place, "agent"))

        await until(ended)
    # Nobody ordered it here: the first message of it began it.
    (row,) = await updates(place)
    assert (row["status"], row["target_version"]) == ("succeeded", "2.0")
    assert len(await events(place, "agent")) == 4


async def test_an_update_that_takes_too_long_is_given_up(place: Place) -> None:
    await place.database.execute(
        "INSERT INTO agent_updates (agent_uuid, status, target_version, timeout_at) VALUES "
        "($1, 'in_progress', '2.0', now() - interval '1 s'), "
        "($1, 'in_progress', '3.0', now() + interval '1 h')",
        place.agent,
    )
    pool = await open_pool(place.settings, application_name="test")
    assert await EventStore(pool).expire_updates() == 1
    assert await EventStore(pool).expire_updates() == 0
    await pool.close()
    assert [row["status"] for row in await updates(place)] == ["timed_out", "in_progress"]
    ((kind, data),) = await events(place, "agent")
    assert (kind, data["target_version"]) == ("update_timed_out", "2.0")


async def test_versions_startups_and_shutdowns_are_kept_and_forwarded(place: Place) -> None:
    listening = place.redis.pubsub()
    await listening.subscribe(keys.lifecycle_channel(place.tenant, place.agent))
    await listening.get_message(timeout=5)
    async with place.control():
        await place.tell("agent/startup", {"version": "1.5", "timestamp": at(0)})
        await place.tell("agent/shutdown", {"reason": "power", "timestamp": at(1)})
        live = [orjson.loads((await listening.get_message(timeout=10))["data"]) for _ in "12"]
    await listening.aclose()
    assert {one["type"] for one in live} == {"startup", "shutdown"}
    assert {one["deviceUuid"] for one in live} == {place.agent}
    assert dict(await events(place, "agent")) == {
        "startup": {"version": "1.5", "timestamp": at(0)},
        "shutdown": {"reason": "power", "timestamp": at(1)},
    }
    version = "SELECT agent_version FROM agents WHERE uuid = $1"
    assert await place.database.fetchval(version, place.agent) == "1.5"


async def test_shell_output_and_broker_are_forwarded_and_not_kept(place: Place) -> None:
    listening = place.redis.pubsub()
    await listening.subscribe(keys.lifecycle_channel(place.tenant, place.agent))
    await listening.get_message(timeout=5)
    async with place.control():
        await place.tell("agent/shell-output", {"sessionId": "s", "output": "$ "})
        live = orjson.loads((await listening.get_message(timeout=10))["data"])
    await listening.aclose()
    assert (live["type"], live["data"]) == ("shell-output", {"sessionId": "s", "output": "$ "})
    assert await events(place, "agent") == []


async def test_what_the_platform_sends_to_agents_is_not_taken_for_theirs(place: Place) -> None:
    async with place.control():
        await place.tell("agent/update", {"action": "update", "version": "9"})
        await place.tell("agent/startup", {"version": "1"})

        async def started() -> bool:
            return bool(await events(place, "agent"))

        await until(started)
    assert [kind for kind, _ in await events(place, "agent")] == ["startup"]
    assert await place.letters() == []


async def test_a_status_that_is_no_object_is_refused(place: Place) -> None:
    async with place.control():
        await place.tell("agent/status", [1])
        (letter,) = await until(place.letters)
    assert letter[b"reason"] == b"not_an_object"


async def test_events_of_every_type_are_kept_once(place: Place) -> None:
    """The reference logs and drops every event but `anomaly`."""
    door = {"open": True, "timestamp": at(0)}
    smoke = {"level": 3, "timestampMs": 1_700_000_000_000}
    plain = {"bell": 1}
    async with place.control():
        await place.tell("events/door", door, door)
        await place.tell("events/fire/smoke", smoke)
        await place.tell("events/bell", plain, plain)

        async def all_there() -> bool:
            return len(await events(place, "events")) >= 4

        await until(all_there)
    found = sorted(await events(place, "events"), key=lambda one: one[0])
    assert found == [("bell", plain), ("bell", plain), ("door", door), ("fire/smoke", smoke)]
