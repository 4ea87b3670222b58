"""`iotistica migrate`: bring a schema up to date, or say how it stands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from iotistica.command import Json, failures
from iotistica.errors import ConfigError
from iotistica.settings import Settings

if TYPE_CHECKING:
    from iotistica.store.migration_report import Entry, Report

HELP = (
    "Bring the schema of DATABASE_URL up to date. With --status or --dry-run nothing is written: a "
    "user who may only read is enough.\n\nExit codes: 0 done, with --status: all is applied; 1 "
    "failed, with --status: something is missing or wrong; 2 wrong setting or argument, or a "
    "database that this release must not touch."
)


def migrate(
    status: Annotated[
        bool, typer.Option("--status", help="List every migration and how it stands.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be applied, in order.")
    ] = False,
    json: Json = False,
) -> None:
    """Apply what is missing and print its names."""
    with failures(json):
        if status and dry_run:
            raise ConfigError("--status and --dry-run are both given; give one of them")
        database_url = Settings.load().require("database_url")
        if status:
            is_well = _status(database_url, json)
        elif dry_run:
            is_well = _dry_run(database_url, json)
        else:
            is_well = _apply(database_url, json)
    if not is_well:
        raise typer.Exit(1)


def _apply(database_url: str, json: bool) -> bool:
    from iotistica.store.migrate import migrate as apply

    applied = asyncio.run(apply(database_url))
    if json:
        typer.echo(orjson.dumps({"applied": applied}))
    else:
        typer.echo("\n".join(applied) or "nothing to apply")
    return True


def _status(database_url: str, json: bool) -> bool:
    from iotistica.store.migration_report import report

    found = asyncio.run(report(database_url))
    if json:
        migrations = [
            {
                "version": entry.version,
                "name": entry.name,
                "state": entry.state,
                "applied_at": entry.applied_at,
            }
            for entry in found.entries
        ]
        document = {"well": found.is_well, **_database(found), "migrations": migrations}
        typer.echo(orjson.dumps(document, option=orjson.OPT_UTC_Z))
    else:
        typer.echo("\n".join([_profile(found), *map(_line, found.entries), *_sum(found)]))
    return found.is_well


def _dry_run(database_url: str, json: bool) -> bool:
    from iotistica.store.migration_report import plan

    found = asyncio.run(plan(database_url))
    if json:
        would = [
            {"version": entry.version, "name": entry.name, "transaction": entry.in_transaction}
            for entry in found.missing
        ]
        typer.echo(orjson.dumps({**_database(found), "would_apply": would}))
    else:
        lines = [
            f"{entry.name}  "
            f"{'in a transaction' if entry.in_transaction else 'statement by statement'}"
            for entry in found.missing
        ]
        typer.echo("\n".join([_profile(found), *(lines or ["nothing to apply"])]))
    return True


def _database(found: Report) -> dict[str, Any]:
    verdict = found.timescaledb
    return {
        "profile": found.profile,
        "profile_is_decided": found.is_decided,
        "timescaledb": None
        if verdict is None
        else {"fitness": verdict.fitness, "text": verdict.text, "advice": verdict.advice or None},
    }


def _profile(found: Report) -> str:
    chosen = "" if found.is_decided else " (would be chosen for this user)"
    verdict = found.timescaledb
    if verdict is None:
        return f"profile {found.profile}{chosen}"
    advice = f"; {verdict.advice}" if verdict.advice else ""
    return f"profile {found.profile}{chosen}: {verdict.text}{advice}"


def _line(entry: Entry) -> str:
    when = "" if entry.applied_at is None else f"  {entry.applied_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{entry.state:<8}  {entry.name}{when}"


def _sum(found: Report) -> list[str]:
    """What is wrong, in a line each."""
    lines = []
    for state, text in (
        ("missing", "are missing; run `iotistica migrate`"),
        ("changed", "were changed after they were applied; restore the files"),
        ("unknown", "are unknown to this release; the database was used by a newer one"),
    ):
        if count := sum(entry.state == state for entry in found.entries):
            lines.append(f"{count} {text}")
    return lines or ["all are applied"]
