"""What happens to jobs of agents, kept among the other events of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from iotistica.store.pool import Connection

PROGRESS = "job.progress"
_MAX_STDERR = 500

_ADD = """
INSERT INTO agent_events (tenant_id, agent_uuid, source, type, time, data)
SELECT tenant_id, agent_uuid, 'jobs', type, time, data
FROM unnest($1::text[], $2::text[]::uuid[], $3::text[], $4::timestamptz[], $5::text[]::jsonb[])
     AS new (tenant_id, agent_uuid, type, time, data)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """Something that happened to an agent's part of a job."""

    tenant: str
    agent: str
    type: str
    """As the reference names it (section 1.4): `job.started`."""
    at: datetime
    data: Mapping[str, Any]


def event(kind: str, tenant: str, agent: str, job: str, at: datetime, **data: Any) -> JobEvent:
    """An event of a job, with what is known of `data`; of stderr its end."""
    known = {name: value for name, value in data.items() if value is not None}
    if "stderr" in known:
        known["stderr"] = known["stderr"][-_MAX_STDERR:]
    return JobEvent(tenant=tenant, agent=agent, type=kind, at=at, data={"jobId": job, **known})


async def record(connection: Connection, events: Sequence[JobEvent]) -> None:
    """Keep events, within the transaction of what they tell. Raises what asyncpg raises.

    Progress is told to who listens and stands in `agent_job_status`; kept for good it would fill
    the table by the rate at which agents like to report.
    """
    kept = [one for one in events if one.type != PROGRESS]
    if kept:
        await connection.execute(
            _ADD,
            [one.tenant for one in kept],
            [one.agent for one in kept],
            [one.type for one in kept],
            [one.at for one in kept],
            [orjson.dumps(one.data).decode() for one in kept],
        )
