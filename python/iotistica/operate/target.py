"""`iotistica target`: what an agent should be, by version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from iotistica.command import failures, with_options
from iotistica.errors import PreconditionFailed
from iotistica.operate.options import CREDENTIALS, EXIT_CODES, Limit, Options

if TYPE_CHECKING:
    from iotistica.api.models.target_state import Written

app = typer.Typer(
    help="Target states: what an agent should run and be." + CREDENTIALS, no_args_is_help=True
)

Agent = Annotated[UUID, typer.Argument(metavar="AGENT", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]
Version = Annotated[int | None, typer.Option(min=1, help="An earlier version of the history.")]


@app.command(
    help="Show the target state of an agent. What --json prints, `target set` reads." + EXIT_CODES
)
@with_options(Options)
def show(options: Options, agent: Agent, version: Version = None) -> None:
    """Fields."""
    from iotistica.client import Client
    from iotistica.operate import output

    async def read(client: Client) -> object:
        if version is None:
            return await client.targets.get(agent)
        return await client.targets.version(agent, version)

    output.shown(options, options.run(read))


@app.command(
    "set",
    help="Replace the target state of an agent by a JSON document with apps and config; FILE is - "
    "for standard input. The agent gets it with --deploy, or with `target deploy` later."
    + EXIT_CODES,
)
@with_options(Options)
def set_one(
    options: Options,
    agent: Agent,
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    deploy: Annotated[bool, typer.Option("--deploy", help="The agent gets it at once.")] = False,
    if_version: Annotated[
        int | None, typer.Option(min=0, help="Only where it is still at this version.")
    ] = None,
    reason: Reason = "",
) -> None:
    """Write, at the version that was looked at."""
    from iotistica.api.models.target_state import Target
    from iotistica.client import Client
    from iotistica.operate.documents import read

    with failures(options.json):
        target = read(file, Target)
        target.reason = reason or target.reason

    async def write(client: Client) -> Written:
        etag = None
        if if_version is not None:
            state = await client.targets.get(agent)
            etag = state.etag
            if state.version != if_version:
                raise PreconditionFailed(
                    f"the target state of {agent} is at version {state.version}, not {if_version}"
                )
        act = client.targets.set if deploy else client.targets.stage
        return await act(agent, target, etag=etag)

    _print(options, options.run(write))


@app.command(help="Serve what is staged, so that the agent gets it." + EXIT_CODES)
@with_options(Options)
def deploy(options: Options, agent: Agent, reason: Reason = "") -> None:
    """Serve."""
    _print(options, options.run(lambda client: client.targets.deploy(agent, reason)))


@app.command(help="List the versions, newest first: who made them, when, why." + EXIT_CODES)
@with_options(Options)
def history(options: Options, agent: Agent, limit: Limit = None) -> None:
    """A table."""
    from iotistica.operate import output

    output.listed(
        options,
        lambda client: client.targets.history(agent),
        {
            "version": lambda one: one.version,
            "at": lambda one: one.changed_at,
            "by": lambda one: one.changed_by,
            "what": lambda one: one.action,
            "deployed": lambda one: one.deployed,
            "reason": lambda one: one.reason,
        },
        limit,
    )


@app.command(help="Make what an earlier version said the newest version." + EXIT_CODES)
@with_options(Options)
def rollback(
    options: Options,
    agent: Agent,
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", show_default=False)],
    stage: Annotated[
        bool, typer.Option("--stage", help="The agent gets it with `target deploy`.")
    ] = False,
    reason: Reason = "",
) -> None:
    """Go back."""
    from iotistica.api.models.target_state import Rollback

    back = Rollback(version=version, deploy=not stage, reason=reason)
    _print(options, options.run(lambda client: client.targets.rollback(agent, back)))


def _print(options: Options, written: Written) -> None:
    from iotistica.operate import output

    served = "none yet" if written.served_version is None else written.served_version
    sentence = f"{written.message}: version {written.version}, served {served}"
    output.said(options, written, sentence)
