//! Goal: with `cache_bypass` what a service by mark has no real server for goes on to its own destination, with its connection; without, or to an address of ours, it is
//! refused. Method: the director of [`by_mark`](super::by_mark), whose caches are gone.

use super::by_mark::{MARK, SITE, caching, director, to_site, with_servers};
use super::explain::explain;
use super::hooks::Workers;
use super::marked::persistent;
use super::persistent::{listed, server_of};
use super::shared::changed;
use super::*;
use crate::flow::carry::Salvage;
use crate::path::{SharedFlow, Taken};
use crate::rule::Rules;
use crate::tables::ServiceOptions;
use crate::trail::Step;

fn without_caches(lines: &[&str], options: ServiceOptions) -> Tables {
    let mut tables = with_servers(caching(lines, options), |servers| servers.clear());
    tables.settings.sysctls.cache_bypass = 1;
    tables
}

fn gone(lines: &[&str]) -> Director {
    director(without_caches(lines, ServiceOptions::default()))
}

fn from_site(dport: u16, flags: &str) -> Vec<u8> {
    tcp((server_mac(50), OUR_LAN), (SITE, 80), ("192.0.2.100", dport), flags)
}

/// Type and code of an ICMP packet.
fn icmp_of(frame: &Frame) -> (u8, u8, u8) {
    let data = frame.data();
    (data[14 + 9], data[14 + 20], data[14 + 21])
}

#[test]
fn a_connection_goes_on_to_its_destination_and_is_listed_without_a_real_server() {
    for lines in [&[][..], &[MARK]] {
        let mut director = gone(lines);
        let out = director.receive(WAN, &[to_site(4000, 80, "S")]);
        let (port, frame) = &out.sent[0];
        assert_eq!((*port, &frame.data()[..12]), (LAN, &[server_mac(50), OUR_LAN].concat()[..]));
        assert_eq!(read(frame), (ip("192.0.2.100"), 4000, ip(SITE), 80, 63));
        let line = |state: &str| format!("{state} 192.0.2.100:4000 {SITE}:80 0.0.0.0:0");
        assert_eq!(listed(&director.path, director.now), [line("SYN_RECV")]);
        let out = director.receive(LAN, &[from_site(4000, "SA")]);
        assert_eq!(read(&out.sent[0].1), (ip(SITE), 80, ip("192.0.2.100"), 4000, 63));
        // The client's column of the table, whatever the other end says.
        for (flags, state) in [("A", "ESTABLISHED"), ("FA", "CLOSE_WAIT"), ("R", "CLOSE")] {
            let out = director.receive(WAN, &[to_site(4000, 80, flags)]);
            assert_eq!(server_of(&out.sent[0].1), ip(SITE));
            assert_eq!(listed(&director.path, director.now), [line(state)], "{lines:?}");
        }
        let syn = tcp(C2D, ("2001:db8::100", 4000), ("fd00::50", 80), "S");
        let out = director.receive(WAN, &[syn]);
        assert_eq!(read(&out.sent[0].1), (ip("2001:db8::100"), 4000, ip("fd00::50"), 80, 63));
        assert!(
            listed(&director.path, director.now)
                .contains(&"SYN_RECV [2001:db8::100]:4000 [fd00::50]:80 [::]:0".to_owned())
        );
        director.path.check_connections().unwrap();
        let counted = |id| director.counters[0].server(ServerId(id)).connections.get();
        assert_eq!([20, 21, 22, 23].map(counted), [0; 4]);
    }
}

#[test]
fn without_the_switch_or_to_an_address_of_ours_the_client_is_told_that_there_is_nobody() {
    let mut off = without_caches(&[], ServiceOptions::default());
    off.settings.sysctls.cache_bypass = 0;
    let vip = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 80), "S");
    for (tables, syn) in [(off, to_site(4000, 80, "S")), (without_caches(&[], Default::default()), vip)] {
        let mut director = director(tables);
        let out = director.receive(WAN, &[syn]);
        assert_eq!((out.sent[0].0, icmp_of(&out.sent[0].1)), (WAN, (1, 3, 3)));
        assert_eq!(director.dropped(DropReason::NoServer), 1);
        assert!(director.states().is_empty());
    }
    let mut tables = without_caches(&[], ServiceOptions::default());
    let key = ServiceKey::new(Protocol::TCP, ip(SITE), 80);
    let by_address = Service::new(None, ServiceId(1), key, SchedulerKind::Rr, Vec::new(), 1);
    tables.services = Services::new([Arc::new(by_address)]).into();
    let out = director(tables).receive(WAN, &[to_site(4000, 80, "S")]);
    assert_eq!(icmp_of(&out.sent[0].1), (1, 3, 3), "it is for services by mark");
}

#[test]
fn it_stays_what_it_is_when_caches_are_back_until_it_is_over() {
    let mut director = gone(&[]);
    director.receive(WAN, &[to_site(4000, 80, "S"), to_site(4000, 80, "A")]);
    let mut back = Tables { generation: 3, ..caching(&[], ServiceOptions::default()) };
    back.settings.sysctls.cache_bypass = 1;
    // A walk ends connections whose real server was removed: this had none.
    back.settings.sysctls.expire_nodest_conn = 1;
    director.path.adopt(back.into());
    let mut later = without_caches(&[], ServiceOptions::default());
    later.settings.sysctls.expire_nodest_conn = 1;
    later.generation = 4;
    director.path.adopt(later.clone().into());
    director.turn();
    let mut back = Tables { generation: 5, ..caching(&[], ServiceOptions::default()) };
    back.settings.sysctls.expire_nodest_conn = 1;
    director.path.adopt(back.into());
    director.turn();
    let out = director.receive(WAN, &[to_site(4000, 80, "A"), to_site(4001, 80, "S")]);
    let to: Vec<_> = out.sent.iter().map(|(_, frame)| server_of(frame)).collect();
    assert_eq!(to, [ip(SITE), ip("10.0.0.11")]);
    director.receive(WAN, &[to_site(4000, 80, "R")]);
    let out = director.receive(WAN, &[to_site(4000, 80, "S")]);
    assert_eq!(server_of(&out.sent[0].1), ip("10.0.0.12"), "a new one, scheduled");
    director.path.check_connections().unwrap();
}

#[test]
fn its_time_is_that_of_its_state() {
    let mut director = gone(&[]);
    director.receive(
        WAN,
        &[to_site(4000, 80, "S"), datagram_between(C2D, ("192.0.2.100", 53), (SITE, 80), 1).remove(0)],
    );
    let mut left = Vec::new();
    director
        .path
        .list(0, u32::MAX, director.now, &mut |flow| left.push((flow.state, flow.expires_in.as_secs())));
    left.sort_unstable();
    assert_eq!(left, [("SYN_RECV", 60), ("UDP", 300)]);
}

#[test]
fn a_packet_that_cannot_go_on_is_answered() {
    let mut director = gone(&[]);
    let mut last = to_site(4000, 80, "S");
    last[14 + 8] = 1;
    crate::wire::ipv4::fill_checksum(&mut last[14..34]);
    assert_eq!(icmp_of(&director.receive(WAN, &[last]).sent[0].1), (1, 11, 0));
    let nowhere = tcp(C2D, ("192.0.2.100", 4000), ("203.0.113.9", 80), "S");
    assert_eq!(icmp_of(&director.receive(WAN, &[nowhere]).sent[0].1), (1, 3, 0));
    let unknown = tcp(C2D, ("192.0.2.100", 4000), ("10.0.0.77", 80), "S");
    assert_eq!(director.receive(WAN, &[unknown]).resolve, [ip("10.0.0.77")]);
}

#[test]
fn what_lies_behind_an_interface_of_linux_goes_up_the_twin() {
    let tables = without_caches(&[], ServiceOptions::default());
    let prefix = |address: &str, len| Prefix { address: ip(address), len };
    let via = Route::Via { interface: InterfaceId(0), gateway: None };
    let routes = [(prefix("192.0.2.0", 24), via), (prefix(SITE, 32), Route::Linux)];
    let marked = crate::tables::MarkedRoutes::new(
        7,
        u32::MAX,
        [(prefix("10.0.0.0", 8), crate::tables::Marked::Local)],
    );
    let mut director =
        director(Tables { routes: Routes::new(routes).with_marked([marked]).into(), ..tables });
    let out = director.receive(WAN, &[to_site(4000, 80, "S"), to_site(4000, 80, "A")]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 2));
    assert_eq!(director.states(), ["ESTABLISHED"]);
}

#[test]
fn datagrams_that_are_scheduled_alone_leave_nothing() {
    for options in [
        ServiceOptions { one_packet: true, ..ServiceOptions::default() },
        ServiceOptions { one_packet: true, ..persistent() },
    ] {
        let mut director = director(without_caches(&[], options));
        let parts = datagram_between(C2D, ("192.0.2.100", 5353), (SITE, 80), 3);
        let out = director.receive(WAN, &[parts[1].clone(), parts[0].clone(), parts[2].clone()]);
        assert_eq!(out.sent.len(), 3);
        assert!(out.sent.iter().all(|(_, frame)| frame.data()[30..34] == [10, 0, 0, 50]));
        assert!(director.states().is_empty());
    }
}

#[test]
fn rules_see_it_as_what_the_director_sends_on() {
    for (rule, is_sent) in [
        ("filter FORWARD -j DROP", true),
        ("filter INPUT -p tcp --dport 80 -j DROP", false),
        ("filter OUTPUT -d 10.0.0.50 -j DROP", false),
    ] {
        let mut director = gone(&[MARK, rule]);
        for flags in ["S", "A"] {
            assert_eq!(director.receive(WAN, &[to_site(4000, 80, flags)]).sent.len() == 1, is_sent, "{rule}");
        }
    }
}

#[test]
fn with_several_workers_it_is_its_clients_owners_persistent_or_not() {
    for lines in [&[][..], &[MARK]] {
        for options in [ServiceOptions::default(), persistent()] {
            let mut workers = Workers::new(4, Rules::default());
            let tables = Arc::new(without_caches(lines, options));
            workers.paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
            for sport in 4000..4020 {
                let owner = workers.paths[0].owner_of(ip("192.0.2.100"), sport).index();
                for flags in ["S", "A"] {
                    let (at, out) = workers.carry(WAN, &to_site(sport, 80, flags), false);
                    assert_eq!((at, server_of(&out.sent[0].1)), (owner, ip(SITE)), "{lines:?} {flags}");
                }
            }
            assert_eq!(workers.inserted(), 20);
        }
    }
}

#[test]
fn it_outlives_a_restart() {
    let tables = without_caches(&[], ServiceOptions::default());
    let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
    let mut before =
        Path::new(PathConfig { memory, ..config(0, &counters(1), &Arc::new(Uses::new(1, 100))) });
    before.adopt(Arc::new(tables.clone()));
    let frames = ["S", "A"].map(|flags| Frame::new(WAN, &to_site(4000, 80, flags)));
    before.receive(&mut frames.into_iter().collect(), Tick(100), &mut Out::default());
    drop(before);
    let memory = remains.bytes().unwrap().to_vec();
    let mut next = director(tables);
    let done = next.path.carry_over(&[Salvage::of(&memory).unwrap()], Tick(200));
    assert_eq!(done, CarriedOver { connections: 1, ..CarriedOver::default() });
    assert_eq!(listed(&next.path, Tick(200)), [format!("ESTABLISHED 192.0.2.100:4000 {SITE}:80 0.0.0.0:0")]);
    next.now = Tick(300);
    let out = next.receive(WAN, &[to_site(4000, 80, "A")]);
    assert_eq!(server_of(&out.sent[0].1), ip(SITE));
    next.path.check_connections().unwrap();
}

#[test]
fn an_explanation_says_that_it_goes_past() {
    for lines in [&[][..], &[MARK]] {
        let road = explain(&gone(lines), WAN, &to_site(4000, 80, "S"));
        let steps = road.trail.steps();
        let at = steps.iter().position(|step| *step == Step::Server(None)).unwrap();
        assert_eq!(steps[at + 1], Step::Bypass);
        assert_eq!(road.dropped, None);
    }
}

/// Its caches are gone, and other directors are told of its connections.
fn sharing() -> Director {
    let mut tables = without_caches(&[], ServiceOptions::default());
    tables.settings.is_sharing = true;
    director(tables)
}

#[test]
fn another_director_that_was_told_lets_it_go_on_past_its_real_servers() {
    let mut master = sharing();
    master.receive(WAN, &[to_site(4000, 80, "S")]);
    assert!(changed(&mut master).is_empty(), "not of the handshake");
    master.receive(WAN, &[to_site(4000, 80, "A")]);
    let told = changed(&mut master);
    assert_eq!(
        told.iter().map(|flow| (flow.is_past, flow.server)).collect::<Vec<_>>(),
        [(true, (ip(SITE), 80))]
    );
    // That it has caches, and would not let anything past, is nothing to a connection that goes past.
    let mut backup = director(Tables { generation: 3, ..caching(&[], ServiceOptions::default()) });
    let mut take = |flow: SharedFlow, server| {
        let taken = backup.path.take_over(&flow, server, backup.now);
        backup.path.check_connections().unwrap();
        taken
    };
    let ours = crate::flow::Tuple { dst: ip("192.0.2.1"), ..told[0].original };
    let unsound = [
        SharedFlow { server: (ip("10.0.0.11"), 80), ..told[0] },
        SharedFlow { local: (ip("192.0.2.1"), 2000), ..told[0] },
        SharedFlow { original: ours, server: (ours.dst, 80), ..told[0] },
    ];
    for flow in unsound {
        assert_eq!(take(flow, ServerId::BYPASS), Taken::Unsound, "{flow:?}");
    }
    assert_eq!(take(told[0], ServerId(20)), Taken::Unsound, "no real server's");
    assert_eq!(take(told[0], ServerId::BYPASS), Taken::New);
    assert_eq!(take(told[0], ServerId::BYPASS), Taken::Updated);
    let out = backup.receive(WAN, &[to_site(4000, 80, "A"), to_site(4001, 80, "S")]);
    let to: Vec<_> = out.sent.iter().map(|(_, frame)| server_of(frame)).collect();
    assert_eq!(to, [ip(SITE), ip("10.0.0.11")]);
    assert!(
        listed(&backup.path, backup.now)
            .contains(&format!("ESTABLISHED 192.0.2.100:4000 {SITE}:80 0.0.0.0:0"))
    );
    backup.path.check_connections().unwrap();
}
