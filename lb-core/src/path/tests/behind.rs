//! What a turn leaves of what is due by time it says, so that a worker does not sleep on it.

use super::sysctls::{removes_the_first, with};
use super::*;

const ROOM: u32 = 1000;

fn director() -> Director {
    let counters = counters(1);
    let mut path = Path::new(PathConfig {
        max_connections: ROOM,
        max_ipv6_connections: 1,
        memory: Region::heap(memory_needed(ROOM, 1)),
        ..config(0, &counters, &Arc::new(Uses::new(1, ROOM)))
    });
    path.adopt(with(1, "expire_nodest_conn", 1, |_| ()).into());
    let mut director = Director { path, counters, now: Tick(100) };
    for sport in 4000..4600 {
        director.receive(WAN, &[from_client(sport, "S")]);
    }
    director
}

#[test]
fn a_turn_that_leaves_connections_whose_time_is_over_says_so() {
    let mut director = director();
    director.turn();
    assert!(!director.path.is_behind(), "none is over");
    director.now = Tick(100 + 6100);
    for (expired, is_behind) in [(256, true), (512, true), (600, false), (600, false)] {
        director.turn();
        let flows = &director.counters[0].flows;
        assert_eq!((flows.expired.get(), director.path.is_behind()), (expired, is_behind));
    }
}

#[test]
fn a_turn_that_leaves_connections_whose_server_was_removed_says_so() {
    let mut director = director();
    director.path.adopt(with(2, "expire_nodest_conn", 1, removes_the_first).into());
    let mut turns = 0;
    loop {
        director.turn();
        turns += 1;
        if !director.path.is_behind() {
            break;
        }
        assert!(turns < 100, "it comes to no end");
    }
    assert!(turns > 1, "it took one turn");
    assert_eq!(director.counters[0].flows.bereft.get(), 300);
}
