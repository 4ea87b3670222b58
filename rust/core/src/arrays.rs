//! Rows as array literals, one for each column: what a statement takes as text parameters.
//!
//! For a few rows, one `INSERT … SELECT FROM unnest(…)` is several times cheaper than a COPY into
//! a staging table and a merge from there; and a driver passes text without an object for each value.

use std::fmt::Write as _;

use crate::copy::{Copy, EPOCH_US, Kind};
use crate::ids;
use crate::walk::fields;

const NULL: &str = "NULL";

impl Copy {
    /// One literal for each column: `{…}`, to be cast to an array of the column's type. Times are
    /// whole microseconds since 1970.
    pub fn arrays(&self) -> Vec<String> {
        let mut arrays = vec![String::from("{"); self.columns.len()];
        for row in self.walk() {
            let columns = self.columns.iter().zip(&mut arrays);
            for (field, ((_, kind), array)) in fields(row).into_iter().flatten().zip(columns) {
                if array.len() > 1 {
                    array.push(',');
                }
                match field {
                    Some(field) => element(array, *kind, field),
                    None => array.push_str(NULL),
                }
            }
        }
        for array in &mut arrays {
            array.push('}');
        }
        arrays
    }
}

fn element(array: &mut String, kind: Kind, field: &[u8]) {
    let eight = || <[u8; 8]>::try_from(field).unwrap_or_default();
    // Writing to a String cannot fail.
    match kind {
        Kind::Time => _ = write!(array, "{}", i64::from_be_bytes(eight()) + EPOCH_US),
        Kind::Double => _ = write!(array, "{:e}", f64::from_be_bytes(eight())),
        Kind::Uuid => array.push_str(&ids::format_uuid(&field.try_into().unwrap_or_default())),
        Kind::Text => quote(array, field),
        // Its first byte is the version of the format.
        Kind::Json => quote(array, field.get(1..).unwrap_or_default()),
    }
}

fn quote(array: &mut String, text: &[u8]) {
    array.push('"');
    for c in String::from_utf8_lossy(text).chars() {
        if matches!(c, '"' | '\\') {
            array.push('\\');
        }
        array.push(c);
    }
    array.push('"');
}
