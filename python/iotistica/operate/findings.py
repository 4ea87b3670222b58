"""`iotistica alerts` and `iotistica incidents`: what rules and agents found strange."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from iotistica.command import with_options
from iotistica.operate.options import CREDENTIALS, EXIT_CODES, Limit, Options

_PAGE = 500

alerts = typer.Typer(help="Alerts: what alert rules found." + CREDENTIALS, no_args_is_help=True)
incidents = typer.Typer(
    help="Incidents: anomalies that belong together." + CREDENTIALS, no_args_is_help=True
)

Severity = Annotated[str | None, typer.Option(help="info, warning or critical.")]
Agent = Annotated[UUID | None, typer.Option(help="Only of this agent.")]


@alerts.command("list", help="List alerts, the newest first." + EXIT_CODES)
@with_options(Options)
def list_alerts(
    options: Options,
    status: Annotated[str | None, typer.Option(help="open, acknowledged or resolved.")] = None,
    severity: Severity = None,
    agent: Agent = None,
    limit: Limit = None,
) -> None:
    """A table."""
    from iotistica.api.models.alerts import AlertQuery
    from iotistica.operate import output

    # The API says which there are.
    query = AlertQuery(
        status=status,  # type: ignore[arg-type]
        severity=severity,  # type: ignore[arg-type]
        agent=agent,
        limit=min(limit or _PAGE, _PAGE),
    )
    output.listed(
        options,
        lambda client: client.alerts.all(query),
        {
            "id": lambda one: one.id,
            "opened at": lambda one: one.opened_at,
            "status": lambda one: one.status,
            "severity": lambda one: one.severity,
            "rule": lambda one: one.rule_name,
            "agent": lambda one: one.agent_uuid,
            "metric": lambda one: one.metric_name,
            "message": lambda one: one.message,
        },
        limit,
    )


@alerts.command(
    help="Say that somebody looks after an alert; it is resolved by itself." + EXIT_CODES
)
@with_options(Options)
def acknowledge(
    options: Options,
    alert: Annotated[int, typer.Argument(min=1, metavar="ALERT", show_default=False)],
) -> None:
    """Acknowledge."""
    from iotistica.operate import output

    found = options.run(lambda client: client.alerts.acknowledge(alert))
    output.said(options, found, f"alert {alert} is {found.status}")


@incidents.command("list", help="List incidents, the newest first." + EXIT_CODES)
@with_options(Options)
def list_incidents(
    options: Options,
    status: Annotated[str | None, typer.Option(help="open, active or resolved.")] = None,
    severity: Severity = None,
    agent: Agent = None,
    limit: Limit = None,
) -> None:
    """A table."""
    from iotistica.api.models.anomalies import IncidentQuery
    from iotistica.operate import output

    # The API says which there are.
    query = IncidentQuery(
        status=status,  # type: ignore[arg-type]
        severity=severity,  # type: ignore[arg-type]
        agent=agent,
        limit=min(limit or _PAGE, _PAGE),
    )
    output.listed(
        options,
        lambda client: client.incidents.all(query),
        {
            "id": lambda one: one.incident_id,
            "opened at": lambda one: one.opened_at,
            "last seen": lambda one: one.last_seen,
            "status": lambda one: one.status,
            "severity": lambda one: one.severity,
            "metric": lambda one: one.metric,
            "events": lambda one: one.event_count,
            "agents": lambda one: len(one.affected_agents),
        },
        limit,
    )


@incidents.command(
    help="Resolve an incident and its alerts; a later event opens it again." + EXIT_CODES
)
@with_options(Options)
def resolve(
    options: Options,
    incident: Annotated[int, typer.Argument(min=1, metavar="INCIDENT", show_default=False)],
    notes: Annotated[str | None, typer.Option(help="How it ended.")] = None,
) -> None:
    """Resolve."""
    from iotistica.operate import output

    found = options.run(lambda client: client.incidents.resolve(incident, notes))
    output.said(options, found, f"incident {incident} is {found.status}")
