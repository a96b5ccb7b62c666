//! Neighbours: the MAC addresses of next hops, as Linux resolved them on the twin.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::{InterfaceId, Interfaces};
use crate::ids::PortId;
use crate::wire::ethernet;

/// A MAC address, as on the wire.
pub type Mac = [u8; 6];

/// Index into [`Neighbours`], valid within one generation of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HopId(pub u32);

impl HopId {
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reachability {
    Reachable,
    /// It does not answer.
    Failed,
}

/// All that sending to a neighbour takes: half a cache line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(32))]
pub struct NextHop {
    /// Destination and source, as a frame begins: written at once.
    pub macs: [u8; 12],
    pub port: PortId,
    /// 0: untagged.
    pub vlan: u16,
    /// Longest IP packet, in bytes.
    pub mtu: u16,
    /// The same of what goes there in a frame without a tag: 0 where none does, or it does not answer.
    pub plain_room: u16,
    pub interface: InterfaceId,
    pub state: Reachability,
}

#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    hops: Box<[NextHop]>,
    by_address: HashMap<(InterfaceId, IpAddr), HopId>,
    /// The same neighbours where a route says less than the link's MTU.
    narrow: HashMap<(HopId, u16), HopId>,
}

impl Neighbours {
    /// Neighbours on interfaces that are not in `interfaces` are left out. `None` for a MAC address says that
    /// the neighbour does not answer.
    pub fn new(
        interfaces: &Interfaces,
        neighbours: impl IntoIterator<Item = (InterfaceId, IpAddr, Option<Mac>)>,
    ) -> Neighbours {
        Neighbours::with_mtus(interfaces, &[], neighbours)
    }

    /// The same with the `mtus` that [routes](super::Routes::with_mtus) by these interfaces say: each makes another hop of
    /// each neighbour there, so that who has a hop need not ask for the route.
    pub fn with_mtus(
        interfaces: &Interfaces,
        mtus: &[(InterfaceId, u16)],
        neighbours: impl IntoIterator<Item = (InterfaceId, IpAddr, Option<Mac>)>,
    ) -> Neighbours {
        let mut by_address = HashMap::new();
        let (mut hops, mut narrow) = (Vec::new(), HashMap::new());
        for (interface, address, mac) in neighbours {
            let Some(out) = interfaces.get(interface) else { continue };
            let id = HopId(hops.len() as u32);
            let hop = NextHop {
                macs: ethernet::addresses(mac.unwrap_or_default(), out.mac),
                port: out.port,
                vlan: out.vlan,
                mtu: out.mtu,
                plain_room: if mac.is_some() && out.vlan == 0 { out.mtu } else { 0 },
                interface,
                state: if mac.is_some() { Reachability::Reachable } else { Reachability::Failed },
            };
            hops.push(hop);
            by_address.insert((interface, address), id);
            for &(_, mtu) in mtus.iter().filter(|&&(of, mtu)| of == interface && mtu < out.mtu) {
                narrow.insert((id, mtu), HopId(hops.len() as u32));
                hops.push(NextHop { mtu, plain_room: hop.plain_room.min(mtu), ..hop });
            }
        }
        Neighbours { hops: hops.into(), by_address, narrow }
    }

    pub fn find(&self, interface: InterfaceId, address: IpAddr) -> Option<HopId> {
        self.by_address.get(&(interface, address)).copied()
    }

    /// The same neighbour where a route says `mtu`; 0: it says nothing.
    #[inline]
    pub fn narrowed(&self, id: HopId, mtu: u16) -> HopId {
        if mtu == 0 {
            return id;
        }
        self.narrow.get(&(id, mtu)).copied().unwrap_or(id)
    }

    #[inline]
    pub fn get(&self, id: HopId) -> Option<&NextHop> {
        self.hops.get(id.index())
    }

    /// All of them, by [`HopId::index`].
    #[inline]
    pub fn hops(&self) -> &[NextHop] {
        &self.hops
    }

    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }
}
