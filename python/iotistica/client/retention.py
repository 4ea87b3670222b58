"""What is kept, and for how long."""

from __future__ import annotations

from collections.abc import Sequence

from iotistica.api.models import retention as models
from iotistica.client.transport import Transport

_PATH = "/api/v1/retention"


class Retention:
    """Rules of what the tenant keeps shorter than the platform does."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self) -> models.Retention:
        """Rules, what the platform keeps, and how much is stored."""
        return await self._transport.call("GET", _PATH, models.Retention)

    async def set(self, rule: models.RetentionRule) -> models.RetentionRuleView:
        """Set a rule; within minutes what is older is removed. Raises `BadRequest`, `Conflict`."""
        return await self._transport.call(
            "PUT", f"{_PATH}/rules", models.RetentionRuleView, body=rule
        )

    async def remove(self, rule: int) -> None:
        """Forget a rule. Raises `NotFound`."""
        await self._transport.call("DELETE", f"{_PATH}/rules/{rule}", type(None))

    async def preview(self, rules: Sequence[models.RetentionRule] = ()) -> models.RetentionPreview:
        """What would go if these rules were set as well. Changes nothing."""
        body = models.PreviewQuestion(rules=list(rules))
        return await self._transport.call(
            "POST", f"{_PATH}/preview", models.RetentionPreview, body=body
        )
