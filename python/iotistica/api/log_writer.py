"""Moves container logs from the streams of all tenants into the table, and tells who listens.

It lives in the control process: lines need neither the pace nor the spool of ingestion, and what
writes them is what has to wait with the other families while PostgreSQL is away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime

import orjson

from iotistica import keys, log, metrics
from iotistica.api.chore import Chore
from iotistica.api.families.log_lines import lines_of
from iotistica.api.members import Members
from iotistica.errors import BadRequest, StoreUnavailable, TooLarge
from iotistica.settings import Settings
from iotistica.store.logs import Line, LogStore
from iotistica.store.pool import is_refusal
from iotistica.streams import Channels, DeadLetter, Entry, LogStreams, Streams
from iotistica.streams.letter import form_of

_EVERY_S = 0.5
_AT_ONCE = 200
_CLAIM_EVERY_S = 30.0
_CLAIM_IDLE_MS = 60_000
_ALL_EVERY_S = 30.0
_ALARM_SHARE = 0.8
STAGE = "logs"
BAD_LOG = "bad_log"

_log = log.get(__name__)
_occasional = log.Occasional(_log)


class LogWriter:
    """One consumer of the log streams, by the name of its process."""

    def __init__(
        self,
        streams: Streams,
        store: LogStore,
        *,
        name: str,
        members: Members,
        executor: Executor,
        settings: Settings,
    ) -> None:
        self._streams = streams
        self._store = store
        self._name = name
        self._members = members
        self._executor = executor
        self._retention_ms = settings.log_retention_days * 86_400_000
        self._most_entries = settings.log_stream_max_entries
        self._known: set[str] = set()
        self._claim_at = 0.0
        self.reason: str | None = None
        """Why lines are not written, or that too many wait."""

    @property
    def _logs(self) -> LogStreams:
        return self._streams.logs

    def chore(self) -> Chore:
        """Writes what comes."""
        return Chore("write logs", _EVERY_S, self.write, most_pause_s=_EVERY_S)

    async def write(self) -> None:
        """Write what there is. Raises `StoreUnavailable`."""
        try:
            while await self.write_some():
                pass
        except StoreUnavailable as error:
            self.reason = f"logs wait: {error}"
            raise

    async def write_some(self) -> bool:
        """One round over the tenants that have logs; whether there were any."""
        claims = time.monotonic() >= self._claim_at
        if claims:
            self._claim_at = time.monotonic() + _CLAIM_EVERY_S
        moved = False
        tenants = await self._logs.tenants()
        lengths = await self._logs.lengths(tenants)
        self._alarm(lengths)
        for tenant, length in lengths.items():
            if not length:
                await self._logs.rest(tenant)
                continue
            for entries in await self._entries(tenant, claims=claims):
                if entries:
                    await self._write(tenant, entries)
                    moved = True
        return moved

    def _alarm(self, lengths: dict[str, int]) -> None:
        self.reason = None
        most = max(lengths.values(), default=0)
        metrics.LOG_STREAM_ENTRIES.set(sum(lengths.values()))
        if most >= self._most_entries * _ALARM_SHARE:
            tenant = max(lengths, key=lambda one: lengths[one])
            self.reason = (
                f"the log stream of tenant {tenant!r} holds {most} entries; "
                f"from {self._most_entries} on logs are refused"
            )

    async def _entries(self, tenant: str, *, claims: bool) -> list[list[Entry]]:
        """What a predecessor left, what a dead consumer left, what is new."""
        found = []
        if tenant not in self._known:
            found.append(await self._logs.read(tenant, self._name, count=_AT_ONCE, again=True))
            # Until all of them are written, or the next look would miss the rest.
            if len(found[0]) < _AT_ONCE:
                self._known.add(tenant)
        elif claims:
            found.append(
                await self._logs.claim(
                    tenant, self._name, min_idle_ms=_CLAIM_IDLE_MS, count=_AT_ONCE
                )
            )
        found.append(await self._logs.read(tenant, self._name, count=_AT_ONCE))
        return found

    async def _write(self, tenant: str, entries: Sequence[Entry]) -> None:
        try:
            await self._move(tenant, entries)
        except StoreUnavailable:
            self._known.discard(tenant)  # they are ours, and pending
            raise

    async def _move(self, tenant: str, entries: Sequence[Entry]) -> None:
        loop = asyncio.get_running_loop()
        oldest_ms = time.time_ns() // 1_000_000 - self._retention_ms
        parsed = await loop.run_in_executor(self._executor, lines_in, entries, oldest_ms)
        agents = {one.agent for some in parsed if not isinstance(some, str) for one in some}
        members = await self._members.look_up(agents)
        parsed = [checked(some, tenant, members) for some in parsed]
        lines = [line for some in parsed if not isinstance(some, str) for line in some]
        try:
            await self._store.add(lines)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(entries) > 1:
                half = len(entries) // 2
                await self._move(tenant, entries[:half])
                await self._move(tenant, entries[half:])
                return
            parsed, lines = [f"PostgreSQL refuses the lines: {error}"], []
        bad = [(one, why) for one, why in zip(entries, parsed, strict=True) if isinstance(why, str)]
        await self._bury(tenant, bad)
        await self._logs.done(tenant, [entry_id for entry_id, _ in entries])
        metrics.LOG_LINES.inc(len(lines))
        await _publish(self._streams.channels, tenant, lines)

    async def _bury(self, tenant: str, entries: Sequence[tuple[Entry, str]]) -> None:
        """What holds no lines becomes a dead letter; the reference has none for logs."""
        letters = []
        for (entry_id, fields), error in entries:
            payload, form = form_of(fields)
            named = dict(zip(fields[::2], fields[1::2], strict=False))
            letters.append(
                DeadLetter(
                    data=payload,
                    topic="",
                    original_id=entry_id,
                    error=error,
                    reason=BAD_LOG,
                    stage=STAGE,
                    failed_at=datetime.now(UTC),
                    agent=named.get(b"deviceUuid", b"").decode(errors="replace")[:64],
                    form=form,
                )
            )
        if letters:
            _occasional.warning("logs refused", tenant=tenant, error=letters[0].error)
            metrics.CONTROL_REJECTED.labels(BAD_LOG).inc(len(letters))
            await self._streams.dead_letter(tenant, letters)


def lines_in(entries: Sequence[Entry], oldest_ms: int) -> list[list[Line] | str]:
    """The lines of each entry, or what is wrong with it."""
    found: list[list[Line] | str] = []
    for entry_id, fields in entries:
        try:
            entry_ms = int(entry_id.partition(b"-")[0])
            found.append(lines_of(fields, entry_ms, oldest_ms=oldest_ms))
        except (BadRequest, TooLarge) as error:
            found.append(str(error))
        except Exception as error:
            # A defect of ours costs the entry that meets it, and not all logs.
            _log.exception("an entry of logs met a defect")
            found.append(f"a defect of ours met it: {error!r}"[:500])
    return found


def checked(lines: list[Line] | str, tenant: str, members: Mapping[str, str]) -> list[Line] | str:
    """The same, or that one of them is not of an agent of this tenant."""
    for line in () if isinstance(lines, str) else lines:
        if members.get(line.agent) != tenant:
            return f"agent {line.agent[:64]!r} is not one of tenant {tenant!r}"
    return lines


async def _publish(channels: Channels, tenant: str, lines: Sequence[Line]) -> None:
    by_agent: dict[str, list[Line]] = {}
    for line in lines:
        by_agent.setdefault(line.agent, []).append(line)
    try:
        await channels.publish_many(
            (keys.logs_channel(tenant, agent), _message(some)) for agent, some in by_agent.items()
        )
    except StoreUnavailable as error:
        _occasional.warning("live values were not published", error=str(error))


def _message(lines: Sequence[Line]) -> bytes:
    return orjson.dumps({"logs": [line.shown() for line in lines]}, option=orjson.OPT_UTC_Z)
