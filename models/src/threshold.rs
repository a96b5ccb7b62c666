//! A real server's thresholds, with workers that bind and end its connections at the same moment.

use std::sync::Arc;

use lb_core::ids::ServerId;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;

use super::check;
use crate::counters::source::WorkerCounters;

mod source {
    include!(concat!(env!("OUT_DIR"), "/threshold.rs"));
}

/// Stands for the real server: what of it has to do with thresholds.
#[derive(Clone)]
struct Server {
    upper_threshold: u32,
    lower_threshold: u32,
    overloaded: Arc<AtomicBool>,
}

/// One real server, and what two workers count for it.
#[derive(Clone)]
struct Scene {
    server: Server,
    counters: Arc<[WorkerCounters; 2]>,
}

const ID: ServerId = ServerId(0);

impl Scene {
    fn new(upper_threshold: u32, lower_threshold: u32, has: [u64; 2]) -> Scene {
        let counters = [WorkerCounters::new(1, 0), WorkerCounters::new(1, 0)];
        has.iter().zip(&counters).for_each(|(&n, worker)| worker.server(ID).active.set(n));
        let is_full = has.iter().sum::<u64>() >= u64::from(upper_threshold);
        let overloaded = Arc::new(AtomicBool::new(is_full));
        let server = Server { upper_threshold, lower_threshold, overloaded };
        Scene { server, counters: Arc::new(counters) }
    }

    fn connections(&self) -> u64 {
        self.counters.iter().map(|worker| worker.server(ID).active.get()).sum()
    }

    fn bind(&self, worker: usize) {
        self.counters[worker].server(ID).active.add(1);
        self.server.after_bind(|| self.connections());
    }

    fn unbind(&self, worker: usize) {
        self.counters[worker].server(ID).active.sub(1);
        self.server.after_unbind(|| self.connections());
    }

    /// The second worker does this on a thread of its own while the first does that.
    fn at_once(&self, second: fn(&Scene), first: fn(&Scene)) {
        let other = self.clone();
        let thread = thread::spawn(move || second(&other));
        first(self);
        thread.join().unwrap();
    }

    fn is_overloaded(&self) -> bool {
        self.server.overloaded.load(Relaxed)
    }
}

#[test]
fn two_last_connections_that_end_at_once_leave_no_server_overloaded() {
    check(|| {
        let scene = Scene::new(2, 1, [1, 1]);
        scene.at_once(|scene| scene.unbind(1), |scene| scene.unbind(0));
        assert!(!scene.is_overloaded(), "for ever, as no connection is left to end");
    });
}

#[test]
fn two_connections_that_begin_at_once_and_reach_the_threshold_overload_the_server() {
    check(|| {
        let scene = Scene::new(2, 1, [0, 0]);
        scene.at_once(|scene| scene.bind(1), |scene| scene.bind(0));
        assert!(scene.is_overloaded());
    });
}

#[test]
fn a_server_below_its_lower_threshold_is_not_overloaded_once_all_is_quiet() {
    check(|| {
        let scene = Scene::new(2, 2, [0, 1]);
        scene.at_once(|scene| scene.unbind(1), |scene| scene.bind(0));
        assert!(!scene.is_overloaded(), "one connection, and fewer than two are below");
    });
}
