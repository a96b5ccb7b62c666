//! `dst`: as [`hbh`](super::hbh), of IPv6's header for the destination.

pub(super) use super::hbh::Destination;
