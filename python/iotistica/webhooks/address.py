"""Which URLs and addresses a webhook may have. Pure.

Whoever may make a webhook makes this server send requests, so it must not reach what only this
server reaches: private networks, the machine itself, the metadata service of a cloud.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from iotistica.errors import BadRequest

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_MOST_CHARACTERS = 2000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(url: str, *, private: bool) -> None:
    """Raise `BadRequest` for a URL that is none of ours to call; `private` allows any address.

    A name is checked when it is called, as what it stands for may change.
    """
    if len(url) > _MOST_CHARACTERS or not url.isprintable() or not url.isascii() or " " in url:
        raise BadRequest(f"url has {len(url)} characters; at most 2000 of plain ASCII are allowed")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise BadRequest(f"url is {url[:64]!r}; it is no URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadRequest(f"url is {url[:64]!r}; it must begin with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None:
        raise BadRequest("url carries a user or a password; the signature proves who calls")
    if port == 0:
        raise BadRequest("url has port 0; 1 to 65535 are allowed")
    address = literal(host)
    if address is not None and not (private or is_public(address)):
        raise BadRequest(f"url leads to {address}, which is not a public address")


def literal(host: str) -> Address | None:
    """The address that a host is, if it is one."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether anybody on the Internet could reach it, too, whichever way it is written."""
    if address.is_multicast or not address.is_global:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    within = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        within.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return all(is_public(one) for one in within if one is not None)
