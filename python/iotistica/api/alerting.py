"""Anomalies, alert rules and webhooks: their routes, and what is done for them."""

from __future__ import annotations

from typing import Any

from iotistica.api.alert_watch import AlertWatch
from iotistica.api.chore import Chore
from iotistica.api.notifier import Notifier
from iotistica.api.routes.alerts import AlertRules, Alerts
from iotistica.api.routes.anomalies import Anomalies
from iotistica.api.routes.incidents import AnomalyAlerts, Incidents
from iotistica.api.routes.webhooks import Webhooks
from iotistica.settings import Settings
from iotistica.store.alert_evaluation import AlertEvaluation
from iotistica.store.alert_rules import AlertRuleStore
from iotistica.store.alerts import AlertStore
from iotistica.store.anomaly_statistics import AnomalyStatistics
from iotistica.store.incidents import IncidentStore
from iotistica.store.pool import Pool
from iotistica.store.webhooks import DeliveryStore, WebhookStore
from iotistica.streams import Streams


def alert_handlers(settings: Settings, pool: Pool) -> list[Any]:
    """Every part of the API about them. Opens nothing."""
    return [
        Incidents(IncidentStore(pool)),
        AnomalyAlerts(IncidentStore(pool)),
        Anomalies(AnomalyStatistics(pool)),
        AlertRules(AlertRuleStore(pool)),
        Alerts(AlertStore(pool)),
        Webhooks(settings, WebhookStore(pool), DeliveryStore(pool)),
    ]


def alert_chores(settings: Settings, pool: Pool, streams: Streams) -> list[Chore]:
    """What a control process does for them."""
    watch = AlertWatch(AlertEvaluation(pool), AlertStore(pool), streams.channels)
    notifier = Notifier(settings, DeliveryStore(pool))
    return [
        Chore("alert rules", 1.0, watch.run_due),
        Chore("webhooks", 1.0, notifier.deliver_due),
    ]
