"""Child: one server process of ours, from start to a stop that leaves nothing behind.

Plain `subprocess.Popen`, because asyncio's processes belong to the event loop that made them,
and a server outlives loops (one per test, one per service).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from iotistica.errors import StartFailed

Ready = Callable[[], Awaitable[bool]]
"""Asks whether a server that runs would answer now."""

LINUX = sys.platform == "linux"
_LIBC = ctypes.CDLL(None, use_errno=True) if LINUX else None
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.02
_LOG_BYTES = 16 * 1024 * 1024
"""A longer log is put aside at the next start, as one older generation."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run and how: everything that `Child` needs to know about a program."""

    name: str
    argv: Sequence[str | Path]
    log: Path
    pid_file: Path
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of this process."""
    user: int | None = None
    """Run as this uid and gid; only root can."""
    stop_signal: signal.Signals = signal.SIGTERM
    stdin: Path = Path(os.devnull)


class Child:
    """A process that ends with its parent, even when the parent is killed with -9.

    Linux sends `stop_signal` when the parent's thread ends, so start children from the main
    thread. Elsewhere, and where the child takes its time, the next start finds it by pid file.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0

    @property
    def pid(self) -> int | None:
        """Process id of the last start."""
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None before the start and while it runs."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """True between a start and the end of the process."""
        return self._process is not None and self._process.poll() is None

    async def start(self, ready: Ready | None = None, timeout_s: float = 30.0) -> None:
        """Start, and wait until `ready`. Raises `StartFailed`; then nothing runs."""
        await stop_stale(self.command.pid_file, self.command.stop_signal)
        self._spawn()
        try:
            await self._until_ready(ready, timeout_s)
        except BaseException:
            self.kill()
            await self.wait()
            raise

    async def run(self, timeout_s: float = 60.0) -> None:
        """Start a program that ends by itself, such as initdb. Raises `StartFailed`."""
        await self.start()
        try:
            await asyncio.wait_for(self.wait(), timeout_s)
        except TimeoutError:
            raise self._failure(f"took more than {timeout_s:g} s") from None
        finally:
            self.kill()
            await self.wait()
        if self.returncode:
            raise self._failure(f"ended with exit status {self.returncode}")

    async def wait(self) -> int:
        """Exit status, once the process has ended."""
        if self._process is None:
            raise RuntimeError(f"{self.command.name} was never started")
        await _exit_of(self._process)
        self.command.pid_file.unlink(missing_ok=True)
        return self._process.wait()

    async def stop(self, grace_s: float = 10.0) -> int | None:
        """Ask the process to end, kill it after `grace_s`; None if it was never started."""
        if self._process is None:
            return None
        self.send(self.command.stop_signal)
        try:
            return await asyncio.wait_for(self.wait(), grace_s)
        except TimeoutError:
            self.kill()
            return await self.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End the process at once."""
        self.send(signal.SIGKILL)

    def last_words(self) -> str:
        """Last line that this process wrote into its log."""
        try:
            said = self.command.log.read_bytes()[self._log_begin :]
        except OSError:
            return ""
        return said.decode(errors="replace").strip().rpartition("\n")[2]

    def _spawn(self) -> None:
        command = self.command
        command.log.parent.mkdir(parents=True, exist_ok=True)
        if command.log.exists() and command.log.stat().st_size > _LOG_BYTES:
            command.log.replace(command.log.with_suffix(".log.1"))
        try:
            with (
                command.log.open("ab") as log,
                command.stdin.open("rb") as stdin,
                warnings.catch_warnings(),
            ):
                # Python 3.12 warns of forks beside threads; the child only calls prctl.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._log_begin = log.tell()
                self._process = _popen(command, stdin, log)
        except (OSError, subprocess.SubprocessError) as error:
            raise StartFailed(f"{command.name} cannot be run: {error}") from None
        command.pid_file.write_text(f"{self._process.pid}\n{identity(self._process.pid)}\n")

    async def _until_ready(self, ready: Ready | None, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while ready is not None and not await ready():
            if not self.running:
                raise self._failure(f"ended with exit status {self.returncode}")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {timeout_s:g} s")
            await asyncio.sleep(_POLL_S)

    def _failure(self, what: str) -> StartFailed:
        words = self.last_words()
        said = f', its last words were "{words}"' if words else ""
        return StartFailed(f"{self.command.name} {what}{said}; see {self.command.log}")


def _popen(command: Command, stdin: BinaryIO, log: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (programs and arguments are ours)
        [str(argument) for argument in command.argv],
        stdin=stdin,
        stdout=log,
        stderr=log,
        cwd=command.cwd,
        env={**os.environ, **command.env},
        # Ctrl-C reaches the foreground group only: we stop our servers ourselves, in order.
        process_group=0,
        user=command.user,
        group=command.user,
        extra_groups=None if command.user is None else [],
        preexec_fn=_die_with_parent(os.getpid(), command.stop_signal) if _LIBC else None,
    )


def _die_with_parent(parent: int, number: signal.Signals) -> Callable[[], None]:
    """What the child does before exec, and after setuid, which would clear the wish."""

    def ask_the_kernel() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:
            os._exit(1)

    return ask_the_kernel


async def _exit_of(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    if not LINUX:
        while process.poll() is None:  # noqa: ASYNC110 (no event but the kernel's)
            await asyncio.sleep(_POLL_S)
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def identity(pid: int) -> str | None:
    """What tells a process from a later one of the same id; None if there is none."""
    if LINUX:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # Field 2 is a name that may hold anything, also spaces and parentheses.
        state, *fields = stat.rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if state == "Z" else f"{boot} {fields[18]}"
    listed = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "lstart=,comm=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout.strip() or None


def stale_pid(pid_file: Path) -> int | None:
    """Process that an earlier start left running, if it is the very one that we started."""
    try:
        pid, _, written = pid_file.read_text().strip().partition("\n")
        return int(pid) if written and identity(int(pid)) == written else None
    except (OSError, ValueError):
        return None


async def stop_stale(
    pid_file: Path, number: signal.Signals = signal.SIGTERM, *, grace_s: float = 10.0
) -> None:
    """End what an earlier start left running: ask once, kill after `grace_s`."""
    deadline = time.monotonic() + grace_s
    if (pid := stale_pid(pid_file)) is not None:
        _signal(pid, number)
    while (pid := stale_pid(pid_file)) is not None:
        if time.monotonic() > deadline:
            _signal(pid, signal.SIGKILL)
        await asyncio.sleep(_POLL_S)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
