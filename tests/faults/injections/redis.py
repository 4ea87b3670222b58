"""Redis that restarts, is full, or has lost everything."""

from __future__ import annotations

import asyncio

from redis.exceptions import ResponseError
from tests.faults.injections.processes import restart
from tests.faults.scene import Scene

from iotistica import keys

GROUP_S = 5.0
"""A consumer group that is lost exists again within this time."""
_SETTLED_S = 0.5
"""What the broker acknowledged so long after Redis lost its data, the bridge handed over later."""


async def away(scene: Scene) -> None:
    """Redis is restarted, and has its data from the append-only file."""
    await restart("redis")(scene)


async def full(scene: Scene) -> None:
    """Redis holds all it may hold: it refuses what needs memory."""
    async with scene.rig.redis_client() as redis:
        limit = (await redis.config_get("maxmemory"))["maxmemory"]
        await redis.config_set("maxmemory", "1mb")
        try:
            await scene.until_it_says_so(scene.rig.api)
            await scene.hold(2.0, 10.0)
        finally:
            await redis.config_set("maxmemory", str(limit))


async def flushed(scene: Scene) -> None:
    """Redis loses all its data. What it held is lost; nothing that came later is."""
    tenant = scene.rig.tenant
    async with scene.rig.redis_client() as redis:
        await redis.flushall()

        async def group_exists() -> bool:
            try:
                groups = await redis.xinfo_groups(keys.ingestion_stream(tenant))
            except ResponseError:
                return False
            return any(
                group["name"] == keys.device_writers_group(tenant).encode() for group in groups
            )

        await scene.until("the consumer group exists again", group_exists, within_s=GROUP_S)
    await asyncio.sleep(_SETTLED_S)
    scene.pardoned = scene.load.marks()


async def flushed_and_ingestion_killed(scene: Scene) -> None:
    """The same, and the processes that remember what Redis knew die too."""
    await flushed(scene)
    for program in scene.rig.ingestions:
        await scene.kill(program.name)
    for program in scene.rig.ingestions:
        await scene.rig.revive(program.name)
