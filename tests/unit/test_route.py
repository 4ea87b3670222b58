"""Routes declared on handlers: what they take, what they refuse, and who may pass."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
import orjson
import pytest
from msgspec import Meta

from iotistica.api.http import Reply, Request
from iotistica.api.principal import PERMISSIONS, ROLES, Access, Principal
from iotistica.api.route import Route, route, routes_of
from iotistica.api.table import Table
from iotistica.errors import Denied

AGENT = "7b0c7c4e-0b0e-4d4f-9a53-8d0d54a7a2f1"


class Job(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    job_name: Annotated[str, Meta(min_length=1, max_length=20)]
    steps: list[dict[str, int]] = []
    timeout_minutes: Annotated[int, Meta(ge=1, le=60)] = 60


class Page(msgspec.Struct, rename="camel"):
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    online: bool | None = None
    tags: list[str] = []


class Created(msgspec.Struct):
    id: int
    name: str


class Part:
    @route("GET", "/public", public=True)
    async def public(self) -> Reply:
        return Reply(200, b"hello")

    @route("POST", "/jobs", needs="device:control", status=201)
    async def create(self, caller: Principal, body: Job) -> Created:
        """Make a job.

        More about it.
        """
        return Created(body.timeout_minutes, f"{caller.name} {body.job_name}")

    @route("GET", "/pages", needs="data:read")
    async def pages(self, query: Page) -> Page:
        return query

    @route("GET", "/agents/:uuid", agents=True, needs="device:read")
    async def agent(self, uuid: UUID, caller: Principal) -> dict[str, str]:
        return {"uuid": str(uuid), "kind": caller.kind}

    @route("DELETE", "/agents/:uuid", agents=True)
    async def remove(self, uuid: UUID) -> None:
        assert str(uuid) == AGENT


class Names:
    """Credentials that say who calls: `kind:role`."""

    async def identify(self, request: Request, _route: Route) -> Principal:
        kind, _, rest = request.headers.get("authorization", "").partition(":")
        if kind == "agent":
            return Principal(kind="agent", tenant="t", id=rest)
        if kind == "user":
            return Principal(
                kind="user", tenant="t", id="1", name="ada", role=rest, permissions=ROLES[rest]
            )
        raise Denied("who are you")


TABLE = Table(routes_of(Part()), Names())


async def ask(
    method: str, path: str, who: str = "user:owner", body: object = None, **query: str
) -> tuple[int, object]:
    request = Request(
        method=method,
        path=path,
        headers={"authorization": who},
        query={name: value.split("&") for name, value in query.items()},
        body=body if isinstance(body, bytes) else orjson.dumps(body),
    )
    reply = await TABLE.answer(request)
    is_json = reply.headers.get("content-type", "").startswith("application/json")
    return reply.status, orjson.loads(reply.body) if is_json else reply.body


async def test_what_a_handler_returns_is_sent() -> None:
    assert await ask("GET", "/public") == (200, b"hello")
    made = await ask("POST", "/jobs", body={"jobName": "x", "timeoutMinutes": 5})
    assert made == (201, {"id": 5, "name": "ada x"})
    assert await ask("DELETE", f"/agents/{AGENT}", f"agent:{AGENT}") == (204, b"")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"jobName": ""}, 'field jobName is "": expected str of length >= 1'),
        ({"jobName": "x", "timeoutMinutes": 61}, "field timeoutMinutes is 61: expected int <= 60"),
        (
            {"jobName": "x", "steps": [{}, {"a": "b"}]},
            'field steps[1][...] is {"a":"b"}: expected int, got str',
        ),
        ({}, "the body: Object missing required field jobName"),
        ({"jobName": "x", "z": 1}, "the body: Object contains unknown field z"),
        ([], "the body: expected object, got array"),
        (b"{", "the body is not JSON: Input data was truncated"),
        (b'{"jobName": "\xff"}', "the body is not JSON: "),
        (b"", "the body is not JSON: Input data was truncated"),
    ],
)
async def test_a_wrong_body_is_named(body: object, message: str) -> None:
    status, answer = await ask("POST", "/jobs", body=body)
    assert status == 400
    assert isinstance(answer, dict)
    assert answer["message"].startswith(message)


async def test_query_parameters_become_what_they_should() -> None:
    assert await ask("GET", "/pages") == (200, {"limit": 10, "online": None, "tags": []})
    given = {"limit": "5", "online": "true", "tags": "a,b%2Cc&d"}
    assert await ask("GET", "/pages", **given) == (
        200,
        {"limit": 5, "online": True, "tags": ["a", "b,c", "d"]},
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("limit", "101", "parameter limit is '101': expected int <= 100"),
        ("limit", "x", "parameter limit is 'x': expected int, got str"),
        ("limit", "1&2", "parameter limit is given 2 times; once is allowed"),
        ("online", "maybe", "parameter online is 'maybe': expected bool | null, got str"),
        ("limi", "1", "parameter 'limi' is not known; allowed: limit, online, tags"),
    ],
)
async def test_a_wrong_query_is_named(name: str, value: str, message: str) -> None:
    status, answer = await ask("GET", "/pages", **{name: value})
    assert (status, answer) == (400, {"error": "Bad request", "message": message})


async def test_a_wrong_path_parameter_is_named() -> None:
    status, answer = await ask("GET", "/agents/x")
    assert isinstance(answer, dict)
    assert (status, answer["message"]) == (400, "parameter uuid is 'x': Invalid UUID")


async def test_who_may_not_is_told_why() -> None:
    assert (await ask("POST", "/jobs", "nobody"))[0] == 401
    for who, what in (
        ("user:viewer", "role 'viewer' lacks the permission device:control"),
        (f"agent:{AGENT}", "the key of an agent lacks the permission device:control"),
    ):
        status, answer = await ask("POST", "/jobs", who, {"jobName": "x"})
        assert (status, answer) == (403, {"error": "Forbidden", "message": what})


async def test_an_agent_may_use_what_is_its_own() -> None:
    path = f"/agents/{AGENT.upper()}"
    assert await ask("GET", path, f"agent:{AGENT}") == (200, {"uuid": AGENT, "kind": "agent"})
    assert (await ask("GET", path, "user:viewer"))[0] == 200
    other = AGENT.replace("7", "8")
    status, answer = await ask("GET", path, f"agent:{other}")
    assert (status, answer) == (
        403,
        {"error": "Forbidden", "message": "the key belongs to another agent"},
    )
    status, answer = await ask("DELETE", path)
    assert isinstance(answer, dict)
    assert (status, answer["message"]) == (403, "only an agent may do this, by its own key")


def test_a_route_for_nobody_cannot_be_declared() -> None:
    with pytest.raises(ValueError, match="must say who may use it"):
        route("GET", "/x")
    with pytest.raises(ValueError, match="must say who may use it"):
        route("GET", "/x", public=True, agents=True)
    with pytest.raises(ValueError, match="which is no permission"):
        route("GET", "/x", needs="device:fly")


def test_a_route_cannot_be_declared_twice() -> None:
    routes = routes_of(Part())
    with pytest.raises(ValueError, match="GET /public is declared twice"):
        Table([*routes, routes[0]], Names())


def test_the_contract_is_what_the_handler_says() -> None:
    create = routes_of(Part())[1]
    assert create.access == Access("device:control")
    contract = create.contract
    assert (contract.summary, contract.description) == ("Make a job", "More about it.")
    assert (contract.body, contract.reply, contract.status) == (Job, Created, 201)
    assert routes_of(Part())[4].contract.status == 204


def test_each_role_may_do_what_those_before_it_may() -> None:
    before: frozenset[str] = frozenset()
    for permissions in ROLES.values():
        assert before < permissions <= PERMISSIONS
        before = permissions
