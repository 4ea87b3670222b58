"""How columns of `readings_buckets` merge where several buckets become one (migration 0030)."""

from __future__ import annotations

STATE = "merge_moments(ARRAY[value_count, value_sum, value_m2]::double precision[])"
"""`{count, sum, sum of squared deviations}` of all values."""
FIRST = """
min(ARRAY[date_part('epoch', first_time), first_value]) FILTER (WHERE first_time IS NOT NULL)
"""
"""`{time, value}` of the first value, NULL where there is none."""
LAST = """
max(ARRAY[date_part('epoch', last_time), last_value]) FILTER (WHERE first_time IS NOT NULL)
"""
"""The same of the last."""
