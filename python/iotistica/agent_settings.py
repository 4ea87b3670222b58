"""Settings of agents: a part of `Settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from iotistica.setting_names import names as _names


class AgentSettings(BaseSettings):
    """How agents come in, and how the broker learns of them."""

    mqtt_accounts: Annotated[str, Field(pattern="^(none|files|dynsec|callbacks)$")] = "none"
    mqtt_password_file: Path | None = None
    mqtt_acl_file: Path | None = None
    mqtt_pid_file: Path | None = None
    # The administrator of Mosquitto's dynamic-security plugin: mqtt://user:password@host
    mqtt_admin_url: SecretStr | None = None
    # What a broker shows that asks us: a password of HTTP Basic, or a Bearer token.
    mqtt_callback_token: Annotated[SecretStr | None, Field(min_length=16)] = None
    # For so long a web process goes by what it knows of a user of the broker.
    mqtt_callback_cache_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    # Users of the broker that operators of one tenant may make.
    mqtt_users_per_tenant: Annotated[int, Field(ge=0)] = 1000
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
