//! Persistence: what the recordings do not show.

use std::net::Ipv4Addr;

use super::*;
use crate::flow::carry::Salvage;
use crate::flow::template::template_protocol;
use crate::tables::{ClientMask, Persistence, ServiceOptions};
use crate::time::Timeout;

const WORKERS: usize = 4;

/// Of a packet that has its ports itself.
const AS_IT_SAYS: Ports = Ports { sport: 4000, dport: 80, protocol: Protocol::TCP };

/// [`tables`], all of whose services are persistent; `edit` the TCP one.
pub(super) fn persistent(generation: u32, edit: impl FnOnce(&mut Service)) -> Tables {
    let tables = tables(generation, &[11, 12], 1);
    let mask = ClientMask::ipv4("255.255.255.0".parse().unwrap());
    let mut edit = Some(edit);
    let mut services: Vec<Service> = tables.services.iter().map(|service| (**service).clone()).collect();
    services.sort_by_key(|service| service.id);
    for service in &mut services {
        let persistence = Some(Persistence { timeout: Timeout::from_secs(100), mask });
        service.options = ServiceOptions { persistence, ..ServiceOptions::default() };
        if let Some(edit) = edit.take() {
            edit(service);
        }
    }
    Tables { services: Services::new(services.into_iter().map(Arc::new)).into(), ..tables }
}

fn director(edit: impl FnOnce(&mut Service)) -> Director {
    let mut director = Director::new();
    director.path.adopt(persistent(2, edit).into());
    director
}

/// As `ipvsadm -Lnc` lists them, sorted: state, client, virtual, server.
pub(super) fn listed(path: &Path<Frame>, now: Tick) -> Vec<String> {
    let mut lines = Vec::new();
    path.list(0, u32::MAX, now, &mut |flow| {
        let end = |(address, port): (IpAddr, u16)| std::net::SocketAddr::new(address, port);
        let ends = [flow.client, flow.virtual_, flow.server].map(|at| end(at).to_string());
        lines.push(format!("{} {}", flow.state, ends.join(" ")));
    });
    lines.sort();
    lines
}

pub(super) fn server_of(frame: &Frame) -> IpAddr {
    read(frame).2
}

#[test]
fn with_several_workers_all_connections_of_a_client_find_its_template() {
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    for path in &mut paths {
        path.adopt(persistent(1, |_| ()).into());
    }
    let mut owners = std::collections::BTreeSet::new();
    let mut server = None;
    for n in 0..40u16 {
        let sent = deliver(&mut paths, usize::from(n) % WORKERS, WAN, &from_client(4000 + n, "S"));
        assert_eq!(sent.len(), 1);
        owners.insert(sent[0].0);
        assert_eq!(*server.get_or_insert(server_of(&sent[0].1)), server_of(&sent[0].1), "connection {n}");
        // What follows goes to the owner alone.
        let sent = deliver(&mut paths, usize::from(n / 3) % WORKERS, WAN, &from_client(4000 + n, "A"));
        assert_eq!((sent.len(), Some(server_of(&sent[0].1))), (1, server));
    }
    assert_eq!(owners.len(), WORKERS, "the client's connections are spread over the workers");
    let templates: Vec<_> =
        paths.iter().flat_map(|path| listed(path, Tick(100))).filter(|line| line.contains(":0 ")).collect();
    assert_eq!(templates.len(), 1, "{templates:?}");
    assert!(templates[0].starts_with("ASSURED 192.0.2.0:0 192.0.2.10:80 "), "{templates:?}");
    let sum = |count: fn(&crate::counters::ServerCell) -> u64| -> u64 {
        counters.iter().flat_map(|worker| (0..8).map(|id| count(worker.server(ServerId(id))))).sum()
    };
    let sums = [
        sum(|cell| cell.persistent.get()),
        sum(|cell| cell.active.get()),
        sum(|cell| cell.connections.get()),
    ];
    assert_eq!(sums, [1, 40, 40]);

    // A connection at any worker keeps the template at its own.
    let mut now = Tick(100);
    let mut out = Out::default();
    let is_left = |paths: &[Path<Frame>], now| {
        paths.iter().flat_map(|path| listed(path, now)).filter(|line| line.contains(":0 ")).count()
    };
    for path in &mut paths {
        assert_eq!(path.check_connections(), Ok(()));
    }
    // Established connections last 900 s, so that the template is given 60 s more again and again.
    for seconds in 1..=890 {
        now = Tick(100 + seconds * 100);
        paths.iter_mut().for_each(|path| path.turn(now, &mut out));
        assert_eq!(is_left(&paths, now), 1, "after {seconds} s");
    }
    for seconds in 891..=970 {
        now = Tick(100 + seconds * 100);
        paths.iter_mut().for_each(|path| path.turn(now, &mut out));
    }
    assert!(paths.iter().all(|path| listed(path, now).is_empty()));
    assert_eq!(sum(|cell| cell.persistent.get()), 0);
}

#[test]
fn fragments_of_a_first_datagram_do_not_overtake_the_templates_answer() {
    let client = (ip("192.0.2.100"), 5353);
    let mut went_there_and_back = 0;
    for bits in 8..=32 {
        let mask = ClientMask::ipv4(Ipv4Addr::from(u32::MAX << (32 - bits)));
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let counters = counters(WORKERS);
            let uses = Arc::new(Uses::new(WORKERS, 100));
            let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
            for path in &mut paths {
                let tables = persistent(1, |_| ());
                let services = tables.services.iter().map(|service| {
                    let mut service = (**service).clone();
                    service.options.persistence.as_mut().unwrap().mask = mask;
                    Arc::new(service)
                });
                let services = Services::new(services.collect::<Vec<_>>()).into();
                path.adopt(Tables { services, ..tables }.into());
            }
            let owner = paths[0].owner_of(client.0, client.1);
            went_there_and_back += usize::from(owner != paths[0].owner_of(mask.client(client.0), 0));
            let parts = datagram(3);
            let burst = order.map(|part| parts[part].clone());
            let sent = deliver_all(&mut paths, 0, WAN, &burst);
            assert_eq!(sent.len(), 3, "{bits} {order:?}");
            for (worker, frame) in &sent {
                let to = Ipv4Addr::from(<[u8; 4]>::try_from(&frame.data()[30..34]).unwrap());
                assert_eq!((*worker, to.octets()[0]), (owner.index(), 10), "{bits} {order:?}");
            }
        }
    }
    assert!(went_there_and_back > 20, "{went_there_and_back} of 75");
}

#[test]
fn a_worker_that_knows_of_no_persistent_service_does_not_hold_up_a_connection() {
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    let holder = paths[0].owner_of(ip("192.0.2.0"), 0).index();
    for (n, path) in paths.iter_mut().enumerate() {
        let tables = if n == holder { tables(1, &[11, 12], 1) } else { persistent(2, |_| ()) };
        path.adopt(tables.into());
    }
    for n in 0..20 {
        assert_eq!(deliver(&mut paths, 0, WAN, &from_client(4000 + n, "S")).len(), 1);
    }
    // And the other way round: the owner learns in between that the service is not persistent any more.
    for (n, path) in paths.iter_mut().enumerate() {
        path.adopt(if n == holder { persistent(4, |_| ()) } else { tables(3, &[11, 12], 1) }.into());
    }
    let is_elsewhere = |port: &u16| paths[0].owner_of(ip("192.0.2.100"), *port).index() != holder;
    let port = (5000..).find(is_elsewhere).unwrap();
    let owner = paths[0].owner_of(ip("192.0.2.100"), port).index();
    let mut out = Out::default();
    let held = Held { server: ServerId(2), template: uses.id(WorkerId(holder as u16), 0) };
    let mut burst: ArrayVec<_, BURST> =
        [(Frame::new(WAN, &from_client(port, "S")), Steer::Answer(AS_IT_SAYS, None, Some(held)))]
            .into_iter()
            .collect();
    paths[owner].receive_handed_over(&mut burst, Tick(100), &mut out);
    assert_eq!(out.sent.len(), 1);
}

#[test]
fn no_worker_makes_a_template_that_is_anothers() {
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let client = ip("192.0.2.100");
    let with = |mask| persistent(2, |service| service.options.persistence.as_mut().unwrap().mask = mask);
    let masks = || (8..=32).map(|bits| ClientMask::ipv4(Ipv4Addr::from(u32::MAX << (32 - bits))));
    for asking in masks() {
        for asked in masks() {
            let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
            let holder = paths[0].owner_of(asking.client(client), 0).index();
            for (n, path) in paths.iter_mut().enumerate() {
                path.adopt(with(if n == holder { asked } else { asking }).into());
            }
            assert_eq!(deliver(&mut paths, 0, WAN, &from_client(4000, "S")).len(), 1);
            for (n, path) in paths.iter().enumerate() {
                path.list(0, u32::MAX, Tick(100), &mut |flow| {
                    let is_here = path.owner_of(flow.client.0, flow.client.1).index() == n;
                    assert!(is_here, "{asking:?} {asked:?}: {flow:?} at {n}");
                });
            }
        }
    }
}

#[test]
fn a_template_is_no_connection_to_whoever_orders() {
    let mut director = director(|_| ());
    director.receive(WAN, &[from_client(4000, "S")]);
    let template = Tuple {
        src: ip("192.0.2.0"),
        dst: ip("192.0.2.10"),
        sport: 0,
        dport: 80,
        protocol: template_protocol(Protocol::TCP),
    };
    assert!(director.path.flows.find(&template).is_some());
    let end = Order::plain(Deed::End);
    assert_eq!(director.path.order(&template, &end, director.now), Outcome::Absent);
    assert_eq!(director.path.check_connections(), Ok(()));
}

#[test]
fn an_answer_about_a_template_that_ended_meanwhile_begins_the_connection_all_the_same() {
    let mut director = director(|_| ());
    let held = Held { server: ServerId(2), template: director.path.uses.id(WorkerId(0), 7) };
    director.path.uses.begin(WorkerId(0), 7);
    let mut out = Out::default();
    let mut burst: ArrayVec<_, BURST> =
        [(Frame::new(WAN, &from_client(4000, "S")), Steer::Answer(AS_IT_SAYS, None, Some(held)))]
            .into_iter()
            .collect();
    director.path.receive_handed_over(&mut burst, director.now, &mut out);
    assert_eq!(server_of(&out.sent[0].1), ip("10.0.0.11"));
    assert!(director.path.uses.end(WorkerId(0), 7), "nothing is counted at another template");
}

#[test]
fn a_datagram_that_nothing_is_kept_of_is_not_sent_to_a_server_of_the_other_family() {
    let (counters, uses) = (counters(2), Arc::new(Uses::new(2, 100)));
    let mut path = path(0, &counters, &uses);
    let mut tables = one_packet::by(2, Forward::Masq, &[11]);
    let mut service = (**tables.services.iter().next().unwrap()).clone();
    let mask = ClientMask::WHOLE;
    service.options.persistence = Some(Persistence { timeout: Timeout::from_secs(100), mask });
    let key = ServiceKey::new(Protocol::UDP, ip("192.0.2.11"), 80);
    let server = Server::new(ServerId(40), (ip("fd00::11"), 80), 1, Forward::FullNat);
    let other = Service::new(None, ServiceId(2), key, SchedulerKind::Rr, vec![server], 2);
    tables.services = Services::new([service, other].map(Arc::new)).into();
    path.adopt(tables.into());
    // By the tables of whoever answers, the service keeps connections and has that server.
    let held = Held { server: ServerId(40), template: uses.id(WorkerId(1), 7) };
    let says = Ports { sport: 4000, dport: 80, protocol: Protocol::UDP };
    let mut out = Out::default();
    let frame = Frame::new(WAN, &datagram(1)[0]);
    let mut burst: ArrayVec<_, BURST> =
        [(frame, Steer::Answer(says, None, Some(held)))].into_iter().collect();
    path.receive_handed_over(&mut burst, Tick(100), &mut out);
    assert!(out.sent.is_empty());
    assert_eq!(path.mine.dropped(DropReason::ServerRemoved, Hook::Input).get(), 1);
}

#[test]
fn clients_within_one_ipv6_prefix_have_one_server() {
    let mut director = director(|_| ());
    let mut tables = Tables::clone(&director.path.tables);
    tables.generation += 1;
    let services = tables.services.iter().map(|service| {
        let mut service = Service::clone(service);
        if let Some(persistence) = &mut service.options.persistence
            && service.key.address.is_ipv6()
        {
            persistence.mask = ClientMask::ipv6(120).unwrap();
        }
        Arc::new(service)
    });
    tables.services = Services::new(services.collect::<Vec<_>>()).into();
    director.path.adopt(tables.into());
    let server = |client| {
        let out = director.receive(WAN, &[tcp(C2D, (client, 4000), ("2001:db8::10", 80), "S")]);
        server_of(&out.sent[0].1)
    };
    let [one, like_it, other] = ["2001:db8::100", "2001:db8::1ff", "2001:db8::200"].map(server);
    assert!(one == like_it && one != other, "{one} {like_it} {other}");
}

#[test]
fn a_server_that_is_removed_is_replaced_and_one_that_is_full_is_kept() {
    let mut director = director(|_| ());
    let first = server_of(&director.receive(WAN, &[from_client(4000, "S")]).sent[0].1);
    director.path.adopt(
        persistent(3, |service| {
            for server in &mut service.servers {
                server.weight = 0;
                server.upper_threshold = 1;
                server.overloaded.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        })
        .into(),
    );
    assert_eq!(server_of(&director.receive(WAN, &[from_client(4001, "S")]).sent[0].1), first);
    director
        .path
        .adopt(persistent(4, |service| service.servers.retain(|server| server.address != first)).into());
    let second = server_of(&director.receive(WAN, &[from_client(4002, "S")]).sent[0].1);
    assert_ne!(second, first);
    let lines = listed(&director.path, director.now);
    let templates: Vec<_> = lines.iter().filter(|line| line.contains("192.0.2.0:0")).collect();
    assert_eq!(
        templates,
        [
            &format!("NONE 192.0.2.0:0 192.0.2.10:65535 {first}:65535"),
            &format!("NONE 192.0.2.0:0 192.0.2.10:80 {second}:8080")
        ]
    );
    assert_eq!(director.path.check_connections(), Ok(()));
    // Its own connections end later than it would; then both go.
    for seconds in 0..300 {
        director.now = Tick(100 + seconds * 100);
        director.turn();
    }
    assert!(listed(&director.path, director.now).is_empty());
    assert_eq!(director.path.check_connections(), Ok(()));
}

/// The TCP service of [`persistent`] is for 192.0.2.10 and 192.0.2.11.
fn prefix_service(service: &mut Service) {
    (service.key.address, service.key.prefix_len) = (ip("192.0.2.10"), 31);
}

fn to_the_other_address(sport: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(CLIENT, OUR_WAN)
        .ipv4([192, 0, 2, 100], [192, 0, 2, 11], 64)
        .tcp(sport, 80, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

#[test]
fn each_address_of_a_prefix_has_templates_of_its_own_until_it_has_a_service_of_its_own() {
    let mut director = director(prefix_service);
    let tables = |generation, edit: &dyn Fn(&mut Vec<Service>)| {
        let tables = persistent(generation, prefix_service);
        let mut services: Vec<Service> = tables.services.iter().map(|service| (**service).clone()).collect();
        services.sort_by_key(|service| service.id);
        edit(&mut services);
        let mut routes: Vec<_> = vec![(Prefix { address: ip("192.0.2.10"), len: 31 }, Route::Local)];
        let lan = Route::Via { interface: InterfaceId(1), gateway: None };
        routes.push((Prefix { address: ip("10.0.0.0"), len: 24 }, lan));
        let routes = Routes::new(routes).into();
        let services = Services::new(services.into_iter().map(Arc::new)).into();
        Tables { services, routes, ..tables }
    };
    director.path.adopt(tables(3, &|_| ()).into());
    let server =
        |director: &mut Director, frame: Vec<u8>| server_of(&director.receive(WAN, &[frame]).sent[0].1);
    let one = server(&mut director, from_client(4000, "S"));
    let other = server(&mut director, to_the_other_address(4000));
    assert_ne!(one, other, "rr went on: another address, another template");
    for port in 4001..4004 {
        assert_eq!(server(&mut director, from_client(port, "S")), one);
        assert_eq!(server(&mut director, to_the_other_address(port)), other);
    }
    // The address has a service of its own from here on, with the other real server alone.
    director.path.adopt(
        tables(4, &|services| {
            let mut own = services[0].clone();
            own.id = ServiceId(9);
            own.key = ServiceKey::new(Protocol::TCP, ip("192.0.2.11"), 80);
            own.servers.retain(|server| server.address == one);
            own.servers[0].id = ServerId(40);
            services.push(own);
        })
        .into(),
    );
    assert_eq!(server(&mut director, to_the_other_address(5000)), one, "the template of before is not its");
    assert_eq!(server(&mut director, from_client(5000, "S")), one);
    assert_eq!(director.path.check_connections(), Ok(()));
}

#[test]
fn a_packet_that_looks_like_a_template_is_none_of_it() {
    let mut director = director(|service| {
        if let Some(persistence) = &mut service.options.persistence {
            persistence.mask = ClientMask::WHOLE;
        }
    });
    director.receive(WAN, &[from_client(4000, "S")]);
    let out = director.receive(WAN, &[from_client(0, "S")]);
    assert_eq!(out.sent.len(), 1);
    let out = director.receive(WAN, &[from_client(0, "A")]);
    assert_eq!(out.sent.len(), 1, "of the connection from port 0");
    let lines = listed(&director.path, director.now);
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[test]
fn a_udp_template_is_assured_by_the_first_answer() {
    let mut director = director(|_| ());
    let query = datagram(1).remove(0);
    let server = server_of(&director.receive(WAN, std::slice::from_ref(&query)).sent[0].1);
    let state = |director: &Director| {
        let lines = listed(&director.path, director.now);
        lines.iter().find(|line| line.contains(":0 ")).unwrap().split(' ').next().unwrap().to_owned()
    };
    director.receive(WAN, std::slice::from_ref(&query));
    assert_eq!(state(&director), "NONE");
    let IpAddr::V4(server) = server else { panic!() };
    let mut answer = Vec::new();
    etherparse::PacketBuilder::ethernet2(server_mac(server.octets()[3]), OUR_LAN)
        .ipv4(server.octets(), [192, 0, 2, 100], 64)
        .udp(8080, 5353)
        .write(&mut answer, b"answer")
        .unwrap();
    assert_eq!(director.receive(LAN, &[answer]).sent.len(), 1);
    assert_eq!(state(&director), "ASSURED");
}

#[test]
fn templates_outlive_a_restart() {
    let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
    let uses = Arc::new(Uses::new(1, 100));
    let counters = counters(1);
    let mut before = Path::new(PathConfig { memory, ..config(0, &counters, &uses) });
    before.adopt(persistent(1, |_| ()).into());
    let mut out = Out::default();
    let mut burst: Burst<Frame> = [Frame::new(WAN, &from_client(4000, "S"))].into_iter().collect();
    before.receive(&mut burst, Tick(100), &mut out);
    let server = server_of(&out.sent[0].1);
    drop(before);
    let memory = remains.bytes().unwrap().to_vec();
    let mut next = director(|service| service.servers.reverse());
    let done = next.path.carry_over(&[Salvage::of(&memory).unwrap()], Tick(200));
    assert_eq!(done, CarriedOver { connections: 2, ..CarriedOver::default() });
    next.now = Tick(300);
    for port in 4001..4005 {
        let out = next.receive(WAN, &[from_client(port, "S")]);
        assert_eq!(server_of(&out.sent[0].1), server);
    }
    let persistent: u64 = (0..8).map(|id| next.counters[0].server(ServerId(id)).persistent.get()).sum();
    assert_eq!(persistent, 1);
    assert_eq!(next.path.check_connections(), Ok(()));
}

/// Persistent FTP by this method, at the service's address; with `rest` another service, of every port.
fn ftp(forward: Forward, is_persistent: bool, rest: Option<bool>) -> Director {
    let tables = persistent(2, |_| ());
    let services = tables.services.iter().filter(|service| service.key.protocol == Protocol::TCP);
    let mut all: Vec<Arc<Service>> = Vec::new();
    for service in services {
        let mut ftp = Service::clone(service);
        ftp.key.port = 21;
        ftp.servers.iter_mut().for_each(|server| (server.port, server.forward) = (21, forward));
        if let Some(is_persistent) = rest {
            let mut rest = ftp.clone();
            (rest.id, rest.key.port) = (ServiceId(rest.id.0 + 10), 0);
            rest.servers.iter_mut().for_each(|server| server.id = ServerId(server.id.0 + 20));
            rest.options.persistence = rest.options.persistence.filter(|_| is_persistent);
            all.push(Arc::new(rest));
        }
        ftp.options.persistence = ftp.options.persistence.filter(|_| is_persistent);
        all.push(Arc::new(ftp));
    }
    let mut director = Director::new();
    director.path.adopt(Tables { services: Services::new(all).into(), ..tables }.into());
    director
}

fn to_port(sport: u16, dport: u16) -> Vec<u8> {
    tcp(C2D, ("192.0.2.100", sport), ("192.0.2.10", dport), "S")
}

#[test]
fn data_connections_of_persistent_ftp_come_to_the_real_server_of_its_control_connection() {
    for forward in [Forward::Direct, Forward::Masq] {
        let mut director = ftp(forward, true, None);
        let mac = |out: Out| out.sent[0].1.data()[..6].to_vec();
        let first = mac(director.receive(WAN, &[to_port(4000, 21)]));
        for (sport, dport) in [(4001, 40001), (4002, 1024), (4003, 20), (4004, 65535), (4005, 21)] {
            let out = director.receive(WAN, &[to_port(sport, dport)]);
            assert_eq!((read(&out.sent[0].1).3, mac(out)), (dport, first.clone()), "{forward:?}");
        }
        for dport in [22, 80, 1023] {
            let out = director.receive(WAN, &[to_port(5000, dport)]);
            assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1), "{dport}");
        }
        let lines = listed(&director.path, director.now);
        let server = if first == server_mac(11) { "10.0.0.11" } else { "10.0.0.12" };
        assert!(lines.contains(&format!("NONE 192.0.2.0:0 192.0.2.10:0 {server}:0")), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.contains("192.0.2.0:0")).count(), 1, "{lines:?}");
        // The first one may have been a data connection.
        let mut director = ftp(forward, true, None);
        let first = mac(director.receive(WAN, &[to_port(4001, 40001)]));
        assert_eq!(mac(director.receive(WAN, &[to_port(4000, 21)])), first);
        let lines = listed(&director.path, director.now);
        assert!(lines.iter().any(|line| line.contains("192.0.2.0:0 192.0.2.10:0 10.0.0.")), "{lines:?}");
        assert_eq!(director.path.check_connections(), Ok(()));
    }
}

#[test]
fn other_ports_of_an_address_with_ftp_that_is_not_persistent_are_the_hosts() {
    for rest in [None, Some(true), Some(false)] {
        let mut director = ftp(Forward::Direct, false, rest);
        assert_eq!(director.receive(WAN, &[to_port(4000, 21)]).sent.len(), 1);
        for dport in [20, 1024, 40001] {
            let out = director.receive(WAN, &[to_port(4001, dport)]);
            assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1), "{dport} {rest:?}");
        }
        let out = director.receive(WAN, &[to_port(4002, 443)]);
        assert_eq!(out.sent.len(), usize::from(rest.is_some()), "{rest:?}");
    }
}

#[test]
fn ftp_and_every_other_port_have_one_template_where_both_are_persistent() {
    let mut director = ftp(Forward::Direct, true, Some(true));
    let mac = |out: Out| out.sent[0].1.data()[..6].to_vec();
    let first = mac(director.receive(WAN, &[to_port(4000, 21)]));
    for (sport, dport) in [(4001, 80), (4002, 40001), (4003, 443), (4004, 21)] {
        assert_eq!(mac(director.receive(WAN, &[to_port(sport, dport)])), first, "{dport}");
    }
    let lines = listed(&director.path, director.now);
    assert_eq!(lines.iter().filter(|line| line.contains("192.0.2.0:0")).count(), 1, "{lines:?}");
}

#[test]
fn persistent_ftp_outlives_a_restart() {
    let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
    let counters = counters(1);
    let config = PathConfig { memory, ..config(0, &counters, &Arc::new(Uses::new(1, 100))) };
    let (mut next, path) = (ftp(Forward::Direct, true, None), Path::new(config));
    let mut director = Director { path, counters, now: Tick(100) };
    director.path.adopt(next.path.tables.clone());
    let mac = |out: Out| out.sent[0].1.data()[..6].to_vec();
    let first = mac(director.receive(WAN, &[to_port(4000, 21)]));
    director.receive(WAN, &[to_port(4001, 40001)]);
    let before = listed(&director.path, director.now);
    drop(director);
    let memory = remains.bytes().unwrap().to_vec();
    let done = next.path.carry_over(&[Salvage::of(&memory).unwrap()], Tick(200));
    assert_eq!(done, CarriedOver { connections: 3, ..CarriedOver::default() });
    assert_eq!(listed(&next.path, Tick(200)), before);
    assert_eq!(mac(next.receive(WAN, &[to_port(4002, 40002)])), first);
}

#[test]
fn a_clients_syn_goes_on_with_its_connection_that_is_over_where_a_template_has_it() {
    for is_persistent in [true, false] {
        let mut director = Director::new();
        if is_persistent {
            director.path.adopt(persistent(2, |_| ()).into());
        }
        let server = server_of(&director.receive(WAN, &[from_client(4000, "S")]).sent[0].1);
        let IpAddr::V4(address) = server else { panic!("{server}") };
        let says = |flags| from_server(address.octets()[3], 4000, flags);
        director.receive(LAN, &[says("SA")]);
        director.receive(WAN, &[from_client(4000, "FA")]);
        director.receive(LAN, &[says("FA")]);
        director.receive(WAN, &[from_client(4000, "A")]);
        director.receive(WAN, &[from_client(4000, "S")]);
        let begun: u64 = (0..8).map(|id| director.counters[0].server(ServerId(id)).connections.get()).sum();
        assert_eq!(begun, if is_persistent { 1 } else { 2 }, "persistent: {is_persistent}");
    }
}
