"""Settings of queries on readings: a part of `Settings` (docs/queries.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings


class QuerySettings(BaseSettings):
    """What one query may take, so that ingestion and other callers do not notice it."""

    # One question, however many statements it takes.
    query_timeout_s: Annotated[float, Field(gt=0, le=600)] = 15.0
    # Questions that a web process has at PostgreSQL at a time; the rest of its connections is for
    # everything else. Those that wait longer than the limit of time are refused.
    query_max_at_once: Annotated[int, Field(ge=1, le=100)] = 4
    # A question or an export that lasts longer leaves the cores to ingestion, where PostgreSQL runs
    # on this machine and as the same user, or this process as root; 0: never.
    query_demote_after_s: Annotated[float, Field(ge=0, le=600)] = 0.2
    # Single readings that one question may look at: downsampling for plots, exact percentiles.
    query_max_readings: Annotated[int, Field(ge=1000)] = 1_000_000
    query_plot_readings: Annotated[int, Field(ge=1000, le=1_000_000)] = 50_000
    # What one answer may hold.
    query_max_points: Annotated[int, Field(ge=1000)] = 100_000
    # One export, from its first statement to its last byte; its transaction lasts as long.
    export_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    # Exports of a web process at a time, beside its queries.
    export_max_at_once: Annotated[int, Field(ge=1, le=100)] = 2
    query_max_agents: Annotated[int, Field(ge=1)] = 1000
