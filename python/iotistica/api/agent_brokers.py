"""Which broker an agent is told to use: one that is kept (`/brokers`), or one named whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from iotistica.api.models.registration import BrokerConfig
from iotistica.api.models.target_state import Broker
from iotistica.errors import BadRequest
from iotistica.store.brokers import BrokerStore
from iotistica.store.pool import Pool

_CAMEL = {
    "protocol": "protocol",
    "host": "host",
    "port": "port",
    "username": "username",
    "use_tls": "useTls",
    "verify_certificate": "verifyCertificate",
    "ca_cert": "caCert",
    "client_id_prefix": "clientIdPrefix",
    "keep_alive": "keepAlive",
    "clean_session": "cleanSession",
    "reconnect_period": "reconnectPeriod",
    "connect_timeout": "connectTimeout",
}
"""Columns by their names on the wire (reference section 6.3)."""


class AgentBrokers:
    """Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._store = BrokerStore(pool)

    async def told(self, tenant: str, body: Broker) -> dict[str, Any]:
        """What the agent is sent. Raises `BadRequest`, `NotFound`."""
        if body.broker_id is not None:
            row = await self._store.get(tenant, body.broker_id)
            named = {wire: row[column] for column, wire in _CAMEL.items()}
        elif body.host is None or body.port is None:
            raise BadRequest("either brokerId, or host and port must be given")
        else:
            named = msgspec.to_builtins(body)
        return {name: value for name, value in named.items() if value is not None}

    async def assign(self, tenant: str, agent: UUID, broker: int | None) -> None:
        """Note which broker an agent was told."""
        await self._store.assign(tenant, agent, broker)

    async def at_registration(
        self, tenant: str, agent: UUID, otherwise: BrokerConfig
    ) -> BrokerConfig:
        """What a new agent is told: the tenant's default, with the agent's own account."""
        row = await self._store.default(tenant)
        if row is None:
            return otherwise
        await self._store.assign(tenant, agent, row["id"])
        return _own(row, otherwise)


def _own(row: Mapping[str, Any], account: BrokerConfig) -> BrokerConfig:
    known = {column: row[column] for column in _CAMEL if column != "username"}
    fields = {column: value for column, value in known.items() if value is not None}
    return BrokerConfig(**fields, username=account.username, password=account.password)
