//! Header fields: one line each, strictly as RFC 9110 section 5 and RFC 9112 section 5 say.

use crate::refusal::Refusal;

/// A header field; the value is without the spaces around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a str,
    pub value: &'a str,
}

/// Which values are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// Printable ASCII and tabs: of clients. Robyn loses other values without a word.
    Ascii,
    /// UTF-8 too: of our own handlers.
    Utf8,
}

const TOKENS: [bool; 256] = {
    let mut tokens = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        tokens[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut mark = 0;
    while mark < marks.len() {
        tokens[marks[mark] as usize] = true;
        mark += 1;
    }
    tokens
};

pub const fn is_token(byte: u8) -> bool {
    TOKENS[byte as usize]
}

/// Whether `text` is a token of RFC 9110 section 5.6.2: a method, a field name.
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token)
}

/// Lines of a head in which every line ends with CR LF, as `Scanner` leaves it.
pub fn lines(head: &str) -> impl Iterator<Item = &str> {
    head.split_terminator('\n').map(|line| line.strip_suffix('\r').unwrap_or(line))
}

/// Parse one line that is not the first one.
pub fn parse(line: &str, text: Text) -> Result<Field<'_>, Refusal> {
    if line.starts_with([' ', '\t']) {
        return Err(Refusal::FoldedField);
    }
    let (name, value) = line.split_once(':').ok_or(Refusal::FieldName)?;
    if !is_word(name) {
        return Err(Refusal::FieldName);
    }
    let value = value.trim_matches([' ', '\t']);
    let allowed =
        |byte: u8| matches!(byte, b' '..=b'~' | b'\t') || (byte >= 0x80 && text == Text::Utf8);
    match value.bytes().all(allowed) {
        true => Ok(Field { name, value }),
        false => Err(Refusal::FieldValue),
    }
}

/// Members of a comma-separated list, without empty ones.
pub fn members(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(|member| member.trim_matches([' ', '\t']))
        .filter(|member| !member.is_empty())
}

/// Room for the longest name that the door knows.
pub type NameBuffer = [u8; 32];

/// `name` in lower case, to be matched against the names that the door knows.
pub fn lower_case<'b>(name: &str, buffer: &'b mut NameBuffer) -> &'b [u8] {
    let Some(lower) = buffer.get_mut(..name.len()) else {
        return b"";
    };
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    lower
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_a_colon_and_a_value() {
        let field = |line| parse(line, Text::Ascii);
        assert_eq!(field("A-b: \t c d \t"), Ok(Field { name: "A-b", value: "c d" }));
        assert_eq!(field("A:"), Ok(Field { name: "A", value: "" }));
        assert_eq!(field("A: b:c"), Ok(Field { name: "A", value: "b:c" }));
        assert_eq!(field(" A: b"), Err(Refusal::FoldedField));
        for line in ["A : b", "A", ":", ": b", "A b: c", "A\0: b", "(A): b", "Ä: b"] {
            assert_eq!(field(line), Err(Refusal::FieldName), "{line:?}");
        }
        for line in ["A: b\0c", "A: \x7f", "A: \x1b[2J", "A: ü"] {
            assert_eq!(field(line), Err(Refusal::FieldValue), "{line:?}");
        }
        assert_eq!(parse("A: ü", Text::Utf8), Ok(Field { name: "A", value: "ü" }));
    }

    #[test]
    fn names_are_matched_in_any_case() {
        let mut buffer = NameBuffer::default();
        assert_eq!(lower_case("Content-LENGTH", &mut buffer), b"content-length");
        assert_eq!(lower_case(&"x".repeat(33), &mut buffer), b"");
    }

    #[test]
    fn lists_skip_what_is_empty() {
        assert_eq!(members(" a ,, b\t,").collect::<Vec<_>>(), ["a", "b"]);
    }
}
