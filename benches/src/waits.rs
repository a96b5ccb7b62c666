//! How long packets wait and take in a worker that has the CPU for itself, by what its turns cost: Lindley's recursion, where one turn serves all that have come by then.
//!
//! The worker's clock is made up: packets come at equal distances on it, a turn moves it on by what it cost, and where none has come it goes to the next one's coming. So what lies between two turns
//! (the reading of clocks among it) takes no time, and the machine's interruptions none but what they take from the CPU time of the thread.
//!
//! Source of the recursion: D. V. Lindley, "The theory of queues with a single server", 1952.

use std::ops::Sub;

use crate::tsc;

/// Nanoseconds by which a thread's CPU time falls behind where somebody else had the CPU for certain.
pub(crate) const A_SWITCH: f64 = 3e3;

/// A moment: in cycles, and in nanoseconds that the thread had a CPU.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moment {
    pub(crate) cycles: u64,
    pub(crate) cpu_ns: u64,
}

impl Moment {
    pub(crate) fn now() -> Moment {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let cpu_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        Moment { cycles: tsc::now(), cpu_ns }
    }

    /// The same at the end of something, whose cycles shall not have those of the system call in them.
    pub(crate) fn end() -> Moment {
        let cycles = tsc::now();
        Moment { cycles, ..Moment::now() }
    }
}

impl Sub for Moment {
    type Output = Moment;

    fn sub(self, before: Moment) -> Moment {
        Moment { cycles: self.cycles - before.cycles, cpu_ns: self.cpu_ns - before.cpu_ns }
    }
}

/// Packets that come at equal distances, and the one worker that they come to. All times are in cycles.
pub(crate) struct Arrivals {
    apart: f64,
    now: f64,
    times: Vec<u32>,
}

impl Arrivals {
    /// `room`: for the times of so many packets.
    pub(crate) fn new(apart: f64, room: usize) -> Arrivals {
        // Written to before, so that no page is waited for.
        let mut times = vec![u32::MAX; room];
        times.clear();
        Arrivals { apart, now: 0.0, times }
    }

    pub(crate) fn served(&self) -> usize {
        self.times.len()
    }

    /// Those that have come and are not served yet; when there is none, the next one comes.
    pub(crate) fn waiting(&mut self) -> usize {
        let next = self.times.len() as f64 * self.apart;
        self.now = self.now.max(next);
        ((self.now - next) / self.apart) as usize + 1
    }

    /// A turn serves the first of them, and costs so much.
    pub(crate) fn serve(&mut self, count: usize, cost: f64) {
        self.now += cost;
        let first = self.times.len();
        self.times.extend((first..first + count).map(|n| (self.now - n as f64 * self.apart) as u32));
    }

    /// What a packet has cost in the mean, where the worker was never idle.
    pub(crate) fn cost(&self) -> f64 {
        self.now / self.times.len() as f64
    }

    /// From each packet's coming to the end of its turn, in order.
    pub(crate) fn sorted(mut self) -> Vec<u32> {
        self.times.sort_unstable();
        self.times
    }
}

/// What a turn cost, in cycles: those that passed or, where the thread had to leave its CPU meanwhile, those of its CPU time. And whether it had to.
pub(crate) fn own_cost(took: Moment, per_ns: f64) -> (f64, bool) {
    let (passed, had) = (took.cycles as f64, took.cpu_ns as f64 * per_ns);
    let is_switched = passed > had + A_SWITCH * per_ns;
    (if is_switched { had } else { passed }, is_switched)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One packet a turn, at these costs: their times in the order of their coming.
    fn one_by_one(apart: f64, costs: &[f64]) -> Vec<u32> {
        let mut arrivals = Arrivals::new(apart, costs.len());
        for cost in costs {
            assert!(arrivals.waiting() > 0);
            arrivals.serve(1, *cost);
        }
        arrivals.times
    }

    #[test]
    fn who_comes_to_an_idle_worker_takes_what_its_turn_costs() {
        assert_eq!(one_by_one(100.0, &[70.0, 10.0, 100.0, 30.0]), [70, 10, 100, 30]);
    }

    #[test]
    fn a_long_turn_is_waited_for_until_it_is_caught_up_with() {
        // W(n+1) = max(0, W(n) + S(n) - T), and a packet takes W + S.
        let costs = [50.0, 350.0, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0];
        let (mut waits, mut expected) = (0.0f64, Vec::new());
        for cost in costs {
            expected.push((waits + cost) as u32);
            waits = (waits + cost - 100.0).max(0.0);
        }
        assert_eq!(one_by_one(100.0, &costs), expected);
        assert_eq!(expected, [50, 350, 300, 250, 200, 150, 100, 50, 50]);
    }

    #[test]
    fn a_turn_serves_all_that_have_come() {
        let mut arrivals = Arrivals::new(10.0, 8);
        assert_eq!(arrivals.waiting(), 1);
        arrivals.serve(1, 35.0);
        assert_eq!(arrivals.waiting(), 3, "at 10, 20 and 30");
        arrivals.serve(3, 5.0);
        assert_eq!((arrivals.waiting(), arrivals.served()), (1, 4), "the one that comes at 40");
        arrivals.serve(1, 1.0);
        assert_eq!(arrivals.waiting(), 1, "the clock has gone to 50");
        assert_eq!(arrivals.sorted(), [1, 10, 20, 30, 35]);
    }

    #[test]
    fn a_turn_in_which_the_thread_left_its_cpu_costs_what_it_had_of_it() {
        let took = |cycles, cpu_ns| own_cost(Moment { cycles, cpu_ns }, 2.0);
        assert_eq!(took(2_000, 1_000), (2_000.0, false));
        assert_eq!(took(8_000, 1_000), (8_000.0, false), "3 µs may be the clocks'");
        assert_eq!(took(60_000, 1_000), (2_000.0, true));
        assert_eq!(took(2_000, 1_500), (2_000.0, false), "reading the clock takes its time");
    }
}
