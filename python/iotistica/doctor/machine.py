"""Checks of this machine: disks, spools, secrets, clocks, and the services that answer."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from iotistica.doctor.finding import Finding, not_checked, ok, problem, warning
from iotistica.doctor.place import Place
from iotistica.errors import StoreUnavailable
from iotistica.spool import inventory
from iotistica.store.inspection import inspected
from iotistica.store.pool import Connection
from iotistica.streams.inspection import inspection, skew_s

Clock = Callable[[], float]
_GIB = 1 << 30
_MINIMUM_SECRET_BYTES = 32
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float"
_DATA = "SELECT current_setting('data_directory', true)"


async def check_disk(place: Place, *, low: float = 0.15, least: float = 0.05) -> list[Finding]:
    """There is room where PostgreSQL keeps its data, if that is on this machine."""
    path, why = await _data_directory(place)
    if path is None:
        return [not_checked("disk", why)]
    usage = shutil.disk_usage(path)
    free = usage.free / usage.total
    text = f"{usage.free / _GIB:,.1f} GiB of {usage.total / _GIB:,.1f} are free at {path}"
    advice = "make room, add space, or lower IOTISTICA_RETENTION_DAYS"
    if free < least:
        return [problem("disk", text, advice)]
    if free < low:
        return [warning("disk", text, advice)]
    return [ok("disk", text)]


async def _data_directory(place: Place) -> tuple[Path | None, str]:
    if place.directory is not None and "postgres" in place.embedded:
        return place.directory, ""
    if place.settings.database_url is None:
        return None, "DATABASE_URL is not set"
    async with inspected(place.settings.database_url) as connection:
        named = await connection.fetchval(_DATA)
    if not named:
        return None, "this user may not see where PostgreSQL keeps its data"
    path = Path(named)
    # The same path may be another directory: this file is of PostgreSQL alone.
    if not await asyncio.to_thread((path / "PG_VERSION").is_file):
        return None, f"{path} is not on this machine, or not to be seen"
    return path, ""


async def check_spool(place: Place) -> list[Finding]:
    """What must wait on disk finds room there, and nothing is damaged."""
    root = place.settings.spool_root("any").parent
    there = next(one for one in (root, *root.parents) if one.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        text = f"{there} may not be written to: without a spool an outage holds agents up"
        return [problem("spool", text, "let the services' user write there")]
    wanted = place.settings.spool_max_bytes + place.settings.api_spool_max_bytes
    holdings = await asyncio.to_thread(inventory.holdings, root)
    held = sum(one.bytes for one in holdings)
    found = []
    if (free := shutil.disk_usage(there).free) < wanted - held:
        text = f"{free / _GIB:,.1f} GiB are free at {root}, spools may need {wanted / _GIB:,.1f}"
        advice = "make room, or lower IOTISTICA_SPOOL_MAX_BYTES"
        found.append(warning("spool", text, advice))
    if damaged := sum(one.quarantined + one.unreadable for one in holdings):
        text = f"{damaged} segments are damaged"
        found.append(problem("spool", text, "run `iotistica spool verify`, which names them"))
    if waiting := sum(one.segments for one in holdings):
        text = f"{waiting:,} segments wait, {held / (1 << 20):,.1f} MiB"
        advice = "they are replayed once the server that was away is back; else see `spool replay`"
        found.append(warning("spool", text, advice))
    return found or [ok("spool", f"nothing waits at {root}, {free / _GIB:,.1f} GiB are free")]


async def check_secrets(place: Place) -> list[Finding]:
    """The secret of tokens is long enough, and only we read the files of secrets."""
    settings, found = place.settings, []
    file = settings.jwt_secret_file
    secret = settings.jwt_secret.get_secret_value().encode() if settings.jwt_secret else None
    if secret is None and file is not None:
        try:
            secret = file.read_bytes().strip()
        except OSError as error:
            text = f"{file} cannot be read: {error.strerror}"
            return [problem("secrets", text, "run it as the services' user, or mend the path")]
    if secret is None:
        found.append(not_checked("secrets", "JWT_SECRET and JWT_SECRET_FILE are not set here"))
    elif len(secret) < _MINIMUM_SECRET_BYTES:
        text = f"JWT_SECRET has {len(secret)} bytes; at least {_MINIMUM_SECRET_BYTES} are needed"
        found.append(problem("secrets", text, "make one with `openssl rand -base64 48`"))
    elif len(set(secret)) < 8:
        text = f"JWT_SECRET is made of {len(set(secret))} different bytes; it can be guessed"
        found.append(problem("secrets", text, "make one with `openssl rand -base64 48`"))
    for path in _secret_files(place):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            text = f"others may read {path}"
            found.append(problem("secrets", text, f"run `chmod 600 {path}`"))
    return found or [ok("secrets", "long enough, and for their owner alone")]


def _secret_files(place: Place) -> list[Path]:
    files = [place.settings.jwt_secret_file, place.settings.door_tls_key_file]
    if place.directory is not None:
        files += [place.directory / "state.json", *(place.directory / "secrets").glob("*")]
    return sorted({path for path in files if path is not None and path.is_file()})


async def check_clocks(
    place: Place, *, clock: Clock = time.time, high_s: float = 1.0, most_s: float = 30.0
) -> list[Finding]:
    """This machine, PostgreSQL and Redis agree on the time."""
    found = []
    for server, url, skew in (
        ("PostgreSQL", place.settings.database_url, _database_skew),
        ("Redis", place.settings.redis_url, _redis_skew),
    ):
        if url is None:
            continue
        try:
            ahead = await skew(url, clock)
        except StoreUnavailable:
            found.append(not_checked("clocks", f"{server} is away"))
            continue
        text = f"the clock of {server} is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}"
        advice = "run an NTP service (chrony, systemd-timesyncd) on both machines"
        if abs(ahead) >= most_s:
            found.append(problem("clocks", text, advice))
        elif abs(ahead) >= high_s:
            found.append(warning("clocks", text, advice))
    return found or [ok("clocks", "this machine and the servers agree")]


async def _database_skew(url: str, clock: Clock) -> float:
    async with inspected(url) as connection:
        return await _skew(connection, clock)


async def _skew(connection: Connection, clock: Clock) -> float:
    before = clock()
    there: float = await connection.fetchval(_NOW)
    return there - (before + clock()) / 2


async def _redis_skew(url: str, clock: Clock) -> float:
    async with inspection(url) as found:
        return await skew_s(found, clock)


async def check_ntp(_place: Place) -> list[Finding]:
    """The clock of this machine is kept by somebody."""
    program = shutil.which("timedatectl")
    if program is None:
        return [not_checked("NTP", "there is no timedatectl on this machine")]
    process = await asyncio.create_subprocess_exec(
        *(program, "show", "--property=NTPSynchronized", "--value"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    match output.decode().strip():
        case "yes":
            return [ok("NTP", "the clock of this machine is synchronized")]
        case "no":
            text = "the clock of this machine is not synchronized"
            return [warning("NTP", text, "run an NTP service (chrony, systemd-timesyncd)")]
    return [not_checked("NTP", "timedatectl does not say")]


async def check_services(place: Place) -> list[Finding]:
    """The Cloud API and Ingestion answer that they are ready."""
    settings, found = place.settings, []
    urls = {
        "Cloud API": place.state.get("api") or f"http://{settings.api_host}:{settings.api_port}",
        "Ingestion": place.state.get("ingestion")
        or f"http://{settings.ingestion_host}:{settings.ingestion_port}",
    }
    timeout = aiohttp.ClientTimeout(total=5.0)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        for name, url in urls.items():
            found.append(await _service(client, name, url, is_known=bool(place.state)))
    return found


async def _service(
    client: aiohttp.ClientSession, name: str, url: str, *, is_known: bool
) -> Finding:
    try:
        async with client.get(f"{url}/ready") as answer:
            status = answer.status
            body = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        reason = str(error) or "no answer within 5 s"
        if is_known:
            advice = "start `iotistica up`, and see the logs in its data directory"
            return problem(name, f"does not answer at {url}: {reason}", advice)
        return not_checked(name, f"nothing answers at {url}")
    if status == 200:
        return ok(name, f"ready at {url}")
    reasons = body.get("reasons") if isinstance(body, dict) else None
    text = f"is not ready: {'; '.join(map(str, reasons or [status]))}"
    return problem(name, text, f"see its log, and {url}/ready")
