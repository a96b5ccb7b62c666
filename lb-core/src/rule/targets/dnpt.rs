//! `DNPT`: the prefix of a packet's destination becomes another, as [`SNPT`](super::snpt) has it of sources.

pub(super) use super::snpt::DestinationPrefix;
