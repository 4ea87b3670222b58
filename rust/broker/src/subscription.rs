//! Who subscribed to what: a tree over the levels of topic filters.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::session::SessionId;
use crate::topic::{hidden_from_wildcards, split_shared};

/// What a subscriber asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// QoS 1, otherwise 0.
    pub durable: bool,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// 0 if none was given.
    pub identifier: u32,
}

/// The members of one shared subscription.
#[derive(Debug)]
pub struct Group {
    /// The whole filter, `$share/{name}/{filter}`.
    pub filter: Arc<str>,
    pub members: Vec<(SessionId, Options)>,
    turn: Cell<usize>,
}

impl Group {
    /// The members, beginning behind the one that was chosen last.
    pub fn in_turn(&self) -> impl Iterator<Item = (usize, &(SessionId, Options))> {
        let (count, start) = (self.members.len(), self.turn.get());
        (0..count)
            .map(move |step| (start + step) % count)
            .map(|index| (index, &self.members[index]))
    }

    /// Remember who was chosen.
    pub fn chosen(&self, index: usize) {
        self.turn.set(index + 1);
    }
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    plain: Vec<(SessionId, Options)>,
    groups: Vec<Group>,
}

/// All subscriptions of the broker.
#[derive(Debug, Default)]
pub struct Tree {
    root: Node,
    pub len: usize,
}

/// One find of `Tree::find`.
#[derive(Clone, Copy, Debug)]
pub enum Match<'a> {
    Plain(SessionId, Options),
    Shared(&'a Group),
}

impl Tree {
    /// Add or replace a subscription.
    pub fn insert(&mut self, filter: &Arc<str>, session: SessionId, options: Options) {
        let (group, levels) = split_shared(filter);
        let mut node = &mut self.root;
        for level in levels.split('/') {
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Node::default());
            }
            let Some(child) = node.children.get_mut(level) else {
                return;
            };
            node = child;
        }
        let members = match group {
            None => &mut node.plain,
            Some(_) => node.group(filter),
        };
        if let Some(member) = members.iter_mut().find(|(id, _)| *id == session) {
            member.1 = options;
        } else {
            members.push((session, options));
            self.len += 1;
        }
    }

    /// Remove a subscription, if there is one, and what became empty with it.
    pub fn remove(&mut self, filter: &str, session: SessionId) {
        let (group, levels) = split_shared(filter);
        let shared = group.map(|_| filter);
        if self.root.remove(&mut levels.split('/'), shared, session) {
            self.len -= 1;
        }
    }

    /// The group of a shared filter.
    pub fn group(&self, filter: &str) -> Option<&Group> {
        let (_, levels) = split_shared(filter);
        let node =
            levels.split('/').try_fold(&self.root, |node, level| node.children.get(level))?;
        node.groups.iter().find(|group| &*group.filter == filter)
    }

    /// Every subscription that matches the topic `name`.
    pub fn find<'a>(&'a self, name: &str, found: &mut Vec<Match<'a>>) {
        let mut levels = name.split('/');
        let Some(first) = levels.next() else { return };
        if hidden_from_wildcards(name) {
            if let Some(child) = self.root.children.get(first) {
                child.find(levels, found);
            }
        } else {
            self.root.find(name.split('/'), found);
        }
    }
}

impl Node {
    fn group(&mut self, filter: &Arc<str>) -> &mut Vec<(SessionId, Options)> {
        let index = self.groups.iter().position(|group| group.filter == *filter);
        let index = index.unwrap_or_else(|| {
            let filter = filter.clone();
            self.groups.push(Group { filter, members: Vec::new(), turn: Cell::new(0) });
            self.groups.len() - 1
        });
        &mut self.groups[index].members
    }

    fn remove(
        &mut self,
        levels: &mut std::str::Split<'_, char>,
        shared: Option<&str>,
        session: SessionId,
    ) -> bool {
        if let Some(level) = levels.next() {
            let Some(child) = self.children.get_mut(level) else {
                return false;
            };
            let removed = child.remove(levels, shared, session);
            if child.children.is_empty() && child.plain.is_empty() && child.groups.is_empty() {
                self.children.remove(level);
            }
            return removed;
        }
        let Some(filter) = shared else {
            return take_out(&mut self.plain, session);
        };
        let Some(index) = self.groups.iter().position(|group| &*group.filter == filter) else {
            return false;
        };
        let removed = take_out(&mut self.groups[index].members, session);
        if self.groups[index].members.is_empty() {
            self.groups.swap_remove(index);
        }
        removed
    }

    fn find<'a>(&'a self, mut levels: std::str::Split<'_, char>, found: &mut Vec<Match<'a>>) {
        if let Some(all) = self.children.get("#") {
            all.report(found);
        }
        let Some(level) = levels.next() else {
            self.report(found);
            return;
        };
        if let Some(child) = self.children.get(level) {
            child.find(levels.clone(), found);
        }
        if let Some(child) = self.children.get("+") {
            child.find(levels, found);
        }
    }

    fn report<'a>(&'a self, found: &mut Vec<Match<'a>>) {
        found.extend(self.plain.iter().map(|&(session, options)| Match::Plain(session, options)));
        found.extend(self.groups.iter().map(Match::Shared));
    }
}

fn take_out(members: &mut Vec<(SessionId, Options)>, session: SessionId) -> bool {
    let index = members.iter().position(|(id, _)| *id == session);
    index.is_some_and(|index| {
        members.remove(index);
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic;
    use proptest::prelude::*;

    const PLAIN: Options =
        Options { durable: true, no_local: false, retain_as_published: false, identifier: 0 };

    fn filter() -> impl Strategy<Value = String> {
        "([ab+]|[$]s)(/[ab+]){0,3}(/#)?|#|[$]share/g/[ab+](/[ab+]){0,2}(/#)?"
    }

    fn found(tree: &Tree, name: &str) -> Vec<(SessionId, bool)> {
        let mut matches = Vec::new();
        tree.find(name, &mut matches);
        let mut found: Vec<_> = matches
            .into_iter()
            .flat_map(|found| match found {
                Match::Plain(session, _) => vec![(session, false)],
                Match::Shared(group) => group.members.iter().map(|m| (m.0, true)).collect(),
            })
            .collect();
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_matches_and_only_that(
            filters in prop::collection::vec((filter(), 0..6u64, any::<bool>()), 0..30),
            name in "([ab]|[$]s)(/[ab]){0,4}"
        ) {
            let mut tree = Tree::default();
            let mut model = std::collections::BTreeSet::new();
            for (filter, session, add) in filters {
                if add {
                    tree.insert(&filter.as_str().into(), session, PLAIN);
                    model.insert((session, filter));
                } else {
                    tree.remove(&filter, session);
                    model.remove(&(session, filter));
                }
            }
            let mut expected: Vec<_> = model
                .iter()
                .map(|(session, filter)| (*session, topic::split_shared(filter)))
                .filter(|(_, (_, filter))| topic::matches(filter, &name))
                .map(|(session, (group, _))| (session, group.is_some()))
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(found(&tree, &name), expected);
            prop_assert_eq!(tree.len, model.len());
            for (session, filter) in &model {
                tree.remove(filter, *session);
            }
            prop_assert!(tree.root.children.is_empty());
        }
    }

    #[test]
    fn a_group_takes_turns() {
        let mut tree = Tree::default();
        let filter: Arc<str> = "$share/g/t".into();
        for session in 1..=3 {
            tree.insert(&filter, session, PLAIN);
        }
        let group = tree.group(&filter).unwrap();
        let mut order = Vec::new();
        for _ in 0..5 {
            let (index, member) = group.in_turn().next().unwrap();
            order.push(member.0);
            group.chosen(index);
        }
        assert_eq!(order, [1, 2, 3, 1, 2]);
    }
}
