//! The IPv4 header (RFC 791).

use super::checksum::{self, Delta};
use super::{array, array_mut, be16};

/// Length without options.
pub const LEN: usize = 20;
/// Longest with options.
pub const MAX_LEN: usize = 60;
pub const DF: u16 = 0x4000;
pub const MF: u16 = 0x2000;
/// Where a fragment's data belongs, in units of 8 bytes.
pub const OFFSET: u16 = 0x1fff;

/// The fixed part of a header.
pub type Header = [u8; LEN];

#[inline]
pub fn header(frame: &[u8], l3: usize) -> Option<&Header> {
    array(frame, l3)
}

#[inline]
pub fn header_mut(frame: &mut [u8], l3: usize) -> Option<&mut Header> {
    array_mut(frame, l3)
}

/// Length with options, as the header says.
#[inline]
pub const fn header_len(header: &Header) -> usize {
    (header[0] & 0x0f) as usize * 4
}

#[inline]
pub const fn source(header: &Header) -> u32 {
    u32::from_be_bytes([header[12], header[13], header[14], header[15]])
}

#[inline]
pub const fn destination(header: &Header) -> u32 {
    u32::from_be_bytes([header[16], header[17], header[18], header[19]])
}

/// The DF and MF bits, and the offset in units of 8 bytes below them.
#[inline]
pub fn fragmentation(header: &Header) -> u16 {
    be16(header[6], header[7])
}

/// Writes the source address and keeps the header's checksum right. Returns the change for the transport's checksum.
#[inline]
#[must_use = "the pseudo-header changed too"]
pub fn set_source(header: &mut Header, address: u32) -> Delta {
    let delta = Delta::double_word(source(header), address);
    header[12..16].copy_from_slice(&address.to_be_bytes());
    update_checksum(header, delta);
    delta
}

/// As [`set_source`], for the destination.
#[inline]
#[must_use = "the pseudo-header changed too"]
pub fn set_destination(header: &mut Header, address: u32) -> Delta {
    let delta = Delta::double_word(destination(header), address);
    header[16..20].copy_from_slice(&address.to_be_bytes());
    update_checksum(header, delta);
    delta
}

/// Lowers the TTL by one (RFC 1141). 0 becomes 255, as by [`rewrite`].
#[inline]
pub fn decrement_ttl(header: &mut Header) {
    header[8] = header[8].wrapping_sub(1);
    update_checksum(header, TTL_DECREMENT);
}

/// What lowering the TTL by one does to the checksum: the upper byte of a word falls by one.
pub const TTL_DECREMENT: Delta = Delta(!0x0100);

/// Writes both addresses, lowers the TTL by one and applies `delta` to the checksum, which must be that of both addresses and
/// [`TTL_DECREMENT`]: a connection's rewrite, computed when it was made. A TTL of 0 becomes 255: that of a packet for which it was raised before.
#[inline]
pub fn rewrite(header: &mut Header, source: u32, destination: u32, delta: Delta) {
    header[8] = header[8].wrapping_sub(1);
    // Both at once, as they are kept beside each other.
    let addresses = u64::from(source) << 32 | u64::from(destination);
    header[12..20].copy_from_slice(&addresses.to_be_bytes());
    update_checksum(header, delta);
}

/// Sets the bit that keeps routers from splitting the packet (RFC 791 §3.1).
pub fn forbid_fragments(header: &mut Header) {
    let was = be16(header[6], header[7]);
    header[6] |= (DF >> 8) as u8;
    update_checksum(header, Delta::word(was, be16(header[6], header[7])));
}

/// Brings the checksum up to date with a change of the header.
#[inline]
pub fn update_checksum(header: &mut Header, delta: Delta) {
    if let Some(field) = array_mut(header, 10) {
        delta.apply_to(field);
    }
}

/// Computes the checksum anew, over the header at the start of `header`, options included.
pub fn fill_checksum(header: &mut [u8]) {
    if let Some(field) = array_mut::<2>(header, 10) {
        *field = [0; 2];
        let checksum = checksum::finish(checksum::sum(header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(mut header: Header) -> Header {
        fill_checksum(&mut header);
        header
    }

    proptest! {
        #[test]
        fn every_setter_keeps_the_checksum_right(mut bytes: Header, src: u32, dst: u32) {
            bytes[0] = 0x45;
            bytes[8] = bytes[8].max(1);
            let before = filled(bytes);
            let (mut one, mut all) = (before, before);
            decrement_ttl(&mut one);
            prop_assert_eq!(one, filled(one));
            let delta = set_source(&mut one, src);
            prop_assert_eq!((one, source(&one)), (filled(one), src));
            let delta = delta.and(set_destination(&mut one, dst));
            prop_assert_eq!((one, destination(&one)), (filled(one), dst));
            rewrite(&mut all, src, dst, delta.and(TTL_DECREMENT));
            prop_assert_eq!(all, one);
        }
    }
}
