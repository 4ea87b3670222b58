"""The table of routes, without a web server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from iotistica.api import window
from iotistica.api.auth import Tokens
from iotistica.api.http import Reply, Request, json_reply
from iotistica.api.principal import Access
from iotistica.api.route import Handler, Route
from iotistica.api.table import Table
from iotistica.errors import BadRequest, Denied, Forbidden, NotFound, StoreUnavailable

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


async def echo(request: Request) -> Reply:
    return json_reply(dict(request.params))


def failing(error: Exception) -> Handler:
    async def handler(_: Request) -> Reply:
        raise error

    return handler


PUBLIC = Access(public=True)
TABLE = Table(
    [
        Route("GET", "/", echo, PUBLIC),
        Route("GET", "/things/:id", echo, PUBLIC),
        Route("PUT", "/things/:id", echo, PUBLIC),
        Route("GET", "/things/special", echo, PUBLIC),
        Route("GET", "/things/:id/parts/:part", echo, PUBLIC),
        Route("GET", "/bad", failing(BadRequest("b")), PUBLIC),
        Route("GET", "/denied", failing(Denied("d")), PUBLIC),
        Route("GET", "/forbidden", failing(Forbidden("f")), PUBLIC),
        Route("GET", "/missing", failing(NotFound("m")), PUBLIC),
        Route("GET", "/away", failing(StoreUnavailable("secret address")), PUBLIC),
        Route("GET", "/bug", failing(ZeroDivisionError("secret")), PUBLIC),
    ],
    Tokens(b""),
)


async def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, dict, Reply]:
    reply = await TABLE.answer(Request(method=method, path=path, headers=headers))
    return reply.status, orjson.loads(reply.body), reply


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/", {}),
        ("/things/a", {"id": "a"}),
        ("/things/a/", {"id": "a"}),
        ("/things/a%2Fb%20c", {"id": "a/b c"}),
        ("/things/special", {}),
        ("/things/a/parts/b", {"id": "a", "part": "b"}),
    ],
)
async def test_paths_are_found_and_parameters_decoded(path: str, params: dict[str, str]) -> None:
    assert (await ask(path))[:2] == (200, params)


@pytest.mark.parametrize("path", ["/nothing", "/things", "/things/a/parts", "/things/a/x", "//x"])
async def test_other_paths_are_not_found(path: str) -> None:
    status, body, _ = await ask(path, "POST")
    assert (status, body["error"]) == (404, "Not found")
    assert body["message"] == f"Route POST {path} not found"
    assert body["hint"] == "The base of the API is /api/v1"


async def test_other_methods_are_not_allowed_and_the_allowed_are_named() -> None:
    status, body, reply = await ask("/things/a", "DELETE")
    assert (status, body["error"]) == (405, "Method not allowed")
    assert reply.headers["allow"] == "GET, PUT"


async def test_head_is_answered_as_get() -> None:
    assert (await ask("/things/a", "HEAD"))[0] == 200


@pytest.mark.parametrize(
    ("path", "status", "error", "message"),
    [
        ("/bad", 400, "Bad request", "b"),
        ("/denied", 401, "Unauthorized", "d"),
        ("/forbidden", 403, "Forbidden", "f"),
        ("/missing", 404, "Not found", "m"),
        (
            "/away",
            503,
            "Service unavailable",
            "A server behind the API cannot be reached; try again",
        ),
        (
            "/bug",
            500,
            "Internal server error",
            "The error was logged under this request id",
        ),
    ],
)
async def test_errors_become_answers(path: str, status: int, error: str, message: str) -> None:
    given = await ask(path, **{"x-request-id": "id-1"})
    assert given[0] == status
    assert (given[1]["error"], given[1]["message"]) == (error, message)
    assert b"secret" not in given[2].body
    assert given[2].headers["x-request-id"] == "id-1"
    assert given[1].get("requestId") == ("id-1" if status >= 500 else None)


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "a\r\nset-cookie: x", "ä"])
async def test_a_request_id_that_is_no_word_is_replaced(bad: str) -> None:
    _, _, reply = await ask("/", **{"x-request-id": bad})
    assert len(reply.headers["x-request-id"]) == 16


def test_query_parameters_are_decoded_once() -> None:
    request = Request(method="GET", path="/", query={"m": ["a%2Cb,c%20d", "e+f", ""], "n": [""]})
    assert request.listed("m") == ["a,b", "c d", "e f"]
    assert request.listed("x") == []
    assert request.parameter("n") is None
    with pytest.raises(BadRequest, match="parameter m is given 2 times"):
        request.parameter("m")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456Z", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        # As it comes from a client that does not encode the plus.
        ("2026-01-31T12:00:00 0200", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31 12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_times_are_iso_8601(text: str, moment: datetime) -> None:
    assert window.between(text, None, NOW) == (moment, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("90s-ago", NOW - timedelta(seconds=90)),
        ("7d-ago", NOW - timedelta(days=7)),
        ("2w-ago", NOW - timedelta(weeks=2)),
        # Within bounds that leave room to reckon.
        ("0001-01-01T00:00+10:00", datetime(1900, 1, 1, tzinfo=UTC)),
        ("9999-01-01", datetime(2200, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_may_be_relative_and_stay_within_bounds(text: str, moment: datetime) -> None:
    assert window.moment("start", text, NOW) == moment


@pytest.mark.parametrize("text", ["x", "1700000000000", "2026-13-01", "7-ago", "999999w-ago"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"parameter end is '.*'; allowed is an ISO 8601 time"):
        window.between(None, text, NOW)


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"parameter start \(2026-02-01.*\) is after end"):
        window.between("2026-02-01", "2026-01-01", NOW)
