//! Small numbers that must not be confused with each other.
//!
//! Each is an index into a table that the control plane compiles ([`crate::tables`]) or into the set of
//! workers; none of them is ever on the wire.

/// A DPDK port (or an in-memory one), in the order of `[[port]]` in the config file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PortId(pub u16);

/// A poll-mode worker, in the order of `dataplane.workers`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct WorkerId(pub u16);

/// A virtual service, stable for its life across table generations; indexes scheduler state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ServiceId(pub u32);

/// A real server of one virtual service, stable while a connection of it lives, even when it was removed
/// and added again; indexes its counters ([`crate::counters::ServerCell`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ServerId(pub u32);

impl PortId {
    /// Of a new buffer, that came in on none; as DPDK has it (`RTE_MBUF_PORT_INVALID`).
    pub const NONE: PortId = PortId(u16::MAX);

    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl WorkerId {
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl ServiceId {
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ServerId {
    /// Of a connection that no virtual service takes.
    pub const NONE: ServerId = ServerId(u32::MAX);

    /// Of a connection past all real servers, to the destination that its packets have (sysctl `cache_bypass`).
    pub const BYPASS: ServerId = ServerId(u32::MAX - 1);

    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
