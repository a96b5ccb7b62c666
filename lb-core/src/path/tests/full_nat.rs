//! FullNAT: the real server sees a local endpoint, and answers to it whatever its routes are.

use super::*;

/// As [`tables`], by FullNAT, from `local` or, where there is none, from the interface's address.
pub(super) fn by_full_nat(generation: u32, local: &[&str]) -> Tables {
    let tables = tables(generation, &[11, 12], 1);
    let services = tables.services.iter().map(|service| {
        let mut service = Service::clone(service);
        service.servers.iter_mut().for_each(|server| server.forward = Forward::FullNat);
        service.local_addresses = local.iter().map(|address| ip(address)).collect();
        Arc::new(service)
    });
    Tables { services: Services::new(services).into(), ..tables }
}

fn director(local: &[&str]) -> Director {
    let mut director = Director::new();
    director.path.adopt(by_full_nat(2, local).into());
    director
}

/// The only packet that left, by this port.
pub(super) fn one(out: &Out, port: PortId) -> (IpAddr, u16, IpAddr, u16, u8) {
    assert_eq!(out.sent.len(), 1);
    assert_eq!(out.sent[0].0, port);
    read(&out.sent[0].1)
}

/// What the real server that got this answers.
pub(super) fn answer((src, sport, dst, dport, _): (IpAddr, u16, IpAddr, u16, u8), flags: &str) -> Vec<u8> {
    let n = match dst {
        IpAddr::V4(a) => a.octets()[3],
        IpAddr::V6(a) => {
            if a.segments()[7] == 0x11 {
                11
            } else {
                12
            }
        }
    };
    tcp((server_mac(n), OUR_LAN), (&dst.to_string(), dport), (&src.to_string(), sport), flags)
}

fn locals(director: &Director) -> Vec<Option<(IpAddr, u16)>> {
    let mut locals = Vec::new();
    director.path.list(0, u32::MAX, director.now, &mut |flow| locals.push(flow.local));
    locals
}

#[test]
fn the_real_server_sees_a_local_endpoint_and_the_client_the_virtual_service() {
    for (vip, client, own, port) in
        [("192.0.2.10", "192.0.2.100", "10.0.0.1", 8080), ("2001:db8::10", "2001:db8::100", "fd00::1", 8080)]
    {
        let mut director = director(&[]);
        let to = |flags| tcp(C2D, (client, 4000), (vip, 80), flags);
        let syn = one(&director.receive(WAN, &[to("S")]), LAN);
        let (src, sport, _, dport, ttl) = syn;
        assert_eq!((src, dport, ttl), (ip(own), port, 63));
        assert!((1024..32_768).contains(&sport), "{sport} may be Linux's");
        let back = one(&director.receive(LAN, &[answer(syn, "SA")]), WAN);
        assert_eq!(back, (ip(vip), 80, ip(client), 4000, 63));
        assert_eq!(one(&director.receive(WAN, &[to("A")]), LAN), syn);
        assert_eq!(director.states(), ["ESTABLISHED"]);
        assert_eq!(locals(&director), [Some((src, sport))]);
        director.path.check_connections().unwrap();
    }
}

#[test]
fn stated_addresses_are_all_used_unless_they_are_not_ours_or_of_the_other_family() {
    let mut director = director(&["10.0.0.1", "192.0.2.1", "10.0.0.99", "fd00::1"]);
    let mut seen = std::collections::BTreeMap::new();
    for n in 0..90 {
        let (src, sport, ..) = one(&director.receive(WAN, &[from_client(4000 + n, "S")]), LAN);
        assert!(sport >= 1024);
        *seen.entry(src).or_insert(0) += 1;
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [ip("10.0.0.1"), ip("192.0.2.1")]);
    assert!(seen.values().all(|&count| count > 20), "{seen:?}");
}

#[test]
fn two_services_on_one_real_server_do_not_push_each_other_out() {
    // With masquerading the newer one would: see a_connection_that_a_newer_one_pushes_out_is_gone_…
    let mut director = director(&[]);
    let mut tables = by_full_nat(3, &[]);
    let web = tables.services.find(&ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80));
    let mut other = Service::clone(web.unwrap());
    (other.id, other.key.address) = (ServiceId(9), ip("192.0.2.1"));
    for (n, server) in (40..).zip(&mut other.servers) {
        server.id = ServerId(n);
    }
    let services = tables.services.iter().cloned().chain([Arc::new(other)]);
    tables.services = Services::new(services).into();
    director.path.adopt(tables.into());
    let ends = ["192.0.2.10", "192.0.2.1"].map(|vip| {
        let out = director.receive(WAN, &[tcp(C2D, ("192.0.2.100", 4000), (vip, 80), "S")]);
        one(&out, LAN)
    });
    assert_eq!(ends[0].2, ends[1].2, "the same real server");
    for (vip, sent) in ["192.0.2.10", "192.0.2.1"].into_iter().zip(ends) {
        assert_eq!(one(&director.receive(LAN, &[answer(sent, "SA")]), WAN).0, ip(vip));
    }
}

#[test]
fn with_no_local_address_a_connection_is_refused_and_counted() {
    let mut director = director(&["10.0.0.99"]);
    assert!(director.receive(WAN, &[from_client(4000, "S")]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::NoLocalPort), 1);
    assert!(director.states().is_empty());
}

#[test]
fn what_comes_to_a_local_address_and_is_no_answer_is_the_hosts() {
    let mut director = director(&[]);
    let stray = tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 8080), ("10.0.0.1", 2000), "A");
    assert_eq!(director.receive(LAN, &[stray]).to_twin.len(), 1);
}

#[test]
fn an_icmp_error_from_either_side_quotes_what_its_receiver_sent() {
    let mut director = director(&[]);
    let sent = director.receive(WAN, &[from_client(4000, "S")]);
    let (local, lport, server, ..) = one(&sent, LAN);
    let error = |from: &str, to: IpAddr, about: &Frame, macs: (Mac, Mac)| {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (ip(from), to) else { panic!() };
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(macs.0, macs.1)
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(3, 4, [0, 0, 5, 0])
            .write(&mut frame, &about.data()[14..])
            .unwrap();
        frame
    };
    // A router on the servers' side.
    let about = error("10.0.0.200", local, &sent.sent[0].1, (server_mac(11), OUR_LAN));
    let out = director.receive(LAN, &[about]);
    let (port, frame) = &out.sent[0];
    assert_eq!(*port, WAN);
    assert_eq!(frame.data()[26..34], [192, 0, 2, 10, 192, 0, 2, 100]);
    assert_quotes(frame, &from_client(4000, "S"));
    // A router on the clients' side.
    let syn_ack =
        tcp((server_mac(11), OUR_LAN), (&server.to_string(), 8080), (&local.to_string(), lport), "SA");
    let back = director.receive(LAN, std::slice::from_ref(&syn_ack));
    let about = error("192.0.2.200", ip("192.0.2.10"), &back.sent[0].1, (CLIENT, OUR_WAN));
    let out = director.receive(WAN, &[about]);
    let (port, frame) = &out.sent[0];
    assert_eq!(*port, LAN);
    assert_eq!(frame.data()[26..34], [10, 0, 0, 1, 10, 0, 0, 11]);
    assert_quotes(frame, &syn_ack);
}

/// But for what a hop changes: TTL and the header's checksum.
fn assert_quotes(error: &Frame, sent: &[u8]) {
    let Ok(Parsed::Ip(headers)) = parse(error.data(), error.frame_len(), Default::default()) else {
        panic!()
    };
    assert!(checksum::is_good(checksum::of_transport(error.data(), &headers).unwrap()), "ICMP's checksum");
    let quoted = &error.data()[14 + 28..];
    assert!(checksum::is_good(checksum::sum(&quoted[..20])), "the quoted header's checksum");
    assert_eq!(quoted[12..], sent[14 + 12..], "addresses, ports, the transport checksum and what it covers");
}

#[test]
fn fragments_of_a_datagram_leave_from_the_local_address() {
    let mut director = director(&[]);
    let parts = datagram(3);
    let out = director.receive(WAN, &[parts[1].clone(), parts[0].clone(), parts[2].clone()]);
    assert_eq!(out.sent.len(), 3);
    for (_, frame) in &out.sent {
        assert_eq!(frame.data()[26..33], [10, 0, 0, 1, 10, 0, 0]);
    }
}

#[test]
fn with_several_workers_answers_end_at_the_worker_of_the_connection() {
    for workers in [2, 3, 5] {
        let counters = counters(workers);
        let uses = Arc::new(Uses::new(workers, 100));
        let mut paths: Vec<_> = (0..workers).map(|n| path(n as u16, &counters, &uses)).collect();
        for path in &mut paths {
            path.adopt(by_full_nat(2, &[]).into());
        }
        let mut owners = vec![0; workers];
        for n in 0..60u16 {
            let (rx, other) = (usize::from(n) % workers, usize::from(n / 3) % workers);
            let sent = deliver(&mut paths, rx, WAN, &from_client(4000 + n, "S"));
            let (owner, frame) = &sent[0];
            owners[*owner] += 1;
            let back = deliver(&mut paths, other, LAN, &answer(read(frame), "SA"));
            assert_eq!(back[0].0, *owner);
            assert_eq!(read(&back[0].1), (ip("192.0.2.10"), 80, ip("192.0.2.100"), 4000 + n, 63));
        }
        assert!(owners.iter().all(|&n| n > 5), "{owners:?}");
    }
}

#[test]
fn each_worker_has_the_same_part_of_any_range_of_ports() {
    for workers in 1..=7 {
        for range in [1024..=32_767, 1024..=u16::MAX, 40_000..=50_000u16] {
            let count = range.len();
            let owners = crate::path::Owners::new(crate::flow::Hasher::new(1), workers, None);
            let mut owned = vec![0; workers];
            for port in range.clone() {
                owned[owners.of_local(ip("10.0.0.9"), port).index()] += 1;
            }
            for owned in owned {
                assert!(
                    (owned * workers).abs_diff(count) <= count / 100,
                    "{owned} of {range:?} by {workers}"
                );
            }
        }
    }
}
