//! Retained messages: the last one of each topic, for later subscribers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::rc::Rc;

use crate::config::Limits;
use crate::message::Message;
use crate::topic;

/// All retained messages by topic.
#[derive(Debug, Default)]
pub struct Retained {
    messages: BTreeMap<Box<str>, Rc<Message>>,
    bytes: usize,
}

impl Retained {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Would `message` be over a limit? Replacing and clearing are always possible.
    pub fn is_full_for(&self, message: &Message, limits: &Limits) -> bool {
        !message.is_empty()
            && !self.messages.contains_key(message.topic())
            && (self.messages.len() >= limits.max_retained_messages
                || self.bytes + message.footprint() > limits.max_retained_bytes)
    }

    /// Keep `message` for its topic, or clear the topic if it is empty.
    pub fn put(&mut self, message: Rc<Message>) {
        let added = message.footprint();
        let old = if message.is_empty() {
            self.messages.remove(message.topic())
        } else {
            self.bytes += added;
            match self.messages.entry(message.topic().into()) {
                Entry::Occupied(mut entry) => Some(entry.insert(message)),
                Entry::Vacant(entry) => {
                    entry.insert(message);
                    None
                }
            }
        };
        self.bytes -= old.map_or(0, |old| old.footprint());
    }

    /// The messages that a new subscription to `filter` gets.
    pub fn matching(&self, filter: &str) -> Vec<Rc<Message>> {
        let literal = filter.find(['+', '#']).unwrap_or(filter.len());
        // `a/#` also matches `a`, so the scan begins before the last separator.
        let prefix = filter[..literal].trim_end_matches('/');
        self.messages
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(name, message)| topic::matches(filter, name) && !message.is_expired())
            .map(|(_, message)| message.clone())
            .collect()
    }

    /// Everything that belongs into the journal.
    pub fn durable(&self) -> impl Iterator<Item = &Rc<Message>> {
        let durable = self.messages.iter().filter(|(name, _)| !topic::hidden_from_wildcards(name));
        durable.map(|(_, message)| message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_matches_and_only_that(
            names in prop::collection::btree_set("[ab]{0,2}(/[ab]{0,1}){0,3}", 0..20),
            filter in "[ab+]?(/[ab+]?){0,3}(/#)?"
        ) {
            prop_assume!(topic::is_filter(&filter));
            let mut retained = Retained::default();
            for name in &names {
                retained.put(Rc::new(Message::of_broker(1, name, "x")));
            }
            let found: Vec<_> =
                retained.matching(&filter).iter().map(|message| message.topic().to_owned()).collect();
            let expected: Vec<_> =
                names.iter().filter(|name| topic::matches(&filter, name)).cloned().collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_empty_message_clears_its_topic() {
        let mut retained = Retained::default();
        retained.put(Rc::new(Message::of_broker(1, "t", "x")));
        retained.put(Rc::new(Message::of_broker(2, "t", "longer")));
        assert_eq!(
            (retained.len(), retained.bytes),
            (1, Message::of_broker(2, "t", "longer").footprint())
        );
        retained.put(Rc::new(Message::of_broker(3, "t", "")));
        assert_eq!((retained.len(), retained.bytes), (0, 0));
    }
}
