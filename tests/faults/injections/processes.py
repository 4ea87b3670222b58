"""Processes that are killed, stopped, told to end, added and removed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

from tests.faults import processes
from tests.faults.program import STOP_S, Program
from tests.faults.rig import MQTT_CLIENT
from tests.faults.scene import Scene

from iotistica import mqtt

Inject = Callable[[Scene], Awaitable[None]]

SUPERVISED = ("bridge", "control", "door", "web")
"""Started again by `iotistica api`; everything else the rig starts again."""


def kill(name: str) -> Inject:
    async def inject(scene: Scene) -> None:
        """SIGKILL, some time without the process, and a new one."""
        await scene.kill(name)
        if name in SUPERVISED:
            await _until_supervised(scene, name)
        else:
            await scene.hold(0.2, 3.0)
            await scene.rig.revive(name)

    return inject


async def kill_backend(scene: Scene) -> None:
    """SIGKILL a process of PostgreSQL that serves one session; it restarts all of them."""
    victim = scene.rng.choice(scene.rig.backends())
    if processes.send(victim, signal.SIGKILL):
        scene.rig.kills["backend"] += 1
    await processes.ended(victim, 5.0)
    await scene.hold(0.2, 2.0)


async def storm(scene: Scene) -> None:
    """Processes of all kinds killed and stopped at random, none given time to recover."""
    for _ in range(scene.rng.randint(3, 6)):
        name = scene.rng.choice(sorted(scene.rig.pids()))
        # What Mosquitto has acknowledged, it has not always on disk.
        if scene.rng.random() < 0.3 or (name == "broker" and scene.rig.broker.name != "builtin"):
            await stop(name)(scene)
            continue
        await scene.kill(name)
        await asyncio.sleep(scene.rng.uniform(0.0, 0.5))
        if name not in SUPERVISED:
            await scene.rig.revive(name)
    for name in SUPERVISED:
        await _until_supervised(scene, name)


def stop(name: str) -> Inject:
    async def inject(scene: Scene) -> None:
        """SIGSTOP, and SIGCONT later: the process hangs, its connections stay open."""
        pid = scene.rig.pids().get(name)
        if pid is None:
            return
        processes.send(pid, signal.SIGSTOP)
        try:
            await scene.hold(1.0, 8.0)
        finally:
            processes.send(pid, signal.SIGCONT)

    return inject


async def hang_backends(scene: Scene) -> None:
    """Every session of PostgreSQL hangs in the middle of whatever it does; new ones work."""
    hung = [pid for pid in scene.rig.backends() if processes.send(pid, signal.SIGSTOP)]
    try:
        # Longer than the patience of a statement: the services must give it up and go on.
        await scene.hold(2.0, 15.0)
    finally:
        for pid in hung:
            processes.send(pid, signal.SIGCONT)


def restart(name: str) -> Inject:
    async def inject(scene: Scene) -> None:
        """A server is stopped as its administrator would, and started again."""
        scene.doom(name)
        await scene.rig.servers[name].stop()
        await scene.hold(0.5, 5.0)
        await scene.rig.revive(name)

    return inject


def terminate(name: str) -> Inject:
    async def inject(scene: Scene) -> None:
        """SIGTERM to a service under load: not ready, exit 0 within 10 s, and a new one."""
        scene.doom(name)
        await _end(scene, scene.rig.programs[name])
        await scene.hold(0.2, 3.0)
        await scene.rig.revive(name)

    return inject


async def _end(scene: Scene, program: Program) -> None:
    began = time.monotonic()
    program.child.send(signal.SIGTERM)
    while program.child.running and time.monotonic() - began < STOP_S:
        # Asked again and again, as a load balancer does: it may answer 503 or not at all.
        if await program.is_ready() and time.monotonic() - began > 0.5:
            scene.wrong.append(f"{program.name} says that it is ready after SIGTERM")
        await asyncio.sleep(0.02)
    took_s, status = time.monotonic() - began, program.child.returncode
    if status != 0:
        scene.wrong.append(f"{program.name} had status {status} {took_s:.1f} s after SIGTERM")
        program.child.kill()
    await program.child.wait()


async def replicate_ingestion(scene: Scene) -> None:
    """One more ingestion process joins, works and leaves."""
    replica = scene.rig.program("ingestion-replica")
    await replica.start()
    await scene.hold(1.5, 5.0)
    if not await replica.metric("iotistica_ingestion_entries_total"):
        scene.wrong.append("the added ingestion process read nothing")
    await _end(scene, replica)


async def replicate_api(scene: Scene) -> None:
    """One more Cloud API, with a bridge of its own, joins, works and leaves for good.

    Whoever removes a bridge ends its session, as ARCHITECTURE.md says: else the broker keeps a
    share of the messages for it.
    """
    client = f"{MQTT_CLIENT}-replica"
    replica = scene.rig.program("api-replica", IOTISTICA_MQTT_CLIENT_ID=client)
    await replica.start()
    await scene.hold(1.5, 5.0)
    if not await replica.metric("iotistica_bridge_acknowledged_total"):
        scene.wrong.append("the added bridge received nothing")
    await _end(scene, replica)
    url = scene.rig.target.mqtt_url
    async with mqtt.connect(mqtt.parse_url(url, client_id=f"{client}-bridge-0", clean_start=True)):
        pass


async def _until_supervised(scene: Scene, name: str) -> None:
    async def runs() -> bool:
        return name in scene.rig.pids() and await scene.rig.api.is_ready()

    # Back-off between the starts of a process that dies often goes up to ten seconds.
    await scene.until(f"{name} runs again", runs, within_s=30.0)
