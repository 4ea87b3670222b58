"""The web application: everything that answers a request, whichever server carries it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from iotistica import ops, supervisor
from iotistica.api.auth import Tokens
from iotistica.api.peers import Peers
from iotistica.api.route import Route, routes_of
from iotistica.api.routes.alerts import AlertRules, Alerts
from iotistica.api.routes.anomalies import Anomalies
from iotistica.api.routes.audit import Audit
from iotistica.api.routes.dead_letters import DeadLetters
from iotistica.api.routes.documents import Documents
from iotistica.api.routes.incidents import AnomalyAlerts, Incidents
from iotistica.api.routes.readings import Readings
from iotistica.api.routes.system import System
from iotistica.api.routes.webhooks import Webhooks
from iotistica.api.table import Table
from iotistica.audit.auditor import Auditor
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.alert_rules import AlertRuleStore
from iotistica.store.alerts import AlertStore
from iotistica.store.anomaly_statistics import AnomalyStatistics
from iotistica.store.incidents import IncidentStore
from iotistica.store.ledger import LedgerStore
from iotistica.store.pool import Pool, open_pool
from iotistica.store.series import SeriesStore
from iotistica.store.webhooks import DeliveryStore, WebhookStore
from iotistica.streams import Streams

_ENCODERS = 1
"""Threads that decode replayed letters: queries come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What handlers are made of."""

    settings: Settings
    pool: Pool
    streams: Streams
    peers: Peers
    probe: ops.Probe


def handlers(parts: Parts) -> list[Any]:
    """Every part of the API. Opens nothing, so that the routes can be listed without a server."""
    ledger = LedgerStore(parts.pool)
    return [
        System(parts.probe, parts.peers),
        Readings(SeriesStore(parts.pool)),
        Audit(Auditor(parts.streams.ledger, ledger), ledger, AgentStore(parts.pool)),
        Incidents(IncidentStore(parts.pool)),
        AnomalyAlerts(IncidentStore(parts.pool)),
        Anomalies(AnomalyStatistics(parts.pool)),
        AlertRules(AlertRuleStore(parts.pool)),
        Alerts(AlertStore(parts.pool)),
        Webhooks(parts.settings, WebhookStore(parts.pool), DeliveryStore(parts.pool)),
        DeadLetters(
            settings=parts.settings,
            pool=parts.pool,
            streams=parts.streams,
            executor=ThreadPoolExecutor(_ENCODERS, "encode"),
        ),
    ]


def routes(parts: Parts) -> list[Route]:
    """Every route of the API."""
    found = [route for part in handlers(parts) for route in routes_of(part)]
    return [*found, *routes_of(Documents(found))]


class Application:
    """An open application and its table of routes."""

    def __init__(self, parts: Parts, tokens: Tokens) -> None:
        self._parts = parts
        self.table = Table(routes(parts), tokens)

    @classmethod
    async def open(
        cls, assignment: supervisor.Assignment, tokens: Tokens, *, stopping: Callable[[], bool]
    ) -> Application:
        """Open what the handlers need. Raises `ConfigError`."""
        settings = assignment.settings

        def reasons() -> Sequence[str]:
            return ["the process is stopping"] if stopping() else []

        parts = Parts(
            settings=settings,
            pool=await open_pool(settings, application_name=assignment.name),
            streams=Streams(
                settings.require("redis_url"), outbox_most=settings.outbox_max_messages
            ),
            peers=Peers(assignment.name, assignment.parameters["peers"]),
            probe=ops.Probe("iotistica-api", ready=reasons),
        )
        return cls(parts, tokens)

    async def close(self) -> None:
        """Close the connections."""
        await self._parts.peers.close()
        await self._parts.streams.close()
        await self._parts.pool.close()
