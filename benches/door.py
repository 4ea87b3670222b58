"""Door: state polls answered 304, and small answers, by bare Robyn and by Robyn behind the door.

Rounds take turns in one run. All share the machine: Robyn, door and the load generator.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson

import harness
from iotistica import supervisor
from iotistica.settings import Settings

ROOT = Path(__file__).parents[1]
SERVE = "--serve"
ETAG = '"abc"'
PATHS = {"304": "/api/v1/device/x/state", "200": "/api/v1/small"}


def serve(port: int) -> None:
    """A web process whose handlers do as good as nothing: the door's cost shows most."""
    from robyn import Headers, Response, Robyn
    from robyn.argument_parser import Config

    body = orjson.dumps({"readings": list(range(40))})

    async def answer(request: Any) -> Response:
        asked = request.url.path == PATHS["304"]
        if asked and request.headers.get("if-none-match") == ETAG:
            return Response(304, Headers({"etag": ETAG}), b"")
        return Response(200, Headers({"content-type": "application/json"}), body)

    config = Config()
    config.disable_openapi = True
    config.log_level = "ERROR"
    app = Robyn(os.devnull, config=config)
    for path in ("/", "/*path"):
        app.add_route("GET", path, answer)
    app.start(host=supervisor.LOOPBACK, port=port, _check_port=False)


def build() -> Path:
    """The load generator: a Rust example, cheap enough to leave the cores to the servers."""
    command = ["cargo", "build", "--quiet", "--release", "--package", "iotistica-door"]
    subprocess.run([*command, "--example", "load"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "examples" / "load"


def start_web(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, SERVE, str(port)], stdout=subprocess.DEVNULL)


def start_door(public: socket.socket, web_port: int, threads: int) -> subprocess.Popen[bytes]:
    operations = supervisor.loopback_listener()
    settings = Settings.load(
        database_url="postgresql://x",
        log_level="warning",
        door_threads=threads,
        door_address_requests_per_s=0,
    )
    upstreams = {"upstreams": [f"{supervisor.LOOPBACK}:{web_port}"]}
    role = supervisor.Role(
        *("door", "iotistica.api.door", upstreams), listener=operations, public=public
    )
    process = subprocess.Popen(
        [sys.executable, "-m", role.module],
        stdin=subprocess.PIPE,
        pass_fds=(operations.fileno(), public.fileno()),
    )
    assert process.stdin is not None
    process.stdin.write(supervisor._assignment(role, settings))
    process.stdin.flush()
    return process


def wait_for(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection((supervisor.LOOPBACK, port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit("the web process does not listen")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = harness.arguments(__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    load, reserved, public = build(), supervisor.reserve_port(), supervisor.loopback_listener()
    web_port, door_port = (one.getsockname()[1] for one in (reserved, public))
    web = start_web(web_port)
    door = start_door(public, web_port, options.threads)
    try:
        wait_for(web_port)
        for status, path in PATHS.items():
            measure(load, status, path, (web_port, door_port), (web.pid, door.pid), options)
    finally:
        for process in (door, web):
            process.send_signal(signal.SIGKILL)
            process.wait()


def measure(
    load: Path,
    status: str,
    path: str,
    ports: tuple[int, int],
    pids: tuple[int, int],
    options: Any,
) -> None:
    found: dict[str, list[tuple[float, ...]]] = {"bare": [], "door": []}
    for _ in range(options.runs):
        for name, port in zip(found, ports, strict=True):
            before = [cpu_seconds(pid) for pid in pids]
            command = [str(load), str(port), str(options.connections), str(options.seconds), path]
            shown = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()
            rate, median, p99 = (float(one) for one in shown)
            spent = [cpu_seconds(pid) - one for pid, one in zip(pids, before, strict=True)]
            count = rate * options.seconds
            found[name].append((rate, median, p99, *(1e6 * one / count for one in spent)))
    for name, rounds in found.items():
        rate, median, p99, web_us, door_us = (
            statistics.median(column) for column in zip(*rounds, strict=True)
        )
        print(
            f"{status} {name}: {rate:,.0f} requests/s, median {median / 1000:.2f} ms, "
            f"p99 {p99 / 1000:.2f} ms, CPU of Robyn {web_us:.0f} us, of the door {door_us:.0f} us"
        )
    harness.report(
        bench=f"door {status}",
        runs=[one[0] for one in found["door"]],
        baselines=[one[0] for one in found["bare"]],
        unit="requests/s",
        as_json=options.json,
        connections=options.connections,
    )


if __name__ == "__main__":
    if SERVE in sys.argv:
        port = int(sys.argv[-1])
        sys.argv = sys.argv[:1]  # Robyn reads them
        serve(port)
    else:
        main()
