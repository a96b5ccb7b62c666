//! IP sets: whether the set of some name holds what a packet has. One file a type, one row in [`TYPES`].
//!
//! A rule names a set by its [`SetId`] and asks [`Sets::matches`]. The sets are a part of the tables; what is in them is in
//! [`Store`]s, which the control plane and rules change while the workers read, so that an added element is there at once and nothing is
//! copied or published for it.

mod bitmap_ip;
mod bitmap_ip_mac;
mod bitmap_port;
mod hash_ip;
mod hash_ip_mac;
mod hash_ip_mark;
mod hash_ip_port;
mod hash_ip_port_ip;
mod hash_ip_port_net;
mod hash_mac;
mod hash_net;
mod hash_net_iface;
mod hash_net_net;
mod hash_net_port;
mod hash_net_port_net;
mod key;
mod list_set;
mod packet;
mod store;
#[cfg(test)]
mod tests;
mod types;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

pub use key::{Element, Family, Interface, bits};
pub use packet::{Adding, Asking, Threshold, Wish, Wishes};
pub use store::{Extensions, Key, MAX_INTERFACES, Pen, Place, Shape, SkbInfo, Slot, Store};
pub use types::{Method, Part, SetType, TYPES};

use crate::time::Tick;

/// Sets that there can be.
pub const MAX_SETS: usize = 65_534;
/// Sets of a list that are asked, one after the other.
pub const MAX_LIST: usize = 65_536;
/// Longest time of an element, seconds: what the kernel's timer holds.
pub const MAX_TIMEOUT: u32 = u32::MAX / 1000 / 2;

/// Which set: its name's, whatever is swapped under it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SetId(pub u16);

/// One end of a packet: `src` or `dst`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    Source,
    Destination,
}

/// A packet as sets see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Source and destination; of ICMP both are `type << 8 | code`. `None`: the packet has none.
    pub ports: Option<(u16, u16)>,
    pub mark: u32,
    /// Names; empty: not known here.
    pub in_interface: &'a str,
    pub out_interface: &'a str,
    /// Source and destination; all 0: not known here.
    pub macs: ([u8; 6], [u8; 6]),
    /// Bytes of the IP packet.
    pub len: u64,
}

/// What a set said of a packet that it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    pub packets: u64,
    pub bytes: u64,
    pub skb: SkbInfo,
}

/// A set, without its name.
#[derive(Clone, Debug)]
pub struct Set {
    pub kind: &'static SetType,
    pub family: Family,
    /// Applied to addresses before they are looked for; for bitmaps of networks, their size.
    pub netmask: u128,
    pub markmask: u32,
    /// Seconds that an element lives which says nothing of it; 0: for ever. `None`: elements do not end.
    pub timeout: Option<u32>,
    /// Elements that there may be.
    pub most: usize,
    /// An element that finds no place takes another's.
    pub is_forced: bool,
    /// Of a bitmap, first and last.
    pub range: (u128, u128),
    pub store: Arc<Store>,
    /// Of list:set, in its order.
    pub members: Arc<[SetId]>,
}

impl Set {
    /// One of networks of all sizes, without a bound.
    pub fn with(kind: &'static SetType, family: Family, store: Store) -> Set {
        Set {
            kind,
            family,
            netmask: u128::MAX,
            markmask: u32::MAX,
            timeout: store.shape().has_timeout.then_some(0),
            most: usize::MAX,
            is_forced: false,
            range: (0, u128::MAX),
            store: Arc::new(store),
            members: Arc::default(),
        }
    }

    /// The part of a packet that the type compares; `None`: the packet has no such, or `sides` are too few.
    fn element(&self, facts: &Facts<'_>, sides: &[Side]) -> Option<Element> {
        let mut element = Element::default();
        let full = self.family.bits();
        let address = |side: &Side| {
            let address = match side {
                Side::Source => facts.source,
                Side::Destination => facts.destination,
            };
            (Family::of(address) == self.family).then(|| bits(address))
        };
        for (index, part) in self.kind.parts.iter().enumerate() {
            let side = sides.get(index)?;
            match part {
                Part::Address => element.address = address(side)? & self.netmask,
                Part::Net => (element.address, element.len) = (address(side)? & self.netmask, full),
                Part::SecondAddress => element.second = address(side)?,
                Part::SecondNet => {
                    (element.second, element.second_len) = (address(side)? & self.netmask, full);
                }
                // As in the kernel, ports without a protocol are those of TCP and UDP.
                Part::OnlyPort if !matches!(facts.protocol, 6 | 17) => return None,
                Part::Port | Part::OnlyPort => {
                    let (source, destination) = facts.ports?;
                    element.port = if *side == Side::Source { source } else { destination };
                    if *part == Part::Port {
                        element.protocol = facts.protocol;
                    }
                }
                Part::Mac | Part::MacValue => {
                    element.mac = if *side == Side::Source { facts.macs.0 } else { facts.macs.1 };
                    if element.mac == [0; 6] {
                        return None;
                    }
                }
                Part::Mark => element.mark = facts.mark & self.markmask,
                Part::Interface => {
                    let name = if *side == Side::Source { facts.in_interface } else { facts.out_interface };
                    element.interface = Interface::new(name).filter(|name| !name.is_empty())?;
                }
                Part::Set => return None,
            }
        }
        Some(element)
    }

    /// The key of a packet where the type compares an address alone, as of nearly all large sets: what [`Set::element`] and
    /// [`Element::key`] say, in one step.
    #[inline]
    fn address_key(&self, facts: &Facts<'_>, sides: &[Side]) -> Option<Key> {
        let address = match sides.first()? {
            Side::Source => facts.source,
            Side::Destination => facts.destination,
        };
        match (self.family, address) {
            (Family::Ipv4, IpAddr::V4(address)) => {
                Some([u64::from(u32::from(address) & self.netmask as u32), 0, 0, 0, 0])
            }
            (Family::Ipv6, IpAddr::V6(address)) => {
                let address = u128::from(address) & self.netmask;
                Some([0, (address >> 64) as u64, address as u64, 0, 0])
            }
            _ => None,
        }
    }

    /// The element that holds this one: itself, or of networks the smallest that it is in. Not one whose time is over.
    pub fn find(&self, element: &Element, now: Tick) -> Option<Slot> {
        self.search(element, now, |_| true)
    }

    /// The first of the elements that hold this one, smallest network first, that `accept` takes.
    ///
    /// Of hash:net,iface, networks wider than one that has elements, and none with the interface, are not asked, as in the kernel.
    ///
    /// Source: Linux, `net/netfilter/ipset/ip_set_hash_gen.h`, `IP_SET_HASH_WITH_MULTI`.
    fn search(&self, element: &Element, now: Tick, accept: impl Fn(Slot) -> bool) -> Option<Slot> {
        let (kind, family) = (self.kind, self.family);
        let is_met = Cell::new(false);
        let try_one = |element: &Element| {
            let slot = self.store.find(&element.key(kind, family))?;
            is_met.set(true);
            let is_other = kind.has(Part::MacValue)
                && element.mac != [0; 6]
                && !matches!(self.store.value(slot), 0)
                && self.store.value(slot) != element.mac_value();
            (!is_other && !self.store.is_over(slot, now) && accept(slot)).then_some(slot)
        };
        let try_second = |element: Element| {
            if !kind.has(Part::SecondNet) {
                return self.by_interface(element, try_one);
            }
            let mut lens = self.store.lens(1).filter(|&len| len <= element.second_len);
            lens.find_map(|second_len| {
                let second = family.network(element.second, second_len);
                try_one(&Element { second, second_len, ..element })
            })
        };
        if !kind.has(Part::Net) {
            return try_second(*element);
        }
        for len in self.store.lens(0).filter(|&len| len <= element.len) {
            let element = Element { address: family.network(element.address, len), len, ..*element };
            is_met.set(false);
            let found = try_second(element);
            if found.is_some() {
                return found;
            }
            if kind.has(Part::Interface) && !is_met.get() && self.has_interfaces(&element) {
                return None;
            }
        }
        None
    }

    /// The element with this network itself, and the interface or what its name begins with.
    pub fn find_itself(&self, element: &Element, now: Tick) -> Option<Slot> {
        self.by_interface(*element, |element| {
            let slot = self.store.find(&element.key(self.kind, self.family))?;
            (!self.store.is_over(slot, now)).then_some(slot)
        })
    }

    /// The first that there is: of the element, and then, where it has an interface, of what its name may begin with.
    fn by_interface(&self, element: Element, try_one: impl Fn(&Element) -> Option<Slot>) -> Option<Slot> {
        try_one(&element).or_else(|| {
            if !self.kind.has(Part::Interface) {
                return None;
            }
            let whole = element.interface;
            let mut lens = self.store.lens(1).filter(|&len| usize::from(len) <= whole.len());
            lens.find_map(|len| try_one(&Element { interface: whole.beginning(len.into()), ..element }))
        })
    }

    /// Whether there are elements with the network of this one.
    fn has_interfaces(&self, element: &Element) -> bool {
        self.store.interfaces(&element.key(self.kind, self.family)) > 0
    }
}

impl Set {
    /// Whether the type takes such an element: hash:ip has no place for the address that is none, nor those whose addresses are masked,
    /// nor others for such a MAC.
    pub fn takes(&self, element: &Element) -> bool {
        let is_masked = self.kind.has(Part::Address) && self.netmask != u128::MAX;
        let no_address = self.kind.is_hash() && (self.kind.is_address() || is_masked) && element.address == 0;
        let no_mac = self.kind.has(Part::Mac) && element.mac == [0; 6];
        !no_address && !no_mac
    }

    /// Whether an element may find a place in a full set.
    fn may_make_room(&self) -> bool {
        self.is_forced || self.timeout.is_some()
    }
}

/// All sets, by [`SetId`].
#[derive(Clone, Debug, Default)]
pub struct Sets {
    pub sets: Vec<Option<Arc<Set>>>,
    pub wishes: Arc<Wishes>,
}

impl Sets {
    pub fn get(&self, id: SetId) -> Option<&Arc<Set>> {
        self.sets.get(usize::from(id.0))?.as_ref()
    }
}
