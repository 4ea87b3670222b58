"""The control process: what agents send beside telemetry, what is sent to them, and chores.

It has an MQTT session of its own: PUBACKs are in order per session, so while PostgreSQL is away the
broker holds these messages, and telemetry goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from iotistica import metrics, mqtt, ops, supervisor
from iotistica.api.batch import Routes
from iotistica.api.duties import Means, chores, families
from iotistica.api.families import Family
from iotistica.api.families.intake import Intake
from iotistica.api.families.lane import Desk
from iotistica.api.families.postman import Postman
from iotistica.api.link import Link, run_together, serve
from iotistica.api.log_writer import LogWriter
from iotistica.api.members import Members
from iotistica.api.outlet import Outlet
from iotistica.api.presence import presence_of
from iotistica.api.pressure import Pressure
from iotistica.api.tenants import Tenants
from iotistica.api.topic_watch import TopicWatch
from iotistica.limits import limits_of
from iotistica.settings import Settings
from iotistica.spool import Spool
from iotistica.store import timescale
from iotistica.store.logs import LogStore
from iotistica.store.members import tenants_of
from iotistica.store.pool import Pool, open_pool
from iotistica.store.tenants import tenant_ids
from iotistica.streams import Streams


class Control:
    """Keeps an MQTT session open and the families moving, until told to stop."""

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        pool: Pool,
        streams: Streams,
        spool: Spool,
        executor: ThreadPoolExecutor,
        made: Callable[[Means], Mapping[str, Family]] = families,
    ) -> None:
        self._settings = settings
        self._link = Link(
            settings, name, connected=metrics.CONTROL_CONNECTED, again=metrics.CONTROL_RECONNECTS
        )
        self._pressure = Pressure(settings, streams)
        redis, database = settings.breaker(), settings.breaker()
        metrics.observe_breaker("redis", redis)
        metrics.observe_breaker("postgres", database)
        metrics.observe_spool(spool)
        self._outlet = Outlet(streams, spool, redis, self._pressure)
        self._tenants = Tenants(partial(tenant_ids, pool), refresh_s=settings.tenant_refresh_s)
        self._presence = presence_of(settings, pool, streams)
        members = Members(partial(tenants_of, pool))
        means = Means(settings=settings, pool=pool, streams=streams, send=self._outlet.send)
        self._families = made(means)
        self._topics = TopicWatch(streams, name=name, period_s=settings.monitor_period_s)
        self._desk = Desk(
            members=members,
            tenants=self._tenants,
            outlet=self._outlet,
            breaker=database,
            limits=limits_of(settings),
            max_message_bytes=settings.max_message_bytes,
            executor=executor,
            seen=self._presence.seen,
            topics=self._topics,
        )
        self._routes = Routes()
        own_name = self._link.options.client_id
        self._postman = Postman(streams, own_name)
        self._log_writer = LogWriter(
            streams,
            LogStore(pool),
            name=own_name,
            members=members,
            executor=executor,
            settings=settings,
        )
        self._chores = [
            *chores(means, members, name=name, hears=lambda: self._link.error is None),
            self._presence.chore(),
            self._log_writer.chore(),
        ]
        self._intake: Intake | None = None

    @property
    def broker_error(self) -> str | None:
        """Why there is no session."""
        return self._link.error

    def reasons(self) -> Sequence[str]:
        """Why messages are not moving now."""
        lanes = self._intake.lanes.values() if self._intake is not None else ()
        held = (lane.held for lane in lanes)
        states = (self._link.error, *held, *self._outlet.reasons(), self._postman.error)
        defects = (chore.error for chore in self._chores)
        found = dict.fromkeys((*states, self._tenants.error, self._log_writer.reason, *defects))
        return [reason for reason in found if reason is not None]

    async def run(self, stop: asyncio.Event) -> None:
        """Move messages until `stop`; opens a new session whenever one is lost."""
        await run_together(
            self._link.keep(stop, partial(self._serve, stop)),
            self._pressure.watch(),
            self._outlet.replay(),
            self._topics.repeat(),
            *(chore.repeat() for chore in self._chores),
        )

    async def _serve(self, stop: asyncio.Event, session: mqtt.Session) -> None:
        self._intake = Intake(session, self._families, self._desk, self._routes)
        await serve(
            self._intake,
            self._postman.deliver(session),
            opened=partial(self._opened, session, self._intake),
            stop=stop,
            grace_s=self._settings.stop_grace_s / 2,
        )

    async def _opened(self, session: mqtt.Session, intake: Intake) -> None:
        await intake.subscribe(self._families, self._settings)
        self._link.opened(session)


async def run(assignment: supervisor.Assignment) -> None:
    """Be the control process until SIGTERM or SIGINT. Raises `ConfigError`."""
    settings, stop = assignment.settings, asyncio.Event()
    supervisor.on_signals(stop)
    await timescale.check_at_start(settings.require("database_url"))
    pool = await open_pool(settings, application_name=assignment.name)
    streams = Streams.of(settings)
    spool = Spool(settings.spool_root("api"), max_bytes=settings.api_spool_max_bytes)
    executor = ThreadPoolExecutor(1, "decode")
    control = Control(
        settings,
        name=assignment.name,
        pool=pool,
        streams=streams,
        spool=spool,
        executor=executor,
    )
    probe = ops.Probe(f"iotistica-api {assignment.name}", ready=control.reasons)
    try:
        async with ops.serve(probe, sock=assignment.listener):
            await control.run(stop)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        spool.close()
        await streams.close()
        await pool.close()


def main() -> int:
    """Entry point of `python -m iotistica.api.control`, started by the supervisor."""
    return supervisor.fill("api", run)


if __name__ == "__main__":
    raise SystemExit(main())
