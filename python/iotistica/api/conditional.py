"""Conditional requests (RFC 9110 section 13): what the caller knows already is not sent again."""

from __future__ import annotations

import hashlib

from iotistica.api.http import Reply, Request

_DIGEST_BYTES = 20


def matches(given: str, etag: str) -> bool:
    """Whether `If-None-Match` names this ETag: quoted or not, weak, in a list, or `*`."""
    if given == etag:
        return True
    plain = etag.strip('"')
    names = (one.strip().removeprefix("W/").strip('"') for one in given.split(","))
    return any(name in (plain, "*") for name in names)


def tagged(request: Request, reply: Reply) -> Reply:
    """The answer with a strong ETag of its content, or 304 where the caller has just that.

    Of the content, because nothing is final: readings of any age may arrive late.
    """
    etag = f'"{hashlib.blake2b(reply.body, digest_size=_DIGEST_BYTES).hexdigest()}"'
    # Asked again each time, and kept by the caller only: it is one tenant's.
    headers = {"etag": etag, "cache-control": "private, no-cache"}
    given = request.headers.get("if-none-match")
    if given is not None and matches(given, etag):
        return Reply(304, b"", headers)
    return Reply(reply.status, reply.body, {**reply.headers, **headers})
