"""`iotistica import`: its arguments, its help, its exit codes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from iotistica.command import DataDir, Json, failures, with_options
from iotistica.importer.plan import Form, OnError

if TYPE_CHECKING:
    from iotistica.dlq.choice import Place
    from iotistica.importer.plan import Plan

HELP = (
    "Bring telemetry in from files: CSV with a header, NDJSON (one JSON object a line) or Parquet; "
    ".gz and .zst are unpacked. FILE is - for standard input. Columns are time, agent_uuid, "
    "metric_name, value and, where there are, quality, unit, protocol, device_name, extra, "
    "anomaly_score, anomaly_threshold; --column names others. With --wide every other column is a "
    "metric. What telemetry refuses is refused here. To run it again stores nothing twice. "
    "docs/import.md is a guide for those who migrate.\n\nExit codes: 0 all is stored or was there, "
    "1 lines were refused (unless --allow-refused), or failed, 2 wrong setting or argument."
)


Tenant = Annotated[
    str | None, typer.Option(help="Whose agents; a data directory has its own tenant.")
]
Agent = Annotated[str | None, typer.Option(metavar="UUID", help="Whose all readings are.")]
Agents = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="CSV without a header: name, UUID. The agent's column then holds such names.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=COLUMN",
        help="A column's name, such as time=ts or metric=tag; extra.NAME=COLUMN keeps one.",
    ),
]
Wide = Annotated[bool, typer.Option("--wide", help="A column for each metric.")]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="Do not look at this column.")
]
Format = Annotated[Form | None, typer.Option("--format", help="Else the name of each file tells.")]
Delimiter = Annotated[
    str | None, typer.Option(metavar="CHARACTER", help="Of CSV, else a comma; in .tsv a tab.")
]
WhenWrong = Annotated[
    OnError,
    typer.Option(
        help="At a line that can never pass: end there, count it, or write a dead letter, too."
    ),
]
AllowRefused = Annotated[
    bool, typer.Option("--allow-refused", help="Exit with 0 though lines were refused.")
]
Rate = Annotated[float | None, typer.Option(min=1, help="Readings a second at the most.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Decode and check everything; change nothing.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What files hold, and what is to be done with it."""

    tenant: Tenant = None
    agent: Agent = None
    agents: Agents = None
    column: Columns = None
    wide: Wide = False
    ignore: Ignore = None
    form: Format = None
    delimiter: Delimiter = None
    on_error: WhenWrong = OnError.STOP
    allow_refused: AllowRefused = False
    rate: Rate = None
    dry_run: DryRun = False
    data_dir: DataDir = None
    json: Json = False

    def plan(self, files: list[str], place: Place) -> Plan:
        """Raises `ConfigError`."""
        from iotistica.importer import work
        from iotistica.importer.plan import Plan, columns_of

        return Plan(
            files=files,
            tenant=place.tenant,
            agent=work.uuid_of(self.agent),
            agents=work.agents_of(self.agents),
            columns=columns_of(self.column or ()),
            form=self.form,
            wide=self.wide,
            ignored=frozenset(self.ignore or ()),
            delimiter=work.delimiter_of(self.delimiter),
            on_error=self.on_error,
            rate=self.rate,
            dry_run=self.dry_run,
        )


@with_options(Options)
def import_files(
    options: Options, files: Annotated[list[str], typer.Argument(metavar="FILE")]
) -> None:
    """Read, store, and tell what became of it."""
    with failures(options.json):
        from iotistica.importer import work

        place = work.place(options.data_dir, options.tenant)
        plan = options.plan(files, place)
        summary, error = asyncio.run(work.imported(plan, place.settings))
        if summary.lines or error is None:
            described = orjson.dumps(summary.described()) if options.json else summary.text()
            typer.echo(described, nl=options.json)
        if error is not None:
            raise error
    if summary.ended is not None or (summary.refused and not options.allow_refused):
        raise typer.Exit(1)
