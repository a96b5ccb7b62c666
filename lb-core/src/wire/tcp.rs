//! The TCP header (RFC 9293 §3.1).

use super::checksum::Delta;
use super::{array, array_mut, be16};

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

/// Lowers the maximum segment size that a SYN asks for to `mss`. One that asks for none stays as it is.
pub(crate) fn lower_mss(frame: &mut [u8], l4: usize, mss: u16) {
    let Some((at, &[high, low])) = with_options(frame, l4).and_then(|header| option(header, MSS)) else {
        return;
    };
    if be16(high, low) <= mss {
        return;
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
        let sum = Delta::word(old, new).apply(checksum(header));
        header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Writes both ports and brings the checksum up to date with `delta`: the change of the addresses and of these ports.
#[inline]
pub fn rewrite(header: &mut Header, sport: u16, dport: u16, delta: Delta) {
    header[0..2].copy_from_slice(&sport.to_be_bytes());
    header[2..4].copy_from_slice(&dport.to_be_bytes());
    let checksum = delta.apply(checksum(header));
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Writes the checksum field, as computed or as the pseudo-header's sum that a port wants to find there.
#[inline]
pub fn set_checksum(header: &mut Header, checksum: u16) {
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}
