//! Messages that may be in the table already: redelivery repeats whole messages, so the first key
//! of a message tells, as a rule, of all its rows. Where it does not, the COPY will fail.

use crate::copy::{Copy, KEY_COLUMNS, Stream};
use crate::walk::fields;

const TYPICAL_KEY_BYTES: usize = 64;

/// First key of every message that has rows, in their order. `sources` names the message of each row.
pub fn heads(copy: &Copy, sources: &[u32]) -> Copy {
    let place = |key| copy.columns.iter().position(|column| column == key);
    let places: Vec<usize> = KEY_COLUMNS.iter().filter_map(place).collect();
    let mut seen = vec![false; messages(sources)];
    let mut stream = Stream::new(&KEY_COLUMNS, seen.len() * TYPICAL_KEY_BYTES);
    for (row, &message) in copy.walk().zip(sources) {
        if std::mem::replace(&mut seen[message as usize], true) {
            continue;
        }
        stream.begin();
        for &place in &places {
            let mut fields = fields(row).into_iter().flatten();
            stream.field(fields.nth(place).flatten().unwrap_or_default());
        }
    }
    stream.finish()
}

/// Divide the rows: those of messages whose head was not found, and the others. `found` are
/// positions among the heads.
pub fn split(copy: &Copy, sources: &[u32], found: &[usize]) -> (Copy, Copy) {
    let mut is_found = vec![false; messages(sources)];
    for &head in found {
        if let Some(is_found) = is_found.get_mut(head) {
            *is_found = true;
        }
    }
    let mut heads = is_found.into_iter();
    let mut is_suspect: Vec<Option<bool>> = vec![None; heads.len()];
    let mut clean = Stream::new(copy.columns, copy.bytes.len());
    let mut suspect = Stream::new(copy.columns, 0);
    for (row, &message) in copy.walk().zip(sources) {
        let is_suspect =
            is_suspect[message as usize].get_or_insert_with(|| heads.next() == Some(true));
        if *is_suspect { suspect.row(row) } else { clean.row(row) }
    }
    (clean.finish(), suspect.finish())
}

/// As many as the indices in `sources` need.
fn messages(sources: &[u32]) -> usize {
    sources.iter().max().map_or(0, |&last| last as usize + 1)
}
