//! A new connection of a service with QUIC-LB: the real server that its connection ID names has it already, under another address of
//! its client ([`quic_lb`](crate::ipvs::quic_lb), docs/decisions/0033).
//!
//! It goes there whatever the scheduler, the weights, the thresholds and the client's persistence template say. What names no real
//! server is scheduled as always. Later packets of the connection come the straight line of any connection.

use crate::counters::WorkerCounters;
use crate::ids::ServerId;
use crate::ipvs::quic_lb::QuicLb;
use crate::tables::{Protocol, Service};
use crate::trail::{Step, Watch};
use crate::wire::parse::Headers;
use crate::wire::udp;

/// The real server that the first packet of a connection, or a datagram that is scheduled for itself alone, names.
#[cold]
pub(super) fn named(
    quic: &QuicLb,
    service: &Service,
    frame: &[u8],
    headers: &Headers,
    mine: &WorkerCounters,
    watch: &mut Watch,
) -> Option<ServerId> {
    if headers.protocol != Protocol::UDP || quic.configs().is_empty() {
        return None;
    }
    let datagram = frame.get(usize::from(headers.l4) + udp::LEN..headers.end()).unwrap_or_default();
    let found = quic.route(datagram, service.options.one_packet);
    watch.note(|| Step::Quic(found.map(|_| ())));
    match found {
        Ok(_) => &mine.quic.routed,
        Err(why) => &mine.quic.scheduled[why as usize],
    }
    .add(1);
    found.ok().filter(|server| server.index() < mine.server_capacity())
}
