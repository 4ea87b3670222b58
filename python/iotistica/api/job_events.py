"""What happens to jobs, for whoever listens now (reference section 1.4)."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from iotistica import keys, log
from iotistica.errors import StoreUnavailable
from iotistica.store.job_events import JobEvent
from iotistica.streams import Channels

_occasional = log.Occasional(log.get(__name__))


async def publish(channels: Channels, events: Iterable[JobEvent]) -> None:
    """Tell it; nothing is said where Redis is away."""
    messages = [(keys.jobs_channel(one.tenant, one.agent), _message(one)) for one in events]
    try:
        await channels.publish_many(messages)
    except StoreUnavailable as error:
        # Live news is for now; the tables have everything.
        _occasional.warning("news of jobs was not published", error=str(error))


def _message(one: JobEvent) -> bytes:
    return orjson.dumps(
        {
            "deviceUuid": one.agent,
            "type": one.type,
            "data": one.data,
            "timestamp": one.at.isoformat(),
        }
    )
