"""Exports through the whole Cloud API: the door, a web process, and the command."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from tests.cloud_api import AGENT, FOREIGN, Api, token
from tests.shell import Shell

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = "x" * 1500
WINDOW = "start=2024-10-04T00:00:00Z&end=2024-10-05T00:00:00Z"
MUCH = "start=2024-10-05T00:00:00Z&end=2024-10-06T00:00:00Z"
ROWS = 40_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(api: Api) -> AsyncIterator[asyncpg.Connection]:
    """With 60 MB of readings on the second day: more than sockets and pipes hold."""
    connection = await asyncpg.connect(api.environment["DATABASE_URL"])
    await connection.execute(
        """
        INSERT INTO readings (time, agent_uuid, metric_name, value, protocol, unit)
        SELECT timestamptz '2024-10-05 00:00Z' + n * interval '1 s', $1, 'much', n, 'm', $2
        FROM generate_series(0, $3 - 1) AS n
        """,
        *(AGENT, LONG, ROWS),
    )
    yield connection
    await connection.close()


@pytest.fixture
def shell(api: Api, tmp_path: Path) -> Shell:
    where = {"IOTISTICA_API_URL": api.url, "XDG_DATA_HOME": str(tmp_path / "home")}
    return Shell({**where, "IOTISTICA_API_TOKEN": token()})


async def under_way(database: asyncpg.Connection) -> int:
    return await database.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE query LIKE 'COPY (%' AND state = 'active' AND datname = current_database()"
    )


async def until_ended(database: asyncpg.Connection) -> None:
    async with asyncio.timeout(20):
        while await under_way(database):
            await asyncio.sleep(0.02)


def request(api: Api, target: str, version: str = "1.1") -> bytes:
    lines = (f"GET {target} HTTP/{version}", "Host: x", f"Authorization: Bearer {token()}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def opened(api: Api, target: str) -> socket.socket:
    """A client that asked and reads nothing."""
    client = socket.create_connection(("127.0.0.1", urlsplit(api.url).port or 0), 10)
    client.sendall(request(api, target))
    return client


async def test_an_export_comes_through_the_door(api: Api, database: asyncpg.Connection) -> None:
    status, body, headers = await api.get(f"/api/v1/readings/export?{MUCH}&columns=value")
    assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert headers["transfer-encoding"] == "chunked"
    assert headers["x-request-id"]
    assert body.split() == [b"value", *(str(n).encode() for n in range(ROWS))]
    status, body, _ = await api.get(f"/api/v1/readings/{FOREIGN}/export?{WINDOW}")
    assert (status, body["error"]) == (404, "Not found")
    assert (await api.get(f"/api/v1/readings/export?{WINDOW}", as_tenant=None))[0] == 401
    status, body, _ = await api.get(f"/api/v1/readings/export?{WINDOW}", method="HEAD")
    assert (status, body) == (200, b"")
    assert (await api.get(f"/api/v1/readings/export?{WINDOW}", method="POST"))[0] == 405


async def test_a_client_that_goes_ends_its_query(api: Api, database: asyncpg.Connection) -> None:
    client = opened(api, f"/api/v1/readings/export?{MUCH}")
    async with asyncio.timeout(20):
        while not await under_way(database):
            await asyncio.sleep(0.02)
    client.close()
    await until_ended(database)


async def test_a_client_that_reads_nothing_stops_the_query(
    api: Api, database: asyncpg.Connection
) -> None:
    client = opened(api, f"/api/v1/readings/export?{MUCH}&columns=unit")
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY (%'"
        " AND wait_event = 'ClientWrite' AND datname = current_database()"
    )
    async with asyncio.timeout(20):
        while not await database.fetchval(waits):
            await asyncio.sleep(0.02)
    # It stands still until it is read; then all of it is there.
    received = await asyncio.to_thread(_read_to_end, client)
    assert received.count(LONG.encode()) == ROWS


def _read_to_end(client: socket.socket) -> bytes:
    parts: list[bytes] = []
    with client:
        while not (parts and parts[-1].endswith(b"0\r\n\r\n")):
            parts.append(client.recv(1 << 20))
            assert parts[-1]
    # Without the lines that say how long chunks are.
    return b"".join(_chunks(b"".join(parts).partition(b"\r\n\r\n")[2]))


def _chunks(body: bytes) -> Iterator[bytes]:
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        if not size:
            return
        yield body[end + 2 : end + 2 + size]
        at = end + 4 + size


async def test_what_breaks_off_does_not_look_whole(api: Api, database: asyncpg.Connection) -> None:
    url = f"{api.url}/api/v1/readings/export?{MUCH}"
    headers = {"authorization": f"Bearer {token()}"}
    async with api.client.get(url, headers=headers) as reply:
        assert reply.status == 200
        begun = await reply.content.readexactly(1000)
        assert begun.startswith(b"time,agent_uuid,")
        ended = await database.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE query LIKE 'COPY (%' AND datname = current_database()"
        )
        assert ended == 1
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.content.read()


async def test_the_command_writes_whole_files(
    api: Api, database: asyncpg.Connection, shell: Shell, tmp_path: Path
) -> None:
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    window = ("--from", "2024-10-04", "--to", "2024-10-05T00:00:00Z")
    done = await shell("export", *window, "--agent", AGENT, "-o", str(path), "--json")
    assert (done.code, done.errors) == (0, "")
    (summary,) = done.documents
    assert (summary["format"], summary["bytes"]) == ("parquet", path.stat().st_size)
    assert parquet.read_table(path).num_rows == 3000 + (
        await database.fetchval(
            "SELECT count(*) FROM readings WHERE agent_uuid = $1 AND time = '2024-10-05 00:00Z'",
            AGENT,
        )
    )
    done = await shell("export", *window, "--metric", "plain", "--columns", "value")
    assert done.code == 0
    assert done.output.split() == ["value", *(str(n) for n in range(1500))]
    for code, arguments in (
        (2, ("--from", "yesterday")),
        (2, (*window, "--resolution", "5m")),
        (1, (*window, "--agent", FOREIGN)),
    ):
        done = await shell("export", *arguments, "-o", str(tmp_path / "b.csv"))
        assert done.code == code, done.errors
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["a.parquet"]


async def test_nothing_is_left_of_an_interrupted_command(
    api: Api, database: asyncpg.Connection, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    environment = {**os.environ, "IOTISTICA_API_URL": api.url, "IOTISTICA_API_TOKEN": token()}
    window = ("--from", "2024-10-05", "--to", "2024-10-06")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iotistica", "export", *window, "-o", str(place / "a.csv")),
        env=environment,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(30):
        while not any(one.stat().st_size for one in place.iterdir()):
            assert process.returncode is None
            await asyncio.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert await process.wait() != 0
    assert list(place.iterdir()) == []
    await until_ended(database)
