//! `drop_entry` and `secure_tcp`: what takes room only goes or is believed less, while room is short or always; what is established stays.

use super::*;
use crate::time::Timeout;

fn tables_with(generation: u32, set: impl FnOnce(&mut crate::tables::Sysctls)) -> Tables {
    let mut tables = tables(generation, &[11, 12], 1);
    set(&mut tables.settings.sysctls);
    tables
}

impl Director {
    /// Turns ten times a second for so long.
    fn rest(&mut self, seconds: u32) {
        for _ in 0..seconds * 10 {
            self.now = self.now.after(Timeout(10));
            self.turn();
        }
    }

    fn ended(&self) -> u64 {
        self.counters[0].flows.drop_entry.get()
    }

    pub(super) fn establish(&mut self, sport: u16) {
        for flags in ["S", "A"] {
            self.receive(WAN, &[from_client(sport, flags)]);
        }
    }
}

#[test]
fn half_open_connections_go_within_32_seconds_and_established_ones_stay() {
    let mut director = Director::new();
    director.path.adopt(tables_with(2, |all| all.drop_entry = 3).into());
    director.establish(4000);
    for sport in 5000..5040 {
        director.receive(WAN, &[from_client(sport, "S")]);
    }
    director.rest(16);
    assert!((10..30).contains(&director.ended()), "{}", director.ended());
    director.rest(17);
    assert_eq!((director.ended(), director.states()), (40, vec!["ESTABLISHED"]));
    let servers = [2, 3].map(|id| director.counters[0].server(ServerId(id)).active.get());
    assert_eq!(servers.iter().sum::<u64>(), 1);
    director.path.check_connections().unwrap();
}

#[test]
fn templates_of_half_open_connections_go_with_them_and_those_of_established_ones_stay() {
    let mut director = Director::new();
    let mut tables = super::persistent::persistent(2, |_| ());
    tables.settings.sysctls.drop_entry = 3;
    director.path.adopt(tables.into());
    director.establish(4000);
    for n in 0..20 {
        director.receive(WAN, &[tcp(C2D, (&format!("198.18.{n}.1"), 4000), ("192.0.2.10", 80), "S")]);
    }
    assert_eq!(director.states().len(), 42);
    director.rest(66);
    assert_eq!((director.ended(), director.states().len()), (40, 2));
    director.path.check_connections().unwrap();
}

#[test]
fn without_the_defence_or_with_room_enough_half_open_connections_stay() {
    for (mode, amemthresh, goes) in
        [(0, 1024, false), (1, 50, false), (2, 50, false), (1, 99, true), (2, 99, true), (3, 0, true)]
    {
        let mut director = Director::new();
        let set = |all: &mut crate::tables::Sysctls| (all.drop_entry, all.amemthresh) = (mode, amemthresh);
        director.path.adopt(tables_with(2, set).into());
        for sport in 5000..5010 {
            director.receive(WAN, &[from_client(sport, "S")]);
        }
        director.rest(35);
        assert_eq!(director.ended() > 0, goes, "{mode} {amemthresh}");
        // Ten half-open ones leave 90 places; when some are gone there may be room enough.
        if mode == 3 {
            assert_eq!(director.ended(), 10);
        }
    }
}

#[test]
fn udp_goes_that_rests_for_a_minute_unless_it_is_counted_and_had_many_packets() {
    for (acct, packets, goes) in [(0, 1, true), (0, 20, true), (1, 1, true), (1, 9, false)] {
        let mut director = Director::new();
        let set = |all: &mut crate::tables::Sysctls| {
            (all.drop_entry, all.conntrack.acct) = (3, acct);
        };
        director.path.adopt(tables_with(2, set).into());
        for _ in 0..packets {
            director.receive(WAN, &[datagram(1).remove(0)]);
        }
        director.rest(59);
        assert_eq!(director.ended(), 0, "it does not rest yet");
        director.rest(40);
        assert_eq!(director.ended() == 1, goes, "{acct} {packets}");
        assert_eq!(director.states().is_empty(), goes);
    }
}

#[test]
fn with_secure_tcp_a_client_alone_establishes_nothing() {
    for (mode, state) in [(0, "ESTABLISHED"), (1, "ESTABLISHED"), (3, "SYN_RECV")] {
        let mut director = Director::new();
        let set = |all: &mut crate::tables::Sysctls| (all.secure_tcp, all.amemthresh) = (mode, 10);
        director.path.adopt(tables_with(2, set).into());
        director.establish(4000);
        assert_eq!(director.states(), [state], "{mode}");
        director.receive(LAN, &[from_server(11, 4000, "SA")]);
        director.receive(WAN, &[from_client(4000, "A")]);
        director.receive(LAN, &[from_server(11, 4000, "A")]);
        assert_eq!(director.states(), ["ESTABLISHED"], "{mode}: its server knows it");
    }
}

#[test]
fn secure_tcp_1_begins_and_ends_with_the_room_that_is_left() {
    let mut director = Director::new();
    let set = |all: &mut crate::tables::Sysctls| (all.secure_tcp, all.amemthresh) = (1, 95);
    director.path.adopt(tables_with(2, set).into());
    director.establish(4000);
    assert_eq!(director.states(), ["ESTABLISHED"]);
    for sport in 5000..5010 {
        director.receive(WAN, &[from_client(sport, "S")]);
    }
    director.rest(2);
    director.establish(4001);
    assert_eq!(director.states().iter().filter(|&&state| state == "ESTABLISHED").count(), 1);
    director.rest(62);
    director.establish(4002);
    assert_eq!(director.states(), ["ESTABLISHED"; 2], "the half-open ones are over");
}
