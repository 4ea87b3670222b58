"""The table of faults: what is injected, and what an injection needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.injections import clock, database, messages, network, processes, redis, spool
from tests.faults.injections.processes import Inject
from tests.faults.rig import Options
from tests.faults.scene import Scene


@dataclass(frozen=True, slots=True)
class Need:
    """Something that is not there always; `lacks` says why not, or nothing."""

    lacks: Callable[[Options], str]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table: `inject` hurts the rig, and heals it before it returns."""

    name: str
    inject: Inject
    needs: tuple[Need, ...] = ()
    kills: bool = False

    @property
    def text(self) -> str:
        """What happens, in a sentence."""
        return " ".join((self.inject.__doc__ or "").partition("\n\n")[0].split())

    def lacks(self, options: Options) -> str:
        """Why it cannot be injected here; empty where it can."""
        return next(filter(None, (need.lacks(options) for need in self.needs)), "")


ROOT = Need(lambda _options: "" if os.geteuid() == 0 else "only root may mount a small disk")
FAKETIME = Need(lambda _options: "" if clock.library() else "libfaketime is not installed")
DURABLE = Need(
    lambda options: (
        ""
        if options.broker == "builtin"
        else "kill -9 costs Mosquitto what it acknowledged since it last wrote its file"
    )
)
REMEMBERS = Need(
    lambda options: (
        ""
        if options.broker == "builtin"
        else "Mosquitto 2.0 forgets shared subscriptions when it restarts: what it acknowledges "
        "until the bridge has subscribed again goes nowhere"
    )
)


async def nothing(scene: Scene) -> None:
    """No fault: how long it takes when all is well."""
    await scene.hold(1.0, 4.0)


KILLED = (*processes.SUPERVISED, "api", "ingestion-0", "redis", "postgres")
STOPPED = (*KILLED, "broker")

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("nothing", nothing),
        *(Fault(f"kill {name}", processes.kill(name), kills=True) for name in KILLED),
        Fault("kill broker", processes.kill("broker"), (DURABLE,), kills=True),
        Fault("kill a backend", processes.kill_backend, kills=True),
        Fault("kill and stop at random", processes.storm, kills=True),
        *(Fault(f"stop {name}", processes.stop(name)) for name in STOPPED),
        Fault("stop the backends", processes.hang_backends),
        Fault("SIGTERM api", processes.terminate("api")),
        Fault("SIGTERM ingestion-0", processes.terminate("ingestion-0")),
        Fault("one more ingestion", processes.replicate_ingestion),
        Fault("one more api", processes.replicate_api),
        Fault("broker restarts", processes.restart("broker"), (REMEMBERS,)),
        Fault("postgres away", database.away),
        Fault("postgres refuses", database.refuses),
        Fault("postgres slow", database.slow),
        Fault("postgres full", database.full),
        Fault("postgres read-only", database.read_only),
        *(
            Fault(f"postgres {verb}", database.refuses_rows(using))
            for verb, using in (
                ("checks rows", "ERRCODE = 'check_violation', CONSTRAINT = 'no_condemned'"),
                ("checks rows by trigger", "ERRCODE = 'check_violation'"),
                ("raises for rows", "ERRCODE = 'raise_exception'"),
            )
        ),
        Fault("redis restarts", redis.away),
        Fault("redis full", redis.full),
        Fault("redis flushed", redis.flushed),
        Fault("redis flushed, ingestion dies", redis.flushed_and_ingestion_killed, kills=True),
        *(
            Fault(f"{link} {manner}", network.disturb(link, manner))
            for link, manner in network.LINK_FAULTS
        ),
        Fault("poison flood", messages.flood),
        Fault("agent's clock jumps", messages.clocks),
        Fault("services' clocks jump", clock.jump, (FAKETIME,)),
        Fault("spool disk full", spool.disk_full, (ROOT,)),
        Fault("spool read-only", spool.read_only, (ROOT,)),
        Fault("spool bound reached", spool.bound_reached),
        Fault("api spool disk full", spool.api_disk_full, (ROOT,)),
        Fault("api spool bound reached", spool.api_bound_reached),
        Fault("spool segment damaged", spool.damaged),
    )
}
"""Every fault by its name."""

OPEN: dict[str, str] = {}
"""Faults that the platform does not survive yet, and why. Empty is the goal."""
