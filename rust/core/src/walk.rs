//! Walks through a finished COPY stream: what was encoded once is picked, counted and written in
//! another form without being decoded again.

use crate::copy::{Copy, Kind, SIGNATURE};
use crate::ids::AgentId;

impl Copy {
    /// The rows, each as it stands in the stream.
    pub fn walk(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.get(SIGNATURE.len()..).unwrap_or_default();
        std::iter::from_fn(move || {
            let length = fields(rest)?.map(|field| 4 + field.map_or(0, <[u8]>::len)).sum::<usize>();
            let (row, after) = rest.split_at_checked(2 + length)?;
            rest = after;
            Some(row)
        })
    }

    /// Rows of each agent, in the order of the stream.
    pub fn agents(&self) -> Vec<(AgentId, usize)> {
        let agent = self.columns.iter().position(|(_, kind)| *kind == Kind::Uuid);
        let agents = self.walk().filter_map(|row| fields(row)?.nth(agent?)??.try_into().ok());
        let mut counts: Vec<(AgentId, usize)> = Vec::new();
        for agent in agents {
            match counts.last_mut() {
                Some((known, rows)) if *known == agent => *rows += 1,
                _ => counts.push((agent, 1)),
            }
        }
        counts
    }
}

/// Fields of the row that starts here, `None` being NULL; no row where the stream ends.
pub(crate) fn fields(row: &[u8]) -> Option<impl Iterator<Item = Option<&[u8]>>> {
    let (columns, mut rest) = row.split_first_chunk()?;
    // The trailer is a row of -1 columns.
    let columns = usize::try_from(i16::from_be_bytes(*columns)).ok()?;
    Some((0..columns).map_while(move |_| {
        let (length, after) = rest.split_first_chunk()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = after;
            return Some(None);
        };
        let (field, after) = after.split_at_checked(length)?;
        rest = after;
        Some(Some(field))
    }))
}
