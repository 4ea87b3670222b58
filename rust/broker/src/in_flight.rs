//! QoS 1 messages that were sent to a client and not yet acknowledged.

use std::collections::VecDeque;

const IDS: usize = 65_535;

/// A window of items under packet identifiers, in the order of sending.
#[derive(Debug)]
pub struct InFlight<T> {
    /// Slot `i` belongs to the identifier `i` places after `first_id`; a gap is acknowledged.
    slots: VecDeque<Option<T>>,
    first_id: u16,
    /// Not yet sent again on the present connection.
    resend: VecDeque<u16>,
    /// Sent on the present connection and not acknowledged.
    pub outstanding: usize,
    pub len: usize,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self {
            slots: VecDeque::new(),
            first_id: 1,
            resend: VecDeque::new(),
            outstanding: 0,
            len: 0,
        }
    }
}

impl<T> InFlight<T> {
    /// The identifier that `push` will give, if one is free.
    pub fn free_id(&self) -> Option<u16> {
        (self.slots.len() < IDS).then(|| self.id_of(self.slots.len()))
    }

    /// Keep a sent item under `free_id`.
    pub fn push(&mut self, item: T) {
        self.slots.push_back(Some(item));
        self.outstanding += 1;
        self.len += 1;
    }

    /// Remove an acknowledged item.
    pub fn take(&mut self, id: u16) -> Option<T> {
        let index = (usize::from(id) + IDS).checked_sub(usize::from(self.first_id))? % IDS;
        let item = self.slots.get_mut(index).filter(|_| id != 0)?.take()?;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first_id = self.id_of(1);
        }
        self.outstanding = self.outstanding.saturating_sub(1);
        self.len -= 1;
        Some(item)
    }

    /// A new connection: everything is to be sent again.
    pub fn restart(&mut self) {
        let ids = (0..self.slots.len()).filter(|&index| self.slots[index].is_some());
        self.resend = ids.map(|index| self.id_of(index)).collect();
        self.outstanding = 0;
    }

    /// The next item to send again, with its old identifier.
    pub fn next_again(&mut self) -> Option<(u16, &T)> {
        loop {
            let id = self.resend.pop_front()?;
            let index = (usize::from(id) + IDS - usize::from(self.first_id)) % IDS;
            if self.slots.get(index).is_some_and(Option::is_some) {
                self.outstanding += 1;
                return self.slots[index].as_ref().map(|item| (id, item));
            }
        }
    }

    /// All items, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    fn id_of(&self, index: usize) -> u16 {
        ((usize::from(self.first_id) - 1 + index) % IDS + 1) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn identifiers_run_through_all_values_but_zero() {
        let mut window = InFlight::default();
        for turn in 0..3 * IDS {
            let id = window.free_id().unwrap();
            assert_eq!(usize::from(id), turn % IDS + 1);
            window.push(turn);
            assert_eq!(window.take(id), Some(turn));
        }
    }

    #[test]
    fn there_are_65535_identifiers() {
        let mut window = InFlight::default();
        while window.free_id().is_some() {
            window.push(());
        }
        assert_eq!(window.len, IDS);
        assert!(window.take(2).is_some() && window.free_id().is_none());
        assert!(window.take(1).is_some());
        assert_eq!(window.free_id(), Some(1));
    }

    #[test]
    fn a_new_connection_gets_the_rest_again_in_order() {
        let mut window = InFlight::default();
        for item in 1..=4u16 {
            window.push(item);
        }
        window.take(2);
        window.restart();
        assert_eq!(window.outstanding, 0);
        assert_eq!(window.next_again(), Some((1, &1)));
        window.take(3);
        assert_eq!(window.next_again(), Some((4, &4)));
        assert_eq!(window.next_again(), None);
        assert_eq!(window.outstanding, 1);
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_map(steps in prop::collection::vec((any::<bool>(), any::<u16>()), 0..400)) {
            let (mut window, mut model) = (InFlight::default(), BTreeMap::new());
            for (index, (push, id)) in steps.into_iter().enumerate() {
                if push {
                    let id = window.free_id().unwrap();
                    prop_assert!(model.insert(id, index).is_none());
                    window.push(index);
                } else {
                    let id = id % 40;
                    prop_assert_eq!(window.take(id), model.remove(&id));
                }
                prop_assert_eq!(window.len, model.len());
            }
        }
    }
}
