"""`/api/v1/audit-log`: who changed what."""

from __future__ import annotations

from typing import Any

import msgspec

from iotistica.api import cursors, window
from iotistica.api.models.identity import EntryList, EntryQuery, EntryView
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.store.journal import Filter, Journal


class AuditLog:
    """Handlers of the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @route("GET", "/api/v1/audit-log", needs="settings:read")
    async def list(self, caller: Principal, query: EntryQuery) -> EntryList:
        """List what was changed in the tenant, by whom, before and after."""
        where = Filter(
            actor=query.actor,
            subject=query.subject,
            event_type=query.type,
            since=None if query.since is None else window.moment("since", query.since),
            until=None if query.until is None else window.moment("until", query.until),
        )
        below = None if query.cursor is None else int(query.cursor)
        rows = await self._journal.newest(caller.tenant, where, below=below, limit=query.limit)
        more = cursors.plain(rows, query.limit, lambda one: one["id"])
        return EntryList(len(rows), [_view(row) for row in rows], more)


def _view(row: Any) -> EntryView:
    fields: dict[str, Any] = dict(row)
    for name in ("before", "after"):
        fields[name] = _raw(fields[name])
    agent = fields.pop("agent_uuid")
    return EntryView(**fields, agent_uuid=None if agent is None else str(agent))


def _raw(document: str | None) -> msgspec.Raw | None:
    return None if document is None else msgspec.Raw(document.encode())
