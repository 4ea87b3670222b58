"""`iotistica quota`: what tenants may send each second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Table

from iotistica.command import DataDir, Json, attached, failures
from iotistica.quotas import Quota
from iotistica.store.pool import Pool, open_pool
from iotistica.store.tenants import set_quota, tenant_quotas

T = TypeVar("T")

EXIT_CODES = "\n\nExit codes: 0 done, 1 failed, 2 wrong setting or argument."

app = typer.Typer(help="What tenants may send each second.", no_args_is_help=True)

Limit = Annotated[float | None, typer.Option(min=0, help="Each second; left out: the default.")]


@app.command("list", help="List the tenants that have a quota of their own." + EXIT_CODES)
def list_quotas(data_dir: DataDir = None, json: Json = False) -> None:
    """One line for each tenant."""
    with failures(json):
        quotas = asyncio.run(_with_pool(data_dir, tenant_quotas))
    if json:
        typer.echo(orjson.dumps({tenant: asdict(quota) for tenant, quota in quotas.items()}))
        return
    table = Table("tenant", "messages/s", "readings/s", "bytes/s", box=None)
    for tenant, quota in sorted(quotas.items()):
        limits = (quota.messages_per_s, quota.readings_per_s, quota.bytes_per_s)
        table.add_row(tenant, *("default" if limit is None else f"{limit:,g}" for limit in limits))
    Console().print(table)


@app.command(
    "set",
    help="Give a tenant a quota; without a limit it has the default of the settings. What is over "
    "quota is stored later, through the backfill stream. Services know of it within 10 s."
    + EXIT_CODES,
)
def set_one(
    tenant: Annotated[str, typer.Argument()],
    messages: Limit = None,
    readings: Limit = None,
    bytes_: Annotated[
        float | None, typer.Option("--bytes", min=0, help="Each second; left out: the default.")
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Replace the tenant's quota."""
    quota = Quota(
        messages_per_s=messages or None, readings_per_s=readings or None, bytes_per_s=bytes_ or None
    )
    with failures(json):
        asyncio.run(_with_pool(data_dir, lambda pool: set_quota(pool, tenant, quota)))
    typer.echo(orjson.dumps({tenant: asdict(quota)}) if json else f"{tenant}: quota is set")


async def _with_pool(data_dir: Path | None, work: Callable[[Pool], Awaitable[T]]) -> T:
    pool = await open_pool(attached(data_dir), application_name="iotistica quota")
    try:
        return await work(pool)
    finally:
        await pool.close()
