"""The control process: what agents send beside telemetry, what is sent to them, and chores.

It has an MQTT session of its own: PUBACKs are in order per session, so while PostgreSQL is away the
broker holds these messages, and telemetry goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from iotistica import log, metrics, mqtt, ops, supervisor
from iotistica._native import Limits
from iotistica.api.alert_watch import AlertWatch
from iotistica.api.batch import Routes
from iotistica.api.families import Family
from iotistica.api.families.anomalies import Anomalies
from iotistica.api.families.intake import Intake
from iotistica.api.families.lane import Desk
from iotistica.api.families.postman import Postman
from iotistica.api.link import Link, run_together, serve
from iotistica.api.members import Members
from iotistica.api.notifier import Notifier
from iotistica.api.outlet import Outlet
from iotistica.api.pressure import Pressure
from iotistica.api.tenants import Tenants
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable
from iotistica.settings import Settings
from iotistica.spool import Spool
from iotistica.store.alert_evaluation import AlertEvaluation
from iotistica.store.alerts import AlertStore
from iotistica.store.anomalies import AnomalyStore
from iotistica.store.members import tenants_of
from iotistica.store.pool import Pool, open_pool
from iotistica.store.tenants import tenant_ids
from iotistica.store.webhooks import DeliveryStore
from iotistica.streams import Streams

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do every so often, in every control process; see `store.turn` for one alone."""

    name: str
    every_s: float
    work: Callable[[], Awaitable[object]]

    async def repeat(self) -> None:
        """Do it until cancelled; a server that is away puts it off."""
        backoff = Backoff(first_s=min(self.every_s, 1.0), most_s=max(self.every_s, 30.0))
        while True:
            try:
                await self.work()
            except StoreUnavailable as error:
                _log.warning("chore put off", chore=self.name, error=str(error))
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()
                await asyncio.sleep(self.every_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What families and chores are made of."""

    settings: Settings
    pool: Pool
    streams: Streams
    outlet: Outlet


def families(means: Means) -> dict[str, Family]:
    """Every family by the kind of its topics, or by kind and next level (`events/anomaly`)."""
    anomalies = Anomalies(
        AnomalyStore(means.pool),
        means.streams.channels,
        means.outlet.send,
        retention_days=means.settings.retention_days,
        max_future_s=means.settings.max_future_s,
    )
    return {"events/anomaly": anomalies}


def chores(means: Means) -> list[Chore]:
    """Everything that is done beside messages."""
    alerts, deliveries = AlertStore(means.pool), DeliveryStore(means.pool)
    watch = AlertWatch(AlertEvaluation(means.pool), alerts, means.streams.channels)
    notifier = Notifier(means.settings, deliveries)
    days = means.settings.alert_retention_days
    return [
        Chore("alert rules", 1.0, watch.run_due),
        Chore("webhooks", 1.0, notifier.deliver_due),
        *(
            Chore(f"forget {name}", 3600.0, partial(forget, older_than_days=days))
            for name, forget in (
                ("anomalies", AnomalyStore(means.pool).forget),
                ("alerts", alerts.forget),
                ("deliveries", deliveries.forget),
            )
        ),
    ]


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
        means = Means(settings=settings, pool=pool, streams=streams, outlet=self._outlet)
        self._families = made(means)
        self._chores = chores(means)
        self._desk = Desk(
            members=Members(partial(tenants_of, pool)),
            tenants=self._tenants,
            outlet=self._outlet,
            breaker=database,
            limits=Limits(
                max_message_bytes=settings.max_message_bytes,
                max_inflated_bytes=settings.max_inflated_bytes,
                max_depth=settings.max_depth,
                max_elements=settings.max_elements,
            ),
            max_message_bytes=settings.max_message_bytes,
            executor=executor,
            seen=lambda agents: None,
        )
        self._routes = Routes()
        self._postman = Postman(streams, self._link.options.client_id)
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
        found = dict.fromkeys((*states, self._tenants.error))
        return [reason for reason in found if reason is not None]

    async def run(self, stop: asyncio.Event) -> None:
        """Move messages until `stop`; opens a new session whenever one is lost."""
        await run_together(
            self._link.keep(stop, partial(self._serve, stop)),
            self._pressure.watch(),
            self._outlet.replay(),
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
        await intake.subscribe(self._families)
        self._link.opened(session)


async def run(assignment: supervisor.Assignment) -> None:
    """Be the control process until SIGTERM or SIGINT. Raises `ConfigError`."""
    settings, stop = assignment.settings, asyncio.Event()
    supervisor.on_signals(stop)
    pool = await open_pool(settings, application_name=assignment.name)
    streams = Streams(settings.require("redis_url"), outbox_most=settings.outbox_max_messages)
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
