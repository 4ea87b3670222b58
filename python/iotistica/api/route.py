"""Routes: declared on their handlers, with everything that the table and the document need.

A handler is a method whose signature says what it takes: `request`, `caller`, `query` (a struct of
the query parameters), `body` (a struct of the JSON body), and any other name a parameter of the
path. What it returns is sent as JSON, a `Reply` as it is, None as 204.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import orjson

from iotistica.api.http import JSON_TYPE, Reply, Request
from iotistica.api.principal import PERMISSIONS, Access
from iotistica.errors import BadRequest

Handler: TypeAlias = Callable[[Request], Awaitable[Reply]]
Take: TypeAlias = Callable[[Request], Any]
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

Limit = Literal["global", "auth", "device-data", "admin", "none"]
"""Classes of rate limits (reference section 5)."""

JSON = "application/json"

_AT = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_MARK = "__routes__"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What goes in and what comes out, for the OpenAPI document."""

    name: str = ""
    summary: str = ""
    description: str = ""
    tag: str = ""
    path: Mapping[str, type] = field(default_factory=dict)
    query: Any = None
    body: Any = None
    body_type: str = JSON
    reply: Any = None
    reply_type: str = JSON
    """Several are separated by commas."""
    status: int = 200
    errors: tuple[int, ...] = ()
    """Beside those that any route may answer."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path, such as `/api/v1/readings/:uuid/latest`."""

    method: str
    path: str
    handler: Handler
    access: Access
    limit: Limit = "global"
    contract: Contract = Contract()


@dataclass(frozen=True, slots=True)
class _Declaration:
    method: str
    path: str
    access: Access
    limit: Limit
    contract: Contract
    """What the signature does not say."""


def route(
    method: str,
    path: str,
    *,
    needs: str | None = None,
    agents: bool = False,
    users: bool = False,
    public: bool = False,
    limit: Limit = "global",
    status: int = 200,
    errors: tuple[int, ...] = (),
    body: Any = None,
    takes: str = JSON,
    reply: Any = None,
    gives: str = JSON,
) -> Callable[[F], F]:
    """Declare a handler's route: `needs` a permission, `agents` by their own key, all
    `users`, or `public`.

    `errors` are statuses beside the common ones. Where a handler reads the body itself (by a
    `reader`) or returns a `Reply`, `body` and `reply` are their models, `takes` and `gives` their
    media types. Raises `ValueError` where nobody or an unknown permission is named.
    """
    if sum((bool(needs or agents), users, public)) != 1:
        raise ValueError(f"{method} {path} must say who may use it, or that it is public")
    if needs is not None and needs not in PERMISSIONS:
        raise ValueError(f"{method} {path} needs {needs!r}, which is no permission")
    access = Access(needs, agents, public, users)

    def declare(function: F) -> F:
        declared = getattr(function, _MARK, ())
        contract = Contract(
            status=status, errors=errors, body=body, body_type=takes, reply=reply, reply_type=gives
        )
        made = _Declaration(method, path, access, limit, contract)
        setattr(function, _MARK, (*declared, made))
        return function

    return declare


def routes_of(part: object) -> list[Route]:
    """Routes of the handlers of an object, in the order of the class."""
    return [
        _bind(getattr(part, name), declared, type(part).__name__)
        for name, function in vars(type(part)).items()
        for declared in getattr(function, _MARK, ())
    ]


def _bind(function: Callable[..., Awaitable[Any]], declared: _Declaration, tag: str) -> Route:
    hints = get_type_hints(function, include_extras=True)
    returned = hints.pop("return", None)
    takes = {name: _take(name, hints[name]) for name in inspect.signature(function).parameters}
    status = declared.contract.status

    async def handler(request: Request) -> Reply:
        result = await function(**{name: take(request) for name, take in takes.items()})
        if isinstance(result, Reply):
            return result
        if result is None:
            return Reply(204)
        return Reply(status, _encode(result), JSON_TYPE)

    special = ("request", "caller", "query", "body")
    summary, _, description = (inspect.getdoc(function) or "").partition("\n")
    contract = replace(
        declared.contract,
        name=f"{tag}_{function.__name__}".lower(),
        summary=summary.rstrip("."),
        description=description.strip(),
        tag=tag,
        path={name: hints[name] for name in takes if name not in special},
        query=hints.get("query"),
        body=hints.get("body", declared.contract.body),
        reply=declared.contract.reply if returned is Reply else returned,
        status=204 if returned is NoneType else status,
    )
    return Route(declared.method, declared.path, handler, declared.access, declared.limit, contract)


def _take(name: str, kind: Any) -> Take:
    match name:
        case "request":
            return lambda request: request
        case "caller":
            return lambda request: request.caller
        case "query":
            return _query(kind)
        case "body":
            return reader(kind)
        case _:
            return lambda request: _converted(request.params[name], kind, name)


def _converted(value: Any, kind: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        rule = str(error).partition(" - at ")[0]
        shown = value[0] if isinstance(value, list) and len(value) == 1 else value
        if choices := _choices(kind):
            rule = f"allowed: {', '.join(choices)}"
        raise BadRequest(f"parameter {name} is {str(shown)[:64]!r}: {_rule(rule)}") from None


def _choices(kind: Any) -> list[str]:
    """All values of a type that lists them; else nothing."""
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)]
    return [choice for one in get_args(kind) for choice in _choices(one)]


def _query(kind: Any) -> Take:
    fields = {one.encode_name: one for one in msgspec.structs.fields(kind)}
    lists = {name for name, one in fields.items() if get_origin(_bare(one.type)) is list}
    allowed = ", ".join(fields)

    def take(request: Request) -> Any:
        values: dict[str, Any] = {}
        for name in request.query:
            if name not in fields:
                raise BadRequest(f"parameter {name[:64]!r} is not known; allowed: {allowed}")
            value = request.listed(name) if name in lists else request.parameter(name)
            if value is not None:
                values[name] = _converted(value, fields[name].type, name)
        try:
            # Again as a whole: what is missing, and rules between the parameters.
            return msgspec.convert(values, kind, from_attributes=True)
        except msgspec.ValidationError as error:
            raise BadRequest(f"the query: {_rule(str(error))}") from None

    return take


def _bare(kind: Any) -> Any:
    """The type within `Annotated[…]`."""
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def reader(kind: Any) -> Take:
    """Reads the JSON body of a request as this model; what it gives raises `BadRequest`."""
    decoder = msgspec.json.Decoder(kind)
    may_lack = NoneType in get_args(kind)

    def take(request: Request) -> Any:
        if may_lack and not request.body:
            return None
        try:
            return decoder.decode(request.body)
        except msgspec.ValidationError as error:
            raise BadRequest(_field_error(str(error), request.body)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        except RecursionError:
            raise BadRequest("the body is nested too deep") from None

    return take


def _field_error(text: str, body: bytes) -> str:
    """Field, value and rule, of msgspec's rule and path."""
    at = _AT.search(text)
    rule = _rule(text[: at.start()] if at else text)
    if at is None:
        return f"the body: {rule}"
    place = at[1].lstrip(".")
    try:
        found = orjson.loads(body)
        # msgspec does not tell which member of a mapping: `[...]`.
        for name, index in _STEP.findall(at[1].removesuffix("[...]")):
            found = found[name] if name else found[int(index)]
    except (LookupError, TypeError, ValueError):
        return f"field {place}: {rule}"
    return f"field {place} is {_shown(found)}: {rule}"


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 64 else text[:64] + "…"


def _rule(text: str) -> str:
    return text.replace("`", "").replace("Expected", "expected", 1)
