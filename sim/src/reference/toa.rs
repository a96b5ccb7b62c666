//! Who the client is, told to the real server by an option of TCP ("TOA"): in each segment of the client's, but for those that begin or cut off
//! the connection, until the real server has answered.

use std::net::IpAddr;

use lb_core::flow::{Direction, Method};
use lb_core::tables::{Service, Way};

use super::checksum::{covered, moved, place, seal_ipv4};
use super::flows::Number;
use super::parse::{Piece, RST, Read, SYN, TCP, word};
use super::{Packet, Reference};

const KIND: u8 = 254;
/// Without options, and with as many as there may be.
const HEADER: usize = 20;
const MOST_HEADER: usize = 60;

impl Reference {
    /// A connection has begun with this packet.
    pub(super) fn begin_telling(&mut self, number: Number, service: &Service, read: &Read) {
        let is_asked = service.options.toa && self.flows.get(number).method == Method::Masq;
        let begins = read.protocol == TCP && read.tcp_flags & SYN != 0;
        if is_asked && begins && !self.flows.set_telling(number, true) {
            // It is the same stream without it.
            self.counters.edits.full.add(1);
        }
    }

    /// A packet as the real server shall see it: with the option, if it is to have one. One that is not sent on stays as it came.
    pub(super) fn tell_client(
        &mut self,
        packet: Packet,
        read: Read,
        number: Number,
        direction: Direction,
    ) -> (Packet, Read) {
        let connection = self.flows.get(number).clone();
        if !connection.tells_client || read.piece == Piece::Later {
            return (packet, read);
        }
        let header_len = usize::from(packet.bytes[read.l4 + 12] >> 4) * 4;
        let to = match direction {
            Direction::Original => connection.reply.src,
            Direction::Reply => connection.original.src,
        };
        let mtu = match self.tables.way(to) {
            Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| usize::from(hop.mtu)),
            _ => None,
        };
        let is_refused = read.ttl <= 1 || read.dont_fragment && mtu.is_some_and(|mtu| read.ip_len() > mtu);
        if is_refused || read.l4 + header_len > read.end {
            return (packet, read);
        }
        if direction == Direction::Reply {
            if read.tcp_flags & SYN == 0 {
                self.flows.set_telling(number, false);
            }
            return (packet, read);
        }
        if read.tcp_flags & (SYN | RST) != 0 || read.piece != Piece::Whole {
            return (packet, read);
        }
        let (src, sport) = (connection.original.src, connection.original.sport);
        let mut option = vec![KIND, if src.is_ipv6() { 20 } else { 8 }];
        option.extend(sport.to_be_bytes());
        match src {
            IpAddr::V4(src) => option.extend(src.octets()),
            IpAddr::V6(src) => option.extend(src.octets()),
        }
        let fits = mtu.is_some_and(|mtu| read.ip_len() + option.len() <= mtu);
        if !fits || header_len + option.len() > MOST_HEADER {
            self.counters.edits.toa_left_out.add(1);
            return (packet, read);
        }
        with_option(packet, read, &option)
    }
}

/// Puts an option before all others.
fn with_option(mut packet: Packet, read: Read, option: &[u8]) -> (Packet, Read) {
    let place = place(TCP).expect("it has one");
    let (ends, bytes) = ((read.src, read.dst), &mut packet.bytes);
    let before = covered(bytes, &read, TCP, place, ends);
    let at = read.l4 + HEADER;
    bytes.splice(at..at, option.iter().copied());
    bytes[read.l4 + 12] += (option.len() / 4 * 16) as u8;
    let grown = Read { end: read.end + option.len(), ..read };
    let len_at = read.l3 + if read.is_ipv6() { 4 } else { 2 };
    let len = word(bytes, len_at) + option.len() as u16;
    bytes[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
    if !read.is_ipv6() {
        let header_len = usize::from(bytes[read.l3] & 15) * 4;
        seal_ipv4(&mut bytes[read.l3..read.l3 + header_len]);
    }
    let after = covered(bytes, &grown, TCP, place, ends);
    let field = moved(word(bytes, read.l4 + place), before, after);
    bytes[read.l4 + place..read.l4 + place + 2].copy_from_slice(&field.to_be_bytes());
    (packet, grown)
}
