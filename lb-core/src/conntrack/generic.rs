//! Protocols of which nothing is known: one connection between two hosts each.

use super::{Move, Settings};

pub(super) fn advance(settings: &Settings) -> Move {
    Move::to(0, settings.generic)
}
