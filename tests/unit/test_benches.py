"""Benchmarks are not part of a test run, so a renamed module breaks them unseen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_BENCHES = Path(__file__).parents[2] / "benches"


@pytest.mark.parametrize("bench", sorted(path.name for path in _BENCHES.glob("*.py")))
def test_a_benchmark_can_be_started(bench: str) -> None:
    shown = subprocess.run(
        [sys.executable, str(_BENCHES / bench), "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
