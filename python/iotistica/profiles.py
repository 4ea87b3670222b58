"""Profiles of an ingestion process (reference section 4.4). Each fills in what is not set.

`balanced` is the default: its values are those of the settings themselves. `docs/ingestion.md` says
what became of the reference's keys that have no counterpart here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Profile = Literal["batch", "balanced", "streaming", "benchmark", "hp"]

PROFILES: Mapping[Profile, Mapping[str, Any]] = {
    # Few large commits; minutes late is soon enough.
    "batch": {
        "autoscale_max_workers": 6,
        "autoscale_lag_target_ms": 10_000,
        "autoscale_lag_scale_up_ms": 5_000,
        "autoscale_lag_critical_ms": 15_000,
        "autoscale_scale_down_stable_checks": 12,
        "autoscale_cooldown_ms": 5_000,
        "read_max_entries": 500,
        "database_pool_size": 12,
        "database_saturation_high_pct": 70,
        "database_backpressure_sleep_ms": 500,
    },
    "balanced": {},
    # Small batches, so that none keeps a slot for long.
    "streaming": {
        "autoscale_max_workers": 8,
        "autoscale_lag_target_ms": 2_000,
        "autoscale_lag_scale_up_ms": 1_000,
        "autoscale_lag_critical_ms": 5_000,
        "autoscale_scale_down_stable_checks": 10,
        "autoscale_cooldown_ms": 2_000,
        "read_max_entries": 50,
        "batch_readings": 10_000,
        "database_pool_size": 14,
        "database_saturation_high_pct": 85,
        "database_backpressure_sleep_ms": 100,
    },
    "benchmark": {
        "autoscale_max_workers": 8,
        "autoscale_lag_target_ms": 8_000,
        "autoscale_lag_scale_up_ms": 2_000,
        "autoscale_lag_critical_ms": 12_000,
        "autoscale_scale_down_stable_checks": 20,
        "autoscale_cooldown_ms": 1_000,
        "autoscale_db_block_pct": 90,
        "read_max_entries": 1_000,
        "database_pool_size": 14,
        "database_saturation_high_pct": 92,
        "database_backpressure_sleep_ms": 50,
        "redis_memory_high_pct": 85,
    },
    # High performance: a machine of eight cores or more.
    "hp": {
        "ingestion_workers": 4,
        "autoscale_min_workers": 4,
        "autoscale_max_workers": 8,
        "autoscale_lag_target_ms": 5_000,
        "autoscale_lag_scale_up_ms": 2_000,
        "autoscale_lag_critical_ms": 10_000,
        "autoscale_scale_down_stable_checks": 30,
        "autoscale_cooldown_ms": 2_000,
        "autoscale_db_block_pct": 85,
        "read_max_entries": 300,
        "database_pool_size": 14,
        "database_saturation_high_pct": 85,
        "database_backpressure_sleep_ms": 150,
        "redis_memory_high_pct": 80,
    },
}
