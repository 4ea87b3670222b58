"""A report for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from iotistica import ledger
from iotistica.audit.report import Account, Report
from iotistica.sequences import run_text
from iotistica.store.ledger import EMPTIED, Loss

_VERDICTS = {
    True: "balances",
    False: "does not balance",
    None: "cannot be told whether it balances",
}
_COLUMNS = ("accepted", "settled", "waiting", "readings", "stored", "others", "rejected", "rows")
_OTHERS = (ledger.DUPLICATE, ledger.COLLIDED, ledger.REDELIVERED, ledger.DROPPED)
_AGENT_WIDTH = 36


def text(report: Report) -> str:
    """The sum of the tenant, its losses, then its agents, those with problems first."""
    return "\n".join([*_tenant(report), *_agents(report)]) + "\n"


def _tenant(report: Report) -> Iterator[str]:
    evidence, total = report.evidence, report.total
    in_flight = evidence.reading.in_flight
    yield (
        f"tenant {evidence.tenant}: {_VERDICTS[report.balanced]}; "
        f"{report.agents:,} agents, {report.troubled:,} with problems"
    )
    yield f"  messages  {_messages(total)}"
    yield f"  readings  {_readings(total)}"
    if late := ledger.count(total.counts, ledger.LATE):
        yield f"  late      {late:,} of them by the backfill stream"
    for counter, what in ((ledger.REFUSED, "messages"), (ledger.REJECTED, "readings")):
        if reasons := ledger.reasons(total.counts, counter):
            yield f"  {counter:<9} {sum(reasons.values()):,} {what}: {_by_name(reasons)}"
    if total.missing:
        yield f"  missing   {total.missing:,} messages by their numbers"
    if not in_flight.is_counted:
        yield f"  streams   {in_flight.entries:,} entries, too many to be counted"
    if in_flight.foreign:
        yield f"  streams   {in_flight.foreign:,} entries of other producers, not counted"
    if evidence.on_disk:
        yield f"  on disk   {_by_name(evidence.on_disk)} messages in the spools of this machine"
    for loss in evidence.losses:
        yield f"  loss      {_loss(loss)}"


def _messages(account: Account) -> str:
    counts = account.counts
    in_flight = "?" if account.in_flight is None else f"{account.in_flight:,}"
    parts = [
        f"{ledger.count(counts, ledger.SETTLED):,} settled",
        f"{ledger.count(counts, ledger.SPOOLED) - account.carried:,} spooled",
        f"{in_flight} in flight",
    ]
    if account.lost:
        parts.append(f"{account.lost:,} lost at most")
    if account.carried:
        parts.append(f"{account.carried:,} carried on disk")
    return f"{ledger.count(counts, ledger.ACCEPTED):,} accepted = {' + '.join(parts)}"


def _readings(account: Account) -> str:
    parts = [f"{ledger.count(account.counts, name):,} {name}" for name in ledger.OUTCOMES]
    return f"{ledger.count(account.counts, ledger.READINGS):,} = {' + '.join(parts)}"


def _loss(loss: Loss) -> str:
    what = "Redis lost its data" if loss.kind == EMPTIED else "Redis came back older than it was"
    return (
        f"{_time(loss.detected_at)} {what}: at most {loss.in_flight_at_most:,} messages that were "
        f"in flight at {_time(loss.snapshot_at)}, and of those that came since, about "
        f"{loss.unseen_estimate:,}{_acknowledgment(loss)}"
    )


def _acknowledgment(loss: Loss) -> str:
    if loss.acknowledged_at is None:
        return ""
    when = _time(loss.acknowledged_at)
    return f"; acknowledged {when} by {loss.acknowledged_by}: {loss.acknowledgment}"


def _agents(report: Report) -> Iterator[str]:
    shown = report.accounts
    if not shown:
        return
    is_counted = any(account.rows is not None for account in shown)
    columns = _COLUMNS if is_counted else _COLUMNS[:-1]
    rows = [(account, _cells(account)[: len(columns)]) for account in shown]
    widths = [max(len(name), *(len(row[n]) for _, row in rows)) for n, name in enumerate(columns)]
    yield "  " + _line("agent", columns, widths)
    for account, cells in rows:
        yield "  " + _line(account.agent or "(cannot be told)", cells, widths)
        yield from (f"    {problem}" for problem in account.problems)
        if account.gaps is not None and account.gaps.is_count:
            for name, found in (
                ("may still come", account.gaps.open),
                ("unknown since Redis lost its data", account.gaps.unknown),
            ):
                if found:
                    yield f"    {name}: {run_text(found[-10:])}"
    if len(shown) < report.agents:
        yield f"  and {report.agents - len(shown):,} more"


def _cells(account: Account) -> list[str]:
    counts = account.counts
    waiting = ledger.count(counts, ledger.SPOOLED) - account.carried + (account.in_flight or 0)
    rows = (
        ""
        if account.rows is None
        else "?"
        if account.rows.found is None
        else f"{account.rows.found:,}"
    )
    return [
        f"{ledger.count(counts, ledger.ACCEPTED):,}",
        f"{ledger.count(counts, ledger.SETTLED):,}",
        f"{waiting:,}",
        f"{ledger.count(counts, ledger.READINGS):,}",
        f"{ledger.count(counts, ledger.STORED):,}",
        f"{sum(ledger.count(counts, name) for name in _OTHERS):,}",
        f"{ledger.count(counts, ledger.REJECTED):,}",
        rows,
    ]


def _line(agent: str, cells: tuple[str, ...] | list[str], widths: list[int]) -> str:
    right = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join((agent.ljust(_AGENT_WIDTH), *right))


def _by_name(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
