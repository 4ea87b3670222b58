"""Requests and answers: credentials, renewed where they expire, retries, pages, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
import orjson
from yarl import URL

from iotistica.api.models.identity import ChangeBody, LoggedIn, LoginBody, RefreshBody
from iotistica.errors import (
    BadRequest,
    Conflict,
    Denied,
    Forbidden,
    IotisticaError,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
    TooLarge,
    TooMany,
    TooSlow,
)

T = TypeVar("T")

_AUTH = "/api/v1/auth"
_MOST_WAIT_S = 60.0
_SILENT_S = 300.0
"""Of a stream: a large query may have to look for long."""
_TOO_SLOW = "Query timeout"
"""The front door has a 504 of its own, which may pass when it is tried again."""
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Done twice, these do what they do once (RFC 9110 section 9.2.2)."""
_ERRORS: Mapping[int, type[IotisticaError]] = {
    400: BadRequest,
    401: Denied,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: TooLarge,
    503: StoreUnavailable,
    504: StoreUnavailable,
}


@dataclass(frozen=True, slots=True)
class Login:
    """A user; the tenant is needed only where the name is known in several."""

    username: str
    password: str
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class _Request:
    """One request, before it is encoded."""

    method: str
    path: str
    query: msgspec.Struct | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Transport:
    """One session with one API."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        api_key: str | None = None,
        login: Login | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
    ) -> None:
        """With one credential, or none for what is public. Raises `ValueError` for more.

        `retries`: how often a request is repeated that a limit or a server that is away turned
        down, after the time that the API says.
        """
        if sum(one is not None for one in (token, api_key, login)) > 1:
            raise ValueError("give one of token, api_key and login")
        self._url = url.rstrip("/")
        self._headers = {} if api_key is None else {"x-api-key": api_key}
        self._token = token
        self._login = login
        self._refresh: str | None = None
        self._renewing = asyncio.Lock()
        self._retries = retries
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open the session, and log in where there is a login. Raises `Denied`."""
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        if self._login is None:
            return
        try:
            await self._log_in(self._login)
        except BaseException:
            await self._session.close()
            raise

    async def close(self) -> None:
        """End the session; a login ends with it."""
        if self._session is None:
            return
        try:
            if self._refresh is not None:
                body = RefreshBody(self._refresh)
                await self._send(_Request("POST", f"{_AUTH}/logout", body=body))
        finally:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        query: msgspec.Struct | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """The decoded answer. Raises the errors of the API, `StoreUnavailable` where it is away.

        `path` is encoded by `segment` where it holds what somebody chose.
        """
        request = _Request(method, path, query, body, headers or {})
        for attempt in range(self._retries + 1):
            try:
                answer = await self._authorized(request)
            except (TooMany, StoreUnavailable) as error:
                after_s = _pause_s(error, method, attempt)
                if after_s is None or attempt == self._retries:
                    raise
                await asyncio.sleep(after_s)
            else:
                return self._decoded(answer, kind)
        raise AssertionError("the last attempt returns or raises")

    async def pages(
        self, path: str, kind: type[T], query: msgspec.Struct | None
    ) -> AsyncIterator[T]:
        """Page after page, by the cursor of each."""
        cursor: str | None = None
        while True:
            page = await self.call("GET", path, kind, query=_at(query, cursor))
            yield page
            shown = page["cursor"] if isinstance(page, dict) else getattr(page, "cursor", None)
            cursor = shown if isinstance(shown, str) else None
            if cursor is None:
                return

    async def stream(
        self, path: str, *, query: msgspec.Struct | None = None
    ) -> AsyncIterator[bytes]:
        """An answer of any size, in pieces. Never repeated.

        Raises the errors of the API; `StoreUnavailable` where it breaks off.
        """
        request = _Request("GET", path, query)
        token = self._token
        try:
            async with self._begun(request) as reply:
                async for piece in reply.content.iter_any():
                    yield piece
            return
        except Denied:
            if self._login is None:
                raise
        await self._renew(token)
        async with self._begun(request) as reply:
            async for piece in reply.content.iter_any():
                yield piece

    @asynccontextmanager
    async def _begun(self, request: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        session, url, headers = self._prepared(request)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=_SILENT_S)
        try:
            async with session.get(
                url, headers=headers, allow_redirects=False, timeout=timeout
            ) as reply:
                if reply.status >= 300:
                    content = await reply.read()
                    raise _error(reply.status, content, reply.headers.get("retry-after"))
                yield reply
        except aiohttp.ClientPayloadError:
            raise StoreUnavailable(f"the API at {self._url} broke the transfer off") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            what = str(error) or type(error).__name__
            raise StoreUnavailable(f"the API at {self._url} does not answer: {what}") from None

    async def change_password(self, current: str, new: str) -> None:
        """Replace the password of the user; the session goes on. Raises `Denied`."""
        body = ChangeBody(current_password=current, new_password=new)
        path = f"{_AUTH}/change-password"
        self._keep(await self._authorized(_Request("POST", path, body=body)))
        if self._login is not None:
            self._login = replace(self._login, password=new)

    def _decoded(self, answer: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer or b"null", type=kind)
        except msgspec.DecodeError as error:
            raise IotisticaError(
                f"{self._url} answers what this client does not know: {error}"
            ) from None

    async def _authorized(self, request: _Request) -> bytes:
        token = self._token
        try:
            return await self._send(request)
        except Denied:
            if self._login is None:
                raise
        await self._renew(token)
        return await self._send(request)

    async def _renew(self, used: str | None) -> None:
        """A new token, once for all who were denied with the same."""
        async with self._renewing:
            if self._token != used or self._login is None:
                return
            try:
                if self._refresh is None:
                    raise Denied("there is no refresh token")
                body = RefreshBody(self._refresh)
                self._keep(await self._send(_Request("POST", f"{_AUTH}/refresh", body=body)))
            except Denied:
                await self._log_in(self._login)

    async def _log_in(self, login: Login) -> None:
        body = LoginBody(username=login.username, password=login.password, tenant_id=login.tenant)
        self._keep(await self._send(_Request("POST", f"{_AUTH}/login", body=body)))

    def _keep(self, answer: bytes) -> None:
        given = self._decoded(answer, LoggedIn)
        self._token, self._refresh = given.access_token, given.refresh_token

    def _prepared(self, request: _Request) -> tuple[aiohttp.ClientSession, URL, dict[str, str]]:
        if self._session is None:
            raise RuntimeError("the client is not open: use `async with`")
        url = URL(self._url + request.path + _query(request.query), encoded=True)
        headers = {**self._headers, **request.headers}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        return self._session, url, headers

    async def _send(self, request: _Request) -> bytes:
        session, url, headers = self._prepared(request)
        data = None
        if request.body is not None:
            data, headers["content-type"] = msgspec.json.encode(request.body), "application/json"
        try:
            # Elsewhere is no place for our credentials.
            async with session.request(
                request.method, url, data=data, headers=headers, allow_redirects=False
            ) as reply:
                content = await reply.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            what = str(error) or type(error).__name__
            raise StoreUnavailable(f"the API at {self._url} does not answer: {what}") from None
        if reply.status >= 300:
            raise _error(reply.status, content, reply.headers.get("retry-after"))
        return content


def segment(value: object) -> str:
    """One level of a path."""
    return quote(str(value), safe="")


def _query(query: msgspec.Struct | None) -> str:
    """What is not as it is anyway; items of a list separated by commas."""
    if query is None:
        return ""
    standard = {
        one.encode_name: one.default
        for one in msgspec.structs.fields(query)
        if one.default is not msgspec.NODEFAULT
    }
    parts = []
    for name, value in msgspec.to_builtins(query).items():
        if value is None or value == [] or (name in standard and value == standard[name]):
            continue
        items = value if isinstance(value, list) else [value]
        parts.append(f"{quote(name)}={','.join(_text(item) for item in items)}")
    return f"?{'&'.join(parts)}" if parts else ""


def _text(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return quote(text, safe="")


def _at(query: msgspec.Struct | None, cursor: str | None) -> msgspec.Struct | None:
    if query is None or cursor is None:
        return query
    return msgspec.structs.replace(query, cursor=cursor)


def _pause_s(error: TooMany | StoreUnavailable, method: str, attempt: int) -> float | None:
    """How long to wait before the request is repeated; None where it must not be."""
    if isinstance(error, TooMany):
        return float(error.after_s) if error.after_s <= _MOST_WAIT_S else None
    return 0.5 * 2**attempt if method in _REPEATABLE else None


def _error(status: int, content: bytes, retry_after: str | None) -> IotisticaError:
    try:
        body = orjson.loads(content)
        kind, message = body["error"], str(body["message"])
    except (ValueError, LookupError, TypeError):
        kind, message = "", f"the API answered {status}"
    if status == 504 and kind == _TOO_SLOW:
        # Not `StoreUnavailable`: again, it would take as long again.
        return TooSlow(message)
    if status == 429:
        after = retry_after if retry_after is not None and retry_after.isdigit() else "1"
        return TooMany(message, after_s=int(after))
    return _ERRORS.get(status, IotisticaError)(message)
