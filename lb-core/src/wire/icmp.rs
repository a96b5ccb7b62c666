//! The ICMP and ICMPv6 headers (RFC 792, RFC 4443): type, code, checksum, and four bytes that mean what the type says.

use super::{array, array_mut, be16};

pub const LEN: usize = 8;
/// Offset of the checksum.
pub const CHECKSUM: usize = 2;

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
pub fn checksum(header: &Header) -> u16 {
    be16(header[CHECKSUM], header[CHECKSUM + 1])
}

#[inline]
pub fn set_checksum(header: &mut Header, checksum: u16) {
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}
