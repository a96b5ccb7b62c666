//! Neighbour entries of the kernel (ARP and ND) → [`Neighbours`].

use std::net::IpAddr;

use hashbrown::HashMap;
use lb_core::tables::{InterfaceId, Interfaces, Mac, Neighbours};
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

    /// `mtus`: those that routes say.
    pub(super) fn build(
        &self,
        interfaces: &Interfaces,
        indices: &Indices,
        mtus: &[(InterfaceId, u16)],
    ) -> Neighbours {
        let shown = self.entries.iter().filter_map(|(&(index, address), entry)| {
            let mac = match entry.shown {
                Shown::Unknown => return None,
                Shown::Failed => None,
                Shown::Mac(mac) => Some(mac),
            };
            Some((indices.id(index)?, address, mac))
        });
        Neighbours::with_mtus(interfaces, mtus, shown)
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

#[cfg(test)]
mod tests {
    use lb_core::ids::PortId;
    use lb_core::tables::{Interface, Reachability};

    use super::*;

    const WAN: IfIndex = 10;
    const NINE: Mac = [2, 0, 0, 0, 0, 9];

    fn message(
        index: IfIndex,
        address: [u8; 4],
        state: NeighbourState,
        mac: Option<Mac>,
    ) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = state;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address.into())));
        message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
        message
    }

    fn wan() -> (Interfaces, Indices) {
        let interface = Interface {
            name: "wan".to_owned(),
            port: PortId(3),
            vlan: 7,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            outside: true,
            group: 0,
            ipv4: None,
            ipv6: None,
        };
        (Interfaces::new(vec![interface]), Indices::new(vec![WAN]))
    }

    fn reachability(table: &NeighbourTable) -> Option<Reachability> {
        let (interfaces, indices) = wan();
        let built = table.build(&interfaces, &indices, &[]);
        built
            .find(InterfaceId(0), [10, 0, 0, 9].into())
            .map(|hop| built.get(hop).expect("it was found").state)
    }

    #[test]
    fn states_with_a_mac_are_sent_to_and_changes_between_them_are_no_news() {
        let mut table = NeighbourTable::default();
        let states = [
            NeighbourState::Reachable,
            NeighbourState::Stale,
            NeighbourState::Delay,
            NeighbourState::Probe,
            NeighbourState::Permanent,
            NeighbourState::Noarp,
        ];
        for (n, state) in states.into_iter().enumerate() {
            let change = table.apply(&message(WAN, [10, 0, 0, 9], state, Some(NINE))).expect("a neighbour");
            assert_eq!(change.is_shown, n == 0, "{state:?}");
            assert_eq!(reachability(&table), Some(Reachability::Reachable), "{state:?}");
        }
        let moved = message(WAN, [10, 0, 0, 9], NeighbourState::Stale, Some([2, 0, 0, 0, 0, 10]));
        assert!(table.apply(&moved).expect("a neighbour").is_shown);
        let (interfaces, indices) = wan();
        let built = table.build(&interfaces, &indices, &[]);
        let hop =
            built.find(InterfaceId(0), [10, 0, 0, 9].into()).and_then(|hop| built.get(hop)).expect("known");
        assert_eq!(hop.macs, [2, 0, 0, 0, 0, 10, 2, 0, 0, 0, 0, 1]);
        assert_eq!((hop.port, hop.vlan), (PortId(3), 7));
    }

    #[test]
    fn an_unfinished_question_is_unknown_and_one_after_a_failure_still_a_failure() {
        let mut table = NeighbourTable::default();
        let mut apply = |state, mac| {
            let change = table.apply(&message(WAN, [10, 0, 0, 9], state, mac)).expect("a neighbour");
            (change.is_shown, reachability(&table))
        };
        assert_eq!(apply(NeighbourState::Incomplete, None), (false, None));
        assert_eq!(apply(NeighbourState::Failed, None), (true, Some(Reachability::Failed)));
        assert_eq!(apply(NeighbourState::Incomplete, None), (false, Some(Reachability::Failed)));
        assert_eq!(apply(NeighbourState::Reachable, Some(NINE)), (true, Some(Reachability::Reachable)));
        assert_eq!(apply(NeighbourState::Failed, None), (true, Some(Reachability::Failed)));
        let key = (WAN, [10, 0, 0, 9].into());
        assert!(table.forget_failure(key));
        assert!(!table.forget_failure(key), "once");
        assert_eq!(reachability(&table), None);
    }

    #[test]
    fn a_neighbour_that_is_deleted_is_unknown() {
        let mut table = NeighbourTable::default();
        let known = message(WAN, [10, 0, 0, 9], NeighbourState::Permanent, Some(NINE));
        table.apply(&known);
        assert!(table.remove(&known).expect("it was there").is_shown);
        assert_eq!(table.remove(&known), None);
        assert_eq!(table, NeighbourTable::default());
        table.apply(&known);
        table.remove_link(WAN);
        assert_eq!(table, NeighbourTable::default());
    }

    #[test]
    fn multicast_proxy_bridge_and_foreign_entries_are_not_shown() {
        let mut table = NeighbourTable::default();
        let permanent = |index, address| message(index, address, NeighbourState::Permanent, Some(NINE));
        assert_eq!(table.apply(&permanent(WAN, [224, 0, 0, 18])), None);
        let mut proxy = permanent(WAN, [10, 0, 0, 9]);
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(table.apply(&proxy), None);
        let mut bridge = permanent(WAN, [10, 0, 0, 9]);
        bridge.header.family = AddressFamily::Bridge;
        assert_eq!(table.apply(&bridge), None);
        table.apply(&permanent(2, [10, 0, 0, 9]));
        let (interfaces, indices) = wan();
        assert!(table.build(&interfaces, &indices, &[]).is_empty());
    }
}
