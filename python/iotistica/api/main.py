"""`iotistica api`: the Cloud API, as a small supervisor of bridge and web processes."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket

import uvloop

from iotistica import log, mqtt, ops, supervisor
from iotistica.api import auth, auth_keys
from iotistica.api.bridge import session_options
from iotistica.errors import ConfigError
from iotistica.settings import Settings

_BRIDGE, _WEB = "iotistica.api.bridge", "iotistica.api.robyn_app"


def run(settings: Settings) -> int:
    """Run the Cloud API until SIGINT or SIGTERM; exit status. Raises `ConfigError`."""
    settings = _complete(settings)
    check(settings)
    log.configure(settings.log_level, service="api", process="supervisor")
    uvloop.run(_run(settings))
    return 0


def check(settings: Settings) -> None:
    """Raise `ConfigError` for what would stop the processes from starting."""
    settings.require("database_url")
    settings.require("redis_url")
    session_options(settings, "check")
    mqtt.client_version(settings.mqtt_client)
    auth.secret(settings)
    auth_keys.ProviderTokens.of(settings)
    if settings.web_processes > 1:
        raise ConfigError(
            f"WEB_PROCESSES is {settings.web_processes}; until there is a front door to share "
            "one port, 1 is what is supported"
        )
    if not _is_loopback(settings.api_host):
        raise ConfigError(
            f"API_HOST is {settings.api_host}; until there is a front door the API listens on "
            "loopback only, so put a proxy in front of 127.0.0.1"
        )
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.api_host, settings.api_port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.api_host}:{settings.api_port}: {error.strerror}; "
                "set API_PORT to another one"
            ) from None


def roles(settings: Settings, supervisor_url: str) -> list[supervisor.Role]:
    """The processes of the service. Each bridge listens where the web process can ask it."""
    bridges, peers = [], {"supervisor": supervisor_url}
    for number in range(settings.bridge_processes):
        name, listener = f"bridge-{number}", supervisor.loopback_listener()
        bridges.append(supervisor.Role(name, _BRIDGE, listener=listener))
        peers[name] = _url(listener)
    return [*bridges, supervisor.Role("web-0", _WEB, {"peers": peers})]


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    supervisor.on_signals(stop)
    listener = supervisor.loopback_listener()
    async with ops.serve(ops.Probe("iotistica-api supervisor"), sock=listener):
        await supervisor.supervise(roles(settings, _url(listener)), settings, stop)


def _complete(settings: Settings) -> Settings:
    """Choose a port where 0 asks for a free one: Robyn cannot tell which it got."""
    if settings.api_port:
        return settings
    with socket.create_server((settings.api_host, 0)) as free:
        return settings.model_copy(update={"api_port": free.getsockname()[1]})


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
