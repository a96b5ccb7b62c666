//! Nexthop objects (`ip nexthop`): what a route means that names one.
//!
//! With `net.ipv4.nexthop_compat_mode=0` the kernel tells of a route the object's id alone, and of an object that is
//! replaced nothing to those who follow routes; with 1 (its default) the routes have it all as well. The format is that of
//! `linux/nexthop.h` (`struct nhmsg`, `NHA_*`), which `netlink-packet-route` does not have.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::routes::Hop;

/// Bytes of `struct nlmsghdr` and `struct nhmsg`.
const HEADER: usize = 16;
const NHMSG: usize = 8;
/// `NHA_ID` and so on.
const ID: u16 = 1;
const GROUP: u16 = 2;
const BLACKHOLE: u16 = 4;
const OIF: u16 = 5;
const GATEWAY: u16 = 6;
const ENCAP_TYPE: u16 = 7;
/// Bytes of `struct nexthop_grp`: an id, and what is shared by.
const MEMBER: usize = 8;
/// `NLA_TYPE_MASK`.
const TYPE_MASK: u16 = 0x3fff;
/// `RTNH_F_DEAD`.
const DEAD: u32 = 1;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Nexthop {
    Hop(Hop),
    /// Of objects that are no groups.
    Group(Box<[u32]>),
    Blackhole,
}

/// The objects by their ids.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Nexthops(HashMap<u32, Nexthop>);

impl Nexthops {
    /// True: one that there was is another now. Routes that name a new one come after it.
    pub(super) fn put(&mut self, id: u32, new: Nexthop) -> bool {
        self.0.get(&id) != Some(&new) && self.0.insert(id, new).is_some()
    }

    pub(super) fn remove(&mut self, id: u32) {
        self.0.remove(&id);
    }

    pub(super) fn absorb(&mut self, other: Nexthops) {
        self.0.extend(other.0);
    }

    pub(super) fn is_blackhole(&self, id: u32) -> bool {
        self.0.get(&id) == Some(&Nexthop::Blackhole)
    }

    /// `None`: there is no such object.
    pub(super) fn hops(&self, id: u32) -> Option<impl Iterator<Item = &Hop>> {
        let (one, group): (Option<&Hop>, &[u32]) = match self.0.get(&id)? {
            Nexthop::Hop(hop) => (Some(hop), &[]),
            Nexthop::Group(group) => (None, group),
            Nexthop::Blackhole => (None, &[]),
        };
        let member = |id| match self.0.get(id) {
            Some(Nexthop::Hop(hop)) => Some(hop),
            _ => None,
        };
        Some(one.into_iter().chain(group.iter().filter_map(member)))
    }
}

/// `RTM_NEWNEXTHOP` or `RTM_DELNEXTHOP`, from the netlink header on: the id, and what it is.
pub(super) fn parse(message: &[u8]) -> Option<(u32, Nexthop)> {
    let body = message.get(HEADER..)?;
    let flags = u32::from_ne_bytes(body.get(4..NHMSG)?.try_into().ok()?);
    let mut hop =
        Hop { index: 0, gateway: None, is_dead: flags & DEAD != 0, has_encapsulation: false, realms: 0 };
    let (mut id, mut group, mut is_blackhole) = (None, None, false);
    for (kind, value) in Attributes(body.get(NHMSG..)?) {
        match kind {
            ID => id = Some(number(value)?),
            GROUP => group = Some(value.chunks_exact(MEMBER).filter_map(number).collect()),
            BLACKHOLE => is_blackhole = true,
            OIF => hop.index = number(value)?,
            GATEWAY => hop.gateway = Some(address(value)?),
            ENCAP_TYPE => hop.has_encapsulation = true,
            _ => {}
        }
    }
    let nexthop = match group {
        Some(group) => Nexthop::Group(group),
        None if is_blackhole => Nexthop::Blackhole,
        None => Nexthop::Hop(hop),
    };
    Some((id?, nexthop))
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|&bytes| u32::from_ne_bytes(bytes))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Attributes, each with its type; what is cut off ends them.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let &[a, b, c, d] = self.0.first_chunk()?;
        let (len, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message as the kernel makes it.
    fn message(flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + 4];
        bytes.extend(flags.to_ne_bytes());
        for (kind, value) in attributes {
            bytes.extend((value.len() as u16 + 4).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn hop(index: u32, gateway: Option<[u8; 4]>) -> Hop {
        Hop { index, gateway: gateway.map(IpAddr::from), is_dead: false, has_encapsulation: false, realms: 0 }
    }

    #[test]
    fn an_object_is_a_hop_a_group_or_a_blackhole() {
        let (seven, ten) = (7u32.to_ne_bytes(), 10u32.to_ne_bytes());
        let gateway = [192, 0, 2, 254];
        let one = message(0, &[(ID, &seven), (OIF, &ten), (GATEWAY, &gateway)]);
        assert_eq!(parse(&one), Some((7, Nexthop::Hop(hop(10, Some(gateway))))));
        let dead = message(DEAD, &[(ID, &seven), (OIF, &ten), (ENCAP_TYPE, &[1, 0])]);
        let expected = Hop { is_dead: true, has_encapsulation: true, ..hop(10, None) };
        assert_eq!(parse(&dead), Some((7, Nexthop::Hop(expected))));
        let members = [&seven[..], &[0; 4], &ten, &[0; 4]].concat();
        let group = message(0, &[(ID, &ten), (GROUP, &members), (3, &[0, 0])]);
        assert_eq!(parse(&group), Some((10, Nexthop::Group([7, 10].into()))));
        assert_eq!(parse(&message(0, &[(ID, &seven), (BLACKHOLE, &[])])), Some((7, Nexthop::Blackhole)));
    }

    #[test]
    fn what_is_cut_off_is_no_object_and_no_panic() {
        let (seven, ten) = (7u32.to_ne_bytes(), 10u32.to_ne_bytes());
        let whole = message(0, &[(OIF, &ten), (GATEWAY, &[192, 0, 2, 254]), (ID, &seven)]);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
        assert_eq!(parse(&message(0, &[(ID, &seven), (GATEWAY, &[1, 2])])), None);
    }

    #[test]
    fn a_group_is_the_hops_of_its_members() {
        let mut nexthops = Nexthops::default();
        assert!(!nexthops.put(7, Nexthop::Hop(hop(10, None))), "no route names it yet");
        assert!(!nexthops.put(7, Nexthop::Hop(hop(10, None))), "as before");
        assert!(!nexthops.put(9, Nexthop::Group([7, 8, 9].into())));
        let hops = |nexthops: &Nexthops, id| nexthops.hops(id).map(|hops| hops.cloned().collect::<Vec<_>>());
        assert_eq!(hops(&nexthops, 9), Some(vec![hop(10, None)]));
        assert!(nexthops.put(7, Nexthop::Blackhole));
        assert!(nexthops.is_blackhole(7) && !nexthops.is_blackhole(9));
        assert_eq!(hops(&nexthops, 9), Some(Vec::new()));
        nexthops.remove(9);
        assert_eq!(hops(&nexthops, 9), None);
    }
}
