"""Gathers what an audit judges, and looks again where something does not add up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from iotistica import ledger
from iotistica.audit.report import Account, Evidence, Report, judged, report
from iotistica.errors import StoreUnavailable
from iotistica.ledger import Counts
from iotistica.store.ledger import LedgerStore
from iotistica.streams import Ledger

_LOOKS = 3
_ALWAYS = (ledger.ACCEPTED, ledger.SETTLED, ledger.SPOOLED, ledger.READINGS, *ledger.OUTCOMES)


class Auditor:
    """Audits any tenant. Every method raises `StoreUnavailable`."""

    def __init__(self, streams: Ledger, store: LedgerStore) -> None:
        self._streams = streams
        self._store = store

    async def report(
        self,
        tenant: str,
        *,
        agent: str | None = None,
        count: bool = False,
        on_disk: Mapping[str, int] | None = None,
    ) -> Report:
        """The report of a tenant, or of one agent of it.

        `count` counts the rows in the table, too. `on_disk` says what the spools of this machine
        hold for the tenant: messages that may still come.
        """
        for _ in range(_LOOKS):
            evidence = await self._evidence(tenant, agent, count=count, on_disk=on_disk or {})
            if await self._streams.epoch(tenant) == evidence.epoch:
                break  # else Redis lost its data under our eyes
        # In a thread: a hundred thousand agents take seconds.
        accounts = await asyncio.to_thread(judged, evidence)
        for _ in range(_LOOKS):
            doubtful = [name for name, one in accounts.items() if one.balanced is False]
            if not doubtful:
                break
            accounts |= await self._look_again(evidence, doubtful)
        return await asyncio.to_thread(report, evidence, accounts.values())

    async def _evidence(
        self, tenant: str, agent: str | None, *, count: bool, on_disk: Mapping[str, int]
    ) -> Evidence:
        epoch = await self._streams.epoch(tenant)
        before = await self._streams.counts(tenant, agent)
        in_flight = await self._streams.in_flight(tenant)
        if agent is not None:
            for found in (in_flight.messages, in_flight.added, in_flight.oldest_ms):
                for other in found.keys() - {agent}:
                    del found[other]
        rows = await self._rows(before) if count else {}
        after = await self._streams.counts(tenant, agent)
        past = await self._store.past(tenant, epoch, agent)
        registered = await self._store.registered(tenant, list(rows)) if rows else {}
        return Evidence(
            tenant=tenant,
            epoch=epoch,
            now_ms=await self._streams.now_ms(),
            before=before,
            in_flight=in_flight,
            rows=rows,
            after=after,
            numbers=await self._streams.sequences(tenant, agent),
            past=past,
            young=frozenset(
                one for one, since in registered.items() if past.began_at and since > past.began_at
            ),
            losses=await self._store.losses(tenant),
            on_disk=on_disk,
        )

    async def _rows(self, agents: Iterable[str]) -> dict[str, int | None]:
        """Rows of each agent in the table; None where PostgreSQL did not finish counting."""
        found: dict[str, int | None] = {}
        for agent in agents:
            if agent == ledger.NOBODY:
                continue
            try:
                found[agent] = await self._store.rows(agent)
            except StoreUnavailable:
                found[agent] = None
        return found

    async def _look_again(self, evidence: Evidence, agents: list[str]) -> dict[str, Account]:
        """Judge these once more, the counters of each read at one moment.

        Pages of the first reading may be torn by a batch that was settled between them.
        """
        fields = {
            agent: {*_ALWAYS, *evidence.before.get(agent, {}), *evidence.after.get(agent, {})}
            for agent in agents
        }
        tenant = evidence.tenant
        before: Mapping[str, Counts] = await self._streams.exact(tenant, fields)
        in_flight = await self._streams.in_flight(tenant)
        after: Mapping[str, Counts] = await self._streams.exact(tenant, fields)
        again = replace(evidence, before=before, in_flight=in_flight, after=after)
        return await asyncio.to_thread(judged, again, agents)
