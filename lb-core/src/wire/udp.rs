//! The UDP header (RFC 768).

use super::checksum::Delta;
use super::{array, array_mut, be16, ports};

pub const LEN: usize = 8;
/// Offset of the checksum.
pub const CHECKSUM: usize = 6;

pub type Header = [u8; LEN];

#[inline]
pub fn header(frame: &[u8], l4: usize) -> Option<&Header> {
    array(frame, l4)
}

#[inline]
pub fn header_mut(frame: &mut [u8], l4: usize) -> Option<&mut Header> {
    array_mut(frame, l4)
}

/// Length of the header and its data.
#[inline]
pub fn len(header: &Header) -> u16 {
    be16(header[4], header[5])
}

/// The checksum field; 0: none was computed, which IPv4 allows.
#[inline]
pub fn checksum(header: &Header) -> u16 {
    be16(header[CHECKSUM], header[CHECKSUM + 1])
}

/// Writes both ports and brings the checksum, if there is one, up to date with `delta`: the change of the addresses and of
/// these ports.
#[inline(always)]
pub fn rewrite(header: &mut Header, sport: u16, dport: u16, delta: Delta) {
    header[..4].copy_from_slice(&ports(sport, dport));
    if let Some(field) = header.last_chunk_mut() {
        delta.apply_to_udp(field);
    }
}

/// Writes the checksum field, as computed or as the pseudo-header's sum that a port wants to find there.
#[inline]
pub fn set_checksum(header: &mut Header, checksum: u16) {
    header[CHECKSUM..].copy_from_slice(&checksum.to_be_bytes());
}
