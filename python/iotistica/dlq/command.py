"""The commands: their arguments, their help, their exit codes."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import orjson
import typer

from iotistica.command import DataDir, Json, failures

if TYPE_CHECKING:
    from iotistica.dlq.choice import Place
    from iotistica.streams import Filter

EXIT_CODES = (
    "\n\nExit codes: 0 done, 1 some letters are still bad, or failed, 2 wrong setting or argument."
)
_WHEN = "an ISO 8601 time, or how long ago: 90s, 15m, 2h, 7d."

app = typer.Typer(
    help="Dead letters: messages that could not be stored, with the reason and the original bytes.",
    no_args_is_help=True,
)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All letters of the tenant.")]
Reason = Annotated[str | None, typer.Option(help="Only with this reason, such as json.")]
Stage = Annotated[str | None, typer.Option(help="Only from this stage, such as decode.")]
Agent = Annotated[str | None, typer.Option(help="Only of this agent.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help=f"Written at TIME or later: {_WHEN}")
]
Until = Annotated[
    str | None, typer.Option(metavar="TIME", help=f"Written at TIME or before: {_WHEN}")
]
Tenant = Annotated[
    str | None, typer.Option(help="Whose letters; a data directory has its own tenant.")
]
Stray = Annotated[
    bool, typer.Option("--stray", help="Letters of messages that belonged to no tenant.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which letters of which tenant, and how to answer."""

    reason: Reason = None
    stage: Stage = None
    agent: Agent = None
    since: Since = None
    until: Until = None
    tenant: Tenant = None
    stray: Stray = False
    data_dir: DataDir = None
    json: Json = False

    def filter(self, ids: Sequence[str] | None = None) -> Filter:
        """Raises `ConfigError`."""
        from iotistica.dlq import choice

        return choice.chosen(ids, self.reason, self.stage, self.agent, self.since, self.until)

    def place(self) -> Place:
        """Raises `ConfigError`."""
        from iotistica.dlq import choice

        return choice.place(self.data_dir, self.tenant, stray=self.stray)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every field of `Options` as an option of its own."""
    hints = get_type_hints(Options, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(one.name, keyword, default=one.default, annotation=hints[one.name])
        for one in fields(Options)
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        options = Options(**{one.name: given.pop(one.name) for one in added})
        command(options, **given)

    own = inspect.signature(command, eval_str=True)
    kept = [one for name, one in own.parameters.items() if name != "options"]
    wrapped.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*kept, *added]
    )
    wrapped.__annotations__ = {one.name: one.annotation for one in [*kept, *added]}
    return wrapped


@app.command(
    "list",
    help="List the youngest letters, or count them by reason, stage and agent." + EXIT_CODES,
)
@with_options
def list_letters(
    options: Options,
    summary: Annotated[bool, typer.Option("--summary", help="Count them instead.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier list ended.")] = None,
) -> None:
    """A table, or counts."""
    with failures(options.json):
        from iotistica.dlq import choice, report, work

        where, place = options.filter(), options.place()
        if summary:
            found = asyncio.run(work.summary(place, where))
            _print(found.described() if options.json else report.summary(found))
            return
        if cursor is not None:
            choice.check_id(cursor)
        page = asyncio.run(work.listed(place, where, limit=limit, after=cursor))
        letters = [letter.described() for letter in page.letters]
        _print({"letters": letters, "cursor": page.cursor} if options.json else report.listed(page))


@app.command(
    help="Show one letter: all that is known of it, and its payload decoded as far as it goes."
    + EXIT_CODES
)
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID")],
    tenant: Tenant = None,
    stray: Stray = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Fields, then the report of `iotistica decode`."""
    with failures(json):
        from iotistica.dlq import choice, report, work

        choice.check_id(letter_id)
        place = choice.place(data_dir, tenant, stray=stray)
        letter, explained = asyncio.run(work.shown(place, letter_id))
        document = work.whole(letter) | {"explained": explained}
        _print(document if json else report.shown(letter, explained))


@app.command(
    help="Bring letters in: decode them again, store what is good, remove those that pass, keep "
    "the others with their newest reason. What is in the table is not stored twice. Letters that "
    "are written meanwhile are left alone. With --json, a line for each letter and the sums last."
    + EXIT_CODES
)
@with_options
def replay(
    options: Options,
    ids: Ids = None,
    everything: All = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say of each letter what would happen; change nothing."),
    ] = False,
) -> None:
    """Replay with proof."""
    with failures(options.json):
        from iotistica.dlq import choice, report, work

        where = options.filter(ids)
        choice.not_by_accident(where, everything)
        place = options.place()
        done = asyncio.run(work.replayed(place, where, dry_run=dry_run, as_json=options.json))
        sums = {"dry_run": dry_run, **done.totals.described(), "missing": done.missing}
        _print(
            sums if options.json else report.replayed(done.totals, done.missing, dry_run=dry_run)
        )
        if done.error is not None:
            raise done.error
    if not done.clean:
        raise typer.Exit(1)


@app.command(help="Remove letters for good; what they hold is lost." + EXIT_CODES)
@with_options
def purge(
    options: Options,
    ids: Ids = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Ask, then remove."""
    with failures(options.json):
        from iotistica.dlq import choice, work
        from iotistica.errors import ConfigError

        where = options.filter(ids)
        choice.not_by_accident(where, everything)
        place = options.place()
        if not yes:
            if options.json or not sys.stdin.isatty():
                raise ConfigError("--yes is not given, and there is nobody to ask")
            count = asyncio.run(work.matching(place, where))
            typer.confirm(f"Remove {count:,} letters of {place.tenant} for good?", abort=True)
        removed = asyncio.run(work.purged(place, where))
        _print({"purged": removed} if options.json else f"{removed:,} letters removed\n")


@app.command(
    help="Write letters out, payloads as base64, a line of JSON for each, oldest first."
    + EXIT_CODES
)
@with_options
def export(
    options: Options,
    ids: Ids = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Where to; without it, standard output.")
    ] = None,
) -> None:
    """All that match; all there are where nothing is chosen."""
    with failures(options.json):
        from iotistica.dlq import work

        where, place = options.filter(ids), options.place()
        with work.file_of(file) as output:
            written = asyncio.run(work.exported(place, where, output))
        if file is not None:
            _print({"exported": written} if options.json else f"{written:,} letters in {file}\n")


def _print(what: dict[str, Any] | str) -> None:
    """A document as a line of JSON, or a text as it is."""
    if isinstance(what, str):
        sys.stdout.write(what)
    else:
        sys.stdout.write(orjson.dumps(what, option=orjson.OPT_UTC_Z).decode() + "\n")
