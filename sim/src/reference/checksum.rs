//! The Internet checksum (RFC 1071), always over all that it covers.

use std::net::IpAddr;

use super::parse::{ICMP, Read, TCP, UDP, word};

/// One's-complement sum of 16-bit words; an odd last byte is the upper half of one. Two words at a time: the carry of the lower one is
/// added to the upper one, and that one's is added back in by [`fold`].
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let last = u64::from(u32::from_be_bytes(last));
    // No frame is long enough for a carry out of 64 bits.
    fold(pairs.iter().fold(last, |total, pair| total.wrapping_add(u32::from_be_bytes(*pair).into())))
}

pub(super) fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

pub(super) fn address_sum(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(sum(&address.octets())),
        IpAddr::V6(address) => u64::from(sum(&address.octets())),
    }
}

/// A field when what it covers changes from one sum to another (neither of them 0): the new sum's complement if it was the old one's;
/// if it was wrong it stays wrong by as much, for who updates a checksum must not mend it (RFC 1624).
pub(super) fn moved(field: u16, before: u16, after: u16) -> u16 {
    !fold(u64::from(!field) + u64::from(!before) + u64::from(after))
}

/// As [`moved`], for UDP: 0 is no checksum, and one that comes to 0 is sent as 0xffff (RFC 768).
pub(super) fn moved_udp(field: u16, before: u16, after: u16) -> u16 {
    match (field, moved(field, before, after)) {
        (0, _) => 0,
        (_, 0) => 0xffff,
        (_, moved) => moved,
    }
}

/// Where a transport header has its checksum.
pub(super) fn place(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

/// What the transport checksum of a packet, read as `read` and with these addresses, covers: pseudo-header, header, data; the
/// field itself, `place` bytes into the header, counts as zero. Of a first fragment, as much as is there.
pub(super) fn covered(
    frame: &[u8],
    read: &Read,
    protocol: u8,
    place: usize,
    (src, dst): (IpAddr, IpAddr),
) -> u16 {
    let mut end = read.end;
    if protocol == UDP {
        // A datagram may be shorter than the packet that it is in.
        end = end.min(read.l4 + usize::from(word(frame, read.l4 + 4)));
    }
    let segment = &frame[read.l4..end];
    let mut total = u64::from(sum(segment)) + u64::from(!word(segment, place));
    if src.is_ipv6() || protocol != ICMP {
        total += address_sum(src) + address_sum(dst) + u64::from(protocol) + segment.len() as u64;
    }
    // With the complement of the field added, the field is out; what is left of both is a zero.
    fold(total)
}

/// CRC32c, as a number that stands in the packet with its lowest byte first (RFC 9260 appendix A).
pub(super) fn crc32c(bytes: impl IntoIterator<Item = u8>) -> u32 {
    const OF_BYTE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < table.len() {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    let step = |crc: u32, byte: u8| OF_BYTE[usize::from(crc as u8 ^ byte)] ^ crc >> 8;
    !bytes.into_iter().fold(u32::MAX, step)
}

/// That of an SCTP packet of `len` bytes that begins with these: its own field counts as zero, and so does what is not there.
pub(super) fn of_sctp(segment: &[u8], len: usize) -> u32 {
    let byte = |at: usize| if (8..12).contains(&at) { 0 } else { segment.get(at).copied().unwrap_or(0) };
    crc32c((0..len).map(byte))
}

/// Writes the checksum of an IPv4 header.
pub(super) fn seal_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let field = !sum(header);
    header[10..12].copy_from_slice(&field.to_be_bytes());
}
