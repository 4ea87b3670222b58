"""`/api/v1/brokers…`: brokers that agents are told to use (docs/broker-monitor.md)."""

from __future__ import annotations

from typing import Any

from iotistica.api.broker_trials import BrokerTrials
from iotistica.api.http import Request
from iotistica.api.models import brokers as models
from iotistica.api.models.anomalies import Number
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.store.brokers import BrokerStore


class Brokers:
    """Handlers of brokers; every change is in the journal, and no password is stored."""

    def __init__(self, store: BrokerStore, trials: BrokerTrials) -> None:
        self._store = store
        self._trials = trials

    @route("GET", "/api/v1/brokers", needs="settings:read")
    async def listed(self, caller: Principal) -> models.BrokerList:
        """List brokers, the default first."""
        rows = await self._store.listed(caller.tenant)
        return models.BrokerList(True, len(rows), [_view(row) for row in rows])

    @route("GET", "/api/v1/brokers/summary", needs="settings:read")
    async def summary(self, caller: Principal) -> models.BrokerSummaries:
        """List brokers with how many agents were told to use each."""
        rows = await self._store.summary(caller.tenant)
        summaries = [models.BrokerSummary(**row) for row in rows]
        return models.BrokerSummaries(True, len(rows), summaries)

    @route("POST", "/api/v1/brokers", needs="settings:write", status=201, errors=(409,))
    async def add(self, request: Request, body: models.BrokerBody) -> models.BrokerAnswer:
        """Make a broker; a default takes the place of the one before."""
        row = await self._store.add(request.origin, body.fields())
        return models.BrokerAnswer(True, "Broker made", _view(row))

    @route("GET", "/api/v1/brokers/:id", needs="settings:read")
    async def get(self, caller: Principal, id: Number) -> models.BrokerAnswer:  # noqa: A002
        """Show a broker."""
        row = await self._store.get(caller.tenant, id)
        return models.BrokerAnswer(True, "Broker", _view(row))

    @route("PUT", "/api/v1/brokers/:id", needs="settings:write", errors=(409,))
    async def change(
        self,
        request: Request,
        id: Number,  # noqa: A002
        body: models.BrokerChange,
    ) -> models.BrokerAnswer:
        """Change what is given of a broker; agents that use it are not told."""
        row = await self._store.change(request.origin, id, body.fields())
        return models.BrokerAnswer(True, "Broker changed", _view(row))

    @route("DELETE", "/api/v1/brokers/:id", needs="settings:write", errors=(409,))
    async def remove(self, request: Request, id: Number) -> models.BrokerRemoved:  # noqa: A002
        """Remove a broker that no agent was told to use."""
        row = await self._store.remove(request.origin, id)
        return models.BrokerRemoved(True, f"Broker {row['name']} removed")

    @route("POST", "/api/v1/brokers/:id/test", needs="settings:write", errors=(429,))
    async def test(
        self,
        caller: Principal,
        id: Number,  # noqa: A002
        body: models.Attempt | None,
    ) -> models.BrokerTried:
        """Connect to a broker by MQTT, and say what it answered.

        With the account in the body, which is not stored, or the broker's user without a password.
        Only public addresses are called, and the broker of this platform.
        """
        broker = await self._store.get(caller.tenant, id)
        found = await self._trials.run(broker, body or models.Attempt())
        if found.connected:
            await self._store.connected(caller.tenant, id)
        message = "The broker lets the client in" if found.connected else found.reason
        return models.BrokerTried(success=found.connected, message=message, data=found)


def _view(row: dict[str, Any]) -> models.BrokerView:
    return models.BrokerView(**row)
