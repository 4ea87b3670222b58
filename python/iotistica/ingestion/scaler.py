"""How many batches may be under way at once, by how late the data is. Pure.

Reference section 4.4, with two differences. There the number falls below the target and grows above
`scale_up`, and in most of its profiles `scale_up` is the smaller, so both are true at once; here it
falls only below half of the smaller. And lag is measured by the clock of Redis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_MOST_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The bounds, and when to move within them."""

    least: int
    most: int
    lag_target_ms: float
    lag_scale_up_ms: float
    lag_critical_ms: float
    stable_checks: int
    cooldown_s: float
    db_block_pct: float

    @property
    def calm_ms(self) -> float:
        """Lag below which fewer would do: half of what makes it grow, so that it does not swing."""
        return min(self.lag_target_ms, self.lag_scale_up_ms) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen since the last check."""

    lag_ms: float = 0.0
    """The longest that an entry waited before it was read."""
    commit_p95_ms: float = 0.0
    pool_pct: float = 0.0
    """Share of the connections to the database that are in use."""
    database_trouble: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The number, and what the next decision needs to know of the past."""

    workers: int
    calm_checks: int = 0
    changed_at_s: float = -math.inf


def decide(state: State, seen: Observation, rules: Rules, now_s: float) -> State:
    """The next state; called about once a second."""
    if now_s - state.changed_at_s < rules.cooldown_s:
        return state
    calm = state.calm_checks + 1 if seen.lag_ms < rules.calm_ms else 0
    wanted = state.workers + _steps(seen, rules, calm)
    workers = max(rules.least, min(wanted, rules.most))
    if workers == state.workers:
        return replace(state, calm_checks=calm)
    return State(workers=workers, changed_at_s=now_s)


def _steps(seen: Observation, rules: Rules, calm_checks: int) -> int:
    """By how many to grow or shrink, before the bounds."""
    if seen.lag_ms > min(rules.lag_scale_up_ms, rules.lag_critical_ms):
        # More hands only help where the database is not what holds them up.
        if seen.database_trouble or seen.pool_pct >= rules.db_block_pct:
            return 0
        if seen.lag_ms > rules.lag_critical_ms:
            return min(_MOST_STEPS, math.ceil(seen.lag_ms / rules.lag_target_ms))
        return 1
    if calm_checks >= rules.stable_checks and seen.commit_p95_ms <= rules.lag_target_ms:
        return -1
    return 0
