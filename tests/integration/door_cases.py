"""Malformed requests, and what the door must do with each."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

GOOD = b"GET /good HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
BODY = b"field=value&more=0123456789"


@dataclass(frozen=True)
class Case:
    """What is sent (a number waits so long), and the statuses of the answers before the close.

    Each 200 is a request that reached the handler; nothing else may.
    """

    name: str
    pieces: tuple[bytes | float, ...]
    statuses: tuple[int, ...]
    end: bool = False
    """The client closes its side after the last piece."""


def get(fields: str = "", target: str = "/a", version: str = "HTTP/1.1", host: str = "x") -> bytes:
    return f"GET {target} {version}\r\nHost: {host}\r\n{fields}\r\n".encode("latin-1")


def post(fields: str, body: bytes = b"") -> bytes:
    return f"POST /a HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode("latin-1") + body


def chunked(body: bytes, fields: str = "") -> bytes:
    return post(f"Transfer-Encoding: chunked\r\n{fields}", body)


def one(name: str, sent: bytes, *statuses: int, end: bool = False) -> Case:
    return Case(name, (sent,), statuses, end)


REQUEST_LINES = [
    ("", 400),
    ("GET", 400),
    ("GET /a", 400),
    ("GET  /a HTTP/1.1", 400),
    ("GET /a  HTTP/1.1", 400),
    (" GET /a HTTP/1.1", 400),
    ("GET /a HTTP/1.1 ", 400),
    ("GET\t/a\tHTTP/1.1", 400),
    ("GET /a b HTTP/1.1", 400),
    ("GET /a HTTP/1.1 x", 400),
    ("GET /a http/1.1", 400),
    ("GET /a HTTP/1", 400),
    ("GET /a HTTP/1.", 400),
    ("GET /a HTTP/1.11", 400),
    ("GET /a HTTP/01.1", 400),
    ("GET /a HTTP /1.1", 400),
    ("GET /a HTTPS/1.1", 400),
    ("GET /a XTTP/1.1", 400),
    ("GET /a HTTP/-1.1", 400),
    ("GET /a HTTP/1.1\x00", 400),
    ("GET /a HTTP/0.9", 505),
    ("GET /a HTTP/1.2", 505),
    ("GET /a HTTP/2.0", 505),
    ("GET /a HTTP/3.0", 505),
    ("GET /a HTTP/9.9", 505),
    ("PRI * HTTP/2.0", 505),
    ("get /a HTTP/1.1", 501),
    ("Get /a HTTP/1.1", 501),
    ("FOO /a HTTP/1.1", 501),
    ("PROPFIND /a HTTP/1.1", 501),
    ("GETT /a HTTP/1.1", 501),
    ("G\xc3T /a HTTP/1.1", 400),
    ("G@T /a HTTP/1.1", 400),
    ("GET: /a HTTP/1.1", 400),
    ("GET/a HTTP/1.1", 400),
    ('"GET" /a HTTP/1.1', 400),
    ("CONNECT x:80 HTTP/1.1", 405),
    ("TRACE /a HTTP/1.1", 405),
    ("GET * HTTP/1.1", 400),
    ("GET x:80 HTTP/1.1", 400),
    ("GET a HTTP/1.1", 400),
    ("GET ?a HTTP/1.1", 400),
    ("GET #a HTTP/1.1", 400),
    ("GET /a#b HTTP/1.1", 400),
    ("GET /a\\b HTTP/1.1", 400),
    ("GET /a<b> HTTP/1.1", 400),
    ('GET /a"b HTTP/1.1', 400),
    ("GET /a{b} HTTP/1.1", 400),
    ("GET /a|b HTTP/1.1", 400),
    ("GET /a^b HTTP/1.1", 400),
    ("GET /a`b HTTP/1.1", 400),
    ("GET /a?b#c HTTP/1.1", 400),
    ("GET /a?<b> HTTP/1.1", 400),
    ("GET /\xe9 HTTP/1.1", 400),
    ("GET /\xc3\xa9 HTTP/1.1", 400),
    ("GET /a?\xff\xfe HTTP/1.1", 400),
    ("GET ftp://x/a HTTP/1.1", 400),
    ("GET file:///a HTTP/1.1", 400),
    ("GET http:/a HTTP/1.1", 400),
    ("GET http:// HTTP/1.1", 400),
    ("GET http:///a HTTP/1.1", 400),
    ("GET http://u:p@x/a HTTP/1.1", 400),
    ("GET http://x:y/a HTTP/1.1", 400),
    ("GET http://[x]/a HTTP/1.1", 400),
    ("GET javascript:alert(1) HTTP/1.1", 400),
]

HOSTS = [
    "",
    " ",
    "x y",
    "x,y",
    "x/y",
    "x?y",
    "x#y",
    "x@y",
    "x:y",
    "x:-1",
    "x:123456",
    "x:80:80",
    ":80",
    "[::1",
    "::1",
    "[::g]",
    "[::1]y",
    "[]",
    "x\\y",
    "http://x",
    "x\x00",
    "<x>",
]

FIELDS = [
    ("no colon", "Field\r\n"),
    ("only a colon", ":\r\n"),
    ("no name", ": value\r\n"),
    ("space before the colon", "Field : value\r\n"),
    ("tab before the colon", "Field\t: value\r\n"),
    ("space before the name", " Field: value\r\n"),
    ("tab before the name", "\tField: value\r\n"),
    ("space in the name", "Fi eld: value\r\n"),
    ("folded field", "Field: a\r\n b\r\n"),
    ("field folded with a tab", "Field: a\r\n\tb\r\n"),
    ("folded empty", "Field:\r\n \r\n"),
    ("parentheses in the name", "Fi(e)ld: value\r\n"),
    ("quotes in the name", 'Fi"e"ld: value\r\n'),
    ("slash in the name", "Fi/eld: value\r\n"),
    ("name in UTF-8", "F\xc3\xafeld: value\r\n"),
    ("value in Latin-1", "Field: \xe9\r\n"),
    ("value in UTF-8", "Field: \xc3\xa9\r\n"),
    ("value in bad UTF-8", "Field: \xff\xfe\r\n"),
    ("value in overlong UTF-8", "Field: \xc0\x8a\r\n"),
    ("space before Content-Length's colon", "Content-Length : 3\r\n"),
    ("space before Transfer-Encoding's colon", "Transfer-Encoding : chunked\r\n"),
    ("request line among the fields", "GET /b HTTP/1.1\r\n"),
    ("two hosts", "Host: y\r\n"),
    ("the same host twice", "Host: x\r\n"),
    ("hosts in two cases", "hOST: x\r\n"),
    ("bare line feed", "A: b\nC: d\r\n"),
    ("bare carriage return", "A: b\rC: d\r\n"),
    ("carriage returns before the line feed", "A: b\r\r\n"),
    ("line feed before the carriage return", "A: b\n\r\n"),
]

LENGTHS = [
    "",
    "+3",
    "-3",
    "-0",
    "3.0",
    "3e0",
    "0x3",
    "3 3",
    "3,3",
    "3, 3",
    "3,4",
    ",3",
    "3;",
    "three",
    "\x0b3",
    "3\x0c",
    '"3"',
    "\xd9\xa3",  # a digit in UTF-8, not in HTTP
    "\xc2\xb2",
]

CODINGS = [
    "",
    "identity",
    "gzip",
    "gzip, chunked",
    "chunked, gzip",
    "chunked, identity",
    "identity, chunked",
    "chunked, chunked",
    "chunked,",
    ",chunked",
    "chunked;q=1",
    "xchunked",
    "chunkedx",
    "chunked\x0b",
    "\x0bchunked",
    "chunk\x00ed",
    '"chunked"',
    "'chunked'",
    "[chunked]",
    "deflate",
    "trailers",
    "CHUNKED, CHUNKED",
    "chunk",
]

# Without and after the data `abc`; all would otherwise end with the last chunk.
CHUNKS = [
    ("no digits", b"\r\nabc\r\n0\r\n\r\n"),
    ("letters", b"ZZ\r\nabc\r\n0\r\n\r\n"),
    ("letters after digits", b"3Z\r\nabc\r\n0\r\n\r\n"),
    ("0x", b"0x3\r\nabc\r\n0\r\n\r\n"),
    ("plus", b"+3\r\nabc\r\n0\r\n\r\n"),
    ("minus", b"-3\r\nabc\r\n0\r\n\r\n"),
    ("minus zero", b"-0\r\n\r\n"),
    ("space before", b" 3\r\nabc\r\n0\r\n\r\n"),
    ("space after", b"3 \r\nabc\r\n0\r\n\r\n"),
    ("tab after", b"3\t\r\nabc\r\n0\r\n\r\n"),
    ("space before an extension", b"3 ;a\r\nabc\r\n0\r\n\r\n"),
    ("NUL after", b"3\x00\r\nabc\r\n0\r\n\r\n"),
    ("underscore", b"0_3\r\nabc\r\n0\r\n\r\n"),
    ("fraction", b"3.0\r\nabc\r\n0\r\n\r\n"),
    ("two sizes", b"3,3\r\nabc\r\n0\r\n\r\n"),
    ("full-width digit", b"\xef\xbc\x93" + b"\r\nabc\r\n0\r\n\r\n"),
    ("bare line feed after the size", b"3\nabc\r\n0\r\n\r\n"),
    ("bare carriage return after the size", b"3\rabc\r\n0\r\n\r\n"),
    ("two carriage returns after the size", b"3\r\r\nabc\r\n0\r\n\r\n"),
    ("bare line feed after the data", b"3\r\nabc\n0\r\n\r\n"),
    ("bare carriage return after the data", b"3\r\nabc\r0\r\n\r\n"),
    ("nothing after the data", b"3\r\nabc0\r\n\r\n"),
    ("more data than the size", b"3\r\nabcd\r\n0\r\n\r\n"),
    ("less data than the size", b"5\r\nabc\r\n0\r\n\r\n"),
    ("line feed in an extension", b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ("carriage return in an extension", b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    ("NUL in an extension", b"3;a\x00\r\nabc\r\n0\r\n\r\n"),
    ("bad UTF-8 in an extension", b"3;\xff\xfe\r\nabc\r\n0\r\n\r\n"),
    ("bare line feed after the last size", b"0\n\r\n"),
    ("bare line feed at the very end", b"3\r\nabc\r\n0\r\n\n"),
    ("bare line feed after a trailer", b"0\r\nA: b\n\r\n"),
    ("trailer without a colon", b"0\r\nA\r\n\r\n"),
    ("trailer with a space before the colon", b"0\r\nA : b\r\n\r\n"),
    ("folded trailer", b"0\r\nA: b\r\n c\r\n\r\n"),
    ("NUL in a trailer", b"0\r\nA: \x00\r\n\r\n"),
    ("bad UTF-8 in a trailer", b"0\r\nA: \xff\r\n\r\n"),
    ("a request instead of a trailer", b"0\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("long extension", b"3;" + b"a" * 2000 + b"\r\nabc\r\n0\r\n\r\n"),
    ("long trailer", b"0\r\nA: " + b"a" * 2000 + b"\r\n\r\n"),
    ("many trailers", b"0\r\n" + b"A: bbbbbbbbbbbbbbbb\r\n" * 2000 + b"\r\n"),
    ("many extensions", b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nb\r\n" * 2000 + b"0\r\n\r\n"),
    ("many leading zeros", b"0" * 2000 + b"3\r\nabc\r\n0\r\n\r\n"),
]

TOO_LARGE_CHUNKS = [
    ("one byte too many", b"10001\r\n"),
    ("32 bits", b"FFFFFFFF\r\n"),
    ("63 bits", b"7FFFFFFFFFFFFFFF\r\n"),
    ("64 bits", b"FFFFFFFFFFFFFFFF\r\n"),
    ("65 bits", b"1FFFFFFFFFFFFFFFF\r\n"),
    ("65 bits that wrap around to 3", b"10000000000000003\r\n"),
    ("many that sum up", b"8000\r\n" + b"a" * 0x8000 + b"\r\n8001\r\n"),
]


def heads() -> Iterator[Case]:
    for line, status in REQUEST_LINES:
        sent = f"{line}\r\nHost: x\r\n\r\n".encode("latin-1")
        if line:
            yield one(f"line {line!r}", sent, status)
    for host in HOSTS:
        yield one(f"host {host!r}", get(host=host), 400)
    yield one("no host", b"GET /a HTTP/1.1\r\n\r\n", 400)
    yield one("no host but a URL", b"GET http://x/a HTTP/1.1\r\n\r\n", 400)
    for name, fields in FIELDS:
        yield one(name, post(fields), 400)
    for byte in [*range(9), *range(11, 13), *range(14, 32), 127]:
        character = chr(byte)
        yield one(f"{byte:#04x} in a value", get(f"Field: a{character}b\r\n"), 400)
        yield one(f"{byte:#04x} in a name", get(f"Fi{character}eld: a\r\n"), 400)
        yield one(f"{byte:#04x} in the target", get(target=f"/a{character}b"), 400)
        yield one(f"{byte:#04x} in the method", f"G{character}".encode() + get()[1:], 400)
    for byte in [*range(1, 10), *range(11, 13), *range(14, 33), 127, 128, 255]:
        yield one(f"{byte:#04x} as the first byte", bytes([byte]), 400)
    yield one("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400)
    yield one("an MQTT connect", b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00\x00", 400)
    yield one("an SSH hello", b"SSH-2.0-OpenSSH_9.2\n", 400)
    yield one("two empty lines first", b"\r\n\r\n" + GOOD, 400)
    yield one("a bare line feed first", b"\n" + GOOD, 400)
    yield one("lines that end with line feeds", GOOD.replace(b"\r\n", b"\n"), 400)
    yield one("lines that end with carriage returns", GOOD.replace(b"\r\n", b"\r"), 400)


def framings() -> Iterator[Case]:
    for length in LENGTHS:
        yield one(f"length {length!r}", post(f"Content-Length: {length}\r\n", b"abc"), 400)
    for coding in CODINGS:
        sent = post(f"Transfer-Encoding: {coding}\r\n", b"3\r\nabc\r\n0\r\n\r\n")
        yield one(f"coding {coding!r}", sent, 400)
    both = [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "content-length: 13\r\nTRANSFER-ENCODING: CHUNKED\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 3\r\n",
        "Transfer-Encoding:\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: \x0bchunked\r\n",
        "Content-Length: 3\r\nTransfer-Encoding : chunked\r\n",
        "Content-Length: 3\r\nTransfer-Encoding:\x0cchunked\r\n",
        "Content-Length: 3\r\nX: y\rTransfer-Encoding: chunked\r\n",
        "Content-Length: 3\r\nX: y\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 3\r\n Transfer-Encoding: chunked\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3\r\ncontent-length: 0\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    ]
    for fields in both:
        # What a proxy that believed the other length would take for a second request.
        yield one(f"{fields!r}", post(fields, b"3\r\nabc\r\n0\r\n\r\n" + GOOD), 400)
    old = b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    yield one("chunks in HTTP/1.0", old, 400)
    for name, body in CHUNKS:
        yield one(f"chunk: {name}", chunked(body), 400)
    for name, body in TOO_LARGE_CHUNKS:
        yield one(f"chunk too large: {name}", chunked(body), 413)
    for digits in ("65537", "4294967296", "9" * 18, "9" * 19, "18446744073709551619", "9" * 40):
        yield one(f"length too large: {digits}", post(f"Content-Length: {digits}\r\n", b"abc"), 413)
    yield one("unknown expectation", post("Expect: 200-ok\r\nContent-Length: 3\r\n", b"abc"), 417)
    twice = "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
    yield one("two expectations", post(twice, b"abc"), 417)
    large = post("Expect: 100-continue\r\nContent-Length: 65537\r\n")
    yield one("too much is expected to continue", large, 413)


def sizes() -> Iterator[Case]:
    yield one("long target", get(target="/" + "a" * 8192), 414)
    yield one("long query", get(target="/?" + "a" * 8192), 414)
    yield one("endless target", b"GET /" + b"a" * 100_000, 414)
    yield one("endless method", b"G" * 100_000, 414)
    yield one("long field", get(f"Field: {'a' * 17_000}\r\n"), 431)
    yield one("long name", get(f"{'a' * 17_000}: b\r\n"), 431)
    yield one("endless field", b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000, 431)
    yield one("many fields", get("A: b\r\n" * 100), 431)
    yield one("very many fields", get("A: b\r\n" * 10_000), 431)
    yield one("large body", post("Content-Length: 65537\r\n", b"a" * 65_537), 413)
    yield one(
        "large body that comes at once", post("Content-Length: 900000\r\n", b"a" * 900_000), 413
    )


def codings() -> Iterator[Case]:
    def coded(name: str, body: bytes) -> bytes:
        fields = f"Content-Encoding: {name}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        return post(fields, body)

    text = BODY * 20
    for name, body in (("gzip", gzip.compress(text)), ("deflate", zlib.compress(text))):
        yield one(f"bomb in {name}", coded(name, _bomb(name)), 413)
        yield one(f"{name} with more behind", coded(name, body + b"x"), 400)
        yield one(f"empty {name}", coded(name, b""), 400)
        damaged = body[:-6] + bytes([body[-6] ^ 1]) + body[-5:]
        yield one(f"{name} with a wrong checksum", coded(name, damaged), 400)
        for cut in (1, 5, 12, len(body) - 1):
            yield one(f"{name} cut at {cut}", coded(name, body[:cut]), 400)
    for name in ("gzip", "deflate", "br", "x-gzip"):
        yield one(f"text as {name}", coded(name, b"this is only text"), 400)
    for name in ("zstd", "compress", "gzip, gzip", "gzip, br", "aes128gcm", "", "gzip;q=1"):
        yield one(f"content coding {name!r}", coded(name, b"abc"), 415)
    twice = "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n"
    yield one("two codings", post(twice, b"abc"), 415)
    raw = zlib.compressobj(wbits=-15)
    yield one("raw deflate", coded("deflate", raw.compress(text) + raw.flush()), 400)


def _bomb(name: str) -> bytes:
    zeros = bytes(10_000_000)
    return gzip.compress(zeros) if name == "gzip" else zlib.compress(zeros)


def pipelines() -> Iterator[Case]:
    keep = GOOD.replace(b"Connection: close\r\n", b"")
    bad = get("Bad field\r\n")
    yield one("good after good", keep + GOOD, 200, 200)
    yield one("three good ones", keep + keep + GOOD, 200, 200, 200)
    yield one("good after bad", bad + GOOD, 400)
    yield one("bad after good", keep + bad, 200, 400)
    yield one("bad between good ones", keep + bad + GOOD, 200, 400)
    yield one("good after a bad length", post("Content-Length: x\r\n", GOOD), 400)
    yield one("good after a bad chunk", chunked(b"Z\r\n" + GOOD), 400)
    yield one("good after a large body", post("Content-Length: 65537\r\n", GOOD), 413)
    yield one("good after close", GOOD + GOOD, 200)
    yield one("good after a body", post("Content-Length: 3\r\n", b"abc") + GOOD, 200, 200)
    yield one("good after chunks", chunked(b"3\r\nabc\r\n0\r\nA: b\r\n\r\n") + GOOD, 200, 200)
    yield one("good after the empty body of a GET", get("Content-Length: 0\r\n") + GOOD, 200, 200)
    yield one(
        "good after the body of a GET", get("Content-Length: 3\r\n") + b"abc" + GOOD, 200, 200
    )
    yield one(
        "a body that looks like a request",
        post(f"Content-Length: {len(GOOD)}\r\nConnection: close\r\n", GOOD),
        200,
    )
    yield one("one empty line first", b"\r\n" + GOOD, 200)
    yield one("an empty line between", keep + b"\r\n" + GOOD, 200, 200)
    yield one("rubbish between", keep + b"rubbish\n" + GOOD, 200, 400)
    yield one("HTTP/1.0 closes", b"GET /a HTTP/1.0\r\n\r\n" + GOOD, 200)
    old = b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    yield one("HTTP/1.0 that stays", old + GOOD, 200, 200)
    upgrade = "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    yield one("h2c is not spoken", get(upgrade) + GOOD, 200, 200)


def slow() -> Iterator[Case]:
    yield Case("nothing at all", (), ())
    yield Case("half a method", (b"GE",), (408,))
    yield Case("half a head", (get()[:-2],), (408,))
    head = get("Field: value\r\n" * 5)
    drips = tuple(part for at in range(0, 40, 4) for part in (head[at : at + 4], 0.1))
    yield Case("a head in drips", drips, (408,))
    yield Case("half a body", (post("Content-Length: 10\r\n", b"abc"),), (408,))
    yield Case("no body", (post("Content-Length: 10\r\n"),), (408,))
    yield Case("half a chunk", (chunked(b"5\r\nabc"),), (408,))
    yield Case("no last chunk", (chunked(b"3\r\nabc\r\n"),), (408,))
    yield Case("no end of the trailers", (chunked(b"0\r\n"),), (408,))
    waits = (post("Content-Length: 10\r\nExpect: 100-continue\r\n"),)
    yield Case("waits for 100 and sends nothing", waits, (408,))
    drips = (post("Content-Length: 30\r\n"), *(part for _ in range(9) for part in (b"a", 0.2)))
    yield Case("a body in drips", drips, (408,))
    keep = GOOD.replace(b"Connection: close\r\n", b"")
    yield Case("nothing after a good one", (keep,), (200,))
    yield Case("half a head after a good one", (keep + b"GET",), (200, 408))


def truncated() -> Iterator[Case]:
    whole = post(f"Content-Length: {len(BODY)}\r\nConnection: close\r\n", BODY)
    for cut in range(len(whole)):
        yield one(f"body with a length cut at {cut}", whole[:cut], end=True)
    yield one("not cut", whole, 200, end=True)
    whole = chunked(
        b"5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\n", "Connection: close\r\n"
    )
    for cut in range(len(whole)):
        yield one(f"chunked body cut at {cut}", whole[:cut], end=True)
    yield one("chunks not cut", whole, 200, end=True)


CASES = [
    *heads(),
    *framings(),
    *sizes(),
    *codings(),
    *pipelines(),
    *slow(),
    *truncated(),
]
