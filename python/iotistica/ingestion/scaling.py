"""Once a second: how late is the data, how busy the database, and what follows from it."""

from __future__ import annotations

import time

from iotistica import log, metrics
from iotistica.ingestion import scaler
from iotistica.ingestion.reader import Reader
from iotistica.ingestion.scaler import Observation, Rules, State
from iotistica.ingestion.station import Station
from iotistica.settings import Settings

_LOG = log.get(__name__)

PERIOD_S = 1.0


class Scaling:
    """Applies `scaler.decide` and `Pressure` to a process."""

    def __init__(self, station: Station, reader: Reader) -> None:
        self._station = station
        self._reader = reader
        self._rules = rules(station.settings)
        self._state = State(workers=station.slots.size)

    async def check(self) -> None:
        """Look, and change the number of slots and the size of batches."""
        station, lag_ms = self._station, self._reader.lag_ms()
        self._relieve()
        state = scaler.decide(self._state, self._observe(lag_ms), self._rules, time.monotonic())
        if state.workers != station.slots.size:
            _LOG.info("workers change", workers=state.workers, lag_ms=round(lag_ms))
            station.slots.resize(state.workers)
        self._state = state
        metrics.WORKERS.set(state.workers)
        metrics.WORKERS_BUSY.set(station.slots.taken + station.express.taken)
        metrics.LANES_QUEUED.set(self._reader.restore())
        metrics.LAG_SECONDS.set(lag_ms / 1000)

    def _observe(self, lag_ms: float) -> Observation:
        commits_s = metrics.STAGE_SECONDS.labels("commit").p95()
        return Observation(
            lag_ms=lag_ms,
            commit_p95_ms=1000 * (commits_s or 0),
            pool_pct=self._station.pool_pct(),
            database_trouble=any("PostgreSQL" in name for name in self._station.troubles),
        )

    def _relieve(self) -> None:
        pressure = self._station.pressure
        commits_s = metrics.STAGE_SECONDS.labels("commit").recent(within_s=PERIOD_S)
        pressure.saw(1000 * max(commits_s, default=0))
        if pressure.share < 1:
            metrics.BACKPRESSURE.labels("slow_commits").inc()
        metrics.BATCH_SHARE.set(pressure.share)


def rules(settings: Settings) -> Rules:
    """The rules of scaling that the settings make."""
    return Rules(
        least=settings.autoscale_min_workers,
        most=settings.autoscale_max_workers,
        lag_target_ms=settings.autoscale_lag_target_ms,
        lag_scale_up_ms=settings.autoscale_lag_scale_up_ms,
        lag_critical_ms=settings.autoscale_lag_critical_ms,
        stable_checks=settings.autoscale_scale_down_stable_checks,
        cooldown_s=settings.autoscale_cooldown_ms / 1000,
        db_block_pct=settings.autoscale_db_block_pct,
    )
