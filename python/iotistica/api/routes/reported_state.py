"""What agents report, and how it differs from their target states."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import msgspec

from iotistica.api.http import Reply, json_reply
from iotistica.api.models import target_state as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.store.reported import Comparison, ReportedStore
from iotistica.targets.difference import deviations


class ReportedStates:
    """Handlers for reported states."""

    def __init__(self, store: ReportedStore) -> None:
        self._store = store

    @route(
        "GET",
        "/api/v1/agents/:uuid/current-state",
        needs="device:read",
        agents=True,
        reply=models.CurrentState,
    )
    async def current(self, caller: Principal, uuid: UUID) -> Reply:
        """What the agent reported last."""
        found = await self._store.comparison(caller.tenant, uuid)
        if found.reported is None:
            # The reference's words, which its clients look for.
            return json_reply({"error": "No state reported yet", "message": str(uuid)}, 404)
        body = models.CurrentState(
            apps=dict(found.reported.apps),
            config=dict(found.reported.config),
            system_info=found.system_info,
            reported_at=found.reported_at,
            version=found.reported_version,
        )
        return json_reply(msgspec.to_builtins(body))

    @route("GET", "/api/v1/agents/:uuid/drift", needs="device:read")
    async def drift(self, caller: Principal, uuid: UUID) -> models.Drift:
        """Apps, services and config that are missing, extra or different on the agent."""
        return _drift(await self._store.comparison(caller.tenant, uuid))

    @route("GET", "/api/v1/target-state/drift", needs="device:read")
    async def fleet(self, caller: Principal, query: models.DriftQuery) -> models.DriftPage:
        """The same for a page of the tenant's agents, with how many are in which state."""
        rows = await self._store.page(caller.tenant, _position(query.cursor), query.limit + 1)
        found = [_drift(one) for one in rows[: query.limit]]
        counts = Counter(one.status for one in found)
        shown = [one for one in found if query.status in (None, one.status)]
        return models.DriftPage(
            count=len(shown),
            in_sync=counts["in_sync"],
            drifted=counts["drifted"],
            not_reported=counts["not_reported"],
            agents=shown,
            cursor=str(found[-1].uuid) if len(rows) > query.limit else None,
        )


def _drift(one: Comparison) -> models.Drift:
    found = [] if one.reported is None else deviations(one.target, one.reported)
    return models.Drift(
        uuid=one.agent,
        name=one.name,
        status="not_reported" if one.reported is None else "drifted" if found else "in_sync",
        target_version=one.target_version,
        reported_version=one.reported_version,
        reported_at=one.reported_at,
        needs_deployment=one.needs_deployment,
        deviations=found,
    )


def _position(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(cursor)
    except ValueError:
        raise BadRequest(
            f"parameter cursor is {cursor[:64]!r}; allowed is one that was given"
        ) from None
