//! Stage `expand`: key compaction undone with the agent's dictionary (reference section 2).
//!
//! Two forms arrive. Tuples, `{v, p, h?}`: `p` lists pairs `[index, value]` and array frames
//! `["a", key, [object, …]]`, an object being a list of pairs again; a lone frame `$root` makes
//! the payload an array. Legacy, `{v, i, d, h?}`: indices beside values, nested objects alike.
//! Names may be paths (`a.b`, `m[0].x`) and are set nested.

use std::cmp::Ordering;
use std::sync::Arc;

use bumpalo::Bump;
use bumpalo::collections::Vec;

use crate::batch::Need;
use crate::decode::Budget;
use crate::dictionary::{Dictionary, is_path, relative};
use crate::ids::AgentId;
use crate::limits::Limits;
use crate::reject::{Reason, Reject};
use crate::value::Value;

const ROOT: &str = "$root";

/// Longest hash of a dictionary, a word: SHA-256 in hex.
const MAX_HASH_BYTES: usize = 64;

/// A compacted message, recognized but not yet expanded.
#[derive(Clone, Copy, Debug)]
pub struct Compact<'a> {
    /// Version of the dictionary that it was written with.
    pub version: i64,
    hash: Option<&'a str>,
    body: Body<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Body<'a> {
    Tuples(&'a [Value<'a>]),
    Legacy(&'a [Value<'a>], &'a [Value<'a>]),
}

impl<'a> Compact<'a> {
    /// An object with a numeric `v`, and `p` or both `i` and `d` as arrays.
    pub fn recognize(value: Value<'a>) -> Option<Self> {
        let version = value.get("v")?.as_integer()?;
        let hash = value.get("h").and_then(|hash| hash.as_text());
        let array = |key| value.get(key).and_then(|value| value.as_array());
        let body = match (array("p"), array("i"), array("d")) {
            (Some(pairs), _, _) => Body::Tuples(pairs),
            (None, Some(indices), Some(values)) => Body::Legacy(indices, values),
            _ => return None,
        };
        Some(Self { version, hash, body })
    }

    /// Whether a dictionary is the one that this message was written with: of its version, and of
    /// its hash where both tell theirs.
    pub fn fits(&self, dictionary: &Dictionary) -> bool {
        let hash_differs =
            || matches!((self.hash, &dictionary.hash), (Some(own), Some(other)) if own != other);
        self.version == dictionary.version && !hash_differs()
    }

    /// The dictionary that this message needs; `None` where none can ever have its hash.
    pub(crate) fn need(&self, agent: AgentId) -> Option<Need> {
        let can_be = self.hash.is_none_or(|hash| {
            hash.len() <= MAX_HASH_BYTES && hash.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        can_be.then(|| Need::Dictionary(agent, self.version, self.hash.map(Into::into)))
    }

    /// Why none of the dictionaries known of the agent will do.
    pub fn misfit(&self, known: &[Arc<Dictionary>]) -> Reject {
        let needed = self.version;
        if known.iter().any(|dictionary| dictionary.version == needed) {
            let detail = format!(
                "field h: hash of the field names differs from that of dictionary version {needed}"
            );
            return Reject::new(Reason::DictionaryHash, detail);
        }
        let detail = match known {
            [newest, ..] => format!(
                "field v: dictionary version {needed} is not the known version {}",
                newest.version
            ),
            [] => {
                format!("field v: no dictionary of the agent is known, version {needed} is needed")
            }
        };
        Reject::new(Reason::DictionaryMissing, detail)
    }
}

/// An expanded message, and how many fields its dictionary did not know.
#[derive(Clone, Copy, Debug)]
pub struct Expanded<'a> {
    pub value: Value<'a>,
    pub unknown_fields: u32,
}

/// Undo key compaction with a dictionary that fits. Fields of unknown index are left out and
/// counted.
pub fn expand<'a>(
    message: Compact<'a>,
    dictionary: &'a Dictionary,
    arena: &'a Bump,
    limits: &Limits,
) -> Result<Expanded<'a>, Reject> {
    let budget = Budget::new(limits);
    let mut expander = Expander { dictionary, arena, budget, unknown_fields: 0 };
    let value = match message.body {
        Body::Tuples([frame]) if is_root(frame) => {
            expander.frame(frame.as_array().unwrap_or(&[]), None)?
        }
        Body::Tuples(pairs) => expander.object(pairs, None)?,
        Body::Legacy(indices, values) => expander.legacy(indices, values, None)?,
    };
    Ok(Expanded { value, unknown_fields: expander.unknown_fields })
}

fn as_frame<'a>(item: &Value<'a>) -> Option<&'a [Value<'a>]> {
    item.as_array().filter(|parts| {
        matches!(parts, [Value::Text("a"), Value::Text(_) | Value::Int(_), Value::Array(_)])
    })
}

fn is_root(item: &Value<'_>) -> bool {
    as_frame(item).is_some_and(|parts| parts[1] == Value::Text(ROOT))
}

fn is_pair(item: &Value<'_>) -> bool {
    matches!(item, Value::Array([Value::Int(_), _])) || as_frame(item).is_some()
}

struct Expander<'a> {
    dictionary: &'a Dictionary,
    arena: &'a Bump,
    budget: Budget,
    unknown_fields: u32,
}

impl<'a> Expander<'a> {
    /// Name of a field, which makes its object nested if it is a path.
    fn name(&mut self, key: &Value<'a>, nested: &mut bool) -> Option<&'a str> {
        let known = match *key {
            Value::Text(name) => Some((relative(name), is_path(relative(name)))),
            Value::Int(index) => {
                self.dictionary.field(index).map(|field| (&*field.name, field.is_path))
            }
            _ => None,
        };
        let Some((name, is_path)) = known else {
            self.unknown_fields += 1;
            return None;
        };
        *nested |= is_path;
        Some(name)
    }

    fn object(
        &mut self,
        pairs: &'a [Value<'a>],
        protocol: Option<&'a str>,
    ) -> Result<Value<'a>, Reject> {
        let mut nested = false;
        let mut fields = Vec::with_capacity_in(pairs.len(), self.arena);
        for pair in pairs {
            let (key, value) = match pair {
                Value::Array([key, value]) => (key, *value),
                // The key of a frame; its items wait until the object's protocol is known.
                item if as_frame(item).is_some() => (&item.as_array().unwrap_or(&[])[1], *item),
                _ => {
                    let detail =
                        "field p: an item is neither [index, value] nor [\"a\", key, items]";
                    return Err(Reject::new(Reason::CompactForm, detail));
                }
            };
            if let Some(name) = self.name(key, &mut nested) {
                fields.push((name, value));
            }
        }
        let protocol = own_protocol(&fields).or(protocol);
        for (_, value) in &mut fields {
            if let Some(parts) = as_frame(value) {
                *value = self.frame(parts, protocol)?;
            }
        }
        self.finish(fields, protocol, nested)
    }

    fn frame(
        &mut self,
        parts: &'a [Value<'a>],
        protocol: Option<&'a str>,
    ) -> Result<Value<'a>, Reject> {
        let elements = parts.get(2).and_then(Value::as_array).unwrap_or(&[]);
        let mut items = Vec::with_capacity_in(elements.len(), self.arena);
        for element in elements {
            items.push(match element.as_array() {
                Some(pairs) if pairs.iter().all(is_pair) => self.object(pairs, protocol)?,
                _ => *element,
            });
        }
        Ok(Value::Array(items.into_bump_slice()))
    }

    fn legacy(
        &mut self,
        indices: &'a [Value<'a>],
        values: &'a [Value<'a>],
        protocol: Option<&'a str>,
    ) -> Result<Value<'a>, Reject> {
        if indices.len() != values.len() {
            let detail =
                format!("fields i and d: {} indices for {} values", indices.len(), values.len());
            return Err(Reject::new(Reason::CompactForm, detail));
        }
        let mut nested = false;
        let mut fields = Vec::with_capacity_in(values.len(), self.arena);
        for (key, value) in indices.iter().zip(values) {
            if let Some(name) = self.name(key, &mut nested) {
                fields.push((name, *value));
            }
        }
        let protocol = own_protocol(&fields).or(protocol);
        for (_, value) in &mut fields {
            *value = self.legacy_value(*value, protocol)?;
        }
        self.finish(fields, protocol, nested)
    }

    fn legacy_value(
        &mut self,
        value: Value<'a>,
        protocol: Option<&'a str>,
    ) -> Result<Value<'a>, Reject> {
        let array = |key| value.get(key).and_then(|value| value.as_array());
        if let (Some(indices), Some(values)) = (array("i"), array("d")) {
            return self.legacy(indices, values, protocol);
        }
        let Value::Array(elements) = value else { return Ok(value) };
        let mut items = Vec::with_capacity_in(elements.len(), self.arena);
        for element in elements {
            items.push(self.legacy_value(*element, protocol)?);
        }
        Ok(Value::Array(items.into_bump_slice()))
    }

    /// Decode enums, then set names that are paths.
    fn finish(
        &self,
        mut fields: Vec<'a, (&'a str, Value<'a>)>,
        protocol: Option<&'a str>,
        nested: bool,
    ) -> Result<Value<'a>, Reject> {
        for (name, value) in &mut fields {
            if let Value::Int(code) = *value
                && let Some(text) = self.dictionary.name(name, code, protocol)
            {
                *value = Value::Text(text);
            }
        }
        if nested {
            let mut leaves = std::vec::Vec::with_capacity(fields.len());
            for (name, value) in fields {
                let path = path(name);
                self.budget.take(path.len())?;
                leaves.push(Leaf { path, value });
            }
            leaves.sort_by(|a, b| a.path.cmp(&b.path));
            return self.tree(&leaves, 0);
        }
        Ok(Value::Map(fields.into_bump_slice()))
    }

    /// Build containers from leaves sorted by path: equal first steps stand side by side.
    fn tree(&self, leaves: &[Leaf<'a>], level: usize) -> Result<Value<'a>, Reject> {
        self.budget.take(1)?;
        self.budget.descend(level)?;
        let as_array = leaves.iter().all(|leaf| matches!(leaf.path[level], Step::Index(_)));
        let mut items = Vec::new_in(self.arena);
        let mut entries = Vec::new_in(self.arena);
        for group in leaves.chunk_by(|a, b| a.path[level] == b.path[level]) {
            let deeper = group.partition_point(|leaf| leaf.path.len() == level + 1);
            let value = match group.get(deeper..) {
                Some(inner @ [_, ..]) => self.tree(inner, level + 1)?,
                _ => group[group.len() - 1].value,
            };
            match group[0].path[level] {
                Step::Index(index) if as_array => {
                    let gap = index.saturating_sub(items.len());
                    self.budget.take(gap)?;
                    items.extend(std::iter::repeat_n(Value::Null, gap));
                    items.push(value);
                }
                Step::Index(index) => {
                    entries.push((&*self.arena.alloc_str(&index.to_string()), value));
                }
                Step::Key(key) => entries.push((key, value)),
            }
        }
        Ok(match as_array {
            true => Value::Array(items.into_bump_slice()),
            false => Value::Map(entries.into_bump_slice()),
        })
    }
}

fn own_protocol<'a>(fields: &[(&'a str, Value<'a>)]) -> Option<&'a str> {
    fields.iter().find(|(name, _)| *name == "protocol").and_then(|(_, value)| value.as_text())
}

struct Leaf<'a> {
    path: std::vec::Vec<Step<'a>>,
    value: Value<'a>,
}

/// One step of a path. Shorter paths sort first, so that leaves precede what lies below them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step<'a> {
    Index(usize),
    Key(&'a str),
}

impl Ord for Step<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Step::Index(a), Step::Index(b)) => a.cmp(b),
            (Step::Key(a), Step::Key(b)) => a.cmp(b),
            (Step::Index(_), Step::Key(_)) => Ordering::Less,
            (Step::Key(_), Step::Index(_)) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Step<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `m[0].x` to key m, index 0, key x. What is not a number in brackets belongs to the key.
fn path(name: &str) -> std::vec::Vec<Step<'_>> {
    let mut steps = std::vec::Vec::new();
    for part in name.split('.') {
        let (key, mut indices) = match part.find('[') {
            Some(at) if part.ends_with(']') => part.split_at(at),
            _ => (part, ""),
        };
        let mut found = std::vec::Vec::new();
        while let Some((index, rest)) = indices.strip_prefix('[').and_then(|s| s.split_once(']')) {
            let Ok(index) = index.parse() else { break };
            found.push(Step::Index(index));
            indices = rest;
        }
        if !indices.is_empty() {
            steps.push(Step::Key(part));
            continue;
        }
        if !key.is_empty() || found.is_empty() {
            steps.push(Step::Key(key));
        }
        steps.extend(found);
    }
    steps
}
