//! Who the client is, told to the real server by an option of TCP ("TOA"): in each segment of the client's, but for those that begin or cut off
//! the connection, until the real server has answered.

use std::net::IpAddr;

use lb_core::flow::Tuple;

use super::Packet;
use super::edited::changed;
use super::parse::Read;

const KIND: u8 = 254;
/// Without options, and with as many as there may be.
const HEADER: usize = 20;
const MOST_HEADER: usize = 60;

/// A segment with the option before all others. `None`: there is no room, in its header or on the link, which takes `mtu`.
pub(super) fn with_option(
    packet: &Packet,
    read: &Read,
    original: &Tuple,
    mtu: Option<usize>,
) -> Option<(Packet, Read)> {
    let mut option = vec![KIND, if original.src.is_ipv6() { 20 } else { 8 }];
    option.extend(original.sport.to_be_bytes());
    match original.src {
        IpAddr::V4(src) => option.extend(src.octets()),
        IpAddr::V6(src) => option.extend(src.octets()),
    }
    let header_len = usize::from(packet.bytes[read.l4 + 12] >> 4) * 4;
    let fits = mtu.is_some_and(|mtu| read.ip_len() + option.len() <= mtu);
    if !fits || header_len + option.len() > MOST_HEADER {
        return None;
    }
    Some(changed(packet.clone(), *read, |bytes| {
        bytes[read.l4 + 12] += (option.len() / 4 * 16) as u8;
        let at = read.l4 + HEADER;
        bytes.splice(at..at, option);
    }))
}
