//! Timestamps as agents write them, to microseconds since 1970 (UTC).
//!
//! Text: ISO 8601 with `T` or a space, any number of fraction digits (beyond six are cut), and
//! `Z`, `±hh:mm`, `±hhmm`, `±hh` or no zone (UTC); a date alone is its midnight; RFC 2822 as well.
//!
//! Numbers (also as text of ten digits or more) are told apart by magnitude, which is safe
//! because readings lie within two years of now:
//!
//! | absolute value | unit | covers the years |
//! |---|---|---|
//! | < 10^11 | seconds | to 5138 |
//! | < 10^14 | milliseconds | 1973 to 5138 |
//! | < 10^17 | microseconds | 1973 to 5138 |
//! | else | nanoseconds | from 1973 |

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use crate::value::Value;

const SECOND_US: i64 = 1_000_000;
pub const DAY_US: i64 = 86_400 * SECOND_US;

/// Microseconds since 1970 of a timestamp in any accepted form.
pub fn parse(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Text(text) => parse_text(text),
        Value::Time(micros) => Some(micros),
        Value::Int(number) => Some(from_integer(number)),
        Value::Float(number) => from_float(number),
        _ => None,
    }
}

fn from_integer(number: i64) -> i64 {
    match number.unsigned_abs() {
        0..100_000_000_000 => number * SECOND_US,
        100_000_000_000..100_000_000_000_000 => number * 1000,
        100_000_000_000_000..100_000_000_000_000_000 => number,
        _ => number.div_euclid(1000),
    }
}

fn from_float(number: f64) -> Option<i64> {
    let scale = match number.abs() {
        ..1e11 => 1e6,
        ..1e14 => 1e3,
        ..1e17 => 1.0,
        ..1e20 => 1e-3,
        _ => return None,
    };
    Some((number * scale).round() as i64)
}

fn parse_text(text: &str) -> Option<i64> {
    let text = text.trim();
    if text.len() >= 10 && text.bytes().all(|c| c.is_ascii_digit()) {
        return text.parse().ok().map(from_integer);
    }
    parse_iso(text.as_bytes()).or_else(|| parse_rfc2822(text))
}

fn parse_rfc2822(text: &str) -> Option<i64> {
    let parser = DateTimeParser::new();
    parser.parse_timestamp(text).ok().map(Timestamp::as_microsecond)
}

fn digits<const N: usize>(text: &[u8]) -> Option<(i64, &[u8])> {
    let (head, rest) = text.split_first_chunk::<N>()?;
    let mut number = 0;
    for digit in head {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + i64::from(digit - b'0');
    }
    Some((number, rest))
}

fn tail<'a>(text: &'a [u8], first: &[u8]) -> Option<&'a [u8]> {
    text.split_first().filter(|(c, _)| first.contains(c)).map(|(_, rest)| rest)
}

fn parse_iso(text: &[u8]) -> Option<i64> {
    let (year, text) = digits::<4>(text)?;
    let (month, text) = digits::<2>(tail(text, b"-")?)?;
    let (day, text) = digits::<2>(tail(text, b"-")?)?;
    let midnight = days_from_civil(year, month, day)? * DAY_US;
    if text.is_empty() {
        return Some(midnight);
    }
    let (hour, text) = digits::<2>(tail(text, b"Tt ")?)?;
    let (minute, text) = digits::<2>(tail(text, b":")?)?;
    let (second, text) = match tail(text, b":") {
        Some(text) => digits::<2>(text)?,
        None => (0, text),
    };
    // Second 60 is a leap second: the next second, as every clock that knows none has it.
    if hour > 24 || minute > 59 || second > 60 || (hour == 24 && minute + second > 0) {
        return None;
    }
    let (fraction, text) = match tail(text, b".,") {
        Some(text) => parse_fraction(text)?,
        None => (0, text),
    };
    let offset = parse_zone(text)?;
    Some(midnight + ((hour * 60 + minute) * 60 + second - offset) * SECOND_US + fraction)
}

fn parse_fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let length = text.iter().take_while(|c| c.is_ascii_digit()).count();
    let (fraction, rest) = text.split_at(length);
    let mut micros = 0;
    for i in 0..6 {
        micros = micros * 10 + fraction.get(i).map_or(0, |c| i64::from(c - b'0'));
    }
    (length > 0).then_some((micros, rest))
}

/// Offset from UTC in seconds; no zone is UTC.
fn parse_zone(text: &[u8]) -> Option<i64> {
    let (sign, text) = match text {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, text) = digits::<2>(text)?;
    let (minutes, text) = match text {
        [] => (0, text),
        text => digits::<2>(tail(text, b":").unwrap_or(text))?,
    };
    (text.is_empty() && hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60)
}

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar.
///
/// Shifts the year to start in March, so that the leap day comes last (Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if day < 1 || day > length {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// ISO 8601 in UTC, with as many fraction digits as needed.
pub fn format(micros: i64) -> String {
    match Timestamp::from_microsecond(micros) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{micros} microseconds since 1970"),
    }
}
