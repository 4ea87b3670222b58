"""A spool that is full, read-only or damaged while the server behind it is away."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.account import Account
from tests.faults.program import Program
from tests.faults.scene import Scene

from iotistica.spool import segment

_DISK = "256k"
_BOUND_BYTES = 1024 * 1024
"""The least that a spool may be given."""
_FILL_S = 30.0


async def disk_full(scene: Scene) -> None:
    """PostgreSQL is away, and the disk of ingestion's spool is full."""
    async with (
        _disk(scene) as disk,
        _ingestion(scene, IOTISTICA_SPOOL_DIR=str(disk)) as program,
        _without(scene, "postgres"),
    ):
        await _until_full(scene, program)


async def read_only(scene: Scene) -> None:
    """PostgreSQL is away, and the disk of ingestion's spool is read-only."""
    async with _disk(scene) as disk:
        # Before the service starts: the kernel refuses it while a file is open for writing.
        _mount("-o", "remount,ro", disk)
        async with (
            _ingestion(scene, IOTISTICA_SPOOL_DIR=str(disk)) as program,
            _without(scene, "postgres"),
        ):
            await scene.until_it_says_so(program)
            await scene.hold(3.0, 12.0)


async def bound_reached(scene: Scene) -> None:
    """PostgreSQL is away, and ingestion's spool has reached its bound."""
    async with (
        _ingestion(scene, IOTISTICA_SPOOL_MAX_BYTES=str(_BOUND_BYTES)) as program,
        _without(scene, "postgres"),
    ):
        await _until_full(scene, program)


async def api_disk_full(scene: Scene) -> None:
    """Redis is away, and the disk of the bridge's spool is full."""
    async with (
        _disk(scene) as disk,
        replaced(scene, scene.rig.api, IOTISTICA_SPOOL_DIR=str(disk)) as program,
        _without(scene, "redis"),
    ):
        await _until_full(scene, program)


async def api_bound_reached(scene: Scene) -> None:
    """Redis is away, and the bridge's spool has reached its bound."""
    setting = {"IOTISTICA_API_SPOOL_MAX_BYTES": str(_BOUND_BYTES)}
    async with (
        replaced(scene, scene.rig.api, **setting) as program,
        _without(scene, "redis"),
    ):
        await _until_full(scene, program)


async def damaged(scene: Scene) -> None:
    """PostgreSQL is away, and the oldest segment of ingestion's spool is damaged on disk."""
    async with _without(scene, "postgres"):

        async def two_segments() -> bool:
            return len(_segments(scene.rig.spool, "ingestion")) > 1

        await scene.until("ingestion spools", two_segments, within_s=_FILL_S)
        victim = _segments(scene.rig.spool, "ingestion")[0]
        summary = segment.summary(victim)
        held = summary.messages[scene.rig.tenant] if summary else 0
        with victim.open("r+b") as file:
            middle = victim.stat().st_size // 2
            file.seek(middle)
            byte = file.read(1)[0]
            file.seek(middle)
            file.write(bytes([byte ^ 0x55]))
        scene.pardoned = scene.load.marks()

    def check(account: Account) -> list[str]:
        wrong = []
        if not list(scene.rig.spool.glob(f"*/*/quarantine/{victim.name}")):
            wrong.append(f"the damaged segment {victim.name} was not put aside")
        if account.pardoned > held * scene.crew.plan.readings:
            wrong.append(f"{account.pardoned} readings lost by a segment of {held} messages")
        return wrong

    scene.checks.append(check)


def _segments(spool: Path, service: str) -> list[Path]:
    return sorted(spool.glob(f"{service}/*/*.segment"), key=lambda path: path.name)


async def _until_full(scene: Scene, program: Program) -> None:
    """Return some time after a service has said that its spool takes no more."""

    async def says_so() -> bool:
        return any("the spool in" in reason for reason in await program.reasons())

    what = f"{program.name} says that its spool takes no more"
    await scene.until(what, says_so, within_s=_FILL_S)
    await scene.hold(3.0, 10.0)


@asynccontextmanager
async def _without(scene: Scene, server: str) -> AsyncIterator[None]:
    scene.doom(server)
    await scene.rig.servers[server].stop()
    try:
        yield
    finally:
        await scene.rig.revive(server)


@asynccontextmanager
async def _ingestion(scene: Scene, **environment: str) -> AsyncIterator[Program]:
    """One process in the place of all."""
    first, *others = scene.rig.ingestions
    for program in others:
        scene.doom(program.name)
        await program.stop()
    try:
        async with replaced(scene, first, **environment) as program:
            yield program
    finally:
        for program in others:
            await scene.rig.revive(program.name)


@asynccontextmanager
async def replaced(scene: Scene, program: Program, **environment: str) -> AsyncIterator[Program]:
    """Another process in the place of a service, differently configured, until its spool is empty
    again; so long a machine stays that is to be taken out of service."""
    scene.doom(program.name)
    await program.stop()
    spool = Path(environment.get("IOTISTICA_SPOOL_DIR", scene.rig.spool))
    other = scene.rig.program(f"{program.name}-other", **environment)
    try:
        # One without a spool is not ready, and works all the same.
        await other.start_spoolless()
        yield other

        async def drained() -> bool:
            return not _segments(spool, program.service)

        for _ in range(3):
            await scene.until(f"the spool of {other.name} is empty", drained, within_s=30.0)
            await _stop(scene, other)
            # PostgreSQL, if it is slow, may have had it put more there meanwhile.
            if await drained():
                break
            await other.start()
    finally:
        await _stop(scene, other)
        await scene.rig.revive(program.name)


async def _stop(scene: Scene, program: Program) -> None:
    if status := await program.stop():
        scene.wrong.append(f"{program.name} ended with status {status}; see {program.log}")


@asynccontextmanager
async def _disk(scene: Scene) -> AsyncIterator[Path]:
    """A small file system of its own."""
    disk = scene.rig.directory / "disk"
    disk.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", disk)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)
