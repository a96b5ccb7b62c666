//! The ICMP and ICMPv6 headers (RFC 792, RFC 4443): type, code, checksum, and four bytes that mean what the type says.

use super::{array, array_mut, be16};

pub const LEN: usize = 8;
/// Offset of the checksum.
pub const CHECKSUM: usize = 2;

/// Type of IPv4's redirect (RFC 792).
pub const REDIRECT: u8 = 5;

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

#[inline]
pub fn code(header: &Header) -> u8 {
    header[1]
}

/// The identifier of a query and of its answer (RFC 792).
#[inline]
pub fn identifier(header: &Header) -> u16 {
    be16(header[4], header[5])
}

/// Writes the identifier and returns what it was.
#[inline]
pub fn set_identifier(header: &mut Header, identifier: u16) -> u16 {
    let old = self::identifier(header);
    header[4..6].copy_from_slice(&identifier.to_be_bytes());
    old
}

/// A message that asks or answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Type of the message that asks.
    pub request: u8,
    pub is_answer: bool,
}

impl Query {
    /// Echo, timestamp, information and address mask (RFC 792, RFC 950 appendix I); of ICMPv6 echo (RFC 4443 §4) and node
    /// information (RFC 4620 §4), whose type of question stands where the identifier does. `None`: no query.
    pub const fn of(is_ipv6: bool, icmp_type: u8) -> Option<Query> {
        let (request, is_answer) = match (is_ipv6, icmp_type) {
            (false, 8 | 13 | 15 | 17) | (true, 128 | 139) => (icmp_type, false),
            (false, 0) => (8, true),
            (false, 14 | 16 | 18) | (true, 129 | 140) => (icmp_type - 1, true),
            _ => return None,
        };
        Some(Query { request, is_answer })
    }

    /// What stands in the place of a port in the tuple of a connection: type · 256 + code of the message that asks. An answer has its code.
    pub const fn port(self, code: u8) -> u16 {
        u16::from_be_bytes([self.request, code])
    }
}
