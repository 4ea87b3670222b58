"""The OpenAPI 3.1 document, made of the contracts that the routes themselves keep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any, get_args

import msgspec

from iotistica._native import __version__
from iotistica.api.example import example
from iotistica.api.route import Contract, Route

_REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r":(\w+)")
_EMPTY = (101, 204)
_NOT_MODIFIED = 304

_ERRORS = {
    _NOT_MODIFIED: "What the caller knows is still right (`If-None-Match`)",
    400: "A parameter, a field or the body is wrong; the message names it, its value and the rule",
    401: "No credentials, or none that are valid",
    403: "The caller may not do this",
    404: "There is no such thing within the caller's tenant",
    406: "None of the media types that the caller accepts; the message lists them",
    409: "Something stands against it, such as a name that is taken",
    412: "Somebody else changed it since the caller looked (`If-Match`)",
    408: "The request came too slowly",
    413: "The body is over the limit",
    414: "The address is too long",
    415: "The body is encoded in a way that is not known",
    426: "The route speaks WebSocket",
    431: "The head of the request is over its limits",
    500: "Nobody can decide now",
    501: "A part that is optional is not installed on the server",
    504: "No answer came in time",
    429: "A rate limit is reached; `Retry-After` says when to try again",
    503: "A server behind the API cannot be reached now",
}

_DOOR = (400, 408, 413, 414, 415, 429, 431, 503, 504)
"""What the front door may answer before any route is asked (docs/front-door.md)."""

_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Access token of a user, from `POST /api/v1/auth/login`.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "Key of a service, from `POST /api/v1/auth/api-keys`.",
    },
    "deviceKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Device-API-Key",
        "description": "Key that an agent gave at its registration.",
    },
}


class Problem(msgspec.Struct):
    """Every error."""

    error: str
    """What kind of error, such as `Bad request`."""
    message: str
    """One sentence for a person."""


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document of these routes."""
    kinds = {id(kind): kind for route in routes for kind in _kinds(route.contract)}
    schemas, components = msgspec.json.schema_components(
        [Problem, *kinds.values()], ref_template=_REFERENCE
    )
    known = dict(zip([id(Problem), *kinds], schemas, strict=True))
    queries = {
        id(route.contract.query): components[_name(known[id(route.contract.query)])]
        for route in routes
        if route.contract.query is not None
    }
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        parameters = [
            *_path(route.contract, known),
            *_query(queries.get(id(route.contract.query), {})),
        ]
        operation = _operation(route, known, parameters)
        _give_examples(operation, components)
        paths.setdefault(path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Iotistica Cloud API",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name} for name in dict.fromkeys(r.contract.tag for r in routes)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }


def _kinds(contract: Contract) -> Iterator[Any]:
    yield from contract.path.values()
    yield from (k for k in (contract.query, contract.body, contract.reply) if k is not None)


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _operation(
    route: Route, schemas: dict[int, Any], parameters: list[dict[str, Any]]
) -> dict[str, Any]:
    contract = route.contract
    operation: dict[str, Any] = {
        "operationId": contract.name,
        "tags": [contract.tag],
        "summary": contract.summary,
        "description": _description(route),
        "security": _security(route),
        "responses": _responses(route, schemas),
    }
    if parameters:
        operation["parameters"] = parameters
    if contract.body is not None:
        content = {contract.body_type: {"schema": schemas[id(contract.body)]}}
        may_lack = NoneType in get_args(contract.body)
        operation["requestBody"] = {"required": not may_lack, "content": content}
    return operation


def _give_examples(operation: dict[str, Any], components: dict[str, Any]) -> None:
    """One for the body and one for the answer."""
    places = [operation.get("requestBody", {}), *operation["responses"].values()]
    for place in places:
        for media in place.get("content", {}).values():
            if media["schema"]:
                media["example"] = example(media["schema"], components)


def _description(route: Route) -> str:
    needs = route.access.permission
    parts = [
        route.contract.description,
        f"Needs the permission `{needs}`." if needs else "",
        "An agent may use it by its own key." if route.access.agents else "",
        "Any user may use it." if route.access.users else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _security(route: Route) -> list[dict[str, list[str]]]:
    names = ["token", "apiKey"] if route.access.permission else []
    if route.access.users:
        names.append("token")
    if route.access.agents:
        names.append("deviceKey")
    return [{name: []} for name in names]


def _path(contract: Contract, schemas: dict[int, Any]) -> Iterator[dict[str, Any]]:
    for name, kind in contract.path.items():
        yield {"name": name, "in": "path", "required": True, "schema": schemas[id(kind)]}


def _query(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Parameters of a query, of the schema of its struct."""
    for name, schema in model.get("properties", {}).items():
        yield {
            "name": name,
            "in": "query",
            "required": name in model.get("required", ()),
            "schema": schema,
        }


def _responses(route: Route, schemas: dict[int, Any]) -> dict[str, Any]:
    contract = route.contract
    success: dict[str, Any] = {"description": contract.summary}
    if contract.status not in _EMPTY:
        schema = schemas[id(contract.reply)] if contract.reply is not None else {}
        kinds = contract.reply_type.split(", ")
        success["content"] = {kind: {"schema": schema} for kind in kinds}
    problem = {"application/json": {"schema": schemas[id(Problem)]}}
    return {
        str(contract.status): success,
        **{
            str(status): {
                "description": _ERRORS[status],
                **({} if status == _NOT_MODIFIED else {"content": problem}),
            }
            for status in _statuses(route)
        },
    }


def _statuses(route: Route) -> list[int]:
    """What may come instead of success."""
    contract = route.contract
    found = {*_DOOR, *contract.errors}
    if contract.path:
        found.add(404)
    if not route.access.public:
        found |= {401, 403}
    return sorted(found)
