//! Goal: a packet for another host that has a mark is a virtual service's where a route by mark says so, and is routed as ever where none does or no service takes it.
//! Method: a transparent cache's director, with marks of the config and of rules; both families, one worker and several.

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, PacketBuilder};

use super::explain::explain;
use super::hooks::Workers;
use super::marked::{by_mark, persistent};
use super::persistent::{listed, server_of};
use super::*;
use crate::rule::Rules;
use crate::tables::{MarkRule, Marked, MarkedRoutes, Marks, ServiceOptions, Sysctls};
use crate::trail::Step;

/// A web server on the real servers' network, which is none.
pub(super) const SITE: &str = "10.0.0.50";
const SITE_V6: &str = "fd00::50";
const WORKERS: usize = 4;

pub(super) const MARK: &str = "mangle PREROUTING -p tcp --dport 80 -j MARK --set-mark 7";

/// All destinations are for this host by mark 7, and caches are a service by it. Without rules the config gives the mark to what is bound for port 80.
pub(super) fn caching(lines: &[&str], options: ServiceOptions) -> Tables {
    // Rules of no lines would be none.
    let tables = by_mark(if lines.is_empty() { &["filter FORWARD -j ACCEPT"] } else { lines }, options);
    let all = |address: &str| (Prefix { address: ip(address), len: 0 }, Marked::Local);
    let marked = ["0.0.0.0", "::"].map(|any| MarkedRoutes::new(7, u32::MAX, [all(any)]));
    let mark = MarkRule { destination_ports: 80..=80, ..MarkRule::any(7) };
    let marks = if lines.is_empty() { vec![mark] } else { Vec::new() };
    Tables {
        routes: Routes::clone(&tables.routes).with_marked(marked).into(),
        neighbours: super::tables(2, &[11, 12, 50], 1).neighbours,
        marks: Arc::new(Marks(marks)),
        rules: if lines.is_empty() { Arc::default() } else { tables.rules.clone() },
        ..tables
    }
}

/// The same, and caches get packets as they are; or there are none.
pub(super) fn with_servers(tables: Tables, edit: impl Fn(&mut Vec<Server>)) -> Tables {
    let services = tables.services.iter().map(|service| {
        let mut servers = service.servers.clone();
        if service.key.mark().is_some() {
            edit(&mut servers);
        }
        let (id, key) = (service.id, service.key);
        let mut new = Service::new(None, id, key, service.scheduler(), servers, service.version + 1);
        new.options = service.options;
        Arc::new(new)
    });
    Tables { services: Services::new(services.collect::<Vec<_>>()).into(), ..tables }
}

pub(super) fn director(tables: Tables) -> Director {
    let mut director = Director::new();
    director.path.adopt(tables.into());
    director
}

fn plain() -> ServiceOptions {
    ServiceOptions::default()
}

pub(super) fn to_site(sport: u16, dport: u16, flags: &str) -> Vec<u8> {
    tcp(C2D, ("192.0.2.100", sport), (SITE, dport), flags)
}

pub(super) fn from_cache(n: u8, dport: u16, flags: &str) -> Vec<u8> {
    tcp((server_mac(n), OUR_LAN), (&format!("10.0.0.{n}"), 80), ("192.0.2.100", dport), flags)
}

#[test]
fn what_is_marked_is_the_services_whoever_has_its_address() {
    for lines in [&[][..], &[MARK]] {
        let mut director = director(caching(lines, plain()));
        let out = director.receive(WAN, &[to_site(4000, 80, "S")]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 80, 63));
        let out = director.receive(LAN, &[from_cache(11, 4000, "SA")]);
        assert_eq!(read(&out.sent[0].1), (ip(SITE), 80, ip("192.0.2.100"), 4000, 63));
        let out = director.receive(WAN, &[to_site(4000, 80, "A")]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 80, 63));
        let line = format!("ESTABLISHED 192.0.2.100:4000 {SITE}:80 10.0.0.11:80");
        assert_eq!(listed(&director.path, director.now), [line]);

        let out = director.receive(WAN, &[to_site(4001, 22, "S")]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4001, ip(SITE), 22, 63), "it has no mark");
        let syn = tcp(C2D, ("2001:db8::100", 4000), (SITE_V6, 80), "S");
        let out = director.receive(WAN, &[syn]);
        assert_eq!(read(&out.sent[0].1), (ip("2001:db8::100"), 4000, ip("fd00::11"), 80, 63));
        director.path.check_connections().unwrap();
    }
}

#[test]
fn a_mark_without_a_route_by_it_or_a_service_changes_nothing() {
    for lines in [&[][..], &[MARK]] {
        let without_route = |tables: Tables| Tables { routes: super::tables(2, &[], 1).routes, ..tables };
        let without_service =
            |tables: Tables| Tables { services: super::tables(2, &[], 1).services, ..tables };
        let edits: [&dyn Fn(Tables) -> Tables; 2] = [&without_route, &without_service];
        for edit in edits {
            let mut director = director(edit(caching(lines, plain())));
            let out = director.receive(WAN, &[to_site(4000, 80, "S"), to_site(4001, 80, "A")]);
            let to: Vec<_> = out.sent.iter().map(|(_, frame)| server_of(frame)).collect();
            assert_eq!((to, out.to_twin.len()), (vec![ip(SITE); 2], 0), "{lines:?}");
        }
    }
}

#[test]
fn a_service_by_an_address_of_nobody_takes_what_is_marked_for_it() {
    let tables = caching(&[], plain());
    let mut services = (*super::tables(2, &[11, 12], 1).services).clone();
    let of_vip = services.find(&ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80)).unwrap();
    let key = ServiceKey::new(Protocol::TCP, ip(SITE), 80);
    let servers = of_vip.servers.clone();
    services.put(Arc::new(Service::new(None, ServiceId(9), key, SchedulerKind::Rr, servers, 1)));
    let mut director = director(Tables { services: services.into(), ..tables });
    let out = director.receive(WAN, &[to_site(4000, 80, "S")]);
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 8080, 63));
}

#[test]
fn rules_see_it_at_input_and_not_at_forward() {
    for (rule, is_taken) in [
        ("filter FORWARD -j DROP", true),
        ("filter INPUT -p tcp --dport 80 -j DROP", false),
        ("filter OUTPUT -p tcp --dport 80 -j DROP", false),
    ] {
        let mut director = director(caching(&[MARK, rule], plain()));
        let out = director.receive(WAN, &[to_site(4000, 80, "S")]);
        assert_eq!(out.sent.len(), usize::from(is_taken), "{rule}");
        assert_eq!(director.dropped(DropReason::Rule), u64::from(!is_taken), "{rule}");
    }
    // The kernel would give it to the host.
    let unmark = "mangle INPUT -j MARK --set-mark 1";
    let out = director(caching(&[MARK, unmark], plain())).receive(WAN, &[to_site(4000, 80, "S")]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1));
    let untracked = "raw PREROUTING -p tcp --dport 80 -j NOTRACK";
    let out = director(caching(&[MARK, untracked], plain())).receive(WAN, &[to_site(4000, 80, "S")]);
    assert_eq!(server_of(&out.sent[0].1), ip("10.0.0.11"), "IPVS asks conntrack nothing");
}

#[test]
fn what_is_in_the_middle_of_no_connection_is_reset() {
    for lines in [&[][..], &[MARK]] {
        let mut director = director(caching(lines, plain()));
        let out = director.receive(WAN, &[to_site(4000, 80, "A"), to_site(4001, 80, "R")]);
        let resets: Vec<_> = out.sent.iter().map(|(port, frame)| (*port, read(frame))).collect();
        assert_eq!(resets, [(WAN, (ip(SITE), 80, ip("192.0.2.100"), 4000, 64))]);
        assert_eq!(out.sent[0].1.data()[14 + 20 + 13], 4, "RST");
        assert_eq!(director.dropped(DropReason::NoConnection), 2);
        assert!(out.to_twin.is_empty());
    }
    let mut director = director(caching(&[], plain()));
    let to_vip = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.10", 80), "A");
    assert_eq!(director.receive(WAN, &[to_vip]).to_twin.len(), 1, "the host answers for its own address");
}

fn workers(tables: Tables) -> Workers {
    let mut workers = Workers::new(WORKERS as u16, Rules::default());
    let tables = Arc::new(tables);
    workers.paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
    workers
}

/// An ICMP error of the client, about a packet that it got.
fn unreachable(about: &Frame) -> Vec<u8> {
    let quoted = &about.data()[14..];
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT, OUR_WAN)
        .ipv4(quoted[16..20].try_into().unwrap(), quoted[12..16].try_into().unwrap(), 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port))
        .write(&mut frame, quoted)
        .unwrap();
    frame
}

#[test]
fn with_several_workers_both_directions_come_to_the_clients_owner() {
    for lines in [&[][..], &[MARK]] {
        for options in [plain(), persistent()] {
            let mut workers = workers(caching(lines, options));
            for sport in 4000..4020 {
                let owner = workers.paths[0].owner_of(ip("192.0.2.100"), sport).index();
                let (at, out) = workers.carry(WAN, &to_site(sport, 80, "S"), false);
                assert_eq!(at, owner, "{lines:?}");
                let IpAddr::V4(server) = server_of(&out.sent[0].1) else { panic!("IPv4") };
                let n = server.octets()[3];
                let (at, out) = workers.carry(LAN, &from_cache(n, sport, "SA"), false);
                assert_eq!((at, read(&out.sent[0].1).0), (owner, ip(SITE)), "{lines:?}");
                let (at, told) = workers.carry(WAN, &unreachable(&out.sent[0].1), false);
                assert_eq!((at, told.sent.len()), (owner, 1), "{lines:?}");
                assert_eq!(told.sent[0].1.data()[30..34], server.octets());
                let (at, out) = workers.carry(WAN, &to_site(sport, 80, "A"), false);
                assert_eq!((at, server_of(&out.sent[0].1)), (owner, ip(&format!("10.0.0.{n}"))));
            }
            assert_eq!(workers.inserted(), 20);
            for path in &workers.paths {
                path.check_connections().unwrap();
            }
        }
    }
}

#[test]
fn what_rules_turn_to_this_host_and_then_mark_is_served_whoever_has_its_clients_template() {
    let lines = [
        "nat PREROUTING -p tcp --dport 80 -j REDIRECT",
        "mangle INPUT -p tcp --dport 80 -j MARK --set-mark 7",
    ];
    for options in [plain(), persistent()] {
        let mut workers = workers(caching(&lines, options));
        for sport in 4000..4020 {
            let (_, out) = workers.carry(WAN, &to_site(sport, 80, "S"), false);
            assert!([ip("10.0.0.11"), ip("10.0.0.12")].contains(&server_of(&out.sent[0].1)), "{sport}");
        }
        assert_eq!(workers.inserted(), 20);
        for path in &workers.paths {
            path.check_connections().unwrap();
        }
    }
}

#[test]
fn rules_look_at_a_packet_once_wherever_its_connection_begins() {
    let mut workers = workers(caching(&[MARK, "filter INPUT -p tcp --dport 80 -j ACCEPT"], plain()));
    for sport in 4000..4020 {
        workers.carry(WAN, &to_site(sport, 80, "S"), false);
    }
    let met = |rule| workers.counters.iter().map(|worker| worker.rule(rule).packets.get()).sum::<u64>();
    assert_eq!([met(1), met(2)], [20, 20]);
}

#[test]
fn fragments_follow_the_first_one_in_any_order() {
    let mark = "mangle PREROUTING -p udp --dport 80 -j MARK --set-mark 7";
    for lines in [&[][..], &[mark]] {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
            for arrival in 0..WORKERS {
                let mut workers = workers(caching(lines, plain()));
                let parts = datagram_between(C2D, ("192.0.2.100", 5353), (SITE, 80), 3);
                let parts = order.map(|part| parts[part].clone());
                let sent = deliver_all(&mut workers.paths, arrival, WAN, &parts);
                let to: Vec<_> = sent.iter().map(|(_, frame)| frame.data()[30..34].to_vec()).collect();
                assert_eq!(to, vec![[10, 0, 0, 11]; 3], "{lines:?} {order:?}");
            }
        }
    }
}

#[test]
fn what_is_only_routed_stays_its_destinations_owners() {
    for lines in [&[][..], &[MARK]] {
        let mut workers = workers(caching(lines, plain()));
        for sport in 4000..4020 {
            let (at, out) = workers.carry(WAN, &to_site(sport, 22, "S"), false);
            assert_eq!((at, out.sent.len()), (workers.paths[0].owner_of(ip(SITE), 22).index(), 1));
        }
    }
}

#[test]
fn an_explanation_says_that_the_mark_has_brought_it() {
    for lines in [&[][..], &[MARK]] {
        let director = director(caching(lines, plain()));
        let road = explain(&director, WAN, &to_site(4000, 80, "S"));
        let steps = road.trail.steps();
        assert!(
            steps.contains(&Step::ByMark(7)) && steps.contains(&Step::Service(ServiceId(20))),
            "{steps:?}"
        );
        assert!(!explain(&director, WAN, &from_client(4000, "S")).trail.steps().contains(&Step::ByMark(7)));
    }
}

#[test]
fn an_error_about_an_unknown_connection_may_begin_one_by_mark() {
    let mut tables = caching(&[], plain());
    tables.settings.sysctls = Sysctls { schedule_icmp: 1, ..Sysctls::default() };
    let answer = Frame::new(LAN, &tcp((OUR_WAN, CLIENT), (SITE, 80), ("192.0.2.100", 4000), "SA"));
    let out = director(tables).receive(WAN, &[unreachable(&answer)]);
    assert_eq!(out.sent[0].1.data()[30..34], [10, 0, 0, 11]);
}
