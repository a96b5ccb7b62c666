//! The bytes of a packet as they are at a hook, for what reads them by their place: translations and hops that are yet to be written into the frame are
//! there. The checksum of the transport header is the one that the packet came with.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::view::View;
use crate::flow::Tuple;
use crate::wire::checksum;

/// Bytes from the IP header to the ports: those of IPv6 with more extension headers are seen as they came.
const HEAD: usize = 128;

pub(super) struct Seen<'v> {
    packet: &'v [u8],
    /// What stands in the place of the first bytes.
    head: ArrayVec<u8, HEAD>,
}

impl<'v> Seen<'v> {
    pub(super) fn of(view: &'v View<'_>) -> Seen<'v> {
        let packet = view.packet();
        let is_as_it_came = view.hops == 0 && Tuple::of_packet(view.frame, view.headers) == view.tuple;
        let head = if is_as_it_came { None } else { head(view, packet) };
        Seen { packet, head: head.unwrap_or_default() }
    }

    /// So many bytes from the IP header on. `None`: the packet ends before.
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = *self.packet.get(at..)?.first_chunk::<N>()?;
        for (byte, head) in bytes.iter_mut().zip(self.head.get(at..).unwrap_or_default()) {
            *byte = *head;
        }
        Some(bytes)
    }

    pub(super) fn word(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }
}

#[inline(never)]
fn head(view: &View<'_>, packet: &[u8]) -> Option<ArrayVec<u8, HEAD>> {
    let ip_len = usize::from(view.headers.l4.checked_sub(view.headers.l3.into())?);
    let ports = view.ports().filter(|_| matches!(view.protocol(), 6 | 17 | 132));
    let len = if ports.is_some() { ip_len + 4 } else { ip_len };
    let mut head = ArrayVec::new();
    head.try_extend_from_slice(packet.get(..len)?).ok()?;
    match (view.tuple.src, view.tuple.dst) {
        (IpAddr::V4(source), IpAddr::V4(destination)) if !view.headers.is_ipv6 && ip_len >= 20 => {
            head[8] = view.ttl();
            head[12..16].copy_from_slice(&source.octets());
            head[16..20].copy_from_slice(&destination.octets());
            head[10..12].fill(0);
            let sum = !checksum::sum(&head[..ip_len]);
            head[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) if view.headers.is_ipv6 && ip_len >= 40 => {
            head[7] = view.ttl();
            head[8..24].copy_from_slice(&source.octets());
            head[24..40].copy_from_slice(&destination.octets());
        }
        _ => return None,
    }
    if let Some((source, destination)) = ports {
        head[ip_len..ip_len + 2].copy_from_slice(&source.to_be_bytes());
        head[ip_len + 2..].copy_from_slice(&destination.to_be_bytes());
    }
    Some(head)
}
