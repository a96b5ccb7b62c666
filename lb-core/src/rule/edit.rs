//! Changes of a packet that rules ask for, checksums kept right.

use super::view::View;
use crate::wire::checksum::Delta;
use crate::wire::{array_mut, be16, ipv4};

/// Writes the bits of `mask` of the TOS or traffic class.
pub(crate) fn set_tos(view: &mut View<'_>, value: u8, mask: u8) {
    let tos = view.tos() & !mask ^ value;
    let l3 = usize::from(view.headers.l3);
    if view.headers.is_ipv6 {
        if let Some(first) = array_mut::<2>(view.frame, l3) {
            first[0] = first[0] & 0xf0 | tos >> 4;
            first[1] = first[1] & 0x0f | tos << 4;
        }
    } else if let Some(header) = array_mut::<20>(view.frame, l3) {
        let delta = Delta::word(be16(header[0], header[1]), be16(header[0], tos));
        header[1] = tos;
        ipv4::update_checksum(header, delta);
    }
}

/// Writes the TTL or hop limit: so that it is this once the hops are taken off that are yet to be.
pub(crate) fn set_ttl(view: &mut View<'_>, ttl: u8) {
    let ttl = ttl.saturating_add(view.hops);
    let l3 = usize::from(view.headers.l3);
    if view.headers.is_ipv6 {
        if let Some(field) = view.frame.get_mut(l3 + 7) {
            *field = ttl;
        }
    } else if let Some(header) = array_mut::<20>(view.frame, l3) {
        let delta = Delta::word(be16(header[8], header[9]), be16(ttl, header[9]));
        header[8] = ttl;
        ipv4::update_checksum(header, delta);
    }
    view.headers.ttl = ttl;
}
