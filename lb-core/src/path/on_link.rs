//! Connections between two link-local addresses (RFC 4291 §2.5.6), which say who is meant on one link alone (RFC 4007 §5): on another one they are
//! somebody else.
//!
//! Such a connection is known, and listed, with its link in bits of both addresses that are 0 on the wire, as KAME's kernels had it: `fe80:PORT:VLAN::…`,
//! ports counted from 1, VLAN 0 for an untagged one. So the index tells links apart, and a worker's connections stay what they are when interfaces come and go. Rules
//! see addresses as on the wire.

use std::net::{IpAddr, Ipv6Addr};

use super::Path;
use crate::flow::Tuple;
use crate::ids::{PortId, WorkerId};
use crate::packet::Packet;

/// What a packet of `tuple` on a link of `port` is known by.
pub(super) fn on_link(tuple: Tuple, port: PortId, vlan: u16) -> Tuple {
    with_link(tuple, port.0.wrapping_add(1), vlan)
}

/// The same as it is on the wire.
pub(super) fn off_link(tuple: Tuple) -> Tuple {
    with_link(tuple, 0, 0)
}

/// Whether both ends are such addresses.
pub(super) fn is_on_link(tuple: &Tuple) -> bool {
    let is_link_local =
        |address| matches!(address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(&address));
    is_link_local(tuple.dst) && is_link_local(tuple.src)
}

fn with_link(tuple: Tuple, port: u16, vlan: u16) -> Tuple {
    if !is_on_link(&tuple) {
        return tuple;
    }
    let with = |address| match address {
        IpAddr::V6(address) => {
            let [first, _, _, rest @ ..] = Ipv6Addr::segments(&address);
            let [d, e, f, g, h] = rest;
            IpAddr::from([first, port, vlan, d, e, f, g, h])
        }
        IpAddr::V4(_) => address,
    };
    Tuple { src: with(tuple.src), dst: with(tuple.dst), ..tuple }
}

impl<P: Packet> Path<P> {
    /// The owner of a connection on a link: that of the lower end, which both directions name.
    pub(super) fn owner_on_link(&self, tuple: &Tuple) -> WorkerId {
        let (address, port) = (tuple.src, tuple.sport).min((tuple.dst, tuple.dport));
        self.owner_of(address, port)
    }
}
