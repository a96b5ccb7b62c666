//! GRE between two hosts: one connection, whatever keys its packets have.

use super::{Move, Settings, Status, Tracked};

pub(super) fn advance(tracked: &mut Tracked, settings: &Settings) -> Move {
    if !tracked.status.has(Status::SEEN_REPLY) {
        return Move::to(0, settings.gre);
    }
    tracked.status.set(Status::ASSURED);
    Move::to(0, settings.gre_stream)
}
