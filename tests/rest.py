"""The REST API without a web server: requests go to the table of the whole application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson

from iotistica import ops
from iotistica.api.agent_parts import AgentParts
from iotistica.api.application import Parts, routes
from iotistica.api.auth import Tokens, issue_token
from iotistica.api.http import Request, Stream
from iotistica.api.identity import Identity
from iotistica.api.peers import Peers
from iotistica.api.presence import presence_of
from iotistica.api.table import Table, failure
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams

KEY = "k" * 64
"""Signs the tokens of these tests."""


@dataclass(frozen=True)
class Answer:
    """What came back; `body` is decoded where it is JSON."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Rest:
    """Asks as an operator of `tenant`, unless told otherwise."""

    def __init__(self, table: Table, tenant: str, identity: Identity) -> None:
        self.table = table
        self.tenant = tenant
        self.identity = identity

    async def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        role: str | None = "owner",
        tenant: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`target` is path and query; `key` a device key instead of a token; no role, no token."""
        path, _, query = target.partition("?")
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if key is not None:
            given["x-device-api-key"] = key
        elif role is not None and "authorization" not in given:
            token = issue_token(KEY, tenant=tenant or self.tenant, role=role)
            given["authorization"] = f"Bearer {token}"
        content = (
            body if isinstance(body, bytes) else orjson.dumps(body) if body is not None else b""
        )
        reply = await self.table.answer(
            Request(
                method=method,
                path=path,
                query={
                    # As Robyn gives them: still encoded.
                    name: [
                        item.partition("=")[2]
                        for item in query.split("&")
                        if item.partition("=")[0] == name
                    ]
                    for name in parse_qs(query, keep_blank_values=True)
                },
                headers={"x-forwarded-for": "192.0.2.1", **given},
                body=content,
            )
        )
        if isinstance(reply, Stream):
            pieces: list[bytes] = []

            async def write(piece: bytes) -> None:
                pieces.append(piece)

            try:
                await reply.send(write)
            except Exception as error:
                # Nothing has been sent yet where the real one answers it.
                assert not pieces
                reply = failure(error, Request(method=method, path=path))
            else:
                return Answer(reply.status, b"".join(pieces), reply.headers)
        is_json = reply.headers.get("content-type", "").startswith("application/json")
        return Answer(
            reply.status, orjson.loads(reply.body) if is_json else reply.body, reply.headers
        )


@asynccontextmanager
async def open_rest(
    pool: Pool, streams: Streams, tenant: str, **settings: Any
) -> AsyncIterator[Rest]:
    """The whole REST API, for a tenant that exists."""
    await AgentStore(pool).ensure_tenant(tenant)
    loaded = Settings.load(**{"jwt_secret": KEY, "password_memory_kib": 64, **settings})
    agents = AgentParts.of(loaded, pool, streams)
    identity = Identity(loaded, pool, Tokens(KEY.encode()), agents.device_keys)
    parts = Parts(
        settings=loaded,
        pool=pool,
        streams=streams,
        peers=Peers("test", {}),
        probe=ops.Probe("test"),
        agents=agents,
        identity=identity,
        presence=presence_of(loaded, pool, streams),
    )
    identity.start()
    # Without the gate: its limits have tests of their own.
    table = Table(routes(parts), identity.callers, heard=parts.presence.seen)
    yield Rest(table, tenant, identity)
    await identity.close()
    await parts.peers.close()
