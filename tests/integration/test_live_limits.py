"""What sockets may cost, and what they outlive."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.live import Client, Place, refused, serving
from tests.rest import Rest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from iotistica import metrics
from iotistica.embedded.ports import free_port
from iotistica.embedded.redis import Redis, find_redis
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams

Serve = Callable[..., Any]
AT = "2026-11-25T10:00:00.000Z"


@pytest.fixture
async def agent(rest: Rest, pool: Pool) -> str:
    made = str(uuid.uuid4())
    await AgentStore(pool).add_agents(rest.tenant, [(made, "a")])
    return made


@pytest.fixture
def serve(rest: Rest, pool: Pool, streams: Streams, redis_url: str) -> Serve:
    """A server with settings of the test's own."""
    return lambda url=redis_url, **changes: serving(rest, pool, streams, url, **changes)


def closed(why: str) -> float:
    value: float = metrics.LIVE_CLOSED.labels(why)._value.get()
    return value


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_flood_of_messages_ends_the_socket(serve: Serve, agent: str) -> None:
    async with serve(live_messages_per_minute=50) as place:
        before = closed("flood")
        async with place.opened(agent) as client:
            for _ in range(50):
                await client.say(type="ping")
                assert (await client.next())["type"] == "pong"
            await client.say(type="ping")
            assert await client.end() == (1008, "more than 50 messages in 60 s")
        assert closed("flood") == before + 1


async def test_whoever_floods_without_reading_costs_a_bounded_queue(
    serve: Serve, agent: str
) -> None:
    settings = {"live_messages_per_minute": 10_000_000, "live_queue_bytes": 64 * 1024}
    async with (
        serve(live_write_s=0.5, **settings) as place,
        connect(place.address(agent), max_queue=1) as flooding,
    ):
        before = closed("slow")
        command = json.dumps({"type": "x" * 60})

        async def flood() -> None:
            while True:
                await flooding.send(command)

        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(flood(), 60)
        assert closed("slow") >= before + 1
        await until(lambda: metrics.LIVE_SOCKETS._value.get() == 0)


async def test_a_client_that_reads_nothing_is_cut_off(serve: Serve, agent: str) -> None:
    async with serve(live_queue_bytes=256 * 1024, live_write_s=0.5) as place:
        before = closed("slow")
        async with place.opened(agent) as reading, _deaf(place, agent):
            await reading.subscribe("logs")
            where, line = place.channel(agent, "logs"), {"message": "x" * 200_000}
            count = 0
            async with asyncio.timeout(60):
                while closed("slow") == before:
                    await place.publish(where, {"logs": [{**line, "n": count}]})
                    # Who reads gets each of them, in order, whatever the other does.
                    assert (await reading.next("logs"))["data"]["logs"][0]["n"] == count
                    count += 1
            await until(lambda: metrics.LIVE_SOCKETS._value.get() == 1)
            await place.publish(where, {"logs": [{**line, "n": count}]})
            assert (await reading.next("logs"))["data"]["logs"][0]["n"] == count


@asynccontextmanager
async def _deaf(place: Place, agent: str) -> AsyncIterator[None]:
    """A client that subscribes to logs and then reads nothing any more."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    port = int(place.url.rpartition(":")[2].partition("/")[0])
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", port))
    async with connect(place.address(agent), sock=narrow, max_queue=1) as deaf:
        await deaf.recv()
        await deaf.send('{"type": "subscribe", "channel": "logs"}')
        await deaf.recv()
        yield
        deaf.transport.abort()


async def test_a_message_over_the_limit_ends_the_socket(serve: Serve, agent: str) -> None:
    async with serve() as place:
        async with place.opened(agent) as client:
            await client.socket.send("x" * (1024 * 1024 - 1))
            assert (await client.next())["code"] == "bad_message"
            await client.socket.send("x" * (1024 * 1024 + 1))
            assert (await client.end())[0] == 1009
        async with place.opened(agent) as client:
            await client.socket.send("x" * 500_000 for _ in range(3))
            assert (await client.end())[0] == 1009


async def test_a_message_in_pieces_is_one(serve: Serve, agent: str) -> None:
    async with serve() as place, place.opened(agent) as client:
        await client.socket.send(iter(('{"type"', ': "pi', 'ng"}')))
        assert await client.next() == {"type": "pong"}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x82\0\0\0\0\xc3\x28", 1007),  # no UTF-8
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x83\x80\0\0\0\0", 1002),  # an opcode of nothing
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in pieces
        (b"\x89\xfe\x00\x7e\0\0\0\0" + bytes(126), 1002),  # a ping that is too long
        (b"\x88\x81\0\0\0\0\x03", 1002),  # half a code
        (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", (1002, 1009)),  # endless
    ],
)
async def test_frames_against_the_protocol_end_their_socket_alone(
    serve: Serve, agent: str, frame: bytes, code: Any
) -> None:
    async with serve() as place, place.opened(agent) as other:
        async with place.opened(agent) as client:
            client.socket.transport.write(frame)
            found = (await client.end())[0]
            assert found in (code if isinstance(code, tuple) else (code, None))
        await other.say(type="ping")
        assert (await other.next())["type"] == "pong"


async def test_pings_are_answered_and_a_dead_peer_is_noticed(serve: Serve, agent: str) -> None:
    async with serve(live_ping_s=0.2) as place:
        async with place.opened(agent) as client:
            await (await client.socket.ping())
        host, port = place.url.removeprefix("ws://").partition("/")[0].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        target = place.address(agent).partition(port)[2]
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        upgrade = f"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n"
        writer.write(f"GET {target} HTTP/1.1\r\n{upgrade}".encode())
        async with asyncio.timeout(10):
            # It never answers a ping, so the other side ends the connection.
            received = await reader.read(-1)
        assert received.startswith(b"HTTP/1.1 101")
        assert b"\x89\x00" in received
        writer.close()


async def test_there_is_a_most_of_sockets(serve: Serve, agent: str) -> None:
    async with serve(live_sockets=2) as place, place.opened(agent):
        async with place.opened(None):
            assert (await refused(place.address(agent)))[0] == 503
        await until(lambda: metrics.LIVE_SOCKETS._value.get() == 1)
        async with place.opened(None):
            pass
    async with serve(live_sockets_per_tenant=1) as place, place.opened(agent):
        assert (await refused(place.address(agent)))[0] == 429


async def test_two_hundred_sockets_at_once(serve: Serve, agent: str) -> None:
    async with serve() as place, AsyncExitStack() as stack:
        clients: list[Client] = [
            await stack.enter_async_context(place.opened(agent)) for _ in range(200)
        ]
        firsts = await asyncio.gather(*(one.first("presence") for one in clients))
        assert [one["data"] for one in firsts] == [{"online": False}] * 200
        await asyncio.gather(*(one.subscribe("logs") for one in clients))
        where = place.channel(agent, "logs")
        for number in range(20):
            assert await place.publish(where, {"logs": [number]}) == 1
        for client in clients:
            found = [(await client.next("logs"))["data"]["logs"] for _ in range(20)]
            assert found == [[number] for number in range(20)]


async def test_a_server_that_stops_says_goodbye(serve: Serve, agent: str) -> None:
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(serve())
        clients = [await stack.enter_async_context(place.opened(agent)) for _ in range(5)]
        stopping = asyncio.create_task(place.stop())
        for client in clients:
            assert await client.end() == (1001, "the server is stopping")
        await stopping


async def test_redis_comes_back_and_nobody_looks_at_what_is_old(
    serve: Serve, agent: str, servers: Path, connection: asyncpg.Connection
) -> None:
    server = Redis(
        servers / f"redis-{secrets.token_hex(4)}",
        port=free_port(),
        password=secrets.token_urlsafe(),
        binary=find_redis(),
    )
    await server.start()
    try:
        async with serve(server.url) as place, place.opened(agent) as client:
            assert (await client.first("presence"))["data"] == {"online": False}
            await client.subscribe("logs")
            await server.stop()
            error = await client.next()
            assert (error["type"], error["code"]) == ("error", "not_live")
            # Whoever comes now is told so at once.
            async with place.opened(agent) as late:
                assert (await late.subscribe("presence"))["type"] == "subscribed"
                assert (await late.next())["code"] == "not_live"
                await connection.execute(
                    "UPDATE agents SET is_online = true WHERE uuid = $1", agent
                )
                await server.start()
                assert (await late.next("presence"))["data"] == {"online": True}
            found = [await client.next() for _ in range(2)]
            gap = next(one for one in found if one["type"] == "error")
            fresh = next(one for one in found if one["type"] == "presence")
            assert (gap["code"], gap["channel"]) == ("gap", "logs")
            assert fresh["data"] == {"online": True}
            await place.publish(place.channel(agent, "logs"), {"logs": [1]})
            assert (await client.next())["data"] == {"logs": [1]}
    finally:
        await server.stop()
