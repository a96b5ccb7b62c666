//! UDP: a connection is as long as packets come; a stream after two seconds of packets both ways.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut};

use super::tracked::PRIVATE;
use super::{Move, Settings, Status, Tracked};
use crate::flow::edit::Calls;
use crate::time::{Tick, Timeout};

/// Younger ones are questions with their answer.
const PROBE: Timeout = Timeout::from_secs(2);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Exchange {
    /// Time of the first packet, in ticks.
    begun: u32,
    calls: Calls,
    unused: [u32; PRIVATE - 3],
}

/// Those of a connection of UDP.
pub fn calls(tracked: &mut Tracked) -> &mut Calls {
    let exchange: &mut Exchange = transmute_mut!(&mut tracked.private);
    &mut exchange.calls
}

pub(super) fn begin(tracked: &mut Tracked, now: Tick, settings: &Settings) -> Move {
    create(tracked, now);
    Move::to(0, settings.udp)
}

pub(super) fn create(tracked: &mut Tracked, now: Tick) {
    let exchange: &mut Exchange = transmute_mut!(&mut tracked.private);
    exchange.begun = now.0;
}

/// Whether it is a stream, and known as one: then [`advance`] changes nothing.
#[inline]
pub(super) fn is_settled(tracked: &Tracked, timeout: Timeout, settings: &Settings) -> bool {
    let status = tracked.status;
    status.has(Status::ASSURED)
        && status.has(Status::SEEN_REPLY)
        && timeout == Timeout::from_secs(settings.udp_stream)
}

pub(super) fn advance(tracked: &mut Tracked, now: Tick, settings: &Settings) -> Move {
    let exchange: &mut Exchange = transmute_mut!(&mut tracked.private);
    let status = &mut tracked.status;
    let is_stream = status.has(Status::SEEN_REPLY) && now.since(Tick(exchange.begun)) > PROBE.0;
    if !is_stream {
        return Move::to(0, settings.udp);
    }
    status.set(Status::ASSURED);
    Move::to(0, settings.udp_stream)
}
