//! What decoding the messages of one tenant needs to know.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::dictionary::Dictionary;
use crate::ids::AgentId;
use crate::limits::Limits;

/// Dictionaries kept of an agent: while it goes from one to the next, messages of both come. There
/// may be a hundred thousand agents; an older one can be learned once more.
const MAX_DICTIONARIES: usize = 2;

/// Tenant, limits, agents and dictionaries. Read by every batch, changed rarely.
#[derive(Clone, Debug)]
pub struct Context {
    pub tenant: String,
    pub limits: Limits,
    /// Whether payloads may be key-compacted (`USE_KEY_COMPACTION_POC`).
    pub key_compaction: bool,
    pub agents: HashSet<AgentId, foldhash::fast::RandomState>,
    dictionaries: HashMap<AgentId, Vec<Arc<Dictionary>>, foldhash::fast::RandomState>,
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

    /// Dictionaries of an agent, the last one learned first.
    pub fn dictionaries(&self, agent: AgentId) -> &[Arc<Dictionary>] {
        self.dictionaries.get(&agent).map_or(&[], Vec::as_slice)
    }

    /// Learn a dictionary, in the place of one of the same version and hash.
    pub fn put_dictionary(&mut self, agent: AgentId, dictionary: Dictionary) {
        let known = self.dictionaries.entry(agent).or_default();
        known.retain(|one| (one.version, &one.hash) != (dictionary.version, &dictionary.hash));
        known.insert(0, Arc::new(dictionary));
        known.truncate(MAX_DICTIONARIES);
    }

    /// Forget the dictionaries of an agent.
    pub fn forget_dictionaries(&mut self, agent: AgentId) {
        self.dictionaries.remove(&agent);
    }
}
