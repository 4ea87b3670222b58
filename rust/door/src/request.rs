//! What a request says, or why it is refused: RFC 9112 where it leaves no choice, the strict side
//! where it leaves one. Nothing ambiguous goes on to the web process.

use std::borrow::Cow;

use crate::fields::{self, Field, NameBuffer, Text, is_word, lower_case, members};
use crate::refusal::Refusal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Known(u64),
    Chunked,
}

/// Content coding of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
}

#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Request<'a> {
    pub method: &'a str,
    /// Path and query, or `*`.
    pub target: Cow<'a, str>,
    pub version: Version,
    /// Absent in HTTP/1.0 only.
    pub host: Option<&'a str>,
    pub length: Length,
    pub coding: Coding,
    pub keep_alive: bool,
    pub expects_continue: bool,
    /// Asks for a WebSocket.
    pub upgrade: bool,
    pub accepts_gzip: bool,
    pub origin: Option<&'a str>,
    /// Of a CORS preflight.
    pub asks_method: Option<&'a str>,
    pub asks_headers: Option<&'a str>,
    pub request_id: Option<&'a str>,
    /// Values of X-Forwarded-For and the other fields that only a trusted proxy may set.
    pub forwarded: Vec<Field<'a>>,
    /// The fields that are passed on as they are.
    pub fields: Vec<Field<'a>>,
}

impl<'a> Request<'a> {
    /// Parse the lines of a head. `max_fields` bounds their number.
    pub fn parse(head: &'a [u8], max_fields: usize) -> Result<Self, Refusal> {
        // All the rest works on text; which part is not ASCII is not worth telling.
        let head = std::str::from_utf8(head).map_err(|_| Refusal::FieldValue)?;
        let mut lines = fields::lines(head);
        let line = lines.next().ok_or(Refusal::RequestLine)?;
        let (method, target, version) = parse_request_line(line)?;
        let mut known = Known::default();
        let mut passed = Vec::with_capacity(16);
        for (number, line) in lines.enumerate() {
            if number >= max_fields {
                return Err(Refusal::HeadTooLarge);
            }
            let field = fields::parse(line, Text::Ascii)?;
            if known.take(field) {
                passed.push(field);
            }
        }
        let target = parse_target(method, target)?;
        let length = known.length(version)?;
        let upgrade = known.upgrade(method, version, length);
        passed.retain(|field| !known.nominates(field.name));
        Ok(Self {
            method,
            host: host(&known.hosts, target.authority, version)?,
            target: target.path,
            version,
            length,
            coding: known.coding()?,
            keep_alive: known.keep_alive(version),
            expects_continue: known.expects_continue(version)?,
            upgrade,
            accepts_gzip: known.accepts_gzip,
            origin: known.origin,
            asks_method: known.asks_method,
            asks_headers: known.asks_headers,
            request_id: known.request_id,
            forwarded: known.forwarded,
            fields: passed,
        })
    }

    /// Whether to do it twice is the same as once (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS")
    }
}

/// What the fields say that the door itself acts on.
#[derive(Default)]
struct Known<'a> {
    hosts: Vec<&'a str>,
    lengths: Vec<&'a str>,
    transfer_codings: Vec<&'a str>,
    content_codings: Vec<&'a str>,
    connection: Vec<&'a str>,
    expectations: Vec<&'a str>,
    upgrades: Vec<&'a str>,
    is_websocket: bool,
    accepts_gzip: bool,
    origin: Option<&'a str>,
    asks_method: Option<&'a str>,
    asks_headers: Option<&'a str>,
    request_id: Option<&'a str>,
    forwarded: Vec<Field<'a>>,
}

impl<'a> Known<'a> {
    /// Note what the field says; whether it is passed on.
    fn take(&mut self, field: Field<'a>) -> bool {
        let value = field.value;
        match lower_case(field.name, &mut NameBuffer::default()) {
            b"host" => self.hosts.push(value),
            b"content-length" => self.lengths.push(value),
            b"transfer-encoding" => self.transfer_codings.push(value),
            b"content-encoding" => self.content_codings.push(value),
            b"connection" => self.connection.extend(members(value)),
            b"expect" => self.expectations.push(value),
            b"upgrade" => self.upgrades.push(value),
            b"x-request-id" => self.request_id = self.request_id.or(Some(value)),
            b"keep-alive"
            | b"proxy-connection"
            | b"proxy-authorization"
            | b"te"
            | b"trailer"
            | b"http2-settings"
            | b"x-real-ip" => {}
            b"forwarded" => self.forwarded.push(field),
            name if name.starts_with(b"x-forwarded-") => self.forwarded.push(field),
            name => return self.look(name, value),
        }
        false
    }

    fn look(&mut self, name: &[u8], value: &'a str) -> bool {
        match name {
            b"accept-encoding" => self.accepts_gzip |= accepts_gzip(value),
            b"origin" => self.origin = Some(value),
            b"access-control-request-method" => self.asks_method = Some(value),
            b"access-control-request-headers" => self.asks_headers = Some(value),
            b"sec-websocket-key" => self.is_websocket = true,
            _ => {}
        }
        true
    }

    fn has_option(&self, option: &str) -> bool {
        self.connection.iter().any(|one| one.eq_ignore_ascii_case(option))
    }

    /// Fields that Connection names are for this hop only, but a client cannot make the door drop
    /// what says who it is.
    fn nominates(&self, name: &str) -> bool {
        self.has_option(name) && !name.eq_ignore_ascii_case("authorization")
    }

    fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.has_option("close"),
            Version::Http10 => self.has_option("keep-alive") && !self.has_option("close"),
        }
    }

    fn length(&self, version: Version) -> Result<Length, Refusal> {
        match (self.lengths.as_slice(), self.transfer_codings.as_slice()) {
            ([], []) => Ok(Length::Known(0)),
            ([digits], []) => Ok(Length::Known(parse_length(digits)?)),
            (_, []) => Err(Refusal::ContentLength),
            ([], [coding])
                if coding.eq_ignore_ascii_case("chunked") && version == Version::Http11 =>
            {
                Ok(Length::Chunked)
            }
            ([], _) => Err(Refusal::TransferCoding),
            _ => Err(Refusal::LengthAndCoding),
        }
    }

    fn coding(&self) -> Result<Coding, Refusal> {
        let [name] = self.content_codings.as_slice() else {
            return if self.content_codings.is_empty() {
                Ok(Coding::Identity)
            } else {
                Err(Refusal::ContentCoding)
            };
        };
        match lower_case(name, &mut NameBuffer::default()) {
            b"identity" => Ok(Coding::Identity),
            b"gzip" | b"x-gzip" => Ok(Coding::Gzip),
            b"deflate" => Ok(Coding::Deflate),
            b"br" => Ok(Coding::Brotli),
            _ => Err(Refusal::ContentCoding),
        }
    }

    fn expects_continue(&self, version: Version) -> Result<bool, Refusal> {
        match (version, self.expectations.as_slice()) {
            (Version::Http10, _) | (_, []) => Ok(false),
            (_, [one]) if one.eq_ignore_ascii_case("100-continue") => Ok(true),
            _ => Err(Refusal::Expectation),
        }
    }

    /// Other protocols than WebSocket are ignored, as a server may (RFC 9110 section 7.8).
    fn upgrade(&self, method: &str, version: Version, length: Length) -> bool {
        self.is_websocket
            && self.has_option("upgrade")
            && matches!(self.upgrades.as_slice(), [one] if one.eq_ignore_ascii_case("websocket"))
            && (method, version, length) == ("GET", Version::Http11, Length::Known(0))
    }
}

fn parse_request_line(line: &str) -> Result<(&str, &str, Version), Refusal> {
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refusal::RequestLine);
    };
    if !is_word(method) || target.is_empty() {
        return Err(Refusal::RequestLine);
    }
    let version = match version.as_bytes() {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Refusal::Version);
        }
        _ => return Err(Refusal::RequestLine),
    };
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => {
            Ok((method, target, version))
        }
        "CONNECT" | "TRACE" => Err(Refusal::Method),
        _ => Err(Refusal::UnknownMethod),
    }
}

struct Target<'a> {
    authority: Option<&'a str>,
    path: Cow<'a, str>,
}

fn parse_target<'a>(method: &str, target: &'a str) -> Result<Target<'a>, Refusal> {
    if target == "*" && method == "OPTIONS" {
        return Ok(Target { authority: None, path: Cow::Borrowed(target) });
    }
    if target.starts_with('/') {
        check_path(target)?;
        return Ok(Target { authority: None, path: Cow::Borrowed(target) });
    }
    let (scheme, rest) = target.split_once("://").ok_or(Refusal::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Refusal::Target);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path = match path.starts_with('/') {
        true => Cow::Borrowed(path),
        false => Cow::Owned(format!("/{path}")),
    };
    check_path(&path)?;
    Ok(Target { authority: Some(authority), path })
}

/// RFC 3986 for the path; in the query also what browsers leave unencoded.
fn check_path(target: &str) -> Result<(), Refusal> {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/".contains(&byte);
    let in_query = |byte: u8| matches!(byte, b'!'..=b'~') && !b"\"#<>".contains(&byte);
    match path.bytes().all(in_path) && query.bytes().all(in_query) {
        true => Ok(()),
        false => Err(Refusal::Target),
    }
}

fn parse_length(digits: &str) -> Result<u64, Refusal> {
    // u64's own parser would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::ContentLength);
    }
    digits.parse().map_err(|_| Refusal::BodyTooLarge)
}

/// The host that was asked for: of the target where it is a URL (RFC 9112 section 3.2.2).
fn host<'a>(
    hosts: &[&'a str],
    authority: Option<&'a str>,
    version: Version,
) -> Result<Option<&'a str>, Refusal> {
    let host = match (hosts, version) {
        ([host], _) => Some(*host),
        ([], Version::Http10) => None,
        _ => return Err(Refusal::Host),
    };
    match [host, authority].into_iter().flatten().all(is_host) {
        true => Ok(authority.or(host)),
        false => Err(Refusal::Host),
    }
}

/// `name`, `1.2.3.4` or `[::1]`, with or without `:port`; never a user.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", port)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    // Less than a reg-name may have: with a comma it could be two hosts to somebody else.
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
    is_port && !name.is_empty() && name.bytes().all(in_name)
}

/// Whether a value of Accept-Encoding names gzip, or all, with a weight above 0.
fn accepts_gzip(value: &str) -> bool {
    let mut any = false;
    for member in members(value) {
        let (name, weight) = member.split_once(';').unwrap_or((member, ""));
        let weight = weight.trim_matches([' ', '\t']).trim_start_matches(['q', 'Q', '=']);
        let allowed = weight.is_empty() || weight.parse::<f32>().is_ok_and(|weight| weight > 0.0);
        match name.trim_end_matches([' ', '\t']) {
            name if name.eq_ignore_ascii_case("gzip") => return allowed,
            "*" => any = allowed,
            _ => {}
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(head: &str) -> Result<Request<'_>, Refusal> {
        Request::parse(head.as_bytes(), 8)
    }

    fn with(fields: &str) -> String {
        format!("POST /a HTTP/1.1\r\nHost: x\r\n{fields}")
    }

    fn refusal(head: &str) -> Option<Refusal> {
        parse(head).err()
    }

    #[test]
    fn a_request_is_taken_apart() {
        let head = "GET /a?b=[c] HTTP/1.1\r\nhost: x:80\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
                    Accept: y\r\nX-Forwarded-For: 1.2.3.4\r\nTE: trailers\r\nX-Request-ID: r\r\n";
        let request = parse(head).unwrap();
        assert_eq!((request.method, request.target.as_ref()), ("GET", "/a?b=[c]"));
        assert_eq!((request.host, request.length), (Some("x:80"), Length::Known(0)));
        assert!(!request.keep_alive);
        assert_eq!(request.request_id, Some("r"));
        assert_eq!(request.fields, [Field { name: "Accept", value: "y" }]);
        assert_eq!(request.forwarded, [Field { name: "X-Forwarded-For", value: "1.2.3.4" }]);
    }

    #[test]
    fn the_request_line_is_strict() {
        for (line, expected) in [
            ("GET / HTTP/1.1", None),
            ("OPTIONS * HTTP/1.1", None),
            ("GET * HTTP/1.1", Some(Refusal::Target)),
            ("GET  / HTTP/1.1", Some(Refusal::RequestLine)),
            ("GET /\tHTTP/1.1", Some(Refusal::RequestLine)),
            ("GET / HTTP/1.1 ", Some(Refusal::RequestLine)),
            ("GET /", Some(Refusal::RequestLine)),
            ("GET", Some(Refusal::RequestLine)),
            ("G(T / HTTP/1.1", Some(Refusal::RequestLine)),
            ("get / HTTP/1.1", Some(Refusal::UnknownMethod)),
            ("TRACE / HTTP/1.1", Some(Refusal::Method)),
            ("GET / http/1.1", Some(Refusal::RequestLine)),
            ("GET / HTTP/1.10", Some(Refusal::RequestLine)),
            ("GET / HTTP/2.0", Some(Refusal::Version)),
            ("GET / HTTP/0.9", Some(Refusal::Version)),
            ("GET a HTTP/1.1", Some(Refusal::Target)),
            ("GET ?a HTTP/1.1", Some(Refusal::Target)),
            ("GET /a#b HTTP/1.1", Some(Refusal::Target)),
            ("GET /a\"b HTTP/1.1", Some(Refusal::Target)),
            ("GET /a\\b HTTP/1.1", Some(Refusal::Target)),
            ("GET /a\0 HTTP/1.1", Some(Refusal::Target)),
            ("GET ftp://x/ HTTP/1.1", Some(Refusal::Target)),
            ("GET http:///a HTTP/1.1", Some(Refusal::Host)),
            ("GET http://u@x/a HTTP/1.1", Some(Refusal::Host)),
        ] {
            assert_eq!(refusal(&format!("{line}\r\nHost: x\r\n")), expected, "{line:?}");
        }
    }

    #[test]
    fn a_url_as_target_says_the_host() {
        let request = parse("GET HTTP://y:1?a=b HTTP/1.1\r\nHost: x\r\n").unwrap();
        assert_eq!((request.host, request.target.as_ref()), (Some("y:1"), "/?a=b"));
    }

    #[test]
    fn there_is_one_host() {
        for (fields, expected) in [
            ("Host: x\r\n", None),
            ("Host: [::1]:80\r\n", None),
            ("", Some(Refusal::Host)),
            ("Host: x\r\nHost: x\r\n", Some(Refusal::Host)),
            ("Host:\r\n", Some(Refusal::Host)),
            ("Host: x y\r\n", Some(Refusal::Host)),
            ("Host: x, y\r\n", Some(Refusal::Host)),
            ("Host: x,y\r\n", Some(Refusal::Host)),
            ("Host: u@x\r\n", Some(Refusal::Host)),
            ("Host: x:y\r\n", Some(Refusal::Host)),
            ("Host: x:123456\r\n", Some(Refusal::Host)),
            ("Host: [x]\r\n", Some(Refusal::Host)),
            ("Host: [::1]x\r\n", Some(Refusal::Host)),
            ("Host: x/a\r\n", Some(Refusal::Host)),
        ] {
            assert_eq!(refusal(&format!("GET / HTTP/1.1\r\n{fields}")), expected, "{fields:?}");
        }
        assert_eq!(parse("GET / HTTP/1.0\r\n").unwrap().host, None);
    }

    #[test]
    fn the_length_is_never_ambiguous() {
        for (fields, expected) in [
            ("", Ok(Length::Known(0))),
            ("Content-Length: 07\r\n", Ok(Length::Known(7))),
            ("Transfer-Encoding: Chunked\r\n", Ok(Length::Chunked)),
            ("Content-Length:\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: +7\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: -7\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: 7 7\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: 7, 7\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: 0x7\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: 7.0\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: 7\r\ncontent-length: 7\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: 99999999999999999999\r\n", Err(Refusal::BodyTooLarge)),
            ("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n", Err(Refusal::LengthAndCoding)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 7\r\n", Err(Refusal::LengthAndCoding)),
            ("Transfer-Encoding: identity\r\n", Err(Refusal::TransferCoding)),
            ("Transfer-Encoding:\r\n", Err(Refusal::TransferCoding)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(Refusal::TransferCoding)),
            ("Transfer-Encoding: chunked, chunked\r\n", Err(Refusal::TransferCoding)),
            ("Transfer-Encoding: xchunked\r\n", Err(Refusal::TransferCoding)),
            ("Transfer-Encoding: \x0bchunked\r\n", Err(Refusal::FieldValue)),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Err(Refusal::TransferCoding),
            ),
        ] {
            assert_eq!(parse(&with(fields)).map(|request| request.length), expected, "{fields:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(refusal(old), Some(Refusal::TransferCoding));
    }

    #[test]
    fn connection_cannot_take_away_who_the_client_is() {
        let head = with(
            "Connection: authorization, host, content-length\r\nAuthorization: t\r\nContent-Length: 1\r\n",
        );
        let request = parse(&head).unwrap();
        assert_eq!(request.fields, [Field { name: "Authorization", value: "t" }]);
        assert_eq!((request.host, request.length), (Some("x"), Length::Known(1)));
    }

    #[test]
    fn gzip_is_accepted_by_name_or_by_star() {
        for (value, expected) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("gzip;q=0.000", false),
            ("gzip;q=x", false),
            ("br", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(value), expected, "{value:?}");
        }
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        let upgrade = |fields: &str| {
            parse(&format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}")).unwrap().upgrade
        };
        assert!(upgrade("Connection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n"));
        assert!(!upgrade("Connection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Key: k\r\n"));
        assert!(!upgrade("Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n"));
        assert!(!upgrade(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nContent-Length: 1\r\n"
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_parsed(head in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&head, 8);
        }

        #[test]
        fn any_fields_are_refused_or_parsed(fields in prop::collection::vec("[A-Za-z-]{1,18}: [ -~]{0,20}\r\n", 0..9)) {
            let head = with(&fields.concat());
            if let Ok(request) = parse(&head) {
                prop_assert!(request.fields.iter().all(|field| !field.value.contains('\n')));
            }
        }
    }
}
