//! Flood mode, there and back: while the table is short of room nothing is kept of what a hash alone leads to its real server, and nobody notices.

use super::hooks::rules;
use super::shared::datagram;
use super::*;
use crate::ipvs::scheduler::SchedulerFlags;
use crate::tables::{ClientMask, Persistence, Tunnel};
use crate::time::Timeout;

/// The service 192.0.2.10:80 (TCP) alone on .11 and .12, and all of UDP's, which is masqueraded.
fn by(generation: u32, kind: SchedulerKind, change: impl Fn(&mut Server)) -> Tables {
    let tables = tables(generation, &[11, 12], 1);
    let udp = tables.services.iter().filter(|service| service.key.protocol == Protocol::UDP).cloned();
    let server = |n: u32| {
        let mut server = Server::new(ServerId(20 + n), (ip(&format!("10.0.0.{n}")), 80), 1, Forward::Direct);
        change(&mut server);
        server
    };
    let key = ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80);
    let service = Service::new(None, ServiceId(9), key, kind, [11, 12].map(server).to_vec(), generation);
    Tables { services: Services::new(udp.chain([Arc::new(service)])).into(), ..tables }
}

fn director(tables: Tables) -> Director {
    let mut director = Director::new();
    director.path.adopt(tables.into());
    director
}

/// So many connections of another service, and a turn.
fn fill(director: &mut Director, count: u16) {
    for port in 0..count {
        director.receive(WAN, &[datagram(10_000 + port)]);
    }
    director.turn();
}

/// Time goes by until UDP's connections are over.
fn empty(director: &mut Director) {
    for _ in 0..31 {
        director.now = director.now.after(Timeout::from_secs(10));
        director.turn();
    }
}

/// The last byte of the MAC address that a client's packet goes on to; `None`: it goes to no real server.
fn server_of(director: &mut Director, sport: u16, flags: &str) -> Option<u8> {
    let out = director.receive(WAN, &[from_client(sport, flags)]);
    let (port, frame) = out.sent.first()?;
    assert_eq!((*port, out.sent.len()), (LAN, 1));
    Some(frame.data()[5])
}

fn hashed(director: &Director) -> u64 {
    director.counters[0].service(ServiceId(9)).hashed.get()
}

const PORTS: std::ops::Range<u16> = 4000..4016;

/// With this done to its services.
fn with(mut tables: Tables, change: impl Fn(&mut Service)) -> Tables {
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        change(&mut service);
        Arc::new(service)
    });
    tables.services = Services::new(services.collect::<Vec<_>>()).into();
    tables
}

fn mh() -> Tables {
    with(by(2, SchedulerKind::Mh, |_| ()), |service| {
        if service.scheduler == SchedulerKind::Mh {
            service.scheduler_flags = SchedulerFlags::from_names(SchedulerKind::Mh, ["mh-port"]).unwrap();
        }
    })
}

#[test]
fn a_table_that_is_short_keeps_nothing_of_what_a_hash_leads_and_takes_it_up_when_there_is_room() {
    let mut director = director(mh());
    let mut calm = Director::new();
    calm.path.adopt(mh().into());
    let expected: Vec<_> = PORTS.map(|port| server_of(&mut calm, port, "S")).collect();
    assert!(expected.contains(&Some(11)) && expected.contains(&Some(12)), "{expected:?}");
    assert_eq!(server_of(&mut director, 3999, "S"), server_of(&mut calm, 3999, "S"));
    fill(&mut director, 88);
    let kept = director.states().len();
    assert_eq!(kept, 89, "not one place in eight is free");
    for flags in ["S", "A", "FA", "R"] {
        let went: Vec<_> = PORTS.map(|port| server_of(&mut director, port, flags)).collect();
        assert_eq!(went, expected, "{flags}");
    }
    assert_eq!((director.states().len(), hashed(&director)), (kept, 64));
    let cells = [31, 32].map(|id| director.counters[0].server(ServerId(id)));
    assert_eq!(cells.iter().map(|cell| cell.in_packets.get()).sum::<u64>(), 65);
    assert_eq!(cells.iter().map(|cell| cell.connections.get()).sum::<u64>(), 1, "the one from before");
    // That one goes on by its entry, and ends with it.
    assert_eq!(server_of(&mut director, 3999, "A"), server_of(&mut calm, 3999, "A"));
    empty(&mut director);
    let went: Vec<_> = PORTS.map(|port| server_of(&mut director, port, "A")).collect();
    assert_eq!(went, expected);
    assert_eq!((director.states(), hashed(&director)), (vec!["ESTABLISHED"; 17], 64));
    // As long as such a one may rest; later on what no connection is known of is the host's again.
    for _ in 0..90 {
        director.now = director.now.after(Timeout::from_secs(10));
        director.turn();
    }
    assert_eq!(server_of(&mut director, 5000, "A"), None);
    director.path.check_connections().unwrap();
}

#[test]
fn it_begins_with_an_eighth_that_is_free_and_ends_with_a_quarter() {
    let mut director = director(by(2, SchedulerKind::Sh, |_| ()));
    fill(&mut director, 88);
    server_of(&mut director, 4000, "S");
    assert_eq!(hashed(&director), 0);
    fill(&mut director, 89);
    server_of(&mut director, 4001, "S");
    assert_eq!((hashed(&director), director.states().len()), (1, 90));
    // Fewer than a quarter are free: it goes on.
    let now = director.now;
    let end = |director: &mut Director, ports: std::ops::Range<u16>| {
        for port in ports {
            let (src, dst) = (ip("192.0.2.100"), ip("192.0.2.10"));
            let original = Tuple { src, sport: port, dst, dport: 80, protocol: Protocol::UDP };
            assert_eq!(director.path.order(&original, &Order::plain(Deed::End), now), Outcome::Done);
        }
        director.turn();
    };
    end(&mut director, 10_000..10_014);
    server_of(&mut director, 4002, "S");
    assert_eq!((hashed(&director), director.states().len()), (2, 76));
    end(&mut director, 10_014..10_015);
    server_of(&mut director, 4003, "S");
    assert_eq!((hashed(&director), director.states().len()), (2, 76));
}

#[test]
fn whatever_has_to_be_remembered_is_entered_as_ever() {
    let cases: [(&str, Tables); 5] = [
        ("it counts connections", by(2, SchedulerKind::Wlc, |_| ())),
        (
            "there is something to translate",
            by(2, SchedulerKind::Sh, |server| server.forward = Forward::Masq),
        ),
        ("thresholds are counted", by(2, SchedulerKind::Sh, |server| server.upper_threshold = 1000)),
        (
            "clients are kept",
            with(by(2, SchedulerKind::Sh, |_| ()), |service| {
                let persistence = Persistence { timeout: Timeout::from_secs(10), mask: ClientMask::WHOLE };
                service.options.persistence = Some(persistence);
            }),
        ),
        ("there is room", by(2, SchedulerKind::Sh, |_| ())),
    ];
    for (why, tables) in cases {
        let mut director = director(tables);
        let before = if why == "there is room" { 60 } else { 90 };
        let is_persistent = why == "clients are kept";
        for port in 0..before {
            director.receive(WAN, &[from_client(20_000 + port, "S")]);
        }
        director.turn();
        let entries = director.states().len();
        assert!(server_of(&mut director, 4000, "S").is_some(), "{why}");
        assert_eq!((hashed(&director), director.states().len()), (0, entries + 1), "{why}");
        assert_eq!(entries, usize::from(before) + usize::from(is_persistent), "{why}");
        assert_eq!(server_of(&mut director, 5000, "A"), None, "{why}: of no connection it is the host's");
    }
}

#[test]
fn tunnels_are_gone_through_and_fragments_follow_the_first() {
    let tunnel = Forward::Tunnel(Tunnel::Ipip);
    let mut director = director(by(2, SchedulerKind::Maglev, |server| server.forward = tunnel));
    fill(&mut director, 90);
    let syn = from_client(4000, "S");
    let out = director.receive(WAN, std::slice::from_ref(&syn));
    let inner = &out.sent[0].1.data()[14 + 20..];
    assert_eq!(inner[12..], syn[14 + 12..], "all but TTL and its checksum");
    assert_eq!((hashed(&director), director.states().len()), (1, 90));
}

#[test]
fn rules_see_each_packet_that_goes_by_hash() {
    let tables = by(2, SchedulerKind::Sh, |_| ());
    let rules = Arc::new(rules(&[
        "filter INPUT -p tcp --sport 4001 -j DROP",
        "filter OUTPUT -p tcp --sport 4002 -j DROP",
    ]));
    let mut director = director(Tables { rules, ..tables });
    fill(&mut director, 90);
    let went = [4000, 4001, 4002].map(|port| server_of(&mut director, port, "S").is_some());
    assert_eq!((went, hashed(&director)), ([true, false, false], 1));
    assert_eq!(server_of(&mut director, 4000, "A"), server_of(&mut director, 4003, "S"));
    assert_eq!(director.dropped(DropReason::Rule), 2);
}
