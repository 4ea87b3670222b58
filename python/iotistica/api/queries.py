"""The query path: what is asked about readings, within bounds (docs/queries.md)."""

from __future__ import annotations

from typing import Any

from iotistica.api.routes.exports import Exports
from iotistica.api.routes.grafana import Grafana, GrafanaLists
from iotistica.api.routes.metrics import Metrics
from iotistica.api.routes.queries import Queries
from iotistica.api.routes.readings import Readings
from iotistica.api.routes.retention import Retention
from iotistica.settings import Settings
from iotistica.store.annotations import Annotations
from iotistica.store.buckets import BucketStore
from iotistica.store.choices import Choices
from iotistica.store.device_series import DeviceSeries
from iotistica.store.exports import ExportStore
from iotistica.store.metric_catalog import MetricCatalog
from iotistica.store.metric_queries import Bounds, MetricQueries
from iotistica.store.pool import Pool
from iotistica.store.query_slots import QuerySlots
from iotistica.store.retention_rules import RetentionRules
from iotistica.store.series import SeriesStore
from iotistica.store.tags import TagStore


def query_handlers(settings: Settings, pool: Pool) -> list[Any]:
    """Handlers of the queries of one process, which share its slots."""
    # One connection at least is for everything else.
    most = max(min(settings.query_max_at_once, settings.database_pool_size - 1), 1)
    demote_after_s = settings.query_demote_after_s
    slots = QuerySlots(
        pool, most=most, limit_s=settings.query_timeout_s, demote_after_s=demote_after_s
    )
    # Exports take as long as their clients: they have a few of those that queries leave.
    exports = ExportStore(
        pool,
        most=max(min(settings.export_max_at_once, settings.database_pool_size - most - 1), 1),
        limit_s=settings.export_timeout_s,
        demote_after_s=demote_after_s,
    )
    queries = MetricQueries(
        slots,
        Bounds(
            points=settings.query_max_points,
            agents=settings.query_max_agents,
            readings=settings.query_max_readings,
        ),
    )
    return [
        Exports(exports),
        Readings(
            SeriesStore(pool, slots),
            BucketStore(slots, most=settings.query_max_points),
            plot_readings=settings.query_plot_readings,
        ),
        Queries(queries),
        Grafana(queries, Annotations(slots)),
        GrafanaLists(Choices(slots), TagStore(pool)),
        Metrics(MetricCatalog(slots), DeviceSeries(slots, most=settings.query_max_points)),
        Retention(RetentionRules(pool, slots), settings),
    ]
