"""Files of telemetry brought in, as `iotistica import` does it (docs/import.md)."""
