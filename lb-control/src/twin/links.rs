//! Links and addresses of the kernel → [`Interfaces`].
//!
//! All links of the namespace are kept, since a VLAN names its parent by index and may be heard of first; only the
//! twins of our ports and 802.1Q VLANs directly on them become interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use ipnet::IpNet;
use lb_core::tables::{Interface, InterfaceId, Interfaces, Mac, OwnAddress, Prefix};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, VlanProtocol,
};

use super::TwinPort;
use super::setup::OUR_PROTOCOL;

/// The kernel's index of a link.
pub(super) type IfIndex = u32;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Link {
    name: String,
    mac: Option<Mac>,
    mtu: u32,
    /// Parent and 802.1Q id.
    vlan: Option<(IfIndex, u16)>,
    group: u32,
    up: bool,
    carrier: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Address {
    address: IpAddr,
    /// Of a point-to-point link the other end; else the same.
    peer: IpAddr,
    prefix_len: u8,
    scope: u8,
    flags: AddressFlags,
    /// We put it there, or an lbd before us.
    is_ours: bool,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Links {
    links: HashMap<IfIndex, Link>,
    /// In the kernel's order: the first one is the one that it prefers.
    addresses: HashMap<IfIndex, Vec<Address>>,
    /// What interfaces lost since [`take_lost`](Links::take_lost).
    lost: Vec<Lost>,
}

/// A link's address, or the link itself (`None`): down, or gone.
pub(super) type Lost = (IfIndex, Option<IpAddr>);

/// What a message about a link changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct LinkChange {
    pub(super) changed: bool,
    /// It went up or down, or away: the kernel drops or revives routes over it without a message for each.
    pub(super) state_of: Option<IfIndex>,
    /// Its MTU is another one.
    pub(super) mtu_of: Option<IfIndex>,
}

impl Links {
    pub(super) fn apply_link(&mut self, message: &LinkMessage) -> LinkChange {
        // Bridges tell of their ports in messages of their own family; they say nothing about the link.
        if message.header.interface_family != AddressFamily::Unspec {
            return LinkChange::default();
        }
        let index = message.header.index;
        let link = parse_link(message);
        let old = self.links.insert(index, link);
        let new = &self.links[&index];
        let state_changed = old.as_ref().is_some_and(|old| (old.up, old.carrier) != (new.up, new.carrier));
        if old.as_ref().is_some_and(|old| old.up) && !new.up {
            self.lost.push((index, None));
        }
        let mtu_changed = old.as_ref().is_some_and(|old| old.mtu != new.mtu);
        LinkChange {
            changed: old.as_ref() != Some(new),
            state_of: state_changed.then_some(index),
            mtu_of: mtu_changed.then_some(index),
        }
    }

    pub(super) fn remove_link(&mut self, message: &LinkMessage) -> LinkChange {
        if message.header.interface_family != AddressFamily::Unspec {
            return LinkChange::default();
        }
        let index = message.header.index;
        self.addresses.remove(&index);
        let link = self.links.remove(&index);
        if link.as_ref().is_some_and(|link| link.up) {
            self.lost.push((index, None));
        }
        let known = link.is_some();
        LinkChange { changed: known, state_of: known.then_some(index), mtu_of: None }
    }

    /// True: something changed.
    pub(super) fn apply_address(&mut self, message: &AddressMessage) -> bool {
        let Some(new) = parse_address(message) else { return false };
        let list = self.addresses.entry(message.header.index).or_default();
        let known = list.iter().position(|a| (a.address, a.prefix_len) == (new.address, new.prefix_len));
        if known.is_some_and(|at| list[at] == new) {
            return false;
        }
        match known {
            Some(at) if is_promoted(&list[at], &new) => {
                list.remove(at);
                list.push(new);
            }
            Some(at) => list[at] = new,
            None => list.insert(place(list, &new), new),
        }
        true
    }

    /// One address of a dump: the kernel gives them in its order.
    pub(super) fn add_dumped_address(&mut self, message: &AddressMessage) {
        if let Some(address) = parse_address(message) {
            self.addresses.entry(message.header.index).or_default().push(address);
        }
    }

    /// The address that went away.
    pub(super) fn remove_address(&mut self, message: &AddressMessage) -> Option<IpAddr> {
        let gone = parse_address(message)?;
        let list = self.addresses.get_mut(&message.header.index)?;
        let before = list.len();
        list.retain(|a| (a.address, a.prefix_len) != (gone.address, gone.prefix_len));
        let is_gone = list.len() < before;
        if is_gone {
            self.lost.push((message.header.index, Some(gone.address)));
        }
        is_gone.then_some(gone.address)
    }

    /// What interfaces lost since this was last asked.
    pub(super) fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// The same where `now` was read anew.
    pub(super) fn lost_to(&self, now: &Links) -> Vec<Lost> {
        let downs = self.links.iter().filter(|&(&index, link)| link.up && !now.is_up(index));
        let downs = downs.map(|(&index, _)| (index, None));
        let addresses = self.addresses.iter().flat_map(|(&index, list)| {
            let left = now.addresses.get(&index).map(Vec::as_slice).unwrap_or_default();
            let is_gone = |its: &&Address| left.iter().all(|other| other.address != its.address);
            list.iter().filter(is_gone).map(move |its| (index, Some(its.address)))
        });
        downs.chain(addresses).collect()
    }

    /// The addresses on a link that an lbd put there.
    pub(super) fn ours(&self, index: IfIndex) -> Vec<IpNet> {
        let all = self.addresses.get(&index).map(Vec::as_slice).unwrap_or_default();
        let ours = all.iter().filter(|a| a.is_ours);
        ours.filter_map(|a| IpNet::new(a.address, a.prefix_len).ok()).collect()
    }

    pub(super) fn absorb(&mut self, other: Links) {
        self.links.extend(other.links);
        self.addresses.extend(other.addresses);
    }

    pub(super) fn index_of(&self, name: &str) -> Option<IfIndex> {
        self.links.iter().find(|(_, link)| link.name == name).map(|(&index, _)| index)
    }

    /// Longest IP packet of a link, bytes; 0: there is no such link.
    pub(super) fn mtu(&self, index: IfIndex) -> u16 {
        self.links.get(&index).map_or(0, |link| u16::try_from(link.mtu).unwrap_or(u16::MAX))
    }

    pub(super) fn is_up(&self, index: IfIndex) -> bool {
        self.links.get(&index).is_some_and(|link| link.up)
    }

    /// The interfaces of `ports` that are there, ports first, then VLANs, both in ascending order of port and id, and
    /// the kernel's index of each.
    pub(super) fn interfaces(&self, ports: &[TwinPort]) -> (Interfaces, Indices) {
        let mut list: Vec<(IfIndex, Interface)> = Vec::new();
        for port in ports {
            let Some(parent) = self.index_of(&port.name) else { continue };
            list.push((parent, self.interface(parent, port, 0)));
            for (&index, link) in &self.links {
                if let Some((of, id)) = link.vlan
                    && of == parent
                {
                    list.push((index, self.interface(index, port, id)));
                }
            }
        }
        list.sort_by_key(|(index, i)| (i.vlan != 0, i.port, i.vlan, *index));
        list.dedup_by_key(|(_, i)| (i.port, i.vlan));
        list.truncate(usize::from(u16::MAX));
        let (indices, interfaces): (Vec<_>, Vec<_>) = list.into_iter().unzip();
        let indices = Indices::new(indices);
        (Interfaces::new(interfaces).with_addresses(self.own_addresses(&indices)), indices)
    }

    /// All of this namespace, in the kernel's order.
    fn own_addresses(&self, indices: &Indices) -> Vec<OwnAddress> {
        let mut links: Vec<IfIndex> = self.addresses.keys().copied().collect();
        links.sort_unstable();
        let of = |index| {
            let interface = indices.id(index);
            let mut own: Vec<_> = self.addresses[&index].iter().map(|its| its.own(interface)).collect();
            // Wider scopes come first, whenever they came.
            own.sort_by_key(|&(scope, _)| scope);
            own.into_iter().map(|(_, own)| own)
        };
        links.into_iter().flat_map(of).collect()
    }

    fn interface(&self, index: IfIndex, port: &TwinPort, vlan: u16) -> Interface {
        let link = &self.links[&index];
        let addresses = self.addresses.get(&index).map(Vec::as_slice).unwrap_or_default();
        Interface {
            name: link.name.clone(),
            port: port.id,
            vlan,
            mac: link.mac.unwrap_or_default(),
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX).min(port.mtu),
            outside: port.outside,
            group: link.group,
            ipv4: source_ipv4(addresses),
            ipv6: source_ipv6(addresses),
        }
    }
}

/// `RT_SCOPE_UNIVERSE`: it counts everywhere.
const GLOBAL: u8 = 0;

impl Address {
    /// With its scope, where order goes by that.
    fn own(&self, interface: Option<InterfaceId>) -> (u8, OwnAddress) {
        let has = |flag| self.flags.contains(flag);
        let (is_ipv6, network) =
            (self.address.is_ipv6(), Prefix { address: self.peer, len: self.prefix_len });
        let is_eligible = match is_ipv6 {
            true => is_usable(self),
            false => self.scope == GLOBAL && !has(AddressFlags::Secondary),
        };
        let own = OwnAddress {
            address: self.address,
            network,
            interface,
            is_eligible,
            is_deprecated: is_ipv6 && has(AddressFlags::Deprecated),
            is_optimistic: is_ipv6 && has(AddressFlags::Optimistic),
            is_temporary: is_ipv6 && has(AddressFlags::Secondary),
        };
        (if is_ipv6 { GLOBAL } else { self.scope }, own)
    }
}

/// A secondary address of IPv4 that becomes primary, when that of its network goes, comes behind the others.
fn is_promoted(old: &Address, new: &Address) -> bool {
    let is_secondary = |a: &Address| a.flags.contains(AddressFlags::Secondary);
    new.address.is_ipv4() && is_secondary(old) && !is_secondary(new)
}

/// Where the kernel has an address that comes: of IPv6 before those of its scope and narrower ones, of IPv4 behind the others.
fn place(list: &[Address], new: &Address) -> usize {
    let is_behind = |a: &Address| new.address.is_ipv6() && a.address.is_ipv6() && a.scope >= new.scope;
    list.iter().position(is_behind).unwrap_or(list.len())
}

/// Which kernel link is which of our interfaces.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Indices {
    by_id: Vec<IfIndex>,
    by_index: HashMap<IfIndex, InterfaceId>,
}

impl Indices {
    pub(super) fn new(by_id: Vec<IfIndex>) -> Indices {
        let by_index = by_id.iter().enumerate().map(|(id, &index)| (index, InterfaceId(id as u16))).collect();
        Indices { by_id, by_index }
    }

    pub(super) fn index(&self, id: InterfaceId) -> Option<IfIndex> {
        self.by_id.get(usize::from(id.0)).copied()
    }

    pub(super) fn id(&self, index: IfIndex) -> Option<InterfaceId> {
        self.by_index.get(&index).copied()
    }
}

/// An address of the widest scope, of these a primary one, of these the oldest.
fn source_ipv4(addresses: &[Address]) -> Option<Ipv4Addr> {
    let key = |a: &Address| (a.scope, a.flags.contains(AddressFlags::Secondary));
    addresses
        .iter()
        .filter_map(|a| match a.address {
            IpAddr::V4(v4) => Some((key(a), v4)),
            IpAddr::V6(_) => None,
        })
        .min_by_key(|&(key, _)| key)
        .map(|(_, v4)| v4)
}

/// A global address, else a link-local one; one that is not deprecated, else one that is; none that duplicate address
/// detection has not (yet) allowed (RFC 4862 §5.4).
fn source_ipv6(addresses: &[Address]) -> Option<Ipv6Addr> {
    addresses
        .iter()
        .filter(|a| is_usable(a))
        .filter_map(|a| match a.address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(((a.scope, a.flags.contains(AddressFlags::Deprecated)), v6)),
        })
        .min_by_key(|&(key, _)| key)
        .map(|(_, v6)| v6)
}

/// Of IPv6: nobody else has it (RFC 4862 §5.4, RFC 4429).
fn is_usable(a: &Address) -> bool {
    !a.flags.contains(AddressFlags::Dadfailed)
        && (!a.flags.contains(AddressFlags::Tentative) || a.flags.contains(AddressFlags::Optimistic))
}

fn parse_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        name: String::new(),
        mac: None,
        mtu: 0,
        vlan: None,
        group: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::Running),
    };
    let (mut parent, mut vlan_id, mut in_other_namespace) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = Mac::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::LinkNetNsId(_) => in_other_namespace = true,
            LinkAttribute::LinkInfo(info) => vlan_id = parse_vlan(info),
            _ => {}
        }
    }
    if let (Some(parent), Some(id), false) = (parent, vlan_id, in_other_namespace) {
        link.vlan = Some((parent, id));
    }
    link
}

/// The id of an 802.1Q VLAN; 802.1ad (QinQ) is not one of ours.
fn parse_vlan(info: &[LinkInfo]) -> Option<u16> {
    if !info.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Vlan))) {
        return None;
    }
    let data = info.iter().find_map(|i| match i {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let is_8021ad = data.iter().any(|d| matches!(d, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)));
    let id = data.iter().find_map(|d| match d {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    (!is_8021ad && (1..=4094).contains(&id)).then_some(id)
}

fn parse_address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer, mut is_ours) = (None, None, false);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::Protocol(by) => is_ours = *by == AddressProtocol::Other(OUR_PROTOCOL),
            _ => {}
        }
    }
    Some(Address {
        address: local.or(peer)?,
        peer: peer.or(local)?,
        prefix_len: message.header.prefix_len,
        scope: u8::from(message.header.scope),
        flags,
        is_ours,
    })
}

#[cfg(test)]
mod tests {
    use lb_core::ids::PortId;
    use netlink_packet_route::address::AddressScope;

    use super::*;

    fn link(index: IfIndex, name: &str, more: impl IntoIterator<Item = LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up | LinkFlags::Running;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
        ];
        message.attributes.extend(more);
        message
    }

    fn vlan(parent: IfIndex, id: u16, protocol: VlanProtocol) -> [LinkAttribute; 2] {
        let data = InfoData::Vlan(vec![InfoVlan::Protocol(protocol), InfoVlan::Id(id)]);
        [
            LinkAttribute::Link(parent),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(data)]),
        ]
    }

    fn address(index: IfIndex, text: &str, scope: AddressScope, flags: AddressFlags) -> AddressMessage {
        let net: ipnet::IpNet = text.parse().expect("a prefix");
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = net.prefix_len();
        message.header.scope = scope;
        message.attributes = vec![AddressAttribute::Address(net.addr()), AddressAttribute::Flags(flags)];
        message
    }

    fn ports() -> Vec<TwinPort> {
        let port =
            |name: &str, id, outside| TwinPort { name: name.to_owned(), id: PortId(id), outside, mtu: 9000 };
        vec![port("wan", 0, true), port("lan", 1, false)]
    }

    fn list(links: &Links) -> Vec<(String, u16, u16, bool)> {
        let (interfaces, _) = links.interfaces(&ports());
        interfaces.iter().map(|(_, i)| (i.name.clone(), i.port.0, i.vlan, i.outside)).collect()
    }

    #[test]
    fn ports_and_their_vlans_become_interfaces_and_nothing_else_does() {
        let mut links = Links::default();
        // A VLAN may be heard of before its parent.
        links.apply_link(&link(30, "wan.200", vlan(10, 200, VlanProtocol::Ieee8021Q)));
        links.apply_link(&link(10, "wan", []));
        links.apply_link(&link(5, "lan", []));
        links.apply_link(&link(31, "wan.100", vlan(10, 100, VlanProtocol::Ieee8021Q)));
        links.apply_link(&link(1, "lo", []));
        links.apply_link(&link(2, "eth0", []));
        links.apply_link(&link(32, "eth0.7", vlan(2, 7, VlanProtocol::Ieee8021Q)));
        links.apply_link(&link(33, "wan.qinq", vlan(10, 8, VlanProtocol::Ieee8021Ad)));
        links.apply_link(&link(34, "wan.100.9", vlan(31, 9, VlanProtocol::Ieee8021Q)));
        // Its parent has our parent's index, in another namespace.
        let mut foreign = link(35, "foreign", vlan(10, 300, VlanProtocol::Ieee8021Q));
        foreign.attributes.push(LinkAttribute::LinkNetNsId(0));
        links.apply_link(&foreign);
        let expected =
            [("wan", 0, 0, true), ("lan", 1, 0, false), ("wan.100", 0, 100, true), ("wan.200", 0, 200, true)];
        assert_eq!(list(&links), expected.map(|(name, port, vlan, out)| (name.to_owned(), port, vlan, out)));
        let (interfaces, indices) = links.interfaces(&ports());
        let hundred = interfaces.find(PortId(0), 100).expect("it is there");
        assert_eq!((indices.index(hundred), indices.id(31)), (Some(31), Some(hundred)));
        assert_eq!(indices.id(2), None);
        links.remove_link(&link(10, "wan", []));
        assert_eq!(list(&links), [("lan".to_owned(), 1, 0, false)]);
    }

    #[test]
    fn a_link_says_what_changed() {
        let mut links = Links::default();
        let up = link(10, "wan", []);
        assert_eq!(links.apply_link(&up), LinkChange { changed: true, state_of: None, mtu_of: None });
        assert_eq!(links.apply_link(&up), LinkChange { changed: false, state_of: None, mtu_of: None });
        let mut down = up.clone();
        down.header.flags = LinkFlags::empty();
        assert_eq!(links.apply_link(&down), LinkChange { changed: true, state_of: Some(10), mtu_of: None });
        assert!(!links.is_up(10));
        let mut port_of_a_bridge = down.clone();
        port_of_a_bridge.header.interface_family = AddressFamily::Bridge;
        assert_eq!(links.remove_link(&port_of_a_bridge), LinkChange::default(), "only the bridge lost it");
        assert_eq!(links.remove_link(&down), LinkChange { changed: true, state_of: Some(10), mtu_of: None });
    }

    #[test]
    fn mac_and_mtu_are_the_links_but_no_packet_is_longer_than_the_port_takes() {
        let mut links = Links::default();
        for (of_link, expected) in [(1400, 1400), (65_536, 9000)] {
            links.apply_link(&link(10, "wan", [LinkAttribute::Mtu(of_link)]));
            let (interfaces, _) = links.interfaces(&ports());
            let wan = interfaces.get(InterfaceId(0)).expect("it is there");
            assert_eq!((wan.mac, wan.mtu), ([2, 0, 0, 0, 0, 10], expected));
        }
    }

    #[test]
    fn an_interface_is_of_the_group_that_its_link_is_of() {
        let mut links = Links::default();
        for (news, expected) in [(vec![], 0), (vec![LinkAttribute::Group(7)], 7)] {
            links.apply_link(&link(10, "wan", news));
            let (interfaces, _) = links.interfaces(&ports());
            assert_eq!(interfaces.get(InterfaceId(0)).expect("it is there").group, expected);
        }
    }

    #[test]
    fn icmp_errors_come_from_a_primary_global_address() {
        let (global, site) = (AddressScope::Universe, AddressScope::Link);
        let none = AddressFlags::empty();
        let mut links = Links::default();
        links.apply_link(&link(10, "wan", []));
        let sources = |links: &Links| {
            let (interfaces, _) = links.interfaces(&ports());
            let wan = interfaces.get(InterfaceId(0)).expect("it is there");
            (wan.ipv4.map(|a| a.to_string()), wan.ipv6.map(|a| a.to_string()))
        };
        let some = |a: &str, b: &str| (Some(a.to_owned()), Some(b.to_owned()));
        links.apply_address(&address(10, "169.254.1.1/16", site, none));
        links.apply_address(&address(10, "fe80::1/64", site, none));
        assert_eq!(sources(&links), some("169.254.1.1", "fe80::1"));
        links.apply_address(&address(10, "192.0.2.2/24", global, AddressFlags::Secondary));
        links.apply_address(&address(10, "2001:db8::1/64", global, AddressFlags::Tentative));
        links.apply_address(&address(10, "2001:db8::2/64", global, AddressFlags::Dadfailed));
        assert_eq!(sources(&links), some("192.0.2.2", "fe80::1"));
        links.apply_address(&address(10, "192.0.2.1/24", global, none));
        links.apply_address(&address(10, "2001:db8::3/64", global, AddressFlags::Deprecated));
        assert_eq!(sources(&links), some("192.0.2.1", "2001:db8::3"));
        assert!(
            links.apply_address(&address(10, "2001:db8::1/64", global, none)),
            "it is no longer tentative"
        );
        assert!(!links.apply_address(&address(10, "2001:db8::1/64", global, none)), "no news");
        assert_eq!(sources(&links), some("192.0.2.1", "2001:db8::1"));
        let gone = address(10, "192.0.2.1/24", global, none);
        assert_eq!(links.remove_address(&gone), Some("192.0.2.1".parse().expect("an address")));
        assert_eq!(links.remove_address(&gone), None);
        assert_eq!(sources(&links).0.as_deref(), Some("192.0.2.2"));
    }

    fn own(links: &Links) -> Vec<String> {
        let (_, indices) = links.interfaces(&ports());
        let all = links.own_addresses(&indices).into_iter().filter(|own| own.is_eligible);
        all.map(|own| format!("{} {:?}", own.address, own.interface.map(|id| id.0))).collect()
    }

    #[test]
    fn own_addresses_are_in_the_kernels_order_and_some_may_not_be_chosen() {
        let (global, near, none) = (AddressScope::Universe, AddressScope::Link, AddressFlags::empty());
        let mut links = Links::default();
        links.apply_link(&link(10, "wan", []));
        for (text, scope, flags) in [
            ("169.254.1.1/16", near, none),
            ("192.0.2.1/24", global, none),
            ("192.0.2.2/24", global, AddressFlags::Secondary),
            ("198.51.100.1/24", global, none),
            ("fe80::1/64", near, none),
            ("2001:db8::1/64", global, none),
            ("2001:db8::2/64", global, AddressFlags::Tentative),
            ("2001:db8::3/64", global, AddressFlags::Deprecated),
        ] {
            links.apply_address(&address(10, text, scope, flags));
        }
        links.apply_address(&address(1, "203.0.113.1/32", global, none));
        let expected = [
            "203.0.113.1 None",
            "192.0.2.1 Some(0)",
            "2001:db8::3 Some(0)",
            "2001:db8::1 Some(0)",
            "fe80::1 Some(0)",
        ];
        let sorted =
            |all: Vec<String>, is_ipv6| all.into_iter().filter(|a| a.contains("::") == is_ipv6).collect();
        let of = |links: &Links, is_ipv6| -> Vec<String> { sorted(own(links), is_ipv6) };
        assert_eq!(of(&links, false), [expected[0], expected[1], "198.51.100.1 Some(0)"]);
        assert_eq!(of(&links, true), expected[2..], "the newest first, and link-local ones behind");
        // The primary one of a network goes, and the next one of it becomes primary, behind the others.
        links.remove_address(&address(10, "192.0.2.1/24", global, none));
        links.apply_address(&address(10, "192.0.2.2/24", global, none));
        assert_eq!(of(&links, false), [expected[0], "198.51.100.1 Some(0)", "192.0.2.2 Some(0)"]);
        // As a dump has them, they are.
        let mut dumped = Links::default();
        dumped.apply_link(&link(10, "wan", []));
        for text in ["2001:db8::9/64", "2001:db8::8/64"] {
            dumped.add_dumped_address(&address(10, text, global, none));
        }
        assert_eq!(own(&dumped), ["2001:db8::9 Some(0)", "2001:db8::8 Some(0)"]);
    }

    #[test]
    fn what_goes_is_lost_and_so_is_what_is_not_there_when_all_is_read_anew() {
        let (global, none) = (AddressScope::Universe, AddressFlags::empty());
        let (first, second) =
            (address(10, "192.0.2.1/24", global, none), address(10, "192.0.2.2/24", global, none));
        let with = |all: &[&AddressMessage]| {
            let mut links = Links::default();
            links.apply_link(&link(10, "wan", []));
            all.iter().for_each(|message| links.add_dumped_address(message));
            links
        };
        let mut links = with(&[&first, &second]);
        assert_eq!(links.take_lost(), []);
        links.remove_address(&first);
        let mut down = link(10, "wan", []);
        down.header.flags = LinkFlags::empty();
        let no_carrier = {
            let mut it = down.clone();
            it.header.flags = LinkFlags::Up;
            it
        };
        links.apply_link(&no_carrier);
        links.apply_link(&down);
        links.remove_link(&down);
        let lost = |text: &str| (10, text.parse().ok());
        assert_eq!(links.take_lost(), [lost("192.0.2.1"), (10, None)], "a link that is down is lost no more");
        let (before, after) = (with(&[&first, &second]), with(&[&second]));
        assert_eq!(before.lost_to(&after), [lost("192.0.2.1")]);
        assert_eq!(after.lost_to(&before), []);
        let mut gone = with(&[]);
        gone.apply_link(&down);
        gone.take_lost();
        assert_eq!(before.lost_to(&gone).len(), 3);
    }
}
