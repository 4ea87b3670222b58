"""Webhooks: the queue against a real server that fails, hangs and recovers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import orjson
import pytest
from tests.control import until
from tests.receiver import Received, receiving
from tests.rest import KEY

from iotistica.alerting.rule import RuleBody
from iotistica.anomalies.event import read
from iotistica.api.notifier import Notifier
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.alert_evaluation import AlertEvaluation
from iotistica.store.alert_rules import AlertRuleStore
from iotistica.store.anomalies import AnomalyStore, Found
from iotistica.store.journal import Origin
from iotistica.store.pool import Pool
from iotistica.store.pruning import prune
from iotistica.store.webhooks import DeliveryStore, WebhookStore
from iotistica.webhooks.sender import Call, Guard, Sender
from iotistica.webhooks.signature import new_salt, secret_of

EVENTS = ["alert.opened", "alert.acknowledged", "alert.resolved", "anomaly.alert"]


def notifier(pool: Pool, **changes: Any) -> Notifier:
    settings = Settings.load(
        jwt_secret=KEY,
        webhook_private_addresses=True,
        webhook_timeout_s=1.0,
        webhook_first_delay_s=0.01,
        webhook_max_attempts=4,
    )
    return Notifier(settings.model_copy(update=changes), DeliveryStore(pool))


async def hook(pool: Pool, tenant: str, url: str, **fields: Any) -> tuple[int, str]:
    """A webhook, and its secret."""
    salt = new_salt()
    given = {
        "name": uuid.uuid4().hex,
        "url": url,
        "events": EVENTS,
        "severities": ["warning", "critical"],
        "enabled": True,
        **fields,
    }
    row = await WebhookStore(pool).add(Origin(tenant=tenant), given, salt)
    return row["id"], secret_of(KEY.encode(), tenant, salt)


async def alarm(pool: Pool, tenant: str, *, severity: str = "warning") -> str:
    """An alert of a rule; its agent."""
    agent = str(uuid.uuid4())
    await AgentStore(pool).ensure_tenant(tenant)
    await AgentStore(pool).add_agents(tenant, [(agent, "agent")])
    body = {
        "name": uuid.uuid4().hex,
        "metric": "temp",
        "severity": severity,
        "agents": [agent],
        "condition": {"kind": "threshold", "operator": ">", "value": 80},
    }
    await AlertRuleStore(pool).add(Origin(tenant=tenant), msgspec.convert(body, RuleBody))
    await pool.execute(
        "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, value, protocol, time)"
        " VALUES ($1, 'pump', 'temp', 90, 'mqtt', now())",
        agent,
    )
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert len(await AlertEvaluation(pool).evaluate(tenant, later)) == 1
    return agent


def check(one: Received, secret: str) -> None:
    """As a receiver checks who called it."""
    stamp, _, signature = one.headers["x-iotistica-signature"].partition(",v1=")
    at = int(stamp.removeprefix("t="))
    assert abs(time.time() - at) < 60
    signed = hmac.new(secret.encode(), f"{at}.".encode() + one.body, hashlib.sha256)
    assert hmac.compare_digest(signed.hexdigest(), signature)


async def deliveries(pool: Pool) -> list[tuple[Any, ...]]:
    rows = await pool.fetch(
        "SELECT event, status, attempts, response_status, error FROM alert_deliveries ORDER BY id"
    )
    return [tuple(row) for row in rows]


async def settle(pool: Pool, one: Notifier) -> None:
    """Deliver until nothing waits."""

    async def done() -> bool:
        await one.deliver_due()
        count = await pool.fetchval(
            "SELECT count(*) FROM alert_deliveries WHERE status = 'pending'"
        )
        return bool(count == 0)

    await until(done)


@pytest.fixture
async def known(pool: Pool, tenant: str) -> str:
    await AgentStore(pool).ensure_tenant(tenant)
    return tenant


async def test_an_alert_is_told_with_a_signature(pool: Pool, known: str) -> None:
    async with receiving() as receiver:
        webhook, secret = await hook(pool, known, receiver.url)
        agent = await alarm(pool, known)
        assert await notifier(pool).deliver_due() == 1
    (one,) = receiver.received
    check(one, secret)
    content = one.content
    alert = content.pop("alert")
    assert content == {
        "id": int(one.headers["x-iotistica-delivery"]),
        "event": "alert.opened",
        "tenant": known,
        "created_at": content["created_at"],
    }
    assert one.headers["x-iotistica-event"] == "alert.opened"
    assert one.headers["content-type"] == "application/json"
    assert (alert["agent_uuid"], alert["metric_name"], alert["value"]) == (agent, "temp", 90)
    assert (alert["status"], alert["message"]) == ("open", "temp of pump is 90 (> 80)")
    assert "tenant_id" not in alert
    assert await deliveries(pool) == [("alert.opened", "delivered", 1, 200, None)]
    assert await pool.fetchval("SELECT webhook_id FROM alert_deliveries") == webhook


async def test_a_server_that_fails_and_hangs_is_told_once_it_recovers(
    pool: Pool, known: str
) -> None:
    async with receiving(500, None, 302) as receiver:
        _, secret = await hook(pool, known, receiver.url)
        await alarm(pool, known)
        await settle(pool, notifier(pool))
    assert len(receiver.received) == 4
    assert len({one.body for one in receiver.received}) == 1
    assert len({one.headers["x-iotistica-delivery"] for one in receiver.received}) == 1
    for one in receiver.received:
        check(one, secret)
    assert await deliveries(pool) == [("alert.opened", "delivered", 4, 200, None)]


@pytest.mark.parametrize(
    ("plan", "status", "error"),
    [
        ([500] * 4, 500, "the answer is 500; 2xx is expected"),
        ([None] * 4, None, "no answer within 1 s"),
        # Where it leads to is never called.
        ([307] * 4, 307, "the answer is 307; 2xx is expected"),
    ],
)
async def test_a_delivery_is_given_up_in_the_end_and_can_be_seen(
    pool: Pool, known: str, plan: list[int | None], status: int | None, error: str
) -> None:
    async with receiving(*plan) as receiver:
        await hook(pool, known, receiver.url)
        await alarm(pool, known)
        await settle(pool, notifier(pool))
        assert len(receiver.received) == 4
    assert await deliveries(pool) == [("alert.opened", "dead", 4, status, error)]


async def test_a_server_that_is_away_is_tried_again(pool: Pool, known: str) -> None:
    async with receiving() as receiver:
        url = receiver.url
    await hook(pool, known, url)
    await alarm(pool, known)
    one = notifier(pool, webhook_first_delay_s=3600.0)
    assert await one.deliver_due() == 1
    ((_, status, attempts, response, error),) = await deliveries(pool)
    assert (status, attempts, response) == ("pending", 1, None)
    assert error.startswith("ClientConnectorError: Cannot connect to host 127.0.0.1")
    wait = await pool.fetchval("SELECT next_at - now() FROM alert_deliveries")
    assert timedelta(minutes=45) < wait < timedelta(minutes=75)
    assert await one.deliver_due() == 0


async def test_a_private_address_is_not_called(pool: Pool, known: str) -> None:
    async with receiving() as receiver:
        # Once the setting is off again, and by names that lead there.
        port = receiver.url.split(":")[2]
        for host in ("127.0.0.1", "localhost", "127.1"):
            await hook(pool, known, f"http://{host}:{port}")
        await alarm(pool, known)
        one = notifier(pool, webhook_private_addresses=False, webhook_max_attempts=1)
        assert await one.deliver_due() == 3
        assert receiver.received == []
    errors = sorted(error for *_, error in await deliveries(pool))
    assert "localhost has no public address" in errors[0]
    assert errors[1] == "InvalidUrlClientError: 127.1 - is not a canonical IPv4 address"
    assert errors[2] == "url leads to 127.0.0.1, which is not a public address"


async def test_a_call_goes_only_where_its_name_may_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is made to what was checked, so a name that changes gains nothing."""
    answers = [["127.0.0.1", "::1"], ["10.0.0.1", "8.8.8.8", "fe80::1%eth0"]]

    async def resolve(_self: Any, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        shown = {"hostname": host, "port": port, "family": family, "proto": 6, "flags": 0}
        return [{**shown, "host": one} for one in answers.pop(0)]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)
    call = Call(url="http://rebind.example/", secret="s", delivery=1, event="test", body=b"{}")
    outcome = await Sender(timeout_s=1, private=False).send(call)
    assert "rebind.example has no public address" in str(outcome.error)
    found = await Guard(private=False).resolve("rebind.example", 80)
    assert [one["host"] for one in found] == ["8.8.8.8"]


async def test_only_who_wants_to_know_is_told(pool: Pool, known: str) -> None:
    await AgentStore(pool).ensure_tenant("other")
    async with receiving() as receiver:
        await hook(pool, known, receiver.url, events=["alert.resolved"])
        await hook(pool, known, receiver.url, severities=["info"])
        await hook(pool, known, receiver.url, enabled=False)
        await hook(pool, "other", receiver.url)
        wanted, _ = await hook(pool, known, receiver.url)
        await alarm(pool, known)
        await notifier(pool).deliver_due()
        assert len(receiver.received) == 1
    assert await pool.fetchval("SELECT array_agg(webhook_id) FROM alert_deliveries") == [wanted]


async def test_alerts_of_anomalies_are_told(pool: Pool, known: str) -> None:
    agent = str(uuid.uuid4())
    event = {
        "timestampMs": int(time.time() * 1000),
        "metric": "flow",
        "fingerprint": "f",
        "severity": "critical",
    }
    found = Found(tenant=known, agent=agent, metric="flow", endpoint=None, event=read(event))
    async with receiving() as receiver:
        await hook(pool, known, receiver.url)
        await AnomalyStore(pool).keep([found])
        await AnomalyStore(pool).keep([found])
        await notifier(pool).deliver_due()
    (one,) = receiver.received
    assert one.content["event"] == "anomaly.alert"
    assert one.content["alert"]["incident_id"] == found.incident_id
    assert one.content["alert"]["severity"] == "critical"


async def test_what_a_webhook_that_was_disabled_had_waiting_is_dead(pool: Pool, known: str) -> None:
    webhook, _ = await hook(pool, known, "http://127.0.0.1:1/")
    await alarm(pool, known)
    await WebhookStore(pool).change(Origin(tenant=known), webhook, {"enabled": False})
    await notifier(pool).deliver_due()
    assert await deliveries(pool) == [("alert.opened", "dead", 1, None, "the webhook is disabled")]


async def test_processes_at_once_tell_each_delivery_once(pool: Pool, known: str) -> None:
    async with receiving() as receiver:
        for _ in range(3):
            await hook(pool, known, receiver.url)
        for _ in range(8):
            await alarm(pool, known)
        await asyncio.gather(*(notifier(pool).deliver_due() for _ in range(4)))
        numbers = [one.headers["x-iotistica-delivery"] for one in receiver.received]
    assert len(numbers) == len(set(numbers)) == 24


async def test_whoever_dies_during_an_attempt_leaves_it_to_the_next(pool: Pool, known: str) -> None:
    async with receiving() as receiver:
        await hook(pool, known, receiver.url)
        await alarm(pool, known)
        (lost,) = await DeliveryStore(pool).claim(lease_s=0.2)
        one = notifier(pool)
        assert await one.deliver_due() == 0

        async def again() -> bool:
            return bool(await one.deliver_due())

        await until(again)
        assert len(receiver.received) == 1
    # And if it was only slow, its word no longer counts.
    await DeliveryStore(pool).finish(lost, status="dead", error="too late")
    assert await deliveries(pool) == [("alert.opened", "delivered", 2, 200, None)]


async def test_a_slow_receiver_delays_nobody_else(pool: Pool, known: str) -> None:
    async with receiving(*[None] * 100) as slow, receiving() as quick:
        await hook(pool, known, slow.url)
        await hook(pool, known, quick.url)
        for _ in range(10):
            await alarm(pool, known)
        one = notifier(pool, webhook_timeout_s=5.0)
        task = asyncio.create_task(one.deliver_due())

        async def some() -> bool:
            return len(quick.received) >= 4

        await until(some, 4)
        task.cancel()


async def test_what_was_finished_long_ago_is_forgotten(pool: Pool, known: str) -> None:
    async with receiving() as receiver:
        await hook(pool, known, receiver.url)
        await alarm(pool, known)
        await alarm(pool, known)
        await notifier(pool).deliver_due()
    await pool.execute(
        "UPDATE alert_deliveries SET finished_at = now() - interval '91 days'"
        " WHERE id = (SELECT min(id) FROM alert_deliveries)"
    )
    assert (await prune(pool, Settings()))["alert_deliveries"] == 1
    assert (await prune(pool, Settings()))["alert_deliveries"] == 0


async def test_a_body_is_the_same_at_each_attempt(pool: Pool, known: str) -> None:
    await hook(pool, known, "http://127.0.0.1:1/")
    await alarm(pool, known)
    store = DeliveryStore(pool)
    (first,) = await store.claim(lease_s=0)
    (second,) = await store.claim(lease_s=0)
    assert first.body() == second.body()
    assert orjson.loads(first.body())["id"] == first.id
