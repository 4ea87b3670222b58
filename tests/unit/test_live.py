"""What clients are shown, and what waits for them: pure parts of the live values."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import orjson
import pytest

from iotistica.api.http import Request
from iotistica.api.live import views
from iotistica.api.live.channels import CHANNELS, Scope, Subject
from iotistica.api.live.entrance import Origins
from iotistica.api.live.queue import Full, SendQueue
from iotistica.api.live.subscription import Subscription
from iotistica.api.principal import PERMISSIONS
from iotistica.errors import Forbidden

AGENT = UUID(int=7)
MIB = 1024 * 1024


def at(second: int) -> str:
    return f"2026-11-25T10:00:{second:02}.000Z"


def test_every_channel_names_a_permission_and_has_a_value_or_events() -> None:
    for channel in CHANNELS.values():
        assert channel.needs in PERMISSIONS
        assert (channel.view is None) != (channel.event is None), channel.name
        assert channel.stored is None or channel.view is not None, channel.name


def test_channels_of_one_tenant_name_it_or_nobody() -> None:
    for (scope, name), channel in CHANNELS.items():
        subject = Subject("t" * 12, AGENT if scope is Scope.DEVICE else None)
        source = channel.source(subject)
        assert name == "mqtt-stats" or source.startswith("tenant:{tttttttttttt}:"), source
        if scope is Scope.DEVICE:
            assert str(AGENT) in source


def test_memory_is_mib_whether_agents_report_bytes_or_mib() -> None:
    for unit in (MIB, 1):
        history = views.History()
        metrics = {"memory_usage": 300 * unit, "memory_total": 1000 * unit}
        assert history.take({"metrics": metrics, "timestamp": at(1)})
        assert history.content()["memory"] == [{"time": at(1), "used": 300, "available": 700}]


def test_a_curve_does_not_run_backward_and_is_bounded() -> None:
    history = views.History()
    for second in (2, 1, 2, 3):
        history.take({"metrics": {"cpu_usage": second}, "timestamp": at(second)})
    assert [one["value"] for one in history.content()["cpu"]] == [2, 3]
    for number in range(500):
        metrics = {"cpu_usage": number}
        history.take({"metrics": metrics, "timestamp": f"2027-01-01T00:00:00.{number:03}Z"})
    assert len(history.content()["cpu"]) == views.MOST_POINTS
    assert not history.take({"metrics": {"cpu_usage": "x"}, "timestamp": "2099"})
    assert not history.take({"metrics": {"cpu_usage": True}, "timestamp": 7})


def test_fields_of_reports_that_were_not_sent_are_merged() -> None:
    state = views.State()
    state.take({"state": {"a": 1, "b": 2}})
    state.take({"state": {"a": 3, "c": None}})
    assert state.content() == {"a": 3, "b": 2, "c": None}
    assert state.content() == {}


def test_counts_of_topics_that_were_not_sent_are_added() -> None:
    topics = views.Topics()
    topics.restore([{"topic": "t", "messages": 5, "bytes": 50, "firstSeen": "x"}])
    topics.take({"topics": [{"topic": "t", "messages": 2, "bytes": 20}, 7, {"topic": "u"}]})
    assert topics.content() == {
        "whole": True,
        "topics": [
            {"topic": "t", "messages": 7, "bytes": 70, "firstSeen": "x"},
            {"topic": "u"},
        ],
    }
    topics.take({"topics": [{"topic": "t", "messages": 1, "bytes": 1}]})
    assert topics.content()["topics"] == [{"topic": "t", "messages": 1, "bytes": 1}]


def test_what_was_published_while_the_store_was_read_comes_after_it() -> None:
    presence = CHANNELS[Scope.DEVICE, "presence"]
    one = Subscription(presence, Subject("t", AGENT))
    one.hold()
    assert not one.take({"online": True, "timestamp": at(1)})
    assert one.restore(False)
    assert orjson.loads(one.render()) == {
        "type": "presence",
        "deviceUuid": str(AGENT),
        "data": {"online": True},
        "timestamp": at(1),
        "source": "redis",
    }


def test_what_is_kept_while_the_store_is_read_is_bounded() -> None:
    one = Subscription(CHANNELS[Scope.DEVICE, "presence"], Subject("t", AGENT))
    one.hold()
    for second in range(30):
        one.take({"online": second % 2 == 0, "timestamp": at(second)})
    one.restore(False)
    assert one.has_missed  # so the store is read again
    one.hold()
    assert not one.has_missed


def test_nothing_stored_shows_nothing_and_lets_live_values_through() -> None:
    one = Subscription(CHANNELS[Scope.GLOBAL, "mqtt-stats"], Subject("t"))
    one.hold()
    assert not one.restore(None)
    assert one.take({"connected": True})


def test_a_value_that_changes_while_it_waits_takes_one_place() -> None:
    async def taken() -> list[Any]:
        queue = SendQueue(most_bytes=10)
        for _ in range(10_000):
            queue.mark("state")
        queue.put(b"x")
        queue.mark("state")
        queue.mark("presence")
        return [await queue.next() for _ in range(3)]

    assert asyncio.run(taken()) == ["state", b"x", "presence"]


def test_events_are_bounded_by_their_bytes() -> None:
    async def fill() -> None:
        queue = SendQueue(most_bytes=10)
        queue.put(b"x" * 100)  # alone it may be larger
        with pytest.raises(Full):
            queue.put(b"x")
        await queue.next()
        queue.put(b"x" * 5)
        queue.put(b"x" * 5)
        with pytest.raises(Full):
            queue.put(b"x")

    asyncio.run(fill())


@pytest.mark.parametrize(
    ("origin", "host", "listed", "may"),
    [
        (None, "ours", (), True),
        ("https://ours", "ours", (), True),
        ("https://ours:443", "ours", (), True),
        ("https://OURS", "ours:443", (), True),
        ("http://ours:3002", "ours:3002", (), True),
        ("http://ours", "ours:3002", (), False),
        ("https://evil", "ours", (), False),
        ("https://evil", "ours", ("https://ours",), False),
        ("https://other", "ours", ("https://other",), True),
        ("https://evil", "ours", ("*",), True),
        ("null", "ours", (), False),
        ("https://[", "ours", (), False),
        ("https://ours:x", "ours", (), False),
    ],
)
def test_origins(origin: str | None, host: str, listed: tuple[str, ...], may: bool) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    request = Request(method="GET", path="/ws", headers=headers)
    try:
        Origins(listed=listed).check(request)
    except Forbidden:
        assert not may
    else:
        assert may
