"""`/api/v1/anomaly-incidents…` and `/api/v1/anomaly-alerts…` (docs/alerts.md)."""

from __future__ import annotations

from typing import Any

from iotistica.api import cursors, window
from iotistica.api.http import Request
from iotistica.api.models import anomalies as models
from iotistica.api.models.anomalies import Number, position
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.store.incidents import IncidentStore

_SHOWN_EVENTS = 50
_SHOWN_ALERTS = 100


class Incidents:
    """Handlers of incidents; those that change one take part in the journal."""

    def __init__(self, store: IncidentStore) -> None:
        self._store = store

    @route("GET", "/api/v1/anomaly-incidents", needs="data:read")
    async def listed(self, caller: Principal, query: models.IncidentQuery) -> models.IncidentPage:
        """List incidents, the newest first."""
        rows = await self._store.listed(
            caller.tenant, query.filter(), below=position(query.cursor), limit=query.limit
        )
        more = cursors.plain(rows, query.limit, lambda one: one["incident_id"])
        return models.IncidentPage(len(rows), [_incident(row) for row in rows], more)

    @route("GET", "/api/v1/anomaly-incidents/stats", needs="data:read")
    async def statistics(
        self, caller: Principal, query: models.SpanQuery
    ) -> models.IncidentStatistics:
        """Count incidents, and how long they take."""
        since = None if query.since is None else window.moment("since", query.since)
        until = None if query.until is None else window.moment("until", query.until)
        row = await self._store.statistics(caller.tenant, since=since, until=until)
        return models.IncidentStatistics(**row)

    @route("GET", "/api/v1/anomaly-incidents/:id", needs="data:read")
    async def get(self, caller: Principal, id: Number) -> models.IncidentDetail:  # noqa: A002
        """Show an incident with its newest events and its alerts."""
        row = await self._store.get(caller.tenant, id)
        events = await self._store.events(caller.tenant, id, limit=_SHOWN_EVENTS)
        alerts = await self._store.alerts(caller.tenant, incident=id, limit=_SHOWN_ALERTS)
        return models.IncidentDetail(
            **row,
            events=[models.EventView(**one) for one in events],
            alerts=[models.AnomalyAlertView(**one) for one in alerts],
        )

    @route(
        "PATCH", "/api/v1/anomaly-incidents/:id/acknowledge", needs="device:control", errors=(409,)
    )
    async def acknowledge(self, request: Request, id: Number) -> models.IncidentView:  # noqa: A002
        """Say that you look after an incident; its open alerts go with it."""
        return _incident(await self._store.acknowledge(request.origin, id))

    @route("PATCH", "/api/v1/anomaly-incidents/:id/resolve", needs="device:control", errors=(409,))
    async def resolve(
        self,
        request: Request,
        id: Number,  # noqa: A002
        body: models.Resolution | None,
    ) -> models.IncidentView:
        """Resolve an incident and its alerts; a later event opens it again. No body is needed."""
        notes = None if body is None else body.resolution_notes
        return _incident(await self._store.resolve(request.origin, id, notes))

    @route("PATCH", "/api/v1/anomaly-incidents/:id/feedback", needs="device:control")
    async def judge(
        self,
        request: Request,
        id: Number,  # noqa: A002
        body: models.Judgment,
    ) -> models.IncidentView:
        """Say whether it was right to find it strange."""
        row = await self._store.judge(request.origin, id, body.feedback, body.feedback_notes)
        return _incident(row)


class AnomalyAlerts:
    """Handlers of the alerts of incidents."""

    def __init__(self, store: IncidentStore) -> None:
        self._store = store

    @route("GET", "/api/v1/anomaly-alerts", needs="data:read")
    async def listed(
        self, caller: Principal, query: models.AnomalyAlertQuery
    ) -> models.AnomalyAlertPage:
        """List alerts of incidents, the newest first."""
        rows = await self._store.alerts(
            caller.tenant,
            status=query.status,
            severity=query.severity,
            agent=query.agent,
            incident=query.incident,
            below=position(query.cursor),
            limit=query.limit,
        )
        more = cursors.plain(rows, query.limit, lambda one: one["alert_id"])
        shown = [models.AnomalyAlertView(**row) for row in rows]
        return models.AnomalyAlertPage(len(rows), shown, more)

    @route("GET", "/api/v1/anomaly-alerts/:id", needs="data:read")
    async def get(self, caller: Principal, id: Number) -> models.AnomalyAlertView:  # noqa: A002
        """Show an alert of an incident."""
        return models.AnomalyAlertView(**await self._store.alert(caller.tenant, id))

    @route("PATCH", "/api/v1/anomaly-alerts/:id/acknowledge", needs="device:control", errors=(409,))
    async def acknowledge(
        self,
        request: Request,
        id: Number,  # noqa: A002
    ) -> models.AnomalyAlertView:
        """Say that you look after an alert."""
        row = await self._store.acknowledge_alert(request.origin, id)
        return models.AnomalyAlertView(**row)


def _incident(row: Any) -> models.IncidentView:
    return models.IncidentView(**row)
