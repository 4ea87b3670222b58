"""The data directory: who holds it, its secrets, and what is remembered between starts."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Any

import orjson

from iotistica.directories import make_directory
from iotistica.errors import ConfigError

STATE = "state.json"


def default_directory() -> Path:
    """`$XDG_DATA_HOME/iotistica` or `~/.local/share/iotistica`."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "iotistica"


class DataDirectory:
    """A directory that one `iotistica up` holds at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def acquire(self) -> None:
        """Create and lock it. Raises `ConfigError` where that is impossible."""
        make_directory(self.path)
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"data directory {self.path} is not usable: {error.strerror}"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 20).decode(errors="replace").strip()
            os.close(lock)
            raise ConfigError(
                f"data directory {self.path} is in use by another iotistica (pid {holder})"
            ) from None
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def release(self) -> None:
        """Let the next one in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def secret_file(self, name: str) -> Path:
        """File of a secret, which is made at first use. Raises `ConfigError`."""
        path = self.path / "secrets" / name
        self.secret(name)
        return path

    def secret(self, name: str) -> str:
        """Random text that stays the same from start to start. Raises `ConfigError`."""
        return self._remembered(self.path / "secrets" / name, secrets.token_urlsafe(32))

    def tenant(self) -> str:
        """Id of the development tenant: 12 hex digits. Raises `ConfigError`."""
        return self._remembered(self.path / "tenant", secrets.token_hex(6))

    def state(self) -> dict[str, Any]:
        """What the last start wrote; empty where there is nothing of use."""
        try:
            state = orjson.loads((self.path / STATE).read_bytes())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the state; it holds URLs with passwords."""
        fresh = self.path / f"{STATE}.new"
        fresh.touch(mode=0o600)
        fresh.write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2))
        fresh.rename(self.path / STATE)

    def _remembered(self, path: Path, fresh: str) -> str:
        make_directory(path.parent)
        try:
            if not path.exists():
                half = path.with_name(f"{path.name}.new")
                half.touch(mode=0o600)
                half.write_text(f"{fresh}\n")
                half.rename(path)
            text = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        if not text:
            raise ConfigError(f"{path} is empty; delete it to have a new one made")
        return text
