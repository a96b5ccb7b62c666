//! The TCP header (RFC 9293 §3.1).

use super::checksum::Delta;
use super::parse::Headers;
use super::{array, array_mut, be16, ipv4, ipv6, ports};
use crate::packet::Packet;

/// Length without options.
pub const LEN: usize = 20;
/// Offset of the checksum.
pub const CHECKSUM: usize = 16;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;

/// The fixed part of a header.
pub type Header = [u8; LEN];

#[inline]
pub fn header(frame: &[u8], l4: usize) -> Option<&Header> {
    array(frame, l4)
}

#[inline]
pub fn header_mut(frame: &mut [u8], l4: usize) -> Option<&mut Header> {
    array_mut(frame, l4)
}

#[inline]
pub fn sequence(header: &Header) -> u32 {
    u32::from_be_bytes([header[4], header[5], header[6], header[7]])
}

/// What the acknowledgement field says, whether or not the flag is set.
#[inline]
pub fn acknowledgement(header: &Header) -> u32 {
    u32::from_be_bytes([header[8], header[9], header[10], header[11]])
}

/// Brings the checksum up to date.
#[inline(always)]
pub(crate) fn update_checksum(header: &mut Header, delta: Delta) {
    if let Some(field) = array_mut(header, CHECKSUM) {
        delta.apply_to(field);
    }
}

/// Length with options.
#[inline]
pub fn header_len(header: &Header) -> usize {
    usize::from(header[12] >> 4) * 4
}

#[inline]
pub fn checksum(header: &Header) -> u16 {
    be16(header[CHECKSUM], header[CHECKSUM + 1])
}

/// The header with its options, if `frame` has it whole.
pub fn with_options(frame: &[u8], l4: usize) -> Option<&[u8]> {
    let len = header_len(header(frame, l4)?).max(LEN);
    frame.get(l4..)?.get(..len)
}

/// Where one option of a header stands, and its data; `None` when it is not there.
pub(crate) fn option(header: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    let mut at = 20;
    while let Some(&found) = header.get(at) {
        if found == 0 {
            return (kind == 0).then_some((at, &[][..]));
        }
        let len = match found {
            1 => 1,
            _ => usize::from(*header.get(at + 1)?).max(2),
        };
        if found == kind {
            return Some((at, header.get(at + 2..at + len).unwrap_or_default()));
        }
        at += len;
    }
    None
}

/// Kind of the option that says the maximum segment size (RFC 9293 §3.2).
pub(crate) const MSS: u8 = 2;

/// Lowers the maximum segment size that a SYN asks for to `mss`. False: it asks for none, and stays as it is.
pub(crate) fn lower_mss(frame: &mut [u8], l4: usize, mss: u16) -> bool {
    let Some((at, &[high, low])) = with_options(frame, l4).and_then(|header| option(header, MSS)) else {
        return false;
    };
    if be16(high, low) <= mss {
        return true;
    }
    let [new_high, new_low] = mss.to_be_bytes();
    if let Some(data) = array_mut::<2>(frame, l4 + at + 2) {
        *data = [new_high, new_low];
    }
    // The option may begin at an odd byte of the header: then its bytes are the other ones of their words.
    let (old, new) = match at % 2 {
        0 => (be16(high, low), mss),
        _ => (be16(low, high), be16(new_low, new_high)),
    };
    if let Some(header) = header_mut(frame, l4) {
        update_checksum(header, Delta::word(old, new));
    }
    true
}

/// Bytes of the option with the maximum segment size, and of the longest header with options.
const MSS_LEN: usize = 4;
const LONGEST: usize = 60;

/// Has a SYN that says no maximum segment size say `mss`, before its other options. One that carries data, has no room for an option in its
/// header or in its buffer, or is chained stays as it is. `headers` are the packet's.
pub(crate) fn add_mss<P: Packet>(packet: &mut P, headers: &Headers, mss: u16) {
    let (l3, l4, end) = (usize::from(headers.l3), usize::from(headers.l4), headers.end());
    let Some(len) = with_options(packet.data(), l4).map(<[u8]>::len) else { return };
    if l4 + len != end || len + MSS_LEN > LONGEST {
        return;
    }
    // What pads the frame may be room enough.
    if packet.frame_len() < end + MSS_LEN && packet.set_len(end + MSS_LEN).is_err() {
        return;
    }
    let frame = packet.data_mut();
    let Some(segment) = frame.get_mut(l4..end + MSS_LEN) else { return };
    let [high, low] = mss.to_be_bytes();
    let option = [MSS, MSS_LEN as u8, high, low];
    segment.copy_within(LEN..len, LEN + MSS_LEN);
    segment[LEN..LEN + MSS_LEN].copy_from_slice(&option);
    let (was, flags) = (segment[12], segment[13]);
    segment[12] += 0x10;
    // The length is in the sum by the pseudo-header; options that move by whole words leave it as it is.
    let changed = Delta::double_word(0, u32::from_be_bytes(option))
        .and(Delta::word(be16(was, flags), be16(segment[12], flags)))
        .and(Delta::word(len as u16, (len + MSS_LEN) as u16));
    let sum = changed.apply(be16(segment[CHECKSUM], segment[CHECKSUM + 1]));
    segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    if headers.is_ipv6 {
        if let Some(ip) = ipv6::header_mut(frame, l3) {
            let longer = be16(ip[4], ip[5]).wrapping_add(MSS_LEN as u16);
            ip[4..6].copy_from_slice(&longer.to_be_bytes());
        }
    } else if let Some(ip) = ipv4::header_mut(frame, l3) {
        let (was, longer) = (be16(ip[2], ip[3]), be16(ip[2], ip[3]).wrapping_add(MSS_LEN as u16));
        ip[2..4].copy_from_slice(&longer.to_be_bytes());
        ipv4::update_checksum(ip, Delta::word(was, longer));
    }
}

/// Writes both ports and brings the checksum up to date with `delta`: the change of the addresses and of these ports.
#[inline(always)]
pub fn rewrite(header: &mut Header, sport: u16, dport: u16, delta: Delta) {
    header[..4].copy_from_slice(&ports(sport, dport));
    update_checksum(header, delta);
}

/// Writes the checksum field, as computed or as the pseudo-header's sum that a port wants to find there.
#[inline]
pub fn set_checksum(header: &mut Header, checksum: u16) {
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}
