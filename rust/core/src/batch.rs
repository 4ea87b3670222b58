//! Composes the stages over stream entries; the only file that knows their order.
//!
//! entry → topic → inflate → decode → expand → normalize for each message, then
//! dedup → copy once for all. A message that cannot pass costs itself alone, even if a stage
//! panics; whatever arrives, `encode` returns.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bumpalo::Bump;

use crate::context::Context;
use crate::copy::{self, Copy};
use crate::dedup::Deduped;
use crate::entry::{self, Entry, Form, Header, Records};
use crate::expand::{self, Compact};
use crate::ids::AgentId;
use crate::inflate::Inflater;
use crate::marks::{self, Part};
use crate::normalize::{Envelope, Normalizer, Scratch, Tally, Window};
use crate::reading::Protocol;
use crate::reject::{Reason, Reject};
use crate::rows::{Row, Rows};
use crate::topic::Topic;
use crate::value::Value;
use crate::{decode, ids, record, tally};

/// Rows share one buffer that is addressed with 32 bits; a batch stays far below.
const BATCH_BYTES: usize = 512 << 20;

/// Everything a writer needs.
#[derive(Debug, Default)]
pub struct Batch {
    pub copy: Copy,
    pub latest: Copy,
    /// Message of each row of `copy`, as an index into `outcomes`.
    pub sources: Vec<u32>,
    /// Hours of agents that the rows touch.
    pub parts: Vec<Part>,
    /// One for every message, in order.
    pub outcomes: Vec<Outcome>,
    pub rejects: Vec<Rejected>,
    pub waiting: Vec<Waiting>,
    /// Fields that dictionaries did not know.
    pub unknown_fields: u32,
    /// Earliest reception, epoch milliseconds; 0 if no message tells.
    pub oldest_received_ms: i64,
}

/// What became of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub entry: u32,
    pub message: u32,
    pub agent: Option<AgentId>,
    pub rows: u32,
    pub duplicates: u32,
    /// Those of the duplicates whose device differs from that of the row that was kept.
    pub collisions: u32,
    pub dropped: u32,
    pub rejected: u32,
    /// Number that the agent gave it; see [`tally::number`].
    pub number: Option<u64>,
}

/// A message, or some of its readings, that can never pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub entry: u32,
    pub message: u32,
    pub agent: Option<AgentId>,
    pub reject: Reject,
    /// Readings lost; 0 where the message was not decoded that far.
    pub readings: u32,
}

/// A message to encode again once something is known, or in the next batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub entry: u32,
    /// `None`: the whole entry, which is in the reference's form.
    pub message: Option<u32>,
    pub needs: Need,
}

/// What a waiting message needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// To know whether the agent is one of the tenant's.
    Agent(AgentId),
    /// The agent's dictionary of this version, and of this hash where the message tells it.
    Dictionary(AgentId, i64, Option<Box<str>>),
    /// A batch with room left.
    Room,
    /// A turn when nothing newer waits: all of its readings are old.
    Backfill,
}

/// One call's circumstances, as the caller decides them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub now_ms: i64,
    /// Nothing more will be known: reject what would wait.
    pub last: bool,
    /// Messages all of whose readings are older than this are left for a time when nothing newer
    /// waits. Those in the reference's form are decided with their entry.
    pub divert_before_ms: Option<i64>,
}

/// Why a message did not get through: for good, or not yet.
enum Stop {
    Reject(Reject),
    Wait(Need),
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Self {
        Self::Reject(reject)
    }
}

/// The stages with their buffers, reused from batch to batch.
pub struct Encoder {
    inflater: Inflater,
    record_inflater: Inflater,
    arena: Bump,
    record_arena: Bump,
    rows: Rows,
    deduped: Deduped,
    scratch: Scratch,
}

/// One call's circumstances.
#[derive(Clone, Copy)]
struct Call<'c> {
    context: &'c Context,
    window: Window,
    now_ms: i64,
    last: bool,
    divert_before_us: Option<i64>,
}

impl Encoder {
    /// Reserve buffers for messages within the limits of a context.
    pub fn new(context: &Context) -> Self {
        Self {
            inflater: Inflater::new(context.limits.inflated_bytes),
            record_inflater: Inflater::new(context.limits.inflated_bytes),
            arena: Bump::new(),
            record_arena: Bump::new(),
            rows: Rows::default(),
            deduped: Deduped::default(),
            scratch: Scratch::default(),
        }
    }

    /// Encode entries.
    pub fn encode(&mut self, entries: &[Entry<'_>], context: &Context, options: Options) -> Batch {
        let mut batch = Batch::default();
        self.rows.clear();
        let Options { now_ms, last, divert_before_ms } = options;
        let window = Window::around(now_ms, &context.limits);
        let divert_before_us = divert_before_ms.map(|ms| ms.saturating_mul(1000));
        let call = Call { context, window, now_ms, last, divert_before_us };
        for (index, entry) in entries.iter().enumerate() {
            let index = index as u32;
            match entry::form(entry) {
                Form::Messages(fields) => self.messages(index, fields, call, &mut batch),
                Form::Records(records) => self.records(index, entry, records, call, &mut batch),
            }
        }
        self.deduped.fill(&self.rows);
        self.settle(&mut batch);
        (batch.copy, batch.latest) =
            copy::encode(&self.rows, &self.deduped.kept, &self.deduped.latest);
        batch.parts = marks::parts(&self.rows, &self.deduped.kept);
        batch
    }

    /// Rows of the last batch, and those kept, for reports.
    pub(crate) fn rows(&self) -> (&Rows, &[u32]) {
        (&self.rows, &self.deduped.kept)
    }

    fn has_room(&self, context: &Context) -> bool {
        self.rows.rows.len() < context.limits.batch_rows && self.rows.bytes.len() < BATCH_BYTES
    }

    fn messages(&mut self, entry: u32, fields: &[&[u8]], call: Call<'_>, batch: &mut Batch) {
        let (pairs, odd) = fields.as_chunks::<2>();
        for (message, &[name, payload]) in pairs.iter().enumerate() {
            let message = message as u32;
            if !self.has_room(call.context) {
                batch.waiting.push(Waiting { entry, message: Some(message), needs: Need::Room });
                continue;
            }
            batch.guard(entry, message, &mut self.rows, |batch, outcome, rows| {
                let header = Header::parse(name)?;
                batch.received(header.received_ms);
                let topic = Topic::parse(header.topic)?;
                // Known to the ledger by its name even where it is not one of ours.
                outcome.agent = topic.agent_id();
                let agent = sender(&topic, call)?;
                entry::check_size(payload.len(), call.context.limits.message_bytes)?;
                let envelope = Envelope {
                    agent: rows.agent(agent),
                    message: batch.outcomes.len() as u32,
                    device_name: None,
                    timestamp: Value::Null,
                    protocol: None,
                    topic_protocol: Protocol::parse(topic.rest.split('/').next().unwrap_or("")),
                    topic_name: topic.rest,
                    received_us: header.received_ms.saturating_mul(1000),
                };
                self.arena.reset();
                let payload = self.inflater.open(payload)?;
                let value = decode::decode(payload, &self.arena, &call.context.limits)?;
                let value = expanded(value, agent, &self.arena, call, batch)?;
                outcome.number = tally::number(value);
                let before = rows.rows.len();
                let tally = normalize(value, envelope, rows, &mut self.scratch, call);
                check_age(&rows.rows[before..], call)?;
                Ok(tally)
            });
        }
        if !odd.is_empty() {
            let reject = Reject::new(Reason::EntryForm, "entry has a field without a value");
            batch.reject(
                Outcome { entry, message: pairs.len() as u32, ..Outcome::default() },
                reject,
            );
        }
    }

    /// An entry in the reference's form: decided as a whole, since its records share one field.
    fn records(
        &mut self,
        entry: u32,
        source: &Entry<'_>,
        records: Records<'_>,
        call: Call<'_>,
        batch: &mut Batch,
    ) {
        if !self.has_room(call.context) {
            batch.waiting.push(Waiting { entry, message: None, needs: Need::Room });
            return;
        }
        let limits = &call.context.limits;
        self.record_arena.reset();
        let texts = records.unpack(&mut self.record_inflater, limits);
        let decoded = texts.and_then(|text| {
            let text = self.record_arena.alloc_slice_copy(&text);
            record::split(text, records, &self.record_arena, limits)
        });
        let found = match decoded {
            Ok(found) => found,
            Err(reject) => {
                batch.reject(Outcome { entry, ..Outcome::default() }, reject);
                return;
            }
        };
        let mut strangers = found.iter().filter_map(|record| record.agent(records));
        if let Some(agent) = strangers.find(|id| !call.last && !call.context.agents.contains(id)) {
            batch.waiting.push(Waiting { entry, message: None, needs: Need::Agent(agent) });
            return;
        }
        let received_ms = record::id_ms(source.id).unwrap_or(call.now_ms);
        batch.received(received_ms);
        for (message, record) in found.iter().enumerate() {
            batch.guard(entry, message as u32, &mut self.rows, |batch, outcome, rows| {
                let agent = record.agent(records).ok_or_else(|| {
                    Reject::new(Reason::AgentForm, "field deviceUuid: missing or not a UUID")
                })?;
                check_known(agent, Call { last: true, ..call })?;
                outcome.agent = Some(agent);
                let envelope = record.envelope(
                    rows.agent(agent),
                    batch.outcomes.len() as u32,
                    received_ms,
                    records,
                );
                let last = Call { last: true, ..call };
                let value = expanded(record.data, agent, &self.record_arena, last, batch)?;
                Ok(normalize(value, envelope, rows, &mut self.scratch, call))
            });
        }
    }

    /// Count what dedup decided for each message.
    fn settle(&self, batch: &mut Batch) {
        let message = |row: &u32| self.rows.rows[*row as usize].message;
        batch.sources = self.deduped.kept.iter().map(message).collect();
        for &message in &batch.sources {
            batch.outcomes[message as usize].rows += 1;
        }
        for &(row, differs) in &self.deduped.replaced {
            let outcome = &mut batch.outcomes[message(&row) as usize];
            outcome.duplicates += 1;
            outcome.collisions += u32::from(differs);
        }
    }
}

impl Batch {
    fn received(&mut self, received_ms: i64) {
        if self.oldest_received_ms == 0 || received_ms < self.oldest_received_ms {
            self.oldest_received_ms = received_ms;
        }
    }

    fn reject(&mut self, outcome: Outcome, reject: Reject) {
        let Outcome { entry, message, agent, .. } = outcome;
        self.rejects.push(Rejected { entry, message, agent, reject, readings: 0 });
        self.outcomes.push(outcome);
    }

    /// Run the stages of one message and record what became of it. A panic is a reject too, and
    /// rows of an unfinished message are taken back.
    fn guard(
        &mut self,
        entry: u32,
        message: u32,
        rows: &mut Rows,
        stages: impl FnOnce(&mut Self, &mut Outcome, &mut Rows) -> Result<Tally, Stop>,
    ) {
        let (mark, unknown_fields) = (rows.rows.len(), self.unknown_fields);
        let mut outcome = Outcome { entry, message, ..Outcome::default() };
        let done = catch_unwind(AssertUnwindSafe(|| stages(self, &mut outcome, rows)));
        let stop = match done {
            Ok(Ok(tally)) => return self.tally(outcome, tally),
            Ok(Err(stop)) => stop,
            Err(_) => {
                Stop::Reject(Reject::new(Reason::Panicked, "a stage panicked; please report it"))
            }
        };
        rows.truncate(mark);
        match stop {
            Stop::Reject(reject) => self.reject(outcome, reject),
            Stop::Wait(needs) => {
                self.unknown_fields = unknown_fields;
                self.waiting.push(Waiting { entry, message: Some(message), needs });
            }
        }
    }

    fn tally(&mut self, mut outcome: Outcome, tally: Tally) {
        outcome.dropped = tally.dropped;
        outcome.rejected = tally.rejected();
        let Outcome { entry, message, agent, .. } = outcome;
        for (reject, readings) in tally.rejects {
            self.rejects.push(Rejected { entry, message, agent, reject, readings });
        }
        self.outcomes.push(outcome);
    }
}

/// The agent that a topic names, if it may publish telemetry for the tenant.
fn sender(topic: &Topic<'_>, call: Call<'_>) -> Result<AgentId, Stop> {
    if !topic.is_of(&call.context.tenant) {
        let detail = format!("topic is not one of tenant {:?}", call.context.tenant);
        return Err(Reject::new(Reason::ForeignTenant, detail).into());
    }
    if topic.kind != "endpoints" {
        let detail = "topic carries no telemetry: its fifth level is not \"endpoints\"";
        return Err(Reject::new(Reason::TopicKind, detail).into());
    }
    let agent = topic.agent_id().ok_or_else(|| {
        Reject::new(
            Reason::AgentForm,
            "topic's fourth level is neither a UUID nor its 22 characters",
        )
    })?;
    check_known(agent, call)?;
    Ok(agent)
}

fn check_known(agent: AgentId, call: Call<'_>) -> Result<(), Stop> {
    if call.context.agents.contains(&agent) {
        return Ok(());
    }
    if !call.last {
        return Err(Stop::Wait(Need::Agent(agent)));
    }
    let detail = format!(
        "agent {} is not one of tenant {:?}",
        ids::format_uuid(&agent),
        call.context.tenant
    );
    Err(Reject::new(Reason::UnknownAgent, detail).into())
}

/// Leave a message for later if all of its readings are old.
fn check_age(rows: &[Row], call: Call<'_>) -> Result<(), Stop> {
    let Some(before_us) = call.divert_before_us else { return Ok(()) };
    match !rows.is_empty() && rows.iter().all(|row| row.time_us < before_us) {
        true => Err(Stop::Wait(Need::Backfill)),
        false => Ok(()),
    }
}

/// Undo key compaction where it was used.
fn expanded<'a>(
    value: Value<'a>,
    agent: AgentId,
    arena: &'a Bump,
    call: Call<'a>,
    batch: &mut Batch,
) -> Result<Value<'a>, Stop> {
    let Some(compact) = Compact::recognize(value) else { return Ok(value) };
    if !call.context.key_compaction {
        let detail = "fields v and p or i and d: the payload is key-compacted, and key compaction \
                      (USE_KEY_COMPACTION_POC) is off";
        return Err(Reject::new(Reason::CompactionOff, detail).into());
    }
    let known = call.context.dictionaries(agent);
    let Some(dictionary) = known.iter().find(|dictionary| compact.fits(dictionary)) else {
        let need = compact.need(agent).filter(|_| !call.last);
        return Err(need.map_or_else(|| compact.misfit(known).into(), Stop::Wait));
    };
    let expanded = expand::expand(compact, dictionary, arena, &call.context.limits)?;
    batch.unknown_fields += expanded.unknown_fields;
    Ok(expanded.value)
}

fn normalize(
    value: Value<'_>,
    envelope: Envelope<'_>,
    rows: &mut Rows,
    scratch: &mut Scratch,
    call: Call<'_>,
) -> Tally {
    let limits = &call.context.limits;
    let bytes_end = rows.bytes.len() + limits.inflated_bytes;
    Normalizer { rows, scratch, limits, window: call.window, bytes_end }.payload(value, envelope)
}
