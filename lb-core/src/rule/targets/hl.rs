//! `HL`: writes the hop limit, as [`TTL`](super::ttl).

pub(super) use super::ttl::HopLimitTarget;
