//! Changes of a packet that rules ask for, checksums kept right.

use super::view::View;
use crate::wire::checksum::Delta;
use crate::wire::parse::Headers;
use crate::wire::{array_mut, be16, ipv4, tcp};

/// Writes the bits of `mask` of the TOS or traffic class.
pub(crate) fn set_tos(view: &mut View<'_>, value: u8, mask: u8) {
    let tos = view.tos() & !mask ^ value;
    write_tos(view.frame, view.headers, tos);
}

/// Writes the TOS or traffic class.
pub(crate) fn write_tos(frame: &mut [u8], headers: &Headers, tos: u8) {
    let l3 = usize::from(headers.l3);
    if headers.is_ipv6 {
        if let Some(first) = array_mut::<2>(frame, l3) {
            first[0] = first[0] & 0xf0 | tos >> 4;
            first[1] = first[1] & 0x0f | tos << 4;
        }
    } else if let Some(header) = array_mut::<20>(frame, l3) {
        let delta = Delta::word(be16(header[0], header[1]), be16(header[0], tos));
        header[1] = tos;
        ipv4::update_checksum(header, delta);
    }
}

/// Writes the bits of `mask` of TCP's flags.
pub(crate) fn set_tcp_flags(view: &mut View<'_>, value: u8, mask: u8) {
    if view.protocol() != 6 || view.is_later_fragment() {
        return;
    }
    if let Some(header) = tcp::header_mut(view.frame, view.headers.l4.into()) {
        let flags = header[13] & !mask | value & mask;
        let delta = Delta::word(be16(header[12], header[13]), be16(header[12], flags));
        header[13] = flags;
        tcp::update_checksum(header, delta);
        view.headers.tcp_flags = flags;
    }
}

/// Has TCP options say nothing: those of the kinds that `is_one` says become as many that do nothing.
pub(crate) fn strip_tcp_options(view: &mut View<'_>, is_one: impl Fn(u8) -> bool) {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    if view.protocol() != 6 || view.is_later_fragment() {
        return;
    }
    let Some(len) = view.tcp().map(<[u8]>::len) else { return };
    let l4 = usize::from(view.headers.l4);
    let Some(header) = view.frame.get_mut(l4..l4 + len) else { return };
    let mut delta = Delta::default();
    let mut at = tcp::LEN;
    while at < len {
        let (kind, option_len) = match header[at..] {
            [END, ..] => break,
            [NOTHING, ..] => (NOTHING, 1),
            [kind, option_len, ..] if option_len >= 2 && at + usize::from(option_len) <= len => {
                (kind, usize::from(option_len))
            }
            _ => break,
        };
        for at in (at..at + option_len).filter(|_| kind != NOTHING && is_one(kind)) {
            // The byte's place in its word of the header, which begins at an even one.
            let word = |byte: u8| if at % 2 == 0 { be16(byte, 0) } else { be16(0, byte) };
            delta = delta.and(Delta::word(word(header[at]), word(NOTHING)));
            header[at] = NOTHING;
        }
        at += option_len;
    }
    if let Some(header) = header.first_chunk_mut() {
        tcp::update_checksum(header, delta);
    }
}

/// Writes the TTL or hop limit: so that it is this once the hops are taken off that are yet to be.
pub(crate) fn set_ttl(view: &mut View<'_>, ttl: u8) {
    // What leaves by no interface of ours Linux routes, which takes the hop off itself.
    let most = if view.output.is_some() { u8::MAX } else { u8::MAX - view.hops };
    let ttl = ttl.min(most);
    write_ttl(view.frame, view.headers, ttl, view.hops);
    view.headers.ttl = ttl.wrapping_add(view.hops);
}

/// Writes the TTL or hop limit that is left once `hops` (0 or 1) are taken off. 255 and a hop stand in the packet as 0, of which
/// [`decrement_ttl`](ipv4::decrement_ttl) and its like make 255 again; the checksum is right then.
pub(crate) fn write_ttl(frame: &mut [u8], headers: &Headers, ttl: u8, hops: u8) {
    let l3 = usize::from(headers.l3);
    let raised = ttl.wrapping_add(hops);
    if headers.is_ipv6 {
        if let Some(field) = frame.get_mut(l3 + 7) {
            *field = raised;
        }
    } else if let Some(header) = array_mut::<20>(frame, l3) {
        let before = header[8].wrapping_sub(hops);
        let delta = Delta::word(be16(before, header[9]), be16(ttl, header[9]));
        header[8] = raised;
        ipv4::update_checksum(header, delta);
    }
}

/// Makes a packet that is routed one that can be parsed again: with 254 hops left where [`set_ttl`] has written 255.
#[cold]
pub(crate) fn lower_raised_ttl(frame: &mut [u8], headers: &Headers) {
    let at = usize::from(headers.l3) + if headers.is_ipv6 { 7 } else { 8 };
    if headers.ttl > 1 && frame.get(at) == Some(&0) {
        write_ttl(frame, headers, u8::MAX - 1, 1);
    }
}
