"""`/api/v1/audit…`: the loss ledger of the caller's tenant (docs/loss-ledger.md has the shapes)."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from uuid import UUID

from iotistica import log
from iotistica.api.http import Reply, json_reply
from iotistica.api.models import audit as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.audit.auditor import Auditor
from iotistica.audit.document import account_document, document
from iotistica.audit.report import Report
from iotistica.errors import NotFound
from iotistica.store.agents import AgentStore
from iotistica.store.ledger import LedgerStore

_MAX_LIMIT = 1000
_FRESH_S = 1.0
"""So long a report serves later callers, too."""

_log = log.get(__name__)


class Audit:
    """Handlers of the audit; every role of a tenant may read it."""

    def __init__(self, auditor: Auditor, store: LedgerStore, agents: AgentStore) -> None:
        self._auditor = auditor
        self._store = store
        self._agents = agents
        self._reports: dict[str, asyncio.Task[Report]] = {}

    @route("GET", "/api/v1/audit", needs="data:read", reply=models.TenantAudit)
    async def tenant(self, query: models.AuditQuery, caller: Principal) -> Reply:
        """The loss ledger of the tenant: whether all that was accepted is accounted for."""
        most, problems = query.limit, query.problems
        report = await self._report(caller.tenant)
        shown = report.accounts[: min(most, report.troubled) if problems else most]
        return json_reply(document(replace(report, accounts=shown)))

    @route("GET", "/api/v1/audit/:uuid", needs="data:read", reply=models.AgentAudit)
    async def agent(self, uuid: UUID, caller: Principal) -> Reply:
        """The account of one agent."""
        agent = str(uuid)
        report = await self._auditor.report(caller.tenant, agent=agent)
        # Also an agent that is not registered has an account, where its messages were refused.
        if not report.accounts and not await self._agents.agents_of(caller.tenant, [agent]):
            raise NotFound(f"agent {agent} does not exist")
        account = report.accounts[0] if report.accounts else report.total
        return json_reply({**account_document(account), "agent": agent})

    @route("GET", "/api/v1/audit/losses", needs="data:read", reply=models.Losses)
    async def losses(self, caller: Principal) -> Reply:
        """Each time that Redis lost its data, the newest first."""
        losses = await self._store.losses(caller.tenant)
        return json_reply({"count": len(losses), "losses": [asdict(loss) for loss in losses]})

    @route("POST", "/api/v1/audit/losses/acknowledge", needs="data:delete")
    async def acknowledge(
        self, caller: Principal, body: models.Acknowledgment
    ) -> models.Acknowledged:
        """Say that these losses are known, so that audits are clean again.

        They stay in the ledger, with who acknowledged them and why.
        """
        who = caller.name or caller.id
        count = await self._store.acknowledge(
            caller.tenant, upto=body.upto, by=who, why=body.reason
        )
        _log.info("losses acknowledged", tenant=caller.tenant, user=caller.id, count=count)
        self._reports.pop(caller.tenant, None)
        return models.Acknowledged(count)

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
