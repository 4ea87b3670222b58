"""What `iotistica doctor` finds at a broker."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TestBroker

from iotistica.doctor import broker as checks
from iotistica.doctor.finding import Finding, Level
from iotistica.doctor.place import Place
from iotistica.embedded.broker import BUILTIN, find_broker
from iotistica.embedded.ports import answers, free_port
from iotistica.mqtt.trial import Limits, limits_of
from iotistica.settings import Settings


def place(url: str, *, agent_url: str | None = None, **settings: Any) -> Place:
    return Place(settings=Settings(mqtt_url=url, **settings), state={}, agent_url=agent_url)


async def test_a_broker_of_ours_is_well(broker: TestBroker, tenant: str) -> None:
    where = place(
        broker.bridge_url,
        agent_url=await broker.add_agent(tenant, "3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
    )
    for check in (checks.check_connection, checks.check_anonymous, checks.check_strangers):
        assert {one.level for one in await check(where)} == {Level.OK}, check
    [dropped] = await checks.check_dropped(where)
    assert dropped.level in (Level.OK, Level.NOT_CHECKED)


async def test_an_agent_that_may_read_everything_is_found(broker: TestBroker) -> None:
    await broker.add({"greedy": ("readwrite i/#",)})
    where = place(broker.bridge_url, agent_url=broker.url_for("greedy"))
    [finding] = await checks.check_strangers(where)
    assert (finding.level, finding.text) == (
        Level.PROBLEM,
        "an agent's account reads messages of all tenants by a shared subscription",
    )


async def test_a_wrong_password_is_a_problem(broker: TestBroker) -> None:
    where = place(broker.server.url_for("nobody", "wrong"))
    [finding] = await checks.check_connection(where)
    assert finding.level is Level.PROBLEM
    assert finding.text.partition(": ")[2] in ("Not authorized", "Bad User Name or Password")


CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
max_packet_size 20000
max_inflight_messages 10
{user}
"""


@pytest.fixture
async def careless(tmp_path: Path) -> AsyncIterator[str]:
    """A Mosquitto that lets anybody in."""
    program = find_broker()
    if program == BUILTIN:
        pytest.skip("mosquitto >= 2 is not installed")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    user = "user root" if os.geteuid() == 0 else ""
    config.write_text(CONFIG.format(port=port, user=user))
    process = await asyncio.create_subprocess_exec(
        *(program, "-c", config), stderr=asyncio.subprocess.DEVNULL
    )
    while not await answers(port):
        await asyncio.sleep(0.01)
    yield f"mqtt://127.0.0.1:{port}"
    process.terminate()
    await process.wait()


async def test_a_careless_broker(careless: str) -> None:
    where = place(careless, agent_url=careless)
    [anybody] = await checks.check_anonymous(where)
    assert (anybody.level, anybody.text, anybody.advice) == (
        Level.PROBLEM,
        "it lets anybody in, without a name: whoever reaches it reads and writes",
        "set allow_anonymous false",
    )
    [stranger] = await checks.check_strangers(where)
    assert stranger.level is Level.PROBLEM
    connected, *limits = await checks.check_connection(where)
    assert connected.level is Level.OK
    assert [(one.level, one.text) for one in limits] == [
        (
            Level.WARNING,
            "it takes packets of 20,000 bytes, messages may have 1,048,576",
        ),
        (Level.WARNING, "a client may have 10 messages under way: that is slow"),
    ]


async def test_queues_with_limits(tmp_path: Path) -> None:
    [unknown] = await checks.check_queues(place("mqtt://127.0.0.1"))
    assert unknown.level is Level.NOT_CHECKED
    (tmp_path / "broker").mkdir()
    config = tmp_path / "broker" / "mosquitto.conf"
    where = Place(settings=Settings(), directory=tmp_path, state={"ports": {"broker": 1}})
    config.write_text("max_queued_bytes 0\nmax_queued_messages 100\npersistence false\n")
    found: list[Finding] = await checks.check_queues(where)
    assert [one.text for one in found] == [
        "max_queued_messages is 100: what comes beyond it is dropped without a word",
        "persistence is off: a restart loses sessions and what waits for them",
    ]
    config.write_text("max_queued_bytes 0\nmax_queued_messages 0\npersistence true\n")
    [well] = await checks.check_queues(where)
    assert well.level is Level.OK


def test_limits_are_read_out_of_any_properties() -> None:
    assert limits_of(b"") == limits_of(b"\0") == Limits()
    properties = (
        b"\x11\0\0\0\x3c"  # session expiry 60 s
        b"\x12\0\2id\x26\0\1k\0\1v"  # an assigned client id, a user property
        b"\x21\0\x14\x24\x01\x27\0\0\4\0\x2a\0"
    )
    assert limits_of(bytes([len(properties)]) + properties) == Limits(
        receive_maximum=20,
        maximum_qos=1,
        maximum_packet_bytes=1024,
        session_expiry_s=60,
        shared_subscriptions=False,
    )


def test_properties_that_are_none_are_an_error() -> None:
    for length in range(1, 40):
        for data in (bytes([length]), bytes([length]) + b"\x21" * (length - 1)):
            with pytest.raises(ValueError, match="CONNACK"):
                limits_of(data)
    with pytest.raises(ValueError, match="0xFF"):
        limits_of(b"\2\xff" + secrets.token_bytes(1))
