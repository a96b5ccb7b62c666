//! Interfaces: a port, or one VLAN of a port, as the Linux twin has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;

use super::own::{OwnAddress, OwnAddresses};
use super::{Mac, Prefix};
use crate::ids::PortId;

/// Index into [`Interfaces`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct InterfaceId(pub u16);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// The twin's name in Linux.
    pub name: String,
    pub port: PortId,
    /// 802.1Q VLAN id, 1..=4094; 0 for the port itself.
    pub vlan: u16,
    pub mac: Mac,
    /// Longest IP packet, in bytes.
    pub mtu: u16,
    /// Clients are out there (`outside` in the config): for the steering that a NIC does. Ours needs no such hint.
    pub outside: bool,
    /// The group that it is of in Linux (`ip link set … group`); 0: the one of all at first.
    pub group: u32,
    /// The addresses that ICMP errors made here come from.
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interfaces {
    list: Vec<Interface>,
    /// By port: its untagged interface.
    untagged: Vec<Option<InterfaceId>>,
    tagged: HashMap<(PortId, u16), InterfaceId>,
    own: OwnAddresses,
}

impl Interfaces {
    /// Their addresses are those that errors come from, until [`with_addresses`](Interfaces::with_addresses) says more.
    pub fn new(list: Vec<Interface>) -> Interfaces {
        let ports = list.iter().map(|i| i.port.index() + 1).max().unwrap_or(0);
        let mut untagged = vec![None; ports];
        let mut tagged = HashMap::new();
        for (index, interface) in list.iter().enumerate() {
            let id = InterfaceId(index as u16);
            if interface.vlan == 0 {
                untagged[interface.port.index()] = Some(id);
            } else {
                tagged.insert((interface.port, interface.vlan), id);
            }
        }
        let own = OwnAddresses::new(list.iter().enumerate().flat_map(|(index, interface)| {
            let addresses = [interface.ipv4.map(IpAddr::V4), interface.ipv6.map(IpAddr::V6)];
            let plain = move |address: IpAddr| {
                let len = Prefix::longest(address.is_ipv6());
                OwnAddress::plain(address, len, Some(InterfaceId(index as u16)))
            };
            addresses.into_iter().flatten().map(plain)
        }));
        Interfaces { list, untagged, tagged, own }
    }

    /// With the addresses of this host, in the kernel's order: by interface, and of each as the kernel has them.
    #[must_use]
    pub fn with_addresses(self, addresses: impl IntoIterator<Item = OwnAddress>) -> Interfaces {
        Interfaces { own: OwnAddresses::new(addresses), ..self }
    }

    /// The addresses of this host.
    pub fn own(&self) -> &OwnAddresses {
        &self.own
    }

    /// The interface that a frame on `port` with this VLAN id (0: none) came in by.
    #[inline]
    pub fn find(&self, port: PortId, vlan: u16) -> Option<InterfaceId> {
        if vlan == 0 {
            return self.untagged.get(port.index()).copied().flatten();
        }
        self.tagged.get(&(port, vlan)).copied()
    }

    #[inline]
    pub fn get(&self, id: InterfaceId) -> Option<&Interface> {
        self.list.get(usize::from(id.0))
    }

    pub fn iter(&self) -> impl Iterator<Item = (InterfaceId, &Interface)> {
        self.list.iter().enumerate().map(|(index, interface)| (InterfaceId(index as u16), interface))
    }
}
