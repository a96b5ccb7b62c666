//! When is a real server full? `ipvsadm -x` and `-y`: it takes no connection from the upper threshold on, until it
//! is below the lower one again. Asked when a connection begins and when it ends, not for each packet.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_conn.c` and `ip_vs_ctl.c`, and recorded picks.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;

use crate::tables::Server;

// Workers count for themselves and sum up all workers' counts, so each change of a count or of the flag is followed by a
// fence before the counts are read: of two workers that change something at once, one at least sees the other's. Without
// them, two last connections that end at once would leave a server overloaded for ever. `lb-models` checks it.
impl Server {
    /// A connection was bound to it. `connections` counts those of any state, over all workers, with this one.
    #[inline]
    pub fn after_bind(&self, connections: impl Fn() -> u64) {
        if self.upper_threshold == 0 {
            return;
        }
        fence(SeqCst);
        if connections() >= u64::from(self.upper_threshold) {
            self.overloaded.store(true, Relaxed);
            // Connections that ended since the count found no flag to clear.
            self.after_unbind(connections);
        }
    }

    /// A connection of it ended. `connections` counts those of any state, over all workers, without this one.
    #[inline]
    pub fn after_unbind(&self, connections: impl Fn() -> u64) {
        if self.upper_threshold == 0 {
            return;
        }
        fence(SeqCst);
        if self.overloaded.load(Relaxed) && self.is_below(connections()) {
            self.overloaded.store(false, Relaxed);
        }
    }

    fn is_below(&self, connections: u64) -> bool {
        match (self.lower_threshold, u64::from(self.upper_threshold)) {
            (0, upper) => connections * 4 < upper * 3,
            (lower, _) => connections < u64::from(lower),
        }
    }

    /// It was edited, or removed and added again while it has connections; `old_upper` is the upper threshold that it had.
    /// Runs in the control plane, before the server is published. A higher limit, or none, lets connections in again at once
    /// (`__ip_vs_update_dest`): by a new flag, as a worker with the tables of before may still set the old one.
    ///
    /// Nothing clears the flag where a server's connections end while it is away: the control plane looks at each that is
    /// overloaded once all workers have its tables.
    pub fn after_edit(&mut self, old_upper: u32) {
        if self.upper_threshold == 0 || self.upper_threshold > old_upper {
            self.overloaded = Arc::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ServerId;
    use crate::tables::Forward;

    fn server(upper: u32, lower: u32) -> Server {
        Server {
            upper_threshold: upper,
            lower_threshold: lower,
            ..Server::new(ServerId(0), (std::net::Ipv4Addr::LOCALHOST.into(), 80), 1, Forward::Masq)
        }
    }

    /// The connections that a server had when it came to be full, and when it was not any more.
    fn turns(server: &Server) -> (Option<u64>, Option<u64>) {
        let full = (1..20).find(|&connections| {
            server.after_bind(|| connections);
            !server.takes_new()
        });
        let free = (0..20).rev().find(|&connections| {
            server.after_unbind(|| connections);
            server.takes_new()
        });
        (full, free)
    }

    #[test]
    fn a_server_is_full_at_the_upper_threshold_until_it_is_below_the_lower() {
        assert_eq!(turns(&server(8, 3)), (Some(8), Some(2)));
        assert_eq!(turns(&server(8, 0)), (Some(8), Some(5)), "below three quarters");
        assert_eq!(turns(&server(8, 1)), (Some(8), Some(0)));
        assert_eq!(turns(&server(0, 0)), (None, Some(19)));
    }

    #[test]
    fn an_edit_frees_a_full_server_when_it_raises_or_lifts_the_upper_threshold() {
        for (new, is_free) in [(9, true), (0, true), (8, false), (2, false)] {
            let before = server(8, 0);
            before.after_bind(|| 8);
            let mut edited = Server { upper_threshold: new, ..before.clone() };
            edited.after_edit(8);
            before.after_bind(|| 8);
            assert_eq!(edited.takes_new(), is_free, "to {new}");
        }
    }
}
