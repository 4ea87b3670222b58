"""`/api/v1/alert-rules…` and `/api/v1/alerts…` (docs/alerts.md)."""

from __future__ import annotations

from typing import Any

import msgspec

from iotistica.alerting.rule import RuleBody, RuleChange
from iotistica.api import cursors
from iotistica.api.http import Request
from iotistica.api.models import alerts as models
from iotistica.api.models.anomalies import Number, position
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.store.alert_rules import AlertRuleStore
from iotistica.store.alerts import AlertStore, Filter


class AlertRules:
    """Handlers of rules; every change is in the journal."""

    def __init__(self, store: AlertRuleStore) -> None:
        self._store = store

    @route("GET", "/api/v1/alert-rules", needs="data:read")
    async def listed(self, caller: Principal, query: models.RuleQuery) -> models.RulePage:
        """List alert rules, the newest first."""
        rules = await self._store.listed(
            caller.tenant,
            kind=query.kind,
            enabled=query.enabled,
            below=position(query.cursor),
            limit=query.limit,
        )
        more = cursors.plain(rules, query.limit, lambda one: one["id"])
        return models.RulePage(len(rules), [_rule(one) for one in rules], more)

    @route("POST", "/api/v1/alert-rules", needs="device:control", status=201, errors=(409,))
    async def add(self, request: Request, body: RuleBody) -> models.RuleView:
        """Make an alert rule, on telemetry or on presence.

        Between the bound and its clear bound nothing changes. A rule looks at the newest readings
        each `interval_s`.
        """
        return _rule(await self._store.add(request.origin, body))

    @route("GET", "/api/v1/alert-rules/:id", needs="data:read")
    async def get(self, caller: Principal, id: Number) -> models.RuleView:  # noqa: A002
        """Show an alert rule."""
        return _rule(await self._store.get(caller.tenant, id))

    @route("PATCH", "/api/v1/alert-rules/:id", needs="device:control", errors=(409,))
    async def change(
        self,
        request: Request,
        id: Number,  # noqa: A002
        body: RuleChange,
    ) -> models.RuleView:
        """Change an alert rule; one that is disabled resolves its alerts."""
        return _rule(await self._store.change(request.origin, id, body))

    @route("DELETE", "/api/v1/alert-rules/:id", needs="device:control")
    async def remove(self, request: Request, id: Number) -> None:  # noqa: A002
        """Remove an alert rule and resolve its alerts, which stay."""
        await self._store.remove(request.origin, id)


class Alerts:
    """Handlers of what rules found."""

    def __init__(self, store: AlertStore) -> None:
        self._store = store

    @route("GET", "/api/v1/alerts", needs="data:read")
    async def listed(self, caller: Principal, query: models.AlertQuery) -> models.AlertPage:
        """List alerts of rules, the newest first."""
        where = Filter(
            status=query.status,
            severity=query.severity,
            agent=query.agent,
            rule=query.rule,
            labels=_labels(query.label) if query.label else None,
        )
        alerts = await self._store.listed(
            caller.tenant, where, below=position(query.cursor), limit=query.limit
        )
        more = cursors.plain(alerts, query.limit, lambda one: one["id"])
        return models.AlertPage(len(alerts), [_alert(one) for one in alerts], more)

    @route("GET", "/api/v1/alerts/:id", needs="data:read")
    async def get(self, caller: Principal, id: Number) -> models.AlertView:  # noqa: A002
        """Show an alert of a rule."""
        return _alert(await self._store.get(caller.tenant, id))

    @route("PATCH", "/api/v1/alerts/:id/acknowledge", needs="device:control", errors=(409,))
    async def acknowledge(self, request: Request, id: Number) -> models.AlertView:  # noqa: A002
        """Say that you look after an alert; it is resolved by itself."""
        return _alert(await self._store.acknowledge(request.origin, id))


def _labels(given: list[str]) -> dict[str, str]:
    labels = {}
    for one in given:
        name, found, value = one.partition("=")
        if not found:
            raise BadRequest(f"parameter label is {one[:64]!r}; name=value is expected")
        labels[name] = value
    return labels


def _rule(fields: dict[str, Any]) -> models.RuleView:
    return msgspec.convert(fields, models.RuleView)


def _alert(fields: dict[str, Any]) -> models.AlertView:
    return models.AlertView(**fields)
