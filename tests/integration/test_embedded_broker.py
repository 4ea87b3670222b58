"""The private broker: who may do what, and what survives a restart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from iotistica.credentials import User
from iotistica.embedded import broker as brokers
from iotistica.embedded.broker import accepts, find_broker, mosquitto_config
from iotistica.embedded.ports import free_port
from iotistica.errors import ConfigError


async def test_only_users_come_in(broker: Any) -> None:
    port = broker.server.port
    assert await accepts(port, "iotistica-api", broker.passwords["iotistica-api"])
    assert not await accepts(port, "iotistica-api", "wrong")
    assert not await accepts(port, "", "")


async def test_a_user_is_known_as_soon_as_it_was_added(broker: Any, tenant: str) -> None:
    agent = "6f1c2a34-0000-4000-8000-000000000001"
    url = await broker.add_agent(tenant, agent)
    assert await accepts(broker.server.port, f"agent_{agent}", broker.passwords[f"agent_{agent}"])
    assert url.startswith(f"mqtt://agent_{agent}:")


async def test_users_and_port_survive_kill_9(broker: Any) -> None:
    broker.server.child.kill()
    await broker.server.child.wait()
    await broker.server.start()
    port = broker.server.port
    assert await accepts(port, "iotistica-api", broker.passwords["iotistica-api"])


def test_a_choice_that_is_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(brokers, "_MORE_PLACES", ())
    assert find_broker("auto") == brokers.BUILTIN
    with pytest.raises(ConfigError, match="no mosquitto >= 2 was found"):
        find_broker("mosquitto")
    old = tmp_path / "mosquitto"
    old.write_text("#!/bin/sh\necho 'mosquitto version 1.6.12'\n")
    old.chmod(0o755)
    assert find_broker("auto") == brokers.BUILTIN


def test_mosquitto_is_found_beyond_an_ordinary_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = shutil.which("mosquitto", path=os.pathsep.join(brokers._MORE_PLACES))
    if there is None:
        pytest.skip("mosquitto is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_broker() == Path(there)


def test_no_shipped_configuration_drops_messages() -> None:
    deployed = Path(__file__).parents[2] / "deploy" / "mosquitto" / "mosquitto.conf"
    shared = mosquitto_config()
    assert shared in deployed.read_text()
    for line in (
        "allow_anonymous false",
        "max_queued_messages 0",
        "max_queued_bytes 0",
        "persistence true",
    ):
        assert line in shared.splitlines()


@pytest.mark.parametrize("name", ["mosquitto", "builtin"])
async def test_a_broker_that_has_just_started_takes_users(tmp_path: Path, name: str) -> None:
    """They are told of by SIGHUP, which ends a process that does not handle it yet."""
    try:
        program = find_broker(name)
    except ConfigError as error:
        pytest.skip(str(error))
    for number in range(5):
        server = brokers.Broker(tmp_path / str(number), port=free_port(), program=program)
        await server.start()
        try:
            await server.add_users({"new": User("password", ("readwrite i/#",))})
            assert server.child.running
        finally:
            await server.stop()
