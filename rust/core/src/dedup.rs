//! Stage `dedup`: rows sorted by primary key, the last of equal keys kept, newest per series.
//!
//! Names are ranked once per batch, so that the rows themselves are sorted as plain integers:
//! rank of (agent, metric), time, arrival.

use crate::rows::Rows;

const SIGN: u64 = 1 << 63;

/// What is left of the rows, as indices into [`Rows::rows`].
#[derive(Default)]
pub struct Deduped {
    /// In order of the primary key (agent, metric, time), each key once.
    pub kept: Vec<u32>,
    /// Rows that a later row of the same key replaced, and whether its device differs.
    pub replaced: Vec<(u32, bool)>,
    /// Newest row of each (agent, device name, metric), in that order.
    pub latest: Vec<u32>,
    keys: Vec<u128>,
    ranks: Vec<u32>,
    newest: Vec<Option<u32>>,
}

impl Deduped {
    /// Sort, deduplicate and pick the newest. The buffers are reused.
    pub fn fill(&mut self, rows: &Rows) {
        self.rank(rows);
        self.keys.clear();
        self.keys.extend(rows.rows.iter().enumerate().map(|(i, row)| {
            let rank = self.ranks[row.series as usize];
            let time = row.time_us as u64 ^ SIGN;
            u128::from(rank) << 96 | u128::from(time) << 32 | i as u128
        }));
        self.keys.sort_unstable();
        self.keep_last(rows);
        self.pick_latest(rows);
    }

    /// Rank the (agent, metric) of every series; devices do not count, as in the table's key.
    fn rank(&mut self, rows: &Rows) {
        let key = |i: u32| {
            let series = rows.series[i as usize];
            (rows.agents[series.agent as usize], rows.metrics.get(series.metric))
        };
        let mut order: Vec<u32> = (0..rows.series.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| key(a).cmp(&key(b)));
        self.ranks.clear();
        self.ranks.resize(order.len(), 0);
        for (rank, group) in order.chunk_by(|&a, &b| key(a) == key(b)).enumerate() {
            for &series in group {
                self.ranks[series as usize] = rank as u32;
            }
        }
    }

    fn keep_last(&mut self, rows: &Rows) {
        self.kept.clear();
        self.replaced.clear();
        for same in self.keys.chunk_by(|a, b| a >> 32 == b >> 32) {
            let [earlier @ .., last] = same else { continue };
            let last = *last as u32;
            self.kept.push(last);
            for &key in earlier {
                let row = key as u32;
                let differs = rows.rows[row as usize].series != rows.rows[last as usize].series;
                self.replaced.push((row, differs));
            }
        }
    }

    fn pick_latest(&mut self, rows: &Rows) {
        self.newest.clear();
        self.newest.resize(rows.series.len(), None);
        for &i in &self.kept {
            let row = &rows.rows[i as usize];
            let newest = &mut self.newest[row.series as usize];
            if newest.is_none_or(|known| rows.rows[known as usize].time_us <= row.time_us) {
                *newest = Some(i);
            }
        }
        let key = |i: u32| {
            let series = rows.series[rows.rows[i as usize].series as usize];
            let name = rows.device_names[series.device as usize].of(&rows.bytes);
            (rows.agents[series.agent as usize], name, rows.metrics.get(series.metric))
        };
        self.latest.clear();
        self.latest.extend(self.newest.iter().flatten());
        // Devices that share a name share a row of readings_latest: the newest of them counts.
        let time = |i: u32| rows.rows[i as usize].time_us;
        self.latest.sort_unstable_by(|&a, &b| key(a).cmp(&key(b)).then(time(b).cmp(&time(a))));
        self.latest.dedup_by(|b, a| key(*a) == key(*b));
    }
}
