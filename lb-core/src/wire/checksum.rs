//! The Internet checksum (RFC 1071), computed from the bytes or brought up to date by a difference (RFC 1624).
//!
//! A *sum* here is the folded one's-complement sum of 16-bit big-endian words, in host order and not yet
//! complemented. It is 0 only when every word is; a sum of 0xffff is the other representation of zero, and what a
//! correct packet adds up to with its checksum in it.

use super::parse::{Fragment, Headers};
use super::{ipv4, udp};
use crate::tables::Protocol;

/// Sum of `bytes`; an odd last byte counts as the upper half of a word.
///
/// Sums of pieces may be [added](add) when every piece but the last has an even length.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    // One's-complement addition does not mind the byte order (RFC 1071 §2 (B)): words are added as the machine reads
    // them, and the result is turned once. 2³² additions of 32-bit halves fit into the accumulator.
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut total = 0u64;
    for chunk in chunks {
        let word = u64::from_ne_bytes(*chunk);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let mut tail = [0; 8];
    tail[..rest.len()].copy_from_slice(rest);
    let word = u64::from_ne_bytes(tail);
    total += (word & 0xffff_ffff) + (word >> 32);
    u16::from_be(fold(total))
}

/// As [`is_good`] of the [`sum`] of a header of 20 bytes that are not all 0, such as IPv4's without options: two words of eight and one of
/// four, carries added back in, are then a multiple of 0xffff.
#[inline]
pub fn is_good20(bytes: &[u8; 20]) -> bool {
    let ([a, b], rest) = bytes.as_chunks::<8>() else { return is_good(sum(bytes)) };
    let rest = rest.first_chunk().map_or(0, |rest| u32::from_ne_bytes(*rest));
    let (total, carry) = u64::from_ne_bytes(*a).overflowing_add(u64::from_ne_bytes(*b));
    // A sum that carried leaves room for the carry.
    let (total, carry) = total.overflowing_add(u64::from(rest) + u64::from(carry));
    // What 0xffff divides is, by the inverse of that modulo 2⁶⁴, the quotient again.
    const MOST: u64 = u64::MAX / 0xffff;
    (total + u64::from(carry)).wrapping_mul(MOST.wrapping_neg()) <= MOST
}

/// Folds an accumulator of words to 16 bits, carries added back in.
///
/// A number added to itself with its halves exchanged has the sum of the halves, and the carry of that, in its upper half.
#[inline]
pub(crate) const fn fold(total: u64) -> u16 {
    let half = (total.wrapping_add(total.rotate_left(32)) >> 32) as u32;
    (half.wrapping_add(half.rotate_left(16)) >> 16) as u16
}

/// One's-complement addition of two sums.
#[inline]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// One's-complement subtraction: the borrow is taken from the other end.
#[inline]
const fn subtract(a: u16, b: u16) -> u16 {
    let (difference, borrow) = a.overflowing_sub(b);
    difference - borrow as u16
}

/// The checksum field that belongs to a sum.
#[inline]
pub const fn finish(sum: u16) -> u16 {
    !sum
}

/// As [`finish`], for UDP, where 0 means that there is no checksum and 0xffff is sent instead (RFC 768).
#[inline]
pub const fn finish_udp(sum: u16) -> u16 {
    or_all_ones(!sum)
}

#[inline]
const fn or_all_ones(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// True when a sum that includes its checksum field says that the bytes are as they were sent.
#[inline]
pub const fn is_good(sum: u16) -> bool {
    sum == 0xffff
}

/// Sum of the pseudo-header of TCP and UDP over IPv4 (RFC 9293 §3.1). `len` is that of the transport header and its data.
#[inline]
pub fn pseudo_v4(src: u32, dst: u32, protocol: u8, len: u16) -> u16 {
    fold(u64::from(src) + u64::from(dst) + u64::from(protocol) + u64::from(len))
}

/// Sum of the pseudo-header of TCP, UDP and ICMPv6 over IPv6 (RFC 8200 §8.1).
#[inline]
pub fn pseudo_v6(src: &[u8; 16], dst: &[u8; 16], protocol: u8, len: u32) -> u16 {
    fold(u64::from(sum(src)) + u64::from(sum(dst)) + u64::from(protocol) + u64::from(len))
}

/// Sum of the pseudo-header of a packet, of which `frame` has the IP header: what a port that computes checksums wants to
/// find in the field.
#[inline]
pub fn pseudo(frame: &[u8], headers: &Headers) -> u16 {
    let len = covered(frame, headers);
    if headers.is_ipv6 {
        let (src, dst) = (headers.ipv6_source(frame), headers.ipv6_destination(frame));
        pseudo_v6(&src, &dst, headers.protocol.0, len as u32)
    } else {
        let Some(ip) = ipv4::header(frame, usize::from(headers.l3)) else { return 0 };
        pseudo_v4(ipv4::source(ip), ipv4::destination(ip), headers.protocol.0, len as u16)
    }
}

/// Sum of pseudo-header (none for ICMP over IPv4), transport header and data, the checksum field as it stands.
///
/// `None` when they are not all in `frame`: a chained packet, a fragment.
pub fn of_transport(frame: &[u8], headers: &Headers) -> Option<u16> {
    if headers.fragment != Fragment::None {
        return None;
    }
    let at = usize::from(headers.l4);
    let data = frame.get(at..at + covered(frame, headers))?;
    let pseudo = match headers.protocol {
        Protocol::ICMP => 0,
        _ => pseudo(frame, headers),
    };
    Some(add(pseudo, sum(data)))
}

/// Whether a packet's checksum is wrong: that of a TCP, UDP or ICMP packet that is here as a whole. UDP need not have one (RFC 768).
pub fn is_wrong(frame: &[u8], headers: &Headers) -> bool {
    let has_one = match headers.protocol {
        Protocol::UDP => udp::header(frame, headers.l4.into()).is_some_and(|udp| udp::checksum(udp) != 0),
        protocol => matches!(protocol, Protocol::TCP | Protocol::ICMP | Protocol::ICMPV6),
    };
    has_one && of_transport(frame, headers).is_some_and(|sum| !is_good(sum))
}

/// Bytes from the transport header on that its checksum covers: UDP says so itself, others go to the packet's end.
fn covered(frame: &[u8], headers: &Headers) -> usize {
    match udp::header(frame, usize::from(headers.l4)) {
        Some(udp) if headers.protocol == Protocol::UDP => usize::from(udp::len(udp)),
        _ => headers.l4_len(),
    }
}

/// What changing some words does to a checksum, to be applied to any field that covers them.
///
/// It is the sum of `~m + m'` of each word (RFC 1624 eqn. 3), so that two differences combine by addition, and one
/// for a connection's rewrite can be computed once and kept. The default changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Delta(pub u16);

impl Delta {
    #[inline]
    pub const fn word(old: u16, new: u16) -> Delta {
        Delta(add(!old, new))
    }

    /// Two words at once: an IPv4 address, or both ports.
    #[inline]
    pub const fn double_word(old: u32, new: u32) -> Delta {
        Delta(fold(!old as u64 + new as u64))
    }

    /// Four words at once: two IPv4 addresses.
    #[inline]
    pub const fn double_words(old: [u32; 2], new: [u32; 2]) -> Delta {
        Delta(fold(!old[0] as u64 + !old[1] as u64 + new[0] as u64 + new[1] as u64))
    }

    /// An IPv6 address.
    #[inline]
    pub fn address(old: &[u8; 16], new: &[u8; 16]) -> Delta {
        Delta(add(!sum(old), sum(new)))
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Delta) -> Delta {
        Delta(add(self.0, other.0))
    }

    /// The change back. As a sum of words that are not all ones before and zeros after, it is never 0.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Delta {
        Delta(finish_udp(self.0))
    }

    /// The checksum field after the change: `~(~HC + ~m + m')`, which is `HC - (~m + m')`. A wrong checksum stays wrong by as much.
    ///
    /// What it gives equals a computation over all bytes: with any non-zero word in them (a pseudo-header's protocol, an
    /// IP version) the sum `~HC` of the bytes is never 0, and then no addition makes it 0.
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        subtract(checksum, self.0)
    }

    /// As [`apply`](Self::apply), to the field where it stands.
    #[inline(always)]
    pub const fn apply_to(self, field: &mut [u8; 2]) {
        // In the byte order of the wire, which one's-complement arithmetic does not mind (RFC 1071 §2 (B)).
        *field = subtract(u16::from_ne_bytes(*field), self.0.to_be()).to_ne_bytes();
    }

    /// As [`apply`](Self::apply), for UDP: 0 is no checksum and stays so, and a result of 0 is sent as 0xffff (RFC 768).
    #[inline]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 { 0 } else { or_all_ones(subtract(checksum, self.0)) }
    }

    /// As [`apply_udp`](Self::apply_udp), to the field where it stands.
    #[inline(always)]
    pub const fn apply_to_udp(self, field: &mut [u8; 2]) {
        let checksum = u16::from_ne_bytes(*field);
        if checksum != 0 {
            // Adding the complement gives, of what is not 0, all ones where subtracting gives 0.
            *field = add(checksum, !self.0.to_be()).to_ne_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::testing::{self, Ip, L4, Recipe, recipe};
    use crate::wire::{be16, ipv6, tcp};

    /// RFC 1071 §4.1, word by word.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if total > 0xffff {
                total = (total & 0xffff) + 1;
            }
        }
        total as u16
    }

    #[test]
    fn example_of_rfc_1071_adds_up() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn example_of_rfc_1624_does_not_give_the_other_zero() {
        // RFC 1624 §4: HC 0xdd2f, word 0x5555 becomes 0x3285; the answer is 0x0000, not 0xffff.
        assert_eq!(Delta::word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
        assert_eq!(Delta::word(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn no_checksum_stays_none_in_udp() {
        assert_eq!(Delta::word(1, 2).apply_udp(0), 0);
    }

    #[test]
    fn largest_words_do_not_overflow() {
        assert_eq!(sum(&[0xff; 65_535]), slow_sum(&[0xff; 65_535]));
        assert_eq!(sum(&[]), 0);
        assert_eq!(Delta::double_word(0, u32::MAX).apply(0x1234), Delta::word(0, 0xffff).apply(0x1234));
    }

    proptest! {
        #[test]
        fn sum_equals_its_slow_twin(bytes in proptest::collection::vec(any::<u8>(), 0..200), skip in 0usize..8) {
            let bytes = &bytes[skip.min(bytes.len())..];
            prop_assert_eq!(sum(bytes), slow_sum(bytes));
        }

        #[test]
        fn twenty_bytes_are_good_when_their_slow_twins_are(mut bytes: [u8; 20], is_right: bool) {
            bytes[0] = 0x45;
            if is_right {
                ipv4::fill_checksum(&mut bytes);
            }
            prop_assert_eq!(is_good20(&bytes), is_good(slow_sum(&bytes)));
        }

        #[test]
        fn fields_are_changed_where_they_stand_as_their_values_are(checksum: u16, delta: u16) {
            let (mut field, mut udp) = (checksum.to_be_bytes(), checksum.to_be_bytes());
            Delta(delta).apply_to(&mut field);
            Delta(delta).apply_to_udp(&mut udp);
            prop_assert_eq!(u16::from_be_bytes(field), Delta(delta).apply(checksum));
            prop_assert_eq!(Delta(delta).apply(checksum), !add(!checksum, delta));
            prop_assert_eq!(u16::from_be_bytes(udp), Delta(delta).apply_udp(checksum));
        }

        #[test]
        fn sums_of_pieces_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..100) {
            let (first, second) = bytes.split_at((at * 2).min(bytes.len() & !1));
            prop_assert_eq!(add(sum(first), sum(second)), slow_sum(&bytes));
        }

        #[test]
        fn incremental_equals_full(
            mut bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 60..61),
            word in prop_oneof![Just(0u16), Just(0xffff), any::<u16>()],
            double in prop_oneof![Just(0u32), Just(u32::MAX), any::<u32>()],
            address in prop_oneof![Just([0u8; 16]), Just([0xff; 16]), any::<[u8; 16]>()],
        ) {
            bytes[0] = 0x45;
            let before = finish(slow_sum(&bytes));
            let old_word = be16(bytes[4], bytes[5]);
            let old_double = u32::from_be_bytes(bytes[8..12].try_into().unwrap());
            let old_address: [u8; 16] = bytes[20..36].try_into().unwrap();
            bytes[4..6].copy_from_slice(&word.to_be_bytes());
            bytes[8..12].copy_from_slice(&double.to_be_bytes());
            bytes[20..36].copy_from_slice(&address);
            let delta = Delta::word(old_word, word)
                .and(Delta::double_word(old_double, double))
                .and(Delta::address(&old_address, &address));
            let after = finish(slow_sum(&bytes));
            prop_assert_eq!(delta.apply(before), after);
            prop_assert_eq!(delta.reversed().apply(after), before);
            // As UDP writes it: 0 never stands in the field.
            let (before, after) = (finish_udp(!before), finish_udp(!after));
            prop_assert_eq!(delta.apply_udp(before), after);
        }

        #[test]
        fn wrong_checksum_stays_wrong(checksum: u16, error in 1u16..0xffff, old: u32, new: u32) {
            let delta = Delta::double_word(old, new);
            let wrong = add(checksum, error);
            prop_assert_ne!(delta.apply(wrong) % 0xffff, delta.apply(checksum) % 0xffff);
        }

        #[test]
        fn rewritten_packets_have_the_checksum_that_etherparse_computes(
            is_tcp: bool,
            src: [u8; 4],
            dst: [u8; 4],
            src6: [u8; 16],
            dst6: [u8; 16],
            sport: u16,
            dport: u16,
            len in 0usize..70,
            padding in 0usize..3,
        ) {
            let l4 = |sport, dport| {
                if is_tcp { L4::Tcp { sport, dport, flags: 16, options: 3 } } else { L4::Udp { sport, dport } }
            };
            let build = |ip, l4| Recipe { padding, ..recipe(ip, l4, len) }.build();
            let before = build(testing::v4(), l4(4700, 2018));
            let ip = Ip::V4 { src, dst, options: vec![], dont_fragment: true, more: false, offset: 0 };
            let after = build(ip, l4(sport, dport));
            let found = testing::headers(&before);
            prop_assert!(is_good(of_transport(&before, &found).unwrap()));
            prop_assert_eq!(of_transport(&before[..33 + len], &found), None, "not all there");
            let mut frame = before;
            let header = ipv4::header_mut(&mut frame, 14).unwrap();
            let delta = ipv4::set_source(header, u32::from_be_bytes(src))
                .and(ipv4::set_destination(header, u32::from_be_bytes(dst)));
            rewrite(&mut frame, is_tcp, 34, (sport, dport), delta);
            prop_assert_eq!(frame, after);

            let before = build(testing::v6(), l4(4700, 2018));
            let after = build(Ip::V6 { src: src6, dst: dst6, extensions: Default::default() }, l4(sport, dport));
            prop_assert!(is_good(of_transport(&before, &testing::headers(&before)).unwrap()));
            let mut frame = before;
            let header = ipv6::header_mut(&mut frame, 14).unwrap();
            let delta = ipv6::set_source(header, &src6).and(ipv6::set_destination(header, &dst6));
            rewrite(&mut frame, is_tcp, 54, (sport, dport), delta);
            prop_assert_eq!(frame, after);
        }

        #[test]
        fn pseudo_headers_equal_their_bytes(src: [u8; 16], dst: [u8; 16], protocol: u8, len: u16) {
            let v4 = [&src[..4], &dst[..4], &[0, protocol], &len.to_be_bytes()].concat();
            prop_assert_eq!(
                pseudo_v4(
                    u32::from_be_bytes(src[..4].try_into().unwrap()),
                    u32::from_be_bytes(dst[..4].try_into().unwrap()),
                    protocol,
                    len
                ),
                slow_sum(&v4)
            );
            let v6 = [&src[..], &dst[..], &u32::from(len).to_be_bytes(), &[0, 0, 0, protocol]].concat();
            prop_assert_eq!(pseudo_v6(&src, &dst, protocol, u32::from(len)), slow_sum(&v6));
        }
    }

    /// Writes both ports, from 4700 and 2018.
    fn rewrite(frame: &mut [u8], is_tcp: bool, l4: usize, ports: (u16, u16), addresses: Delta) {
        let delta = addresses.and(Delta::word(4700, ports.0)).and(Delta::word(2018, ports.1));
        if is_tcp {
            tcp::rewrite(tcp::header_mut(frame, l4).unwrap(), ports.0, ports.1, delta);
        } else {
            udp::rewrite(udp::header_mut(frame, l4).unwrap(), ports.0, ports.1, delta);
        }
    }

    #[test]
    fn udp_checksum_covers_what_udp_says() {
        let mut frame = testing::frame(testing::v4(), testing::udp(), 20);
        let whole = testing::headers(&frame);
        // Four bytes of data stand behind the datagram: length and checksum are without them.
        frame[38..40].copy_from_slice(&24u16.to_be_bytes());
        udp::set_checksum(udp::header_mut(&mut frame, 34).unwrap(), 0);
        let checksum = finish_udp(of_transport(&frame, &whole).unwrap());
        udp::set_checksum(udp::header_mut(&mut frame, 34).unwrap(), checksum);
        let shorter = testing::frame(testing::v4(), testing::udp(), 16);
        assert_eq!(checksum, be16(shorter[40], shorter[41]));
    }
}
