//! A request body in memory. All bodies together have a bound: a thousand clients that send the
//! largest body that is allowed must not fill the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::refusal::Refusal;

/// What is left for bodies, shared by all connections.
#[derive(Debug)]
pub struct Room {
    free: AtomicUsize,
    bytes: usize,
}

impl Room {
    pub fn new(bytes: usize) -> Self {
        Self { free: AtomicUsize::new(bytes), bytes }
    }

    /// Bytes that bodies hold now.
    pub fn used(&self) -> usize {
        self.bytes - self.free.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<(), Refusal> {
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes))
            .map_err(|_| Refusal::Memory)?;
        Ok(())
    }
}

/// A body, whole or as far as it has come. Gives its room back when it goes.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    taken: usize,
    room: Arc<Room>,
}

impl Body {
    pub fn new(room: &Arc<Room>) -> Self {
        Self { bytes: Vec::new(), taken: 0, room: room.clone() }
    }

    /// An empty one in the same room.
    #[must_use]
    pub fn empty(&self) -> Self {
        Self::new(&self.room)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.write(|all| {
            all.extend_from_slice(bytes);
            Ok(())
        })
    }

    /// Let `write` append; then the room that it used is taken.
    pub fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let result = write(&mut self.bytes);
        // Room is taken for what is reserved: that is what a body costs.
        let wanted = self.bytes.capacity();
        if wanted > self.taken {
            self.room.take(wanted - self.taken)?;
            self.taken = wanted;
        }
        result
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.room.free.fetch_add(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_a_room_and_give_it_back() {
        let room = Arc::new(Room::new(1000));
        let mut first = Body::new(&room);
        first.extend(&[0; 600]).unwrap();
        assert_eq!(room.used(), 600);
        let mut second = first.empty();
        assert_eq!(second.extend(&[0; 600]), Err(Refusal::Memory));
        drop((first, second));
        assert_eq!(room.used(), 0);
    }
}
