"""Every check, in groups; one that fails itself is a finding and no traceback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from iotistica import mqtt
from iotistica.doctor import broker, database, machine, readings, redis, report
from iotistica.doctor.finding import Finding, Level, not_checked, ok, problem
from iotistica.doctor.place import Place, find
from iotistica.errors import ConfigError, StoreUnavailable
from iotistica.store.inspection import inspected
from iotistica.store.pool import Connection
from iotistica.streams.inspection import inspection

LIMIT_S = 15.0
"""Of one check."""

Check = Callable[..., Awaitable[list[Finding]]]

_DATABASE: tuple[Check, ...] = (
    database.check_server,
    database.check_schema,
    database.check_timescale,
    readings.check_policies,
    readings.check_rollups,
    readings.check_partitions,
    database.check_settings,
    database.check_bloat,
    database.check_age,
    database.check_transactions,
    database.check_slots,
    database.check_unlogged,
)
_REDIS: tuple[Check, ...] = (
    redis.check_version,
    redis.check_memory_policy,
    redis.check_memory,
    redis.check_persistence,
    redis.check_streams,
)
_BROKER: tuple[Check, ...] = (
    broker.check_connection,
    broker.check_anonymous,
    broker.check_strangers,
    broker.check_queues,
    broker.check_dropped,
)
_MACHINE: tuple[Check, ...] = (
    machine.check_disk,
    machine.check_spool,
    machine.check_clocks,
    machine.check_ntp,
    machine.check_secrets,
    machine.check_services,
)


@dataclass(frozen=True, slots=True)
class Group:
    """Findings that belong together."""

    name: str
    findings: list[Finding] = field(default_factory=list)


def run(data_dir: Path | None, *, agent_url: str | None, as_json: bool) -> bool:
    """Examine, print, and say whether there is no problem. Raises `ConfigError`."""
    place = find(data_dir, agent_url)
    _check_urls(place)
    groups = uvloop.run(examine(place))
    report.show(groups, as_json=as_json)
    return not any(one.level is Level.PROBLEM for group in groups for one in group.findings)


def _check_urls(place: Place) -> None:
    """Raises `ConfigError` where no server is known, or the URL of one is malformed."""
    settings = place.settings
    if not any((settings.database_url, settings.redis_url, settings.mqtt_url)):
        raise ConfigError("none of DATABASE_URL, REDIS_URL and MQTT_URL is set; nothing to examine")
    for url in (settings.mqtt_url, place.agent_url):
        if url is not None:
            mqtt.parse_url(url, client_id="check")


async def examine(place: Place) -> list[Group]:
    """All checks, group by group in an order of their own. Raises `ConfigError`."""
    groups = await asyncio.gather(
        _database(place),
        _redis(place),
        _each("MQTT broker", _BROKER, (place,), known=place.settings.mqtt_url, name="MQTT_URL"),
        _each("this machine", _MACHINE, (place,), known="here"),
        return_exceptions=True,
    )
    # All have ended: what is raised leaves nothing running.
    for group in groups:
        if isinstance(group, BaseException):
            raise group
    return [group for group in groups if isinstance(group, Group)]


async def _database(place: Place) -> Group:
    url = place.settings.database_url

    def opened() -> AbstractAsyncContextManager[Connection]:
        return inspected(url or "")

    return await _server("PostgreSQL", _DATABASE, opened, place, known=url, name="DATABASE_URL")


async def _redis(place: Place) -> Group:
    url = place.settings.redis_url

    def opened() -> AbstractAsyncContextManager[Any]:
        return inspection(url or "")

    return await _server("Redis", _REDIS, opened, place, known=url, name="REDIS_URL")


async def _server(
    group: str,
    checks: Sequence[Check],
    opened: Callable[[], AbstractAsyncContextManager[Any]],
    place: Place,
    *,
    known: str | None,
    name: str,
) -> Group:
    """Checks that share a connection."""
    if known is None:
        return Group(group, [not_checked("connection", f"{name} is not set")])
    try:
        async with opened() as connection:
            found = await _each(group, checks, (connection, place), known=known)
    except StoreUnavailable as error:
        advice = f"see that it runs, and that {name} has its address, user and password"
        return Group(group, [problem("connection", str(error), advice)])
    return Group(group, [ok("connection", "answers"), *found.findings])


async def _each(
    group: str,
    checks: Sequence[Check],
    subjects: tuple[Any, ...],
    *,
    known: str | None,
    name: str = "",
) -> Group:
    if known is None:
        return Group(group, [not_checked("connection", f"{name} is not set")])
    findings = []
    for check in checks:
        findings += await guarded(check, *subjects)
    return Group(group, findings)


async def guarded(check: Check, *subjects: Any, limit_s: float = LIMIT_S) -> list[Finding]:
    """What a check finds; one that fails or takes too long has found nothing."""
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        async with asyncio.timeout(limit_s):
            if subjects and hasattr(subjects[0], "transaction"):
                # So an error ends this check only, and not the transaction of all.
                async with subjects[0].transaction():
                    return await check(*subjects)
            return await check(*subjects)
    except TimeoutError:
        return [not_checked(name, f"it took longer than {limit_s:g} s")]
    except ConfigError:
        raise
    except Exception as error:
        return [not_checked(name, f"the check failed: {str(error) or type(error).__name__}")]
