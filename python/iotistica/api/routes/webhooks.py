"""`/api/v1/alert-webhooks…` (docs/alerts.md)."""

from __future__ import annotations

from typing import Any

import msgspec

from iotistica.api import cursors
from iotistica.api.http import Request
from iotistica.api.models import alerts as models
from iotistica.api.models.anomalies import Number, position
from iotistica.api.notifier import Notifier, webhook_key
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.settings import Settings
from iotistica.store.webhooks import DeliveryStore, WebhookStore
from iotistica.webhooks.address import check_url
from iotistica.webhooks.signature import new_salt, secret_of


class Webhooks:
    """Handlers of webhooks; every change is in the journal, and no secret is stored."""

    def __init__(self, settings: Settings, store: WebhookStore, deliveries: DeliveryStore) -> None:
        self._settings = settings
        self._store = store
        self._deliveries = deliveries
        self._notifier = Notifier(settings, deliveries)

    @route("GET", "/api/v1/alert-webhooks", needs="settings:read")
    async def listed(self, caller: Principal, query: models.WebhookQuery) -> models.WebhookPage:
        """List webhooks, the newest first."""
        rows = await self._store.listed(
            caller.tenant, below=position(query.cursor), limit=query.limit
        )
        more = cursors.plain(rows, query.limit, lambda one: one["id"])
        return models.WebhookPage(len(rows), [models.WebhookView(**row) for row in rows], more)

    @route("POST", "/api/v1/alert-webhooks", needs="settings:write", status=201, errors=(409,))
    async def add(self, request: Request, body: models.WebhookBody) -> models.WebhookSecret:
        """Make a webhook; its secret is shown now, and never again."""
        check_url(body.url, private=self._settings.webhook_private_addresses)
        salt = new_salt()
        row = await self._store.add(request.origin, msgspec.structs.asdict(body), salt)
        return self._with_secret(row, request.origin.tenant, salt)

    @route("GET", "/api/v1/alert-webhooks/:id", needs="settings:read")
    async def get(self, caller: Principal, id: Number) -> models.WebhookView:  # noqa: A002
        """Show a webhook."""
        return models.WebhookView(**await self._store.get(caller.tenant, id))

    @route("PATCH", "/api/v1/alert-webhooks/:id", needs="settings:write", errors=(409,))
    async def change(
        self,
        request: Request,
        id: Number,  # noqa: A002
        body: models.WebhookChange,
    ) -> models.WebhookView:
        """Change a webhook; what waits goes to the new URL."""
        changes = body.given()
        if "url" in changes:
            check_url(changes["url"], private=self._settings.webhook_private_addresses)
        return models.WebhookView(**await self._store.change(request.origin, id, changes))

    @route("DELETE", "/api/v1/alert-webhooks/:id", needs="settings:write")
    async def remove(self, request: Request, id: Number) -> None:  # noqa: A002
        """Remove a webhook with its deliveries."""
        await self._store.remove(request.origin, id)

    @route("POST", "/api/v1/alert-webhooks/:id/rotate-secret", needs="settings:write")
    async def rotate(self, request: Request, id: Number) -> models.WebhookSecret:  # noqa: A002
        """Give a webhook another secret, which is shown now, and never again."""
        salt = new_salt()
        row = await self._store.rotate(request.origin, id, salt)
        return self._with_secret(row, request.origin.tenant, salt)

    @route("POST", "/api/v1/alert-webhooks/:id/test", needs="settings:write")
    async def test(self, caller: Principal, id: Number) -> models.Tried:  # noqa: A002
        """Send a webhook a test now, and say what it answered."""
        due, outcome = await self._notifier.test(caller.tenant, id)
        return models.Tried(
            due.id, outcome.error is None, outcome.status, outcome.error, outcome.seconds
        )

    @route("GET", "/api/v1/alert-webhooks/:id/deliveries", needs="settings:read")
    async def deliveries(
        self,
        caller: Principal,
        id: Number,  # noqa: A002
        query: models.DeliveryQuery,
    ) -> models.DeliveryPage:
        """List what a webhook is told, the newest first, with what came of it."""
        await self._store.get(caller.tenant, id)
        rows = await self._deliveries.listed(
            caller.tenant,
            id,
            status=query.status,
            below=position(query.cursor),
            limit=query.limit,
        )
        more = cursors.plain(rows, query.limit, lambda one: one["id"])
        return models.DeliveryPage(len(rows), [_delivery(row) for row in rows], more)

    @route(
        "POST",
        "/api/v1/alert-webhooks/:id/deliveries/:delivery/retry",
        needs="settings:write",
    )
    async def retry(
        self,
        request: Request,
        id: Number,  # noqa: A002
        delivery: Number,
    ) -> None:
        """Try a delivery that was given up again."""
        await self._deliveries.again(request.origin, id, delivery)

    def _with_secret(self, row: Any, tenant: str, salt: bytes) -> models.WebhookSecret:
        secret = secret_of(webhook_key(self._settings), tenant, salt)
        return models.WebhookSecret(**row, secret=secret)


def _delivery(row: Any) -> models.DeliveryView:
    fields = dict(row)
    fields["payload"] = msgspec.Raw(fields["payload"].encode())
    return models.DeliveryView(**fields)
