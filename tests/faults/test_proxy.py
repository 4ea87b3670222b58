"""The proxy does to a connection what it says, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.faults.proxy import Proxy

from iotistica.embedded.ports import free_port

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[..., Awaitable[Connection]]


@pytest.fixture
def received() -> list[bytes]:
    """What the server behind the proxy got."""
    return []


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[Connect]:
    """Opens connections through the proxy, and closes them."""
    opened: list[Connection] = []

    async def open_one(to: Proxy = proxy) -> Connection:
        opened.append(await asyncio.open_connection("127.0.0.1", to.port))
        return opened[-1]

    yield open_one
    for _, writer in opened:
        writer.close()


@pytest.fixture
async def proxy(received: list[bytes]) -> AsyncIterator[Proxy]:
    """Before a server that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            received.append(data)
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy("test", port=free_port(), target=server.sockets[0].getsockname()[1])
    await proxy.start()
    yield proxy
    await proxy.stop()
    server.close()


async def answer(connection: Connection, text: bytes = b"hello", within_s: float = 2.0) -> bytes:
    """What comes back; empty where the connection ends."""
    reader, writer = connection
    writer.write(text)
    try:
        return await asyncio.wait_for(reader.read(1024), within_s)
    except ConnectionError:
        return b""


async def is_silent(connection: Connection) -> bool:
    try:
        await answer(connection, within_s=0.15)
    except TimeoutError:
        return True
    return False


async def test_it_carries_both_ways(proxy: Proxy, connect: Connect) -> None:
    connection = await connect()
    assert await answer(connection) == b"hello"
    assert proxy.disturbed == 0


async def test_a_cut_breaks_what_is_open_and_carries_what_is_new(
    proxy: Proxy, connect: Connect
) -> None:
    connection = await connect()
    assert await answer(connection) == b"hello"
    proxy.cut()
    assert await answer(connection) == b""
    assert await answer(await connect()) == b"hello"
    assert proxy.disturbed == 2


async def test_refusing_breaks_and_refuses_until_resumed(proxy: Proxy, connect: Connect) -> None:
    connection = await connect()
    assert await answer(connection) == b"hello"
    await proxy.refuse()
    assert await answer(connection) == b""
    with pytest.raises(ConnectionRefusedError):
        await connect()
    await proxy.resume()
    assert await answer(await connect()) == b"hello"


async def test_a_stall_holds_and_loses_nothing(
    proxy: Proxy, connect: Connect, received: list[bytes]
) -> None:
    connection = await connect()
    assert await answer(connection) == b"hello"
    proxy.stall()
    assert await is_silent(connection)
    assert received == [b"hello"]
    late = await connect()
    assert await is_silent(late)
    await proxy.resume()
    assert await asyncio.wait_for(connection[0].readexactly(5), 2.0) == b"hello"
    assert await asyncio.wait_for(late[0].readexactly(5), 2.0) == b"hello"
    assert proxy.disturbed > 0


async def test_slow_delays_each_way(proxy: Proxy, connect: Connect) -> None:
    connection = await connect()
    proxy.slow(0.1)
    began = time.monotonic()
    assert await answer(connection) == b"hello"
    assert time.monotonic() - began >= 0.2


async def test_mute_does_the_work_and_loses_the_reply(
    proxy: Proxy, connect: Connect, received: list[bytes]
) -> None:
    connection = await connect()
    assert await answer(connection) == b"hello"
    proxy.mute()
    assert await is_silent(connection)
    assert received == [b"hello", b"hello"]
    await proxy.resume()
    assert await asyncio.wait_for(connection[0].read(), 2.0) == b""
    assert await answer(await connect()) == b"hello"


async def test_a_server_that_is_away_is_a_broken_connection(connect: Connect) -> None:
    lonely = Proxy("lonely", port=free_port(), target=free_port())
    await lonely.start()
    assert await answer(await connect(lonely)) == b""
    await lonely.stop()
