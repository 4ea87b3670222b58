"""The bridge process: one MQTT session after another, from the broker to Redis."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from functools import partial

import uvloop

from iotistica import keys, log, metrics, mqtt, ops, supervisor, tasks
from iotistica.api.batch import Routes
from iotistica.api.inbound import Inbound
from iotistica.api.outlet import Outlet
from iotistica.api.pressure import Pressure
from iotistica.api.tenants import Tenants
from iotistica.backoff import Backoff
from iotistica.errors import ConfigError, StoreUnavailable
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
        quotas: Quotas | None = None,
    ) -> None:
        self._settings = settings
        self._options = session_options(settings, name)
        breaker = settings.breaker()
        self._pressure = Pressure(settings, streams)
        self._outlet = Outlet(streams, spool, breaker, self._pressure)
        metrics.observe_breaker("redis", breaker)
        metrics.observe_spool(spool)
        self._tenants = tenants
        self._quotas = quotas or Quotas(default=settings.quota(), share=settings.bridge_processes)
        self._routes = Routes()
        self._sessions = 0
        self.broker_error: str | None = "the broker is not connected yet"
        """Why there is no session."""

    def reasons(self) -> Sequence[str]:
        """Why messages are not moving now."""
        states = (self.broker_error, *self._outlet.reasons(), self._tenants.error)
        return [reason for reason in states if reason is not None]

    async def run(self, stop: asyncio.Event) -> None:
        """Move messages until `stop`; opens a new session whenever one is lost."""
        chores = [
            asyncio.create_task(work)
            for work in (self._pressure.watch(), self._outlet.replay(), self._tenants.warm_up())
        ]
        keeping = asyncio.create_task(self._keep_session(stop))
        running = {keeping, *chores}
        try:
            # A chore that a defect ends must end the process, which is then started again.
            while not keeping.done():
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            await tasks.end(running)

    async def _keep_session(self, stop: asyncio.Event) -> None:
        backoff = Backoff(first_s=0.1, most_s=10.0)
        while not stop.is_set():
            try:
                async with mqtt.connect(
                    self._options, client=self._settings.mqtt_client
                ) as session:
                    await self._serve(session, stop, backoff.reset)
            except (mqtt.Disconnected, mqtt.Refused) as error:
                self.broker_error = str(error)
                pause_s = backoff.next_s()
                _log.warning("no MQTT session", error=str(error), pause_s=round(pause_s, 2))
                await _sleep_unless(stop, pause_s)
            finally:
                metrics.BRIDGE_CONNECTED.set(0)

    async def _subscribe(self, session: mqtt.Session) -> None:
        await session.subscribe(keys.shared_filter(keys.TELEMETRY_FILTER))
        if self._settings.key_compaction:
            await session.subscribe(keys.DICTIONARY_FILTER)
        try:
            await session.subscribe(keys.BROKER_DROPPED_TOPIC)
        except mqtt.Refused:
            _log.warning("the broker does not show its dropped counter")

    async def _restore_dictionaries(self, session: mqtt.Session) -> None:
        """Whenever Redis has lost its data, let the broker send again what it retains."""
        while True:
            await self._pressure.lost.wait()
            self._pressure.lost.clear()
            if self._settings.key_compaction:
                await session.subscribe(keys.DICTIONARY_FILTER)

    def _opened(self, session: mqtt.Session) -> None:
        self.broker_error = None
        metrics.BRIDGE_CONNECTED.set(1)
        if self._sessions:
            metrics.BRIDGE_RECONNECTS.inc()
        self._sessions += 1
        _log.info("MQTT session open", client=self._options.client_id, resumed=session.resumed)

    async def _serve(
        self, session: mqtt.Session, stop: asyncio.Event, opened: Callable[[], None]
    ) -> None:
        inbound = Inbound(
            session,
            self._settings,
            outlet=self._outlet,
            quotas=self._quotas,
            tenants=self._tenants,
            routes=self._routes,
        )
        work = [
            asyncio.create_task(inbound.run()),
            asyncio.create_task(self._restore_dictionaries(session)),
        ]
        stopping = asyncio.create_task(stop.wait())
        try:
            # While messages are already moved: a resumed session brings as many as the window
            # takes, and the broker's answer to a subscription may stand behind them.
            await self._subscribe(session)
            self._opened(session)
            opened()
            await asyncio.wait((*work, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in work:
                if task.done():
                    task.result()
                task.cancel()
            await inbound.finish(self._settings.stop_grace_s / 2)
        finally:
            await tasks.end((*work, stopping))
            await inbound.cancel()


def session_options(settings: Settings, name: str) -> mqtt.Options:
    """How process `name` connects. Raises `ConfigError`.

    The client id is fixed, so that a restarted process resumes the session of its predecessor.
    """
    prefix = settings.mqtt_client_id or f"{keys.SHARED_GROUP}-{socket.gethostname()}"
    password = settings.mqtt_password
    return mqtt.parse_url(
        settings.require("mqtt_url"),
        client_id=f"{prefix}-{name}",
        username=settings.mqtt_username,
        password=password.get_secret_value() if password is not None else None,
        clean_start=False,
        session_expiry_s=settings.mqtt_session_expiry_s,
        receive_maximum=settings.mqtt_receive_maximum,
        max_in_flight_messages=settings.mqtt_receive_maximum,
        max_in_flight_bytes=settings.bridge_in_flight_bytes,
    )


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def run(assignment: supervisor.Assignment) -> None:
    """Be the bridge process until SIGTERM or SIGINT. Raises `ConfigError`."""
    settings, stop = assignment.settings, asyncio.Event()
    supervisor.on_signals(stop)
    pool = await open_pool(
        settings.model_copy(update={"database_pool_size": 1}), application_name=assignment.name
    )
    streams = Streams(settings.require("redis_url"))
    tenants = Tenants(partial(tenant_ids, pool), refresh_s=settings.tenant_refresh_s)
    spool = Spool(settings.spool_root("api"), max_bytes=settings.api_spool_max_bytes)
    quotas = Quotas(default=settings.quota(), share=settings.bridge_processes)
    following = asyncio.create_task(quotas.follow(partial(tenant_quotas, pool)))
    bridge = Bridge(
        settings,
        name=assignment.name,
        streams=streams,
        spool=spool,
        tenants=tenants,
        quotas=quotas,
    )
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
    assignment = supervisor.assigned()
    log.configure(assignment.settings.log_level, service="api", process=assignment.name)
    try:
        uvloop.run(run(assignment))
    except ConfigError as error:
        _log.error(str(error))
        return supervisor.EXIT_CONFIG
    except StoreUnavailable as error:
        _log.error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
