"""`/api/v1/audit…`: the loss ledger of the caller's tenant (docs/loss-ledger.md has the shapes)."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict, replace
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from iotistica import log
from iotistica.api.http import Reply, Request, json_reply
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.audit.auditor import Auditor
from iotistica.audit.document import account_document, document
from iotistica.audit.report import Report
from iotistica.errors import BadRequest, NotFound
from iotistica.store.agents import AgentStore
from iotistica.store.ledger import LedgerStore

_DEFAULT_LIMIT, _MAX_LIMIT = 100, 1000
_FRESH_S = 1.0
"""So long a report serves later callers, too."""
_FLAGS = {"true": True, "1": True, "false": False, "0": False}

_log = log.get(__name__)


class Acknowledgment(msgspec.Struct, forbid_unknown_fields=True):
    """Which losses are acknowledged, and why."""

    upto: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    """Id of the newest loss that is meant; the older ones go with it."""
    reason: Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]


class Acknowledged(msgspec.Struct):
    """How many losses were acknowledged now."""

    acknowledged: int


class Audit:
    """Handlers of the audit; every role of a tenant may read it."""

    def __init__(self, auditor: Auditor, store: LedgerStore, agents: AgentStore) -> None:
        self._auditor = auditor
        self._store = store
        self._agents = agents
        self._reports: dict[str, asyncio.Task[Report]] = {}

    @route("GET", "/api/v1/audit", needs="data:read")
    async def tenant(self, request: Request, caller: Principal) -> Reply:
        """`{tenant, balanced, clean, epoch, began_at, snapshot_at, total, agents_total,
        agents_with_problems, agents, losses, streams, on_disk}`.

        Parameters: `limit` (agents, those with problems first), `problems` (true: only those).
        """
        most, problems = _limit(request), _flag(request, "problems")
        report = await self._report(caller.tenant)
        shown = report.accounts[: min(most, report.troubled) if problems else most]
        return json_reply(document(replace(report, accounts=shown)))

    @route("GET", "/api/v1/audit/:uuid", needs="data:read")
    async def agent(self, request: Request, caller: Principal) -> Reply:
        """One of `agents`: `{agent, balanced, problems, messages, readings, numbers}`."""
        agent = _agent(request)
        report = await self._auditor.report(caller.tenant, agent=agent)
        # Also an agent that is not registered has an account, where its messages were refused.
        if not report.accounts and not await self._agents.agents_of(caller.tenant, [agent]):
            raise NotFound(f"agent {agent} does not exist")
        account = report.accounts[0] if report.accounts else report.total
        return json_reply({**account_document(account), "agent": agent})

    @route("GET", "/api/v1/audit/losses", needs="data:read")
    async def losses(self, caller: Principal) -> Reply:
        """`{count, losses}`, the newest first: each time that Redis lost its data."""
        losses = await self._store.losses(caller.tenant)
        return json_reply({"count": len(losses), "losses": [asdict(loss) for loss in losses]})

    @route("POST", "/api/v1/audit/losses/acknowledge", needs="data:delete")
    async def acknowledge(self, caller: Principal, body: Acknowledgment) -> Acknowledged:
        """Say that these losses are known, so that audits are clean again.

        They stay in the ledger, with who acknowledged them and why.
        """
        who = caller.name or caller.id
        count = await self._store.acknowledge(
            caller.tenant, upto=body.upto, by=who, why=body.reason
        )
        _log.info("losses acknowledged", tenant=caller.tenant, user=caller.id, count=count)
        self._reports.pop(caller.tenant, None)
        return Acknowledged(count)

    async def _report(self, tenant: str) -> Report:
        """One audit at a time for a tenant: who asks meanwhile, or shortly after, shares it."""
        task = self._reports.get(tenant)
        if task is None:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._auditor.report(tenant, most=_MAX_LIMIT))
            task.add_done_callback(
                lambda _: loop.call_later(_FRESH_S, self._reports.pop, tenant, None)
            )
            self._reports[tenant] = task
        return await asyncio.shield(task)


def _agent(request: Request) -> str:
    text = request.params["uuid"]
    try:
        return str(UUID(text))
    except ValueError:
        raise BadRequest(f"agent {text[:64]!r} is not a UUID") from None


def _limit(request: Request) -> int:
    text = request.parameter("limit")
    if text is None:
        return _DEFAULT_LIMIT
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 0 <= int(text) <= _MAX_LIMIT:
        raise BadRequest(
            f"parameter limit is {text[:64]!r}; allowed is a whole number from 0 to {_MAX_LIMIT}"
        )
    return int(text)


def _flag(request: Request, name: str) -> bool:
    text = request.parameter(name) or "false"
    if text not in _FLAGS:
        raise BadRequest(f"parameter {name} is {text[:64]!r}; allowed are true and false")
    return _FLAGS[text]
