//! The head of an answer: as the web process gives it, as the client gets it.

use std::io::Write;
use std::time::SystemTime;

use crate::cors::Origins;
use crate::fields::{self, Field, NameBuffer, Text, lower_case, members};
use crate::refusal::{Refusal, title};

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    Length(u64),
    Chunked,
    Close,
}

/// What an answer of a web process says.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub status: u16,
    pub reason: &'a str,
    pub framing: Framing,
    /// Content-Length of an answer without a body: to HEAD, or a 304.
    pub described_length: Option<u64>,
    pub keep_alive: bool,
    pub content_type: &'a str,
    /// Must reach the client as it is: encoded already, a part of something, or said so.
    pub is_final_form: bool,
    fields: Vec<Field<'a>>,
}

impl<'a> Answer<'a> {
    /// Parse the lines of a head; anything odd is `UpstreamBroken`. `to_head`: the request was HEAD.
    pub fn parse(head: &'a [u8], to_head: bool) -> Result<Self, Refusal> {
        Self::read(head, to_head).ok_or(Refusal::UpstreamBroken)
    }

    fn read(head: &'a [u8], to_head: bool) -> Option<Self> {
        let head = std::str::from_utf8(head).ok()?;
        let mut lines = fields::lines(head);
        let (version, rest) = lines.next()?.split_once(' ')?;
        let (digits, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        let status: u16 = digits.parse().ok().filter(|status| (100..600).contains(status))?;
        let mut answer = Self {
            status,
            reason,
            framing: Framing::Close,
            described_length: None,
            keep_alive: version == "HTTP/1.1",
            content_type: "",
            is_final_form: status == 206,
            fields: Vec::with_capacity(16),
        };
        let (mut length, mut is_chunked) = (None, false);
        for line in lines {
            let field = fields::parse(line, Text::Utf8).ok()?;
            match lower_case(field.name, &mut NameBuffer::default()) {
                b"content-length" => {
                    let value: u64 = field.value.parse().ok()?;
                    if length.replace(value).is_some_and(|before| before != value) {
                        return None;
                    }
                }
                b"transfer-encoding" if field.value.eq_ignore_ascii_case("chunked") => {
                    is_chunked = true;
                }
                b"transfer-encoding" => return None,
                name => answer.take(name, field),
            }
        }
        answer.described_length = length;
        answer.framing =
            match (to_head || matches!(status, 100..200 | 204 | 304), is_chunked, length) {
                (true, ..) => Framing::Empty,
                (false, true, _) => Framing::Chunked,
                (false, false, Some(length)) => Framing::Length(length),
                (false, false, None) => Framing::Close,
            };
        Some(answer)
    }

    fn take(&mut self, name: &[u8], field: Field<'a>) {
        match name {
            b"connection" => {
                let mut options = members(field.value);
                self.keep_alive &= !options.any(|option| option.eq_ignore_ascii_case("close"));
                return;
            }
            b"keep-alive" | b"proxy-connection" | b"upgrade" | b"trailer" | b"server"
            | b"x-powered-by" => return,
            b"content-type" => self.content_type = field.value,
            b"content-encoding" | b"content-range" => self.is_final_form = true,
            b"cache-control" => {
                let mut directives = members(field.value);
                self.is_final_form |=
                    directives.any(|one| one.eq_ignore_ascii_case("no-transform"));
            }
            _ => {}
        }
        self.fields.push(field);
    }

    /// Server-sent events end when the client or the server goes, not before.
    pub fn is_endless(&self) -> bool {
        self.media_type().eq_ignore_ascii_case("text/event-stream")
    }

    pub fn media_type(&self) -> &'a str {
        let end = self.content_type.find(';').unwrap_or(self.content_type.len());
        self.content_type[..end].trim_ascii_end()
    }

    /// Append the head for the client.
    pub fn write(&self, form: Form, extras: &Extras<'_>, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, self.reason);
        for field in &self.fields {
            // RFC 9110 section 8.8.3: another encoding is another representation.
            let is_strong = form.is_compressed
                && field.name.eq_ignore_ascii_case("etag")
                && field.value.starts_with('"');
            let weak = if is_strong { "W/" } else { "" };
            for part in [field.name, ": ", weak, field.value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        let length = match form.framing {
            Framing::Length(length) => Some(length),
            Framing::Empty if self.status != 204 => self.described_length,
            _ => None,
        };
        if let Some(length) = length {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        if form.framing == Framing::Chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if form.is_compressed {
            out.extend_from_slice(b"Content-Encoding: gzip\r\n");
        }
        if form.varies {
            out.extend_from_slice(b"Vary: Accept-Encoding\r\n");
        }
        extras.write(&self.fields, out);
    }
}

/// In which form the client gets an answer.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub framing: Framing,
    pub is_compressed: bool,
    /// Whether another client could have got it compressed, or not.
    pub varies: bool,
}

/// What the Connection field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    Close,
    /// Nothing: HTTP/1.1 connections stay.
    Implied,
    /// To clients of HTTP/1.0.
    KeepAlive,
    WebSocket,
}

/// What is added to every answer, the door's own too.
#[derive(Clone, Copy, Debug)]
pub struct Extras<'a> {
    pub request_id: &'a str,
    pub origin: Option<&'a str>,
    pub origins: &'a Origins,
    pub is_tls: bool,
    pub persistence: Persistence,
}

impl Extras<'_> {
    /// End a head that has `fields`.
    fn write(&self, fields: &[Field<'_>], out: &mut Vec<u8>) {
        let lacks = |name: &str| !fields.iter().any(|field| field.name.eq_ignore_ascii_case(name));
        if lacks("x-request-id") {
            for part in ["X-Request-ID: ", self.request_id, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        let persistence = match self.persistence {
            Persistence::Close => "Connection: close\r\n",
            Persistence::Implied => "",
            Persistence::KeepAlive => "Connection: keep-alive\r\n",
            Persistence::WebSocket => "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        };
        let transport = "Strict-Transport-Security: max-age=31536000\r\n";
        for (is_due, line) in [
            (lacks("x-content-type-options"), "X-Content-Type-Options: nosniff\r\n"),
            (lacks("x-frame-options"), "X-Frame-Options: DENY\r\n"),
            (lacks("referrer-policy"), "Referrer-Policy: no-referrer\r\n"),
            (self.is_tls && lacks("strict-transport-security"), transport),
            (self.origins.vary(), "Vary: Origin\r\n"),
            (true, persistence),
        ] {
            if is_due {
                out.extend_from_slice(line.as_bytes());
            }
        }
        if let Some(origin) = self.origin
            && lacks("access-control-allow-origin")
        {
            self.origins.write(origin, out);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The door's own answer to what it refuses. `to_head`: without the body.
    pub fn refuse(&self, refusal: Refusal, to_head: bool) -> Vec<u8> {
        let facts = refusal.facts();
        let error = title(facts.status);
        let body = serde_json::json!({"error": error, "message": facts.message}).to_string();
        let mut more = format!(
            "Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n",
            body.len()
        );
        if let Some(seconds) = refusal.retry_after_s() {
            for part in ["Retry-After: ", &seconds.to_string(), "\r\n"] {
                more.push_str(part);
            }
        }
        if refusal == Refusal::Method {
            more.push_str("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
        }
        let mut out = self.own(facts.status, error, &more);
        if !to_head {
            out.extend_from_slice(body.as_bytes());
        }
        out
    }

    /// An answer of the door's own without a body; `more` are further fields.
    pub fn own(&self, status: u16, reason: &str, more: &str) -> Vec<u8> {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let mut out = format!("HTTP/1.1 {status} {reason}\r\nDate: {date}\r\n{more}").into_bytes();
        self.write(&[], &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(head: &str) -> Result<Answer<'_>, Refusal> {
        Answer::parse(head.as_bytes(), false)
    }

    fn extras(origins: &Origins) -> Extras<'_> {
        Extras {
            request_id: "r",
            origin: None,
            origins,
            is_tls: false,
            persistence: Persistence::Implied,
        }
    }

    fn rewritten(head: &str, form: Form) -> String {
        let mut out = Vec::new();
        parse(head).unwrap().write(form, &extras(&Origins::None), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_framing_follows_status_and_fields() {
        let framing = |head: &str| parse(head).map(|answer| answer.framing);
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"), Ok(Framing::Length(3)));
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"),
            Ok(Framing::Chunked)
        );
        assert_eq!(framing("HTTP/1.1 200 OK\r\n"), Ok(Framing::Close));
        assert_eq!(
            framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n"),
            Ok(Framing::Empty)
        );
        let to_head = Answer::parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", true).unwrap();
        assert_eq!((to_head.framing, to_head.described_length), (Framing::Empty, Some(3)));
        for head in [
            "",
            "x",
            "HTTP/1.1 x OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        ] {
            assert_eq!(framing(head), Err(Refusal::UpstreamBroken), "{head:?}");
        }
    }

    #[test]
    fn what_is_missing_is_added_and_what_is_not_for_clients_goes() {
        let head = "HTTP/1.1 200 OK\r\nServer: s\r\nConnection: close\r\nX-Frame-Options: SAMEORIGIN\r\nETag: \"a\"\r\n";
        let form = Form { framing: Framing::Chunked, is_compressed: true, varies: true };
        assert_eq!(
            rewritten(head, form),
            "HTTP/1.1 200 OK\r\nX-Frame-Options: SAMEORIGIN\r\nETag: W/\"a\"\r\nTransfer-Encoding: chunked\r\n\
             Content-Encoding: gzip\r\nVary: Accept-Encoding\r\nX-Request-ID: r\r\n\
             X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\r\n"
        );
    }

    #[test]
    fn a_refusal_is_json_in_the_form_of_the_reference() {
        let text =
            String::from_utf8(extras(&Origins::None).refuse(Refusal::RequestRate, false)).unwrap();
        assert!(text.starts_with("HTTP/1.1 429 Too many requests\r\n"));
        assert!(text.contains("\r\nRetry-After: 1\r\n"));
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"], "Too many requests");
        assert_eq!(body["message"], Refusal::RequestRate.facts().message);
        assert!(extras(&Origins::None).refuse(Refusal::Chunk, true).ends_with(b"\r\n\r\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_parsed(head in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Answer::parse(&head, false);
        }
    }
}
