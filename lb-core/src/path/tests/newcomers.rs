//! A worker that is offered more than it can take: who begins gives way to who is known.

use super::*;

impl Director {
    /// Turns in which the worker's burst is full: of SYNs, and one packet of a known connection. Returns how many of these went on.
    fn flooded(&mut self, clients: &mut impl Iterator<Item = u16>, turns: usize) -> usize {
        let mut kept = 0;
        for _ in 0..turns {
            let syns = clients.by_ref().take(BURST - 1).map(|port| from_client(port, "S"));
            let burst: Vec<_> = syns.chain([from_client(4000, "A")]).collect();
            let out = self.receive(WAN, &burst);
            kept += out.sent.iter().filter(|(_, frame)| read(frame).1 == 4000).count();
            self.turn();
        }
        kept
    }

    /// Turns with one SYN each. Returns how many were let in.
    fn calm(&mut self, clients: &mut impl Iterator<Item = u16>, turns: usize) -> usize {
        let before = self.dropped(DropReason::WorkerBehind);
        for port in clients.by_ref().take(turns) {
            self.receive(WAN, &[from_client(port, "S")]);
            self.turn();
        }
        turns - (self.dropped(DropReason::WorkerBehind) - before) as usize
    }
}

fn director(drop_newcomers: u32) -> (Director, impl Iterator<Item = u16>) {
    let mut director = Director::new();
    let mut tables = tables(2, &[11, 12], 1);
    tables.settings.sysctls.drop_newcomers = drop_newcomers;
    director.path.adopt(tables.into());
    director.establish(4000);
    (director, (5000..60_000).cycle())
}

#[test]
fn known_connections_go_on_while_newcomers_are_dropped_and_these_are_let_in_again() {
    let (mut director, mut clients) = director(1);
    assert_eq!(director.flooded(&mut clients, 256), 256);
    assert_eq!(director.dropped(DropReason::WorkerBehind), 0, "it may be a backlog");
    assert_eq!(director.flooded(&mut clients, 100), 100);
    let dropped = director.dropped(DropReason::WorkerBehind);
    assert!((100 * 31 - 200..100 * 31).contains(&dropped), "{dropped}");
    let let_in = director.calm(&mut clients, 50);
    assert!((2..50).contains(&let_in), "more and more of them: {let_in}");
    director.calm(&mut clients, 1024);
    let dropped = director.dropped(DropReason::WorkerBehind);
    assert_eq!(director.flooded(&mut clients, 200), 200);
    assert_eq!(director.dropped(DropReason::WorkerBehind), dropped);
}

#[test]
fn nobody_gives_way_where_it_is_switched_off_at_once_too() {
    let (mut director, mut clients) = director(0);
    director.flooded(&mut clients, 400);
    assert_eq!(director.dropped(DropReason::WorkerBehind), 0);
    director.path.adopt(tables(3, &[11, 12], 1).into());
    director.flooded(&mut clients, 400);
    let dropped = director.dropped(DropReason::WorkerBehind);
    assert!(dropped > 0);
    let mut off = tables(4, &[11, 12], 1);
    off.settings.sysctls.drop_newcomers = 0;
    director.path.adopt(off.into());
    director.turn();
    director.flooded(&mut clients, 10);
    assert_eq!(director.dropped(DropReason::WorkerBehind), dropped);
}

#[test]
fn what_acknowledges_is_let_in_beside_a_flood_of_syns() {
    let (mut director, mut clients) = director(1);
    director.flooded(&mut clients, 400);
    let before = director.dropped(DropReason::WorkerBehind);
    let out = director.receive(WAN, &[from_client(4999, "A")]);
    assert_eq!(director.dropped(DropReason::WorkerBehind), before);
    assert_eq!(out.to_twin.len(), 1, "a segment of no connection is the host's to answer");
}
