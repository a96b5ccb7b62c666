//! Splitting an IPv4 packet that is longer than the next hop's MTU (RFC 791 §3.2).
//!
//! The last thing that happens to a packet before it is sent, and only when its sender allowed it (DF clear). Everything that
//! covers the whole packet must be in it by then: no port can compute a transport checksum over pieces.

use arrayvec::ArrayVec;

use super::ipv4;
use super::parse::Headers;
use crate::drop::DropReason;
use crate::packet::Packet;

/// Most pieces behind the first.
pub const MAX_LATER: usize = 31;

/// Splits `packet` into itself, cut to its first piece, and `later` ones in their order, each of at most `mtu` bytes of IP.
///
/// `allocate` gives packets of any content, on any port. A piece has the frame's Ethernet header and tags. Options go into the later
/// pieces when their copied bit says so. A packet that is a fragment already becomes smaller ones of the same datagram.
///
/// # Errors
/// `TooBig` with DF, or when it would take more than [`MAX_LATER`] + 1 pieces; `Unsupported` when it is chained;
/// `NoBuffer` when `allocate` gives none or one without room. `packet` is then as it was, and `later` is empty.
pub fn split<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    mtu: u16,
    mut allocate: impl FnMut() -> Option<P>,
    later: &mut ArrayVec<P, MAX_LATER>,
) -> Result<(), DropReason> {
    later.clear();
    let (l3, l4, end) = (usize::from(headers.l3), usize::from(headers.l4), headers.end());
    if headers.is_ipv6 || headers.dont_fragment {
        return Err(DropReason::TooBig);
    }
    let frame = packet.data();
    let (Some(link), Some(header), Some(data)) = (frame.get(..l3), frame.get(l3..l4), frame.get(l4..end))
    else {
        return Err(DropReason::Unsupported);
    };
    let Some(fixed) = header.first_chunk::<{ ipv4::LEN }>() else { return Err(DropReason::Unsupported) };
    let (short, short_len) = copied_header(header);
    let short = short.get(..short_len).unwrap_or(header);
    let room = |header: &[u8]| (usize::from(mtu).saturating_sub(header.len())) & !7;
    let first_len = room(header).min(data.len());
    let later_len = room(short);
    if first_len == 0 || later_len == 0 {
        return Err(DropReason::TooBig);
    }
    let (first, rest) = data.split_at(first_len);
    if rest.is_empty() {
        return Ok(());
    }
    if rest.len().div_ceil(later_len) > MAX_LATER {
        return Err(DropReason::TooBig);
    }
    let flags = ipv4::fragmentation(fixed);
    // Only the last piece of the whole datagram has no others behind it.
    let last_has_more = flags & ipv4::MF;
    let mut offset = (flags & ipv4::OFFSET) + (first.len() / 8) as u16;
    let mut chunks = rest.chunks(later_len).peekable();
    while let Some(chunk) = chunks.next() {
        let more = if chunks.peek().is_some() { ipv4::MF } else { last_has_more };
        let piece = allocate().and_then(|piece| filled(piece, link, short, chunk, offset | more));
        let Some(piece) = piece else {
            later.clear();
            return Err(DropReason::NoBuffer);
        };
        later.push(piece);
        offset += (chunk.len() / 8) as u16;
    }
    let first_end = l4 + first_len;
    if packet.set_len(first_end).is_err() {
        later.clear();
        return Err(DropReason::Unsupported);
    }
    if let Some(header) = packet.data_mut().get_mut(l3..l4) {
        describe(header, first_len, (flags & ipv4::OFFSET) | ipv4::MF);
    }
    Ok(())
}

/// A header with those options alone that every fragment has, and its length.
fn copied_header(header: &[u8]) -> ([u8; ipv4::MAX_LEN], usize) {
    const COPIED: u8 = 0x80;
    let mut out = [0; ipv4::MAX_LEN];
    let mut len = ipv4::LEN.min(header.len());
    out[..len].copy_from_slice(&header[..len]);
    let mut options = header.get(ipv4::LEN..).unwrap_or_default();
    loop {
        options = match *options {
            [] | [0, ..] => break,
            [1, ref rest @ ..] => rest,
            [kind, option_len, ..] if option_len >= 2 => {
                let Some((option, rest)) = options.split_at_checked(usize::from(option_len)) else { break };
                if kind & COPIED != 0
                    && let Some(to) = out.get_mut(len..len + option.len())
                {
                    to.copy_from_slice(option);
                    len += option.len();
                }
                rest
            }
            _ => break,
        };
    }
    // Zeros end the list of options and fill the last word.
    let len = len.next_multiple_of(4);
    out[0] = 0x40 | (len / 4) as u8;
    (out, len)
}

/// Writes one later piece.
fn filled<P: Packet>(mut piece: P, link: &[u8], header: &[u8], data: &[u8], fragmentation: u16) -> Option<P> {
    let header_end = link.len() + header.len();
    piece.set_len(header_end + data.len()).ok()?;
    let frame = piece.data_mut();
    frame.get_mut(..link.len())?.copy_from_slice(link);
    frame.get_mut(link.len()..header_end)?.copy_from_slice(header);
    frame.get_mut(header_end..header_end + data.len())?.copy_from_slice(data);
    describe(frame.get_mut(link.len()..header_end)?, data.len(), fragmentation);
    Some(piece)
}

/// Writes what differs from piece to piece: total length, fragmentation, checksum.
fn describe(header: &mut [u8], data_len: usize, fragmentation: u16) {
    let total = (header.len() + data_len) as u16;
    if let Some(fixed) = header.first_chunk_mut::<{ ipv4::LEN }>() {
        fixed[2..4].copy_from_slice(&total.to_be_bytes());
        fixed[6..8].copy_from_slice(&fragmentation.to_be_bytes());
    }
    ipv4::fill_checksum(header);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::PortId;
    use crate::packet::Frame;
    use crate::wire::checksum::Delta;
    use crate::wire::tcp;
    use crate::wire::testing::{CLIENT, Ip, L4, Recipe, VIP, headers, recipe, recorded, udp};

    fn v4(options: &[u8], offset: u16, more: bool, dont_fragment: bool) -> Ip {
        Ip::V4 { src: CLIENT, dst: VIP, options: options.to_vec(), dont_fragment, more, offset }
    }

    /// All pieces, in their order.
    fn split_all(frame: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, DropReason> {
        let mut packet = Frame::new(PortId(0), frame);
        let mut later = ArrayVec::new();
        let outcome =
            split(&mut packet, &headers(frame), mtu, || Some(Frame::new(PortId(0), &[7; 3])), &mut later);
        if outcome.is_err() {
            assert_eq!((packet.data(), later.len()), (frame, 0), "a refusal changes nothing");
        }
        outcome?;
        Ok(std::iter::once(packet).chain(later).map(|piece| piece.data().to_vec()).collect())
    }

    /// What a receiver puts together: every byte of data by its place, and the place of the end if it is known.
    fn reassemble(pieces: &[Vec<u8>]) -> (BTreeMap<usize, u8>, Option<usize>) {
        let mut bytes = BTreeMap::new();
        let mut end = None;
        for piece in pieces {
            let found = headers(piece);
            let at = usize::from(found.fragment_offset);
            let data = &piece[usize::from(found.l4)..found.end()];
            for (n, byte) in data.iter().enumerate() {
                assert_eq!(bytes.insert(at + n, *byte), None, "pieces overlap");
            }
            if ipv4::fragmentation(ipv4::header(piece, 14).unwrap()) & ipv4::MF == 0 {
                end = Some(at + data.len());
            }
        }
        (bytes, end)
    }

    #[test]
    fn packet_that_fits_stays_in_one_piece() {
        let frame = recipe(v4(&[], 0, false, false), udp(), 1472).build();
        assert_eq!(split_all(&frame, 1500), Ok(vec![frame]));
    }

    #[test]
    fn packet_is_split_as_recorded() {
        let step = recorded("nat-mtu", "1400-byte packet without DF");
        let expected = step.frames("r0", "in");
        // What the kernel split: the packet that came, with the real server's address and port in it. Only its first 160 bytes
        // were recorded: the rest is more of the same.
        let mut frame = step.frame("c0", "out");
        let fill = frame[159];
        frame.resize(1414, fill);
        let ip = ipv4::header_mut(&mut frame, 14).unwrap();
        ipv4::decrement_ttl(ip);
        let delta = ipv4::set_destination(ip, u32::from_be_bytes([10, 2, 0, 11]));
        let ports = delta.and(Delta::word(2022, 8080));
        tcp::rewrite(tcp::header_mut(&mut frame, 34).unwrap(), 5100, 8080, ports);
        let pieces = split_all(&frame, 1300).unwrap();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1314, 134]);
        assert_eq!(pieces[0][14..160], expected[0][14..]);
        assert_eq!(pieces[1][14..], expected[1][14..]);
    }

    #[test]
    fn options_are_copied_by_their_bit() {
        // Record route (7) is not copied, router alert (148) is.
        let options = [7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 1];
        let pieces = split_all(&recipe(v4(&options, 0, false, false), udp(), 1400).build(), 576).unwrap();
        assert_eq!(pieces[0][34..46], options);
        for later in &pieces[1..] {
            assert_eq!(later[14], 0x46);
            assert_eq!(later[34..38], [148, 4, 0, 0]);
        }
    }

    #[test]
    fn padding_is_not_data() {
        let frame = Recipe { padding: 30, ..recipe(v4(&[], 0, false, false), udp(), 992) }.build();
        let pieces = split_all(&frame, 576).unwrap();
        assert_eq!(pieces.iter().map(|p| headers(p).l4_len()).sum::<usize>(), 1000);
        assert!(pieces.iter().all(|p| p.len() == headers(p).end()));
    }

    #[test]
    fn refusals_change_nothing() {
        let whole = |dont_fragment| recipe(v4(&[], 0, false, dont_fragment), udp(), 1400).build();
        assert_eq!(split_all(&whole(true), 576), Err(DropReason::TooBig));
        assert_eq!(split_all(&whole(false), 27), Err(DropReason::TooBig), "no room for 8 bytes");
        assert_eq!(split_all(&whole(false), 60), Err(DropReason::TooBig), "too many pieces");
        let frame = whole(false);
        let mut packet = Frame::new(PortId(0), &frame);
        let (mut left, mut later) = (2, ArrayVec::new());
        let allocate = || {
            left -= 1;
            (left >= 0).then(|| Frame::new(PortId(0), &[]))
        };
        assert_eq!(
            split(&mut packet, &headers(&frame), 400, allocate, &mut later),
            Err(DropReason::NoBuffer)
        );
        assert_eq!((packet.data(), later.len()), (&frame[..], 0));
    }

    proptest! {
        #[test]
        fn pieces_make_up_the_packet(
            len in 1usize..3000,
            mtu in 200u16..1600,
            at in 0u16..100,
            more: bool,
            vlans in proptest::collection::vec(1u16..4095, 0..3),
            options in prop_oneof![Just(vec![]), Just(vec![1, 148, 4, 0, 0, 7, 3, 4])],
        ) {
            let ip = v4(&options, at * 8, more, false);
            let len = if more { len.next_multiple_of(8) } else { len };
            let frame = Recipe {
                vlans,
                payload: (0..len).map(|n| n as u8).collect(),
                ..recipe(ip, L4::Other(47), 0)
            }
            .build();
            let whole = headers(&frame);
            let pieces = split_all(&frame, mtu).unwrap();
            for piece in &pieces {
                let found = headers(piece);
                prop_assert!(found.ip_len <= u32::from(mtu));
                prop_assert_eq!(&piece[..usize::from(found.l3)], &frame[..usize::from(whole.l3)]);
                prop_assert_eq!((found.src, found.dst, found.fragment_id), (whole.src, whole.dst, whole.fragment_id));
                prop_assert_eq!((found.ttl, found.protocol), (whole.ttl, whole.protocol));
            }
            // `reassemble` reads untagged frames.
            let bare = |frame: &[u8]| [&frame[..12], &frame[usize::from(whole.l3) - 2..]].concat();
            let bares: Vec<_> = pieces.iter().map(|piece| bare(piece)).collect();
            prop_assert_eq!(reassemble(&bares), reassemble(&[bare(&frame)]));
        }
    }
}
