"""`/api/v1/readings/export`: readings as files of any size (docs/export.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from iotistica.api.http import Reply, Request, Stream, Write
from iotistica.api.models import exports as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.exports.encoding import encoder
from iotistica.exports.forms import MEDIA_TYPES, Form, choose
from iotistica.store.exports import Chosen, ExportStore, Layout

LAYOUTS = {Form.CSV: Layout.TABLE, Form.NDJSON: Layout.LINES}
"""Of the others it is `Layout.CELLS`."""
_ERRORS = (404, 406, 501, 504)


class Exports:
    """Handlers of exports."""

    def __init__(self, store: ExportStore) -> None:
        self._store = store

    @route(
        "GET",
        "/api/v1/readings/export",
        needs="data:export",
        reply=str,
        gives=MEDIA_TYPES,
        errors=_ERRORS,
    )
    async def of_tenant(
        self, request: Request, query: models.ExportQuery, caller: Principal
    ) -> Reply:
        """Readings of all agents, or of some, as a file: CSV, NDJSON, Parquet or an Arrow stream.

        A transfer that breaks off is not ended as a whole one is (no last chunk).
        """
        agents = query.agent or None
        return await self._export(request, caller, query.chosen(datetime.now(UTC), agents), query)

    @route(
        "GET",
        "/api/v1/readings/:uuid/export",
        needs="data:export",
        reply=str,
        gives=MEDIA_TYPES,
        errors=_ERRORS,
    )
    async def of_agent(
        self, uuid: UUID, request: Request, query: models.AgentExportQuery, caller: Principal
    ) -> Reply:
        """Readings of an agent as a file: CSV, NDJSON, Parquet or an Arrow stream.

        A transfer that breaks off is not ended as a whole one is (no last chunk).
        """
        return await self._export(request, caller, query.chosen(datetime.now(UTC), [uuid]), query)

    async def _export(
        self, request: Request, caller: Principal, chosen: Chosen, query: models.AgentExportQuery
    ) -> Reply:
        form = choose(request.headers.get("accept"), query.format)
        if chosen.agents is not None:
            await self._store.check(caller.tenant, chosen.agents)
        headers = {
            "content-type": _content_type(form),
            "content-disposition": f'attachment; filename="{_file_name(chosen, form)}"',
            # The front door would compress text, in the thread that serves everybody.
            "cache-control": "no-store, no-transform",
            "vary": "Accept",
        }
        return Stream(200, headers=headers, send=partial(self._send, caller.tenant, chosen, form))

    async def _send(self, tenant: str, chosen: Chosen, form: Form, write: Write) -> None:
        encoded = encoder(form, chosen.columns, write)
        layout = LAYOUTS.get(form, Layout.CELLS)
        await self._store.copy(tenant, chosen, layout, encoded.add)
        await encoded.finish()


def _content_type(form: Form) -> str:
    return f"{form.media_type}; charset=utf-8" if form is Form.CSV else form.media_type


def _file_name(chosen: Chosen, form: Form) -> str:
    """Such as `readings-1h-20260101T000000Z-20260201T000000Z.csv`."""
    of = "" if chosen.agents is None or len(chosen.agents) > 1 else f"-{chosen.agents[0]}"
    level = "" if chosen.level == "raw" else f"-{chosen.level}"
    span = "-".join(f"{at:%Y%m%dT%H%M%SZ}" for at in (chosen.start, chosen.end))
    return f"readings{level}{of}-{span}.{form.suffix}"
