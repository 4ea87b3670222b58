"""The world the simulated agents live in: protocols, their devices, metrics and curves.

A value is a pure function of agent, metric and time, so that `verify` can recompute every
row without remembering any.
"""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import dataclass, field
from functools import cache
from typing import Any

STEP_US = 10_000_000
"""One point of the daily curve, microseconds."""
POINTS = 86_400_000_000 // STEP_US
NOISE = 4093
"""Length of the noise table; prime, so that it never beats with the curve."""
QUALITY_CYCLE = 509
"""Every 509th sample of a series fails, and a few others are doubtful."""
DOUBTFUL_SLOTS = 4


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured quantity; mean, swing and noise in its unit."""

    name: str
    unit: str
    mean: float
    swing: float
    noise: float
    extra: dict[str, Any] = field(default_factory=dict)
    """What this protocol adds to each reading (addresses, node ids)."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What an agent with this endpoint publishes."""

    name: str
    topic: str
    """MQTT topic below `endpoints/`."""
    devices: tuple[str, ...]
    metrics: tuple[Metric, ...]
    good: Any
    doubtful: Any
    bad: Any


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "modbus",
        "modbus",
        ("modbus_boiler_1", "modbus_boiler_2", "modbus_pump_1"),
        (
            Metric("temperature", "°C", 74.0, 9.0, 0.4, {"registerAddress": 40001}),
            Metric("pressure", "kPa", 310.0, 25.0, 1.5, {"registerAddress": 40003}),
            Metric("flow_rate", "l/min", 42.0, 6.5, 0.8, {"registerAddress": 40005}),
            Metric("power", "kW", 18.5, 4.0, 0.3, {"registerAddress": 40007}),
            Metric("vibration", "mm/s", 2.4, 0.8, 0.2, {"registerAddress": 40009}),
        ),
        "GOOD",
        "UNCERTAIN",
        "BAD",
    ),
    Protocol(
        "opcua",
        "opcua",
        ("opcua_press_1", "opcua_press_2", "opcua_robot_1"),
        (
            Metric("Spindle.Speed", "rpm", 2950.0, 240.0, 12.0, {"nodeId": "ns=2;s=Spindle.Speed"}),
            Metric("Spindle.Load", "%", 55.0, 18.0, 2.0, {"nodeId": "ns=2;s=Spindle.Load"}),
            Metric("Axis.X", "mm", 400.0, 180.0, 0.5, {"nodeId": "ns=2;s=Axis.X"}),
            Metric("Coolant.Temp", "°C", 24.0, 3.0, 0.2, {"nodeId": "ns=2;s=Coolant.Temp"}),
            Metric("Cycle.Time", "s", 31.0, 2.5, 0.3, {"nodeId": "ns=2;s=Cycle.Time"}),
        ),
        0,
        0x40000000,
        0x80000000,
    ),
    Protocol(
        "bacnet",
        "bacnet",
        ("bacnet_ahu_1", "bacnet_ahu_2", "bacnet_chiller_1"),
        (
            Metric("supply_air_temp", "°C", 18.0, 2.5, 0.2, {"objectId": "analog-input:1"}),
            Metric("return_air_temp", "°C", 22.5, 1.8, 0.2, {"objectId": "analog-input:2"}),
            Metric("humidity", "%RH", 47.0, 8.0, 0.6, {"objectId": "analog-input:3"}),
            Metric("co2", "ppm", 640.0, 190.0, 8.0, {"objectId": "analog-input:4"}),
            Metric("fan_speed", "%", 60.0, 15.0, 1.0, {"objectId": "analog-output:1"}),
        ),
        "ok",
        "questionable",
        "fault: sensor error",
    ),
    Protocol(
        "snmp",
        "snmp",
        ("snmp_switch_1", "snmp_switch_2", "snmp_ups_1"),
        (
            Metric("cpu_load", "%", 32.0, 20.0, 3.0, {"oid": "1.3.6.1.4.1.9.2.1.56.0"}),
            Metric(
                "if_in_octets", "kB/s", 5400.0, 2600.0, 310.0, {"oid": "1.3.6.1.2.1.2.2.1.10.1"}
            ),
            Metric(
                "if_out_octets", "kB/s", 3100.0, 1500.0, 190.0, {"oid": "1.3.6.1.2.1.2.2.1.16.1"}
            ),
            Metric("input_voltage", "V", 230.0, 4.0, 0.7, {"oid": "1.3.6.1.2.1.33.1.3.3.1.3.1"}),
            Metric("chassis_temp", "°C", 41.0, 5.0, 0.4, {"oid": "1.3.6.1.4.1.9.9.13.1.3.1.3.1"}),
        ),
        True,
        "uncertain",
        False,
    ),
    Protocol(
        "mqtt",
        "plant-a/line-3/energy-meter",
        ("energy_meter_1", "energy_meter_2", "energy_meter_3"),
        (
            Metric("voltage", "V", 400.0, 5.0, 0.9),
            Metric("current", "A", 63.0, 28.0, 1.6),
            Metric("active_power", "kW", 39.0, 17.0, 1.0),
            Metric("frequency", "Hz", 50.0, 0.05, 0.02),
            Metric("power_factor", "", 0.93, 0.04, 0.01),
        ),
        "good",
        "stale",
        "bad",
    ),
    Protocol(
        "can",
        "can",
        ("can_truck_1", "can_truck_2", "can_loader_1"),
        (
            Metric("engine_speed", "rpm", 1450.0, 420.0, 25.0, {"canId": "0x0CF00400", "spn": 190}),
            Metric("coolant_temp", "°C", 86.0, 6.0, 0.5, {"canId": "0x18FEEE00", "spn": 110}),
            Metric("oil_pressure", "kPa", 390.0, 45.0, 4.0, {"canId": "0x18FEEF00", "spn": 100}),
            Metric("fuel_rate", "l/h", 21.0, 9.0, 0.8, {"canId": "0x18FEF200", "spn": 183}),
            Metric("wheel_speed", "km/h", 34.0, 22.0, 1.8, {"canId": "0x18FEF100", "spn": 84}),
        ),
        "valid",
        "old",
        "timeout",
    ),
)


def _walk(rng: random.Random, points: int, scale: float) -> list[float]:
    """A random walk that ends where it began, so that days join without a step."""
    position, path = 0.0, []
    for _ in range(points):
        position += rng.gauss(0.0, scale)
        path.append(position)
    return [value - position * index / points for index, value in enumerate(path)]


@cache
def curve(protocol: str, name: str) -> tuple[array[int], array[int]]:
    """Daily curve and noise of a metric, in hundredths of its unit."""
    metric = next(m for p in PROTOCOLS if p.name == protocol for m in p.metrics if m.name == name)
    rng = random.Random(f"{protocol}/{name}")  # noqa: S311 - a simulation, not a secret
    walk = _walk(rng, POINTS, metric.swing / 400)
    day = array("q")
    for point in range(POINTS):
        sine = metric.swing * math.sin(2 * math.pi * point / POINTS)
        day.append(round(100 * (metric.mean + sine + walk[point])))
    noise = array("q", (round(rng.gauss(0, 100 * metric.noise)) for _ in range(NOISE)))
    return day, noise
