//! Neighbour entries of the kernel (ARP and ND) → [`Neighbours`].

use std::net::IpAddr;

use hashbrown::HashMap;
use lb_core::tables::{Interfaces, Mac, Neighbours};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::links::{IfIndex, Indices};

/// A neighbour on a link.
pub(super) type Key = (IfIndex, IpAddr);

/// What the workers are told of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shown {
    /// Nothing: the first packet to it asks for it.
    Unknown,
    Failed,
    Mac(Mac),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    state: NeighbourState,
    shown: Shown,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct NeighbourTable {
    entries: HashMap<Key, Entry>,
}

/// What a message did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NeighbourChange {
    pub(super) key: Key,
    pub(super) state: NeighbourState,
    /// The workers must be told.
    pub(super) is_shown: bool,
}

impl NeighbourTable {
    /// `RTM_NEWNEIGH`.
    pub(super) fn apply(&mut self, message: &NeighbourMessage) -> Option<NeighbourChange> {
        let (key, mac) = parse(message)?;
        let state = message.header.state;
        let before = self.entries.get(&key).map_or(Shown::Unknown, |entry| entry.shown);
        let shown = match (state, mac) {
            (
                NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp,
                Some(mac),
            ) => Shown::Mac(mac),
            (NeighbourState::Failed, _) => Shown::Failed,
            // Asked again after it failed: it does not answer until it does.
            (NeighbourState::Incomplete, _) if before == Shown::Failed => Shown::Failed,
            _ => Shown::Unknown,
        };
        if state == NeighbourState::None {
            self.entries.remove(&key);
        } else {
            self.entries.insert(key, Entry { state, shown });
        }
        Some(NeighbourChange { key, state, is_shown: shown != before })
    }

    /// `RTM_DELNEIGH`.
    pub(super) fn remove(&mut self, message: &NeighbourMessage) -> Option<NeighbourChange> {
        let (key, _) = parse(message)?;
        let entry = self.entries.remove(&key)?;
        let is_shown = entry.shown != Shown::Unknown;
        Some(NeighbourChange { key, state: NeighbourState::None, is_shown })
    }

    /// Tells the workers no longer that this neighbour does not answer, so that the next packet asks again. True: they
    /// must be told.
    pub(super) fn forget_failure(&mut self, key: Key) -> bool {
        match self.entries.get_mut(&key) {
            Some(entry) if entry.shown == Shown::Failed => {
                entry.shown = Shown::Unknown;
                true
            }
            _ => false,
        }
    }

    /// After a link is gone the kernel's entries are too.
    pub(super) fn remove_link(&mut self, index: IfIndex) {
        self.entries.retain(|&(of, _), _| of != index);
    }

    pub(super) fn absorb(&mut self, other: NeighbourTable) {
        self.entries.extend(other.entries);
    }

    pub(super) fn state(&self, key: Key) -> NeighbourState {
        self.entries.get(&key).map_or(NeighbourState::None, |entry| entry.state)
    }

    pub(super) fn states(&self) -> impl Iterator<Item = (Key, NeighbourState)> {
        self.entries.iter().map(|(&key, entry)| (key, entry.state))
    }

    pub(super) fn build(&self, interfaces: &Interfaces, indices: &Indices) -> Neighbours {
        let shown = self.entries.iter().filter_map(|(&(index, address), entry)| {
            let mac = match entry.shown {
                Shown::Unknown => return None,
                Shown::Failed => None,
                Shown::Mac(mac) => Some(mac),
            };
            Some((indices.id(index)?, address, mac))
        });
        Neighbours::new(interfaces, shown)
    }
}

/// `None` for what is not a unicast neighbour of IPv4 or IPv6.
fn parse(message: &NeighbourMessage) -> Option<(Key, Option<Mac>)> {
    let header = &message.header;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::from(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    let address = address.filter(|a| !a.is_multicast())?;
    Some(((header.ifindex, address), mac))
}
