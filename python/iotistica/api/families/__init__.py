"""What agents send beside telemetry, by topic family; each family is one class (reference 1.2)."""

from iotistica.api.families.family import Family, Incoming, Refusal

__all__ = ["Family", "Incoming", "Refusal"]
