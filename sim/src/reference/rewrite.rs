//! Addresses, ports and TTL of a packet, and every checksum that covers them.

use std::net::IpAddr;

use lb_core::flow::Tuple;

use super::checksum::{covered, moved, moved_udp, of_sctp, place, seal_ipv4};
use super::parse::{Piece, Read, SCTP, UDP, word};

/// Gives a packet the addresses and ports of `to`. Its own are read from it, wherever it is on its road.
pub(super) fn to(frame: &mut [u8], read: &Read, to: &Tuple) {
    if read.protocol == SCTP {
        return sctp_to(frame, read, to);
    }
    let from = addresses(frame, read);
    let place = place(read.protocol).filter(|_| read.piece != Piece::Later);
    let before = place.map(|place| covered(frame, read, read.protocol, place, from));
    write_address(frame, source_at(read), to.src);
    write_address(frame, destination_at(read), to.dst);
    seal(frame, read);
    let (Some(place), Some(before)) = (place, before) else { return };
    frame[read.l4..read.l4 + 2].copy_from_slice(&to.sport.to_be_bytes());
    frame[read.l4 + 2..read.l4 + 4].copy_from_slice(&to.dport.to_be_bytes());
    let after = covered(frame, read, read.protocol, place, (to.src, to.dst));
    let field = word(frame, read.l4 + place);
    let field = if read.protocol != UDP {
        moved(field, before, after)
    } else if field == 0 && !read.is_ipv6() && read.piece == Piece::Whole {
        // An IPv4 datagram that came without a checksum leaves with one.
        if after == 0xffff { 0xffff } else { !after }
    } else {
        moved_udp(field, before, after)
    };
    frame[read.l4 + place..read.l4 + place + 2].copy_from_slice(&field.to_be_bytes());
}

/// The checksum of SCTP covers no address. A wrong one stays wrong by as much.
fn sctp_to(frame: &mut [u8], read: &Read, to: &Tuple) {
    write_address(frame, source_at(read), to.src);
    write_address(frame, destination_at(read), to.dst);
    seal(frame, read);
    sctp_ports(frame, read, to);
}

pub(super) fn sctp_ports(frame: &mut [u8], read: &Read, to: &Tuple) {
    if read.piece == Piece::Later || (word(frame, read.l4), word(frame, read.l4 + 2)) == (to.sport, to.dport)
    {
        return;
    }
    let segment = &mut frame[read.l4..read.end];
    let len = match read.piece {
        Piece::First => read.whole_len.expect("it waited for the last one"),
        _ => segment.len(),
    };
    let before = of_sctp(segment, len);
    segment[..2].copy_from_slice(&to.sport.to_be_bytes());
    segment[2..4].copy_from_slice(&to.dport.to_be_bytes());
    let change = (before ^ of_sctp(segment, len)).to_le_bytes();
    for (byte, change) in segment[8..12].iter_mut().zip(change) {
        *byte ^= change;
    }
}

pub(super) fn lower_ttl(frame: &mut [u8], read: &Read) {
    let at = read.l3 + if read.is_ipv6() { 7 } else { 8 };
    frame[at] -= 1;
    seal(frame, read);
}

/// Source and destination, as they are in the packet now.
fn addresses(frame: &[u8], read: &Read) -> (IpAddr, IpAddr) {
    let address = |at| {
        if read.is_ipv6() { super::parse::ipv6(frame, at) } else { super::parse::ipv4(frame, at) }
    };
    (address(source_at(read)), address(destination_at(read)))
}

pub(super) fn source_at(read: &Read) -> usize {
    read.l3 + if read.is_ipv6() { 8 } else { 12 }
}

pub(super) fn destination_at(read: &Read) -> usize {
    read.l3 + if read.is_ipv6() { 24 } else { 16 }
}

pub(super) fn write_address(frame: &mut [u8], at: usize, address: IpAddr) {
    match address {
        IpAddr::V4(address) => frame[at..at + 4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => frame[at..at + 16].copy_from_slice(&address.octets()),
    }
}

/// Sums up an IPv4 header, which was right when it came; IPv6 has no checksum.
pub(super) fn seal(frame: &mut [u8], read: &Read) {
    if !read.is_ipv6() {
        let header_len = usize::from(frame[read.l3] & 15) * 4;
        seal_ipv4(&mut frame[read.l3..read.l3 + header_len]);
    }
}
