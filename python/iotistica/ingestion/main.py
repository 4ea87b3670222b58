"""Entry point of an ingestion process: it reads for all tenants, measures, and stops gracefully."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvloop

from iotistica import keys, log, metrics, metrics_aliases, ops
from iotistica.allocator import return_large_buffers
from iotistica.backoff import Backoff
from iotistica.dictionaries.library import Library
from iotistica.encoder import Encoder
from iotistica.errors import StoreUnavailable
from iotistica.ingestion import attendant, upkeep
from iotistica.ingestion.attendant import Attendant
from iotistica.ingestion.bookkeeper import Bookkeeper
from iotistica.ingestion.letter_alarm import Kind, LetterAlarm
from iotistica.ingestion.pressure import Pressure
from iotistica.ingestion.reader import Reader
from iotistica.ingestion.replay import Replayer
from iotistica.ingestion.scaling import PERIOD_S as _SCALING_PERIOD_S
from iotistica.ingestion.scaling import Scaling
from iotistica.ingestion.slots import Slots
from iotistica.ingestion.station import Lane, Station
from iotistica.ingestion.writer import Writer
from iotistica.keys import Feed
from iotistica.quotas import Quotas
from iotistica.settings import EXPRESS_WORKERS, Settings
from iotistica.spool import Spool
from iotistica.store import timescale
from iotistica.store.agents import AgentStore
from iotistica.store.departures import Departures
from iotistica.store.dictionaries import DictionaryChanges
from iotistica.store.ledger import LedgerStore
from iotistica.store.pool import Pool, is_transient, open_pool, use_of
from iotistica.store.readings import ReadingStore
from iotistica.store.tenants import tenant_ids, tenant_quotas
from iotistica.streams import Streams

_LOG = log.get(__name__)

_DEPTH_PERIOD_S = 5.0
_LOOP_PERIOD_S = 0.5
_DAYS_PERIOD_S = 3600.0
_DEPARTURES_PERIOD_S = 2.0
_CHANGES_PERIOD_S = 2.0
_QUOTAS_PERIOD_S = 10.0
_DAYS_AHEAD = 3
_CLOSE_S = 0.5
_LEAVE_S = 1.0
_IDLE_CONSUMER_CLAIMS = 10
"""A consumer without entries that did nothing for so many times `claim_idle_ms` has left."""


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises `ConfigError`."""
    return_large_buffers()
    uvloop.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serve on the running loop; a signal finishes what is in hand and returns."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await timescale.check_at_start(settings.require("database_url"))
    async with opened(settings, stopping) as process:
        probe = ops.Probe("ingestion", ready=process.troubles, details=process.details)
        host, port = settings.ingestion_host, settings.ingestion_port
        async with ops.serve(probe, host=host, port=port) as url:
            _LOG.info("ingestion listens", url=url)
            await process.run()


@asynccontextmanager
async def opened(settings: Settings, stopping: asyncio.Event) -> AsyncIterator[Ingestion]:
    """A process's connections, closed at the end. Raises `ConfigError`."""
    streams = Streams.of(settings)
    pool = await open_pool(settings, application_name="iotistica-ingestion")
    threads = settings.autoscale_max_workers + EXPRESS_WORKERS
    executor = ThreadPoolExecutor(threads, "encode")
    # The server's limit first, the client's five seconds later, this one when both fail.
    store = ReadingStore(pool, limit_s=settings.database_statement_timeout_s + 10)
    alarm = LetterAlarm(bound=settings.dlq_max_entries, share=settings.dlq_share_alarm)
    station = Station(
        settings=settings,
        streams=streams,
        writer=Writer(store),
        breaker=settings.breaker(),
        spool=Spool(settings.spool_root("ingestion"), max_bytes=settings.spool_max_bytes),
        slots=Slots(settings.ingestion_workers),
        express=Slots(EXPRESS_WORKERS),
        pressure=Pressure(high_ms=settings.database_commit_high_ms),
        pool_pct=lambda: use_of(pool).percent,
        stopping=stopping,
        alarm=alarm,
        attendant=Attendant(settings, streams, alarm),
    )
    try:
        yield Ingestion(station, pool, store, executor)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        try:
            await asyncio.wait_for(pool.close(), _CLOSE_S)
        except TimeoutError:
            pool.terminate()
        await streams.close()
        station.spool.close()


class Ingestion:
    """One process: finds tenants, reads for them, measures, makes partitions ahead."""

    def __init__(
        self,
        station: Station,
        pool: Pool,
        store: ReadingStore,
        executor: ThreadPoolExecutor,
    ) -> None:
        self._station = station
        self._pool = pool
        self._store = store
        self._executor = executor
        self._agents = AgentStore(pool)
        self._bookkeeper = Bookkeeper(
            station.streams.ledger,
            LedgerStore(pool),
            period_s=station.settings.ledger_snapshot_s,
        )
        self._departures = Departures(pool)
        self._library = Library.of(station.settings, pool, station.streams)
        self._changes = DictionaryChanges(pool)
        self._encoders: dict[str, Encoder] = {}
        self._process = process_name()
        self._quotas = Quotas(default=station.settings.quota())
        self._reader = Reader(station, quotas=self._quotas)
        self._scaling = Scaling(station, self._reader)
        self.replayer = Replayer(station, self._lane)
        metrics.observe_breaker("postgresql", station.breaker)
        metrics.observe_spool(station.spool)
        metrics_aliases.register()
        station.troubles["start"] = "the tenants have not been read yet"

    def troubles(self) -> list[str]:
        """Why the process is not ready."""
        if self._station.stopping.is_set():
            return ["stopping"]
        found = [f"{server}: {text}" for server, text in self._station.troubles.items()]
        return found + ([spool_error] if (spool_error := self._station.spool.error) else [])

    def details(self) -> Mapping[str, Any]:
        """Members of `/health`."""
        slots, depths = self._station.slots, [lane.depth for lane in self._reader.lanes]
        return {
            "tenants": len(self._encoders),
            "workers": {"busy": slots.taken, "most": slots.size},
            "entries": {
                "unread": sum(depth.lag for depth in depths if depth),
                "pending": sum(depth.pending for depth in depths if depth),
            },
            "batch_share": self._station.pressure.share,
            "losses": [loss.describe() for loss in self._reader.lookout.losses],
            "troubles": self.troubles(),
            "alarms": self._station.alarm.sentences,
        }

    async def run(self) -> None:
        """Until stopping; then waits for what is in hand, at most `stop_grace_s`."""
        settings = self._station.settings
        claim_idle_s = settings.claim_idle_ms / 1000
        chores = [
            asyncio.create_task(self._every(max(period_s, 0.1), chore))
            for period_s, chore in (
                (settings.tenant_refresh_s, self._find_tenants),
                (_DEPTH_PERIOD_S, self._measure),
                (_DAYS_PERIOD_S, self._make_days_ahead),
                (settings.ledger_snapshot_s, self._keep_books),
                (_LOOP_PERIOD_S, upkeep.sample_loop),
                (_SCALING_PERIOD_S, self._scaling.check),
                (_QUOTAS_PERIOD_S, self._read_quotas),
                (claim_idle_s, self._remove_consumers),
                (_DEPARTURES_PERIOD_S, self._forget_departed),
                *self._dictionary_chores(),
            )
        ]
        chores.append(asyncio.create_task(self.replayer.run()))
        reading = asyncio.create_task(self._reader.run())
        stopping = asyncio.create_task(self._station.stopping.wait())
        tasks = {stopping, reading, *chores}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self._station.stopping.set()
        await self._finish(tasks)
        with suppress(StoreUnavailable, TimeoutError):
            await asyncio.wait_for(self._bookkeeper.close(), _CLOSE_S)
        for task in done:
            task.result()  # raises the defect that ended it

    async def _finish(self, tasks: set[asyncio.Task[Any]]) -> None:
        grace_s = self._station.settings.stop_grace_s
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        if late:
            # A statement in a server that hangs ends with its connection, not by being cancelled.
            # What they hold stays pending in Redis.
            self._pool.terminate()
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=_CLOSE_S)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    upkeep.leave(self._station.streams, self._reader.lanes), _LEAVE_S
                )
        _LOG.info("ingestion stopped", unfinished=len(late))

    async def _every(self, period_s: float, chore: Callable[[], Awaitable[None]]) -> None:
        """Repeat until stopping; a server that is away shortens the wait for the next time."""
        backoff = Backoff()
        while not self._station.stopping.is_set():
            try:
                await chore()
            except Exception as error:
                if not (isinstance(error, StoreUnavailable) or is_transient(error)):
                    raise
                _LOG.debug("chore failed", chore=chore, error=str(error))
                await self._station.pause(min(backoff.next_s(), period_s))
            else:
                backoff.reset()
                await self._station.pause(period_s)

    async def _find_tenants(self) -> None:
        try:
            tenants = await tenant_ids(self._pool)
        except StoreUnavailable as error:
            self._station.trouble("PostgreSQL (tenants)", error)
            raise
        self._station.troubles.pop("start", None)
        self._station.well("PostgreSQL (tenants)")
        for tenant in sorted(tenants - self._encoders.keys()):
            for feed in Feed:
                self._reader.serve(self._lane(tenant, feed))

    def _lane(self, tenant: str, feed: Feed) -> Lane:
        if tenant not in self._encoders:
            self._encoders[tenant] = Encoder(
                tenant,
                settings=self._station.settings,
                executor=self._executor,
                agents=self._agents,
                library=self._library,
            )
        return Lane(
            tenant=tenant,
            consumer=f"{tenant}:{self._process}",
            encoder=self._encoders[tenant],
            station=self._station,
            feed=feed,
        )

    async def _measure(self) -> None:
        await upkeep.measure(self._station.streams, self._reader.lanes, use_of(self._pool))
        await self._watch_letters()

    async def _watch_letters(self) -> None:
        """Dead letters, also those of no tenant; what is wrong with them is said once."""
        alarm = self._station.alarm
        tenants = (*self._encoders, keys.STRAY)
        counts = await self._station.streams.dead_letter_counts(tenants)
        for tenant, letters in counts.items():
            alarm.measured(tenant, letters=letters)
            metrics.DLQ_LENGTH.labels(tenant).set(letters)
            metrics.DLQ_BOUND.labels(tenant).set(alarm.fill(tenant))
            metrics.DLQ_SHARE.labels(tenant).set(alarm.share(tenant))
        began, ended = alarm.check()
        for one in began:
            say = _LOG.warning if one.kind is Kind.FILLING else _LOG.error
            say("dead letters need attention", kind=one.kind, alarm=one.sentence)
        for one in ended:
            _LOG.info("an alarm about dead letters is over", kind=one.kind, tenant=one.tenant)

    async def _keep_books(self) -> None:
        await self._bookkeeper.run_once(list(self._encoders))

    async def _read_quotas(self) -> None:
        self._quotas.set(await tenant_quotas(self._pool))
        for state in self._reader.lanes:
            # Every process that reads a tenant's stream has one consumer there.
            if state.depth is not None and state.lane.feed is Feed.LIVE:
                self._quotas.divide(state.lane.tenant, state.depth.consumers)

    async def _forget_departed(self) -> None:
        for tenant, agents in (await self._departures.newest()).items():
            if (encoder := self._encoders.get(tenant)) is not None:
                encoder.forget(agents)

    def _dictionary_chores(self) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        if not self._station.settings.key_compaction:
            return []
        return [(attendant.PERIOD_S, self._attend), (_CHANGES_PERIOD_S, self._forget_changed)]

    async def _attend(self) -> None:
        await self._station.attendant.attend(self._encoders, self._library)

    async def _forget_changed(self) -> None:
        for tenant, agents in (await self._changes.newest()).items():
            await self._library.warm(agents)
            if (encoder := self._encoders.get(tenant)) is not None:
                encoder.forget_dictionaries(agents)

    async def _remove_consumers(self) -> None:
        await upkeep.remove_consumers(
            self._station.streams,
            self._reader.lanes,
            idle_ms=self._station.settings.claim_idle_ms * _IDLE_CONSUMER_CLAIMS,
        )

    async def _make_days_ahead(self) -> None:
        today = int(time.time() // 86_400)
        await self._store.make_days(range(today - 1, today + _DAYS_AHEAD))


def process_name() -> str:
    """`{host}:{process id}`: with the tenant before it, the name of a consumer.

    After reference section 3, but unique to the process.
    """
    host = os.environ.get("HOSTNAME") or socket.gethostname()
    if not any(sign in host for sign in "-_."):
        host = uuid.uuid4().hex  # a bare name such as `localhost` may stand on many machines
    return f"{host}:{os.getpid()}"
