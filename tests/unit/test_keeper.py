"""Keeper: what dies is started again, groups stop in reverse order."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from iotistica.embedded.keeper import Keeper
from iotistica.embedded.process import Child, Command
from iotistica.errors import StartFailed


class Sleeper:
    """A service that notes when it is stopped."""

    def __init__(self, directory: Path, name: str, stopped: list[str], program: str = "sleep"):
        self._stopped = stopped
        self.name = name
        self.child = Child(
            Command(
                name=name,
                argv=[program, "60"],
                log=directory / f"{name}.log",
                pid_file=directory / f"{name}.pid",
                cwd=directory,
            )
        )

    async def start(self) -> None:
        await self.child.start()

    async def stop(self) -> None:
        await self.child.stop()
        self._stopped.append(self.name)


async def test_a_service_that_dies_is_started_again_and_counted(tmp_path: Path) -> None:
    sentences: list[str] = []
    again = asyncio.Event()
    keeper = Keeper(sentences.append, again.set)
    service = Sleeper(tmp_path, "worker", [])
    await keeper.start(service)
    first = service.child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(again.wait(), 10)
    assert service.child.running
    assert service.child.pid != first
    assert keeper.restarts == {"worker": 1}
    assert sentences == ["worker ended with exit status -9; starting it again"]
    await keeper.stop()
    assert not service.child.running


async def test_groups_stop_in_reverse_order(tmp_path: Path) -> None:
    stopped: list[str] = []
    keeper = Keeper(lambda _: None, lambda: None)
    for name in ("servers", "services", "fleet"):
        await keeper.start(Sleeper(tmp_path, name, stopped))
    await keeper.stop()
    assert stopped == ["fleet", "services", "servers"]


async def test_a_failed_start_leaves_the_others_to_be_stopped(tmp_path: Path) -> None:
    stopped: list[str] = []
    keeper = Keeper(lambda _: None, lambda: None)
    good, bad = (
        Sleeper(tmp_path, "good", stopped),
        Sleeper(tmp_path, "bad", stopped, program="nothing-here"),
    )
    with pytest.raises(StartFailed, match="bad cannot be run"):
        await keeper.start(good, bad)
    assert good.child.running
    await keeper.stop()
    assert not good.child.running


async def test_kill_makes_a_waiting_stop_return(tmp_path: Path) -> None:
    keeper = Keeper(lambda _: None, lambda: None)
    service = Sleeper(tmp_path, "stubborn", [])
    await keeper.start(service)
    assert service.child.pid is not None
    os.kill(service.child.pid, signal.SIGSTOP)
    stopping = asyncio.create_task(keeper.stop())
    await asyncio.sleep(0)
    keeper.kill()
    await asyncio.wait_for(stopping, 5)
    assert not service.child.running
