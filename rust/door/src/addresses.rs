//! What each client address has open and has asked: the cheap first line against floods.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::refusal::Refusal;

/// The table is looked through when it has grown to this, or to twice what was left last time.
const SWEEP_AT: usize = 4096;

#[derive(Clone, Copy, Debug)]
pub struct AddressLimits {
    /// 0 is no limit.
    pub connections: usize,
    /// Requests a second; 0 is no limit.
    pub rate_per_s: f64,
    /// Requests that may come at once.
    pub burst: f64,
}

#[derive(Debug)]
struct Address {
    connections: usize,
    tokens: f64,
    at: Instant,
}

#[derive(Debug)]
struct Table {
    addresses: HashMap<IpAddr, Address>,
    sweep_at: usize,
}

/// All addresses that have a connection, or have asked of late.
#[derive(Debug)]
pub struct Addresses {
    limits: AddressLimits,
    table: Mutex<Table>,
}

impl Addresses {
    pub fn new(limits: AddressLimits) -> Self {
        let table = Table { addresses: HashMap::new(), sweep_at: SWEEP_AT };
        Self { limits, table: Mutex::new(table) }
    }

    /// Count one connection more, unless there are too many; `close` takes it off again.
    pub fn open(&self, address: IpAddr) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut table = self.lock();
        let entry = self.entry(&mut table, address, now);
        if self.limits.connections > 0 && entry.connections >= self.limits.connections {
            return Err(Refusal::AddressConnections);
        }
        entry.connections += 1;
        Ok(())
    }

    pub fn close(&self, address: IpAddr) {
        if let Some(entry) = self.lock().addresses.get_mut(&group(address)) {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }

    /// Take one request from the address's bucket.
    pub fn ask(&self, address: IpAddr, now: Instant) -> Result<(), Refusal> {
        if self.limits.rate_per_s <= 0.0 {
            return Ok(());
        }
        let mut table = self.lock();
        let entry = self.entry(&mut table, address, now);
        entry.tokens = self.refilled(entry, now);
        entry.at = now;
        if entry.tokens < 1.0 {
            return Err(Refusal::RequestRate);
        }
        entry.tokens -= 1.0;
        Ok(())
    }

    fn entry<'t>(&self, table: &'t mut Table, address: IpAddr, now: Instant) -> &'t mut Address {
        if table.addresses.len() >= table.sweep_at {
            // A full bucket is what a new address has.
            table.addresses.retain(|_, entry| {
                entry.connections > 0 || self.refilled(entry, now) < self.limits.burst
            });
            table.sweep_at = SWEEP_AT.max(2 * table.addresses.len());
        }
        let new = Address { connections: 0, tokens: self.limits.burst, at: now };
        table.addresses.entry(group(address)).or_insert(new)
    }

    fn refilled(&self, entry: &Address, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(entry.at).as_secs_f64();
        (entry.tokens + passed * self.limits.rate_per_s).min(self.limits.burst)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscriber has a whole /64 of IPv6 addresses.
fn group(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addresses() -> Addresses {
        Addresses::new(AddressLimits { connections: 2, rate_per_s: 10.0, burst: 3.0 })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let (all, now) = (addresses(), Instant::now());
        let ask = |text, after_ms| all.ask(address(text), now + Duration::from_millis(after_ms));
        for _ in 0..3 {
            assert_eq!(ask("1.1.1.1", 0), Ok(()));
        }
        assert_eq!(ask("1.1.1.1", 0), Err(Refusal::RequestRate));
        assert_eq!(ask("1.1.1.2", 0), Ok(()));
        assert_eq!(ask("1.1.1.1", 99), Err(Refusal::RequestRate));
        assert_eq!(ask("1.1.1.1", 201), Ok(()));
    }

    #[test]
    fn one_network_is_one_client() {
        let all = addresses();
        assert_eq!(all.open(address("fe80::1")), Ok(()));
        assert_eq!(all.open(address("fe80::2")), Ok(()));
        assert_eq!(all.open(address("fe80::3")), Err(Refusal::AddressConnections));
        assert_eq!(all.open(address("fe80:0:0:1::3")), Ok(()));
        all.close(address("fe80::1"));
        assert_eq!(all.open(address("fe80::3")), Ok(()));
    }

    #[test]
    fn the_table_forgets_who_was_quiet() {
        let (all, now) = (addresses(), Instant::now());
        for number in 0..=SWEEP_AT as u32 {
            let asked = now + Duration::from_secs(u64::from(number));
            assert_eq!(all.ask(IpAddr::V4(number.into()), asked), Ok(()));
        }
        assert_eq!(all.lock().addresses.len(), 1);
    }
}
