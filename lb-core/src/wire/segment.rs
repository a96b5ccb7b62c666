//! A TCP segment, changed: its numbers, its options, its data. Checksums are brought up to date by the difference, so that a
//! wrong one stays wrong.
//!
//! What grows or shrinks returns the headers as they are then.

use super::checksum::{self, Delta};
use super::parse::{self, Fragment, Headers};
use super::{array_mut, be16, ipv4, ipv6, tcp};
use crate::flow::edit::Shift;
use crate::packet::{NoRoom, Packet};
use crate::tables::Protocol;

/// Most bytes of a TCP header.
const MAX_HEADER: usize = 60;
const NOP: u8 = 1;
const END_OF_OPTIONS: u8 = 0;
/// RFC 2018 §3.
const SACK: u8 = 5;

/// Where the parts of a TCP segment, or of its first fragment, are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub seq: u32,
    /// Means nothing without the flag.
    pub ack: u32,
    /// Offset of the data in the frame, and its length.
    pub data: usize,
    pub data_len: usize,
}

impl Segment {
    /// `None`: it is no TCP, or a later fragment.
    pub fn of(frame: &[u8], headers: &Headers) -> Option<Segment> {
        if headers.protocol != Protocol::TCP || headers.fragment == Fragment::Later {
            return None;
        }
        let at = usize::from(headers.l4);
        let header = tcp::header(frame, at)?;
        let data = at + tcp::header_len(header);
        let data_len = headers.end().checked_sub(data)?;
        Some(Segment { seq: tcp::sequence(header), ack: tcp::acknowledgement(header), data, data_len })
    }

    /// The data of a whole segment that is in one piece.
    pub fn data_of<'a>(&self, frame: &'a [u8], headers: &Headers) -> Option<&'a [u8]> {
        if headers.fragment != Fragment::None {
            return None;
        }
        frame.get(self.data..headers.end())
    }
}

/// Gives a segment other numbers: its sequence number, and what it acknowledges and holds (SACK blocks) by what the other
/// direction's stream is moved by.
pub fn renumber(frame: &mut [u8], headers: &Headers, seq: u32, other: &Shift) {
    let at = usize::from(headers.l4);
    let mut delta = Delta::default();
    let Some(header) = tcp::header_mut(frame, at) else { return };
    delta = delta.and(Delta::double_word(tcp::sequence(header), seq));
    header[4..8].copy_from_slice(&seq.to_be_bytes());
    let is_ack = headers.tcp_flags & tcp::ACK != 0;
    if is_ack {
        let old = tcp::acknowledgement(header);
        let new = other.back(old);
        delta = delta.and(Delta::double_word(old, new));
        header[8..12].copy_from_slice(&new.to_be_bytes());
    }
    let len = tcp::header_len(header);
    if is_ack && len > tcp::LEN {
        delta = delta.and(renumber_sacks(frame, at + tcp::LEN, at + len, other));
    }
    apply(frame, at, delta);
}

/// The edges of SACK blocks are numbers of the other direction's stream.
fn renumber_sacks(frame: &mut [u8], mut at: usize, end: usize, other: &Shift) -> Delta {
    let mut delta = Delta::default();
    while at < end {
        let kind = frame.get(at).copied().unwrap_or(END_OF_OPTIONS);
        if kind == NOP {
            at += 1;
            continue;
        }
        let len = frame.get(at + 1).map_or(0, |&len| usize::from(len));
        if kind == END_OF_OPTIONS || len < 2 || at + len > end {
            break;
        }
        if kind == SACK {
            let mut edge = at + 2;
            while edge + 4 <= at + len {
                let Some(field) = array_mut::<4>(frame, edge) else { break };
                let (old, new) = (u32::from_be_bytes(*field), other.back(u32::from_be_bytes(*field)));
                *field = new.to_be_bytes();
                let changed = Delta::double_word(old, new);
                // An option may begin at an odd byte, where a word's halves are exchanged (RFC 1071 §2 (B)).
                delta =
                    delta.and(if edge.is_multiple_of(2) { changed } else { Delta(changed.0.swap_bytes()) });
                edge += 4;
            }
        }
        at += len;
    }
    delta
}

/// Puts data into a segment that has none.
///
/// # Errors
/// `NoRoom`: the segment is as it was.
pub fn put_data<P: Packet>(packet: &mut P, headers: &Headers, data: &[u8]) -> Result<Headers, NoRoom> {
    let end = headers.end();
    packet.set_len(end + data.len())?;
    let Some(room) = packet.data_mut().get_mut(end..end + data.len()) else { return Err(NoRoom) };
    room.copy_from_slice(data);
    let sum = if (end - usize::from(headers.l4)).is_multiple_of(2) {
        checksum::sum(data)
    } else {
        checksum::sum(data).swap_bytes()
    };
    Ok(resize(packet.data_mut(), headers, data.len() as isize, Delta(sum)))
}

/// Takes all data out of a segment.
///
/// # Errors
/// `NoRoom`: the segment is as it was.
pub fn cut_data<P: Packet>(packet: &mut P, headers: &Headers, segment: &Segment) -> Result<Headers, NoRoom> {
    let data = packet.data().get(segment.data..headers.end()).ok_or(NoRoom)?;
    let gone = Delta(checksum::sum(data)).reversed();
    packet.set_len(segment.data)?;
    Ok(resize(packet.data_mut(), headers, -(segment.data_len as isize), gone))
}

/// Takes all data out of a segment but its first `keep` bytes; and its FIN, which was behind them.
///
/// # Errors
/// `NoRoom`: the segment is as it was.
pub fn cut_behind<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    segment: &Segment,
    keep: usize,
) -> Result<Headers, NoRoom> {
    let len = headers.end().checked_sub(segment.data + keep).ok_or(NoRoom)?;
    let cut = exchange(packet, headers, segment, keep, len, &[])?;
    let (frame, at) = (packet.data_mut(), usize::from(headers.l4));
    if let Some(header) = tcp::header_mut(frame, at).filter(|header| header[13] & tcp::FIN != 0) {
        let old = be16(header[12], header[13]);
        header[13] &= !tcp::FIN;
        let new = be16(header[12], header[13]);
        apply(frame, at, Delta::word(old, new));
    }
    Ok(Headers { tcp_flags: headers.tcp_flags & !tcp::FIN, ..cut })
}

/// Exchanges `len` bytes of a segment's data from `at` on for others.
///
/// # Errors
/// `NoRoom`: the segment is as it was.
pub fn exchange<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    segment: &Segment,
    at: usize,
    len: usize,
    with: &[u8],
) -> Result<Headers, NoRoom> {
    let (from, end) = (segment.data + at, headers.end());
    let before = checksum::sum(packet.data().get(segment.data..end).ok_or(NoRoom)?);
    let new_end = (end + with.len()).checked_sub(len).ok_or(NoRoom)?;
    if packet.frame_len() != packet.data().len() || from + len > end {
        return Err(NoRoom);
    }
    packet.set_len(end.max(new_end))?;
    let frame = packet.data_mut();
    frame.copy_within(from + len..end, from + with.len());
    frame[from..from + with.len()].copy_from_slice(with);
    let after = checksum::sum(&frame[segment.data..new_end]);
    packet.set_len(new_end)?;
    let changed = Delta::word(before, after);
    Ok(resize(packet.data_mut(), headers, with.len() as isize - len as isize, changed))
}

/// Puts an option before all others. Its length is a multiple of 4.
///
/// # Errors
/// `NoRoom`, in the header, for such an IP packet, or in the buffer: the segment is as it was.
pub fn add_option<P: Packet>(packet: &mut P, headers: &Headers, option: &[u8]) -> Result<Headers, NoRoom> {
    debug_assert!(option.len().is_multiple_of(4));
    let at = usize::from(headers.l4);
    let header = tcp::header(packet.data(), at).ok_or(NoRoom)?;
    if tcp::header_len(header) + option.len() > MAX_HEADER || headers.ip_len as usize + option.len() > 65_535
    {
        return Err(NoRoom);
    }
    let by = option.len();
    packet.move_start(-(by as isize))?;
    let frame = packet.data_mut();
    let place = at + tcp::LEN;
    if frame.len() < place + by {
        return Err(NoRoom);
    }
    frame.copy_within(by..by + place, 0);
    frame[place..place + by].copy_from_slice(option);
    let old = be16(frame[at + 12], frame[at + 13]);
    let new = old + ((by as u16 / 4) << 12);
    frame[at + 12..at + 14].copy_from_slice(&new.to_be_bytes());
    let changed = Delta(checksum::sum(option)).and(Delta::word(old, new));
    Ok(resize(frame, headers, by as isize, changed))
}

/// Puts NOPs in the place of a header's options of this kind.
pub fn blank_options(frame: &mut [u8], headers: &Headers, kind: u8) {
    let l4 = usize::from(headers.l4);
    let Some(len) = tcp::header(frame, l4).map(tcp::header_len) else { return };
    let Some(options) = frame.get_mut(l4 + tcp::LEN..l4 + len) else { return };
    let before = checksum::sum(options);
    let (mut at, mut has_any) = (0, false);
    while let Some(&found) = options.get(at) {
        if found == NOP {
            at += 1;
            continue;
        }
        let len = options.get(at + 1).map_or(0, |&len| usize::from(len));
        if found == END_OF_OPTIONS || len < 2 || at + len > options.len() {
            break;
        }
        if found == kind {
            options[at..at + len].fill(NOP);
            has_any = true;
        }
        at += len;
    }
    if has_any {
        let changed = Delta::word(before, checksum::sum(options));
        apply(frame, l4, changed);
    }
}

/// Makes an empty buffer a segment of its own, with the headers of `like` but for what says that something ends there or is a fragment, and
/// with this data from the same sequence number on.
///
/// # Errors
/// `NoRoom`.
pub fn make_like<P: Packet>(
    buffer: &mut P,
    like: &P,
    headers: &Headers,
    segment: &Segment,
    data: &[u8],
) -> Result<Headers, NoRoom> {
    let (l3, at) = (usize::from(headers.l3), usize::from(headers.l4));
    buffer.set_len(segment.data + data.len())?;
    let head = like.data().get(..segment.data).ok_or(NoRoom)?;
    let piece = parse::piece(head, headers);
    let frame = buffer.data_mut();
    frame.get_mut(..segment.data).ok_or(NoRoom)?.copy_from_slice(head);
    frame.get_mut(segment.data..).ok_or(NoRoom)?.copy_from_slice(data);
    let flags = headers.tcp_flags & tcp::ACK | tcp::PSH;
    let ip_len = (segment.data + data.len()).checked_sub(l3).ok_or(NoRoom)?;
    let now = Headers { ip_len: ip_len as u32, tcp_flags: flags, fragment: Fragment::None, ..*headers };
    if headers.is_ipv6 {
        let ip = ipv6::header_mut(frame, l3).ok_or(NoRoom)?;
        ip[4..6].copy_from_slice(&((ip_len - ipv6::LEN) as u16).to_be_bytes());
        if let Some(piece) = piece {
            // All of its datagram is no fragment (RFC 6946).
            *frame.get_mut(piece.at - 5).ok_or(NoRoom)? &= !1;
        }
    } else {
        let ip = ipv4::header_mut(frame, l3).ok_or(NoRoom)?;
        let words =
            |ip: &ipv4::Header| u32::from(be16(ip[2], ip[3])) << 16 | u32::from(ipv4::fragmentation(ip));
        let before = words(ip);
        ip[2..4].copy_from_slice(&(ip_len as u16).to_be_bytes());
        ip[6] &= !((ipv4::MF >> 8) as u8);
        // Not anew: a hop may be yet to be taken off of more than the TTL can say.
        ipv4::update_checksum(ip, Delta::double_word(before, words(ip)));
    }
    let header = tcp::header_mut(frame, at).ok_or(NoRoom)?;
    header[13] = flags;
    // Urgent data is not here.
    header[18..20].fill(0);
    tcp::set_checksum(header, 0);
    let sum = checksum::of_transport(buffer.data(), &now).ok_or(NoRoom)?;
    let header = tcp::header_mut(buffer.data_mut(), at).ok_or(NoRoom)?;
    tcp::set_checksum(header, checksum::finish(sum));
    Ok(now)
}

/// Brings lengths and checksums up to date with a packet that is `by` bytes longer now.
fn resize(frame: &mut [u8], headers: &Headers, by: isize, changed: Delta) -> Headers {
    let now = resize_ip(frame, headers, by);
    let lengths = Delta::word(headers.l4_len() as u16, now.l4_len() as u16);
    apply(frame, headers.l4.into(), changed.and(lengths));
    now
}

/// The same of the IP header alone.
pub(super) fn resize_ip(frame: &mut [u8], headers: &Headers, by: isize) -> Headers {
    let l3 = usize::from(headers.l3);
    let ip_len = (headers.ip_len as usize).saturating_add_signed(by);
    let now = Headers { ip_len: ip_len as u32, ..*headers };
    if headers.is_ipv6 {
        if let Some(ip) = ipv6::header_mut(frame, l3) {
            ip[4..6].copy_from_slice(&((ip_len - ipv6::LEN) as u16).to_be_bytes());
        }
    } else if let Some(ip) = ipv4::header_mut(frame, l3) {
        let old = be16(ip[2], ip[3]);
        ip[2..4].copy_from_slice(&(ip_len as u16).to_be_bytes());
        ipv4::update_checksum(ip, Delta::word(old, ip_len as u16));
    }
    now
}

fn apply(frame: &mut [u8], l4: usize, delta: Delta) {
    if let Some(header) = tcp::header_mut(frame, l4) {
        let checksum = delta.apply(tcp::checksum(header));
        tcp::set_checksum(header, checksum);
    }
}
