//! Generated binding to the installed DPDK.
