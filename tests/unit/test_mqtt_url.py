"""The forms of MQTT_URL."""

from __future__ import annotations

import pytest

from iotistica.errors import ConfigError
from iotistica.mqtt import parse_url


def test_all_parts_of_the_url_are_used() -> None:
    options = parse_url("mqtts://a%40b:p%2Fw%25@example.org:1234", client_id="c")
    assert (options.host, options.port, options.tls) == ("example.org", 1234, True)
    assert (options.username, options.password, options.client_id) == ("a@b", "p/w%", "c")


def test_ports_have_defaults() -> None:
    assert parse_url("mqtt://h", client_id="c").port == 1883
    assert parse_url("mqtts://h", client_id="c").port == 8883
    assert parse_url("mqtt://[::1]", client_id="c").host == "::1"


def test_credentials_beside_the_url_stand_in() -> None:
    beside = {"client_id": "c", "username": "u", "password": "p"}
    assert parse_url("mqtt://h", **beside).username == "u"
    assert parse_url("mqtt://v:w@h", **beside).username == "v"
    assert parse_url("mqtt://v:w@h", **beside).password == "w"


@pytest.mark.parametrize("url", ["", "h:1883", "http://h", "mqtt://", "mqtt://h:x", "mqtt://[::1"])
def test_anything_else_is_one_clear_sentence_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match="MQTT_URL") as caught:
        parse_url(url.replace("//h", "//u:hunter2@h"), client_id="c")
    assert "hunter2" not in str(caught.value)
