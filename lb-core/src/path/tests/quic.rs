//! QUIC whose connection IDs name real servers: a client's address changes, its real server does not.

use super::persistent::persistent;
use super::*;
use crate::ipvs::quic_lb::tests::{config, encode, id, quic_lb, short};
use crate::ipvs::quic_lb::{Config, Fallback};
use crate::tables::{MarkRule, Marks, ServiceOptions, Tunnel};
use crate::trail::Step;

const WORKERS: usize = 4;
const KEY: &str = "8f95f09245765f80256934e50c66207f";

/// The server IDs of .11 and .12.
const IDS: [&str; 2] = ["0a1b", "0a1c"];

fn enciphered() -> Config {
    config(1, 2, 6, Some(KEY))
}

/// [`tables`], whose UDP service 192.0.2.10:80, of servers 4 and 5, has connection IDs.
fn with(tables: Tables, edit: impl Fn(&mut Service)) -> Tables {
    let services = tables.services.iter().map(|service| {
        let mut service = Service::clone(service);
        if service.key.protocol == Protocol::UDP {
            service.quic_lb = Some(quic_lb(&[enciphered()], &[(IDS[0], 4), (IDS[1], 5)]).into());
            edit(&mut service);
        }
        Arc::new(service)
    });
    Tables { services: Services::new(services).into(), ..tables }
}

fn director(edit: impl Fn(&mut Service)) -> Director {
    let mut director = Director::new();
    director.path.adopt(with(tables(2, &[11, 12], 1), edit).into());
    director
}

fn from_port(sport: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1);
    let builder = builder.ipv4([192, 0, 2, 100], [192, 0, 2, 10], 64).udp(sport, 80);
    builder.write(&mut frame, data).unwrap();
    frame
}

/// A packet of an established connection with this server; each has another nonce.
fn with_id(server: &str, nonce: u8) -> Vec<u8> {
    short(&encode(&enciphered(), &id(server), &[nonce; 6]))
}

/// The first packet of a connection.
fn initial(connection_id: &[u8]) -> Vec<u8> {
    [&[0xc3, 0, 0, 0, 1, connection_id.len() as u8], connection_id, &[0; 1200]].concat()
}

/// The last byte of the MAC address of the server that got the one packet.
fn server(out: &Out) -> u8 {
    assert_eq!(out.sent.len(), 1);
    out.sent[0].1.data()[5]
}

fn counted(director: &Director) -> (u64, [u64; 5]) {
    let quic = &director.counters[0].quic;
    (quic.routed.get(), std::array::from_fn(|n| quic.scheduled[n].get()))
}

#[test]
fn a_client_whose_address_changes_keeps_its_real_server_by_every_method() {
    let methods = [Forward::Masq, Forward::FullNat, Forward::Direct, Forward::Tunnel(Tunnel::Ipip)];
    for forward in methods {
        let mut director = director(|service| {
            service.servers.iter_mut().for_each(|server| server.forward = forward);
        });
        let first = server(&director.receive(WAN, &[from_port(4000, &initial(&[9; 8]))]));
        let id = IDS[usize::from(first - 11)];
        for n in 1..6 {
            let out = director.receive(WAN, &[from_port(4000 + u16::from(n), &with_id(id, n))]);
            assert_eq!(server(&out), first, "{forward:?}, address {n}");
            // From there on the addresses say it, whatever the packet is.
            let out = director.receive(WAN, &[from_port(4000 + u16::from(n), b"?")]);
            assert_eq!(server(&out), first, "{forward:?}, address {n}");
        }
        assert_eq!(counted(&director), (5, [0, 1, 0, 0, 0]), "{forward:?}");
        assert_eq!(director.states(), ["UDP"; 6]);
        director.path.check_connections().unwrap();
    }
}

#[test]
fn what_names_no_real_server_is_scheduled() {
    let mut director = director(|_| ());
    let unknown = with_id("ffff", 1);
    let of_no_config = short(&[0xe7, 1, 2, 3, 4, 5, 6, 7, 8]);
    let chosen_by_the_client = initial(&encode(&enciphered(), &id(IDS[0]), &[5; 6]));
    let mut servers = Vec::new();
    for (n, data) in
        [unknown, of_no_config, chosen_by_the_client, vec![0x40, 0x20], Vec::new()].iter().enumerate()
    {
        servers.push(server(&director.receive(WAN, &[from_port(5000 + n as u16, data)])));
    }
    assert_eq!(servers, [11, 12, 11, 12, 11], "in turn");
    assert_eq!(counted(&director), (0, [1; 5]));
}

#[test]
fn a_server_that_takes_no_new_connections_keeps_those_that_it_has() {
    for edit in
        [(|server| server.weight = 0) as fn(&mut Server), |server| server.overloaded = Arc::new(true.into())]
    {
        let mut director = director(|service| edit(&mut service.servers[0]));
        for n in 0..4 {
            let initial = from_port(4000 + n, &initial(&[9; 8]));
            assert_eq!(server(&director.receive(WAN, &[initial])), 12);
            let moved = from_port(5000 + n, &with_id(IDS[0], n as u8));
            assert_eq!(server(&director.receive(WAN, &[moved])), 11);
        }
    }
}

#[test]
fn connections_of_a_removed_server_are_scheduled() {
    let mut director = director(|service| {
        service.servers.remove(0);
        let mut quic = quic_lb(&[enciphered()], &[(IDS[0], 4), (IDS[1], 5)]);
        quic.set_ids(ServerId(4), Vec::new());
        service.quic_lb = Some(quic.into());
    });
    assert_eq!(server(&director.receive(WAN, &[from_port(4000, &with_id(IDS[0], 1))])), 12);
    let mut expected = [0; 5];
    expected[Fallback::NoServer as usize] = 1;
    assert_eq!(counted(&director), (0, expected));
}

#[test]
fn without_configurations_nothing_is_read_into_a_connection_id() {
    let mut director = director(|service| {
        service.quic_lb = Some(quic_lb(&[], &[(IDS[0], 4)]).into());
    });
    let servers = [1, 2].map(|n| server(&director.receive(WAN, &[from_port(n, &with_id(IDS[0], 1))])));
    assert_eq!((servers, counted(&director)), ([11, 12], (0, [0; 5])));
}

#[test]
fn by_mark_too_it_goes_to_the_port_of_its_real_server() {
    let director = || {
        let tables = with(tables(2, &[11, 12], 1), |service| {
            service.key = ServiceKey::of_mark(8, false);
            service.servers.iter_mut().for_each(|server| server.port = 8443);
        });
        let rule = MarkRule::any(8);
        let mut director = Director::new();
        director.path.adopt(Tables { marks: Marks(vec![rule]).into(), ..tables }.into());
        director
    };
    for data in [initial(&[9; 8]), with_id(IDS[0], 1)] {
        let out = director().receive(WAN, &[from_port(4000, &data)]);
        let (.., to, port, _) = read(&out.sent[0].1);
        assert_eq!((to, port), (ip("10.0.0.11"), 8443));
    }
}

#[test]
fn with_several_workers_each_finds_the_same_server() {
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    // Persistent: the template of the client, which is at one worker, is not asked.
    let tables = with(persistent(2, |_| ()), |_| ());
    for path in &mut paths {
        path.adopt(tables.clone().into());
    }
    let mut owners = std::collections::BTreeSet::new();
    for n in 0..40u8 {
        let server = usize::from(n % 2);
        let frame = from_port(4000 + u16::from(n), &with_id(IDS[server], n));
        let sent = deliver(&mut paths, usize::from(n) % WORKERS, WAN, &frame);
        assert_eq!((sent.len(), sent[0].1.data()[5]), (1, 11 + server as u8));
        owners.insert(sent[0].0);
    }
    assert_eq!(owners.len(), WORKERS);
    let templates: u64 = counters.iter().map(|worker| worker.server(ServerId(4)).persistent.get()).sum();
    assert_eq!(templates, 0);
    // A client that begins has one.
    assert_eq!(deliver(&mut paths, 0, WAN, &from_port(999, &initial(&[9; 8]))).len(), 1);
    let templates: u64 = counters
        .iter()
        .flat_map(|worker| [4, 5].map(|id| worker.server(ServerId(id)).persistent.get()))
        .sum();
    assert_eq!(templates, 1);
    paths.iter().for_each(|path| path.check_connections().unwrap());
}

#[test]
fn datagrams_that_are_scheduled_one_by_one_go_by_their_connection_ids_also_initial_ones() {
    let mut director = director(|service| {
        service.options = ServiceOptions { one_packet: true, ..ServiceOptions::default() };
    });
    for n in [0, 1, 1, 0, 0, 1] {
        for data in [with_id(IDS[n], 3), initial(&encode(&enciphered(), &id(IDS[n]), &[5; 6]))] {
            assert_eq!(server(&director.receive(WAN, &[from_port(4000, &data)])), 11 + n as u8);
        }
    }
    assert_eq!(director.states(), [""; 0]);
    assert_eq!(counted(&director), (12, [0; 5]));
}

#[test]
fn later_fragments_follow_the_first_one() {
    // The draft has servers and clients not fragment; what comes all the same stays together.
    let mut director = director(|_| ());
    let mut parts = datagram(3);
    let name = with_id(IDS[1], 1);
    parts[0][42..42 + name.len()].copy_from_slice(&name);
    parts[0][40..42].copy_from_slice(&[0, 0]);
    let mut servers = Vec::new();
    for part in [2, 0, 1] {
        let out = director.receive(WAN, &[parts[part].clone()]);
        servers.extend(out.sent.iter().map(|(_, frame)| frame.data()[5]));
    }
    assert_eq!(servers, [12; 3]);
}

#[test]
fn a_road_says_whether_a_connection_id_named_a_server() {
    let director = director(|_| ());
    for (data, expected) in [(with_id(IDS[1], 1), Ok(())), (with_id("ffff", 1), Err(Fallback::NoServer))] {
        let frame = Frame::new(WAN, &from_port(4000, &data));
        let road =
            explain(&director.path.tables, &director.counters, frame, false, Assumed::First, director.now)
                .unwrap();
        assert!(road.trail.steps().contains(&Step::Quic(expected)), "{:?}", road.trail.steps());
    }
}
