//! When is a real server full? `ipvsadm -x` and `-y`: it takes no connection from the upper threshold on, until it
//! is below the lower one again. Asked when a connection begins and when it ends, not for each packet.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_conn.c` and `ip_vs_ctl.c`, and recorded picks.

use std::sync::atomic::Ordering::Relaxed;

use crate::tables::Server;

impl Server {
    /// A connection was bound to it; with it, it has `connections` of any state, over all workers.
    #[inline]
    pub fn after_bind(&self, connections: u64) {
        if self.upper_threshold != 0 && connections >= u64::from(self.upper_threshold) {
            self.overloaded.store(true, Relaxed);
        }
    }

    /// A connection of it ended; without it, it has `connections` of any state, over all workers.
    #[inline]
    pub fn after_unbind(&self, connections: u64) {
        let is_below = match (self.lower_threshold, self.upper_threshold) {
            (0, 0) => true,
            (0, upper) => connections * 4 < u64::from(upper) * 3,
            (lower, _) => connections < u64::from(lower),
        };
        if is_below && self.overloaded.load(Relaxed) {
            self.overloaded.store(false, Relaxed);
        }
    }

    /// It was edited, or added again; `old_upper` is the upper threshold that it had. Runs in the control plane.
    pub fn after_edit(&self, old_upper: u32) {
        if self.upper_threshold == 0 || self.upper_threshold > old_upper {
            self.overloaded.store(false, Relaxed);
        }
    }
}
