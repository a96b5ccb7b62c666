//! `schedule_icmp`: an ICMP error about a connection that is known elsewhere finds its real server all the same.

use super::hooks::rules;
use super::*;
use crate::ipvs::limiter::Limiters;
use crate::time::Timeout;

fn director(value: u32, edit: impl Fn(&mut Service)) -> Director {
    let tables = tables(2, &[11, 12], 1);
    let services = tables.services.iter().map(|service| {
        let mut service = Service::clone(service);
        edit(&mut service);
        Arc::new(service)
    });
    let mut tables = Tables { services: Services::new(services.collect::<Vec<_>>()).into(), ..tables };
    tables.settings.sysctls.schedule_icmp = value;
    let mut director = Director::new();
    director.path.adopt(tables.into());
    director
}

/// "Fragmentation needed" from a router out there, about what the virtual service sent to a client's port.
fn too_big(port: u16) -> Vec<u8> {
    let sent = tcp(C2D, ("192.0.2.10", 80), ("192.0.2.100", port), "A");
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1);
    let mut frame = Vec::new();
    let builder = builder.ipv4([203, 0, 113, 7], [192, 0, 2, 10], 60).icmpv4_raw(3, 4, [0, 0, 5, 0]);
    builder.write(&mut frame, &sent[14..]).unwrap();
    frame
}

/// The error's destination, and the source that its quoted packet has.
fn quoted(frame: &Frame) -> (IpAddr, IpAddr, u16) {
    let data = frame.data();
    let at = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&data[at..at + 4]).unwrap());
    assert!(checksum::is_good(checksum::sum(&data[34..])), "ICMP's checksum");
    (at(30), at(42 + 12), u16::from_be_bytes([data[62], data[63]]))
}

#[test]
fn an_error_about_an_unknown_connection_is_the_hosts_unless_it_is_scheduled() {
    let mut unscheduled = director(0, |_| ());
    assert_eq!(unscheduled.receive(WAN, &[too_big(4000)]).to_twin.len(), 1);
    let mut director = director(1, |_| ());
    let out = director.receive(WAN, &[too_big(4000)]);
    let (port, frame) = &out.sent[0];
    assert_eq!((*port, quoted(frame)), (LAN, (ip("10.0.0.11"), ip("10.0.0.11"), 8080)));
    assert_eq!(director.states(), ["NONE"]);
    let cell = director.counters[0].server(ServerId(2));
    assert_eq!((cell.connections.get(), cell.in_packets.get()), (1, 1));
    director.now = director.now.after(Timeout::from_secs(4));
    director.turn();
    assert!(director.states().is_empty(), "three seconds");
    director.path.check_connections().unwrap();
}

#[test]
fn an_error_of_icmpv6_is_scheduled_too() {
    let sent = tcp(C2D, ("2001:db8::10", 80), ("2001:db8::100", 4000), "A");
    let [router, service] =
        ["2001:db8::7", "2001:db8::10"].map(|a| a.parse::<std::net::Ipv6Addr>().unwrap().octets());
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1).ipv6(router, service, 60);
    let mut too_big = Vec::new();
    builder.icmpv6_raw(2, 0, [0, 0, 5, 0]).write(&mut too_big, &sent[14..]).unwrap();
    assert_eq!(director(0, |_| ()).receive(WAN, &[too_big.clone()]).to_twin.len(), 1);
    let out = director(1, |_| ()).receive(WAN, &[too_big]).sent;
    let data = out[0].1.data();
    let quoted = &data[14 + 40 + 8..];
    let at = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).unwrap();
    assert_eq!([at(&data[38..54]), at(&quoted[8..24])].map(IpAddr::from), [ip("fd00::11"); 2]);
    assert_eq!(quoted[40..42], 8080_u16.to_be_bytes());
    let parsed = etherparse::Icmpv6Slice::from_slice(&data[54..]).unwrap();
    assert!(parsed.is_checksum_valid(at(&data[22..38]), at(&data[38..54])));
}

#[test]
fn it_goes_where_a_hash_sends_the_connections_own_packets() {
    let by_hash = |service: &mut Service| {
        let (id, key, servers) = (service.id, service.key, service.servers.clone());
        *service = Service::new(None, id, key, SchedulerKind::Sh, servers, 2);
    };
    for n in 0..20 {
        let client = format!("192.0.2.{}", 110 + n);
        let mut here = director(1, by_hash);
        let mut there = director(0, by_hash);
        let syn = tcp(C2D, (&client, 4000), ("192.0.2.10", 80), "S");
        let server = read(&there.receive(WAN, &[syn]).sent[0].1).2;
        let mut error = too_big(4000);
        error[42 + 19] = 110 + n;
        crate::wire::ipv4::fill_checksum(&mut error[42..62]);
        error[36..38].fill(0);
        let sum = checksum::sum(&error[34..]);
        error[36..38].copy_from_slice(&(!sum).to_be_bytes());
        assert_eq!(quoted(&here.receive(WAN, &[error]).sent[0].1).0, server, "{client}");
    }
}

#[test]
fn what_it_began_has_the_time_of_its_own_packets_once_one_comes() {
    for has_packet in [false, true] {
        let mut director = director(1, |_| {});
        let datagram = |src: [u8; 4], dst: [u8; 4], sport, dport| {
            let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1).ipv4(src, dst, 64);
            let mut frame = Vec::new();
            builder.udp(sport, dport).write(&mut frame, b"payload").unwrap();
            frame
        };
        let (client, service) = ([192, 0, 2, 100], [192, 0, 2, 10]);
        let sent = datagram(service, client, 80, 4000);
        let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1);
        let mut error = Vec::new();
        let builder = builder.ipv4([203, 0, 113, 7], service, 60).icmpv4_raw(3, 4, [0, 0, 5, 0]);
        builder.write(&mut error, &sent[14..]).unwrap();
        director.receive(WAN, &[error]);
        assert_eq!(director.states().len(), 1);
        if has_packet {
            director.receive(WAN, &[datagram(client, service, 4000, 80)]);
        }
        director.now = director.now.after(Timeout::from_secs(5));
        director.turn();
        assert_eq!(director.states().len(), usize::from(has_packet));
    }
}

#[test]
fn services_whose_choice_is_known_elsewhere_schedule_no_error() {
    let full_nat = |service: &mut Service| {
        service.servers.iter_mut().for_each(|server| server.forward = Forward::FullNat);
    };
    let persistent = |service: &mut Service| {
        let mask = crate::tables::ClientMask::WHOLE;
        let persistence = crate::tables::Persistence { timeout: Timeout::from_secs(100), mask };
        service.options.persistence = Some(persistence);
    };
    for edit in [full_nat as fn(&mut Service), persistent] {
        let mut director = director(1, edit);
        assert_eq!(director.receive(WAN, &[too_big(4000)]).to_twin.len(), 1);
        assert!(director.states().is_empty());
    }
}

#[test]
fn by_direct_routing_it_goes_on_as_it_is() {
    let mut director = director(1, |service| {
        service.servers.iter_mut().for_each(|server| server.forward = Forward::Direct);
    });
    let out = director.receive(WAN, &[too_big(4000)]);
    assert_eq!(out.sent[0].1.data()[..6], server_mac(11));
    assert_eq!(quoted(&out.sent[0].1), (ip("192.0.2.10"), ip("192.0.2.10"), 80));
}

#[test]
fn rules_see_it_as_invalid_and_may_stop_it_before_it_begins_anything() {
    for (line, passes) in [
        ("filter INPUT -m conntrack --ctstate INVALID -j DROP", false),
        ("filter INPUT -m conntrack --ctstate RELATED -j DROP", true),
        ("filter OUTPUT -d 10.0.0.0/24 -p icmp -j DROP", false),
        ("filter OUTPUT -d 192.0.2.10 -j DROP", true),
    ] {
        let mut director = director(1, |_| ());
        let mut with_rules = tables(3, &[11, 12], 1);
        with_rules.settings.sysctls.schedule_icmp = 1;
        director.path.adopt(Tables { rules: Arc::new(rules(&[line])), ..with_rules }.into());
        assert_eq!(director.receive(WAN, &[too_big(4000)]).sent.len() == 1, passes, "{line}");
        assert_eq!(director.states().is_empty(), line.contains("INVALID"), "{line}");
    }
}

#[test]
fn it_is_asked_about_as_what_begins_a_connection() {
    let limits = super::limited::at_most(1);
    let limiter = std::cell::RefCell::new(Limiters::new(1));
    let mut director = director(1, |service| service.limiter = limiter.borrow_mut().make(None, limits));
    let sent = [4000, 4001].map(|port| director.receive(WAN, &[too_big(port)]).sent.len());
    assert_eq!((sent, director.dropped(DropReason::ServiceConnLimit)), ([1, 0], 1));
}
