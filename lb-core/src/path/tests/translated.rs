//! FullNAT into the other address family: an IPv6 client and an IPv4 real server, an IPv4 client and an IPv6 one.

use super::*;
use crate::conntrack::Status;
use crate::flow::carry::Salvage;
use crate::rule::Rules;
use crate::tables::{ClientMask, Persistence, ProxyVersion, ServiceOptions};
use crate::time::Timeout;
use crate::wire::{ipv4, udp};

type Ends = (IpAddr, u16, IpAddr, u16, u8);

/// As [`tables`], with a UDP service for both families, and each real server by FullNAT in the family that its service is not of.
pub(super) fn translating(generation: u32, resolved: &[u8]) -> Tables {
    with(generation, resolved, ServiceOptions::default())
}

pub(super) fn with(generation: u32, resolved: &[u8], options: ServiceOptions) -> Tables {
    let tables = tables(generation, resolved, 1);
    let exchange = |address: IpAddr| match address {
        IpAddr::V4(a) => ip(&format!("fd00::{}", a.octets()[3])),
        IpAddr::V6(a) => ip(&format!("10.0.0.{:x}", a.segments()[7])),
    };
    let mut services: Vec<Service> = tables.services.iter().map(|service| (**service).clone()).collect();
    let mut udp6 = services.iter().find(|service| service.key.address.is_ipv6()).unwrap().clone();
    (udp6.id, udp6.key.protocol) = (ServiceId(9), Protocol::UDP);
    for (n, server) in (40..).zip(&mut udp6.servers) {
        server.id = ServerId(n);
    }
    services.push(udp6);
    for service in &mut services {
        service.options = options;
        for server in &mut service.servers {
            (server.address, server.forward) = (exchange(server.address), Forward::FullNat);
        }
    }
    Tables { services: Services::new(services.into_iter().map(Arc::new)).into(), ..tables }
}

fn director_of(tables: Tables) -> Director {
    let mut director = Director::new();
    director.path.adopt(tables.into());
    director
}

fn director() -> Director {
    director_of(translating(2, &[11, 12]))
}

const V4: [&str; 2] = ["192.0.2.100", "192.0.2.10"];
const V6: [&str; 2] = ["2001:db8::100", "2001:db8::10"];

/// Client and virtual service; the director's address that their real server sees.
const BOTH: [([&str; 2], &str); 2] = [(V4, "fd00::1"), (V6, "10.0.0.1")];

fn to_service([client, vip]: [&str; 2], sport: u16, flags: &str) -> Vec<u8> {
    tcp(C2D, (client, sport), (vip, 80), flags)
}

/// What the real server that got this answers.
fn answer((src, sport, dst, dport, _): Ends, flags: &str) -> Vec<u8> {
    let macs = (server_mac(if dst == ip("fd00::12") || dst == ip("10.0.0.12") { 12 } else { 11 }), OUR_LAN);
    tcp(macs, (&dst.to_string(), dport), (&src.to_string(), sport), flags)
}

/// A datagram of so many bytes in one packet.
fn datagram_of(macs: (Mac, Mac), from: (&str, u16), to: (&str, u16), len: usize) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let builder = match (ip(from.0), ip(to.0)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("one family"),
    };
    let data: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
    let mut frame = Vec::new();
    builder.udp(from.1, to.1).write(&mut frame, &data).unwrap();
    frame
}

fn one(out: &Out, port: PortId) -> Ends {
    assert_eq!(out.sent.len(), 1);
    assert_eq!(out.sent[0].0, port);
    read(&out.sent[0].1)
}

fn headers(frame: &Frame) -> Headers {
    let Ok(Parsed::Ip(headers)) = parse(frame.data(), frame.frame_len(), Default::default()) else {
        panic!("{:x?}", frame.data())
    };
    headers
}

#[test]
fn a_connection_goes_into_the_other_family_and_back() {
    for (ends, own) in BOTH {
        let [client, vip] = ends;
        let mut director = director();
        let out = director.receive(WAN, &[to_service(ends, 4000, "S")]);
        let syn = one(&out, LAN);
        assert_eq!((syn.0, syn.3, syn.4), (ip(own), 8080, 63));
        assert_eq!(syn.0.is_ipv6(), syn.2.is_ipv6());
        assert_eq!(out.sent[0].1.data()[..12], [server_mac(11), OUR_LAN].concat());
        assert!(out.sent[0].1.data().ends_with(b"payload"));
        let back = director.receive(LAN, &[answer(syn, "SA")]);
        assert_eq!(one(&back, WAN), (ip(vip), 80, ip(client), 4000, 63));
        assert_eq!(back.sent[0].1.data()[..12], [CLIENT, OUR_WAN].concat());
        assert_eq!(one(&director.receive(WAN, &[to_service(ends, 4000, "A")]), LAN), syn);
        assert_eq!(director.states(), ["ESTABLISHED"]);
        let mut listed = vec![];
        director.path.list(0, u32::MAX, director.now, &mut |flow| {
            listed.push((flow.client, flow.virtual_, flow.server, flow.local));
        });
        let client = (ip(client), 4000);
        assert_eq!(listed, [(client, (ip(vip), 80), (syn.2, 8080), Some((syn.0, syn.1)))]);
        let cell = director.counters[0].server(ServerId(if ip(vip).is_ipv6() { 6 } else { 2 }));
        assert_eq!((cell.in_packets.get(), cell.out_packets.get()), (2, 1));
        director.path.check_connections().unwrap();
    }
}

#[test]
fn answers_go_on_when_the_tables_change_and_no_service_is_of_their_family() {
    for (ends, _) in BOTH {
        let only = |generation| {
            let tables = translating(generation, &[11, 12]);
            let of_one = tables
                .services
                .iter()
                .filter(|service| service.key.address.is_ipv6() == ip(ends[0]).is_ipv6());
            let services = Services::new(of_one.cloned().collect::<Vec<_>>());
            Tables { services: services.into(), ..tables }
        };
        let mut director = director_of(only(2));
        let syn = one(&director.receive(WAN, &[to_service(ends, 4000, "S")]), LAN);
        director.path.adopt(only(3).into());
        assert_eq!(one(&director.receive(LAN, &[answer(syn, "SA")]), WAN).2, ip(ends[0]));
        assert_eq!(one(&director.receive(WAN, &[to_service(ends, 4000, "A")]), LAN), syn);
    }
}

#[test]
fn local_addresses_are_those_of_the_real_servers_family() {
    let mut tables = translating(2, &[11, 12]);
    let services = tables.services.iter().map(|service| {
        let mut service = Service::clone(service);
        service.local_addresses = ["192.0.2.1", "fd00::1", "10.0.0.1"].map(ip).to_vec();
        Arc::new(service)
    });
    tables.services = Services::new(services).into();
    let mut director = director_of(tables);
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..24 {
        for (ends, _) in BOTH {
            seen.insert(one(&director.receive(WAN, &[to_service(ends, 4000 + n, "S")]), LAN).0);
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["10.0.0.1", "192.0.2.1", "fd00::1"].map(ip));
}

#[test]
fn a_datagram_without_a_checksum_gets_one() {
    let mut director = director();
    let mut frame = datagram_of(C2D, ("192.0.2.100", 5353), ("192.0.2.10", 80), 33);
    frame[14 + 20 + udp::CHECKSUM..14 + 28].fill(0);
    let (src, sport, dst, dport, _) = one(&director.receive(WAN, &[frame]), LAN);
    assert_eq!((src, dst, dport), (ip("fd00::1"), ip("fd00::11"), 8080));
    let back = datagram_of((server_mac(11), OUR_LAN), ("fd00::11", 8080), ("fd00::1", sport), 7);
    assert_eq!(
        one(&director.receive(LAN, &[back]), WAN),
        (ip("192.0.2.10"), 80, ip("192.0.2.100"), 5353, 63)
    );
    // In fragments nobody has all of what it would cover.
    let mut first = datagram(3).remove(0);
    first[14 + 20 + udp::CHECKSUM..14 + 28].fill(0);
    assert!(director.receive(WAN, &[first]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::Untranslatable), 1);
}

/// What a receiver puts together: the data of a datagram from its transport header on.
fn together(pieces: &[(PortId, Frame)]) -> Vec<u8> {
    let mut data = vec![];
    for (_, piece) in pieces {
        let headers = headers(piece);
        let (from, part) =
            (usize::from(headers.fragment_offset), &piece.data()[headers.l4.into()..headers.end()]);
        data.resize(data.len().max(from + part.len()), 0);
        data[from..from + part.len()].copy_from_slice(part);
    }
    data
}

/// The checksum of a datagram put together, between these ends.
fn is_sealed(data: &[u8], src: IpAddr, dst: IpAddr) -> bool {
    let octets = |address| match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let rest = [0, 17, (data.len() >> 8) as u8, data.len() as u8];
    let all = [octets(src), octets(dst), rest.to_vec(), data.to_vec()].concat();
    checksum::is_good(checksum::sum(&all))
}

#[test]
fn ipv4_that_may_be_split_leaves_in_pieces_that_every_ipv6_link_takes() {
    let mut director = director();
    let mut frame = datagram_of(C2D, ("192.0.2.100", 5353), ("192.0.2.10", 80), 1472);
    // etherparse sets DF.
    frame[20] = 0;
    ipv4::fill_checksum(&mut frame[14..34]);
    let out = director.receive(WAN, std::slice::from_ref(&frame));
    assert_eq!(out.sent.len(), 2);
    let all: Vec<_> = out.sent.iter().map(|(_, frame)| headers(frame)).collect();
    assert!(
        all.iter().all(|h| h.is_ipv6 && h.ip_len <= 1280 && h.fragment_id == all[0].fragment_id),
        "{all:?}"
    );
    let data = together(&out.sent);
    assert_eq!(data[8..], frame[42..]);
    assert!(is_sealed(&data, ip("fd00::1"), ip("fd00::11")));
}

#[test]
fn what_does_not_fit_is_refused_with_the_mtu_of_its_own_family() {
    let mut director = director();
    // IPv4 with DF grows by 20 bytes.
    let frame = datagram_of(C2D, ("192.0.2.100", 5353), ("192.0.2.10", 80), 1460);
    let out = director.receive(WAN, std::slice::from_ref(&frame));
    let error = out.sent[0].1.data();
    assert_eq!(
        (out.sent[0].0, error[34], error[35], &error[38..42]),
        (WAN, 3, 4, &1480u32.to_be_bytes()[..])
    );
    assert_eq!(error[42 + 12..42 + 28], frame[14 + 12..14 + 28], "as it came");
    assert_eq!(director.dropped(DropReason::TooBig), 1);
    let fits = datagram_of(C2D, ("192.0.2.100", 5353), ("192.0.2.10", 80), 1452);
    assert_eq!(headers(&director.receive(WAN, &[fits]).sent[0].1).ip_len, 1500);

    // IPv6 becomes shorter; up to 1260 bytes it may be split.
    let mut narrow = translating(3, &[]);
    let mut interfaces: Vec<_> = narrow.interfaces.iter().map(|(_, interface)| interface.clone()).collect();
    interfaces[1].mtu = 1000;
    narrow.interfaces = Interfaces::new(interfaces).into();
    let known =
        [(0, "2001:db8::100", CLIENT), (1, "10.0.0.11", server_mac(11)), (1, "10.0.0.12", server_mac(12))]
            .map(|(interface, address, mac)| (InterfaceId(interface), ip(address), Some(mac)));
    narrow.neighbours = Neighbours::new(&narrow.interfaces, known).into();
    director.path.adopt(narrow.into());
    let of = |len| datagram_of(C2D, ("2001:db8::100", 5353), ("2001:db8::10", 80), len);
    let out = director.receive(WAN, &[of(1400)]);
    let error = out.sent[0].1.data();
    assert_eq!((out.sent[0].0, error[54], &error[58..62]), (WAN, 2, &1280u32.to_be_bytes()[..]));
    let out = director.receive(WAN, &[of(1232)]);
    assert_eq!(out.sent.len(), 2);
    let data = together(&out.sent);
    assert_eq!(data[8..], of(1232)[62..]);
    assert!(is_sealed(&data, ip("10.0.0.1"), headers(&out.sent[0].1).destination(out.sent[0].1.data())));
}

#[test]
fn fragments_stay_fragments() {
    for order in [[0, 1, 2], [2, 1, 0]] {
        let mut director = director();
        let parts = datagram(3);
        let mut sent = vec![];
        for part in order {
            sent.extend(director.receive(WAN, &[parts[part].clone()]).sent);
        }
        assert_eq!(sent.len(), 3, "{order:?}");
        assert!(sent.iter().all(|(_, frame)| headers(frame).is_ipv6 && headers(frame).fragment_id == 77));
        assert!(is_sealed(&together(&sent), ip("fd00::1"), ip("fd00::11")));

        // What the real server answers, in two pieces.
        let sport =
            sent.iter().find_map(|(_, frame)| Some(headers(frame).sport).filter(|&port| port != 0)).unwrap();
        let whole = datagram_of((server_mac(11), OUR_LAN), ("fd00::11", 8080), ("fd00::1", sport), 1600 - 8);
        let pieces = [0, 1].map(|n| {
            let mut piece =
                [&whole[..54], &[17, 0, 0, 0, 0, 1, 0, 9], &whole[54 + n * 800..54 + (n + 1) * 800]].concat();
            piece[18..20].copy_from_slice(&808u16.to_be_bytes());
            piece[20] = 44;
            piece[56..58].copy_from_slice(&((n * 800) as u16 | u16::from(n == 0)).to_be_bytes());
            piece
        });
        let mut back = director.receive(LAN, &[pieces[1].clone()]).sent;
        back.extend(director.receive(LAN, &[pieces[0].clone()]).sent);
        assert_eq!(back.len(), 2);
        assert!(back.iter().all(|(port, frame)| *port == WAN && headers(frame).fragment_id == 9));
        let data = together(&back);
        assert_eq!(data[8..], whole[62..]);
        assert!(is_sealed(&data, ip("192.0.2.10"), ip("192.0.2.100")));
    }
}

/// An error from a router about a packet, to its source.
fn error_about(about: &Frame, macs: (Mac, Mac), router: &str, (kind, code): (u8, u8), rest: u32) -> Vec<u8> {
    let (quoted, to) = (&about.data()[14..], read(about).0);
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let mut frame = Vec::new();
    match (ip(router), to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(kind, code, rest.to_be_bytes())
            .write(&mut frame, quoted),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6_raw(kind, code, rest.to_be_bytes())
            .write(&mut frame, quoted),
        _ => panic!("one family"),
    }
    .unwrap();
    frame
}

/// The error's type, code and four bytes; where it is from and to. It quotes `sent`, but for what a hop changes and what the other family does not know.
fn quoting(error: &Frame, sent: &[u8]) -> (u8, u8, u32, IpAddr, IpAddr) {
    let (src, _, dst, ..) = read(error);
    let (data, all) = (error.data(), headers(error));
    let l4 = usize::from(all.l4);
    let inner = &data[l4 + 8..];
    let (addresses, l4_of_inner) = if all.is_ipv6 { (8..40, 40) } else { (12..20, 20) };
    assert_eq!(inner[addresses.clone()], sent[14 + addresses.start..14 + addresses.end], "addresses");
    assert_eq!(
        inner[l4_of_inner..],
        sent[14 + l4_of_inner..],
        "ports, the transport checksum and what it covers"
    );
    let rest = u32::from_be_bytes(data[l4 + 4..l4 + 8].try_into().unwrap());
    (data[l4], data[l4 + 1], rest, src, dst)
}

#[test]
fn an_icmp_error_from_either_side_is_told_in_its_receivers_family() {
    for (ends, own) in BOTH {
        let is_ipv6 = ip(ends[0]).is_ipv6();
        let [server_router, client_router] =
            if is_ipv6 { ["10.0.0.200", "2001:db8::200"] } else { ["fd00::200", "192.0.2.200"] };
        let (too_big, unreachable) =
            (|v6| if v6 { (2, 0) } else { (3, 4) }, |v6| if v6 { (1, 4) } else { (3, 3) });
        let mut director = director();
        let syn = to_service(ends, 4000, "S");
        let out = director.receive(WAN, std::slice::from_ref(&syn));
        let left = one(&out, LAN);
        let about =
            error_about(&out.sent[0].1, (server_mac(11), OUR_LAN), server_router, too_big(!is_ipv6), 1400);
        let out = director.receive(LAN, &[about]);
        assert_eq!(out.sent[0].0, WAN);
        let (kind, code) = too_big(is_ipv6);
        let mtu = if is_ipv6 { 1420 } else { 1380 };
        assert_eq!(quoting(&out.sent[0].1, &syn), (kind, code, mtu, ip(ends[1]), ip(ends[0])));

        let syn_ack = answer(left, "SA");
        let back = director.receive(LAN, std::slice::from_ref(&syn_ack));
        let about = error_about(&back.sent[0].1, (CLIENT, OUR_WAN), client_router, unreachable(is_ipv6), 0);
        let out = director.receive(WAN, &[about]);
        assert_eq!(out.sent[0].0, LAN);
        let (kind, code) = unreachable(!is_ipv6);
        assert_eq!(quoting(&out.sent[0].1, &syn_ack), (kind, code, 0, ip(own), left.2));
    }
}

#[test]
fn an_error_that_quotes_half_of_a_datagrams_header_names_its_senders_ports() {
    let mut director = director();
    let sent = datagram_of(C2D, ("2001:db8::100", 4000), ("2001:db8::10", 80), 40);
    let out = director.receive(WAN, &[sent]);
    // What is behind 24 bytes of the packet is an extension (RFC 4884 §4).
    let about = error_about(&out.sent[0].1, (server_mac(11), OUR_LAN), "10.0.0.200", (3, 3), 6 << 16);
    let out = director.receive(LAN, &[about]);
    let [.., a, b, c, d] = *out.sent[0].1.data() else { panic!("a frame") };
    assert_eq!((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])), (4000, 80));
}

#[test]
fn a_packet_waits_as_it_came_and_its_sender_is_told_about_it() {
    for (ends, _) in BOTH {
        let mut director = director_of(translating(2, &[]));
        let syn = to_service(ends, 4000, "S");
        let out = director.receive(WAN, std::slice::from_ref(&syn));
        assert!(out.sent.is_empty());
        assert_eq!(out.resolve.len(), 1);
        director.path.adopt(translating(3, &[11, 12]).into());
        let sent = one(&director.turn(), LAN);
        assert_eq!((sent.2, sent.4), (out.resolve[0], 63));

        director.path.adopt(translating(4, &[]).into());
        director.receive(WAN, std::slice::from_ref(&syn));
        director.now = Tick(100 + 500);
        let out = director.turn();
        assert_eq!(quoting(&out.sent[0].1, &syn).4, ip(ends[0]));
        assert_eq!(director.dropped(DropReason::NeighbourFailed), 1);
        // The last hop.
        director.path.adopt(translating(5, &[11, 12]).into());
        let mut last = syn.clone();
        let ttl = if ip(ends[0]).is_ipv6() { 21 } else { 22 };
        last[ttl] = 1;
        if ttl == 22 {
            ipv4::fill_checksum(&mut last[14..34]);
        }
        let out = director.receive(WAN, &[last.clone()]);
        let kind = if ttl == 21 { 3 } else { 11 };
        assert_eq!(quoting(&out.sent[0].1, &last).0, kind, "time exceeded");
    }
}

#[test]
fn with_several_workers_answers_and_errors_end_at_the_worker_of_the_connection() {
    const WORKERS: usize = 3;
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    for path in &mut paths {
        path.adopt(translating(2, &[11, 12]).into());
    }
    for n in 0..30u16 {
        let (rx, other) = (usize::from(n) % WORKERS, usize::from(n / 3) % WORKERS);
        for (ends, _) in BOTH {
            let syn = to_service(ends, 4000 + n, "S");
            let sent = deliver(&mut paths, rx, WAN, &syn);
            let (owner, frame) = &sent[0];
            let back = deliver(&mut paths, other, LAN, &answer(read(frame), "SA"));
            assert_eq!(back[0].0, *owner);
            assert_eq!(read(&back[0].1).2, ip(ends[0]));
            let is_ipv6 = headers(frame).is_ipv6;
            let (router, kind) = if is_ipv6 { ("fd00::200", 1) } else { ("10.0.0.200", 3) };
            let about =
                error_about(frame, (server_mac(11), OUR_LAN), router, (kind, if is_ipv6 { 4 } else { 3 }), 0);
            let told = deliver(&mut paths, other, LAN, &about);
            assert_eq!(told[0].0, *owner);
            assert_eq!(quoting(&told[0].1, &syn).4, ip(ends[0]));
        }
    }
}

#[test]
fn a_killed_director_leaves_connections_that_go_on() {
    let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
    let counters = counters(1);
    let mut path = Path::new(PathConfig { memory, ..config(0, &counters, &Arc::new(Uses::new(1, 100))) });
    path.adopt(translating(2, &[11, 12]).into());
    let mut old = Director { path, counters, now: Tick(100) };
    let sent = BOTH.map(|(ends, _)| one(&old.receive(WAN, &[to_service(ends, 4000, "S")]), LAN));
    drop(old);
    let mut new = director();
    let done = new.path.carry_over(&[Salvage::of(remains.bytes().unwrap()).unwrap()], Tick(200));
    assert_eq!((done.connections, done.damaged), (2, 0));
    for ((ends, _), sent) in BOTH.into_iter().zip(sent) {
        assert_eq!(one(&new.receive(LAN, &[answer(sent, "SA")]), WAN).2, ip(ends[0]));
        assert_eq!(one(&new.receive(WAN, &[to_service(ends, 4000, "A")]), LAN), sent);
    }
    new.path.check_connections().unwrap();
}

/// The client's acknowledgement behind its SYN, which took one number.
fn ack_of_syn_ack(ends: [&str; 2]) -> Vec<u8> {
    acknowledging(to_service(ends, 4000, "A"), 1001)
}

/// A segment, with the number behind a SYN's if it is none, that acknowledges so much.
fn acknowledging(mut frame: Vec<u8>, ack: u32) -> Vec<u8> {
    let at = usize::from(headers(&Frame::new(WAN, &frame)).l4);
    if frame[at + 13] & crate::wire::tcp::SYN == 0 {
        frame[at + 4..at + 8].copy_from_slice(&1001u32.to_be_bytes());
    }
    frame[at + 8..at + 12].copy_from_slice(&ack.to_be_bytes());
    frame[at + 16..at + 18].fill(0);
    let sum = checksum::of_transport(&frame, &headers(&Frame::new(WAN, &frame))).unwrap();
    frame[at + 16..at + 18].copy_from_slice(&checksum::finish(sum).to_be_bytes());
    frame
}

#[test]
fn an_entry_whose_answers_are_of_a_family_that_its_method_does_not_have_is_damaged() {
    for tables in [translating(2, &[11, 12]), tables(2, &[11, 12], 1)] {
        let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
        let counters = counters(1);
        let mut path = Path::new(PathConfig { memory, ..config(0, &counters, &Arc::new(Uses::new(1, 100))) });
        path.adopt(tables.clone().into());
        let mut old = Director { path, counters, now: Tick(100) };
        old.receive(WAN, &[to_service(V6, 4000, "S")]);
        drop(old);
        let mut bytes = remains.bytes().unwrap().to_vec();
        // Addresses that are elsewhere, and both ports.
        let begins = [&[0; 8][..], &4000u16.to_le_bytes(), &80u16.to_le_bytes()].concat();
        let entry = bytes.windows(begins.len()).position(|part| part == begins).unwrap();
        // The method among the flags: masqueraded is translated, and the other way round.
        bytes[entry + 62] ^= 0b11 << 4;
        let mut new = director_of(tables);
        let done = new.path.carry_over(&[Salvage::of(&bytes).unwrap()], Tick(200));
        assert_eq!((done.connections, done.damaged), (0, 1));
        new.path.check_connections().unwrap();
    }
}

#[test]
fn real_servers_are_told_the_client_in_its_own_family() {
    for (ends, _) in BOTH {
        let [client, vip] = ends;
        let family = if ip(client).is_ipv6() { 6 } else { 4 };
        let proxy = ServiceOptions { proxy_protocol: Some(ProxyVersion::V1), ..ServiceOptions::default() };
        let mut director = director_of(with(2, &[11, 12], proxy));
        let syn = one(&director.receive(WAN, &[to_service(ends, 4000, "S")]), LAN);
        director.receive(LAN, &[acknowledging(answer(syn, "SA"), 1001)]);
        let out = director.receive(WAN, &[ack_of_syn_ack(ends)]);
        let line = crate::wire::proxy::header(
            ProxyVersion::V1,
            &Tuple { src: ip(client), dst: ip(vip), sport: 4000, dport: 80, protocol: Protocol::TCP },
        );
        assert!(line.starts_with(format!("PROXY TCP{family} ").as_bytes()));
        let says = |frame: &Frame| frame.data().windows(line.len()).any(|part| part == &line[..]);
        assert!(out.sent.iter().any(|(_, frame)| read(frame) == syn && says(frame)), "{client}");

        let toa = ServiceOptions { toa: true, ..ServiceOptions::default() };
        let mut director = director_of(with(2, &[11, 12], toa));
        let syn = one(&director.receive(WAN, &[to_service(ends, 4000, "S")]), LAN);
        director.receive(LAN, &[acknowledging(answer(syn, "SA"), 1001)]);
        let out = director.receive(WAN, &[ack_of_syn_ack(ends)]);
        assert_eq!(one(&out, LAN), syn);
        let tcp_header = usize::from(headers(&out.sent[0].1).l4) + 20;
        let option = &out.sent[0].1.data()[tcp_header..];
        assert_eq!(option[..4], [254, if family == 6 { 20 } else { 8 }, 15, 160], "option, length, port");
        match ip(client) {
            IpAddr::V4(client) => assert_eq!(option[4..8], client.octets()),
            IpAddr::V6(client) => assert_eq!(option[4..20], client.octets()),
        }
    }
}

fn ruled(lines: &[&str]) -> Rules {
    super::hooks::rules(lines)
}

#[test]
fn rules_are_those_of_the_family_that_a_packet_comes_in_and_see_it_as_it_came() {
    for (ends, _) in BOTH {
        let tables = |generation, lines: &[&str]| Tables {
            rules: Arc::new(ruled(lines)),
            ..translating(generation, &[11, 12])
        };
        // Of what the client sends nothing has the real server's port or address, at any hook.
        let vip = ends[1];
        let mut director = director_of(tables(
            2,
            &[
                "filter OUTPUT -p tcp --dport 8080 -j DROP",
                &format!("filter OUTPUT -p tcp -d {vip} --dport 80 -j ACCEPT"),
                "filter OUTPUT -p tcp -j DROP",
                "filter FORWARD -p tcp ! --sport 8080 -j DROP",
            ],
        ));
        let syn = one(&director.receive(WAN, &[to_service(ends, 4000, "S")]), LAN);
        // Twice: once walked past the rules, once by the course.
        for _ in 0..2 {
            assert_eq!(one(&director.receive(LAN, &[answer(syn, "SA")]), WAN).2, ip(ends[0]));
            assert_eq!(one(&director.receive(WAN, &[to_service(ends, 4000, "A")]), LAN), syn);
        }
        let mut known = vec![];
        director.path.list(0, u32::MAX, director.now, &mut |flow| known.push(flow.known.status));
        assert!(known[0].has(Status::SEEN_REPLY));
        director.path.adopt(tables(3, &["filter INPUT -p tcp --dport 80 -j DROP"]).into());
        assert!(director.receive(WAN, &[to_service(ends, 4000, "A")]).sent.is_empty());
        assert_eq!(director.dropped(DropReason::Rule), 1);
    }
}

#[test]
fn a_persistent_client_keeps_its_real_server_in_the_other_family() {
    let persistence = Some(Persistence { timeout: Timeout::from_secs(100), mask: ClientMask::WHOLE });
    let options = ServiceOptions { persistence, ..ServiceOptions::default() };
    for (ends, _) in BOTH {
        let mut director = director_of(with(2, &[11, 12], options));
        let servers: Vec<_> =
            (0..4).map(|n| one(&director.receive(WAN, &[to_service(ends, 4000 + n, "S")]), LAN).2).collect();
        assert!(servers.iter().all(|server| *server == servers[0]), "{servers:?}");
        let mut templates = vec![];
        director.path.list(0, u32::MAX, director.now, &mut |flow| {
            if flow.is_template {
                templates.push((flow.client.0, flow.server.0));
            }
        });
        assert_eq!(templates, [(ip(ends[0]), servers[0])]);
        director.path.check_connections().unwrap();
    }
}
