//! The IPv6 header (RFC 8200).

use super::checksum::Delta;
use super::{array, array_mut};

pub const LEN: usize = 40;

pub type Header = [u8; LEN];

#[inline]
pub fn header(frame: &[u8], l3: usize) -> Option<&Header> {
    array(frame, l3)
}

#[inline]
pub fn header_mut(frame: &mut [u8], l3: usize) -> Option<&mut Header> {
    array_mut(frame, l3)
}

#[inline]
pub fn source(header: &Header) -> [u8; 16] {
    array(header, 8).copied().unwrap_or_default()
}

#[inline]
pub fn destination(header: &Header) -> [u8; 16] {
    array(header, 24).copied().unwrap_or_default()
}

/// Writes the source address. Returns the change for the transport's checksum (IPv6 has none of its own).
#[inline]
#[must_use = "the pseudo-header changed"]
pub fn set_source(header: &mut Header, address: &[u8; 16]) -> Delta {
    let delta = Delta::address(&source(header), address);
    header[8..24].copy_from_slice(address);
    delta
}

/// As [`set_source`], for the destination.
#[inline]
#[must_use = "the pseudo-header changed"]
pub fn set_destination(header: &mut Header, address: &[u8; 16]) -> Delta {
    let delta = Delta::address(&destination(header), address);
    header[24..40].copy_from_slice(address);
    delta
}

/// Lowers the hop limit by one; of 0 it becomes 255: that of a packet for which it was raised before.
#[inline]
pub fn decrement_hop_limit(header: &mut Header) {
    header[7] = header[7].wrapping_sub(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setters_write_what_getters_read() {
        let mut header = [0x60; LEN];
        let there = set_source(&mut header, &[7; 16]).and(set_destination(&mut header, &[8; 16]));
        assert_eq!((source(&header), destination(&header)), ([7; 16], [8; 16]));
        let back = set_source(&mut header, &[0x60; 16]).and(set_destination(&mut header, &[0x60; 16]));
        assert_eq!(there.and(back).apply(0x1234), 0x1234);
        decrement_hop_limit(&mut header);
        assert_eq!(header[7], 0x5f);
        assert_eq!([&header[..7], &header[8..]].concat(), [0x60; 39]);
    }
}
