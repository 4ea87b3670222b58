"""Readings as files: which forms there are, and how rows become them (docs/export.md)."""
