//! A route that takes shorter packets than its link (`ip route … mtu`).

use super::*;

/// A client's segment of so many bytes with its IPv4 header, which may not be split.
fn segment(sport: u16, len: usize) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1)
        .ipv4([192, 0, 2, 100], [192, 0, 2, 10], 64)
        .tcp(sport, 80, 1000, 1024)
        .ack(5);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![7; len - 40]).unwrap();
    frame
}

/// The real server 10.0.0.11 is behind 1400 bytes, on a link that takes 1500.
fn narrow() -> Tables {
    let mut tables = tables(2, &[], 1);
    let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
    let route = |address: &str, len, route, mtu| (Prefix { address: ip(address), len }, route, mtu);
    tables.routes = Routes::with_mtus([
        route("192.0.2.0", 24, via(0), 0),
        route("192.0.2.10", 32, Route::Local, 0),
        route("192.0.2.1", 32, Route::Local, 0),
        route("10.0.0.0", 24, via(1), 0),
        route("10.0.0.11", 32, via(1), 1400),
    ])
    .into();
    let known =
        [(0, "192.0.2.100", CLIENT), (1, "10.0.0.11", server_mac(11)), (1, "10.0.0.12", server_mac(12))]
            .map(|(interface, address, mac)| (InterfaceId(interface), ip(address), Some(mac)));
    tables.neighbours = Neighbours::with_mtus(&tables.interfaces, &[(InterfaceId(1), 1400)], known).into();
    tables
}

#[test]
fn an_established_packet_that_the_route_does_not_take_is_refused_and_that_of_another_route_goes_on() {
    let mut director = Director::new();
    for (sport, n) in [(4000, 11), (4001, 12)] {
        director.receive(WAN, &[from_client(sport, "S")]);
        director.receive(LAN, &[from_server(n, sport, "SA")]);
        director.receive(WAN, &[from_client(sport, "A")]);
        assert_eq!(director.receive(WAN, &[segment(sport, 1500)]).sent[0].0, LAN, "no route says less");
    }
    director.path.adopt(narrow().into());
    for _ in 0..2 {
        let out = director.receive(WAN, &[segment(4000, 1400)]);
        assert_eq!((out.sent[0].0, &out.sent[0].1.data()[..6]), (LAN, &server_mac(11)[..]));
        let out = director.receive(WAN, &[segment(4000, 1401)]);
        let error = out.sent[0].1.data();
        assert_eq!(
            (out.sent[0].0, error[34], error[35], &error[38..42]),
            (WAN, 3, 4, &1400u32.to_be_bytes()[..])
        );
        assert_eq!(director.receive(WAN, &[segment(4001, 1500)]).sent[0].0, LAN);
    }
    assert_eq!(director.dropped(DropReason::TooBig), 2);
}

#[test]
fn the_shorter_of_link_and_route_counts_whether_the_neighbour_is_known_or_not() {
    let mut tables = narrow();
    assert_eq!(tables.mtu_towards(ip("10.0.0.11")), Some(1400));
    assert_eq!(tables.mtu_towards(ip("10.0.0.12")), Some(1500));
    tables.neighbours = Neighbours::default().into();
    assert_eq!(tables.mtu_towards(ip("10.0.0.11")), Some(1400));
    assert_eq!(tables.mtu_towards(ip("10.0.0.12")), Some(1500));
    let mut interfaces: Vec<_> = tables.interfaces.iter().map(|(_, interface)| interface.clone()).collect();
    interfaces[1].mtu = 1300;
    tables.interfaces = Interfaces::new(interfaces).into();
    assert_eq!(tables.mtu_towards(ip("10.0.0.11")), Some(1300));
}
