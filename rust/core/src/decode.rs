//! Stage `decode`: sniff the first byte, then read MessagePack or JSON into a [`Value`].

use std::cell::Cell;

use bumpalo::Bump;

use crate::limits::Limits;
use crate::reject::{Reason, Reject};
use crate::value::Value;
use crate::{json, msgpack};

/// What a payload is, once it is inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    MessagePack,
    Json,
}

impl Format {
    /// By the first byte: only containers count as MessagePack, anything else is JSON.
    ///
    /// The overview's ranges, and map16/map32 (DE, DF): a map of more than 15 keys.
    pub fn sniff(payload: &[u8]) -> Self {
        match payload.first() {
            Some(0x80..=0x9F | 0xDC..=0xDF) => Self::MessagePack,
            _ => Self::Json,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::MessagePack => "messagepack",
            Self::Json => "json",
        }
    }
}

/// Decode a payload that is not deflated. Nothing is copied that can be borrowed.
pub fn decode<'a>(
    payload: &'a [u8],
    arena: &'a Bump,
    limits: &Limits,
) -> Result<Value<'a>, Reject> {
    let budget = Budget::new(limits);
    match Format::sniff(payload) {
        Format::MessagePack => msgpack::read(payload, arena, &budget),
        Format::Json => json::read(payload, arena, &budget),
    }
}

/// What is left of a message's allowance while it is read.
pub(crate) struct Budget {
    elements: Cell<usize>,
    limit: usize,
    depth: usize,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            elements: Cell::new(limits.elements),
            limit: limits.elements,
            depth: limits.depth.min(100),
        }
    }

    /// Take `count` elements at once, before anything is allocated for them.
    #[inline]
    pub(crate) fn take(&self, count: usize) -> Result<(), Reject> {
        let Some(left) = self.elements.get().checked_sub(count) else {
            return Err(self.too_many());
        };
        self.elements.set(left);
        Ok(())
    }

    /// Refuse to go below the deepest level allowed; the root is level 0.
    #[inline]
    pub(crate) fn descend(&self, depth: usize) -> Result<usize, Reject> {
        if depth >= self.depth {
            return Err(self.too_deep());
        }
        Ok(depth + 1)
    }

    #[cold]
    fn too_many(&self) -> Reject {
        let detail = format!("message has more than the limit of {} elements", self.limit);
        Reject::new(Reason::TooManyElements, detail)
    }

    #[cold]
    fn too_deep(&self) -> Reject {
        let detail = format!("message is nested deeper than the limit of {} levels", self.depth);
        Reject::new(Reason::TooDeep, detail)
    }
}
