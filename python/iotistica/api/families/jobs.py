"""`jobs/start-next` and `jobs/{jobId}/update`: agents take jobs and say how they go on.

The reference subscribes to both and has never served either (reference section 1.6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from iotistica import log
from iotistica.api.families.family import Incoming, Refusal
from iotistica.api.job_events import publish
from iotistica.errors import StoreUnavailable
from iotistica.jobs import progress, wire
from iotistica.store.agent_jobs import AgentJobs, Ask, Outcome, Report
from iotistica.streams import Channels, Outbox, Outgoing

_START_NEXT = "start-next"
_MAX_TOKEN = 256

_occasional = log.Occasional(log.get(__name__))


class Jobs:
    """Updates come before requests for work, so that what is done is done when more is asked for.

    An update that comes again changes nothing and is answered again. A request that comes again is
    known by its `clientToken`; without one it is another request.
    """

    filters: Sequence[str] = ("jobs/start-next", "jobs/+/update")
    shared = True

    def __init__(
        self,
        store: AgentJobs,
        outbox: Outbox,
        channels: Channels,
        *,
        most_output_bytes: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._channels = channels
        self._most_bytes = most_output_bytes
        self._clock = clock

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        """Commit and answer them."""
        asks, reports, refusals = [], [], []
        for message in messages:
            if message.rest == _START_NEXT:
                asks.append(Ask(message.tenant, message.agent, _token(message.value)))
                continue
            try:
                reports.append((message, self._report(message)))
            except ValueError as error:
                refusals.append(Refusal(message, "bad_job_update", str(error)))
        refusals += await self._take_reports(reports)
        if asks:
            await self._take_asks(asks)
        return refusals

    def _report(self, message: Incoming) -> Report:
        job, _, action = message.rest.partition("/")
        if action != "update":
            raise ValueError(f"topic ends with {message.rest[:64]!r}; not one of an update")
        try:
            identifier = UUID(job)
        except ValueError:
            raise ValueError(f"job id in the topic is {job[:64]!r}; it must be a UUID") from None
        update = progress.read(message.value, message.payload, most_bytes=self._most_bytes)
        return Report(message.tenant, message.agent, str(identifier), update)

    async def _take_reports(self, taken: Sequence[tuple[Incoming, Report]]) -> list[Refusal]:
        now = self._clock()
        reports = [report for _, report in taken]
        outcomes = await self._store.report(reports, now)
        answers = [
            Outgoing(*_answer(report, outcome, now))
            for report, outcome in zip(reports, outcomes, strict=True)
        ]
        await self._outbox.put(answers)
        await publish(self._channels, (one.event for one in outcomes if one.event is not None))
        return [
            Refusal(message, "unknown_job", outcome.rejection.message)
            for (message, _), outcome in zip(taken, outcomes, strict=True)
            if outcome.part is None and outcome.rejection is not None
        ]

    async def _take_asks(self, asks: Sequence[Ask]) -> None:
        now = self._clock()
        given, events = await self._store.hand_out(asks, now, notice="started")
        await publish(self._channels, events)
        answers = [
            wire.started(found, now)[0]
            if found is not None
            else wire.nothing_to_start(ask.tenant, ask.agent, ask.token, now)
            for ask, found in zip(asks, given, strict=True)
        ]
        handed = [found for found in given if found is not None]
        try:
            await self._outbox.put([Outgoing(*one) for one in answers])
        except StoreUnavailable as error:
            if not handed:
                raise
            # Asked again, they would get other jobs; these are owed to them and sent by the chore.
            _occasional.warning("answers to requests for jobs wait", error=str(error))
            return
        await self._store.told(handed)


def _token(value: Any) -> str | None:
    token = value.get("clientToken") if isinstance(value, dict) else None
    return None if token is None else progress.text(str(token), _MAX_TOKEN)


def _answer(report: Report, outcome: Outcome, now: datetime) -> tuple[str, bytes]:
    said: dict[str, Any] = {}
    if outcome.rejection is not None:
        said = {"code": outcome.rejection.code, "message": outcome.rejection.message}
    if outcome.part is not None:
        said["executionState"] = {
            "status": outcome.part.status,
            "versionNumber": outcome.part.version,
            "executionNumber": outcome.part.attempt,
        }
    if report.update.token is not None:
        said["clientToken"] = report.update.token
    accepted = outcome.rejection is None
    return wire.answer(report.tenant, report.agent, report.job, said, now, accepted=accepted)
