//! What decoding the messages of one tenant needs to know.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::dictionary::Dictionary;
use crate::ids::AgentId;
use crate::limits::Limits;

/// Tenant, limits, agents and dictionaries. Read by every batch, changed rarely.
#[derive(Clone, Debug)]
pub struct Context {
    pub tenant: String,
    pub limits: Limits,
    /// Whether payloads may be key-compacted (`USE_KEY_COMPACTION_POC`).
    pub key_compaction: bool,
    pub agents: HashSet<AgentId, foldhash::fast::RandomState>,
    pub dictionaries: HashMap<AgentId, Arc<Dictionary>, foldhash::fast::RandomState>,
}

impl Context {
    pub fn new(tenant: impl Into<String>, limits: Limits) -> Self {
        Self {
            tenant: tenant.into(),
            limits,
            key_compaction: true,
            agents: HashSet::default(),
            dictionaries: HashMap::default(),
        }
    }
}
