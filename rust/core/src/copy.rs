//! Stage `copy`: rows to PostgreSQL's binary COPY format.
//!
//! Format: PostgreSQL documentation, COPY, "Binary Format": a header, then for each row its
//! number of fields and each field as length and bytes, -1 being NULL, then a trailer.

use crate::reading::{Protocol, Quality};
use crate::rows::{Row, Rows};
use crate::time::DAY_US;

/// What the fields of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Time,
    Uuid,
    Text,
    Double,
    Json,
}

/// A column's name and kind.
pub type Column = (&'static str, Kind);

/// The primary key of `readings`, by which the buffer is sorted.
pub const KEY_COLUMNS: [Column; 3] =
    [("agent_uuid", Kind::Uuid), ("metric_name", Kind::Text), ("time", Kind::Time)];

/// Columns of `readings`, in the order of the buffer.
pub const READINGS_COLUMNS: [Column; 10] = [
    ("time", Kind::Time),
    ("agent_uuid", Kind::Uuid),
    ("metric_name", Kind::Text),
    ("value", Kind::Double),
    ("quality", Kind::Text),
    ("unit", Kind::Text),
    ("protocol", Kind::Text),
    ("extra", Kind::Json),
    ("anomaly_score", Kind::Double),
    ("anomaly_threshold", Kind::Double),
];

/// Columns of `readings_latest`, in the order of the buffer.
pub const LATEST_COLUMNS: [Column; 8] = [
    ("agent_uuid", Kind::Uuid),
    ("device_name", Kind::Text),
    ("metric_name", Kind::Text),
    ("time", Kind::Time),
    ("value", Kind::Double),
    ("quality", Kind::Text),
    ("unit", Kind::Text),
    ("protocol", Kind::Text),
];

pub(crate) const SIGNATURE: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
const NULL: [u8; 4] = (-1_i32).to_be_bytes();
const JSONB_VERSION: u8 = 1;
/// PostgreSQL counts from 2000-01-01.
pub(crate) const EPOCH_US: i64 = 10_957 * DAY_US;
const TYPICAL_ROW_BYTES: usize = 224;

/// A complete COPY stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    pub columns: &'static [Column],
    pub bytes: Vec<u8>,
    pub rows: usize,
}

/// Encode the rows of `readings` and of `readings_latest`; the fields that many rows share are
/// prebuilt once for both.
pub fn encode(rows: &Rows, kept: &[u32], newest: &[u32]) -> (Copy, Copy) {
    let vocabulary = Vocabulary::new(rows);
    (readings(rows, kept, &vocabulary), latest(rows, newest, &vocabulary))
}

fn readings(rows: &Rows, kept: &[u32], vocabulary: &Vocabulary) -> Copy {
    let mut stream = Stream::new(&READINGS_COLUMNS, kept.len() * TYPICAL_ROW_BYTES);
    for &i in kept {
        let row = &rows.rows[i as usize];
        stream.begin();
        stream.time(row.time_us);
        stream.prebuilt(vocabulary.series.get(row.series));
        stream.number(row.value);
        stream.vocabulary(vocabulary, row);
        stream.json(row.extra.of(&rows.bytes));
        stream.number(row.anomaly_score);
        stream.number(row.anomaly_threshold);
    }
    stream.finish()
}

fn latest(rows: &Rows, latest: &[u32], vocabulary: &Vocabulary) -> Copy {
    let mut stream = Stream::new(&LATEST_COLUMNS, latest.len() * TYPICAL_ROW_BYTES);
    for &i in latest {
        let row = &rows.rows[i as usize];
        let series = rows.series[row.series as usize];
        stream.begin();
        stream.field(&rows.agents[series.agent as usize]);
        stream.field(rows.device_names[series.device as usize].of(&rows.bytes));
        stream.field(rows.metrics.get(series.metric));
        stream.time(row.time_us);
        stream.number(row.value);
        stream.vocabulary(vocabulary, row);
    }
    stream.finish()
}

/// Fields that many rows share, encoded once and then copied as they are.
struct Vocabulary {
    /// `agent_uuid` and `metric_name` of each series.
    series: Fields,
    units: Fields,
    qualities: Fields,
    protocols: Fields,
}

impl Vocabulary {
    fn new(rows: &Rows) -> Self {
        let mut series = Fields::default();
        for known in &rows.series {
            series.push(&[&rows.agents[known.agent as usize], rows.metrics.get(known.metric)]);
        }
        let mut units = Fields::default();
        for index in 0..rows.units.len() as u32 {
            units.push(&[rows.units.get(index)]);
        }
        let mut qualities = Fields::default();
        for quality in Quality::ALL {
            qualities.push(&[quality.name().as_bytes()]);
        }
        let mut protocols = Fields::default();
        for protocol in Protocol::ALL {
            protocols.push(&[protocol.name().as_bytes()]);
        }
        Self { series, units, qualities, protocols }
    }
}

/// Encoded fields, by index.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Fields {
    fn push(&mut self, fields: &[&[u8]]) {
        for field in fields {
            self.bytes.extend_from_slice(&length(field));
            self.bytes.extend_from_slice(field);
        }
        self.ends.push(self.bytes.len());
    }

    fn get(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

/// Every field is bounded by `Limits` far below 2 GiB.
fn length(field: &[u8]) -> [u8; 4] {
    (field.len() as i32).to_be_bytes()
}

/// A stream that is being written.
pub(crate) struct Stream {
    columns: &'static [Column],
    bytes: Vec<u8>,
    rows: usize,
}

impl Stream {
    pub(crate) fn new(columns: &'static [Column], expected_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(SIGNATURE.len() + expected_bytes);
        bytes.extend_from_slice(SIGNATURE);
        Self { columns, bytes, rows: 0 }
    }

    pub(crate) fn begin(&mut self) {
        self.bytes.extend_from_slice(&(self.columns.len() as i16).to_be_bytes());
        self.rows += 1;
    }

    /// A row of another stream with the same columns, as it stands there.
    pub(crate) fn row(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.rows += 1;
    }

    pub(crate) fn field(&mut self, field: &[u8]) {
        self.bytes.extend_from_slice(&length(field));
        self.bytes.extend_from_slice(field);
    }

    fn prebuilt(&mut self, fields: &[u8]) {
        self.bytes.extend_from_slice(fields);
    }

    fn eight(&mut self, value: [u8; 8]) {
        let mut field = [0; 12];
        field[..4].copy_from_slice(&8_i32.to_be_bytes());
        field[4..].copy_from_slice(&value);
        self.bytes.extend_from_slice(&field);
    }

    fn time(&mut self, time_us: i64) {
        self.eight((time_us - EPOCH_US).to_be_bytes());
    }

    fn number(&mut self, value: Option<f64>) {
        match value {
            Some(number) => self.eight(number.to_be_bytes()),
            None => self.bytes.extend_from_slice(&NULL),
        }
    }

    /// Quality, unit and protocol.
    fn vocabulary(&mut self, vocabulary: &Vocabulary, row: &Row) {
        self.prebuilt(vocabulary.qualities.get(row.quality as u32));
        match row.unit {
            Some(unit) => self.prebuilt(vocabulary.units.get(unit)),
            None => self.bytes.extend_from_slice(&NULL),
        }
        self.prebuilt(vocabulary.protocols.get(row.protocol as u32));
    }

    fn json(&mut self, json: &[u8]) {
        if json.is_empty() {
            self.bytes.extend_from_slice(&NULL);
            return;
        }
        self.bytes.extend_from_slice(&(json.len() as i32 + 1).to_be_bytes());
        self.bytes.push(JSONB_VERSION);
        self.bytes.extend_from_slice(json);
    }

    pub(crate) fn finish(mut self) -> Copy {
        self.bytes.extend_from_slice(&TRAILER);
        Copy { columns: self.columns, bytes: self.bytes, rows: self.rows }
    }
}
