//! The front door of the Cloud API: what stands between a network and Robyn.
//!
//! Read it in the order of a request: [`server`] accepts, [`addresses`] counts who has how much,
//! [`connection`] reads a head ([`scan`], [`request`], [`fields`]) and a whole body ([`chunks`],
//! [`body`], [`inflate`]), [`relay`] hands them to a web process ([`upstream`], [`forwarded`]) and
//! passes the answer on as it comes ([`answer`], [`compress`], [`cors`]); a WebSocket becomes a
//! [`tunnel`] ([`frames`]). Whatever is refused on the way is listed in [`refusal`].
//!
//! Two promises shape everything: nothing whose framing or length could be read in two ways, or
//! that has not arrived whole, reaches a web process; and no client can take more memory, time or
//! connections than the limits say.
//!
//! A thread has its connections and its pool to itself ([`door::Worker`]); threads share counters
//! and limits ([`door::Door`]).

#![forbid(unsafe_code)]

pub mod addresses;
pub mod answer;
pub mod body;
pub mod chunks;
pub mod compress;
pub mod config;
pub mod connection;
pub mod cors;
pub mod counters;
pub mod door;
pub mod fields;
pub mod forwarded;
pub mod frames;
pub mod inflate;
pub mod ops;
pub mod refusal;
pub mod relay;
pub mod request;
pub mod scan;
pub mod server;
pub mod tls;
pub mod tunnel;
pub mod upstream;

pub use config::{Config, Limits, Times, TlsFiles};
pub use server::{Listeners, serve};
