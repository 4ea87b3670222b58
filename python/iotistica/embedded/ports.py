"""Free TCP ports of this machine's loopback interface."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress

LOOPBACK = "127.0.0.1"
_LEAST, _FIRST_EPHEMERAL, _ATTEMPTS = 20_000, 32_768, 100


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """True if a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier run that still linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def local_url(host: str, port: int) -> str:
    """Where a server that listens on `host` can be asked from this machine."""
    local = {"0.0.0.0": LOOPBACK, "": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"


def free_port(preferred: int = 0) -> int:
    """`preferred` if it is free, else any free port."""
    return free_ports({"": preferred})[""]


def free_ports(preferred: Mapping[str, int]) -> dict[str, int]:
    """A free port for each name, all different: the preferred one where that is free."""
    with ExitStack() as probes:
        return {name: _hold(port, probes) for name, port in preferred.items()}


def _hold(preferred: int, probes: ExitStack) -> int:
    probe = probes.enter_context(socket.socket())
    if preferred and is_free(preferred):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, preferred))
        return preferred
    # Without the option, so that no two hold the same.
    for wanted in (*_quiet_ports(), 0):
        with suppress(OSError):
            probe.bind((LOOPBACK, wanted))
            break
    port: int = probe.getsockname()[1]
    return port


def _quiet_ports() -> Iterator[int]:
    """Ports that the system gives to no outgoing connection, in no order.

    One of those might be taken between this and the start of the server that it is for.
    """
    return (random.randrange(_LEAST, _FIRST_EPHEMERAL) for _ in range(_ATTEMPTS))  # noqa: S311


async def answers(port: int, request: bytes = b"", reply: bytes = b"") -> bool:
    """True if a server accepts, and its answer to `request` ends with `reply`."""
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    try:
        writer.write(request)
        received = await asyncio.wait_for(reader.readuntil(reply), 1.0) if reply else b""
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()
    return received.endswith(reply)
