//! The extension headers of an IPv6 packet (RFC 8200 §4), one after the other.

use super::view::View;
use crate::wire::ipv6;

pub(super) const HOP_BY_HOP: u8 = 0;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const ESP: u8 = 50;
pub(super) const AUTHENTICATION: u8 = 51;
pub(super) const NOTHING: u8 = 59;
pub(super) const DESTINATION: u8 = 60;

/// Goes from header to header, each with its kind, up to the transport header or to a later fragment's data.
pub(super) struct Chain6<'p> {
    rest: &'p [u8],
    /// Of what comes next.
    pub(super) kind: u8,
    is_at_end: bool,
}

impl<'p> Chain6<'p> {
    /// `None` for IPv4.
    pub(super) fn of(view: &'p View<'_>) -> Option<Chain6<'p>> {
        if view.headers.is_ipv6 { Chain6::of_packet(view.packet()) } else { None }
    }

    /// The same of the bytes of one.
    pub(super) fn of_packet(packet: &'p [u8]) -> Option<Chain6<'p>> {
        let kind = *packet.get(6)?;
        Some(Chain6 { rest: packet.get(ipv6::LEN..)?, kind, is_at_end: false })
    }

    /// The first header of a kind.
    pub(super) fn find(view: &'p View<'_>, kind: u8) -> Option<&'p [u8]> {
        Chain6::of(view)?.find(|(found, _)| *found == kind).map(|(_, header)| header)
    }
}

impl<'p> Iterator for Chain6<'p> {
    type Item = (u8, &'p [u8]);

    fn next(&mut self) -> Option<(u8, &'p [u8])> {
        let &[next, len, high, low, ..] = self.rest.first_chunk::<8>().filter(|_| !self.is_at_end)?;
        let len = match self.kind {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(len) + 1) * 8,
            FRAGMENT => 8,
            // RFC 4302 §2.2: in units of 4 bytes, minus 2.
            AUTHENTICATION => (usize::from(len) + 2) * 4,
            _ => return None,
        };
        let (header, rest) = self.rest.split_at_checked(len)?;
        let kind = std::mem::replace(&mut self.kind, next);
        self.rest = rest;
        self.is_at_end = kind == FRAGMENT && u16::from_be_bytes([high, low]) >= 8;
        Some((kind, header))
    }
}
