//! One-packet scheduling of datagrams that come in fragments.

use super::shared;
use super::*;
use crate::tables::{ServiceOptions, Tunnel};

/// 192.0.2.10:80 of UDP, whose datagrams are scheduled one by one between .11 and .12, or .12 alone.
pub(super) fn by(generation: u32, forward: Forward, servers: &[u8]) -> Tables {
    let server = |&n: &u8| Server::new(ServerId(n.into()), (ip(&format!("10.0.0.{n}")), 80), 1, forward);
    let key = ServiceKey::new(Protocol::UDP, ip("192.0.2.10"), 80);
    let servers = servers.iter().map(server).collect();
    let mut service = Service::new(None, ServiceId(1), key, SchedulerKind::Rr, servers, generation);
    service.options = ServiceOptions { one_packet: true, ..ServiceOptions::default() };
    Tables { services: Services::new([Arc::new(service)]).into(), ..tables(generation, &[11, 12], 1) }
}

/// The real server that a frame went to.
fn server(frame: &Frame) -> u8 {
    frame.data()[5]
}

#[test]
fn the_fragments_of_a_datagram_follow_the_first_and_are_one_connection() {
    for forward in [Forward::Masq, Forward::Direct, Forward::Tunnel(Tunnel::Ipip)] {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut director = Director::new();
            director.path.adopt(by(2, forward, &[11, 12]).into());
            let mut all = Vec::new();
            for id in [77, 78] {
                let parts = datagram(3).into_iter().map(|mut part| {
                    part[18..20].copy_from_slice(&u16::to_be_bytes(id));
                    crate::wire::ipv4::fill_checksum(&mut part[14..34]);
                    part
                });
                let parts: Vec<_> = parts.collect();
                let mut sent = Vec::new();
                for part in order {
                    let out = director.receive(WAN, &[parts[part].clone()]);
                    assert!(out.to_twin.is_empty(), "{forward:?} {order:?}");
                    sent.extend(out.sent.into_iter().map(|(_, frame)| server(&frame)));
                }
                assert_eq!(sent, [sent[0]; 3], "{forward:?} {order:?}");
                all.push(sent[0]);
            }
            assert_ne!(all[0], all[1], "each datagram for itself");
            let counted = [11, 12].map(|n| {
                let cell = director.path.mine.server(ServerId(n));
                (cell.connections.get(), cell.in_packets.get(), cell.inactive.get())
            });
            assert_eq!(counted, [(1, 3, 0); 2], "{forward:?} {order:?}");
            assert!(director.states().is_empty());
            director.path.check_connections().unwrap();
        }
    }
}

#[test]
fn a_fragment_whose_first_one_went_to_a_server_that_is_gone_goes_to_nobody() {
    let mut director = Director::new();
    director.path.adopt(by(2, Forward::Masq, &[11]).into());
    let parts = datagram(2);
    assert_eq!(director.receive(WAN, &parts[..1]).sent.len(), 1);
    director.path.adopt(by(3, Forward::Masq, &[12]).into());
    let out = director.receive(WAN, &parts[1..]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 0));
    assert_eq!(director.path.mine.dropped(DropReason::ServerRemoved, Hook::Input).get(), 1);
}

#[test]
fn rules_at_output_and_postrouting_see_each_datagram_and_may_stop_it() {
    for (forward, drop) in [
        (Forward::Masq, "filter OUTPUT -d 10.0.0.12 -j DROP"),
        // By direct routing each is to the service still.
        (Forward::Direct, "filter OUTPUT -d 192.0.2.10 -m statistic --mode nth --every 2 --packet 1 -j DROP"),
    ] {
        let lines = [drop, "mangle POSTROUTING -m ipvs --vaddr 192.0.2.10 --vport 80"];
        let mut director = Director::new();
        let rules = Arc::new(super::hooks::rules(&lines));
        director.path.adopt(Tables { rules, ..by(2, forward, &[11, 12]) }.into());
        let parts = datagram(3);
        let sent = |director: &mut Director| -> usize {
            parts.iter().map(|part| director.receive(WAN, std::slice::from_ref(part)).sent.len()).sum()
        };
        // In turn: to .11 all of it, to .12 not one piece.
        assert_eq!((sent(&mut director), director.path.mine.rule(1).packets.get()), (3, 1), "{forward:?}");
        let mut other = datagram(1).remove(0);
        other[19] = 99;
        crate::wire::ipv4::fill_checksum(&mut other[14..34]);
        assert!(director.receive(WAN, &[other]).sent.is_empty(), "{forward:?}");
        assert_eq!(director.dropped(DropReason::Rule), 1);
    }
}

#[test]
fn in_a_full_table_datagrams_go_on_and_no_connection_goes_for_them() {
    for forward in [Forward::Masq, Forward::Direct, Forward::Tunnel(Tunnel::Ipip)] {
        for is_half_open in [false, true] {
            let mut director = Director::new();
            for port in 4000..4100 {
                let of_a_connection =
                    if is_half_open { from_client(port, "S") } else { shared::datagram(port) };
                director.receive(WAN, &[of_a_connection]);
            }
            director.path.adopt(by(2, forward, &[11, 12]).into());
            let out = director.receive(WAN, &[shared::datagram(5000), shared::datagram(5000)]);
            let mut servers: Vec<_> = out.sent.iter().map(|(_, frame)| server(frame)).collect();
            servers.sort_unstable();
            assert_eq!(servers, [11, 12], "{forward:?}");
            let flows = &director.counters[0].flows;
            assert_eq!((flows.early_drop.get(), flows.full.get()), (0, 0), "{forward:?}");
            let counted = [11, 12].map(|n| {
                let cell = director.path.mine.server(ServerId(n));
                (cell.connections.get(), cell.in_packets.get(), cell.inactive.get())
            });
            assert_eq!((counted, director.states().len()), ([(1, 1, 0); 2], 100));
        }
    }
}
