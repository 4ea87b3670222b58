"""Agents that an operator has just asked in."""

from __future__ import annotations

import secrets
from typing import Any

from tests.agent_double import AgentDouble, Transport

from iotistica.api.models.agents import Fleet, NewFleet
from iotistica.api.models.provisioning import MadeKey
from iotistica.client import Client


async def newcomer(operator: Client, ask: Transport, **changes: Any) -> AgentDouble:
    """An agent with a provisioning key for a fleet of its own; it has not come in yet."""
    call = operator.transport.call
    new = NewFleet(fleet_name=secrets.token_hex(4))
    fleet = await call("POST", "/api/v1/fleets", Fleet, body=new)
    body = {"fleetUuid": fleet.fleet_uuid}
    made = await call("POST", "/api/v1/provisioning-keys", MadeKey, body=body)
    return AgentDouble(ask=ask, provisioning_key=made.key, **changes)
