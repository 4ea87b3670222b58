"""The command `iotistica`. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer

from iotistica import (
    admin_command,
    audit_command,
    doctor_command,
    migrate_command,
    quota_command,
    spool_command,
)
from iotistica.command import DataDir, Json, failures
from iotistica.dlq import command as dlq_command
from iotistica.importer import command as import_command
from iotistica.operate import agents, export, findings, jobs, retention, target
from iotistica.settings import Settings
from iotistica.simulator.plan import Format, Plan
from iotistica.written import Input

EXIT_CODES = "\n\nExit codes: 0 stopped or done, 1 failed, 2 wrong setting or argument."

app = typer.Typer(
    help="An IoT cloud platform: MQTT telemetry to queryable rows.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback is for us and not for users; locals would show passwords.
    pretty_exceptions_enable=False,
)

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0 picks a free port.")]
Learning = Annotated[
    bool,
    typer.Option("--learning", help="Agents that compact extend their dictionaries as they go."),
]


def share(text: str) -> typer.models.OptionInfo:
    """Option for a part of all messages."""
    option: typer.models.OptionInfo = typer.Option(min=0, max=1, metavar="SHARE", help=text)
    return option


@app.command(
    help="Run the whole platform on this machine: private PostgreSQL, Redis and MQTT broker, "
    "Cloud API and Ingestion. DATABASE_URL, REDIS_URL and MQTT_URL attach it to real servers. "
    "Ctrl-C stops everything." + EXIT_CODES
)
def up(
    data_dir: DataDir = None,
    simulate: Annotated[int, typer.Option(min=0, help="Run a fleet of so many agents.")] = 0,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Messages a second of the fleet.")
    ] = None,
    api_port: Port = None,
    ingestion_port: Port = None,
    json: Json = False,
) -> None:
    """Start everything, print where it is, stop it at the end."""
    with failures(json):
        from iotistica.embedded.directory import default_directory
        from iotistica.up import Options
        from iotistica.up import up as run

        settings = Settings.load()
        options = Options(
            data_dir=data_dir or default_directory(),
            simulate=simulate,
            rate=rate,
            api_port=settings.api_port if api_port is None else api_port,
            ingestion_port=settings.ingestion_port if ingestion_port is None else ingestion_port,
            json=json,
        )
        asyncio.run(run(options, settings))


@app.command(help="Run the Cloud API, configured by environment." + EXIT_CODES)
def api(json: Json = False) -> None:
    """Run until SIGTERM or SIGINT."""
    with failures(json):
        from iotistica.api.main import run

        run(Settings.load())


@app.command(help="Run Ingestion, configured by environment." + EXIT_CODES)
def ingestion(json: Json = False) -> None:
    """Run until SIGTERM or SIGINT."""
    with failures(json):
        from iotistica import log
        from iotistica.ingestion.main import run

        settings = Settings.load()
        log.configure(settings.log_level, service="ingestion")
        run(settings)


@app.command(
    help="Run a fleet of simulated agents against the platform of --data-dir, or of DATABASE_URL, "
    "REDIS_URL and MQTT_URL: one message a second from each agent, with --messages as fast as "
    "the broker acknowledges, or as --rate says. A message counts as sent when the broker has "
    "acknowledged it. Ctrl-C ends the run; what was sent is still verified.\n\nExit codes: 0 all "
    "well, 1 readings lost or doubled, or failed, 2 wrong setting or argument."
)
def simulate(
    agents: Annotated[int, typer.Option(min=1, help="Size of the fleet.")] = 20,
    messages: Annotated[
        int | None, typer.Option(min=1, help="MQTT messages of the whole fleet, then stop.")
    ] = None,
    duration: Annotated[float | None, typer.Option(min=0, help="Seconds, then stop.")] = None,
    rate: Annotated[float | None, typer.Option(help="Messages a second of the fleet.")] = None,
    readings_per_message: Annotated[int, typer.Option(min=1, max=10_000)] = 60,
    form: Annotated[
        Format, typer.Option("--format", help="Encoding; mixed is each of the others in turn.")
    ] = Format.MIXED,
    duplicates: Annotated[float, share("Messages that are published twice.")] = 0.0,
    malformed: Annotated[float, share("Messages that must be rejected.")] = 0.0,
    late: Annotated[float, share("Messages that come days late.")] = 0.0,
    reports: Annotated[
        bool, typer.Option("--reports", help="Agents report state, metrics and logs, too.")
    ] = False,
    learning: Learning = False,
    seed: Annotated[str, typer.Option(help="Names the fleet: same seed, same agents.")] = "0",
    tenant: Annotated[
        str | None, typer.Option(help="Tenant of the agents; a data directory has its own.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Wait for ingestion, then compare with the table.")
    ] = False,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds without progress until --verify gives up.")
    ] = 120.0,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Publish, count, and compare."""
    with failures(json):
        from iotistica.simulator.command import run

        plan = Plan(
            agents=agents,
            messages=messages,
            duration_s=duration,
            rate=float(agents) if rate is None and messages is None else rate,
            readings=readings_per_message,
            form=form,
            duplicates=duplicates,
            malformed=malformed,
            late=late,
            learning=learning,
            seed=seed,
            reports=reports,
        )
        is_well = run(
            plan,
            data_dir=data_dir,
            tenant=tenant,
            patience_s=patience if verify else None,
            as_json=json,
        )
    if not is_well:
        raise typer.Exit(1)


@app.command(
    help="Explain an endpoints payload layer by layer, by the code that ingestion runs. FILE is - "
    "for standard input.\n\nExit codes: 0 decoded, 1 rejected, 2 wrong setting or argument."
)
def decode(
    file: Annotated[str, typer.Argument(metavar="FILE")] = "-",
    topic: Annotated[
        str | None, typer.Option(help="MQTT topic that the payload came under.")
    ] = None,
    dictionary: Annotated[
        Path | None, typer.Option(help="Key-compaction dictionary: a message of meta/dictionary.")
    ] = None,
    form: Annotated[
        Input, typer.Option("--input", help="How the payload is written down.")
    ] = Input.AUTO,
    json: Json = False,
) -> None:
    """Report what each stage makes of a payload."""
    with failures(json):
        from iotistica.explain import explain_payload, is_accepted, text
        from iotistica.written import read

        explained = explain_payload(read(file, form), topic=topic, dictionary=dictionary)
        typer.echo(orjson.dumps(explained) if json else text(explained), nl=json)
    if not is_accepted(explained):
        raise typer.Exit(1)


app.command(help=migrate_command.HELP)(migrate_command.migrate)
app.command(help=doctor_command.HELP)(doctor_command.doctor)
app.command(help=audit_command.HELP)(audit_command.audit)
app.command("import", help=import_command.HELP)(import_command.import_files)
app.command(help=export.HELP)(export.export)
app.add_typer(admin_command.app, name="admin")
app.add_typer(agents.app, name="agents")
app.add_typer(findings.alerts, name="alerts")
app.add_typer(dlq_command.app, name="dlq")
app.add_typer(findings.incidents, name="incidents")
app.add_typer(jobs.app, name="jobs")
app.add_typer(quota_command.app, name="quota")
app.add_typer(retention.app, name="retention")
app.add_typer(spool_command.app, name="spool")
app.add_typer(target.app, name="target")


def main() -> None:
    """Entry point."""
    app()
