"""A private PostgreSQL in a directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from iotistica.directories import make_directory
from iotistica.embedded.carrier import Postgres as Installation
from iotistica.embedded.memory import MIB, share_of_memory
from iotistica.embedded.ports import LOOPBACK
from iotistica.embedded.process import LINUX, Child, Command
from iotistica.errors import ConfigError, StartFailed

USER = DATABASE = "iotistica"

CONFIG = """\
# Written by iotistica at every start; put changes of your own into custom.conf beside it.
listen_addresses = '{host}'
port = {port}
# Clients use TCP: a socket path in a deep data directory exceeds its limit of 107 bytes.
unix_socket_directories = ''
max_connections = 100

# A commit is on disk before it is acknowledged; XACK follows it. Never trade this for speed.
synchronous_commit = on
fsync = {fsync}
full_page_writes = {fsync}

# The primary key of readings is the hot part; it must stay in memory.
shared_buffers = {shared_buffers_mib}MB
# Every page that is touched first after a checkpoint goes to the log as a whole; rare
# checkpoints mean a third of the log for the same rows.
checkpoint_timeout = 15min
max_wal_size = 4GB
min_wal_size = 256MB
checkpoint_completion_target = 0.9
# pglz made the log a sixth smaller and the inserts a sixth slower.
wal_compression = off
wal_buffers = 16MB

# Rows only arrive; freeze and summarize them before the table is large.
autovacuum_vacuum_insert_scale_factor = 0.1
# One machine, many short queries: compiling them costs more than it saves.
jit = off

timezone = 'UTC'
log_timezone = 'UTC'
password_encryption = 'scram-sha-256'
include_if_exists = 'custom.conf'
"""

ACCESS = "host all all 127.0.0.1/32 scram-sha-256\n"


class Postgres:
    """The server of one directory. `url` is for the database `iotistica`."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        password: str,
        installation: Installation,
        fsync: bool = True,
    ) -> None:
        self.directory = directory
        self.port = port
        self.password = password
        self.installation = installation
        # Only tests may switch it off.
        self.fsync = fsync
        self.data = directory / "data"
        self.child = Child(self._command("postgres", self.data))

    @property
    def url(self) -> str:
        """`postgresql://iotistica:password@127.0.0.1:port/iotistica`."""
        return (
            f"postgresql://{USER}:{quote(self.password, safe='')}@{LOOPBACK}:{self.port}/{DATABASE}"
        )

    async def start(self, timeout_s: float = 60.0) -> None:
        """Create the cluster if there is none, start, wait for recovery.

        Raises `ConfigError` for a directory of another version, `StartFailed` otherwise.
        """
        make_directory(self.directory)
        # The unprivileged user goes through it, from its cluster to the files beside it.
        self.directory.chmod(0o711)
        if not self.data.exists():
            await self._create()
        self.check()
        self._write(self.data / "postgresql.conf", self._config())
        self._write(self.data / "pg_hba.conf", ACCESS)
        await self._start_after_orphans(timeout_s)

    async def stop(self, grace_s: float = 30.0) -> None:
        """Stop with a checkpoint; clients are disconnected."""
        await self.child.stop(grace_s)

    def check(self) -> None:
        """Raises `ConfigError` for a cluster that the installation cannot run."""
        if not self.data.exists():
            return
        try:
            written = (self.data / "PG_VERSION").read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.data} is not a PostgreSQL data directory: {error}") from None
        if not written.isdigit():
            raise ConfigError(f"{self.data / 'PG_VERSION'} is damaged: a version was expected")
        if int(written) != self.installation.major:
            raise ConfigError(
                f"{self.data} was written by PostgreSQL {written}, but the one found is "
                f"{self.installation.version} in {self.installation.binaries}; set "
                f"IOTISTICA_POSTGRES_BIN to the bin directory of a PostgreSQL {written}"
            )

    async def _start_after_orphans(self, timeout_s: float) -> None:
        """Backends of a postmaster that was killed need a moment to notice; wait for them."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return await self.child.start(self._ready, timeout_s)
            except StartFailed as error:
                if "shared memory block" not in str(error) or time.monotonic() > deadline:
                    raise

    async def _create(self) -> None:
        """Build the cluster aside, so that a half-built one is never taken for a whole."""
        fresh = self.directory / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        self._own(fresh, mode=0o700, make=True)
        secret, script = self.directory / "password", self.directory / "create.sql"
        self._write(secret, f"{self.password}\n")
        self._write(script, f"CREATE DATABASE {DATABASE}\n")
        try:
            await Child(self._initdb(fresh)).run()
            await Child(replace(self._single(fresh), stdin=script)).run()
        finally:
            secret.unlink()
            script.unlink()
        fresh.rename(self.data)

    def _initdb(self, data: Path) -> Command:
        options = ["--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", f"--username={USER}"]
        sync = [] if self.fsync else ["--no-sync"]
        secret = f"--pwfile={self._place(data)}/../password"
        return self._command("initdb", data, *options, *sync, secret)

    def _single(self, data: Path) -> Command:
        command = self._command("postgres", data, "--single", "-F")
        return replace(command, argv=[*command.argv, "postgres"])

    def _place(self, data: Path) -> str:
        """The cluster, as the server is told of it."""
        # Root's directories may be closed to the unprivileged user (/root, mktemp -d). The kernel
        # resolves this link without walking the path, so no mode has to be changed. PostgreSQL 15
        # leaves its working directory at start and needs the path, and a directory that is open.
        by_link = LINUX and self.installation.user is not None and self.installation.major > 15
        return "/proc/self/cwd" if by_link else str(data)

    def _command(self, program: str, data: Path, *options: str) -> Command:
        return Command(
            name=program,
            argv=[self.installation.binaries / program, *options, "-D", self._place(data)],
            log=self.directory / "postgres.log",
            pid_file=self.directory / f"{program}.pid",
            cwd=data,
            user=self.installation.user,
            # Fast shutdown: SIGTERM would wait for clients.
            stop_signal=signal.SIGINT,
        )

    def _config(self) -> str:
        return CONFIG.format(
            host=LOOPBACK,
            port=self.port,
            fsync="on" if self.fsync else "off",
            shared_buffers_mib=share_of_memory(8, at_least_mib=128, at_most_mib=2048) // MIB,
        )

    async def _ready(self) -> bool:
        """The postmaster writes its state into the eighth line of its pid file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.child.pid) and lines[7].strip() == "ready"

    def _write(self, path: Path, text: str) -> None:
        path.touch(mode=0o600)
        path.write_text(text)
        self._own(path, mode=0o600)

    def _own(self, path: Path, *, mode: int, make: bool = False) -> None:
        if make:
            path.mkdir(mode=mode)
        path.chmod(mode)
        if self.installation.user is not None:
            os.chown(path, self.installation.user, self.installation.user)
