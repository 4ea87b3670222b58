"""`iotistica retention`: what a tenant keeps shorter than the platform does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from iotistica.command import failures, with_options
from iotistica.errors import ConfigError, NotFound
from iotistica.operate.options import CREDENTIALS, EXIT_CODES, Options, Yes, confirm

if TYPE_CHECKING:
    from iotistica.api.models.retention import Retention, RetentionPreview, RetentionRule
    from iotistica.client import Client

app = typer.Typer(
    help="Retention: for how long readings are kept, by metric." + CREDENTIALS,
    no_args_is_help=True,
)

Pattern = Annotated[
    str,
    typer.Argument(
        metavar="PATTERN",
        show_default=False,
        help="Names of metrics: * is any text, ? any character.",
    ),
]
Days = Annotated[int, typer.Argument(min=1, metavar="DAYS", show_default=False)]
Rollups = Annotated[
    bool, typer.Option("--remove-rollups", help="Their minutes, hours and days go, too.")
]


@app.command("list", help="List the rules, and what the platform keeps." + EXIT_CODES)
@with_options(Options)
def list_rules(
    options: Options,
    metric: Annotated[
        str | None, typer.Option(help="Only the rule that counts for this metric.")
    ] = None,
) -> None:
    """A table, and lines about the platform and storage."""
    from iotistica.operate import output
    from iotistica.retention import Rule, governing

    found = options.run(lambda client: client.retention.get())
    rules = found.rules
    if metric is not None:
        known = {one.pattern: one for one in rules}
        chosen = governing(
            (Rule(pattern=one.pattern, keep_days=one.keep_days) for one in rules), metric
        )
        rules = [] if chosen is None else [known[chosen.pattern]]
    if options.json:
        for rule in rules:
            output.line(rule)
        return
    columns = {
        "pattern": lambda one: one.pattern,
        "days": lambda one: one.keep_days,
        "rollups": lambda one: "go" if one.remove_rollups else "stay",
        "metrics": lambda one: one.metrics,
    }
    output.write(output.table(columns, rules))
    output.write(_platform(found))


@app.command(
    "set",
    help="Keep readings of metrics for DAYS days: older ones are removed within minutes and cannot "
    "be brought back. It says how many that are, and asks." + EXIT_CODES,
)
@with_options(Options)
def set_rule(
    options: Options,
    pattern: Pattern,
    days: Days,
    remove_rollups: Rollups = False,
    yes: Yes = False,
) -> None:
    """Preview, ask, set."""
    from iotistica.operate import output

    rule = _rule(pattern, days, remove_rollups=remove_rollups)
    if not yes:
        preview = options.run(lambda client: client.retention.preview([rule]))
        if not options.json:
            _print(options, preview)
        # Others may go anyway, by rules that are set.
        count = sum(one.readings for one in preview.metrics if one.pattern == pattern)
        confirm(f"Remove {count:,} readings by this rule?", options, yes=count == 0)
    made = options.run(lambda client: client.retention.set(rule))
    output.said(options, made, f"{output.plain(pattern)}: kept for {days} days")


@app.command(help="Forget the rule of a pattern. What it removed stays removed." + EXIT_CODES)
@with_options(Options)
def remove(options: Options, pattern: Pattern) -> None:
    """Find, forget."""
    from iotistica.operate import output

    async def forget(client: Client) -> None:
        rules = (await client.retention.get()).rules
        found = next((one.id for one in rules if one.pattern == pattern), None)
        if found is None:
            raise NotFound(f"there is no rule for {pattern[:64]!r}")
        await client.retention.remove(found)

    options.run(forget)
    output.said(options, {"removed": pattern}, f"{output.plain(pattern)}: the rule is removed")


@app.command(
    help="Tell what goes next: by the rules that are set, and one that might be. Changes nothing. "
    "It is counted from daily rollups." + EXIT_CODES
)
@with_options(Options)
def preview(
    options: Options,
    pattern: Annotated[str | None, typer.Argument(metavar="[PATTERN", show_default=False)] = None,
    days: Annotated[int | None, typer.Argument(min=1, metavar="DAYS]", show_default=False)] = None,
    remove_rollups: Rollups = False,
) -> None:
    """A table."""
    with failures(options.json):
        if pattern is not None and days is None:
            raise ConfigError(f"pattern {pattern[:64]!r} has no DAYS")
    rules = []
    if pattern is not None and days is not None:
        rules = [_rule(pattern, days, remove_rollups=remove_rollups)]
    _print(options, options.run(lambda client: client.retention.preview(rules)))


def _rule(pattern: str, days: int, *, remove_rollups: bool) -> RetentionRule:
    from iotistica.api.models.retention import RetentionRule

    return RetentionRule(pattern=pattern, keep_days=days, remove_rollups=remove_rollups)


def _print(options: Options, preview: RetentionPreview) -> None:
    from iotistica.operate import output

    if options.json:
        output.line(preview)
        return
    columns = {
        "metric": lambda one: one.metric,
        "readings": lambda one: f"{one.readings:,}",
        "since": lambda one: f"{one.oldest}",
        "kept since": lambda one: f"{one.first_kept}",
        "rollups": lambda one: "go" if one.remove_rollups else "stay",
        "rule": lambda one: f"{one.pattern} {one.keep_days}",
    }
    if preview.metrics:
        output.write(output.table(columns, preview.metrics))
    since = "" if preview.oldest is None else f", the oldest of {preview.oldest}"
    output.write(f"{preview.readings:,} readings go{since}\n")


def _platform(found: Retention) -> str:
    text = (
        f"the platform keeps readings for {found.readings_days} days, "
        f"minutes {found.minutes_days}, hours {found.hours_days}, days {found.days_days}\n"
    )
    if (storage := found.storage) is not None:
        text += (
            f"{storage.readings:,} readings are stored of {storage.most:,} "
            f"({storage.percent:g} %)\n"
        )
    return text
