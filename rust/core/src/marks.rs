//! Hours of agents that have got rows: what rollups must be made of anew.

use hashbrown::HashSet;

use crate::ids::AgentId;
use crate::rows::Rows;

const HOUR_US: i64 = 3_600_000_000;

/// An hour of an agent, in hours since 1970.
pub type Part = (AgentId, i32);

/// The hours that the rows touch, each once, in the order of the rows.
pub fn parts(rows: &Rows, kept: &[u32]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut seen: HashSet<Part, foldhash::fast::RandomState> = HashSet::default();
    let mut last = None;
    for &i in kept {
        let row = &rows.rows[i as usize];
        let part = (rows.series[row.series as usize].agent, row.time_us.div_euclid(HOUR_US) as i32);
        if last == Some(part) {
            continue;
        }
        last = Some(part);
        let part = (rows.agents[part.0 as usize], part.1);
        if seen.insert(part) {
            parts.push(part);
        }
    }
    parts
}

/// Days since 1970 that hold these hours, ascending.
pub fn days(parts: &[Part]) -> Vec<i32> {
    let mut days: Vec<_> = parts.iter().map(|&(_, hour)| hour.div_euclid(24)).collect();
    days.sort_unstable();
    days.dedup();
    days
}

/// What a process has marked, of hours that are open: these need no second mark.
#[derive(Default)]
pub struct Marks {
    marked: HashSet<Part, foldhash::fast::RandomState>,
    closed_before: i32,
}

impl Marks {
    /// Those that must be marked. Hours before `closed_before` always must, and are forgotten.
    pub fn missing<'a>(
        &mut self,
        parts: &'a [Part],
        closed_before: i32,
    ) -> impl Iterator<Item = &'a Part> {
        if closed_before > self.closed_before {
            self.closed_before = closed_before;
            self.marked.retain(|&(_, hour)| hour >= closed_before);
        }
        parts.iter().filter(|part| !self.marked.contains(*part))
    }

    /// Remember what was marked: only once that is committed.
    pub fn add(&mut self, parts: &[Part]) {
        let open = parts.iter().filter(|&&(_, hour)| hour >= self.closed_before);
        self.marked.extend(open.copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Part = ([1; 16], 100);
    const B: Part = ([1; 16], 101);

    fn missing(marks: &mut Marks, parts: &[Part], closed_before: i32) -> Vec<Part> {
        marks.missing(parts, closed_before).copied().collect()
    }

    #[test]
    fn an_open_hour_is_marked_once_and_a_closed_one_always() {
        let mut marks = Marks::default();
        assert_eq!(missing(&mut marks, &[A, B], 100), [A, B]);
        assert_eq!(missing(&mut marks, &[A, B], 100), [A, B], "nothing was committed");
        marks.add(&[A, B]);
        assert_eq!(missing(&mut marks, &[A, B], 100), []);
        assert_eq!(missing(&mut marks, &[A, B], 101), [A]);
        marks.add(&[A]);
        assert_eq!(missing(&mut marks, &[A, B], 101), [A]);
        assert_eq!(missing(&mut marks, &[A, B], 100), [A], "closed hours stay closed");
    }
}
