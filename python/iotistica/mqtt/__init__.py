"""The MQTT client: one adapter, two versions of aiomqtt behind it.

aiomqtt 3 (a pre-release on a codec in Rust) is used where it is installed, being several times
cheaper per message; aiomqtt 2.5 (on paho) installs everywhere. Both acknowledge a message only
when the caller says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any
from urllib.parse import unquote, urlsplit

from iotistica.errors import ConfigError
from iotistica.mqtt.session import Disconnected, Engine, Message, Options, Refused, Session

__all__ = [
    "Disconnected",
    "Message",
    "Options",
    "Refused",
    "Session",
    "client_version",
    "connect",
    "parse_url",
]

_PORTS = {"mqtt": 1883, "mqtts": 8883}


def parse_url(
    url: str,
    *,
    client_id: str,
    username: str | None = None,
    password: str | None = None,
    **options: Any,
) -> Options:
    """Options for `mqtt://user:password@host:port` or `mqtts://…`. Raises `ConfigError`.

    `username` and `password` stand in where the URL has none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"MQTT_URL is not a URL: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        # Never the URL itself: it may hold a password.
        raise ConfigError(
            f"MQTT_URL has scheme {parts.scheme!r} and host {parts.hostname!r}; "
            "expected mqtt://[user:password@]host[:port] or mqtts://…"
        )
    return Options(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        tls=parts.scheme == "mqtts",
        username=unquote(parts.username) if parts.username else username,
        password=unquote(parts.password) if parts.password else password,
        client_id=client_id,
        **options,
    )


def client_version(wanted: str = "auto") -> str:
    """`aiomqtt3` or `aiomqtt2`: what `wanted` means on this machine. Raises `ConfigError`."""
    installed = f"aiomqtt{metadata.version('aiomqtt').partition('.')[0]}"
    if wanted not in ("auto", installed):
        raise ConfigError(f"MQTT_CLIENT is {wanted}, but {installed} is what is installed")
    return installed


def _engine(client: str, options: Options, session: Session) -> Engine:
    # One of the two cannot be imported: they are releases of one package.
    if client_version(client) == "aiomqtt3":
        from iotistica.mqtt.aiomqtt3 import Aiomqtt3

        return Aiomqtt3(options, session)
    from iotistica.mqtt.aiomqtt2 import Aiomqtt2

    return Aiomqtt2(options, session)


@asynccontextmanager
async def connect(options: Options, *, client: str = "auto") -> AsyncIterator[Session]:
    """Open a session. Raises `Disconnected`, `Refused`; nothing is retried here."""
    session = Session(options)
    await session.open(_engine(client, options, session))
    try:
        yield session
    finally:
        await session.close()
