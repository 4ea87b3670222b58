//! The MQTT 5 broker that iotistica brings along, for one machine and for tests.
//!
//! Read it in the order of a message: [`server`] accepts, [`handshake`] admits ([`credentials`],
//! [`acl`]), [`connection`] reads packets ([`frame`]) and turns a PUBLISH into a [`message`],
//! [`routing`] finds its subscribers ([`subscription`], [`topic`]) and puts it into their
//! [`session`] queues, [`journal`] makes it durable, and only then is it acknowledged.
//!
//! Two promises shape everything: a QoS 1 message that was acknowledged is not lost while its
//! session lives, not by a slow subscriber, a restart or `kill -9`; and memory is bounded. Both
//! hold together because a full queue holds back the acknowledgements of its publishers.
//!
//! All state belongs to one thread ([`broker::Broker`], never borrowed across an `await`); a
//! second thread writes the journal, and password checks run on a small pool.

#![forbid(unsafe_code)]

pub mod acl;
pub mod broker;
pub mod config;
pub mod connection;
pub mod credentials;
pub mod frame;
pub mod handshake;
pub mod in_flight;
pub mod journal;
pub mod message;
pub mod packets;
pub mod presence;
pub mod record;
pub mod recovery;
pub mod retained;
pub mod routing;
pub mod server;
pub mod session;
pub mod statistics;
pub mod subscription;
pub mod topic;

pub use config::{Config, Limits};
pub use server::serve;
