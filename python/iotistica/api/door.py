"""The front door: the process that faces the network, in front of the web processes.

All of it is Rust (`rust/door`, docs/front-door.md); this module says with which settings.
"""

from __future__ import annotations

import contextlib
import ipaddress
import resource
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from iotistica import _native, log, supervisor
from iotistica.api.streaming import STREAMED
from iotistica.errors import ConfigError
from iotistica.settings import Settings

_BACKLOG = 1024
_SPARE_FILES = 200

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorConfig:
    """What `_native.serve_door` is told; the two descriptors become its own."""

    service_fd: int
    operations_fd: int
    upstreams: list[str]
    sockets: list[str]
    streamed: list[str]
    process: str
    log_level: str
    threads: int
    trusted_proxies: list[str]
    cors_origins: list[str]
    tls_certificate_file: Path | None
    tls_key_file: Path | None
    target_bytes: int
    head_bytes: int
    head_fields: int
    body_bytes: int
    bodies_bytes: int
    connections: int
    address_connections: int
    address_rate_per_s: float
    address_burst: float
    head_s: float
    idle_s: float
    body_idle_s: float
    body_s: float
    write_s: float
    answer_s: float
    stream_idle_s: float
    stop_grace_s: float


def check(settings: Settings) -> None:
    """Raise `ConfigError` for settings that the door would refuse."""
    for proxy in _listed(settings.door_trusted_proxies):
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise ConfigError(f"IOTISTICA_DOOR_TRUSTED_PROXIES: {error}") from None
    for origin in _listed(settings.cors_origins):
        parts = urlsplit(origin)
        if origin != "*" and origin != f"{parts.scheme}://{parts.netloc}":
            raise ConfigError(
                f"CORS_ORIGINS has {origin[:80]!r}; an origin is scheme://host or "
                "scheme://host:port, without a path"
            )
    certificate, key = settings.door_tls_certificate_file, settings.door_tls_key_file
    if (certificate is None) != (key is None):
        raise ConfigError(
            "IOTISTICA_DOOR_TLS_CERTIFICATE_FILE and IOTISTICA_DOOR_TLS_KEY_FILE go together"
        )
    for file in (certificate, key):
        if file is not None and not file.is_file():
            raise ConfigError(f"{file} is not a file; TLS needs a certificate and a key in PEM")


def listen(settings: Settings) -> socket.socket:
    """The listening socket of the service. Raises `ConfigError`."""
    host, port = settings.api_host, settings.api_port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(
            (host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; set API_PORT to another one"
        ) from None


def _config(assignment: supervisor.Assignment) -> DoorConfig:
    settings = assignment.settings
    if assignment.public is None or assignment.listener is None:
        raise ConfigError("the door needs the sockets that `iotistica api` hands over")
    return DoorConfig(
        service_fd=assignment.public.detach(),
        operations_fd=assignment.listener.detach(),
        upstreams=assignment.parameters["upstreams"],
        sockets=assignment.parameters.get("sockets", []),
        streamed=list(STREAMED),
        process=assignment.name,
        log_level=settings.log_level,
        threads=settings.door_threads,
        trusted_proxies=_listed(settings.door_trusted_proxies),
        cors_origins=_listed(settings.cors_origins),
        tls_certificate_file=settings.door_tls_certificate_file,
        tls_key_file=settings.door_tls_key_file,
        target_bytes=settings.door_target_bytes,
        head_bytes=settings.door_head_bytes,
        head_fields=settings.door_head_fields,
        body_bytes=settings.door_body_bytes,
        bodies_bytes=settings.door_bodies_bytes,
        connections=settings.door_connections,
        address_connections=settings.door_address_connections,
        address_rate_per_s=settings.door_address_requests_per_s,
        address_burst=settings.door_address_burst_requests,
        head_s=settings.door_head_s,
        idle_s=settings.door_idle_s,
        body_idle_s=settings.door_body_idle_s,
        body_s=settings.door_body_s,
        write_s=settings.door_write_s,
        answer_s=settings.door_answer_s,
        stream_idle_s=settings.door_stream_idle_s,
        stop_grace_s=settings.stop_grace_s,
    )


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _allow_open_files(connections: int) -> None:
    """Raise the soft limit of open files: each connection has one of its own, and one behind it."""
    wanted = 2 * connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def main() -> int:
    """Entry point of `python -m iotistica.api.door`, started by the supervisor."""
    assignment = supervisor.assigned()
    log.configure(assignment.settings.log_level, service="api", process=assignment.name)
    # Python's own handler would still raise KeyboardInterrupt after the door has closed.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _allow_open_files(assignment.settings.door_connections)
    try:
        _native.serve_door(_config(assignment))
    except (ConfigError, OSError, ValueError) as error:
        _log.error(str(error))
        return supervisor.EXIT_CONFIG
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
