//! Who the client is, told to the real server by an option of TCP ("TOA"): in each segment of the client's, but for those that begin or cut off
//! the connection, until the real server has answered.

use std::net::IpAddr;

use lb_core::flow::Tuple;

use super::Packet;
use super::edited::changed;
use super::parse::Read;

const KIND: u8 = 254;
/// The end of all options, and one that does nothing (RFC 9293 §3.2).
const END: u8 = 0;
const NOTHING: u8 = 1;
/// Without options, and with as many as there may be.
const HEADER: usize = 20;
const MOST_HEADER: usize = 60;

/// A segment, or its first piece, without what it says itself of its client: that does nothing then.
pub(super) fn without(packet: Packet, read: Read) -> (Packet, Read) {
    let header_len = usize::from(packet.bytes[read.l4 + 12] >> 4) * 4;
    let end = read.l4 + header_len;
    let mut at = read.l4 + HEADER;
    let mut places = Vec::new();
    while at < end && packet.bytes[at] != END {
        let len = match packet.bytes[at] {
            NOTHING => 1,
            _ if at + 1 < end && packet.bytes[at + 1] >= 2 => usize::from(packet.bytes[at + 1]),
            _ => break,
        };
        if at + len > end {
            break;
        }
        if packet.bytes[at] == KIND {
            places.extend(at..at + len);
        }
        at += len;
    }
    if places.is_empty() {
        return (packet, read);
    }
    changed(packet, read, |bytes| places.into_iter().for_each(|at| bytes[at] = NOTHING))
}

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
