"""Settings of agents: a part of `Settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from iotistica.setting_names import names as _names


class AgentSettings(BaseSettings):
    """How agents come in, and how the broker learns of them."""

    mqtt_accounts: Annotated[str, Field(pattern="^(none|files)$")] = "none"
    mqtt_password_file: Path | None = None
    mqtt_acl_file: Path | None = None
    mqtt_pid_file: Path | None = None
    # Where agents find the broker; that of MQTT_URL where it is not set.
    mqtt_public_url: Annotated[
        str | None, Field(validation_alias=_names("mqtt_public_url", "MQTT_PUBLIC_URL"))
    ] = None
    registration_failures_per_hour: Annotated[int, Field(ge=1)] = 10
    challenge_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    device_key_grace_s: Annotated[float, Field(ge=0)] = 7 * 86_400.0
    # How long a key that was refused elsewhere may still pass, should Redis not tell.
    device_key_recheck_s: Annotated[float, Field(gt=0)] = 30.0
    accounts_period_s: Annotated[float, Field(gt=0)] = 5.0
