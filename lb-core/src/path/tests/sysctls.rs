//! The switches that the kernel has as sysctls: what each of their values does.

use super::*;
use crate::path::{Expect, Steer};
use crate::tables::{ClientMask, Persistence, ServiceOptions, Settings, Sysctls};
use crate::time::Timeout;

/// [`tables`] with one switch at a value, and what `edit` makes of the services.
pub(super) fn with(generation: u32, name: &str, value: u32, edit: impl Fn(&mut Service)) -> Tables {
    let tables = tables(generation, &[11, 12], 1);
    let mut sysctls = Sysctls::default();
    *(Sysctls::named(name).unwrap().value)(&mut sysctls) = value;
    let services = tables.services.iter().map(|service| {
        let mut service = Service::clone(service);
        edit(&mut service);
        Arc::new(service)
    });
    let services = Services::new(services.collect::<Vec<_>>()).into();
    Tables { services, settings: Settings { sysctls, ..tables.settings }, ..tables }
}

fn director(name: &str, value: u32) -> Director {
    let mut director = Director::new();
    director.path.adopt(with(2, name, value, |_| ()).into());
    director
}

fn servers_of(out: &Out) -> Vec<IpAddr> {
    out.sent.iter().map(|(_, frame)| read(frame).2).collect()
}

/// The service has lost its first real server.
pub(super) fn removes_the_first(service: &mut Service) {
    *service = Service::new(
        Some(service),
        service.id,
        service.key,
        service.scheduler(),
        service.servers[1..].to_vec(),
        service.version + 1,
    );
}

#[test]
fn conn_reuse_mode_says_whether_a_syn_on_a_connection_that_is_over_is_scheduled_anew() {
    for (mode, next) in [(0, "10.0.0.11"), (1, "10.0.0.12"), (2, "10.0.0.12"), (3, "10.0.0.12")] {
        let mut director = director("conn_reuse_mode", mode);
        director.receive(WAN, &[from_client(4000, "S")]);
        director.receive(LAN, &[from_server(11, 4000, "RA")]);
        assert_eq!(director.states(), ["CLOSE"]);
        let out = director.receive(WAN, &[from_client(4000, "S")]);
        assert_eq!(servers_of(&out), [ip(next)], "mode {mode}");
    }
}

#[test]
fn a_backup_that_is_no_more_gives_requests_to_the_host() {
    let mut director = Director::new();
    director.receive(WAN, &[from_client(4000, "S")]);
    let standby = |generation, is_standby| {
        let tables = tables(generation, &[11, 12], 1);
        Tables { settings: Settings { is_standby, ..tables.settings }, ..tables }
    };
    director.path.adopt(standby(2, true).into());
    let out = director.receive(WAN, &[from_client(4000, "A"), from_client(4001, "S")]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 2));
    director.path.adopt(standby(3, false).into());
    let out = director.receive(WAN, &[from_client(4000, "A"), from_client(4001, "S")]);
    assert_eq!(servers_of(&out).len(), 2, "its connections were kept, and others begin");
}

#[test]
fn a_backup_translates_no_data_connection_that_is_announced_by_a_worker_that_does_not_know_yet() {
    let mut director = Director::new();
    let standby = |generation, is_standby| {
        let tables = tables(generation, &[11, 12], 1);
        Arc::new(Tables { settings: Settings { is_standby, ..tables.settings }, ..tables })
    };
    director.path.adopt(standby(2, true));
    let expect = Expect {
        server: ServerId(2),
        client: (ip("192.0.2.100"), 50002),
        virtual_: (ip("192.0.2.10"), 20),
        port: 20,
        local: None,
        mark: 0,
        control: (4000, 80),
        control_at: Default::default(),
    };
    let announced = Frame::new(WAN, &from_client(4000, "A"));
    let mut handed = [(announced, Steer::Announce(expect))].into_iter().collect();
    director.path.receive_handed_over(&mut handed, director.now, &mut Out::default());
    let syn = [tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 20), ("192.0.2.100", 50002), "S")];
    assert_eq!(read(&director.receive(LAN, &syn).sent[0].1).0, ip("10.0.0.11"));
    director.path.adopt(standby(3, false));
    assert_eq!(read(&director.receive(LAN, &syn).sent[0].1).0, ip("192.0.2.10"), "it was kept");
}

#[test]
fn nat_icmp_send_tells_a_real_server_of_a_connection_that_is_not_there() {
    for (value, flags, answered) in [(0, "A", 0), (1, "A", 1), (1, "SA", 1), (1, "R", 0), (1, "RA", 0)] {
        let mut director = director("nat_icmp_send", value);
        let out = director.receive(LAN, &[from_server(11, 4000, flags)]);
        let told =
            out.sent.iter().filter(|(port, frame)| *port == LAN && frame.data()[34..36] == [3, 3]).count();
        assert_eq!(told, answered, "{value} {flags}");
        let dropped = director.counters[0].dropped(DropReason::NoConnection, Hook::Forward).get();
        assert_eq!(dropped, answered as u64, "{value} {flags}");
    }
    let mut director = director("nat_icmp_send", 1);
    director.receive(WAN, &[from_client(4000, "S")]);
    let out = director.receive(LAN, &[from_server(11, 4000, "SA")]);
    assert!(matches!(out.sent[..], [(WAN, _)]), "of a connection");
    let direct = |service: &mut Service| {
        service.servers.iter_mut().for_each(|server| server.forward = Forward::Direct);
    };
    director.path.adopt(with(3, "nat_icmp_send", 1, direct).into());
    director.receive(LAN, &[from_server(12, 4001, "A")]);
    let dropped = director.counters[0].dropped(DropReason::NoConnection, Hook::Forward).get();
    assert_eq!(dropped, 0, "only masqueraded ones speak from another address to the client");
}

#[test]
fn drop_packet_drops_one_in_so_many_new_connections_and_no_established_one() {
    let mut director = director("drop_packet", 3);
    let begun = |director: &mut Director, ports: std::ops::Range<u16>| {
        ports.filter(|&port| director.receive(WAN, &[from_client(port, "S")]).sent.len() == 1).count()
    };
    assert_eq!(begun(&mut director, 4000..4020), 18, "am_droprate is 10");
    let shed = |director: &Director| director.counters[0].dropped(DropReason::Shed, Hook::Input).get();
    assert_eq!(shed(&director), 2);
    for _ in 0..20 {
        assert_eq!(director.receive(WAN, &[from_client(4000, "A")]).sent.len(), 1);
    }
    assert_eq!(shed(&director), 2);
    assert_eq!(director.receive(WAN, &[from_client(4009, "S")]).sent.len(), 1, "the client's next try");
}

#[test]
fn drop_packet_1_begins_below_amemthresh_and_lets_nobody_in_where_no_place_is_left() {
    let mut director = Director::new();
    let mut tables = with(2, "drop_packet", 1, |_| ());
    tables.settings.sysctls.amemthresh = 50;
    director.path.adopt(tables.into());
    let mut begun = Vec::new();
    for tens in 0..30 {
        let ports = 4000 + tens * 10..4010 + tens * 10;
        begun.push(
            ports.filter(|&port| director.receive(WAN, &[from_client(port, "S")]).sent.len() == 1).count(),
        );
    }
    assert_eq!(begun[..5], [10; 5], "50 of 100 places are left");
    assert!(begun[6..].iter().all(|&ten| ten < 10), "{begun:?}");
    assert!(begun.is_sorted_by(|a, b| a >= b), "{begun:?}");
    assert_eq!(begun[29], 0, "{begun:?}");
    assert_eq!(director.counters[0].flows.full.get(), 0, "the table never was full");
}

#[test]
fn conn_reuse_mode_2_reckons_with_a_fin_where_no_answer_comes_by() {
    for (mode, connections) in [(1, 1), (2, 2)] {
        let mut director = Director::new();
        let direct = |service: &mut Service| {
            service.servers.iter_mut().for_each(|server| server.forward = Forward::Direct);
        };
        director.path.adopt(with(2, "conn_reuse_mode", mode, direct).into());
        for flags in ["S", "A", "FA", "S"] {
            director.receive(WAN, &[from_client(4000, flags)]);
        }
        let begun: u64 =
            [2, 3].map(|id| director.counters[0].server(ServerId(id)).connections.get()).iter().sum();
        assert_eq!(begun, connections, "mode {mode}: {:?}", director.states());
    }
}

#[test]
fn expire_nodest_conn_says_what_becomes_of_connections_whose_server_was_removed() {
    let datagram = || datagram(1).remove(0);
    for (value, tcp_goes_on, udp_goes_on) in [(0, true, true), (1, false, false), (2, true, false)] {
        let mut director = director("expire_nodest_conn", value);
        for flags in ["S", "A"] {
            director.receive(WAN, &[from_client(4000, flags)]);
        }
        director.receive(WAN, &[datagram()]);
        director.path.adopt(with(3, "expire_nodest_conn", value, removes_the_first).into());

        let out = director.receive(WAN, &[from_client(4000, "A")]);
        assert_eq!(out.sent.len(), 0);
        assert_eq!(out.to_twin.len(), usize::from(!tcp_goes_on), "{value}: the host's stack resets it");
        let out = director.receive(WAN, &[datagram()]);
        let servers = if udp_goes_on { vec![] } else { vec![ip("10.0.0.12")] };
        assert_eq!(servers_of(&out), servers, "{value}");
        let dropped = u64::from(tcp_goes_on) + u64::from(udp_goes_on);
        assert_eq!(director.dropped(DropReason::ServerRemoved), dropped, "{value}");
    }
}

#[test]
fn expire_quiescent_template_sends_clients_away_from_a_server_of_weight_0() {
    for (value, next) in [(0, "10.0.0.11"), (1, "10.0.0.12")] {
        let persistent = |service: &mut Service| {
            let persistence = Persistence { timeout: Timeout::from_secs(100), mask: ClientMask::WHOLE };
            service.options = ServiceOptions { persistence: Some(persistence), ..ServiceOptions::default() };
        };
        let mut director = Director::new();
        director.path.adopt(with(2, "expire_quiescent_template", value, persistent).into());
        assert_eq!(servers_of(&director.receive(WAN, &[from_client(4000, "S")])), [ip("10.0.0.11")]);
        let quiesced = |service: &mut Service| {
            persistent(service);
            service.servers[0].weight = 0;
        };
        director.path.adopt(with(3, "expire_quiescent_template", value, quiesced).into());
        assert_eq!(servers_of(&director.receive(WAN, &[from_client(4001, "S")])), [ip(next)], "{value}");
        assert_eq!(director.path.check_connections(), Ok(()));
    }
}

#[test]
fn sloppy_tcp_lets_any_packet_but_a_reset_begin_a_connection() {
    for (flags, strict, sloppy) in
        [("S", 1, 1), ("A", 0, 1), ("FA", 0, 1), ("SA", 1, 1), ("R", 0, 0), ("RS", 0, 0)]
    {
        for (value, begins) in [(0, strict), (1, sloppy)] {
            let mut director = director("sloppy_tcp", value);
            let out = director.receive(WAN, &[from_client(4000, flags)]);
            assert_eq!((out.sent.len(), out.to_twin.len()), (begins, 1 - begins), "{flags} with {value}");
        }
    }
}

#[test]
fn a_syn_leaves_a_quiesced_real_server_with_expire_nodest_conn_1() {
    for (value, next) in [(0, 11), (1, 12), (2, 11)] {
        for forward in [Forward::Masq, Forward::Direct] {
            let weighted = |weight| {
                move |service: &mut Service| {
                    service.servers.iter_mut().for_each(|server| server.forward = forward);
                    service.servers[0].weight = weight;
                }
            };
            let mut director = Director::new();
            director.path.adopt(with(2, "expire_nodest_conn", value, weighted(1)).into());
            let to = |director: &mut Director, flags: &[&str]| {
                let packets: Vec<_> = flags.iter().map(|flags| from_client(4000, flags)).collect();
                let sent = director.receive(WAN, &packets).sent;
                sent.iter().map(|(_, frame)| frame.data()[..6].to_vec()).collect::<Vec<_>>()
            };
            assert_eq!(to(&mut director, &["S", "A"]), [server_mac(11); 2]);
            director.path.adopt(with(3, "expire_nodest_conn", value, weighted(0)).into());
            let servers = [11, 11, next].map(server_mac);
            assert_eq!(to(&mut director, &["A", "FA", "S"]), servers, "{value} {forward:?}");
            assert_eq!(director.path.check_connections(), Ok(()));
        }
    }
}
