//! Stage `topic`: `i/{T}/a/{A}/{kind}/{rest}` to tenant, agent, kind and rest.

use std::borrow::Cow;

use crate::ids::{self, AgentId};
use crate::reject::{Reason, Reject};

/// A parsed topic. Borrows from the text it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic<'a> {
    /// Tenant, decoded.
    pub tenant: Cow<'a, str>,
    /// Tenant as it stands in the topic.
    pub raw_tenant: &'a str,
    /// Agent as it stands in the topic.
    pub raw_agent: &'a str,
    /// First level after the agent, lower case: `endpoints`, `state`, …
    pub kind: Cow<'a, str>,
    /// What follows the kind, slashes included; empty if nothing does.
    pub rest: &'a str,
}

impl<'a> Topic<'a> {
    /// Parse a topic name (not a filter).
    pub fn parse(topic: &'a str) -> Result<Self, Reject> {
        let mut levels = topic.splitn(5, '/');
        let mut level = || levels.next().unwrap_or_default();
        let (root, raw_tenant, mark, raw_agent, tail) =
            (level(), level(), level(), level(), level());
        if root != "i" || mark != "a" || raw_tenant.is_empty() || raw_agent.is_empty() {
            return Err(malformed(topic));
        }
        let (kind, rest) = tail.split_once('/').unwrap_or((tail, ""));
        if kind.is_empty() {
            return Err(malformed(topic));
        }
        let kind = match kind.bytes().any(|c| c.is_ascii_uppercase()) {
            true => kind.to_ascii_lowercase().into(),
            false => kind.into(),
        };
        Ok(Self { tenant: ids::decode_tenant(raw_tenant), raw_tenant, raw_agent, kind, rest })
    }

    /// Whether the topic belongs to a tenant, in whichever form the tenant's id is written.
    pub fn is_of(&self, tenant: &str) -> bool {
        self.tenant == tenant || self.raw_tenant == tenant
    }

    /// The agent's UUID, if the topic names one.
    pub fn agent_id(&self) -> Option<AgentId> {
        ids::decode_agent(self.raw_agent)
    }

    /// The agent, decoded if it is a UUID and unchanged otherwise.
    pub fn agent(&self) -> Cow<'a, str> {
        match self.agent_id() {
            Some(id) => ids::format_uuid(&id).into(),
            None => self.raw_agent.into(),
        }
    }
}

fn malformed(topic: &str) -> Reject {
    let shown: String = topic.chars().take(120).collect();
    Reject::new(
        Reason::TopicForm,
        format!("topic {shown:?} is not i/{{tenant}}/a/{{agent}}/{{kind}}"),
    )
}

/// Write the topic of an agent: `i/{encoded tenant}/a/{encoded agent}/{rest}`.
pub fn format(tenant: &str, agent: &str, rest: &str) -> String {
    format!("i/{}/a/{}/{rest}", ids::encode_tenant(tenant), ids::encode_agent(agent))
}
