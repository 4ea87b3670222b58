"""`iotistica audit`: whether everything that was accepted is accounted for."""

from __future__ import annotations

from typing import Annotated

import typer

from iotistica.command import DataDir, Json, failures

HELP = (
    "Audit the loss ledger of the platform of --data-dir, or of DATABASE_URL and REDIS_URL: "
    "whether all that was accepted is stored, refused, on disk or in flight, what was lost, and "
    "which numbered messages never came.\n\nExit codes: 0 all is accounted for and nothing lost or "
    "missing, 1 it is not, or that cannot be told, 2 wrong setting or argument."
)


def audit(
    tenant: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="UUID", help="Only this one.")] = None,
    problems: Annotated[
        bool, typer.Option("--problems", help="List only agents with problems.")
    ] = False,
    count: Annotated[
        bool, typer.Option("--count", help="Count the rows of each agent in the table, too.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Agents to list: 20 unless told, all with --json.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Every two seconds, until Ctrl-C.")
    ] = False,
    acknowledge: Annotated[
        str | None,
        typer.Option(
            metavar="REASON",
            help="Say that the losses of --tenant are known, and why; audits are clean again.",
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Audit, print, and exit with the verdict."""
    with failures(json):
        from iotistica.audit.command import Options, run

        options = Options(
            data_dir=data_dir,
            tenant=tenant,
            agent=agent,
            problems=problems,
            count=count,
            watch=watch,
            most=limit,
            acknowledge=acknowledge,
            json=json,
        )
        is_clean = run(options)
    if not is_clean:
        raise typer.Exit(1)
