//! Everything that the door answers on its own account, each with status, label and sentence.

/// Why a request is not forwarded, or its answer not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    LineEnd,
    RequestLine,
    Version,
    Method,
    UnknownMethod,
    Target,
    TargetTooLong,
    HeadTooLarge,
    FoldedField,
    FieldName,
    FieldValue,
    Host,
    ContentLength,
    LengthAndCoding,
    TransferCoding,
    Expectation,
    Chunk,
    ChunkOverhead,
    BodyTooLarge,
    ContentCoding,
    CorruptBody,
    HeadTimeout,
    BodyTimeout,
    Origin,
    RequestRate,
    AddressConnections,
    Connections,
    Memory,
    NoUpstream,
    UpstreamBroken,
    UpstreamTimeout,
}

/// What a refusal means to clients (status, sentence) and to operators (label).
pub struct Facts {
    pub status: u16,
    pub label: &'static str,
    pub message: &'static str,
}

impl Refusal {
    pub const ALL: [Self; 31] = [
        Self::LineEnd,
        Self::RequestLine,
        Self::Version,
        Self::Method,
        Self::UnknownMethod,
        Self::Target,
        Self::TargetTooLong,
        Self::HeadTooLarge,
        Self::FoldedField,
        Self::FieldName,
        Self::FieldValue,
        Self::Host,
        Self::ContentLength,
        Self::LengthAndCoding,
        Self::TransferCoding,
        Self::Expectation,
        Self::Chunk,
        Self::ChunkOverhead,
        Self::BodyTooLarge,
        Self::ContentCoding,
        Self::CorruptBody,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::Origin,
        Self::RequestRate,
        Self::AddressConnections,
        Self::Connections,
        Self::Memory,
        Self::NoUpstream,
        Self::UpstreamBroken,
        Self::UpstreamTimeout,
    ];

    #[rustfmt::skip]
    pub const fn facts(self) -> Facts {
        let (status, label, message) = match self {
            Self::LineEnd => (400, "line_end", "Lines of the head must end with CR LF"),
            Self::RequestLine => (400, "request_line", "The request line must be METHOD, target and HTTP version with one space between"),
            Self::Version => (505, "version", "HTTP/1.1 and HTTP/1.0 are what this server speaks"),
            Self::Method => (405, "method", "CONNECT and TRACE are not allowed"),
            Self::UnknownMethod => (501, "unknown_method", "The method is not known to this server"),
            Self::Target => (400, "target", "The request target must be a path, or an http URL, in the characters of RFC 3986"),
            Self::TargetTooLong => (414, "target_too_long", "The request line is too long"),
            Self::HeadTooLarge => (431, "head_too_large", "The head has too many bytes or fields"),
            Self::FoldedField => (400, "folded_field", "A header field must not continue on a second line"),
            Self::FieldName => (400, "field_name", "A header field must be a name, a colon right after it, and a value"),
            Self::FieldValue => (400, "field_value", "The value of a header field must be printable ASCII"),
            Self::Host => (400, "host", "There must be one Host field with one valid host"),
            Self::ContentLength => (400, "content_length", "There must be at most one Content-Length, of digits only"),
            Self::LengthAndCoding => (400, "length_and_coding", "Content-Length and Transfer-Encoding must not come together"),
            Self::TransferCoding => (400, "transfer_coding", "The only transfer coding is chunked, in HTTP/1.1, once"),
            Self::Expectation => (417, "expectation", "The only expectation is 100-continue"),
            Self::Chunk => (400, "chunk", "The chunked body is malformed"),
            Self::ChunkOverhead => (400, "chunk_overhead", "The chunked body has too many extension or trailer bytes"),
            Self::BodyTooLarge => (413, "body_too_large", "The body is larger than this server takes"),
            Self::ContentCoding => (415, "content_coding", "Bodies may be encoded as gzip, deflate or br, once"),
            Self::CorruptBody => (400, "corrupt_body", "The body is not what its Content-Encoding says"),
            Self::HeadTimeout => (408, "head_timeout", "The head did not arrive in time"),
            Self::BodyTimeout => (408, "body_timeout", "The body did not arrive in time"),
            Self::Origin => (403, "origin", "This origin is not in CORS_ORIGINS"),
            Self::RequestRate => (429, "request_rate", "Too many requests from this address; try again later"),
            Self::AddressConnections => (429, "address_connections", "Too many connections from this address"),
            Self::Connections => (503, "connections", "Too many connections; try again later"),
            Self::Memory => (503, "memory", "Too many bodies are being received; try again later"),
            Self::NoUpstream => (503, "no_upstream", "The service is starting again; try again later"),
            Self::UpstreamBroken => (502, "upstream_broken", "The service broke off while it answered; whether it did what was asked is not known"),
            Self::UpstreamTimeout => (504, "upstream_timeout", "The service did not answer in time"),
        };
        Facts { status, label, message }
    }

    /// Seconds after which to try again, where that helps.
    pub const fn retry_after_s(self) -> Option<u32> {
        match self.facts().status {
            429 | 503 => Some(1),
            _ => None,
        }
    }
}

/// Reason phrase of the statuses that the door itself gives; also the `error` of the body.
pub const fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad request",
        403 => "Forbidden",
        405 => "Method not allowed",
        408 => "Request timeout",
        413 => "Payload too large",
        414 => "URI too long",
        415 => "Unsupported media type",
        417 => "Expectation failed",
        429 => "Too many requests",
        431 => "Request header fields too large",
        501 => "Not implemented",
        502 => "Bad gateway",
        503 => "Service unavailable",
        504 => "Gateway timeout",
        505 => "HTTP version not supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_refusal_at_its_number() {
        for (number, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, number);
            assert_ne!(title(refusal.facts().status), "Error", "{refusal:?}");
        }
    }
}
