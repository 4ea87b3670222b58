"""Gathers what an audit judges, and looks again where something does not add up."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from iotistica import ledger
from iotistica.audit.report import Evidence, Reading, Report, in_doubt, report
from iotistica.audit.standing import Standing
from iotistica.errors import StoreUnavailable
from iotistica.store.ledger import LedgerStore
from iotistica.streams import InFlight, Ledger

_LOOKS = 3


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
        most: int | None = None,
        problems: bool = False,
    ) -> Report:
        """The report of a tenant, or of one agent of it, with the accounts of at most so many
        agents, or only of those with problems.

        `count` counts the rows in the table, too. `on_disk` says what the spools of this machine
        hold for the tenant: messages that may still come.
        """
        for _ in range(_LOOKS):
            evidence = await self._evidence(tenant, agent, count=count, on_disk=on_disk or {})
            if await self._streams.epoch(tenant) == evidence.epoch:
                break  # else Redis lost its data under our eyes
        for _ in range(_LOOKS):
            # In a thread: a hundred thousand agents take seconds.
            doubtful = await asyncio.to_thread(in_doubt, evidence)
            if not doubtful:
                break
            again = await self._look_again(evidence, doubtful)
            evidence = replace(evidence, again={**evidence.again, **again})
        found = await asyncio.to_thread(report, evidence, most=most, problems=problems)
        return await self._detailed(found)

    async def _evidence(
        self, tenant: str, agent: str | None, *, count: bool, on_disk: Mapping[str, int]
    ) -> Evidence:
        epoch = await self._streams.epoch(tenant)
        before = await self._standing(tenant, agent)
        in_flight = await self._in_flight(tenant, agent)
        rows = await self._rows(before) if count else {}
        after = await self._standing(tenant, agent)
        past = await self._store.past(tenant, epoch, agent)
        registered = await self._store.registered(tenant, list(rows)) if rows else {}
        return Evidence(
            tenant=tenant,
            epoch=epoch,
            now_ms=await self._streams.now_ms(),
            reading=Reading(before=before, in_flight=in_flight, after=after),
            rows=rows,
            numbers=await self._streams.sequences(tenant, agent),
            past=past,
            young=frozenset(
                one for one, since in registered.items() if past.began_at and since > past.began_at
            ),
            losses=await self._store.losses(tenant),
            on_disk=on_disk,
        )

    async def _standing(self, tenant: str, agent: str | None) -> Standing:
        found = Standing()
        async for page in self._streams.pages(tenant, agent):
            found.add(page)
        return found

    async def _in_flight(self, tenant: str, agent: str | None) -> InFlight:
        found = await self._streams.in_flight(tenant)
        if agent is not None:
            for by_agent in (found.messages, found.added, found.oldest_ms):
                for other in by_agent.keys() - {agent}:
                    del by_agent[other]
        return found

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

    async def _look_again(self, evidence: Evidence, agents: Sequence[str]) -> dict[str, Reading]:
        """Read these once more, the counters of each at one moment.

        Pages of the first reading may be torn by a batch that was settled between them.
        """
        tenant = evidence.tenant
        counters = (await self._standing(tenant, None)).total
        before = await self._exact(tenant, agents, counters)
        in_flight = await self._streams.in_flight(tenant)
        after = await self._exact(tenant, agents, counters)
        return dict.fromkeys(agents, Reading(before=before, in_flight=in_flight, after=after))

    async def _exact(
        self, tenant: str, agents: Sequence[str], counters: Collection[str]
    ) -> Standing:
        found = Standing()
        for agent, counts in (await self._streams.exact(tenant, agents, counters)).items():
            found.add((agent, counter, number) for counter, number in counts.items())
        return found

    async def _detailed(self, found: Report) -> Report:
        """The same with the counters of the accounts that are kept."""
        evidence = found.evidence
        agents = [account.agent for account in found.accounts]
        known = evidence.reading.after.total
        live = await self._streams.exact(evidence.tenant, agents, known) if known else {}
        past = await self._store.past_counts(evidence.tenant, evidence.epoch, agents)
        accounts = [
            replace(one, counts=ledger.added(past.get(one.agent, {}), live.get(one.agent, {})))
            for one in found.accounts
        ]
        return replace(found, accounts=accounts)
