"""What retention has removed of the range of a question (migration 0033)."""

from __future__ import annotations

CUT = "SELECT levels_cut($1::uuid[], $2::text[], $3)"
"""Levels that do not hold all of these agents' metrics since a time, for `series.levels.plan`."""
