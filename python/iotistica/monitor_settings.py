"""Settings of the broker monitor: a part of `Settings`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings


class MonitorSettings(BaseSettings):
    """What is kept of the broker and of the topics that agents publish on."""

    # Of each tenant; those that were silent longest are forgotten first.
    topics_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    # How often counts of topics, and figures of the broker, are written.
    monitor_period_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    # Tests of brokers that operators name
    broker_test_timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    broker_private_addresses: bool = False
