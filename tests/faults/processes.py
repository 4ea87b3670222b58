"""The processes of a rig as the kernel shows them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """One that runs now."""

    pid: int
    parent: int
    state: str
    command: str


def everything() -> Iterator[Process]:
    """All processes of this machine but zombies."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            # Field 2 is a name that may hold anything, also spaces and parentheses.
            state, parent, *_ = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state != "Z":
            yield Process(int(place.name), int(parent), state, command)


def children(parent: int, containing: str = "") -> list[int]:
    """Process ids of the children of a process whose command line contains a text."""
    return [p.pid for p in everything() if p.parent == parent and containing in p.command]


def send(pid: int, number: signal.Signals) -> bool:
    """Signal a process; False where it has just ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


async def ended(pid: int, within_s: float) -> bool:
    """Whether a process ends in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while any(process.pid == pid for process in everything()):
                await asyncio.sleep(_POLL_S)
        return True
    return False


def left_behind(directory: Path) -> list[Process]:
    """Processes that work in a directory, were told of it, or were started by one that was."""
    found = []
    for process in everything():
        place = Path(f"/proc/{process.pid}")
        try:
            where = f"{(place / 'cwd').readlink()}/"
            told = (place / "environ").read_bytes()
        except OSError:
            continue
        if process.pid != os.getpid() and (
            where.startswith(f"{directory}/")
            or f"{directory}/" in f"{process.command}/"
            or f"{directory}/".encode() in told
        ):
            found.append(process)
    return found
