//! Interfaces: a port, or one VLAN of a port, as the Linux twin has them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Mac;
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
    /// Clients are out there (`outside` in the config).
    pub outside: bool,
    /// The addresses that ICMP errors made here come from.
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interfaces {
    list: Vec<Interface>,
    /// By port: its untagged interface.
    untagged: Vec<Option<InterfaceId>>,
    has_inside: bool,
}

impl Interfaces {
    pub fn new(list: Vec<Interface>) -> Interfaces {
        let ports = list.iter().map(|i| i.port.index() + 1).max().unwrap_or(0);
        let mut untagged = vec![None; ports];
        for (index, interface) in list.iter().enumerate() {
            if interface.vlan == 0 {
                untagged[interface.port.index()] = Some(InterfaceId(index as u16));
            }
        }
        let has_inside = list.iter().any(|i| !i.outside);
        Interfaces { list, untagged, has_inside }
    }

    /// The interface that a frame on `port` with this VLAN id (0: none) came in by.
    #[inline]
    pub fn find(&self, port: PortId, vlan: u16) -> Option<InterfaceId> {
        if vlan == 0 {
            return self.untagged.get(port.index()).copied().flatten();
        }
        let found = self.list.iter().position(|i| i.port == port && i.vlan == vlan)?;
        Some(InterfaceId(found as u16))
    }

    #[inline]
    pub fn get(&self, id: InterfaceId) -> Option<&Interface> {
        self.list.get(usize::from(id.0))
    }

    pub fn iter(&self) -> impl Iterator<Item = (InterfaceId, &Interface)> {
        self.list.iter().enumerate().map(|(index, interface)| (InterfaceId(index as u16), interface))
    }

    /// False when clients are on every interface: a one-arm set-up, in which a port does not tell a packet's direction.
    #[inline]
    pub fn has_inside(&self) -> bool {
        self.has_inside
    }
}
