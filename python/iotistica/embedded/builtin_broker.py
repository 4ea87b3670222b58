"""The MQTT 5 broker that the wheel brings, run as a process of its own.

`python -m iotistica.embedded.builtin_broker --data-dir DIR --password-file F --acl-file F`.
Exit codes: 0 after SIGTERM or SIGINT, 2 when a port, directory or file cannot be used.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import resource
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TypeAlias

from iotistica import _native

MIB = 1024 * 1024
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_LOOPBACK = ipaddress.IPv4Address("127.0.0.1")

_ADVICE = {
    "address": "IP address to listen on",
    "port": "TCP port; 0 picks a free one, which stands in the log",
    "data_dir": "directory of the journal: sessions, their messages, retained messages",
    "password_file": "users, in the format of mosquitto_passwd; SIGHUP reads it again",
    "acl_file": "rights, in the format of mosquitto's acl_file; SIGHUP reads it again",
    "log_level": "debug, info, warning or error",
    "max_connections": "connections at the same time",
    "max_packet_bytes": "largest packet that is taken",
    "receive_maximum": "QoS 1 messages that a client may have unacknowledged",
    "max_queued_messages": "messages that may wait for one session; then its publishers wait",
    "max_queued_bytes": "bytes that may wait for one session; then its publishers wait",
    "max_total_queued_bytes": "bytes that may wait in all; then every publisher waits",
    "max_session_expiry_s": "longest time that the session of an absent client is kept, seconds",
    "compact_bytes": "journal length above which it is rewritten when mostly obsolete",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What the broker is told at its start."""

    data_dir: Path
    password_file: Path
    acl_file: Path
    address: Address = _LOOPBACK
    port: int = 1883
    log_level: str = "info"
    max_connections: int = 10_000
    max_packet_bytes: int = 2 * MIB
    receive_maximum: int = 256
    max_queued_messages: int = 100_000
    max_queued_bytes: int = 64 * MIB
    max_total_queued_bytes: int = 256 * MIB
    max_session_expiry_s: int = 7 * 86_400
    compact_bytes: int = 64 * MIB


_BOUNDS = {
    "port": (0, 65_535),
    "max_packet_bytes": (256, 256 * MIB),
    "receive_maximum": (1, 65_535),
}


def _number(name: str) -> Callable[[str], int]:
    least, most = _BOUNDS.get(name, (1, 2**31))

    def convert(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return convert


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not an IP address") from None


def _parse(arguments: list[str] | None) -> BrokerConfig:
    parser = ArgumentParser(prog="python -m iotistica.embedded.builtin_broker", description=__doc__)
    for field in fields(BrokerConfig):
        add = functools.partial(parser.add_argument, f"--{field.name.replace('_', '-')}")
        advice = _ADVICE[field.name]
        if field.default is MISSING:
            add(required=True, type=Path, help=advice)
        elif field.name == "log_level":
            add(default=field.default, choices=("debug", "info", "warning", "error"), help=advice)
        else:
            convert = _address if field.name == "address" else _number(field.name)
            add(default=field.default, type=convert, help=f"{advice} (default %(default)s)")
    return BrokerConfig(**vars(parser.parse_args(arguments)))


def _allow_open_files(wanted: int) -> None:
    """Raise the soft limit of open files as far as the hard limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def main(arguments: list[str] | None = None) -> int:
    """Run the broker until SIGTERM or SIGINT; returns the exit code."""
    config = _parse(arguments)
    # Python's own handler would still raise KeyboardInterrupt after the broker has stopped.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _allow_open_files(config.max_connections + 100)
    try:
        _native.serve_broker(config)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
