//! Direct routing and tunnels: packets as they leave, and what comes back in spite of it.

use super::*;
use crate::tables::{GueChecksum, Tunnel};

const VIPS: [&str; 3] = ["192.0.2.10", "192.0.2.1", "2001:db8::10"];
const TUNNELS: [Tunnel; 5] = [
    Tunnel::Ipip,
    Tunnel::Gue { port: 6080, checksum: GueChecksum::No },
    Tunnel::Gue { port: 6080, checksum: GueChecksum::Yes },
    Tunnel::Gre { checksum: false },
    Tunnel::Gre { checksum: true },
];

/// The services [`VIPS`], port 80, TCP, on one real server.
fn by(generation: u32, forward: Forward, server: &str, resolved: &[u8]) -> Tables {
    let service = |(id, address): (u32, &str)| {
        let server = Server::new(ServerId(id), (ip(server), 80), 1, forward);
        let key = ServiceKey::new(Protocol::TCP, ip(address), 80);
        Arc::new(Service::new(None, ServiceId(id), key, SchedulerKind::Rr, vec![server], generation))
    };
    let services = Services::new((0..).zip(VIPS).map(service));
    Tables { services: services.into(), ..tables(generation, resolved, 1) }
}

fn director(forward: Forward, server: &str) -> Director {
    let mut director = Director::new();
    director.path.adopt(by(2, forward, server, &[11]).into());
    director
}

fn client_of(vip: &str) -> &'static str {
    if ip(vip).is_ipv6() { "2001:db8::100" } else { "192.0.2.100" }
}

fn to(vip: &str, flags: &str) -> Vec<u8> {
    tcp(C2D, (client_of(vip), 4000), (vip, 80), flags)
}

/// What the tunnel's packet carries, its outer headers having been found right.
fn unpacked(frame: &[u8]) -> Vec<u8> {
    let Ok(Parsed::Ip(outer)) = parse(frame, frame.len(), Default::default()) else {
        panic!("no IP: {frame:x?}")
    };
    let l4 = usize::from(outer.l4);
    let (at, is_ipv6) = match outer.protocol {
        Protocol::IPIP => (l4, false),
        Protocol::IPV6 => (l4, true),
        Protocol::UDP => {
            let sum = checksum::of_transport(frame, &outer).unwrap();
            assert!(frame[l4 + 6..l4 + 8] == [0, 0] || checksum::is_good(sum), "GUE's checksum");
            (l4 + 12, frame[l4 + 9] == 41)
        }
        Protocol::GRE => {
            let has_checksum = frame[l4] == 0x80;
            assert!(
                !has_checksum || checksum::is_good(checksum::sum(&frame[l4..outer.end()])),
                "GRE's checksum"
            );
            (l4 + if has_checksum { 8 } else { 4 }, frame[l4 + 2..l4 + 4] == [0x86, 0xdd])
        }
        other => panic!("{other:?} is no tunnel"),
    };
    let ether_type: [u8; 2] = if is_ipv6 { [0x86, 0xdd] } else { [8, 0] };
    [&frame[..12], &ether_type, &frame[at..outer.end()]].concat()
}

#[test]
fn a_syn_asks_for_no_more_than_fits_the_tunnel_where_its_service_says_so() {
    let clamping = |forward, clamp_mss| {
        let tables = by(3, forward, "10.0.0.11", &[11]);
        let services = tables.services.iter().map(|service| {
            let mut service = (**service).clone();
            service.options.clamp_mss = clamp_mss;
            Arc::new(service)
        });
        let services = Services::new(services.collect::<Vec<_>>()).into();
        let mut director = Director::new();
        director.path.adopt(Tables { services, ..tables }.into());
        director
    };
    let syn = |vip: &str, flags: &str, before: &[u8], mss: u16| {
        let options = [before, &[2, 4, (mss >> 8) as u8, mss as u8]].concat();
        let bare = to(vip, flags);
        let (l3, l4) = (14, if ip(vip).is_ipv6() { 54 } else { 34 });
        let mut frame = [&bare[..l4 + 20], &options, &[0; 8][..8 - options.len()]].concat();
        frame[l4 + 12] = 7 << 4;
        let len = (frame.len() - l3) as u16;
        if ip(vip).is_ipv6() {
            frame[l3 + 4..l3 + 6].copy_from_slice(&(len - 40).to_be_bytes());
        } else {
            frame[l3 + 2..l3 + 4].copy_from_slice(&len.to_be_bytes());
            crate::wire::ipv4::fill_checksum(&mut frame[14..34]);
        }
        frame[l4 + 16..l4 + 18].fill(0);
        let Ok(Parsed::Ip(headers)) = parse(&frame, frame.len(), Default::default()) else { panic!() };
        let sum = checksum::finish(checksum::of_transport(&frame, &headers).unwrap());
        frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let asked = |frame: &[u8]| {
        let Ok(Parsed::Ip(headers)) = parse(frame, frame.len(), Default::default()) else { panic!() };
        assert!(checksum::is_good(checksum::of_transport(frame, &headers).unwrap()));
        let header = crate::wire::tcp::with_options(frame, headers.l4.into()).unwrap();
        let (_, data) = crate::wire::tcp::option(header, crate::wire::tcp::MSS).unwrap();
        u16::from_be_bytes([data[0], data[1]])
    };
    for tunnel in TUNNELS {
        for vip in VIPS {
            let ip_and_tcp = if ip(vip).is_ipv6() { 60 } else { 40 };
            let fits = 1500 - tunnel.overhead(ip("10.0.0.11")) as u16 - ip_and_tcp;
            // At an even and at an odd byte of the header; sent a second time.
            for before in [&[][..], &[1], &[1, 1], &[1, 1, 1]] {
                for (clamps, mss, left) in
                    [(true, 1460, fits), (true, fits, fits), (true, 536, 536), (false, 1460, 1460)]
                {
                    let mut director = clamping(Forward::Tunnel(tunnel), clamps);
                    for _ in 0..2 {
                        let out = director.receive(WAN, &[syn(vip, "S", before, mss)]);
                        assert_eq!(
                            asked(&unpacked(out.sent[0].1.data())),
                            left,
                            "{tunnel:?} {vip} {clamps} {mss}"
                        );
                    }
                }
            }
            let mut director = clamping(Forward::Tunnel(tunnel), true);
            director.receive(WAN, &[to(vip, "S")]);
            let out = director.receive(WAN, &[syn(vip, "A", &[], 1460)]);
            assert_eq!(asked(&unpacked(out.sent[0].1.data())), 1460, "no SYN");
        }
    }
    let mut director = clamping(Forward::Direct, true);
    let out = director.receive(WAN, &[syn(VIPS[0], "S", &[], 1460)]);
    assert_eq!(asked(out.sent[0].1.data()), 1460, "no tunnel");
    // By a mark that rules give, which the packet's addresses do not tell.
    let tables = by(3, Forward::Tunnel(Tunnel::Ipip), "10.0.0.11", &[11]);
    let mut service = Service::clone(tables.services.iter().next().unwrap());
    service.key = ServiceKey::of_mark(7, false);
    service.options.clamp_mss = true;
    let rules = super::hooks::rules(&["mangle PREROUTING -p tcp -j MARK --set-mark 7"]);
    let services = Services::new([Arc::new(service)]).into();
    let mut director = Director::new();
    director.path.adopt(Tables { services, rules: rules.into(), ..tables }.into());
    let out = director.receive(WAN, &[syn(VIPS[0], "S", &[], 1460)]);
    assert_eq!(asked(&unpacked(out.sent[0].1.data())), 1500 - 20 - 40);
}

#[test]
fn direct_routing_changes_mac_addresses_and_ttl_alone() {
    for vip in VIPS {
        let server = if ip(vip).is_ipv6() { "fd00::11" } else { "10.0.0.11" };
        let mut director = director(Forward::Direct, server);
        // Over the slow way, which learns the next hop, and over the straight one.
        for flags in ["S", "A"] {
            let sent = to(vip, flags);
            let out = director.receive(WAN, std::slice::from_ref(&sent));
            let (port, frame) = &out.sent[0];
            assert_eq!(*port, LAN);
            assert_eq!(frame.data()[..12], [server_mac(11), OUR_LAN].concat());
            assert_eq!(read(frame), (ip(client_of(vip)), 4000, ip(vip), 80, 63));
            assert_eq!(frame.data()[38..], sent[38..], "behind TTL and checksum");
        }
        assert_eq!(director.states(), ["ESTABLISHED"]);
        director.receive(WAN, &[to(vip, "FA")]);
        assert_eq!(director.states(), ["FIN_WAIT"]);
        director.path.check_connections().unwrap();
    }
}

#[test]
fn one_real_server_has_the_same_client_port_of_many_services() {
    let mut director = director(Forward::Direct, "10.0.0.11");
    for vip in &VIPS[..2] {
        director.receive(WAN, &[to(vip, "S")]);
    }
    assert_eq!(director.states(), ["SYN_RECV"; 2]);
    let out = director.receive(WAN, &[to(VIPS[0], "A"), to(VIPS[1], "A")]);
    assert_eq!(out.sent.len(), 2);
    assert_eq!(director.states(), ["ESTABLISHED"; 2]);
    director.path.check_connections().unwrap();
}

#[test]
fn tunnels_carry_either_family_in_either() {
    for tunnel in TUNNELS {
        for vip in VIPS {
            for server in ["10.0.0.11", "fd00::11"] {
                let mut director = director(Forward::Tunnel(tunnel), server);
                for flags in ["S", "A"] {
                    let out = director.receive(WAN, &[to(vip, flags)]);
                    let frame = out.sent[0].1.data();
                    assert_eq!(frame[..12], [server_mac(11), OUR_LAN].concat(), "{tunnel:?} to {server}");
                    let Ok(Parsed::Ip(outer)) = parse(frame, frame.len(), Default::default()) else {
                        panic!()
                    };
                    let from = if outer.is_ipv6 { "fd00::1" } else { "10.0.0.1" };
                    assert_eq!((outer.source(frame), outer.destination(frame)), (ip(from), ip(server)));
                    assert_eq!(outer.ttl, 63);
                    let inner = unpacked(frame);
                    assert_eq!(read(&Frame::new(LAN, &inner)), (ip(client_of(vip)), 4000, ip(vip), 80, 63));
                    assert_eq!(frame.len(), inner.len() + tunnel.overhead(ip(server)));
                }
                let mut listed = Vec::new();
                director
                    .path
                    .list(0, u32::MAX, director.now, &mut |flow| listed.push((flow.state, flow.server)));
                assert_eq!(listed, [("ESTABLISHED", (ip(server), 80))], "{tunnel:?} to {server}");
                director.path.check_connections().unwrap();
            }
        }
    }
}

#[test]
fn a_connection_follows_the_tunnel_and_the_next_hop_that_its_real_server_has_now() {
    let mut director = director(Forward::Tunnel(Tunnel::Ipip), "10.0.0.11");
    let protocol = |out: Out| (out.sent.len() == 1).then(|| out.sent[0].1.data()[23]);
    assert_eq!(protocol(director.receive(WAN, &[to(VIPS[0], "S")])), Some(Protocol::IPIP.0));
    let gre = Forward::Tunnel(Tunnel::Gre { checksum: false });
    director.path.adopt(by(3, gre, "10.0.0.11", &[11]).into());
    assert_eq!(protocol(director.receive(WAN, &[to(VIPS[0], "A")])), Some(Protocol::GRE.0));
    director.path.adopt(by(4, gre, "10.0.0.11", &[]).into());
    let out = director.receive(WAN, &[to(VIPS[0], "A")]);
    assert_eq!((out.sent.len(), out.resolve), (0, vec![ip("10.0.0.11")]));
    // By another method now: the connection keeps its own, of the plain kind.
    director.path.adopt(by(5, Forward::Masq, "10.0.0.11", &[11]).into());
    assert_eq!(protocol(director.receive(WAN, &[to(VIPS[0], "A")])), Some(Protocol::IPIP.0));
}

#[test]
fn a_packet_that_waits_for_its_next_hop_leaves_by_its_tunnel() {
    for server in ["10.0.0.11", "fd00::11"] {
        let mut director = Director::new();
        let forward = Forward::Tunnel(Tunnel::Ipip);
        director.path.adopt(by(2, forward, server, &[]).into());
        let out = director.receive(WAN, &[to(VIPS[0], "S")]);
        assert_eq!((out.sent.len(), out.resolve), (0, vec![ip(server)]));
        director.path.adopt(by(3, forward, server, &[11]).into());
        let out = director.turn();
        let inner = unpacked(out.sent[0].1.data());
        assert_eq!(read(&Frame::new(LAN, &inner)), (ip("192.0.2.100"), 4000, ip(VIPS[0]), 80, 63));
    }
}

/// With so many bytes of data, DF as `dont_fragment` says.
fn long(vip: &str, len: usize, dont_fragment: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1);
    let builder = match (ip(client_of(vip)), ip(vip)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("one family"),
    };
    builder.tcp(4000, 80, 1000, 1024).ack(5).write(&mut frame, &vec![7; len]).unwrap();
    if ip(vip).is_ipv4() {
        frame[20] = if dont_fragment { 0x40 } else { 0 };
        crate::wire::ipv4::fill_checksum(&mut frame[14..34]);
    }
    frame
}

#[test]
fn what_does_not_fit_into_the_tunnel_is_reported_with_the_mtu_that_is_left() {
    for (vip, server, mtu) in [
        (VIPS[0], "10.0.0.11", 1480_u32),
        (VIPS[0], "fd00::11", 1460),
        (VIPS[2], "10.0.0.11", 1480),
        (VIPS[2], "fd00::11", 1460),
    ] {
        let mut director = director(Forward::Tunnel(Tunnel::Ipip), server);
        director.receive(WAN, &[to(vip, "S")]);
        let header = if ip(vip).is_ipv6() { 60 } else { 40 };
        let fits = long(vip, mtu as usize - header, true);
        assert_eq!(unpacked(director.receive(WAN, &[fits]).sent[0].1.data()).len(), 14 + mtu as usize);
        let out = director.receive(WAN, &[long(vip, mtu as usize - header + 1, true)]);
        let (port, error) = &out.sent[0];
        assert_eq!(*port, WAN);
        let icmp = &error.data()[14 + header - 20..];
        let kind: [u8; 2] = if ip(vip).is_ipv6() { [2, 0] } else { [3, 4] };
        assert_eq!((&icmp[..2], &icmp[4..8]), (&kind[..], &mtu.to_be_bytes()[..]), "{vip} by {server}");
        assert_eq!(director.dropped(DropReason::TooBig), 1);
    }
}

#[test]
fn a_packet_that_may_be_split_leaves_in_pieces_of_the_outer_or_the_inner_one() {
    let split = |server| {
        let mut director = director(Forward::Tunnel(Tunnel::Ipip), server);
        director.receive(WAN, &[to(VIPS[0], "S")]);
        director.receive(WAN, &[long(VIPS[0], 1460, false)]).sent
    };
    let headers = |frame: &[u8]| match parse(frame, frame.len(), Default::default()) {
        Ok(Parsed::Ip(headers)) => headers,
        other => panic!("{other:?}: {frame:x?}"),
    };
    let over_ipv4 = split("10.0.0.11");
    let outer = [0, 1].map(|n| headers(over_ipv4[n].1.data()));
    assert_eq!(
        outer.map(|piece| (piece.ip_len, piece.fragment)),
        [(1500, Fragment::First), (40, Fragment::Later)]
    );
    assert_eq!(outer[0].fragment_id, outer[1].fragment_id);
    let over_ipv6 = split("fd00::11");
    let inner: Vec<_> = over_ipv6.iter().map(|(_, frame)| headers(&unpacked(frame.data()))).collect();
    assert_eq!(
        inner.iter().map(|piece| piece.fragment).collect::<Vec<_>>(),
        [Fragment::First, Fragment::Later]
    );
    assert_eq!(inner.iter().map(Headers::l4_len).sum::<usize>(), 1480);
    assert!(over_ipv6.iter().all(|(_, frame)| frame.data().len() <= 1514));
}

#[test]
fn pmtu_disc_0_splits_the_packet_of_a_tunnel_over_ipv4_though_what_it_carries_may_not_be() {
    let without = |server, generation| {
        let mut tables = by(generation, Forward::Tunnel(Tunnel::Ipip), server, &[11]);
        tables.settings.sysctls.pmtu_disc = 0;
        tables
    };
    let mut director = director(Forward::Tunnel(Tunnel::Ipip), "10.0.0.11");
    director.path.adopt(without("10.0.0.11", 3).into());
    director.receive(WAN, &[to(VIPS[0], "S")]);
    let read = |frame: &Frame| match parse(frame.data(), frame.frame_len(), Default::default()) {
        Ok(Parsed::Ip(headers)) => headers,
        other => panic!("{other:?}"),
    };
    // One that fits is not told from one that may be split either.
    for len in [10, 1400, 1460] {
        let out = director.receive(WAN, &[long(VIPS[0], len, true)]);
        let outer: Vec<_> = out.sent.iter().map(|(_, frame)| read(frame)).collect();
        assert!(outer.iter().all(|piece| !piece.dont_fragment && piece.ip_len <= 1500), "{len}: {outer:?}");
        assert_eq!(outer.len(), if len == 1460 { 2 } else { 1 }, "{len}");
    }
    assert_eq!(director.dropped(DropReason::TooBig), 0);
    // What routers may not split is told of as before: IPv6, and what goes over it.
    for (vip, server) in [(VIPS[2], "10.0.0.11"), (VIPS[0], "fd00::11")] {
        let mut director = self::director(Forward::Tunnel(Tunnel::Ipip), server);
        director.path.adopt(without(server, 3).into());
        director.receive(WAN, &[to(vip, "S")]);
        director.receive(WAN, &[long(vip, 1440, true)]);
        assert_eq!(director.dropped(DropReason::TooBig), 1, "{vip} {server}");
    }
}

#[test]
fn fragments_go_on_by_every_method() {
    for (forward, server) in [
        (Forward::Direct, "10.0.0.11"),
        (Forward::Tunnel(Tunnel::Ipip), "10.0.0.11"),
        (Forward::Tunnel(Tunnel::Gue { port: 6080, checksum: GueChecksum::Yes }), "fd00::11"),
    ] {
        let mut tables = by(2, forward, server, &[11]);
        let tcp = tables.services.iter().find(|service| service.key.address == ip(VIPS[0])).unwrap().clone();
        let key = ServiceKey { protocol: Protocol::UDP, ..tcp.key };
        let udp = Service::new(None, ServiceId(7), key, SchedulerKind::Rr, tcp.servers.clone(), 2);
        tables.services = Services::new([Arc::new(udp)]).into();
        let mut director = Director::new();
        director.path.adopt(tables.into());
        let parts = datagram(3);
        let sent: Vec<_> =
            [2, 0, 1].iter().flat_map(|&n| director.receive(WAN, &[parts[n].clone()]).sent).collect();
        assert_eq!(sent.len(), 3, "{forward:?}");
        for (_, frame) in &sent {
            let inner =
                if forward == Forward::Direct { frame.data().to_vec() } else { unpacked(frame.data()) };
            assert_eq!(inner[26..34], [192, 0, 2, 100, 192, 0, 2, 10], "{forward:?}");
        }
        assert_eq!(director.states(), ["UDP"]);
    }
}

/// An ICMP error from `from`, which quotes so much of a frame's packet.
fn error_about(
    macs: (Mac, Mac),
    from: &str,
    frame: &[u8],
    kind: [u8; 2],
    rest: u32,
    quote: usize,
) -> Vec<u8> {
    let quoted = &frame[14..frame.len().min(14 + quote)];
    let mut out = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let rest = rest.to_be_bytes();
    match ip(from) {
        IpAddr::V4(from) => builder
            .ipv4(from.octets(), quoted[12..16].try_into().unwrap(), 64)
            .icmpv4_raw(kind[0], kind[1], rest)
            .write(&mut out, quoted)
            .unwrap(),
        IpAddr::V6(from) => builder
            .ipv6(from.octets(), quoted[8..24].try_into().unwrap(), 64)
            .icmpv6_raw(kind[0], kind[1], rest)
            .write(&mut out, quoted)
            .unwrap(),
    }
    out
}

#[test]
fn an_error_about_what_the_real_server_sent_by_another_way_goes_on_to_it_as_it_is() {
    for forward in [Forward::Direct, Forward::Tunnel(Tunnel::Gre { checksum: false })] {
        let mut director = director(forward, "10.0.0.11");
        director.receive(WAN, &[to(VIPS[0], "S")]);
        let answer = tcp((server_mac(11), CLIENT), (VIPS[0], 80), ("192.0.2.100", 4000), "SA");
        let error = error_about(C2D, "192.0.2.77", &answer, [3, 4], 1400, 548);
        let out = director.receive(WAN, std::slice::from_ref(&error));
        let (port, frame) = &out.sent[0];
        assert_eq!(*port, LAN);
        let inner = if forward == Forward::Direct { frame.data().to_vec() } else { unpacked(frame.data()) };
        assert_eq!(inner[26..], error[26..], "{forward:?}: behind the TTL it is the same");
        assert_eq!(inner[22], 63);
    }
}

#[test]
fn an_error_about_a_tunnels_packet_becomes_one_about_what_it_carried() {
    for tunnel in TUNNELS {
        for vip in VIPS {
            for server in ["10.0.0.11", "fd00::11"] {
                let mut director = director(Forward::Tunnel(tunnel), server);
                let outer = director.receive(WAN, &[to(vip, "S")]).sent[0].1.data().to_vec();
                let (router, too_big) =
                    if ip(server).is_ipv6() { ("fd00::7", [2, 0]) } else { ("10.0.0.7", [3, 4]) };
                let error = error_about((server_mac(11), OUR_LAN), router, &outer, too_big, 1400, 548);
                let out = director.receive(LAN, &[error]);
                assert_eq!(out.sent.len(), 1, "{tunnel:?} {vip} {server}: {:?}", out.to_twin);
                let (port, frame) = &out.sent[0];
                let frame = frame.data();
                assert_eq!((*port, &frame[..12]), (WAN, &[CLIENT, OUR_WAN].concat()[..]));
                let Ok(Parsed::Ip(headers)) = parse(frame, frame.len(), Default::default()) else { panic!() };
                assert_eq!(
                    (headers.source(frame), headers.destination(frame)),
                    (ip(vip), ip(client_of(vip)))
                );
                assert!(checksum::is_good(checksum::of_transport(frame, &headers).unwrap()));
                let icmp = &frame[usize::from(headers.l4)..headers.end()];
                let kind: [u8; 2] = if ip(vip).is_ipv6() { [2, 0] } else { [3, 4] };
                let mtu = 1400 - tunnel.overhead(ip(server)) as u32;
                assert_eq!(
                    (&icmp[..2], &icmp[4..8]),
                    (&kind[..], &mtu.to_be_bytes()[..]),
                    "{tunnel:?} {vip}"
                );
                assert_eq!(icmp[8..], unpacked(&outer)[14..]);
                assert_eq!(director.dropped(DropReason::TunnelError), 1);
            }
        }
    }
}

#[test]
fn an_error_about_a_tunnel_of_nobody_is_the_hosts() {
    let mut director = director(Forward::Tunnel(Tunnel::Ipip), "10.0.0.11");
    let outer = director.receive(WAN, &[to(VIPS[0], "S")]).sent[0].1.data().to_vec();
    let mut other = outer.clone();
    // Another client port.
    other[54] ^= 1;
    let error = error_about((server_mac(11), OUR_LAN), "10.0.0.7", &other, [3, 3], 0, 548);
    let out = director.receive(LAN, &[error]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1));
}

#[test]
fn a_real_server_on_this_host_gets_its_packets_as_they_came() {
    for forward in [Forward::Direct, Forward::Tunnel(Tunnel::Ipip)] {
        let mut director = director(forward, "10.0.0.1");
        for flags in ["S", "A"] {
            let sent = to(VIPS[0], flags);
            let out = director.receive(WAN, std::slice::from_ref(&sent));
            assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1), "{forward:?}");
            assert_eq!(out.to_twin[0].data(), sent);
        }
        assert_eq!(director.states(), ["ESTABLISHED"]);
    }
}

#[test]
fn a_connection_goes_on_by_its_method_when_the_real_servers_is_another() {
    let mut director = director(Forward::Tunnel(Tunnel::Gre { checksum: true }), "10.0.0.11");
    director.receive(WAN, &[to(VIPS[0], "S")]);
    director.path.adopt(by(3, Forward::Direct, "10.0.0.11", &[11]).into());
    let out = director.receive(WAN, &[to(VIPS[0], "A"), to(VIPS[1], "S")]);
    let frames: Vec<_> = out.sent.iter().map(|(_, frame)| frame.data()).collect();
    assert_eq!(frames[0][23], 4, "a tunnel still, the plainest there is");
    assert_eq!(read(&Frame::new(LAN, &unpacked(frames[0]))).2, ip(VIPS[0]));
    assert_eq!(read(&out.sent[1].1).2, ip(VIPS[1]));
}

#[test]
fn a_removed_real_server_gets_nothing_more_by_any_method() {
    for forward in [Forward::Direct, Forward::Tunnel(Tunnel::Ipip)] {
        let mut director = director(forward, "10.0.0.11");
        director.receive(WAN, &[to(VIPS[0], "S")]);
        director.path.adopt(tables(3, &[11, 12], 1).into());
        assert!(director.receive(WAN, &[to(VIPS[0], "A")]).sent.is_empty());
        assert_eq!(director.dropped(DropReason::ServerRemoved), 1);
    }
}

#[test]
fn a_tunnel_from_an_interface_without_an_address_goes_nowhere() {
    let mut director = Director::new();
    let mut tables = by(2, Forward::Tunnel(Tunnel::Ipip), "fd00::11", &[11]);
    let bare = tables.interfaces.iter().map(|(_, interface)| Interface { ipv6: None, ..interface.clone() });
    tables.interfaces = Interfaces::new(bare.collect()).into();
    director.path.adopt(tables.into());
    assert!(director.receive(WAN, &[to(VIPS[0], "S")]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::NoTunnelSource), 1);
}

#[test]
fn with_several_workers_errors_about_tunnels_come_to_the_connections_owner() {
    const WORKERS: usize = 4;
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    for path in &mut paths {
        path.adopt(by(1, Forward::Tunnel(Tunnel::Ipip), "fd00::11", &[11]).into());
    }
    for n in 0..20u16 {
        let syn = tcp(C2D, ("192.0.2.100", 4000 + n), (VIPS[0], 80), "S");
        let sent = deliver(&mut paths, usize::from(n) % WORKERS, WAN, &syn);
        let (owner, outer) = &sent[0];
        let error = error_about((server_mac(11), OUR_LAN), "fd00::7", outer.data(), [1, 4], 0, 548);
        let told = deliver(&mut paths, usize::from(n / 3) % WORKERS, LAN, &error);
        assert_eq!((told.len(), told[0].0), (1, *owner));
    }
}

#[test]
fn an_answer_in_the_burst_in_which_its_connection_begins_anew_by_direct_routing_is_not_that_connections() {
    for is_ruled in [false, true] {
        let rules = match is_ruled {
            true => super::hooks::rules(&["filter INPUT -j ACCEPT"]),
            false => crate::rule::Rules::default(),
        };
        let rules = Arc::new(rules);
        let mut director = Director::new();
        director.path.adopt(by(2, Forward::Masq, "10.0.0.11", &[11]).into());
        let answer =
            |flags| tcp(((server_mac(11)), OUR_WAN), ("10.0.0.11", 80), ("192.0.2.100", 4000), flags);
        director.receive(WAN, &[to("192.0.2.10", "S")]);
        director.receive(WAN, &[answer("SA")]);
        director.receive(WAN, &[to("192.0.2.10", "A"), to("192.0.2.10", "R")]);
        assert_eq!(director.states(), ["CLOSE"]);
        director.path.adopt(Tables { rules, ..by(3, Forward::Direct, "10.0.0.11", &[11]) }.into());
        let out = director.receive(WAN, &[to("192.0.2.10", "S"), answer("A")]);
        let sources: Vec<_> = out.sent.iter().map(|(_, frame)| read(frame).0).collect();
        // The answer goes as what is no connection's.
        assert_eq!(sources, [ip("192.0.2.100"), ip("10.0.0.11")], "{is_ruled}");
        assert_eq!(director.counters[0].server(ServerId(0)).in_packets.get(), 4, "{is_ruled}");
    }
}
