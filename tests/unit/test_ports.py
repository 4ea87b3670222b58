"""Ports: remembered where free, different from each other."""

from __future__ import annotations

import socket

import pytest

from iotistica.embedded.ports import answers, free_port, free_ports, is_free, local_url


def test_a_port_in_use_is_not_free_and_another_is_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free(port)
        assert free_port(port) != port
    assert is_free(port)
    assert free_port(port) == port


def test_ports_of_one_call_differ() -> None:
    ports = free_ports(dict.fromkeys(map(str, range(500)), 0))
    assert len(set(ports.values())) == 500


def test_no_outgoing_connection_may_take_a_free_port() -> None:
    assert all(20_000 <= port < 32_768 for port in (free_port() for _ in range(50)))


async def test_nobody_answers_on_a_free_port() -> None:
    assert not await answers(free_port())


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("fe80::1", "http://[fe80::1]:1"),
        ("a.example", "http://a.example:1"),
    ],
)
def test_a_server_on_all_addresses_is_asked_on_loopback(host: str, url: str) -> None:
    assert local_url(host, 1) == url
