"""A spool that is full, read-only or damaged while the server behind it is away."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.account import Letter
from tests.faults.program import Program
from tests.faults.scene import Scene

_SMALL = "256k"
_TINY_BYTES = str(64 * 1024)


async def disk_full(scene: Scene) -> None:
    """PostgreSQL is away, and the disk of ingestion's spool is full."""
    async with _disk(scene, _SMALL) as disk, _ingestion(scene, IOTISTICA_SPOOL_DIR=str(disk)):
        await _without_postgres(scene)


async def read_only(scene: Scene) -> None:
    """PostgreSQL is away, and the disk of ingestion's spool is read-only."""
    async with _disk(scene, _SMALL) as disk:
        # Before the service starts: the kernel refuses it while a file is open for writing.
        _mount("-o", "remount,ro", disk)
        async with _ingestion(scene, IOTISTICA_SPOOL_DIR=str(disk)):
            await _without_postgres(scene)


async def bound_reached(scene: Scene) -> None:
    """PostgreSQL is away, and ingestion's spool may hold very little."""
    async with _ingestion(scene, IOTISTICA_SPOOL_MAX_BYTES=_TINY_BYTES):
        await _without_postgres(scene)


async def api_bound_reached(scene: Scene) -> None:
    """Redis is away, and the bridge's spool may hold very little."""
    async with replaced(scene, scene.rig.api, IOTISTICA_API_SPOOL_MAX_BYTES=_TINY_BYTES):
        scene.doom("redis")
        await scene.rig.redis.stop()
        await scene.hold(4.0, 12.0)
        await scene.rig.revive("redis")


async def damaged(scene: Scene) -> None:
    """PostgreSQL is away, and the oldest segment of ingestion's spool is damaged on disk."""
    scene.doom("postgres")
    await scene.rig.postgres.stop()
    try:

        async def two_segments() -> bool:
            return len(_segments(scene)) > 1

        await scene.until("ingestion spools", two_segments, within_s=20.0)
        victim = _segments(scene)[0]
        with victim.open("r+b") as file:
            file.seek(victim.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 0x55]))
        scene.pardoned = scene.load.marks()
    finally:
        await scene.rig.revive("postgres")

    async def check(_letters: Sequence[Letter]) -> list[str]:
        aside = list(scene.rig.spool.glob(f"*/*/quarantine/{victim.name}"))
        return [] if aside else [f"the damaged segment {victim.name} was not put aside"]

    scene.checks.append(check)


def _segments(scene: Scene) -> list[Path]:
    return sorted(scene.rig.spool.glob("ingestion/*/*.segment"), key=lambda path: path.name)


async def _without_postgres(scene: Scene) -> None:
    scene.doom("postgres")
    await scene.rig.postgres.stop()
    try:
        await scene.hold(4.0, 12.0)
    finally:
        await scene.rig.revive("postgres")


@asynccontextmanager
async def _ingestion(scene: Scene, **environment: str) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for program in scene.rig.ingestions:
            await stack.enter_async_context(replaced(scene, program, **environment))
        yield


@asynccontextmanager
async def replaced(scene: Scene, program: Program, **environment: str) -> AsyncIterator[Program]:
    """Another process in the place of a service, differently configured, until all is stored."""
    scene.doom(program.name)
    await program.stop()
    spool = Path(environment.get("IOTISTICA_SPOOL_DIR", scene.rig.spool))
    other = scene.rig.program(f"{program.name}-other", **environment)
    await other.start()
    try:
        yield other

        async def drained() -> bool:
            return not any(spool.glob(f"{program.service}/*/*.segment"))

        # As before a machine is taken out of service.
        await scene.until(f"the spool of {other.name} is empty", drained, within_s=30.0)
    finally:
        if status := await other.stop():
            scene.wrong.append(f"{other.name} ended with status {status}; see {other.log}")
        await scene.rig.revive(program.name)


@asynccontextmanager
async def _disk(scene: Scene, size: str) -> AsyncIterator[Path]:
    """A small file system of its own."""
    disk = scene.rig.directory / "disk"
    disk.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)
        disk.rmdir()


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)
