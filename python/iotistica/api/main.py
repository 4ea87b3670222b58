"""`iotistica api`: the Cloud API, as a small supervisor of door, bridge and web processes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping

import uvloop

from iotistica import log, mqtt, ops, supervisor
from iotistica.api import auth, auth_keys, auth_license, door
from iotistica.api.accounts import choice
from iotistica.api.link import session_options
from iotistica.settings import Settings

_BRIDGE, _CONTROL, _DOOR, _WEB = (
    f"iotistica.api.{name}" for name in ("bridge", "control", "door", "robyn_app")
)


def run(settings: Settings) -> int:
    """Run the Cloud API until SIGINT or SIGTERM; exit status. Raises `ConfigError`."""
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
    auth_license.read(settings)
    choice.check(settings)
    door.check(settings)
    door.listen(settings).close()


def roles(settings: Settings, supervisor_url: str) -> list[supervisor.Role]:
    """The processes of the service. Each has a listener where the web processes can ask it."""
    bridges = _names("bridge", settings.bridge_processes)
    controls = _names("control", settings.control_processes)
    webs = {name: supervisor.reserve_port() for name in _names("web", settings.web_processes)}
    listeners = {
        name: supervisor.loopback_listener() for name in (*bridges, *controls, *webs, "door")
    }
    sockets = {name: supervisor.loopback_listener() for name in webs}
    peers = {"supervisor": supervisor_url, **{name: _url(one) for name, one in listeners.items()}}
    upstreams = {"upstreams": _addresses(webs.values()), "sockets": _addresses(sockets.values())}
    return [
        *(supervisor.Role(name, _BRIDGE, listener=listeners[name]) for name in bridges),
        *(supervisor.Role(name, _CONTROL, listener=listeners[name]) for name in controls),
        *(_web(name, port, listeners[name], sockets[name], peers) for name, port in webs.items()),
        supervisor.Role(
            *("door", _DOOR, upstreams),
            listener=listeners["door"],
            public=door.listen(settings),
            reloads=True,
        ),
    ]


def _web(
    name: str,
    reserved: socket.socket,
    listener: socket.socket,
    sockets: socket.socket,
    peers: Mapping[str, str],
) -> supervisor.Role:
    others = {peer: url for peer, url in peers.items() if peer != name}
    return supervisor.Role(
        *(name, _WEB, {"peers": others, "port": _port(reserved)}),
        listener=listener,
        public=sockets,
        reserved=reserved,
        is_behind=True,
    )


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    supervisor.on_signals(stop)
    listener = supervisor.loopback_listener()
    async with ops.serve(ops.Probe("iotistica-api supervisor"), sock=listener):
        await supervisor.supervise(roles(settings, _url(listener)), settings, stop)


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}-{number}" for number in range(count)]


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def _addresses(listeners: Iterable[socket.socket]) -> list[str]:
    return [f"{supervisor.LOOPBACK}:{_port(one)}" for one in listeners]


def _url(listener: socket.socket) -> str:
    return f"http://{supervisor.LOOPBACK}:{_port(listener)}"
