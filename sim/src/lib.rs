//! The whole system in one process: the real workers, path and control plane on ports in memory and virtual time, between
//! clients and servers that check every byte, under faults drawn from a seed.
