"""A door with real web processes behind it, and a client that can say anything."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iotistica import supervisor
from iotistica.settings import Settings

WEB = Path(__file__).parent / "door_web.py"
FAST = {
    "door_head_s": 0.4,
    "door_idle_s": 0.8,
    "door_body_idle_s": 0.4,
    "door_body_s": 1.2,
    "door_answer_s": 2.0,
    "door_write_s": 2.0,
    "door_body_bytes": 64 * 1024,
    "door_address_requests_per_s": 0.0,
    "stop_grace_s": 3.0,
}


@dataclass
class Answer:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Rig:
    """A running door, its web processes, and their ports."""

    public: socket.socket
    operations: socket.socket
    reserved: list[socket.socket]
    settings: Settings
    door: subprocess.Popen[bytes] | None = None
    webs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def port(self) -> int:
        port: int = self.public.getsockname()[1]
        return port

    def web_port(self, number: int = 0) -> int:
        port: int = self.reserved[number].getsockname()[1]
        return port

    def start_web(self, number: int = 0) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(WEB), str(self.web_port(number))]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start_door(self) -> subprocess.Popen[bytes]:
        upstreams = [f"127.0.0.1:{self.web_port(n)}" for n in range(len(self.reserved))]
        role = supervisor.Role(
            *("door", "iotistica.api.door", {"upstreams": upstreams}),
            listener=self.operations,
            public=self.public,
        )
        process = subprocess.Popen(
            [sys.executable, "-m", role.module],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(self.operations.fileno(), self.public.fileno()),
        )
        assert process.stdin is not None
        process.stdin.write(supervisor._assignment(role, self.settings))
        process.stdin.flush()
        return process

    async def seen(self, number: int = 0) -> list[dict[str, Any]]:
        """Requests that reached the handler since the last time; asked of Robyn itself."""
        return (await self.web_state(number))["seen"]

    async def web_state(self, number: int = 0) -> dict[str, Any]:
        request = b"GET /seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answers, _ = await talk(self.web_port(number), [request])
        return answers[0].json

    async def get(self, path: str, *fields: str, method: str = "GET") -> Answer:
        answers, _ = await talk(self.port, [request(path, *fields, method=method)])
        return answers[0]

    async def metrics(self) -> dict[str, float]:
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        answers, _ = await talk(self.operations.getsockname()[1], [request])
        lines = answers[0].body.decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("iotistica_door_"): float(value) for name, _, value in samples}

    async def ready(self) -> None:
        """Wait until the door and every web process answer."""
        places = [(self.operations.getsockname()[1], "/ready")]
        places += [(self.web_port(number), "/seen") for number in range(len(self.reserved))]
        async with asyncio.timeout(20):
            for port, path in places:
                while not await _answers(port, path):
                    await asyncio.sleep(0.02)


async def _answers(port: int, path: str) -> bool:
    try:
        answers, _ = await talk(port, [request(path)])
    except OSError:
        return False
    return answers[0].status == 200


def request(path: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A valid request that closes the connection."""
    if body:
        fields = (*fields, f"Content-Length: {len(body)}")
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def running(*, webs: int = 1, **changes: Any) -> AsyncIterator[Rig]:
    """A rig with these settings."""
    settings = Settings.load(**{**FAST, "database_url": "postgresql://x", **changes})
    rig = Rig(
        public=supervisor.loopback_listener(),
        operations=supervisor.loopback_listener(),
        reserved=[supervisor.reserve_port() for _ in range(webs)],
        settings=settings,
    )
    rig.webs = [rig.start_web(number) for number in range(webs)]
    rig.door = rig.start_door()
    try:
        await rig.ready()
        yield rig
    finally:
        stop(rig.door, signal.SIGTERM)
        for web in rig.webs:
            stop(web, signal.SIGKILL)
        for one in (rig.public, rig.operations, *rig.reserved):
            one.close()


def stop(process: subprocess.Popen[bytes], number: int) -> int:
    """End a process; its exit status."""
    if process.poll() is None:
        os.kill(process.pid, number)
    status = process.wait(10)
    if process.stdin is not None:
        process.stdin.close()
    return status


async def talk(
    port: int,
    pieces: Sequence[bytes | float],
    *,
    end: bool = False,
    timeout_s: float = 5.0,
    to_head: bool = False,
) -> tuple[list[Answer], bytes]:
    """Send pieces (a number waits so long), read until the other side closes.

    `end` closes our side after the last piece. Answers, and what is left behind them.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(timeout_s):
            try:
                for piece in pieces:
                    if isinstance(piece, bytes):
                        writer.write(piece)
                        await writer.drain()
                    else:
                        await asyncio.sleep(piece)
                if end:
                    writer.write_eof()
                received = await reader.read(-1)
            except ConnectionError:
                received = bytes(reader._buffer)  # what came before the reset
    finally:
        writer.close()
    return parse(received, to_head=to_head)


def parse(received: bytes, *, to_head: bool = False) -> tuple[list[Answer], bytes]:
    """Answers one after the other; those of status 100 are left out."""
    answers = []
    while b"\r\n\r\n" in received:
        head, _, received = received.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        status = int(line.split(" ")[1])
        headers: dict[str, str] = {}
        for name, _, value in (one.partition(": ") for one in lines):
            name = name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if status == 100:
            continue
        if to_head or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body, received = dechunk(received)
        else:
            size = int(headers.get("content-length", len(received)))
            body, received = received[:size], received[size:]
            assert len(body) == size
        answers.append(Answer(status, headers, body))
    return answers, received


def dechunk(received: bytes) -> tuple[bytes, bytes]:
    """A chunked body, and what follows it."""
    body = b""
    while True:
        size = re.match(rb"([0-9a-f]+)\r\n", received)
        assert size, received[:40]
        count = int(size[1], 16)
        received = received[size.end() :]
        body, received = body + received[:count], received[count:]
        assert received.startswith(b"\r\n"), received[:40]
        received = received[2:]
        if count == 0:
            return body, received
