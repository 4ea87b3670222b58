"""Which addresses webhooks may have, and how requests prove themselves."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

import pytest

from iotistica.api.notifier import Patience
from iotistica.errors import BadRequest
from iotistica.webhooks.address import check_url, is_public
from iotistica.webhooks.signature import new_salt, secret_of, sign


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:db8::1",
    ],
)
def test_what_only_we_could_reach_is_no_public_address(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(BadRequest, match="not a public address"):
        check_url(f"http://{host}/hook", private=False)
    check_url(f"http://{host}/hook", private=True)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://example.com/", "must begin with https:// or http://"),
        ("file:///etc/passwd", "must begin with https:// or http://"),
        ("example.com", "must begin with https:// or http://"),
        ("http://", "must begin with https:// or http://"),
        ("http://me:secret@example.com/", "carries a user or a password"),
        ("http://example.com:0/", "has port 0"),
        ("http://example.com:99999/", "it is no URL"),
        ("http://[::1/", "it is no URL"),
        ("http://exam ple.com/", "plain ASCII"),
        ("http://exämple.com/", "plain ASCII"),
        ("http://example.com/" + "x" * 2000, "plain ASCII"),
    ],
)
def test_a_url_that_is_none_of_ours_to_call_is_refused(url: str, error: str) -> None:
    with pytest.raises(BadRequest, match=error):
        check_url(url, private=True)


def test_a_signature_is_the_hmac_of_time_and_body() -> None:
    expected = hmac.new(b"secret", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
    assert sign("secret", 1_700_000_000, b'{"a":1}') == f"t=1700000000,v1={expected}"


def test_every_webhook_has_a_secret_of_its_own() -> None:
    salt = new_salt()
    secret = secret_of(b"key", "tenant", salt)
    assert secret.startswith("whsec_")
    assert len(secret) == 49
    assert secret_of(b"key", "tenant", salt) == secret
    others = (
        secret_of(b"other", "tenant", salt),
        secret_of(b"key", "another", salt),
        secret_of(b"key", "tenant", new_salt()),
    )
    assert len({secret, *others}) == 4


def test_delays_double_up_to_an_hour_and_then_end() -> None:
    patience = Patience(attempts=12, first_delay_s=10)
    for attempts, about_s in ((1, 10), (2, 20), (5, 160), (9, 2560), (10, 3600), (11, 3600)):
        delay_s = patience.delay_s(attempts)
        assert delay_s is not None
        assert 0.8 * about_s <= delay_s <= 1.2 * about_s
    assert patience.delay_s(12) is None
