"""Removes what is older than its retention: every table that would only grow is named here.

Not named are: jobs with what agents said of them, which leave job by job (`store/job_steps.py`);
`agent_target_state_history`, which keeps a number of versions; `readings_latest` and
`agent_current_state`, a row for each series and agent, which leave with their agent; the loss
ledger, in which a loss stands for good (docs/loss-ledger.md); and what people make and remove
themselves, revoked API keys among it, as the journal names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from iotistica.settings import Settings
from iotistica.store.pool import Pool, affected, unavailable
from iotistica.store.turn import turn

AT_ONCE = 5000
_TURN = "prune"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A row that somebody holds is left for the next time.
_DELETE = """
DELETE FROM {table} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {table} WHERE {condition} LIMIT $2 FOR UPDATE SKIP LOCKED
))
"""
# Whoever wants the table meanwhile queues up behind this, so it must not wait for long itself.
_NOT_FOR_LONG = "SET LOCAL lock_timeout = '2s'"
_DROP_DAY = "SELECT drop_day($1::text::regclass, $2)"


@dataclass(frozen=True, slots=True)
class Old:
    """Rows of a table that are older than a setting says, in days; or than a number of days."""

    table: str
    moment: str
    """What tells the age of a row; NULL is never old."""
    days: str | int
    only: str = "true"

    @property
    def statement(self) -> str:
        """Deletes some of them: days, and how many at once."""
        condition = f"{self.only} AND {self.moment} < now() - make_interval(days => $1)"
        return _DELETE.format(table=self.table, condition=condition)

    def days_of(self, settings: Settings) -> int:
        """For how long they are kept."""
        return self.days if isinstance(self.days, int) else int(getattr(settings, self.days))


OLD = (
    Old("agent_events", "time", "event_retention_days"),
    Old("endpoint_health", "time", "event_retention_days"),
    Old("agent_updates", "completed_at", "event_retention_days"),
    Old("agent_log_drops", "reported_at", "log_retention_days"),
    # Its lines leave with their day.
    Old("agent_log_services", "(last_at + interval '1 day')", "log_retention_days"),
    Old("anomaly_events", "received_at", "alert_retention_days"),
    Old("anomaly_incidents", "last_seen", "alert_retention_days"),
    Old("alerts", "resolved_at", "alert_retention_days", "status = 'resolved'"),
    Old("alert_deliveries", "finished_at", "alert_retention_days", "status <> 'pending'"),
    Old("refresh_tokens", "least(expires_at, revoked_at)", "access_retention_days"),
    Old("invites", "expires_at", "access_retention_days"),
    Old("agent_key_history", "valid_until", "access_retention_days"),
    Old("provisioning_attempts", "created_at", "access_retention_days"),
    # For processes that remember agents, seconds ago.
    Old("agent_departures", "departed_at", 7),
    Old("agent_key_changes", "changed_at", 7),
    Old("audit_logs", "created_at", "audit_retention_days"),
    Old("rollup_daily", "bucket", "rollup_retention_days_daily"),
)
DAYS = (("agent_logs", "log_retention_days"), ("readings", "retention_days"))
"""Tables by days, whole days of which are removed. With TimescaleDB its own policy does that for
readings."""


async def prune(pool: Pool, settings: Settings) -> dict[str, int]:
    """Remove what is old, in steps of some thousand rows; rows, or days, by table.

    One process at a time: for another there is nothing to do. Raises `StoreUnavailable`.
    """
    removed = {}
    with unavailable("remove what is old"):
        for old in OLD:
            removed[old.table] = await _rows(pool, old, old.days_of(settings))
        for table, setting in DAYS:
            first_kept = (datetime.now(UTC) - _EPOCH).days - int(getattr(settings, setting))
            removed[table] = await drop_parts(pool, _DROP_DAY, table, first_kept)
    return removed


async def _rows(pool: Pool, old: Old, days: int) -> int:
    removed = 0
    while True:
        async with turn(pool, _TURN) as connection:
            if connection is None:
                return removed
            count = affected(await connection.execute(old.statement, days, AT_ONCE))
        removed += count
        if count < AT_ONCE:
            return removed


async def drop_parts(pool: Pool, statement: str, *arguments: object) -> int:
    """Repeat a statement that drops the oldest partition, each in a turn of its own, until it gives
    NULL; how many. Raises what asyncpg raises."""
    removed = 0
    while True:
        async with turn(pool, _TURN) as connection:
            if connection is None:
                return removed
            await connection.execute(_NOT_FOR_LONG)
            if await connection.fetchval(statement, *arguments) is None:
                return removed
        removed += 1
