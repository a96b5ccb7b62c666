//! A full table, there and back: who goes for a new connection, and who never does.

use super::persistent::{listed, persistent};
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

/// A persistent service, each client of which has a template; and one at port 81 that is not persistent.
fn with_templates(generation: u32) -> Tables {
    let one_each = |service: &mut Service| {
        let persistence = service.options.persistence.as_mut().unwrap();
        persistence.mask = crate::tables::ClientMask::ipv4(std::net::Ipv4Addr::BROADCAST);
    };
    let tables = persistent(generation, one_each);
    let mut services = (*tables.services).clone();
    let mut other = Service::clone(
        services.iter().find(|it| it.key == ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80)).unwrap(),
    );
    (other.id, other.options) = (ServiceId(30), crate::tables::ServiceOptions::default());
    other.key = ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 81);
    for (server, id) in other.servers.iter_mut().zip(30..) {
        server.id = ServerId(id);
    }
    services.put(Arc::new(other));
    Tables { services: services.into(), ..tables }
}

#[test]
fn a_flood_of_syns_does_not_fill_the_table_with_templates() {
    let mut director = Director::new();
    director.path.adopt(with_templates(2).into());
    director.establish(4000);
    let mut is_let_in = 0;
    for n in 0..200 {
        let syn = tcp(C2D, (&format!("198.51.100.{n}"), 4000), ("192.0.2.10", 80), "S");
        is_let_in += u32::from(is_forwarded(&mut director, syn));
    }
    assert_eq!(is_let_in, 200);
    let other = tcp(C2D, ("192.0.2.100", 5000), ("192.0.2.10", 81), "S");
    assert!(is_forwarded(&mut director, other));
    let listed = listed(&director.path, director.now);
    let established = listed.iter().filter(|line| line.contains(" 192.0.2.100:"));
    let states: Vec<_> = established.map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(states, ["ASSURED", "ESTABLISHED", "SYN_RECV"], "who is served stays so");
    assert_eq!((counts(&director).1, listed.len()), (0, 100));
    director.path.check_connections().unwrap();
}

#[test]
fn a_template_does_not_outlive_the_connection_that_found_no_room() {
    let mut director = Director::new();
    director.path.adopt(tables(2, &[11, 12], 1).into());
    for port in 4000..4000 + PLACES - 1 {
        director.receive(WAN, &[datagram(port)]);
    }
    director.path.adopt(with_templates(3).into());
    for n in 1..4 {
        assert!(!is_forwarded(&mut director, from_client(5000, "S")));
        assert_eq!((director.path.flows.len().0, counts(&director).2), (99, n));
    }
    director.path.check_connections().unwrap();
}
