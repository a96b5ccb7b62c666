//! Bytes on the wire: what a frame says, and how it is changed.
//!
//! [`parse`](parse::parse) is the first stage of the packet path: it turns a frame into [`Headers`](parse::Headers), or into the reason
//! why it goes no further. The other files are one header each: offsets, getters, setters. Outside this
//! module everything is in host byte order; only IPv6 addresses stay the 16 bytes that they are.
//!
//! Nothing here allocates, and no bytes make anything panic: a header is reached as a reference to an array
//! of its fixed size, which a frame either has or has not.

pub mod bare;
pub mod checksum;
pub mod crc32c;
pub mod datagram;
pub mod ethernet;
pub mod fragment;
pub mod ftp;
pub mod ftp_families;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod parse;
pub mod proxy;
pub mod quic;
pub mod sctp;
pub mod segment;
pub mod sip;
pub mod tcp;
pub mod tcp_options;
pub mod telnet;
pub mod translate;
pub mod udp;

/// The `N` bytes of `bytes` from `at` on, if there are so many.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.first_chunk()
}

/// As [`array`], to be written to.
#[inline]
pub(crate) fn array_mut<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..at.checked_add(N)?)?.first_chunk_mut()
}

/// Both ports as on the wire, made at once.
#[inline(always)]
fn ports(sport: u16, dport: u16) -> [u8; 4] {
    (u32::from(sport) << 16 | u32::from(dport)).to_be_bytes()
}

#[inline]
pub(crate) fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
pub(crate) mod testing;
