//! DPDK, behind a safe face: the EAL, packet buffers, ports.
#![allow(unsafe_code)]

pub(crate) mod eal;
pub(crate) mod mbuf;
pub(crate) mod port;
pub(crate) mod steering;

use std::ffi::CStr;

use crate::device::Backend;
use mbuf::{Mbuf, MbufPool};
use port::PortQueue;

/// The backend that DPDK is.
pub(crate) struct Dpdk;

impl Backend for Dpdk {
    type Packet = Mbuf;
    type Device = PortQueue;
    type Pool = MbufPool;

    /// Gives the thread a cache of the buffer pool: without, each buffer costs half as much again.
    fn enter_thread() -> Result<(), String> {
        // SAFETY: the EAL is up as long as there are workers.
        match unsafe { dpdk_sys::rte_thread_register() } {
            0 => Ok(()),
            _ => Err(format!("DPDK does not take the thread: {}", last_error())),
        }
    }

    fn leave_thread() {
        // SAFETY: the thread was registered in `enter_thread`.
        unsafe { dpdk_sys::rte_thread_unregister() }
    }
}

/// DPDK's number of a NUMA node: SOCKET_ID_ANY for none.
pub(crate) fn socket(node: Option<u32>) -> i32 {
    node.and_then(|node| i32::try_from(node).ok()).unwrap_or(-1)
}

/// What DPDK says about its error code, negative or not.
pub(crate) fn error_text(code: i32) -> String {
    // SAFETY: DPDK returns a string that ends in a zero byte and stays until the thread's next call.
    unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(code.wrapping_abs())) }.to_string_lossy().into_owned()
}

/// The text of this thread's `rte_errno`.
pub(crate) fn last_error() -> String {
    // SAFETY: reads a variable of this thread.
    error_text(unsafe { dpdk_sys::lb_errno() })
}
