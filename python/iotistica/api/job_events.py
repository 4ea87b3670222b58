"""What happens to jobs, for whoever listens now (reference section 1.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from iotistica import keys, log
from iotistica.errors import StoreUnavailable
from iotistica.jobs import wire
from iotistica.jobs.progress import EVENTS
from iotistica.store.agent_jobs import Outcome, Report
from iotistica.store.job_steps import Change
from iotistica.streams import Channels

_occasional = log.Occasional(log.get(__name__))


async def publish_outcomes(
    channels: Channels, reports: Sequence[Report], outcomes: Sequence[Outcome], now: datetime
) -> None:
    """Tell what updates did, where they did something."""
    messages = []
    for report, outcome in zip(reports, outcomes, strict=True):
        if outcome.event is None or outcome.part is None:
            continue
        said = report.update
        data = {
            "jobId": report.job,
            "jobName": outcome.part.job_name,
            "status": said.status,
            "executionNumber": outcome.part.attempt,
            "reason": said.reason,
            "exitCode": said.exit_code,
            "stderr": said.stderr,
            "statusDetails": said.details,
        }
        given = {name: value for name, value in data.items() if value is not None}
        channel = keys.jobs_channel(report.tenant, report.agent)
        messages.append((channel, wire.event(outcome.event, report.agent, now, given)))
    await _publish(channels, messages)


async def publish_changes(channels: Channels, changes: Iterable[Change], now: datetime) -> None:
    """Tell what the platform did."""
    await _publish(
        channels,
        [
            (
                keys.jobs_channel(one.tenant, one.agent),
                wire.event(
                    EVENTS[one.status],
                    one.agent,
                    now,
                    {"jobId": one.job, "status": one.status, "reason": one.reason},
                ),
            )
            for one in changes
        ],
    )


async def _publish(channels: Channels, messages: Sequence[tuple[str, bytes]]) -> None:
    try:
        await channels.publish_many(messages)
    except StoreUnavailable as error:
        # Live news is for now; the tables have everything.
        _occasional.warning("news of jobs was not published", error=str(error))
