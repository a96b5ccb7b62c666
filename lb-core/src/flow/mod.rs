//! Flows: one entry a connection, both its tuples in one index, memory taken at start.

use crate::mem::Region;

/// Bytes of the region that a worker's flow table takes.
pub fn memory_needed(max_connections: u32, max_ipv6_connections: u32) -> usize {
    Region::bytes_for::<[u8; 192]>(max_connections as usize)
        + Region::bytes_for::<[u8; 64]>(max_ipv6_connections as usize)
}
