//! A full table, there and back: who goes for a new connection, and who never does.

use super::shared::datagram;
use super::*;
use crate::time::Timeout;

const PLACES: u16 = 100;

fn counts(director: &Director) -> (u64, u64, u64) {
    let flows = &director.counters[0].flows;
    (flows.early_drop.get(), flows.full.get(), director.dropped(DropReason::FlowTableFull))
}

fn is_forwarded(director: &mut Director, frame: Vec<u8>) -> bool {
    director.receive(WAN, &[frame]).sent.len() == 1
}

#[test]
fn in_a_full_table_the_oldest_half_open_connection_goes_and_no_established_one() {
    let mut director = Director::new();
    for port in 4000..4000 + PLACES {
        director.receive(WAN, &[from_client(port, "S")]);
        if port % 2 == 0 {
            director.establish(port);
        }
    }
    for port in 5000..5050 {
        assert!(is_forwarded(&mut director, from_client(port, "S")), "{port}");
    }
    assert_eq!(counts(&director), (50, 0, 0));
    let open = director.states().iter().filter(|&&state| state == "ESTABLISHED").count();
    assert_eq!((open, director.states().len()), (50, 100));
    for port in 5000..5050 {
        director.establish(port);
    }
    assert_eq!(director.states(), vec!["ESTABLISHED"; 100]);
    for port in 6000..6003 {
        assert!(!is_forwarded(&mut director, from_client(port, "S")), "nobody may go");
    }
    assert_eq!(counts(&director), (50, 3, 3));
    // What is over may, and the next one has its place.
    director.receive(WAN, &[from_client(4000, "RA")]);
    director.receive(WAN, &[from_client(6000, "S")]);
    director.receive(WAN, &[from_client(6000, "S")]);
    assert_eq!(director.states().iter().filter(|&&state| state == "SYN_RECV").count(), 1);
    assert_eq!(counts(&director).0, 51);
    director.path.check_connections().unwrap();
}

#[test]
fn a_full_table_has_room_again_when_its_connections_are_over() {
    let mut director = Director::new();
    for port in 4000..4000 + PLACES {
        director.receive(WAN, &[datagram(port)]);
    }
    assert!(
        !is_forwarded(&mut director, from_client(5000, "S")),
        "nobody knows of UDP whether it is answered"
    );
    assert_eq!(counts(&director), (0, 1, 1));
    for _ in 0..40 {
        director.now = director.now.after(Timeout::from_secs(10));
        director.turn();
    }
    assert!(director.states().is_empty());
    assert!(is_forwarded(&mut director, from_client(5000, "S")));
    assert_eq!(counts(&director), (0, 1, 1));
}

#[test]
fn where_addresses_of_ipv6_are_short_no_connection_of_ipv4_goes() {
    let mut director = Director::new();
    let syn = |port| tcp(C2D, ("2001:db8::100", port), ("2001:db8::10", 80), "S");
    for port in 0..40 {
        director.receive(WAN, &[from_client(4000 + port, "S")]);
    }
    for port in 0..51 {
        assert!(is_forwarded(&mut director, syn(4000 + port)));
    }
    assert_eq!((director.states().len(), counts(&director)), (90, (1, 0, 0)));
    assert_eq!(director.path.flows.len(), (90, 50));
}
