"""`iotistica doctor`: what is wrong with a platform, and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from iotistica.command import DataDir, Json, failures

HELP = (
    "Examine the platform of --data-dir, or of DATABASE_URL, REDIS_URL and MQTT_URL: servers, "
    "their settings, the state of the data, spools, clocks and secrets. Nothing is changed. See "
    "docs/doctor.md.\n\nExit codes: 0 no problem, warnings at the most; 1 problems; 2 wrong "
    "setting or argument."
)


def doctor(
    agent_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="IOTISTICA_DOCTOR_AGENT_URL",
            help="mqtt://… of any agent's account, to try that it reads nothing of others.",
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Check, print, and exit with the verdict."""
    with failures(json):
        from iotistica.doctor.examination import run

        is_well = run(data_dir, agent_url=agent_url, as_json=json)
    if not is_well:
        raise typer.Exit(1)
