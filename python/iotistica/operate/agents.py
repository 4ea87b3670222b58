"""`iotistica agents`: find agents, look at them, tag and remove them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from iotistica.command import failures, with_options
from iotistica.errors import ConfigError, NotFound
from iotistica.instants import iso, moment
from iotistica.operate.options import CREDENTIALS, EXIT_CODES, Limit, Options, Yes, confirm

_PAGE = 500
_WHEN = "an ISO 8601 time, or how long ago: 90s, 15m, 2h, 7d."

app = typer.Typer(help="Agents: find, look at, tag, remove." + CREDENTIALS, no_args_is_help=True)

Agent = Annotated[UUID, typer.Argument(metavar="AGENT", show_default=False)]


@app.command("list", help="List agents in the order in which they came." + EXIT_CODES)
@with_options(Options)
def list_agents(
    options: Options,
    online: Annotated[bool | None, typer.Option("--online/--offline", help="Only these.")] = None,
    fleet: Annotated[UUID | None, typer.Option(help="Only of this fleet.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY[:VALUE]", help="Only with this tag.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only of this name; * is any text.")] = None,
    limit: Limit = None,
) -> None:
    """A table."""
    from iotistica.api.models.agents import AgentQuery
    from iotistica.operate import output

    query = AgentQuery(
        online=online,
        fleet=fleet,
        tag=tag or [],
        name=name,
        limit=min(limit or _PAGE, _PAGE),
        includeTags=True,
    )
    output.listed(
        options,
        lambda client: client.agents.all(query),
        {
            "agent": lambda one: one.uuid,
            "name": lambda one: one.name,
            "online": lambda one: one.is_online,
            "active": lambda one: one.is_active,
            "last change": lambda one: one.last_connectivity_event,
            "version": lambda one: one.agent_version,
            "fleet": lambda one: one.fleet_name,
            "tags": lambda one: _written(one.tags or {}),
        },
        limit,
    )


@app.command(help="Show all that is known of an agent." + EXIT_CODES)
@with_options(Options)
def show(options: Options, agent: Agent) -> None:
    """Fields."""
    from iotistica.operate import output

    output.shown(options, options.run(lambda client: client.agents.get(agent)))


@app.command(
    help="Print the newest lines of an agent's containers, the oldest of them first." + EXIT_CODES
)
@with_options(Options)
def logs(
    options: Options,
    agent: Agent,
    service: Annotated[list[str] | None, typer.Option(help="Only of this service.")] = None,
    level: Annotated[list[str] | None, typer.Option(help="Only of this level.")] = None,
    text: Annotated[str | None, typer.Option(help="Only with this text, in any case.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help=f"Since {_WHEN}")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help=f"Until {_WHEN}")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Lines.")] = 100,
) -> None:
    """Lines."""
    from iotistica.api.models.reports import LogLine, LogQuery
    from iotistica.client import Client
    from iotistica.operate import output

    with failures(options.json):
        query = LogQuery(
            service=service or [],
            level=level or [],
            text=text,
            start=_time("--since", since),
            end=_time("--until", until),
            limit=min(limit, 1000),
        )

    async def read(client: Client) -> list[LogLine]:
        return [one async for one in output.first(client.agents.logs(agent, query), limit)]

    for one in reversed(options.run(read)):
        at = output.cell(one["timestamp"])
        origin = f"{at} {output.plain(one['service_name'])} {output.plain(one['level'])}"
        output.said(options, one, f"{origin} {output.plain(one['message'])}")


@app.command(help="Show an agent's processor, memory and disk, the newest first." + EXIT_CODES)
@with_options(Options)
def metrics(
    options: Options,
    agent: Agent,
    period: Annotated[
        str | None, typer.Option(help="30min, 6h, 12h or 24h, as averages; left out: as reported.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Moments, as reported.")] = 20,
) -> None:
    """A table."""
    from iotistica.api.models.reports import MetricsQuery
    from iotistica.operate import output

    # The API says which periods there are.
    query = MetricsQuery(limit=limit, period=period)  # type: ignore[arg-type]
    found = options.run(lambda client: client.agents.metrics(agent, query))
    names = ("cpu_usage", "cpu_temp", "memory_usage", "memory_total", "storage_usage")
    output.rows(options, found, ("recorded_at", *names, "storage_total"))


@app.command(help="Set tags of an agent; its other tags stay." + EXIT_CODES)
@with_options(Options)
def tag(
    options: Options,
    agent: Agent,
    tags: Annotated[list[str], typer.Argument(metavar="KEY:VALUE...", show_default=False)],
) -> None:
    """Set, and say what it has now."""
    from iotistica.client import Client

    with failures(options.json):
        given = dict(_pair(one) for one in tags)

    async def change(client: Client) -> dict[str, str]:
        if not await client.agents.add_tags([agent], given):
            raise NotFound(f"agent {agent} does not exist")
        return (await client.agents.get(agent)).tags or {}

    _print_tags(options, options.run(change))


@app.command(help="Take tags of an agent away: those of these keys." + EXIT_CODES)
@with_options(Options)
def untag(
    options: Options,
    agent: Agent,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", show_default=False)],
) -> None:
    """Take away, and say what it has now."""
    _print_tags(options, options.run(lambda client: client.agents.untag(agent, *keys)))


@app.command(
    help="Remove an agent: its key and its broker account are gone, its readings stay." + EXIT_CODES
)
@with_options(Options)
def remove(options: Options, agent: Agent, yes: Yes = False) -> None:
    """Ask, then remove."""
    from iotistica.operate import output

    confirm(f"Remove agent {agent}?", options, yes=yes)
    options.run(lambda client: client.agents.delete(agent))
    output.said(options, {"removed": str(agent)}, f"{agent} is removed")


def _pair(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon:
        raise ConfigError(f"tag {text[:64]!r} has no value; KEY:VALUE is expected")
    return key, value


def _written(tags: dict[str, str]) -> str:
    return " ".join(f"{key}:{value}" for key, value in sorted(tags.items()))


def _print_tags(options: Options, tags: dict[str, str]) -> None:
    from iotistica.operate import output

    output.said(options, {"tags": tags}, output.plain(_written(tags)) or "no tags")


def _time(option: str, text: str | None) -> str | None:
    return None if text is None else iso(moment(option, text, datetime.now(UTC)))
