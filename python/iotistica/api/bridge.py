"""The bridge process: one MQTT session after another, from the broker to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from iotistica import keys, log, metrics, mqtt, ops, supervisor, tasks
from iotistica.api.batch import Routes
from iotistica.api.inbound import Inbound
from iotistica.api.link import Link, run_together, serve
from iotistica.api.outlet import Outlet
from iotistica.api.presence import Presence, presence_of
from iotistica.api.pressure import Pressure
from iotistica.api.shares import share
from iotistica.api.tenants import Tenants
from iotistica.api.topic_watch import TopicWatch
from iotistica.quotas import Quotas
from iotistica.settings import Settings
from iotistica.spool import Spool
from iotistica.store.pool import open_pool
from iotistica.store.tenants import tenant_ids, tenant_quotas
from iotistica.streams import Streams

_log = log.get(__name__)


class Bridge:
    """Keeps an MQTT session open and everything received on it moving, until told to stop."""

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        streams: Streams,
        spool: Spool,
        tenants: Tenants,
        presence: Presence | None = None,
    ) -> None:
        self._settings = settings
        self._link = Link(
            settings, name, connected=metrics.BRIDGE_CONNECTED, again=metrics.BRIDGE_RECONNECTS
        )
        breaker = settings.breaker()
        self._pressure = Pressure(settings, streams)
        self._outlet = Outlet(streams, spool, breaker, self._pressure)
        metrics.observe_breaker("redis", breaker)
        metrics.observe_spool(spool)
        self._tenants = tenants
        self.quotas = Quotas(default=settings.quota(), share=settings.bridge_processes)
        self._presence = presence
        self._routes = Routes()
        self._topics = TopicWatch(streams, name=name, period_s=settings.monitor_period_s)

    @property
    def broker_error(self) -> str | None:
        """Why there is no session."""
        return self._link.error

    def reasons(self) -> Sequence[str]:
        """Why messages are not moving now."""
        states = (self.broker_error, *self._outlet.reasons(), self._tenants.error)
        return [reason for reason in states if reason is not None]

    async def run(self, stop: asyncio.Event) -> None:
        """Move messages until `stop`; opens a new session whenever one is lost."""
        await run_together(
            self._link.keep(stop, partial(self._serve, stop)),
            self._pressure.watch(),
            self._outlet.replay(),
            self._tenants.warm_up(),
            self._topics.repeat(),
            *([self._presence.chore().repeat()] if self._presence is not None else []),
        )

    async def _subscribe(self, session: mqtt.Session) -> None:
        await session.subscribe(share(self._settings, keys.TELEMETRY_FILTER))
        try:
            await session.subscribe(keys.BROKER_DROPPED_TOPIC)
        except mqtt.Refused:
            _log.warning("the broker does not show its dropped counter")
        self._link.opened(session)

    async def _serve(self, stop: asyncio.Event, session: mqtt.Session) -> None:
        inbound = Inbound(
            session,
            self._settings,
            outlet=self._outlet,
            quotas=self.quotas,
            tenants=self._tenants,
            routes=self._routes,
            topics=self._topics,
            heard=self._presence.seen if self._presence is not None else None,
        )
        await serve(
            inbound,
            opened=partial(self._subscribe, session),
            stop=stop,
            grace_s=self._settings.stop_grace_s / 2,
        )


async def run(assignment: supervisor.Assignment) -> None:
    """Be the bridge process until SIGTERM or SIGINT. Raises `ConfigError`."""
    settings, stop = assignment.settings, asyncio.Event()
    supervisor.on_signals(stop)
    pool = await open_pool(
        settings.model_copy(update={"database_pool_size": 1}), application_name=assignment.name
    )
    streams = Streams.of(settings)
    tenants = Tenants(partial(tenant_ids, pool), refresh_s=settings.tenant_refresh_s)
    spool = Spool(settings.spool_root("api"), max_bytes=settings.api_spool_max_bytes)
    bridge = Bridge(
        settings,
        name=assignment.name,
        streams=streams,
        spool=spool,
        tenants=tenants,
        presence=presence_of(settings, pool, streams),
    )
    following = asyncio.create_task(bridge.quotas.follow(partial(tenant_quotas, pool)))
    probe = ops.Probe(f"iotistica-api {assignment.name}", ready=bridge.reasons)
    try:
        async with ops.serve(probe, sock=assignment.listener):
            await bridge.run(stop)
    finally:
        await tasks.end([following])
        spool.close()
        await streams.close()
        await pool.close()


def main() -> int:
    """Entry point of `python -m iotistica.api.bridge`, started by the supervisor."""
    return supervisor.fill("api", run)


if __name__ == "__main__":
    raise SystemExit(main())
