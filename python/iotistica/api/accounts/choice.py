"""Which `Accounts` the settings mean."""

from __future__ import annotations

from iotistica.api.accounts import Accounts, Elsewhere
from iotistica.api.accounts.files import Files
from iotistica.credentials import Credentials
from iotistica.errors import ConfigError
from iotistica.settings import Settings


def accounts(settings: Settings) -> Accounts:
    """Those of `mqtt_accounts`. Raises `ConfigError`."""
    if settings.mqtt_accounts == "none":
        return Elsewhere()
    passwords, acl = settings.mqtt_password_file, settings.mqtt_acl_file
    if passwords is None or acl is None:
        raise ConfigError(
            "MQTT_ACCOUNTS is files; then MQTT_PASSWORD_FILE and MQTT_ACL_FILE must be set"
        )
    return Files(
        Credentials(passwords, acl),
        pid_file=settings.mqtt_pid_file,
        mqtt_url=settings.require("mqtt_url"),
    )
