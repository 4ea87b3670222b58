"""Figures of the broker and topics of the tenant: `/api/v1/mqtt/…`, and the paths of the
reference's broker monitor straight below `/api/v1` (reference section 5.2, docs/broker-monitor.md).

Any process answers: what one collects is in Redis.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from iotistica.api import cursors
from iotistica.api import monitor_views as views
from iotistica.api.models import broker_monitor as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import NotFound
from iotistica.monitor import tree
from iotistica.store.topic_rules import TopicRules
from iotistica.streams import KnownTopic, Streams

_WINDOWS = {"1h": 60, "6h": 360, "24h": 1440, "7d": 10_080, "30d": 43_200, "all": None}
_DASHBOARD_TOPICS, _DASHBOARD_LEVELS = 100, 6
_READ, _WRITE, _SUBSCRIBE = 1, 2, 4


class BrokerMonitor:
    """Handlers. Figures of the broker are those of all tenants together, so they need
    `mqtt:acl:manage`; topics are the caller's own."""

    def __init__(self, streams: Streams, rules: TopicRules) -> None:
        self._broker = streams.broker
        self._topics = streams.topics
        self._rules = rules

    # Figures

    @route("GET", "/api/v1/mqtt/stats", needs="mqtt:acl:manage")
    async def figures(self) -> models.BrokerNow:
        """Show the figures of the broker.

        Those of all tenants together. `error` says why they are old, or absent.
        """
        now: models.BrokerNow = await self._now()
        return now

    @route("GET", "/api/v1/mqtt/stats/history", needs="mqtt:acl:manage")
    async def minutes(self, query: models.HistoryQuery) -> models.BrokerHistory:
        """List the figures of the last minutes, at most a day of them."""
        found = await self._history(query)
        return models.BrokerHistory(len(found), found)

    @route("GET", "/api/v1/system-stats", needs="mqtt:acl:manage")
    async def system_stats(self) -> models.SystemFound:
        """Show everything that the broker tells about itself."""
        return models.SystemFound(True, await self._now())

    @route("GET", "/api/v1/metrics", needs="mqtt:acl:manage")
    async def metrics(self) -> models.MetricsFound:
        """Show figures of the broker by the names of the reference's monitor.

        Metrics for Prometheus are at `/metrics`.
        """
        return models.MetricsFound(True, await self._metrics())

    @route("GET", "/api/v1/stats", needs="mqtt:acl:manage")
    async def stats(self, caller: Principal) -> models.StatsFound:
        """Show figures of the broker with those of the tenant's topics."""
        found = views.stats(await self._now(), await self._topics.listed(caller.tenant))
        return models.StatsFound(True, models.MonitorStats(**found))

    @route("GET", "/api/v1/stats/history", needs="mqtt:acl:manage")
    async def stats_history(self, query: models.HistoryQuery) -> models.BrokerHistoryFound:
        """List the figures of the last minutes."""
        found = await self._history(query)
        return models.BrokerHistoryFound(True, len(found), found)

    @route("GET", "/api/v1/dashboard", needs="mqtt:acl:manage")
    async def dashboard(self, caller: Principal) -> models.DashboardFound:
        """Show everything at once."""
        topics = await self._topics.listed(caller.tenant)
        busiest = sorted(topics, key=lambda topic: -topic.messages)[:_DASHBOARD_TOPICS]
        now = await self._now()
        page = models.MonitorDashboard(
            status=models.MonitorStatus(**views.status(now, topics)),
            metrics=models.MonitorMetrics(**views.metrics(now)),
            topics=[_view(topic) for topic in busiest],
            tree=_node(tree.grow(topics, under="", depth=_DASHBOARD_LEVELS)),
        )
        return models.DashboardFound(True, page)

    # Topics

    @route("GET", "/api/v1/mqtt/topics", needs="device:read")
    async def topics(self, caller: Principal, query: models.TopicQuery) -> models.TopicPage:
        """List the topics that the tenant's agents publish on.

        As far as the platform sees them; those that were silent longest are forgotten first.
        """
        after = cursors.read(query.cursor, cursors.Text) or ""
        found = sorted(
            await self._recent(caller.tenant, query.minutes), key=lambda topic: topic.topic
        )
        fits = [topic for topic in found if topic.topic.startswith(query.prefix)]
        page = [topic for topic in fits if topic.topic > after][: query.limit]
        cursor = cursors.follow(page, query.limit, lambda topic: topic.topic)
        return models.TopicPage(len(page), len(fits), [_view(topic) for topic in page], cursor)

    @route("GET", "/api/v1/mqtt/topics/schema", needs="data:read", errors=(404,))
    async def schema(self, caller: Principal, query: models.TopicAt) -> models.TopicSchema:
        """Show what the payloads of a topic look like: fields and types of a recent one."""
        found = await self._topics.get(caller.tenant, query.topic)
        if found is None:
            raise NotFound(f"topic {query.topic[:64]!r} was not seen")
        return models.TopicSchema(topic=_view(found[0]), schema=found[1])

    @route("GET", "/api/v1/mqtt/topics/acls", needs="mqtt:user:read")
    async def acls(self, caller: Principal, query: models.TopicAt) -> models.TopicAccounts:
        """List which of the tenant's broker accounts may read or write a topic."""
        accounts = await self._rules.of(caller.tenant, query.topic)
        shown = [
            models.TopicAccount(
                username=account.username,
                agent_uuid=account.agent,
                is_active=account.is_active,
                read=bool(account.access & _READ),
                write=bool(account.access & _WRITE),
                subscribe=bool(account.access & _SUBSCRIBE),
                rules=list(account.rules),
            )
            for account in accounts
        ]
        return models.TopicAccounts(query.topic, len(shown), shown)

    @route("GET", "/api/v1/topics", needs="device:read")
    async def monitor_topics(
        self, caller: Principal, query: models.MonitorQuery
    ) -> models.MonitorTopics:
        """List the tenant's topics, those with the newest messages first."""
        named = query.timeWindow
        minutes = _WINDOWS[named] if named is not None else query.minutes
        found = (await self._recent(caller.tenant, minutes))[: query.limit]
        return models.MonitorTopics(
            success=True,
            count=len(found),
            data=[_view(topic) for topic in found],
            time_window=named or (f"{minutes}m" if minutes else "all"),
            filtered_from=datetime.fromtimestamp(_since_s(minutes), UTC) if minutes else None,
        )

    @route("GET", "/api/v1/topic-tree", needs="device:read")
    async def topic_tree(self, caller: Principal, query: models.TreeQuery) -> models.TreeFound:
        """Show the tenant's topics as a tree."""
        topics = await self._topics.listed(caller.tenant)
        found = tree.grow(topics, under=query.under, depth=query.depth)
        return models.TreeFound(True, _node(found))

    @route("GET", "/api/v1/recent-activity", needs="device:read")
    async def recent_activity(
        self, caller: Principal, query: models.ActivityQuery
    ) -> models.MonitorActivity:
        """List topics that had messages lately."""
        found = await self._recent(caller.tenant, query.window)
        return models.MonitorActivity(
            success=True,
            window_minutes=query.window,
            count=len(found),
            data=[_view(topic) for topic in found],
        )

    @route("GET", "/api/v1/status", needs="device:read")
    async def status(self, caller: Principal) -> models.StatusFound:
        """Show whether figures are collected, and how many topics were seen."""
        found = views.status(await self._now(), await self._topics.listed(caller.tenant))
        return models.StatusFound(True, models.MonitorStatus(**found))

    async def _now(self) -> Any:
        return await self._broker.current() or views.nothing()

    async def _metrics(self) -> models.MonitorMetrics:
        return models.MonitorMetrics(**views.metrics(await self._now()))

    async def _history(self, query: models.HistoryQuery) -> list[Any]:
        since_ms = int(_since_s(query.minutes) * 1000)
        return await self._broker.history(since_ms=since_ms, count=query.limit)

    async def _recent(self, tenant: str, minutes: int | None) -> list[KnownTopic]:
        topics = await self._topics.listed(tenant)
        if minutes is None:
            return topics
        since_ms = _since_s(minutes) * 1000
        return [topic for topic in topics if topic.last_seen_ms >= since_ms]


def _since_s(minutes: int) -> float:
    return time.time() - minutes * 60


def _view(topic: KnownTopic) -> Any:
    return topic.shown()


def _node(found: dict[str, Any]) -> Any:
    return found
