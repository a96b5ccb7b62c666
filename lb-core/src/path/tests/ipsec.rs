//! AH and ESP go with the ISAKMP exchange of the same addresses.

use super::*;
use crate::tables::{MarkRule, Marks, Settings, Sysctls, Tunnel};
use crate::wire::testing;

const ESP: u8 = 50;
const AH: u8 = 51;
const VIP: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";

/// ISAKMP of both families, on one real server each.
fn director(forward: Forward) -> Director {
    let service = |(id, (vip, server)): (u32, (&str, &str))| {
        let server = Server::new(ServerId(id), (ip(server), 500), 1, forward);
        let key = ServiceKey::new(Protocol::UDP, ip(vip), 500);
        Arc::new(Service::new(None, ServiceId(id), key, SchedulerKind::Rr, vec![server], 2))
    };
    let services = Services::new((0..).zip([(VIP, "10.0.0.11"), (VIP6, "fd00::11")]).map(service));
    let mut director = Director::new();
    director.path.adopt(Tables { services: services.into(), ..tables(2, &[11], 1) }.into());
    director
}

fn packet(macs: (Mac, Mac), from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let builder = match (ip(from), ip(to)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut frame = Vec::new();
    if protocol == 17 {
        builder.udp(500, 500).write(&mut frame, payload).unwrap();
    } else {
        builder.write(&mut frame, etherparse::IpNumber(protocol), payload).unwrap();
    }
    frame
}

/// Ends, TTL and payload of a packet.
fn read(frame: &Frame) -> (IpAddr, IpAddr, u8, Vec<u8>) {
    let frame = frame.data();
    let headers = testing::headers(frame);
    let payload = frame[usize::from(headers.l4)..headers.end()].to_vec();
    (headers.source(frame), headers.destination(frame), headers.ttl, payload)
}

const SERVER: (Mac, Mac) = ([2, 0, 0, 0, 2, 11], OUR_LAN);

#[test]
fn they_go_both_ways_with_the_addresses_of_the_exchange() {
    for (vip, client, server, protocols) in [
        (VIP, "192.0.2.100", "10.0.0.11", &[ESP, AH][..]),
        // Of IPv6, AH is an extension header, here and in the kernel.
        (VIP6, "2001:db8::100", "fd00::11", &[ESP]),
    ] {
        for &protocol in protocols {
            let mut director = director(Forward::Masq);
            director.receive(WAN, &[packet(C2D, client, vip, 17, b"isakmp")]);
            let inward = packet(C2D, client, vip, protocol, &[7; 40]);
            let outward = packet(SERVER, server, client, protocol, &[8; 40]);
            // Over the slow way, which learns the next hop, and over the straight one.
            for _ in 0..2 {
                let out = director.receive(WAN, std::slice::from_ref(&inward));
                assert_eq!(out.sent[0].0, LAN);
                assert_eq!(read(&out.sent[0].1), (ip(client), ip(server), 63, vec![7; 40]));
                let out = director.receive(LAN, std::slice::from_ref(&outward));
                assert_eq!(out.sent[0].0, WAN);
                assert_eq!(read(&out.sent[0].1), (ip(vip), ip(client), 63, vec![8; 40]));
            }
            assert_eq!(director.states(), ["UDP"], "no connection of their own");
            let cell = director.counters[0].server(ServerId(u32::from(ip(vip).is_ipv6())));
            assert_eq!((cell.in_packets.get(), cell.out_packets.get()), (3, 2));
        }
    }
}

#[test]
fn without_an_exchange_of_port_500_at_both_ends_they_are_the_hosts() {
    let mut director = director(Forward::Masq);
    let esp = packet(C2D, "192.0.2.100", VIP, ESP, &[7; 40]);
    assert_eq!(director.receive(WAN, std::slice::from_ref(&esp)).to_twin.len(), 1);
    let mut other_port = packet(C2D, "192.0.2.100", VIP, 17, b"isakmp");
    other_port[34..36].copy_from_slice(&4500u16.to_be_bytes());
    assert_eq!(director.receive(WAN, &[other_port]).sent.len(), 1);
    assert_eq!(director.receive(WAN, &[esp]).to_twin.len(), 1);
}

#[test]
fn rules_are_asked_of_those_that_no_virtual_service_has() {
    let passed = |lines: &[&str], packets: &[(PortId, Vec<u8>)]| {
        let mut director = super::hooks::director(super::hooks::rules(lines));
        let sent = |(port, frame): &(PortId, Vec<u8>)| {
            director.receive(*port, std::slice::from_ref(frame)).sent.len()
        };
        packets.iter().map(sent).collect::<Vec<_>>()
    };
    let there = |protocol: u8| (WAN, packet(C2D, "192.0.2.100", "10.0.0.11", protocol, &[7; 40]));
    let back = (LAN, packet(SERVER, "10.0.0.11", "192.0.2.100", ESP, &[8; 40]));
    assert_eq!(passed(&["filter FORWARD -p esp -j DROP"], &[there(ESP), there(AH)]), [0, 1]);
    assert_eq!(passed(&["raw PREROUTING -p ah -j DROP"], &[there(ESP), there(AH)]), [1, 0]);
    // They are no part of an exchange that passes by, and answers are of the connection that they answer.
    let lines = [
        "filter FORWARD -m state --state ESTABLISHED -j ACCEPT",
        "filter FORWARD -p udp -j ACCEPT",
        "filter FORWARD -p esp -s 192.0.2.100 -j ACCEPT",
        "filter FORWARD -j DROP",
    ];
    assert_eq!(passed(&lines, &[there(17), there(AH), back.clone()]), [1, 0, 0]);
    assert_eq!(passed(&lines, &[there(ESP), back]), [1, 1]);
}

#[test]
fn with_rules_one_worker_has_the_packets_of_both_directions() {
    let counters = counters(4);
    let uses = Arc::new(Uses::new(4, 100));
    let mut paths: Vec<_> = (0..4).map(|worker| path(worker, &counters, &uses)).collect();
    let lines = [
        "filter FORWARD -m state --state ESTABLISHED -j ACCEPT",
        "filter FORWARD -s 192.0.2.100 -j ACCEPT",
        "filter FORWARD -j DROP",
    ];
    let rules = Arc::new(super::hooks::rules(&lines));
    let tables = Arc::new(Tables { rules, ..tables(2, &[11], 1) });
    for path in &mut paths {
        path.adopt(tables.clone());
    }
    // From worker to worker, until one sends it or drops it.
    let mut sent = |port, frame: &[u8], worker: usize| {
        let mut out = Out::default();
        let burst = [Frame::new(port, frame)];
        paths[worker].receive(&mut burst.into_iter().collect(), Tick(100), &mut out);
        for _ in 0..20 {
            let Some((to, frame, steer)) = out.handed.pop() else { break };
            let mut handed = [(frame, steer)].into_iter().collect();
            paths[to.index()].receive_handed_over(&mut handed, Tick(100), &mut out);
        }
        assert!(out.handed.is_empty());
        out.sent.len()
    };
    for worker in 0..4 {
        let there = packet(C2D, "192.0.2.100", "10.0.0.11", ESP, &[7; 40]);
        let back = packet(SERVER, "10.0.0.11", "192.0.2.100", ESP, &[8; 40]);
        assert_eq!((sent(WAN, &there, worker), sent(LAN, &back, 3 - worker)), (1, 1), "by worker {worker}");
    }
}

#[test]
fn they_keep_the_exchange_alive() {
    let mut director = director(Forward::Masq);
    director.receive(WAN, &[packet(C2D, "192.0.2.100", VIP, 17, b"isakmp")]);
    for _ in 0..4 {
        director.now = Tick(director.now.0 + 20_000);
        director.turn();
        director.receive(LAN, &[packet(SERVER, "10.0.0.11", "192.0.2.100", ESP, &[8; 40])]);
    }
    assert_eq!(director.states(), ["UDP"]);
}

#[test]
fn direct_routing_and_tunnels_carry_them_as_they_are() {
    for forward in [Forward::Direct, Forward::Tunnel(Tunnel::Ipip)] {
        let mut director = director(forward);
        director.receive(WAN, &[packet(C2D, "192.0.2.100", VIP, 17, b"isakmp")]);
        let sent = packet(C2D, "192.0.2.100", VIP, AH, &[7; 40]);
        let out = director.receive(WAN, std::slice::from_ref(&sent));
        let frame = out.sent[0].1.data();
        assert_eq!(out.sent[0].0, LAN);
        assert_eq!(frame[frame.len() - 48..], sent[sent.len() - 48..], "addresses and payload");
    }
}

#[test]
fn each_fragment_goes_by_its_addresses() {
    let mut director = director(Forward::Masq);
    director.receive(WAN, &[packet(C2D, "192.0.2.100", VIP, 17, b"isakmp")]);
    let mut later = packet(C2D, "192.0.2.100", VIP, ESP, &[7; 40]);
    later[20..22].copy_from_slice(&100u16.to_be_bytes());
    testing::reseal(&mut later);
    let out = director.receive(WAN, &[later]);
    assert_eq!(read(&out.sent[0].1).1, ip("10.0.0.11"), "without waiting for the first one");

    // Of IPv6 a later fragment need not say what it is of: it does as the first one says.
    let piece = |offset: u16, more: bool, kind: u8, payload: &[u8]| {
        let head = [[kind, 0], (offset | u16::from(more)).to_be_bytes(), [0, 0], [0, 9]].concat();
        packet(C2D, "2001:db8::100", VIP6, 44, &[&head, payload].concat())
    };
    director.receive(WAN, &[packet(C2D, "2001:db8::100", VIP6, 17, b"isakmp")]);
    let options = [ESP, 0, 1, 4, 0, 0, 0, 0];
    let first = piece(0, true, 60, &[&options[..], &[7; 24]].concat());
    let later = piece(32, false, 60, &[7; 5]);
    let out = director.receive(WAN, &[later, first]);
    assert_eq!(out.sent.len(), 2);
    assert!(out.sent.iter().all(|(_, frame)| read(frame).1 == ip("fd00::11")));
}

#[test]
fn an_icmp_error_about_one_goes_to_its_sender() {
    let mut director = director(Forward::Masq);
    director.receive(WAN, &[packet(C2D, "192.0.2.100", VIP, 17, b"isakmp")]);
    let sent = packet(C2D, "192.0.2.100", VIP, ESP, &[7; 40]);
    let went = director.receive(WAN, std::slice::from_ref(&sent)).sent.remove(0).1;
    let mut error = Vec::new();
    etherparse::PacketBuilder::ethernet2(SERVER.0, SERVER.1)
        .ipv4([10, 0, 0, 77], [192, 0, 2, 100], 64)
        .icmpv4_raw(3, 4, [0, 0, 5, 0])
        .write(&mut error, &went.data()[14..])
        .unwrap();
    let out = director.receive(LAN, &[error]);
    let frame = out.sent[0].1.data();
    assert_eq!(out.sent[0].0, WAN);
    assert_eq!(frame[42 + 12..], sent[14 + 12..], "it quotes the packet as it was sent");
}

#[test]
fn of_several_workers_the_one_that_has_the_exchange_gets_them() {
    let counters = counters(4);
    let uses = Arc::new(Uses::new(4, 100));
    let mut paths: Vec<_> = (0..4).map(|worker| path(worker, &counters, &uses)).collect();
    let tables = director(Forward::Masq).path.tables;
    for path in &mut paths {
        path.adopt(tables.clone());
    }
    let esp = packet(C2D, "192.0.2.100", VIP, ESP, &[7; 40]);
    let back = packet(SERVER, "10.0.0.11", "192.0.2.100", ESP, &[8; 40]);
    let isakmp = packet(C2D, "192.0.2.100", VIP, 17, b"isakmp");
    let owners: Vec<_> = [(WAN, isakmp), (WAN, esp), (LAN, back)]
        .iter()
        .flat_map(|(port, frame)| {
            paths
                .iter_mut()
                .map(|path| {
                    let mut out = Out::default();
                    path.receive(&mut [Frame::new(*port, frame)].into_iter().collect(), Tick(100), &mut out);
                    out.handed.first().map_or(path.worker, |handed| handed.0)
                })
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(owners.iter().all(|owner| *owner == owners[0]), "{owners:?}");
}

#[test]
fn they_begin_no_connection_also_where_a_mark_is_for_all_and_the_exchange_ends() {
    let mut director = director(Forward::Masq);
    let esp = || packet(C2D, "192.0.2.100", VIP, ESP, b"sealed");
    director.receive(WAN, &[packet(C2D, "192.0.2.100", VIP, 17, b"exchange")]);
    assert_eq!(director.receive(WAN, &[esp()]).sent.len(), 1);
    // The exchange's real server goes, and there is a service for whatever comes.
    let tables = tables(3, &[12], 1);
    let server = Server {
        id: ServerId(9),
        address: ip("10.0.0.12"),
        ..tables.services.iter().next().unwrap().servers[0].clone()
    };
    let all =
        Service::new(None, ServiceId(9), ServiceKey::of_mark(7, false), SchedulerKind::Rr, vec![server], 3);
    let rule = MarkRule::any(7);
    let sysctls = Sysctls { expire_nodest_conn: 1, ..Sysctls::default() };
    director.path.adopt(
        Tables {
            services: Services::new([Arc::new(all)]).into(),
            marks: Marks(vec![rule]).into(),
            settings: Settings { sysctls, ..tables.settings },
            ..tables
        }
        .into(),
    );
    let out = director.receive(WAN, &[esp()]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1), "the host's");
    assert_eq!(director.states(), [""; 0]);
}

/// From worker to worker, until one sends it or drops it.
fn carried(paths: &mut [Path<Frame>], port: PortId, frame: &[u8], worker: usize) -> Out {
    let mut out = Out::default();
    let burst = [Frame::new(port, frame)];
    paths[worker].receive(&mut burst.into_iter().collect(), Tick(100), &mut out);
    for _ in 0..20 {
        let Some((to, frame, steer)) = out.handed.pop() else { break };
        let mut handed = [(frame, steer)].into_iter().collect();
        paths[to.index()].receive_handed_over(&mut handed, Tick(100), &mut out);
    }
    assert!(out.handed.is_empty(), "round and round");
    out
}

#[test]
fn an_error_about_one_that_is_routed_is_related_and_translated() {
    let lines = [
        "filter FORWARD -p icmp -m state --state RELATED -j ACCEPT",
        "filter FORWARD -p icmp -j DROP",
        "nat POSTROUTING -o wan -j SNAT --to-source 192.0.2.1",
    ];
    for number in [1, 4] {
        let (counters, uses) = (counters(number), Arc::new(Uses::new(number, 100)));
        let mut paths: Vec<_> = (0..number).map(|n| path(n as u16, &counters, &uses)).collect();
        let rules = Arc::new(super::hooks::rules(&lines));
        let tables = Arc::new(Tables { rules, ..tables(2, &[11], 1) });
        paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
        for (worker, protocol) in (0..number).flat_map(|worker| [(worker, ESP), (worker, AH)]) {
            // An exchange that no service has is another connection.
            if worker == 0 && protocol == AH {
                let exchange = packet(SERVER, "10.0.0.11", "192.0.2.100", 17, b"isakmp");
                carried(&mut paths, LAN, &exchange, worker);
            }
            let sent = packet(SERVER, "10.0.0.11", "192.0.2.100", protocol, &[7; 40]);
            let went = carried(&mut paths, LAN, &sent, worker).sent.remove(0).1;
            assert_eq!(read(&went).0, ip("192.0.2.1"));
            let error = super::hooks::time_exceeded(&went);
            let out = carried(&mut paths, WAN, &error, number - 1 - worker);
            assert_eq!((out.sent.len(), out.to_twin.len()), (1, 0), "{protocol} of {number}");
            let frame = out.sent[0].1.data();
            assert_eq!(read(&out.sent[0].1).1, ip("10.0.0.11"));
            assert_eq!(frame[42 + 12..], sent[14 + 12..], "it quotes the packet as it was sent");
        }
    }
}
