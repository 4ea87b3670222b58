"""What every benchmark shares: repeated runs, medians, the table and the closing JSON line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def machine() -> str:
    """Processor and core count, as printed with every figure."""
    model = platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    )


def arguments(description: str) -> argparse.ArgumentParser:
    """Parser with the flags that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side (default 5)")
    return parser


def rate(work: Callable[[], Any], amount: int, seconds: float = 1.0) -> float:
    """Amount per second of `work`, repeated for about `seconds`."""
    work()
    rounds, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        work()
        rounds += 1
    return amount * rounds / elapsed


def report(
    *,
    bench: str,
    runs: list[float],
    baselines: list[float],
    unit: str,
    as_json: bool,
    **extra: Any,
) -> None:
    """Print the median of interleaved `runs` against that of `baselines` (goals.md)."""
    value, baseline = statistics.median(runs), statistics.median(baselines)
    result = {
        "bench": bench,
        "value": round(value, 3),
        "unit": unit,
        "baseline": round(baseline, 3),
        "ratio": round(value / baseline, 3) if baseline else None,
        "runs": len(runs),
        "machine": machine(),
        **extra,
    }
    print(f"{bench}: {value:,.0f} {unit}; baseline {baseline:,.0f}; ratio {result['ratio']}")
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
