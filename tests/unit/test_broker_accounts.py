"""Names, rules and passwords of users of the broker, and what settings mean, without a server."""

from __future__ import annotations

import pytest

from iotistica.api.accounts import Rule
from iotistica.api.accounts.broker_passwords import BrokerPasswords, StoredPassword
from iotistica.api.accounts.choice import check
from iotistica.api.accounts.dynsec import _acls
from iotistica.api.accounts.tenant_rules import filter_of, username_of
from iotistica.api.agent_digests import AgentDigests
from iotistica.errors import BadRequest, ConfigError
from iotistica.settings import Settings

TENANT, SHORT = "73eddd385ce8", "c-3dOFzo"
AGENT = "00000000-0000-0000-0000-000000000000"
OURS = {"jwt_secret": "k" * 64, "mqtt_url": "mqtt://iotistica:secret@127.0.0.1"}


def passwords(secret: str = "k" * 64) -> BrokerPasswords:
    return BrokerPasswords(AgentDigests(Settings.load(jwt_secret=secret)))


def test_a_name_at_the_broker_begins_with_the_tenant() -> None:
    assert username_of(TENANT, "node-red") == f"{TENANT}.node-red"
    assert username_of(TENANT, f"{TENANT}.node-red") == f"{TENANT}.node-red"


@pytest.mark.parametrize(
    "name",
    [
        "agent_7",
        f"{TENANT}.agent_7",
        "-x",
        "",
        "a" * 65,
        "a.b",
        "0123456789ab.x",
        "a:b",
        "a\nb",
        "ü",
    ],
)
def test_names_that_nobody_may_have(name: str) -> None:
    with pytest.raises(BadRequest, match="field username is"):
        username_of(TENANT, name)


def test_a_rule_within_the_tenant_is_kept_as_brokers_see_it() -> None:
    assert filter_of(TENANT, f"i/{SHORT}/a/+/state") == f"i/{SHORT}/a/+/state"
    assert filter_of(TENANT, f"i/{TENANT}/a/{AGENT}/#") == f"i/{SHORT}/a/{'A' * 22}/#"
    assert filter_of(TENANT, f"i/{SHORT}/#") == f"i/{SHORT}/#"
    assert filter_of("self-hosted", "i/self-hosted/lines/3") == "i/self-hosted/lines/3"


@pytest.mark.parametrize(
    "topic",
    [
        "#",
        "+/#",
        "i/#",
        "i/+/#",
        f"+/{SHORT}/#",
        f"i/{SHORT}",
        "i/AAAAAAAA/#",
        "i/0123456789ab/#",
        f"/i/{SHORT}/#",
        f"I/{SHORT}/#",
        "$SYS/#",
        f"$share/g/i/{SHORT}/#",
        "$CONTROL/dynamic-security/v1",
        "i//#",
    ],
)
def test_no_rule_reaches_beyond_the_tenant(topic: str) -> None:
    with pytest.raises(BadRequest, match=rf"it must lie within the tenant, below i/{SHORT}/"):
        filter_of(TENANT, topic)


def test_a_rule_that_is_no_filter_says_why() -> None:
    with pytest.raises(BadRequest, match="# must be the last level"):
        filter_of(TENANT, f"i/{SHORT}/#/x")
    with pytest.raises(BadRequest, match="printable"):
        filter_of(TENANT, f"i/{SHORT}/x\nuser admin\ntopic readwrite #")


def test_a_password_is_not_stored_and_can_be_told_again() -> None:
    ours = passwords()
    made = ours.generate()
    assert made.sealed is None
    assert ours.reveal("u", made) == ours.reveal("u", made) != ours.reveal("v", made)
    sealed = ours.seal("u", "correct horse")
    assert sealed.salt is None
    assert sealed.sealed is not None
    assert b"correct" not in sealed.sealed
    assert ours.seal("u", "correct horse") != sealed
    assert ours.reveal("u", sealed) == "correct horse"
    assert ours.reveal("v", sealed) is None
    assert passwords("x" * 64).reveal("u", sealed) is None
    assert ours.reveal("u", StoredPassword()) is None


def test_passwords_are_compared() -> None:
    ours = passwords()
    sealed = ours.seal("u", "correct horse")
    assert ours.verify("u", sealed, "correct horse")
    for stored, password in (
        (sealed, "correct horsf"),
        (sealed, ""),
        (StoredPassword(), ""),
        (StoredPassword(), "correct horse"),
        (None, ""),
        (None, ours.reveal("u", StoredPassword(salt=bytes(16))) or "x"),
    ):
        assert not ours.verify("u", stored, password)


def test_the_bits_of_a_rule_as_the_plugin_has_them() -> None:
    def told(access: int) -> set[tuple[str, str]]:
        return {(one["acltype"], one["topic"]) for one in _acls(Rule("i/x", access))}

    assert told(1) == {("publishClientReceive", "i/x")}
    assert told(2) == {("publishClientSend", "i/x")}
    assert told(4) == {
        (kind, topic)
        for kind in ("subscribePattern", "unsubscribePattern")
        for topic in ("i/x", "$share/+/i/x")
    }
    assert told(7) == told(1) | told(2) | told(4)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"mqtt_accounts": "dynsec"}, "MQTT_ADMIN_URL must be set"),
        (
            {"mqtt_accounts": "dynsec", "mqtt_admin_url": "mqtt://127.0.0.1"},
            "MQTT_ADMIN_URL must name user and password",
        ),
        (
            {"mqtt_accounts": "dynsec", "mqtt_admin_url": "mqtt://iotistica:x@127.0.0.1"},
            "both name the user 'iotistica'",
        ),
        (
            {
                "mqtt_accounts": "dynsec",
                "mqtt_admin_url": "mqtt://a:x@127.0.0.1",
                "mqtt_url": "mqtt://127.0.0.1",
            },
            "MQTT_URL must name user and password",
        ),
        ({"mqtt_accounts": "callbacks"}, "MQTT_CALLBACK_TOKEN must be set"),
    ],
)
def test_settings_that_lack_something(settings: dict[str, str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        check(Settings.load(**{**OURS, **settings}))


def test_settings_that_are_complete() -> None:
    check(Settings.load(**OURS))
    check(
        Settings.load(
            **OURS, mqtt_accounts="dynsec", mqtt_admin_url="mqtt://dynsec:secret@127.0.0.1"
        )
    )
    check(Settings.load(**OURS, mqtt_accounts="callbacks", mqtt_callback_token="t" * 32))
