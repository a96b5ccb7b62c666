//! Goal: a rule that masquerades gives a connection the source that the kernel would, and the connection ends where it leaves by another interface.
//! Method: a network with several addresses on each interface; routes that lead elsewhere from one table to the next.

use super::hooks::rules;
use super::*;
use crate::conntrack::Status;
use crate::tables::{OwnAddress, OwnAddresses};

const RULE: &str = "nat POSTROUTING -j MASQUERADE";
const AWAY: (&str, u16) = ("198.51.100.7", 443);
const AWAY6: (&str, u16) = ("2001:db8:f::7", 443);

/// `wan` has two networks; AWAY and AWAY6 are reached by `gateway`, which is on `wan`, or on `lan`.
fn routed(generation: u32, gateway: &str, line: &str) -> Tables {
    let mut tables = Tables { rules: Arc::new(rules(&[line])), ..tables(generation, &[11, 12], 1) };
    let own = |text: &str, len, n| OwnAddress::plain(ip(text), len, Some(InterfaceId(n)));
    let interfaces = Interfaces::clone(&tables.interfaces).with_addresses([
        own("192.0.2.1", 24, 0),
        own("203.0.113.1", 24, 0),
        own("2001:db8::1", 64, 0),
        own("2001:db8:f::1", 64, 0),
        own("10.0.0.1", 24, 1),
        own("fd00::1", 64, 1),
    ]);
    let to = |gateway: IpAddr| Route::Via {
        interface: InterfaceId(u16::from(gateway == ip("10.0.0.12") || gateway == ip("fd00::12"))),
        gateway: Some(gateway),
    };
    let (gateway, gateway6) = match gateway {
        "lan" => (ip("10.0.0.12"), ip("fd00::12")),
        gateway => (ip(gateway), ip("2001:db8::100")),
    };
    let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
    let routes = [
        ("198.51.100.0", 24, to(gateway)),
        ("2001:db8:f::", 64, to(gateway6)),
        ("10.0.0.0", 24, via(1)),
        ("192.0.2.0", 24, via(0)),
        ("fd00::", 64, via(1)),
    ];
    let routes = routes.map(|(address, len, route)| (Prefix { address: ip(address), len }, route));
    let local = ["192.0.2.1", "203.0.113.1", "10.0.0.1", "fd00::1"].map(|address| {
        let address = ip(address);
        (Prefix { address, len: Prefix::longest(address.is_ipv6()) }, Route::Local)
    });
    tables.routes = Routes::new(routes.into_iter().chain(local)).into();
    let neighbours = [
        (InterfaceId(0), gateway, Some(CLIENT)),
        (InterfaceId(0), gateway6, Some(CLIENT)),
        (InterfaceId(1), ip("10.0.0.11"), Some(server_mac(11))),
        (InterfaceId(1), ip("10.0.0.12"), Some(server_mac(12))),
        (InterfaceId(1), ip("fd00::11"), Some(server_mac(11))),
        (InterfaceId(1), ip("fd00::12"), Some(server_mac(12))),
    ];
    tables.neighbours = Neighbours::new(&interfaces, neighbours).into();
    tables.interfaces = interfaces.into();
    tables
}

fn director(gateway: &str, line: &str) -> Director {
    let mut director = Director::new();
    director.path.adopt(routed(2, gateway, line).into());
    director
}

fn from_inside(sport: u16, to: (&str, u16), flags: &str) -> Vec<u8> {
    let from = if ip(to.0).is_ipv6() { "fd00::11" } else { "10.0.0.11" };
    tcp((server_mac(11), OUR_LAN), (from, sport), to, flags)
}

fn source(out: &Out) -> IpAddr {
    assert_eq!(out.sent.len(), 1);
    read(&out.sent[0].1).0
}

fn are_masqueraded(director: &Director) -> Vec<bool> {
    let mut all = Vec::new();
    director.path.list(0, u32::MAX, director.now, &mut |view| {
        all.push(view.known.status.has(Status::MASQUERADED));
        assert_eq!(Sought { is_masqueraded: true, ..Sought::default() }.fits(&view), all[all.len() - 1]);
    });
    all
}

#[test]
fn the_source_is_the_address_in_the_next_hops_network_or_by_the_rfc() {
    for (gateway, expected) in
        [("192.0.2.100", "192.0.2.1"), ("203.0.113.9", "203.0.113.1"), ("lan", "10.0.0.1")]
    {
        let mut director = director(gateway, RULE);
        let out = director.receive(LAN, &[from_inside(4000, AWAY, "S")]);
        assert_eq!(source(&out), ip(expected), "by {gateway}");
        assert_eq!(are_masqueraded(&director), [true]);
    }
    let mut director = director("192.0.2.100", RULE);
    let out = director.receive(LAN, &[from_inside(4000, AWAY6, "S")]);
    assert_eq!(source(&out), ip("2001:db8:f::1"), "it is in the destination's network");
}

#[test]
fn a_source_that_a_rule_names_is_none_of_an_interface() {
    let mut director = director("192.0.2.100", "nat POSTROUTING -j SNAT --to-source 192.0.2.1");
    assert_eq!(source(&director.receive(LAN, &[from_inside(4000, AWAY, "S")])), ip("192.0.2.1"));
    assert_eq!(are_masqueraded(&director), [false]);
    director.path.adopt(routed(3, "lan", "nat POSTROUTING -j SNAT --to-source 192.0.2.1").into());
    assert_eq!(director.receive(LAN, &[from_inside(4000, AWAY, "A")]).sent.len(), 1);
}

#[test]
fn where_it_leaves_by_another_interface_the_connection_ends_and_its_next_packet_begins_one() {
    for to in [AWAY, AWAY6] {
        let mut director = director("192.0.2.100", RULE);
        let first = source(&director.receive(LAN, &[from_inside(4000, to, "S")]));
        // Other tables, the same way.
        director.path.adopt(routed(3, "192.0.2.100", RULE).into());
        assert_eq!(source(&director.receive(LAN, &[from_inside(4000, to, "S")])), first);
        director.path.adopt(routed(4, "lan", RULE).into());
        let out = director.receive(LAN, &[from_inside(4000, to, "S")]);
        assert_eq!((out.sent.len(), director.dropped(DropReason::LeavesElsewhere)), (0, 1));
        assert_eq!(are_masqueraded(&director), Vec::<bool>::new());
        let inner = if ip(to.0).is_ipv6() { "fd00::1" } else { "10.0.0.1" };
        assert_eq!(source(&director.receive(LAN, &[from_inside(4000, to, "S")])), ip(inner));
        director.path.check_connections().unwrap();
    }
}

#[test]
fn one_of_another_interfaces_address_goes_on_while_it_would_have_that_again() {
    let bare = |generation| {
        let mut tables = routed(generation, "192.0.2.100", RULE);
        let own = [OwnAddress::plain(ip("10.0.0.1"), 24, Some(InterfaceId(1)))];
        tables.interfaces = Interfaces::clone(&tables.interfaces).with_addresses(own).into();
        assert_eq!(*tables.interfaces.own(), OwnAddresses::new(own));
        tables
    };
    let mut director = Director::new();
    for generation in 2..5 {
        director.path.adopt(bare(generation).into());
        assert_eq!(source(&director.receive(LAN, &[from_inside(4000, AWAY, "S")])), ip("10.0.0.1"));
    }
    assert_eq!(director.dropped(DropReason::LeavesElsewhere), 0);
}
