//! The rows of a batch as plain numbers: names are interned, `extra` is bytes in one buffer.
//!
//! Nothing here borrows from a payload, so that one arena and one inflate buffer serve the
//! whole batch, message after message.

use std::convert::Infallible;
use std::hash::BuildHasher;

use hashbrown::{HashMap, HashTable};

use crate::ids::AgentId;
use crate::reading::{Protocol, Quality};

type Hasher = foldhash::fast::RandomState;

/// A range of a byte buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub const EMPTY: Self = Self { start: 0, end: 0 };

    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// One reading. `series`, `unit` and `message` are indices into [`Rows`].
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub time_us: i64,
    pub value: Option<f64>,
    pub anomaly_score: Option<f64>,
    pub anomaly_threshold: Option<f64>,
    pub series: u32,
    pub unit: Option<u32>,
    pub extra: Span,
    pub message: u32,
    pub quality: Quality,
    pub protocol: Protocol,
}

/// One metric of one device of one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Series {
    pub agent: u32,
    pub metric: u32,
    pub device: u32,
}

/// Distinct texts, each stored once.
#[derive(Default)]
pub struct Interner {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    table: HashTable<u32>,
    hasher: Hasher,
}

impl Interner {
    /// Index of a text that needs no check.
    pub fn intern(&mut self, text: &[u8]) -> u32 {
        let Ok(index) = self.intern_checked(text, || Ok::<_, Infallible>(()));
        index
    }

    /// Index of a text; `check` runs only when the text is new.
    pub fn intern_checked<E>(
        &mut self,
        text: &[u8],
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<u32, E> {
        let hash = self.hasher.hash_one(text);
        let (bytes, spans) = (&mut self.bytes, &mut self.spans);
        if let Some(&index) = self.table.find(hash, |&i| spans[i as usize].of(bytes) == text) {
            return Ok(index);
        }
        check()?;
        let start = bytes.len() as u32;
        bytes.extend_from_slice(text);
        let index = spans.len() as u32;
        spans.push(Span { start, end: bytes.len() as u32 });
        let hasher = &self.hasher;
        self.table.insert_unique(hash, index, |&i| hasher.hash_one(spans[i as usize].of(bytes)));
        Ok(index)
    }

    pub fn get(&self, index: u32) -> &[u8] {
        self.spans.get(index as usize).map_or(&[], |span| span.of(&self.bytes))
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.table.clear();
    }
}

/// All rows of a batch, with what they share.
#[derive(Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    pub series: Vec<Series>,
    pub agents: Vec<AgentId>,
    pub metrics: Interner,
    pub units: Interner,
    /// A device is known by the part of `extra` that names it; its display name stands beside.
    pub devices: Interner,
    pub device_names: Vec<Span>,
    /// `extra` as JSON, and device names.
    pub bytes: Vec<u8>,
    agent_index: HashMap<AgentId, u32, Hasher>,
    series_index: HashMap<Series, u32, Hasher>,
}

impl Rows {
    pub fn clear(&mut self) {
        self.rows.clear();
        self.series.clear();
        self.agents.clear();
        self.metrics.clear();
        self.units.clear();
        self.devices.clear();
        self.device_names.clear();
        self.bytes.clear();
        self.agent_index.clear();
        self.series_index.clear();
    }

    pub fn agent(&mut self, id: AgentId) -> u32 {
        *self.agent_index.entry(id).or_insert_with(|| {
            self.agents.push(id);
            self.agents.len() as u32 - 1
        })
    }

    /// Index of a device, given the JSON members that identify it and its name.
    pub fn device(&mut self, identity: &[u8], name: &str) -> u32 {
        let index = self.devices.intern(identity);
        if index as usize == self.device_names.len() {
            let span = self.append(name.as_bytes());
            self.device_names.push(span);
        }
        index
    }

    pub fn series(&mut self, series: Series) -> u32 {
        *self.series_index.entry(series).or_insert_with(|| {
            self.series.push(series);
            self.series.len() as u32 - 1
        })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Span { start, end: self.bytes.len() as u32 }
    }

    /// Forget the rows that came after a mark; what they interned stays, unused.
    pub fn truncate(&mut self, rows: usize) {
        self.rows.truncate(rows);
    }
}
