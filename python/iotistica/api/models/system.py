"""Models of what the service says about itself."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class About(TypedDict):
    """What this is."""

    status: str
    service: str
    version: str
    apiVersion: str
    apiBase: str
    documentation: str | None
    description: str | None


class Health(TypedDict):
    """Whether the process lives."""

    status: str
    service: str
    timestamp: str
    uptime: float
    reasons: NotRequired[list[str]]


class Readiness(TypedDict):
    """Whether the service does its work."""

    ready: bool
    reasons: list[str]
    """Why not, one sentence each."""
