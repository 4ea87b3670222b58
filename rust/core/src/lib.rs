//! The pure part of iotistica: stream entries to rows, without Python, threads or I/O.
//!
//! In the order in which a message meets them:
//!
//! 1. [`entry`] takes a Redis stream entry apart, ours or the reference platform's.
//! 2. [`topic`] (with [`ids`]) tells tenant, agent and kind from the MQTT topic.
//! 3. [`mod@inflate`] undoes zlib into a buffer whose size is the limit.
//! 4. [`mod@decode`] reads MessagePack or JSON into a borrowed [`value::Value`].
//! 5. [`mod@expand`] undoes key compaction with the agent's [`dictionary`].
//! 6. [`normalize`] turns the three payload shapes into [`rows`], a bad reading at a time
//!    ([`reading`], [`mod@time`] and [`extra`] hold the rules of the columns).
//! 7. [`dedup`] sorts by primary key and keeps the last of equal keys.
//! 8. [`mod@copy`] writes PostgreSQL's binary COPY format.
//!
//! What was written is read again by [`walk`]: [`suspects`] divides it where some of it may be in
//! the table already, [`arrays`] writes a little of it as array literals. [`marks`] remembers for which
//! hours the rollups must be made anew.
//!
//! [`downsample`] is for what was stored: it thins series out for plots.
//!
//! [`batch`] composes the stages; [`mod@tally`] sums up what became of the messages; [`reject`] lists
//! everything that can be wrong; [`limits`] and [`context`] are what the caller decides; [`explain`]
//! tells a person what each stage did.

#![deny(unsafe_code)]

pub mod accepted;
pub mod arrays;
pub mod batch;
pub mod context;
pub mod copy;
pub mod decode;
pub mod dedup;
pub mod dictionary;
pub mod downsample;
pub mod entry;
pub mod expand;
pub mod explain;
pub mod extra;
mod fields;
pub mod ids;
pub mod inflate;
mod json;
pub mod limits;
pub mod marks;
mod msgpack;
pub mod normalize;
pub mod reading;
mod record;
pub mod reject;
pub mod rows;
pub mod suspects;
pub mod tally;
pub mod time;
pub mod topic;
mod utf8;
pub mod value;
pub mod walk;
