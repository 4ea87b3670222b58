//! Cross-origin requests: which origins of browsers may read answers (the Fetch standard, 3.2).

use crate::fields::{is_word, members};

const EXPOSED: &str = "ETag, Link, Location, Retry-After, X-Request-ID";
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
/// Chrome keeps it no longer than two hours.
const MAX_AGE_S: &str = "7200";

/// The origins that are allowed; none leaves all of CORS to the handlers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    None,
    /// `*`: without credentials.
    Any,
    These(Vec<String>),
}

impl Origins {
    pub fn parse(list: &[String]) -> Self {
        match list {
            [] => Self::None,
            _ if list.iter().any(|origin| origin == "*") => Self::Any,
            _ => Self::These(list.to_vec()),
        }
    }

    pub fn is_allowed(&self, origin: &str) -> bool {
        match self {
            Self::None => false,
            Self::Any => true,
            Self::These(list) => list.iter().any(|one| one == origin),
        }
    }

    /// Whether answers depend on the origin that asks.
    pub fn vary(&self) -> bool {
        matches!(self, Self::These(_))
    }

    /// Append the fields that let `origin` read an answer, if it may.
    pub fn write(&self, origin: &str, out: &mut Vec<u8>) {
        if !self.is_allowed(origin) {
            return;
        }
        let fields = match self {
            Self::These(_) => {
                format!(
                    "Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\n"
                )
            }
            _ => "Access-Control-Allow-Origin: *\r\n".to_owned(),
        };
        out.extend_from_slice(fields.as_bytes());
        out.extend_from_slice(format!("Access-Control-Expose-Headers: {EXPOSED}\r\n").as_bytes());
    }
}

/// The fields of the answer to a preflight, beside those of `Origins::write`.
pub fn preflight(asked_headers: Option<&str>) -> String {
    let headers: Vec<&str> =
        members(asked_headers.unwrap_or_default()).filter(|name| is_word(name)).collect();
    let mut fields = format!(
        "Access-Control-Allow-Methods: {METHODS}\r\nAccess-Control-Max-Age: {MAX_AGE_S}\r\n"
    );
    if !headers.is_empty() {
        for part in ["Access-Control-Allow-Headers: ", &headers.join(", "), "\r\n"] {
            fields.push_str(part);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(list: &[&str], origin: &str) -> String {
        let list: Vec<String> = list.iter().map(|&one| one.to_owned()).collect();
        let mut out = Vec::new();
        Origins::parse(&list).write(origin, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_listed_origins_may_read() {
        let own = written(&["https://a", "https://b"], "https://b");
        assert!(own.starts_with("Access-Control-Allow-Origin: https://b\r\n"));
        assert!(own.contains("Access-Control-Allow-Credentials: true\r\n"));
        assert_eq!(written(&["https://a"], "https://a.evil"), "");
        assert_eq!(written(&[], "https://a"), "");
    }

    #[test]
    fn a_star_is_without_credentials() {
        let any = written(&["*"], "https://a");
        assert!(any.starts_with("Access-Control-Allow-Origin: *\r\n"));
        assert!(!any.contains("Credentials"));
    }

    #[test]
    fn a_preflight_gets_what_it_asked_for() {
        let fields = preflight(Some("authorization, if-match, b d"));
        assert!(fields.ends_with("Access-Control-Allow-Headers: authorization, if-match\r\n"));
    }
}
