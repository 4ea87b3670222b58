"""Live values by WebSocket: what callers see as it happens (reference section 9, docs/live.md)."""
