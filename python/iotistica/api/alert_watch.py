"""The chore that evaluates alert rules, and tells who listens now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import orjson

from iotistica import keys, log, metrics
from iotistica.errors import StoreUnavailable
from iotistica.store.alert_evaluation import AlertEvaluation
from iotistica.store.alerts import AlertStore
from iotistica.store.webhooks import Notice
from iotistica.streams import Channels

_occasional = log.Occasional(log.get(__name__))


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


class AlertWatch:
    """Evaluates what is due; any number of processes may do so at once."""

    def __init__(
        self,
        evaluation: AlertEvaluation,
        alerts: AlertStore,
        channels: Channels,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._evaluation = evaluation
        self._alerts = alerts
        self._channels = channels
        self._clock = clock

    async def run_due(self) -> int:
        """Evaluate every rule that is due; how many alerts were opened or resolved.

        What fails for one tenant is raised once the others have had their turn.
        """
        count = 0
        failed: Exception | None = None
        for tenant in await self._evaluation.due_tenants(self._clock()):
            started = time.monotonic()
            try:
                notices = await self._evaluation.evaluate(tenant, self._clock())
            except Exception as error:
                failed = error
                _occasional.warning("alert rules wait", tenant=tenant, error=str(error))
                continue
            metrics.ALERT_EVALUATION_SECONDS.observe(time.monotonic() - started)
            for notice in notices:
                metrics.ALERTS.labels(notice.event).inc()
            await self._publish(tenant, notices)
            count += len(notices)
        if failed is not None:
            raise failed
        return count

    async def _publish(self, tenant: str, notices: Sequence[Notice]) -> None:
        if not notices:
            return
        try:
            alerts = await self._alerts.named([one.alert for one in notices])
            await self._channels.publish_many(
                (keys.alerts_channel(tenant), _live(one, alerts[one.alert]))
                for one in notices
                if one.alert in alerts
            )
        except StoreUnavailable as error:
            # Live values are for now; alerts and webhooks are kept.
            _occasional.warning("alerts were not published", error=str(error))


def _live(notice: Notice, alert: dict[str, object]) -> bytes:
    shown = {name: value for name, value in alert.items() if name != "tenant_id"}
    return orjson.dumps({"event": notice.event, "alert": shown}, option=orjson.OPT_UTC_Z)
