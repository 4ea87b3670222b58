"""Settings of how long telemetry is kept: a part of `Settings` (docs/retention.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings


class RetentionSettings(BaseSettings):
    """How long readings and rollups are kept, and how hard the removal of old ones may work."""

    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 730
    # Minutes: as long as readings where it is not set.
    rollup_retention_days_1m: Annotated[int | None, Field(ge=1, le=36_500)] = None
    rollup_retention_days_1h: Annotated[int, Field(ge=7, le=36_500)] = 1825
    rollup_retention_days_daily: Annotated[int, Field(ge=7, le=36_500)] = 3650
    # Partitions of readings that are there before their day begins.
    partition_days_ahead: Annotated[int, Field(ge=1, le=365)] = 7

    # Rules of tenants and quotas of storage: how much a turn does, rows of one transaction, and how
    # long it rests between two.
    retention_budget_s: Annotated[float, Field(gt=0, le=3600)] = 20.0
    retention_step_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 5000
    retention_pause_ms: Annotated[float, Field(ge=0, le=60_000)] = 50.0

    # Readings that a tenant may have stored that has no quota of its own; None is no limit.
    quota_stored_readings: Annotated[int | None, Field(gt=0)] = None

    @property
    def minute_days(self) -> int:
        """For how many days minutes are kept."""
        return self.rollup_retention_days_1m or self.retention_days
