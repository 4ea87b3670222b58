"""The OpenAPI document, of the routes that the web application has."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from unittest.mock import Mock

import jsonschema
import pytest

from iotistica import ops
from iotistica.api.agent_parts import AgentParts
from iotistica.api.application import Parts, routes
from iotistica.api.openapi import document
from iotistica.api.page import page
from iotistica.api.route import Route
from iotistica.settings import Settings

# Nothing is asked: only the declarations are read.
ROUTES = routes(
    Parts(
        settings=Settings(),
        pool=Mock(),
        streams=Mock(),
        peers=Mock(),
        probe=ops.Probe("test"),
        identity=Mock(),
        presence=Mock(),
        agents=AgentParts.of(Settings(), Mock(), Mock()),
    )
)
DOCUMENT = document(ROUTES)
OPERATIONS = [
    (f"{method.upper()} {path}", operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
PUBLIC = {
    "GET /",
    "GET /health",
    "GET /ready",
    "GET /metrics",
    "GET /api/openapi.json",
    "GET /api/docs",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/auth0-exchange",
    "POST /api/v1/auth/logout",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/bootstrap-admin",
    "POST /api/v1/invites/accept",
    # By a provisioning key, and by a signature.
    "POST /api/v1/agent/register",
    "POST /api/v1/device/:uuid/challenge",
    "POST /api/v1/device/:uuid/key-exchange",
    # By the token of the broker that asks.
    *(
        f"POST /{place}/{question}"
        for place in ("mosquitto-auth", "mqtt-auth")
        for question in ("user", "superuser", "acl")
    ),
}
"""A route that anybody may use stands here, so that none becomes public by mistake."""


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def test_every_route_is_in_the_document() -> None:
    assert len(OPERATIONS) == len(ROUTES)
    names = [operation["operationId"] for _, operation in OPERATIONS]
    assert len(set(names)) == len(names)


def test_only_known_routes_are_public() -> None:
    assert {named(route) for route in ROUTES if route.access.public} == PUBLIC


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_every_route_says_what_it_is(route: Route) -> None:
    contract = route.contract
    assert contract.summary
    assert contract.status in (101, 204) or contract.reply is not None
    names = {level[1:] for level in route.path.split("/") if level.startswith(":")}
    assert set(contract.path) == names


def schemas(operation: dict[str, Any]) -> list[dict[str, Any]]:
    places = [operation.get("requestBody", {}), *operation["responses"].values()]
    return [media for place in places for media in place.get("content", {}).values()]


@pytest.mark.parametrize(("_name", "operation"), OPERATIONS, ids=[name for name, _ in OPERATIONS])
def test_examples_are_what_their_schemas_allow(_name: str, operation: dict[str, Any]) -> None:
    for media in schemas(operation):
        whole = {**media["schema"], "components": DOCUMENT["components"]}
        jsonschema.validate(media["example"], whole, jsonschema.Draft202012Validator)


def test_callers_are_told_apart() -> None:
    audit = DOCUMENT["paths"]["/api/v1/audit"]["get"]
    assert audit["security"] == [{"token": []}, {"apiKey": []}]
    assert "Needs the permission `data:read`." in audit["description"]
    assert DOCUMENT["paths"]["/health"]["get"]["security"] == []
    me = DOCUMENT["paths"]["/api/v1/auth/me"]["get"]
    assert me["security"] == [{"token": []}]
    assert "Any user may use it." in me["description"]
    assert {"200", "401", "403", "429", "431"} <= set(audit["responses"])
    assert "401" not in DOCUMENT["paths"]["/health"]["get"]["responses"]


def test_the_page_shows_every_operation_and_needs_nothing_from_elsewhere() -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.ids: list[str] = []
            self.tags: set[str] = set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.add(tag)
            self.ids += [value or "" for name, value in attrs if name == "id"]
            assert not any(name in ("src", "srcset") for name, _ in attrs)

    reader = Reader()
    reader.feed(page(DOCUMENT, "/api/openapi.json"))
    assert {operation["operationId"] for _, operation in OPERATIONS} <= set(reader.ids)
    assert not reader.tags & {"script", "link", "img", "iframe"}
