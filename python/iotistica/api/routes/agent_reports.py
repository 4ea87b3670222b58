"""What agents reported, for operators: metrics, interfaces, devices, logs (reference 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from iotistica.api.http import Reply, json_reply
from iotistica.api.models import reports as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import NotFound
from iotistica.store.logs import LogStore
from iotistica.store.pool import Pool
from iotistica.store.reports import ReportStore

_STEPS = 60
_MOST_CHANGES = 1000


class AgentReports:
    """Handlers of the queries on reports."""

    def __init__(self, pool: Pool) -> None:
        self._reports = ReportStore(pool)
        self._logs = LogStore(pool)

    @route(
        "GET",
        "/api/v1/agents/:uuid/metrics",
        needs="device:read",
        reply=models.MetricsPage,
        errors=(404,),
    )
    async def metrics(self, uuid: UUID, query: models.MetricsQuery, caller: Principal) -> Reply:
        """System metrics of an agent, the newest first; a period comes in at most 60 averages."""
        if query.period is None:
            found = await self._reports.newest_metrics(caller.tenant, uuid, limit=query.limit)
        else:
            period_s = models.PERIODS[query.period]
            since = datetime.now(UTC) - timedelta(seconds=period_s)
            found = await self._reports.binned_metrics(
                caller.tenant, uuid, since=since, step_s=period_s / _STEPS
            )
        if found is None:
            raise _unknown(uuid)
        return json_reply({"count": len(found), "metrics": found})

    @route(
        "GET",
        "/api/v1/agents/:uuid/network-interfaces",
        needs="device:read",
        reply=models.Interfaces,
        errors=(404,),
    )
    async def interfaces(self, uuid: UUID, caller: Principal) -> Reply:
        """Network interfaces of an agent, as it reported them last."""
        info, at = await self._info(uuid, caller)
        found = _list(info.get("network_interfaces"))
        return json_reply({"count": len(found), "interfaces": found, "reported_at": at})

    @route(
        "GET",
        "/api/v1/agents/:uuid/reported-devices",
        needs="device:read",
        reply=models.ReportedDevices,
        errors=(404,),
    )
    async def devices(self, uuid: UUID, caller: Principal) -> Reply:
        """Devices behind an agent, as it reported them last."""
        info, at = await self._info(uuid, caller)
        found = _list(info.get("devices"))
        return json_reply({"count": len(found), "devices": found, "reported_at": at})

    @route(
        "GET",
        "/api/v1/agents/:uuid/device-health",
        needs="device:read",
        reply=models.DeviceHealth,
        errors=(404,),
    )
    async def health(self, uuid: UUID, caller: Principal) -> Reply:
        """Health of an agent's endpoints, by name, as it reported it last."""
        info, at = await self._info(uuid, caller)
        found = info.get("endpoints_health")
        found = found if isinstance(found, dict) else {}
        return json_reply({"count": len(found), "devices": found, "reported_at": at})

    @route(
        "GET",
        "/api/v1/agents/:uuid/protocol-adapters/:protocol/:deviceName/history",
        needs="device:read",
        reply=models.HealthHistory,
        errors=(404,),
    )
    async def history(
        self,
        uuid: UUID,
        protocol: models.Word,
        deviceName: models.Word,
        query: models.HealthQuery,
        caller: Principal,
    ) -> Reply:
        """Changes of an endpoint's health as the agent reported them, the newest first.

        An endpoint is known by its name; the protocol is only repeated.
        """
        since = datetime.now(UTC) - timedelta(hours=query.hours)
        found = await self._reports.health(
            caller.tenant, uuid, deviceName, since=since, limit=_MOST_CHANGES
        )
        if found is None:
            raise _unknown(uuid)
        named = {"protocol_type": protocol, "device_name": deviceName}
        body = {
            "agent_uuid": str(uuid),
            **named,
            "hours": query.hours,
            "count": len(found),
            "history": [{**named, **one} for one in found],
        }
        return json_reply(body)

    @route(
        "GET",
        "/api/v1/agents/:uuid/logs",
        needs="device:read",
        reply=models.LogPage,
        errors=(404,),
    )
    async def logs(self, uuid: UUID, query: models.LogQuery, caller: Principal) -> Reply:
        """Lines of an agent's containers, the newest first."""
        asked = query.asked()
        rows = await self._logs.listed(caller.tenant, uuid, asked)
        if rows is None:
            raise _unknown(uuid)
        lines = [_line(uuid, row) for row in rows]
        is_full = len(rows) == asked.limit
        cursor = models.cursor_of(rows[-1]["time"], rows[-1]["digest"]) if is_full else None
        return json_reply({"count": len(lines), "logs": lines, "cursor": cursor})

    @route(
        "GET",
        "/api/v1/agents/:uuid/logs/services",
        needs="device:read",
        reply=models.LogServices,
        errors=(404,),
    )
    async def services(self, uuid: UUID, caller: Principal) -> Reply:
        """Services of an agent that have logs."""
        rows = await self._logs.services(caller.tenant, uuid)
        if rows is None:
            raise _unknown(uuid)
        names = [row["service_name"] for row in rows]
        return json_reply({"count": len(names), "services": names})

    async def _info(self, uuid: UUID, caller: Principal) -> tuple[Mapping[str, Any], Any]:
        row = await self._reports.current(caller.tenant, uuid)
        if row is None:
            raise _unknown(uuid)
        info = row["system_info"]
        return (orjson.loads(info) if info else {}), row["reported_at"]


def _line(agent: UUID, row: Any) -> dict[str, Any]:
    meta = row["meta"]
    return {
        "agent_uuid": str(agent),
        "timestamp": row["time"],
        "service_name": row["service_name"],
        "level": row["level"],
        "message": row["message"],
        "is_stderr": row["is_stderr"],
        "is_system": row["is_system"],
        "meta": orjson.Fragment(meta) if meta is not None else None,
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _unknown(agent: UUID) -> NotFound:
    return NotFound(f"agent {agent} does not exist")
