"""`iotistica` as a process of its own, with nothing in its environment but what is given."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

SECRETS = ("IOTISTICA_API_TOKEN", "IOTISTICA_API_KEY")
OURS = (*SECRETS, "IOTISTICA_API_URL", "IOTISTICA_DATA_DIR", "JWT_SECRET", "JWT_SECRET_FILE")
CLEAN = {name: value for name, value in os.environ.items() if name not in OURS}


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    output: str
    errors: str

    @property
    def documents(self) -> list[Any]:
        return [orjson.loads(line) for line in self.output.splitlines()]

    @property
    def document(self) -> Any:
        [document] = self.documents
        return document

    @property
    def last(self) -> Any:
        return self.documents[-1]

    @property
    def rows(self) -> list[list[str]]:
        """Cells of a table, which two spaces or more separate."""
        lines = self.output.splitlines()[1:]
        return [[cell.strip() for cell in line.split("  ") if cell] for line in lines]


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs commands; no environment of ours but what it has."""

    environment: dict[str, str]

    async def start(
        self,
        *arguments: str,
        stdin: int = asyncio.subprocess.PIPE,
        stdout: int = asyncio.subprocess.PIPE,
        stderr: int = asyncio.subprocess.PIPE,
        **environment: str,
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "iotistica", *arguments),
            env={**CLEAN, **self.environment, **environment},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    async def __call__(self, *arguments: str, stdin: object = None, **environment: str) -> Done:
        process = await self.start(*arguments, **environment)
        given = b"" if stdin is None else orjson.dumps(stdin)
        output, errors = await process.communicate(given)
        for name in SECRETS:
            if secret := {**self.environment, **environment}.get(name):
                assert secret not in (output + errors).decode()
        return Done(process.returncode or 0, output.decode(), errors.decode())


async def watched(
    start: Callable[..., Awaitable[asyncio.subprocess.Process]], *, answer: str = ""
) -> tuple[int, str]:
    """Exit code of what `start` starts, and what was seen on its terminal."""
    leader, follower = pty.openpty()
    process = await start(stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    os.write(leader, answer.encode())
    seen = b""

    def read() -> bytes:
        try:
            return os.read(leader, 65536)
        except OSError:  # the other side is closed
            return b""

    while chunk := await asyncio.to_thread(read):
        seen += chunk
    os.close(leader)
    return await process.wait(), seen.decode()
