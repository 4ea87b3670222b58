"""`/api/v1/retention…`: what a tenant keeps shorter than the platform (docs/retention.md)."""

from __future__ import annotations

from datetime import UTC, datetime

from iotistica.api.http import Request
from iotistica.api.models import retention as models
from iotistica.api.models.anomalies import Number
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.retention import Rule, going
from iotistica.settings import Settings
from iotistica.store.pool import Row
from iotistica.store.retention_rules import RetentionRules

_PATH = "/api/v1/retention"


class Retention:
    """Handlers of rules; every change is in the journal."""

    def __init__(self, rules: RetentionRules, settings: Settings) -> None:
        self._rules = rules
        self._settings = settings

    @route("GET", _PATH, needs="settings:read")
    async def show(self, caller: Principal) -> models.Retention:
        """Show what is kept for how long, by the platform and by rules, and how much is stored."""
        settings = self._settings
        storage = await self._rules.storage(caller.tenant)
        return models.Retention(
            readings_days=settings.retention_days,
            minutes_days=settings.minute_days,
            hours_days=settings.rollup_retention_days_1h,
            days_days=settings.rollup_retention_days_daily,
            rules=[
                models.RetentionRuleView(**row) for row in await self._rules.listed(caller.tenant)
            ],
            storage=None if storage is None else _storage(storage),
        )

    @route("PUT", f"{_PATH}/rules", needs="settings:write", errors=(409,))
    async def put(self, request: Request, body: models.RetentionRule) -> models.RetentionRuleView:
        """Set for how long readings of metrics are kept: a rule, or another for the same pattern.

        Within minutes what is older is removed and cannot be brought back; ask for a preview first.
        Of the rules that fit a metric the most specific counts.
        """
        self._check(body)
        return models.RetentionRuleView(**await self._rules.put(request.origin, body.rule()))

    @route("DELETE", f"{_PATH}/rules/:id", needs="settings:write")
    async def remove(self, request: Request, id: Number) -> None:  # noqa: A002
        """Forget a rule. What it removed stays removed."""
        await self._rules.remove(request.origin, id)

    @route("POST", f"{_PATH}/preview", needs="settings:read")
    async def preview(
        self, caller: Principal, body: models.PreviewQuestion
    ) -> models.RetentionPreview:
        """Tell what rules would remove, those that are set and those of the body. Changes nothing.

        It is counted from daily rollups.
        """
        for rule in body.rules:
            self._check(rule)
        rows = await self._rules.listed(caller.tenant)
        rules = {row["pattern"]: _rule(row) for row in rows}
        rules |= {one.pattern: one.rule() for one in body.rules}
        stored = await self._rules.stored(caller.tenant)
        found = going(rules.values(), stored, datetime.now(UTC).date())
        return models.RetentionPreview(
            readings=sum(one.readings for one in found),
            oldest=min((one.oldest for one in found), default=None),
            metrics=[
                models.MetricGoing(
                    metric=one.metric,
                    pattern=one.rule.pattern,
                    keep_days=one.rule.keep_days,
                    remove_rollups=one.rule.remove_rollups,
                    readings=one.readings,
                    oldest=one.oldest,
                    first_kept=one.first_kept,
                )
                for one in found
            ],
        )

    def _check(self, rule: models.RetentionRule) -> None:
        most = self._settings.retention_days
        if rule.keep_days > most:
            raise BadRequest(
                f"field keep_days is {rule.keep_days}; the platform keeps readings for {most} days "
                "(IOTISTICA_RETENTION_DAYS), and no rule can keep them longer"
            )


def _rule(row: Row) -> Rule:
    return Rule(
        pattern=row["pattern"], keep_days=row["keep_days"], remove_rollups=row["remove_rollups"]
    )


def _storage(row: Row) -> models.StorageView:
    return models.StorageView(**row, percent=round(100 * row["readings"] / row["most"], 1))
