"""`/api/openapi.json` and `/api/docs`: the API about itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import orjson

from iotistica.api.http import JSON_TYPE, Reply
from iotistica.api.openapi import document
from iotistica.api.page import page
from iotistica.api.route import Route, route

_JSON_URL = "/api/openapi.json"
_HTML = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
}


class Documents:
    """Handlers of the document. It is the same for everybody and tells nothing of any tenant."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    @route("GET", _JSON_URL, public=True, reply=dict[str, Any])
    async def openapi(self) -> Reply:
        """The OpenAPI document."""
        return Reply(200, orjson.dumps(self._document), JSON_TYPE)

    @route("GET", "/api/docs", public=True, reply=str, gives="text/html")
    async def docs(self) -> Reply:
        """The same for people."""
        return Reply(200, self._page, _HTML)

    @cached_property
    def _document(self) -> dict[str, Any]:
        return document(self._routes)

    @cached_property
    def _page(self) -> bytes:
        return page(self._document, _JSON_URL).encode()
