"""Keeps the processes of a service running: starts, restarts with back-off, stops gracefully.

A process gets its assignment as one line of JSON on standard input, which then stays open: when
it ends, the supervisor is gone, and the process stops by itself. Nothing is ever orphaned.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import SecretStr

from iotistica import log, metrics
from iotistica.backoff import Backoff
from iotistica.errors import ConfigError
from iotistica.settings import Settings

EXIT_CONFIG = 2
"""Exit status for a setting that is wrong: starting again would not help."""

_STABLE_S = 30.0
_KILL_AFTER_S = 1.5

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Role:
    """One process: `python -m module`, with the parameters that it reads from its assignment."""

    name: str
    module: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    listener: socket.socket | None = None
    """Handed over listening, so that the address outlives the process."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process was started to do."""

    name: str
    settings: Settings
    parameters: Mapping[str, Any]
    listener: socket.socket | None


class Process:
    """One role, and the process that fills it now."""

    def __init__(self, role: Role, settings: Settings) -> None:
        self.role = role
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.returncode is None

    async def keep(self) -> None:
        """Run it again whenever it ends, until `stop`. Raises `ConfigError` if it must not."""
        backoff = Backoff(first_s=0.2, most_s=10.0)
        while not self._stopping:
            started = time.monotonic()
            status = await self._run()
            if self._stopping:
                return
            if status == EXIT_CONFIG:
                raise ConfigError(f"process {self.role.name} refuses its settings")
            if time.monotonic() - started > _STABLE_S:
                backoff.reset()
            pause_s = backoff.next_s()
            metrics.PROCESS_RESTARTS.labels(self.role.name).inc()
            _log.error(
                "process ended; it is started again",
                name=self.role.name,
                status=status,
                pause_s=round(pause_s, 2),
            )
            await asyncio.sleep(pause_s)

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, kill it after `grace_s`."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            _log.error("process did not stop in time; it is killed", name=self.role.name)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run(self) -> int:
        listener = self.role.listener
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", self.role.module),
            stdin=subprocess.PIPE,
            pass_fds=() if listener is None else (listener.fileno(),),
        )
        if process.stdin is None:
            raise RuntimeError("a pipe was asked for")
        process.stdin.write(_assignment(self.role, self._settings))
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        return await process.wait()


async def supervise(roles: Sequence[Role], settings: Settings, stop: asyncio.Event) -> None:
    """Keep all roles filled until `stop` is set, then stop them all at once.

    Raises `ConfigError` when a process refuses its settings; then nothing runs any more.
    """
    processes = [Process(role, settings) for role in roles]
    keepers = [asyncio.create_task(process.keep()) for process in processes]
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((waiting, *keepers), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        grace_s = settings.stop_grace_s + _KILL_AFTER_S
        await asyncio.gather(*(process.stop(grace_s) for process in processes))
        for keeper in keepers:
            keeper.cancel()
        results = await asyncio.gather(*keepers, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def assigned() -> Assignment:
    """The assignment of this process; from now on it stops when its supervisor ends."""
    document = orjson.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_follow_supervisor, daemon=True).start()
    descriptor = document["listener"]
    return Assignment(
        name=document["name"],
        settings=Settings.load(**document["settings"]),
        parameters=document["parameters"],
        listener=None if descriptor is None else socket.socket(fileno=descriptor),
    )


def _follow_supervisor() -> None:
    # Unbuffered: at exit the interpreter would wait for the lock of a buffered reader.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def on_signals(stop: asyncio.Event) -> None:
    """Set `stop` at SIGINT and SIGTERM. A second signal changes nothing: stopping has begun."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


def loopback_listener() -> socket.socket:
    """A listening socket on a free loopback port."""
    return socket.create_server(("127.0.0.1", 0), backlog=128)


def _assignment(role: Role, settings: Settings) -> bytes:
    document = {
        "name": role.name,
        "settings": _plain(settings),
        "parameters": dict(role.parameters),
        "listener": None if role.listener is None else role.listener.fileno(),
    }
    return orjson.dumps(document) + b"\n"


def _plain(settings: Settings) -> dict[str, Any]:
    """Every field, also those that were given in code and not by the environment."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {
        name: value.get_secret_value()
        if isinstance(value, SecretStr)
        else (str(value) if isinstance(value, os.PathLike) else value)
        for name, value in values.items()
    }
