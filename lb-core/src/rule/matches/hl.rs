//! `hl`: the hop limit, as [`ttl`](super::ttl).

pub(super) use super::ttl::HopLimit;
