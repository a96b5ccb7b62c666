//! What lblc and lblcr remember: which real servers a destination's connections go to.
//!
//! One worker's memory for all its services, of a fixed size: 16,384 destinations, in rows of eight. A destination
//! that finds its row full takes the place of the one in it that was not asked for the longest. One that nobody asked for in
//! [`EXPIRY`] is forgotten. Which row is known to anybody: who asks for many destinations on purpose makes others be
//! forgotten, which costs them a server with a warm cache, and no more.
//!
//! A real server is remembered by its id, so that one that was removed and is added again while its connections live
//! has its destinations back, as in the kernel.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::ids::{ServerId, ServiceId};
use crate::time::{Tick, Timeout};

/// Rows, and destinations in each. Together 16,384 destinations: as many as the kernel keeps for one service.
const ROWS: usize = 2048;
const PLACES: usize = 8;

/// Servers that one destination has at most (lblcr).
pub(super) const SET: usize = 16;

/// The kernel's `lblc_expiration` and `lblcr_expiration`.
pub(super) const EXPIRY: Timeout = Timeout::from_secs(24 * 60 * 60);

/// Whose destination: a service since it has its scheduler, and the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    service: ServiceId,
    epoch: u32,
    address: u128,
}

impl Key {
    pub(super) fn new(service: ServiceId, epoch: u32, address: IpAddr) -> Key {
        let address = match address {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        Key { service, epoch, address }
    }

    fn row(&self) -> usize {
        let folded = (self.address ^ self.address >> 64) as u64 ^ u64::from(self.service.0) << 32;
        (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % ROWS
    }
}

/// What is remembered of one destination.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    key: Key,
    used: Tick,
    /// When a server was put into the set or taken out of it.
    pub(super) changed: Tick,
    /// The oldest first.
    pub(super) servers: ArrayVec<ServerId, SET>,
}

#[derive(Debug, Default)]
pub(super) struct Destinations {
    rows: Vec<ArrayVec<Destination, PLACES>>,
}

impl Destinations {
    /// Takes the memory, once.
    pub(super) fn make_room(&mut self) {
        if self.rows.is_empty() {
            self.rows.resize_with(ROWS, ArrayVec::new);
        }
    }

    /// What is remembered of this destination, which somebody asks for.
    pub(super) fn find(&mut self, key: Key, now: Tick) -> Option<&mut Destination> {
        let row = self.rows.get_mut(key.row())?;
        let place = row.iter().position(|known| known.key == key)?;
        if now.since(row[place].used) >= EXPIRY.0 {
            row.swap_remove(place);
            return None;
        }
        let found = row.get_mut(place)?;
        found.used = now;
        Some(found)
    }

    /// From now on the destination has this server, and no other.
    pub(super) fn set(&mut self, key: Key, server: ServerId, now: Tick) {
        let Some(row) = self.rows.get_mut(key.row()) else { return };
        row.retain(|known| known.key != key);
        if row.is_full() {
            let oldest = (0..PLACES).max_by_key(|&place| now.since(row[place].used));
            row.swap_remove(oldest.unwrap_or(0));
        }
        row.push(Destination { key, used: now, changed: now, servers: [server].into_iter().collect() });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn key(service: u32, address: u32) -> Key {
        Key::new(ServiceId(service), 1, Ipv4Addr::from(address).into())
    }

    fn server_of(known: &mut Destinations, key: Key, now: Tick) -> Option<u32> {
        known.find(key, now).map(|found| found.servers[0].0)
    }

    #[test]
    fn a_destination_is_forgotten_a_day_after_it_was_asked_for_last() {
        let mut known = Destinations::default();
        known.make_room();
        let begin = Tick(u32::MAX - 5);
        known.set(key(1, 1), ServerId(7), begin);
        let almost = begin.after(Timeout(EXPIRY.0 - 1));
        assert_eq!(server_of(&mut known, key(1, 1), almost), Some(7));
        assert_eq!(server_of(&mut known, key(1, 1), almost.after(Timeout(EXPIRY.0 - 1))), Some(7));
        let late = almost.after(EXPIRY).after(EXPIRY);
        assert_eq!(server_of(&mut known, key(1, 1), late), None);
    }

    #[test]
    fn destinations_of_different_services_and_epochs_are_different() {
        let mut known = Destinations::default();
        known.make_room();
        known.set(key(1, 1), ServerId(7), Tick(0));
        known.set(key(2, 1), ServerId(8), Tick(0));
        assert_eq!(server_of(&mut known, key(1, 1), Tick(1)), Some(7));
        assert_eq!(server_of(&mut known, key(2, 1), Tick(1)), Some(8));
        assert_eq!(server_of(&mut known, Key { epoch: 2, ..key(1, 1) }, Tick(1)), None);
    }

    #[test]
    fn a_full_row_forgets_whom_nobody_asked_for_the_longest() {
        let mut known = Destinations::default();
        known.make_room();
        let mut same_row = (0..).map(|address| key(1, address)).filter(|one| one.row() == key(1, 0).row());
        let keys: Vec<Key> = same_row.by_ref().take(PLACES).collect();
        for (at, &one) in keys.iter().enumerate() {
            known.set(one, ServerId(at as u32), Tick(at as u32));
        }
        assert_eq!(server_of(&mut known, keys[0], Tick(100)), Some(0));
        known.set(same_row.next().expect("there are many"), ServerId(99), Tick(101));
        let left: Vec<_> = keys.iter().map(|&one| server_of(&mut known, one, Tick(102)).is_some()).collect();
        assert_eq!(left, [true, false, true, true, true, true, true, true]);
    }

    #[test]
    fn any_number_of_destinations_takes_the_room_of_so_many() {
        let mut known = Destinations::default();
        known.make_room();
        for address in 0..(4 * ROWS * PLACES) as u32 {
            known.set(key(1, address), ServerId(1), Tick(address));
        }
        let kept: usize = known.rows.iter().map(|row| row.len()).sum();
        assert_eq!((kept, known.rows.len()), (ROWS * PLACES, ROWS), "addresses in a row fill all rows");
    }
}
