//! What all connections share.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::addresses::Addresses;
use crate::body::Room;
use crate::config::Config;
use crate::counters::Counters;
use crate::request::Request;
use crate::upstream::Upstreams;

/// Bodies that a thread inflates at once: a decoder's window is up to 16 MiB.
const INFLATING: usize = 4;

/// Shared by all threads.
#[derive(Debug)]
pub struct Door {
    pub config: Config,
    pub counters: Arc<Counters>,
    pub addresses: Addresses,
    pub room: Arc<Room>,
    /// Becomes true when the door stops.
    pub stop: watch::Sender<bool>,
}

impl Door {
    pub fn new(config: Config) -> Self {
        Self {
            counters: Arc::default(),
            addresses: Addresses::new(config.limits.address),
            room: Arc::new(Room::new(config.limits.bodies_bytes)),
            stop: watch::Sender::new(false),
            config,
        }
    }
}

/// One thread: its connections never move to another.
#[derive(Debug)]
pub struct Worker {
    pub door: Arc<Door>,
    pub upstreams: Upstreams,
    /// The same processes, where they take an upgrade.
    sockets: Option<Upstreams>,
    pub inflating: Semaphore,
}

impl Worker {
    pub fn new(door: Arc<Door>) -> Rc<Self> {
        let upstreams = |addresses| Upstreams::new(addresses, door.counters.clone());
        let sockets = &door.config.sockets;
        Rc::new(Self {
            upstreams: upstreams(&door.config.upstreams),
            sockets: (!sockets.is_empty()).then(|| upstreams(sockets)),
            inflating: Semaphore::new(INFLATING),
            door,
        })
    }

    /// Those who take a request: an upgrade, one whose answer is a stream, or any other.
    pub fn upstreams_for(&self, request: &Request<'_>) -> &Upstreams {
        match &self.sockets {
            Some(sockets) if request.upgrade || self.is_streamed(&request.target) => sockets,
            _ => &self.upstreams,
        }
    }

    fn is_streamed(&self, target: &str) -> bool {
        let path = target.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        self.door.config.streamed.iter().any(|level| level == last)
    }
}
