//! A team without threads: whoever holds it turns one worker at a time and says what time it is, so that a simulation of
//! the very same workers can be repeated exactly.

use std::sync::Arc;

use lb_core::counters::WorkerCounters;
use lb_core::ids::WorkerId;
use lb_core::tables::Tables;
use lb_core::time::Tick;

use crate::device::Backend;
use crate::resolve::Questions;
use crate::ring::mesh;
use crate::team::{Member, Ties};
use crate::worker::{Logic, Turned, Worker};

/// The workers of a [`Team`](crate::Team), standing.
pub struct Stepped<B: Backend, L> {
    workers: Vec<Worker<B, L>>,
    ties: Ties,
}

impl<B: Backend, L: Logic<B::Packet>> Stepped<B, L> {
    /// One worker for each member; a ring between two of them holds `ring` packets. `Member::cpu` means nothing here.
    pub fn new<F: FnOnce() -> L>(
        members: Vec<Member<B, F>>,
        counters: Arc<[Arc<WorkerCounters>]>,
        ring: usize,
    ) -> Stepped<B, L> {
        assert_eq!(members.len(), counters.len(), "one set of counters a worker");
        let mut ties = Ties::new(counters);
        let rings = mesh(members.len(), ring);
        let workers = members.into_iter().zip(rings).enumerate().map(|(index, (member, rings))| {
            Worker::new(ties.equip(index, member.seats, member.pool, rings), (member.logic)())
        });
        Stepped { workers: workers.collect(), ties }
    }

    /// One turn of a worker. Returns whether there was work but for what is due by time.
    pub fn turn(&mut self, worker: WorkerId, now: Tick) -> bool {
        self.workers[worker.index()].turn(now) == Turned::Busy
    }

    pub fn logic(&self, worker: WorkerId) -> &L {
        self.workers[worker.index()].logic()
    }

    /// Leaves `tables` for one worker: [`Team::publish`](crate::Team::publish) does so for one after the other, and
    /// a worker may turn between any two.
    pub fn publish_to(&self, worker: WorkerId, tables: Arc<Tables>) {
        self.ties.publishers.lock()[worker.index()].publish(tables);
    }

    /// See [`Team::generation_everywhere`](crate::Team::generation_everywhere).
    pub fn generation_everywhere(&self, generation: u32) -> bool {
        self.ties.generation_everywhere(generation)
    }

    /// See [`Team::resolve_requests`](crate::Team::resolve_requests).
    pub fn resolve_requests(&self) -> &Questions {
        &self.ties.questions
    }
}

#[cfg(test)]
mod tests {
    use lb_core::ids::PortId;
    use lb_core::packet::Frame;
    use lb_core::path::{Path, PathConfig};

    use super::*;
    use crate::memory_port::{HeapFrames, InMemory, memory_port};
    use crate::worker::{Queue, Seat, Twin};

    #[test]
    fn workers_turn_and_adopt_tables_one_by_one() {
        let counters: Arc<[_]> = (0..2).map(|_| Arc::new(WorkerCounters::new(1, 1))).collect();
        let (port, wire) = memory_port(4);
        let uses = Arc::new(lb_core::flow::template::Uses::new(2, 8));
        let mut port = Some(port);
        let members = (0..2u16).map(|worker| {
            let queue = port.take().map_or(Queue::Of(WorkerId(0)), Queue::Own);
            let config = PathConfig {
                worker: WorkerId(worker),
                counters: counters.clone(),
                max_connections: 8,
                max_ipv6_connections: 8,
                uses: uses.clone(),
                memory: lb_core::mem::Region::heap(lb_core::flow::memory_needed(8, 8)),
                hash_seed: 1,
                rss: None,
                now: Tick(0),
            };
            let seats = vec![Seat::<InMemory> { queue, twin: Twin::None }];
            Member { cpu: None, seats, pool: HeapFrames, logic: move || Path::<Frame>::new(config) }
        });
        let mut team = Stepped::new(members.collect(), counters.clone(), 2);
        let tables = Arc::new(Tables { generation: 7, ..Tables::default() });
        for worker in [WorkerId(0), WorkerId(1)] {
            team.publish_to(worker, tables.clone());
            assert!(!team.turn(worker, Tick(1)));
            assert_eq!(team.generation_everywhere(7), worker == WorkerId(1));
        }
        wire.put(Frame::new(PortId(0), &[0; 60])).unwrap();
        assert!(!team.turn(WorkerId(1), Tick(2)), "the queue is the other's");
        assert!(team.turn(WorkerId(0), Tick(2)));
        assert_eq!(counters[0].port(PortId(0)).rx_packets.get(), 1);
    }
}
