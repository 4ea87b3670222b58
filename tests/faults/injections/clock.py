"""Services whose clock jumps, by libfaketime."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import orjson
from tests.faults.injections.spool import replaced
from tests.faults.program import Program
from tests.faults.scene import Scene

_LIBRARY = "faketime/libfaketimeMT.so.1"
_JUMPS_S = (3600, -3600, 0)


def library() -> Path | None:
    """libfaketime (Debian: package faketime), where it is installed."""
    found = [*Path("/usr/lib").glob(f"*/{_LIBRARY}"), *Path("/usr/lib").glob(_LIBRARY)]
    return found[0] if found else None


async def jump(scene: Scene) -> None:
    """The clocks of the API and of ingestion jump an hour ahead, two back, and are right again."""
    hand = scene.rig.directory / "clock"
    hand.write_text("+0\n")
    environment = {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(hand),
        "FAKETIME_NO_CACHE": "1",
        # Only the time of day jumps; the monotonic clock does not, on a real machine neither.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with (
        replaced(scene, scene.rig.api, **environment) as api,
        replaced(scene, scene.rig.ingestions[0], **environment) as ingestion,
    ):
        for offset_s in _JUMPS_S:
            hand.write_text(f"{offset_s:+d}\n")
            for program in (api, ingestion):
                off_s = await _clock_of(program) - time.time()
                if abs(off_s - offset_s) > 60:
                    scene.wrong.append(f"the clock of {program.name} is {off_s:.0f} s off")
            await scene.load.more(30)
            await scene.hold(1.0, 4.0)


async def _clock_of(program: Program) -> float:
    _, body = await program.get("/health")
    return datetime.fromisoformat(orjson.loads(body)["timestamp"]).timestamp()
