"""`iotistica quota`: what tenants may send each second, and store."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Table

from iotistica.command import DataDir, Json, attached, failures
from iotistica.errors import ConfigError
from iotistica.quotas import Quota
from iotistica.retention import quota_since

if TYPE_CHECKING:
    from iotistica.store.pool import Pool

T = TypeVar("T")

EXIT_CODES = "\n\nExit codes: 0 done, 1 failed, 2 wrong setting or argument."

app = typer.Typer(help="What tenants may send each second, and store.", no_args_is_help=True)

Limit = Annotated[float | None, typer.Option(min=0, help="Each second; left out: the default.")]


@app.command("list", help="List the tenants that have a quota of their own." + EXIT_CODES)
def list_quotas(data_dir: DataDir = None, json: Json = False) -> None:
    """One line for each tenant."""
    with failures(json):
        from iotistica.store.tenants import tenant_quotas

        quotas = asyncio.run(_with_pool(data_dir, tenant_quotas))
    if json:
        typer.echo(orjson.dumps({tenant: asdict(quota) for tenant, quota in quotas.items()}))
        return
    table = Table("tenant", "messages/s", "readings/s", "bytes/s", "stored readings", box=None)
    for tenant, quota in sorted(quotas.items()):
        limits = (quota.messages_per_s, quota.readings_per_s, quota.bytes_per_s)
        cells = ["default" if limit is None else f"{limit:,g}" for limit in limits]
        most = quota.stored_readings
        table.add_row(tenant, *cells, "default" if most is None else f"{most:,}")
    Console().print(table)


@app.command(
    "set",
    help="Give a tenant a quota; without a limit it has the default of the settings. What is over "
    "quota is stored later, through the backfill stream. Services know of it within 10 s. Of more "
    "readings than --stored the oldest days are removed: it says how many that are, and asks."
    + EXIT_CODES,
)
def set_one(
    tenant: Annotated[str, typer.Argument()],
    messages: Limit = None,
    readings: Limit = None,
    bytes_: Annotated[
        float | None, typer.Option("--bytes", min=0, help="Each second; left out: the default.")
    ] = None,
    stored: Annotated[
        int | None, typer.Option(min=0, help="Readings at a time; left out: the default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Replace the tenant's quota."""
    quota = Quota(
        messages_per_s=messages or None,
        readings_per_s=readings or None,
        bytes_per_s=bytes_ or None,
        stored_readings=stored or None,
    )
    with failures(json):
        from iotistica.store.storage import stored_by_day
        from iotistica.store.tenants import set_quota

        if (most := quota.stored_readings) is not None and not yes:
            found = asyncio.run(_with_pool(data_dir, lambda pool: stored_by_day(pool, tenant)))
            _confirm(found, most, as_json=json)
        asyncio.run(_with_pool(data_dir, lambda pool: set_quota(pool, tenant, quota)))
    typer.echo(orjson.dumps({tenant: asdict(quota)}) if json else f"{tenant}: quota is set")


def _confirm(days: Mapping[date, int], most: int, *, as_json: bool) -> None:
    """Ask before readings are removed. Raises `ConfigError` where there is nobody to ask."""
    since = quota_since(days, most, datetime.now(UTC).date())
    if since is None:
        return
    gone = sum(readings for day, readings in days.items() if day < since)
    if as_json or not sys.stdin.isatty():
        raise ConfigError(
            f"{gone:,} readings from before {since} would be removed; --yes is not given, and "
            "there is nobody to ask"
        )
    typer.confirm(f"Remove {gone:,} readings, all from before {since}?", abort=True)


async def _with_pool(data_dir: Path | None, work: Callable[[Pool], Awaitable[T]]) -> T:
    from iotistica.store.pool import open_pool

    pool = await open_pool(attached(data_dir), application_name="iotistica quota")
    try:
        return await work(pool)
    finally:
        await pool.close()
