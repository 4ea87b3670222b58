"""A report as JSON; docs/loss-ledger.md describes it. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from iotistica import ledger
from iotistica.audit.gaps import Gaps
from iotistica.audit.report import Account, Report


def document(report: Report) -> dict[str, Any]:
    """The whole report."""
    evidence, in_flight = report.evidence, report.evidence.reading.in_flight
    return {
        "tenant": evidence.tenant,
        "balanced": report.balanced,
        "clean": report.is_clean,
        "epoch": evidence.epoch or None,
        "began_at": evidence.past.began_at,
        "snapshot_at": evidence.past.snapshot_at,
        "total": account_document(report.total),
        "agents_total": report.agents,
        "agents_with_problems": report.troubled,
        "agents": [account_document(account) for account in report.accounts],
        "losses": [asdict(loss) for loss in evidence.losses],
        "streams": {
            "entries": in_flight.entries,
            "counted": in_flight.is_counted,
            "foreign_entries": in_flight.foreign,
        },
        "on_disk": dict(evidence.on_disk),
    }


def account_document(account: Account) -> dict[str, Any]:
    """One agent, or the sum."""
    counts = account.counts
    found: dict[str, Any] = {
        "agent": account.agent or None,
        "balanced": account.balanced,
        "problems": account.problems,
        "messages": {
            "accepted": ledger.count(counts, ledger.ACCEPTED),
            "settled": ledger.count(counts, ledger.SETTLED),
            "spooled": ledger.count(counts, ledger.SPOOLED) - account.carried,
            "in_flight": account.in_flight,
            "lost_at_most": account.lost,
            "carried": account.carried,
            "refused": ledger.reasons(counts, ledger.REFUSED),
            "missing": account.missing,
            "difference": account.messages.difference if account.messages else None,
        },
        "readings": {
            name: ledger.count(counts, name)
            for name in (ledger.READINGS, *ledger.OUTCOMES, ledger.LATE)
        }
        | {
            "rejected_by_reason": ledger.reasons(counts, ledger.REJECTED),
            "difference": account.readings.difference,
        },
        "numbers": _numbers(account.gaps) if account.gaps else None,
    }
    if account.rows is not None:
        found["rows"] = {**asdict(account.rows), "difference": account.rows.difference}
    return found


def _numbers(gaps: Gaps) -> dict[str, Any]:
    return {**asdict(gaps), "is_count": gaps.is_count, "missing_messages": gaps.missing_messages}
