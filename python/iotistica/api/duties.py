"""What a control process does: the families of messages that it takes, and its chores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from iotistica import metrics
from iotistica.api.accounts.broker_passwords import BrokerPasswords
from iotistica.api.accounts.choice import accounts
from iotistica.api.accounts.reconciler import Reconciler
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.alerting import alert_chores
from iotistica.api.broker_watch import BrokerWatch
from iotistica.api.chore import Chore
from iotistica.api.families import Family
from iotistica.api.families.anomalies import Anomalies
from iotistica.api.families.dictionaries import Dictionaries
from iotistica.api.families.events import Events
from iotistica.api.families.jobs import Jobs
from iotistica.api.families.lifecycle import Lifecycle
from iotistica.api.families.logs import Logs
from iotistica.api.families.state import Metrics, Reports, Send, State
from iotistica.api.foreman import Foreman
from iotistica.api.members import Members
from iotistica.api.presence import Watch
from iotistica.api.retention_chores import retention_chores
from iotistica.dictionaries.library import Library
from iotistica.settings import Settings
from iotistica.store.agent_jobs import AgentJobs
from iotistica.store.anomalies import AnomalyStore
from iotistica.store.broker_users import BrokerUserStore
from iotistica.store.departures import Departures
from iotistica.store.events import EventStore
from iotistica.store.pool import Pool
from iotistica.store.presence import PresenceStore
from iotistica.store.pruning import prune
from iotistica.store.reports import ReportStore
from iotistica.store.rollups import Rollups
from iotistica.store.upkeep import drop_rollups
from iotistica.streams import Streams

_DEPARTURES_S = 2.0
_PRUNE_S = 3600.0
_ROLLUPS_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What families and chores are made of."""

    settings: Settings
    pool: Pool
    streams: Streams
    send: Send
    """For what goes the way of telemetry."""


def families(means: Means) -> dict[str, Family]:
    """Every family by the kind of its topics, or by kind and next level (`events/anomaly`)."""
    reports = Reports(ReportStore(means.pool), means.streams.channels, means.send)
    events = EventStore(means.pool)
    found: dict[str, Family] = {
        "state": State(reports),
        "metrics": Metrics(reports),
        "events": Events(events),
        "events/anomaly": Anomalies(
            AnomalyStore(means.pool),
            means.streams.channels,
            means.send,
            retention_days=means.settings.retention_days,
            max_future_s=means.settings.max_future_s,
        ),
        "agent": Lifecycle(events, means.streams.channels),
        "logs": Logs(means.streams.logs),
        "jobs": Jobs(
            AgentJobs(means.pool),
            means.streams.outbox,
            means.streams.channels,
            most_output_bytes=means.settings.job_output_max_bytes,
        ),
    }
    if means.settings.key_compaction:
        found["meta"] = Dictionaries(Library.of(means.settings, means.pool, means.streams))
    return found


def chores(means: Means, members: Members, *, name: str, hears: Callable[[], bool]) -> list[Chore]:
    """Everything that process `name` does beside messages.

    `hears` tells whether agents can be heard now: there is a session.
    """
    settings, pool = means.settings, means.pool
    presence = PresenceStore(pool, offline_after_s=settings.agent_offline_after_s)
    every_s = settings.presence_check_s
    watch = Watch(presence, means.streams.channels, every_s=every_s, hears=hears)
    events = EventStore(pool)
    broker = Reconciler(
        BrokerUserStore(pool),
        accounts(settings, means.streams.channels),
        BrokerPasswords(AgentDigests(settings)),
    )
    departures = Departures(pool)
    foreman = Foreman(pool, means.streams.outbox, means.streams.channels)

    async def forget_departed() -> None:
        for agents in (await departures.newest()).values():
            members.forget(agents)
            await means.streams.dictionaries.forget(agents)

    rollups = Rollups(pool)

    async def make_rollups() -> None:
        await rollups.refresh(datetime.now(UTC))

    async def remove_old() -> None:
        removed = await prune(pool, settings)
        for table, count in (*removed.items(), *(await drop_rollups(pool, settings)).items()):
            metrics.PRUNED.labels(table).inc(count)

    broker_watch = BrokerWatch(settings, name, means.streams.broker)
    return [
        Chore("presence", every_s, watch.check),
        Chore("updates", 30.0, events.expire_updates),
        Chore("figures of the broker", settings.monitor_period_s, broker_watch.work),
        Chore("tell the broker of its users", settings.accounts_period_s, broker.catch_up),
        Chore("forget agents that left", _DEPARTURES_S, forget_departed),
        Chore("remove what is old", _PRUNE_S, remove_old),
        *retention_chores(settings, pool),
        Chore("jobs", settings.job_check_s, foreman.work),
        Chore("rollups", _ROLLUPS_S, make_rollups),
        Chore("old jobs", 600.0, partial(foreman.forget, days=settings.job_retention_days)),
        *alert_chores(settings, pool, means.streams),
    ]
