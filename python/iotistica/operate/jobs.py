"""`iotistica jobs`: order work of agents, and see what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from iotistica.command import failures, with_options
from iotistica.errors import ConfigError
from iotistica.operate.options import CREDENTIALS, EXIT_CODES, Limit, Options

if TYPE_CHECKING:
    from iotistica.api.models.jobs import Job, PartView
    from iotistica.client import Client

_PAGE = 500
_ENDS = ("succeeded", "failed", "timed_out", "rejected", "canceled")
_PARTS = ("agent_uuid", "agent_name", "status", "exit_code", "failed_step", "reason")

app = typer.Typer(help="Jobs: work for agents." + CREDENTIALS, no_args_is_help=True)

JobId = Annotated[UUID, typer.Argument(metavar="JOB", show_default=False)]


@app.command(
    help="Order a job: DOCUMENT is a JSON file, - is standard input. With --wait the command "
    "stays until the job has ended, and --json prints a second line then; Ctrl-C leaves the job "
    "alone.\n\nExit codes: 0 ordered, or with --wait every agent succeeded, 1 not all did, or "
    "failed, 2 wrong setting or argument."
)
@with_options(Options)
def run(
    options: Options,
    document: Annotated[str, typer.Argument(metavar="DOCUMENT", show_default=False)],
    agent: Annotated[list[UUID] | None, typer.Option(help="By this agent.")] = None,
    group: Annotated[UUID | None, typer.Option(help="By the agents of this group.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="By every agent of the tenant.")] = False,
    name: Annotated[str | None, typer.Option(help="Left out: the name of the file.")] = None,
    timeout_minutes: Annotated[int, typer.Option(min=1, help="For each agent.")] = 60,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended.")] = False,
) -> None:
    """Order, and see it through."""
    from iotistica.api.models.jobs import Execute
    from iotistica.operate import output
    from iotistica.operate.documents import read

    with failures(options.json):
        if sum((bool(agent), group is not None, everyone)) != 1:
            raise ConfigError("give one of --agent, --group and --all")
        order = Execute(
            target_type="all" if everyone else "group" if group else "device",
            job_document=read(document, dict[str, Any]),
            job_name=name or Path(document).name,
            target_agents=agent or [],
            target_group=group,
            timeout_minutes=timeout_minutes,
        )
    ordered = options.run(lambda client: client.jobs.execute(order))
    job = ordered["job_id"]
    output.said(options, ordered, f"job {job} is ordered of {ordered['total_agents']:,} agents")
    if not wait:
        return
    ended, others = options.run(lambda client: _ended(client, job))
    output.said(options, ended, _sentence(ended))
    if others and not options.json:
        output.write(output.table(_columns(_PARTS), others))
    if ended["succeeded_agents"] != ended["total_agents"]:
        raise typer.Exit(1)


@app.command("list", help="List jobs with their counts, newest first." + EXIT_CODES)
@with_options(Options)
def list_jobs(
    options: Options,
    status: Annotated[
        str | None,
        typer.Option(help="SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED or ABORTED."),
    ] = None,
    limit: Limit = None,
) -> None:
    """A table."""
    from iotistica.api.models.jobs import JobQuery
    from iotistica.operate import output

    # The API says which there are.
    query = JobQuery(status=status, limit=min(limit or _PAGE, _PAGE))  # type: ignore[arg-type]
    names = ("job_id", "job_name", "status", "created_at", "total_agents")
    columns = _columns((*names, *(f"{end}_agents" for end in _ENDS)))
    output.listed(options, lambda client: client.jobs.all(query), columns, limit)


@app.command(help="Show a job, and where each of its agents stands." + EXIT_CODES)
@with_options(Options)
def show(options: Options, job: JobId) -> None:
    """Fields, then a table; with --json one document."""
    from iotistica.operate import output

    found, parts = options.run(lambda client: _whole(client, job))
    if options.json:
        output.line({**found, "agents": parts})
        return
    output.shown(options, found)
    output.write("\n" + output.table(_columns(_PARTS), parts))


@app.command(help="End a job for all agents that are not done." + EXIT_CODES)
@with_options(Options)
def cancel(
    options: Options,
    job: JobId,
    reason: Annotated[str, typer.Option(help="Why, for the agents and the journal.")] = "",
) -> None:
    """Cancel."""
    from iotistica.operate import output

    options.run(lambda client: client.jobs.cancel(job, reason))
    output.said(options, {"canceled": str(job)}, f"{job} is canceled")


async def _ended(client: Client, job: str) -> tuple[Job, list[PartView]]:
    """The job when it has ended, and the agents that did not succeed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("agents that are done", total=None)
        async for seen in client.jobs.watch(job):
            done = sum(seen[f"{end}_agents"] for end in _ENDS)  # type: ignore[literal-required]
            progress.update(bar, completed=done, total=seen["total_agents"])
    return seen, [one async for one in client.jobs.parts(job) if one["status"] != "SUCCEEDED"]


async def _whole(client: Client, job: UUID) -> tuple[Job, list[PartView]]:
    return await client.jobs.get(job), [one async for one in client.jobs.parts(job)]


def _sentence(job: Job) -> str:
    return (
        f"job {job['job_id']} is {job['status']}: {job['succeeded_agents']:,} of "
        f"{job['total_agents']:,} agents succeeded"
    )


def _columns(names: Sequence[str]) -> dict[str, Callable[[Any], object]]:
    return {name.removesuffix("_agents"): itemgetter(name) for name in names}
