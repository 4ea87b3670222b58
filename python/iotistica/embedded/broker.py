"""A private MQTT 5 broker in a directory of its own: Mosquitto if there is one, else ours."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from iotistica.credentials import Credentials, User
from iotistica.directories import make_directory
from iotistica.embedded.ports import LOOPBACK
from iotistica.embedded.process import Child, Command
from iotistica.errors import ConfigError
from iotistica.settings import url_with_credentials

MINIMUM_MAJOR = 2
BUILTIN = Path(sys.executable)
"""Stands for the broker of our own wheel, which is a module and not a program."""

_MORE_PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""Where Mosquitto is installed and an ordinary user's PATH does not look."""


class Broker:
    """The server of one directory; `credentials` says who may do what."""

    def __init__(self, directory: Path, *, port: int, program: Path) -> None:
        self.directory = directory
        self.port = port
        self.program = program
        self.credentials = Credentials(directory / "passwords", directory / "acl")
        self.child = Child(
            Command(
                name=self.name,
                argv=self._argv(),
                log=directory / "broker.log",
                pid_file=directory / "broker.pid",
                cwd=directory,
            )
        )

    @property
    def name(self) -> str:
        """`builtin` or `mosquitto`."""
        return "builtin" if self.program == BUILTIN else "mosquitto"

    def url_for(self, user: str, password: str) -> str:
        """`mqtt://user:password@127.0.0.1:port`."""
        return url_with_credentials("mqtt", user, password, f"{LOOPBACK}:{self.port}")

    async def start(self, timeout_s: float = 30.0) -> None:
        """Start and wait until it accepts connections. Raises `StartFailed`."""
        make_directory(self.directory)
        self.credentials.add({})
        if self.name == "mosquitto":
            (self.directory / "mosquitto.conf").write_text(self._config())
        await self.child.start(self._ready, timeout_s)

    async def stop(self) -> None:
        """Stop; sessions and queued messages stay."""
        await self.child.stop()

    async def add_users(self, users: Mapping[str, User], timeout_s: float = 10.0) -> None:
        """Add or replace users, and wait until the broker knows them. Raises `StartFailed`."""
        self.credentials.add(users)
        self.child.send(signal.SIGHUP)
        async with asyncio.timeout(timeout_s):
            for name, user in users.items():
                while not await accepts(self.port, name, user.password):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    def _argv(self) -> list[str | Path]:
        if self.name == "mosquitto":
            return [self.program, "-c", "mosquitto.conf"]
        return [
            *(self.program, "-P", "-m", "iotistica.embedded.builtin_broker"),
            *("--port", str(self.port), "--data-dir", str(self.directory)),
            *("--password-file", "passwords", "--acl-file", "acl"),
        ]

    def _config(self) -> str:
        # As root it would become the user mosquitto, which cannot enter root's directories.
        keep_root = "user root\n" if os.geteuid() == 0 else ""
        return f"{mosquitto_config()}\nlistener {self.port} {LOOPBACK}\n{keep_root}"

    async def _ready(self) -> bool:
        # Mosquitto listens before it handles signals: only its answer says that it does.
        return bool(await _connack(self.port, "", ""))


async def accepts(port: int, user: str, password: str) -> bool:
    """True if the broker lets the user in."""
    return (await _connack(port, user, password))[3:] == b"\0"


async def _connack(port: int, user: str, password: str) -> bytes:
    """The first four bytes of the answer to a CONNECT, its code last (MQTT 5.0 section 3.2); empty
    where there is none.
    """
    texts = [text.encode() for text in ("", user, password)]
    payload = b"".join(len(text).to_bytes(2) + text for text in texts)
    # Flags: user name, password, clean start. Keep alive 10 s, no properties.
    body = b"\0\4MQTT\5\xc2\0\x0a\0" + payload
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return b""
    try:
        writer.write(b"\x10" + _variable_length(len(body)) + body)
        header = await reader.readexactly(4)
    except (OSError, asyncio.IncompleteReadError):
        return b""
    finally:
        writer.close()
    return header if header[0] == 0x20 else b""


def _variable_length(number: int) -> bytes:
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _variable_length(high) if high else bytes([low])


def mosquitto_config() -> str:
    """The settings that any Mosquitto of iotistica needs; listeners come on top."""
    return files("iotistica.embedded").joinpath("mosquitto.conf").read_text()


def find_broker(choice: str = "auto") -> Path:
    """Program for `auto`, `mosquitto` or `builtin`. Raises `ConfigError`."""
    if choice != "builtin" and (mosquitto := _mosquitto()):
        return mosquitto
    if choice == "mosquitto":
        raise ConfigError(
            f"no mosquitto >= {MINIMUM_MAJOR} was found on the PATH or in "
            f"{', '.join(_MORE_PLACES)}; install it, or set IOTISTICA_BROKER=builtin"
        )
    return BUILTIN


def _mosquitto() -> Path | None:
    search = os.pathsep.join([os.environ.get("PATH", ""), *_MORE_PLACES])
    found = shutil.which("mosquitto", path=search)
    if found is None:
        return None
    # Its exit status for --help is 3.
    shown = subprocess.run(  # noqa: S603
        [found, "-h"], capture_output=True, text=True, timeout=10, check=False
    ).stdout
    version = re.search(r"version (\d+)", shown)
    return Path(found) if version and int(version[1]) >= MINIMUM_MAJOR else None
