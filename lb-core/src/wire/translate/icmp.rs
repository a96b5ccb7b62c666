//! ICMP errors in the other address family (RFC 7915 §4.2, §5.2), with the packet that they quote.
//!
//! Extensions behind what is quoted (RFC 4884) stay behind.

use arrayvec::ArrayVec;

use super::{Addresses, Fields, GROWTH, MAX_HEADER, MIN_IPV6_MTU, replace};
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::icmp::Embedded;
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::wire::checksum::{self, Delta};
use crate::wire::icmp::{CHECKSUM, LEN};
use crate::wire::parse::Headers;
use crate::wire::{array, array_mut, be16, sctp, tcp, udp};

/// Longest ICMPv4 error (RFC 1812 §4.3.2.3).
const MAX_IPV4: usize = 576;

/// Longest packets, in bytes, that the links take over which an error's receiver and the quoted packet's destination are reached; `None`: not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mtus {
    pub receiver: Option<u16>,
    pub destination: Option<u16>,
}

/// Type, code and the four bytes behind the checksum of an error, in the other family. `quoted_len` is the length of the quoted packet as it left. `None`:
/// that family has no such error.
pub fn message(is_ipv6: bool, header: &[u8; LEN], quoted_len: u16, mtus: Mtus) -> Option<(u8, u8, [u8; 4])> {
    let [kind, code, _, _, rest @ ..] = *header;
    if is_ipv6 { from_ipv6(kind, code, rest, mtus) } else { from_ipv4(kind, code, rest, quoted_len, mtus) }
}

/// RFC 7915 §4.2.
fn from_ipv4(kind: u8, code: u8, rest: [u8; 4], quoted_len: u16, mtus: Mtus) -> Option<(u8, u8, [u8; 4])> {
    const NONE: [u8; 4] = [0; 4];
    Some(match (kind, code) {
        (3, 0 | 1 | 5..=8 | 11 | 12) => (1, 0, NONE),
        // Protocol unreachable: a parameter problem at the next header.
        (3, 2) => (4, 1, 6u32.to_be_bytes()),
        (3, 3) => (1, 4, NONE),
        (3, 4) => {
            let said = match be16(rest[2], rest[3]) {
                0 => plateau_below(quoted_len),
                mtu => mtu,
            };
            let grown = |mtu: u16| u32::from(mtu) + GROWTH;
            let mtu = mtus.destination.map_or(grown(said), |mtu| grown(mtu).min(grown(said)));
            let mtu = mtus.receiver.map_or(mtu, |receiver| mtu.min(receiver.into()));
            (2, 0, mtu.max(MIN_IPV6_MTU.into()).to_be_bytes())
        }
        (3, 9 | 10 | 13 | 15) => (1, 1, NONE),
        (11, _) => (3, code, NONE),
        (12, 0 | 2) => {
            let pointer = match rest[0] {
                at @ (0 | 1) => at,
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return None,
            };
            (4, 0, u32::from(pointer).to_be_bytes())
        }
        _ => return None,
    })
}

/// RFC 7915 §5.2.
fn from_ipv6(kind: u8, code: u8, rest: [u8; 4], mtus: Mtus) -> Option<(u8, u8, [u8; 4])> {
    const NONE: [u8; 4] = [0; 4];
    Some(match (kind, code) {
        (1, 0 | 2 | 3) => (3, 1, NONE),
        (1, 1) => (3, 10, NONE),
        (1, 4) => (3, 3, NONE),
        (2, _) => {
            let mtu = u32::from_be_bytes(rest).min(mtus.destination.map_or(u32::MAX, u32::from));
            let mtu = mtu.saturating_sub(GROWTH).min(mtus.receiver.unwrap_or(u16::MAX).into()) as u16;
            let [high, low] = mtu.to_be_bytes();
            (3, 4, [0, 0, high, low])
        }
        (3, _) => (11, code, NONE),
        (4, 0) => {
            let pointer = match u32::from_be_bytes(rest) {
                at @ (0 | 1) => at as u8,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return None,
            };
            (12, 0, [pointer, 0, 0, 0])
        }
        (4, 1) => (3, 2, NONE),
        _ => return None,
    })
}

/// What a router without RFC 1191 meant: the largest of its usual MTUs (§7) that is below the packet's length.
fn plateau_below(len: u16) -> u16 {
    const PLATEAUS: [u16; 11] = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
    PLATEAUS.into_iter().find(|&mtu| mtu < len).unwrap_or(68)
}

/// Makes an error about a packet that left into one to its sender, in whose family the packet was `sent`: it comes from where that was sent to. `back` is what
/// the checksum of the quoted transport header changes by; `id` is the error's identification.
///
/// # Errors
/// `Untranslatable`: the other family has no such error. `Unsupported`, `NoBuffer`: the buffer is chained, or there is no room. The packet is good
/// for nothing then.
pub fn error<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    embedded: &Embedded,
    sent: &Tuple,
    back: Delta,
    mtus: Mtus,
    id: u16,
) -> Result<(), DropReason> {
    let (l3, l4, end) = (usize::from(headers.l3), usize::from(headers.l4), headers.end());
    let is_ipv6 = headers.is_ipv6;
    let frame = packet.data_mut().get_mut(..end).ok_or(DropReason::Unsupported)?;
    let (outer, _) = Fields::read(frame, l3, is_ipv6)?;
    let (quoted, data) = Fields::read(frame, embedded.l3.into(), is_ipv6)?;
    let header: &[u8; LEN] = array(frame, l4).ok_or(DropReason::Unsupported)?;
    let quoted_len = (data - usize::from(embedded.l3)) as u16;
    let quoted_len = quoted_len.saturating_add(quoted.payload_len);
    let (kind, code, rest) = message(is_ipv6, header, quoted_len, mtus).ok_or(DropReason::Untranslatable)?;
    let end = end.min(usize::from(embedded.l3) + original_len(is_ipv6, header));
    let quoted_data = frame.get_mut(data..end).ok_or(DropReason::Untranslatable)?;
    exchange_ports(quoted_data, embedded, sent, back);
    let (to, from) = (ends(sent)?, ends(&sent.reversed())?);
    let inner = quoted.header(to, id)?;
    let (outer_len, max) = match from {
        Addresses::V4(..) => (crate::wire::ipv4::LEN, MAX_IPV4),
        Addresses::V6(..) => (crate::wire::ipv6::LEN, MIN_IPV6_MTU.into()),
    };
    let len = quoted_data.len().min(max - outer_len - LEN - inner.len());
    let message_len = LEN + inner.len() + len;
    // RFC 7915 has errors hop on as all packets do.
    let outer = Fields {
        ttl: outer.ttl.wrapping_sub(1),
        payload_len: message_len as u16,
        protocol: if is_ipv6 { Protocol::ICMPV6 } else { Protocol::ICMP },
        piece: None,
        ..outer
    };
    let mut block = ArrayVec::<u8, { 2 * MAX_HEADER + LEN }>::new();
    // The longest of both headers fits.
    let _ = block.try_extend_from_slice(&outer.header(from, id)?);
    let _ = block.try_extend_from_slice(&[kind, code, 0, 0]);
    let _ = block.try_extend_from_slice(&rest);
    let _ = block.try_extend_from_slice(&inner);
    replace(packet, l3, data, &block, !is_ipv6)?;
    packet.set_len(l3 + block.len() + len).map_err(|_| DropReason::Unsupported)?;
    seal(packet.data_mut(), l3 + outer_len, from, message_len);
    Ok(())
}

fn ends(tuple: &Tuple) -> Result<Addresses, DropReason> {
    Addresses::of(tuple.src, tuple.dst).ok_or(DropReason::Unsupported)
}

/// Bytes of the quoted packet before extensions (RFC 4884 §4): in words of 4 bytes, over IPv6 of 8. 0 says that there are none.
fn original_len(is_ipv6: bool, header: &[u8; LEN]) -> usize {
    let has_length = if is_ipv6 { matches!(header[0], 1 | 3) } else { matches!(header[0], 3 | 11 | 12) };
    let words = if is_ipv6 { header[4] } else { header[5] };
    if !has_length || words == 0 {
        return usize::MAX >> 1;
    }
    usize::from(words) * if is_ipv6 { 8 } else { 4 }
}

/// Gives the quoted transport header, as far as it is there, the ports that its sender wrote.
fn exchange_ports(quoted: &mut [u8], embedded: &Embedded, sent: &Tuple, back: Delta) {
    match embedded.protocol {
        Protocol::UDP => {
            if let Some(header) = udp::header_mut(quoted, 0) {
                return udp::rewrite(header, sent.sport, sent.dport, back);
            }
        }
        Protocol::SCTP => {
            let len = embedded.whole_len.filter(|&len| usize::from(len) >= sctp::LEN);
            if let (Some(header), Some(len)) = (sctp::header_mut(quoted, 0), len) {
                return sctp::rewrite(header, sent.sport, sent.dport, len);
            }
        }
        Protocol::TCP => {}
        // AH and ESP have none, of whoever negotiated them.
        _ => return,
    }
    if let Some(ports) = array_mut::<4>(quoted, 0) {
        ports[..2].copy_from_slice(&sent.sport.to_be_bytes());
        ports[2..].copy_from_slice(&sent.dport.to_be_bytes());
    }
    if embedded.protocol == Protocol::TCP
        && let Some(field) = array_mut::<2>(quoted, tcp::CHECKSUM)
    {
        *field = back.apply(be16(field[0], field[1])).to_be_bytes();
    }
}

/// Writes the checksum of the message at `l4`.
fn seal(frame: &mut [u8], l4: usize, ends: Addresses, len: usize) {
    let pseudo = match ends {
        Addresses::V4(..) => 0,
        Addresses::V6(src, dst) => {
            checksum::pseudo_v6(&src.octets(), &dst.octets(), Protocol::ICMPV6.0, len as u32)
        }
    };
    let Some(message) = frame.get_mut(l4..l4 + len) else { return };
    let sum = checksum::finish(checksum::add(pseudo, checksum::sum(message)));
    if let Some(field) = array_mut::<2>(message, CHECKSUM) {
        *field = sum.to_be_bytes();
    }
}
