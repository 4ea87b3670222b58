//! What all connections share.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::addresses::Addresses;
use crate::body::Room;
use crate::config::Config;
use crate::counters::Counters;
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

    /// Those who take a request, an upgrade or not.
    pub fn upstreams_for(&self, upgrade: bool) -> &Upstreams {
        match &self.sockets {
            Some(sockets) if upgrade => sockets,
            _ => &self.upstreams,
        }
    }
}
