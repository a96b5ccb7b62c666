//! QUIC-LB: which real server the connection ID of a connection's first datagram names (draft-ietf-quic-load-balancers-21 §3, §4.2).

pub(super) mod cipher;

use lb_core::ids::ServerId;
use lb_core::ipvs::quic_lb::{Fallback, QuicLb};
use lb_core::tables::Service;

use super::parse::{Read, UDP};
use super::{Packet, Reference};

const VERSION_1: [u8; 4] = [0, 0, 0, 1];
/// RFC 9369 §3.1.
const VERSION_2: [u8; 4] = [0x6b, 0x33, 0x43, 0xcf];

impl Reference {
    /// Counted as what it is.
    pub(super) fn named_server(
        &mut self,
        packet: &Packet,
        read: &Read,
        service: &Service,
    ) -> Option<ServerId> {
        let quic = service.quic_lb.as_ref().filter(|quic| !quic.configs().is_empty())?;
        if read.protocol != UDP {
            return None;
        }
        let datagram = packet.bytes.get(read.l4 + 8..read.end).unwrap_or_default();
        let named = named(datagram, quic, service);
        match named {
            Ok(_) => &self.counters.quic.routed,
            Err(why) => &self.counters.quic.scheduled[why as usize],
        }
        .add(1);
        named.ok().filter(|server| server.index() < self.counters.server_capacity())
    }
}

fn named(datagram: &[u8], quic: &QuicLb, service: &Service) -> Result<ServerId, Fallback> {
    let first = *datagram.first().ok_or(Fallback::NotQuic)?;
    let connection_id = if first & 0x80 == 0 {
        &datagram[1..]
    } else {
        let [_, a, b, c, d, len, rest @ ..] = datagram else { return Err(Fallback::NotQuic) };
        let id = rest.get(..usize::from(*len)).ok_or(Fallback::NotQuic)?;
        // Initial and 0-RTT, whose numbers version 2 has changed.
        let kinds = match [*a, *b, *c, *d] {
            VERSION_1 => [0, 1],
            VERSION_2 => [1, 2],
            _ => [u8::MAX; 2],
        };
        // Where each datagram is scheduled for itself there is nothing else to go by.
        if kinds.contains(&(first >> 4 & 3)) && !service.options.one_packet {
            return Err(Fallback::MadeUp);
        }
        id
    };
    let (first, rest) = connection_id.split_first().ok_or(Fallback::TooShort)?;
    let config = quic.configs().iter().find(|config| config.id() == first >> 5).ok_or(Fallback::NoConfig)?;
    let (id_len, nonce_len) = (usize::from(config.id_len()), usize::from(config.nonce_len()));
    let written = rest.get(..id_len + nonce_len).ok_or(Fallback::TooShort)?;
    let plain = match config.key() {
        Some(key) => cipher::decipher(&key.reveal(), written),
        None => written.to_vec(),
    };
    let id: String = plain[..id_len].iter().map(|byte| format!("{byte:02x}")).collect();
    let has_it = |server: &ServerId| quic.ids(*server).iter().any(|its| its.to_string() == id);
    let servers = service.servers.iter().map(|server| server.id);
    servers.into_iter().find(has_it).ok_or(Fallback::NoServer)
}
