"""Rules and webhooks as chores of control processes, with their misfortunes."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import msgspec
import orjson
from pydantic import SecretStr
from tests.control import Place, until
from tests.receiver import Receiver, receiving
from tests.rest import KEY

from iotistica import keys
from iotistica.alerting.rule import RuleBody
from iotistica.store.alert_rules import AlertRuleStore
from iotistica.store.journal import Origin
from iotistica.store.pool import open_pool
from iotistica.store.webhooks import WebhookStore
from iotistica.webhooks.signature import new_salt

SETTINGS: dict[str, Any] = {
    "jwt_secret": SecretStr(KEY),
    "webhook_private_addresses": True,
    "webhook_first_delay_s": 0.1,
    "webhook_timeout_s": 2.0,
}


async def prepare(place: Place, receiver: Receiver, rules: int = 1) -> None:
    pool = await open_pool(place.settings, application_name="test")
    origin = Origin(tenant=place.tenant)
    for n in range(rules):
        body = {
            "name": f"rule {n}",
            "metric": f"m{n}",
            "interval_s": 5,
            "condition": {"kind": "threshold", "operator": ">", "value": 80},
        }
        await AlertRuleStore(pool).add(origin, msgspec.convert(body, RuleBody))
    hook = {
        "name": uuid.uuid4().hex,
        "url": receiver.url,
        "events": ["alert.opened", "alert.resolved"],
        "severities": ["warning"],
        "enabled": True,
    }
    await WebhookStore(pool).add(origin, hook, new_salt())
    await pool.close()


async def value(place: Place, number: float, metric: str = "m0") -> None:
    await place.database.execute(
        "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, value, protocol, time)"
        " VALUES ($1, 'pump', $2, $3, 'mqtt', now()) ON CONFLICT"
        " (agent_uuid, device_name, metric_name) DO UPDATE SET value = $3, time = now()",
        place.agent,
        metric,
        number,
    )


async def test_an_alert_goes_its_whole_way(place: Place) -> None:
    subscriber = place.redis.pubsub()
    await subscriber.subscribe(keys.alerts_channel(place.tenant))
    async with receiving(500) as receiver:
        await prepare(place, receiver)
        await value(place, 90)
        async with place.control("control-0", **SETTINGS), place.control("control-1", **SETTINGS):

            async def told() -> bool:
                return len(receiver.received) >= 2  # the first was refused

            await until(told)
            await value(place, 70)

            async def resolved() -> bool:
                return receiver.received[-1].content["event"] == "alert.resolved"

            await until(resolved)
    events = [one.content["event"] for one in receiver.received]
    assert events == ["alert.opened", "alert.opened", "alert.resolved"]
    assert receiver.received[0].body == receiver.received[1].body
    live = []
    async with asyncio.timeout(10):
        while len(live) < 2:
            message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=5)
            if message is not None:
                live.append(orjson.loads(message["data"]))
    assert [(one["event"], one["alert"]["status"]) for one in live] == [
        ("alert.opened", "open"),
        ("alert.resolved", "resolved"),
    ]
    assert live[0]["alert"]["message"] == "m0 of pump is 90 (> 80)"
    assert "tenant_id" not in live[0]["alert"]
    await subscriber.aclose()


async def test_a_database_that_hangs_delays_alerts_and_doubles_none(place: Place) -> None:
    async with receiving() as receiver:
        await prepare(place, receiver, rules=10)
        for n in range(10):
            await value(place, 90, f"m{n}")
        async with place.control("control-0", **SETTINGS), place.control("control-1", **SETTINGS):
            with place.stopped_postgres():
                await asyncio.sleep(1.5)  # longer than a statement may take

            async def told() -> bool:
                return len(receiver.received) >= 10

            await until(told)

            async def nothing_waits() -> bool:
                count = await place.database.fetchval(
                    "SELECT count(*) FROM alert_deliveries WHERE status = 'pending'"
                )
                return bool(count == 0)

            await until(nothing_waits)
    assert await place.database.fetchval("SELECT count(*) FROM alerts") == 10
    assert await place.database.fetchval("SELECT count(*) FROM alert_deliveries") == 10
    told_of = {one.content["alert"]["metric_name"] for one in receiver.received}
    assert told_of == {f"m{n}" for n in range(10)}
