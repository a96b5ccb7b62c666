//! Goal: rules see the realms of the routes that a packet is routed by where it is. Method: a rule that drops what has any others, at each hook, for what is forwarded, sent, received and
//! virtual services'.

use super::hooks::{ping, rules, through};
use super::*;
use crate::tables::Realms;

/// Clients are of realm 7, real servers of 5, but for 10.0.0.11, of 6; own addresses of 8.
fn with_realms(rule: &str, forward: Forward, one_packet: bool) -> Director {
    let plain = tables(2, &[11, 12], 1);
    let route = |address: &str, len, realm| (Prefix { address: ip(address), len }, Realms::of_route(realm));
    let routes = Routes::clone(&plain.routes).with_realms([
        route("192.0.2.0", 24, 7),
        route("192.0.2.10", 32, 8),
        route("192.0.2.1", 32, 8),
        route("10.0.0.0", 24, 5),
        route("10.0.0.11", 32, 6),
    ]);
    let services = plain.services.iter().map(|service| {
        let mut service = Service::clone(service);
        service.options.one_packet = one_packet;
        service.servers.iter_mut().for_each(|server| server.forward = forward);
        Arc::new(service)
    });
    let services = Services::new(services.collect::<Vec<_>>()).into();
    let mut director = Director::new();
    let rules = Arc::new(rules(&[rule]));
    director.path.adopt(Tables { rules, routes: routes.into(), services, ..plain }.into());
    director
}

fn drops_others(at: &str, realm: u32) -> String {
    format!("{at} -m realm ! --realm {realm} -j DROP")
}

#[test]
fn what_is_forwarded_has_the_realms_of_both_its_ends() {
    for at in ["mangle FORWARD", "filter FORWARD", "mangle POSTROUTING", "nat POSTROUTING"] {
        for (realm, is_its) in [(0x7_0006, true), (6, false), (0x7_0000, false), (0x6_0007, false)] {
            let mut director = with_realms(&drops_others(at, realm), Forward::Masq, false);
            let sent = director.receive(WAN, &[through(4000, "S")]).sent.len();
            assert_eq!(sent == 1, is_its, "{at} {realm:#x}");
        }
    }
    let mut director = with_realms(&drops_others("filter FORWARD", 0x7_0005), Forward::Masq, false);
    assert_eq!(director.receive(WAN, &[ping(C2D, "192.0.2.100", "10.0.0.12", 1, false)]).sent.len(), 1);
}

#[test]
fn what_is_received_has_its_sources_realm_and_what_the_host_sends_its_destinations() {
    for (realm, is_its) in [(0x7_0000, true), (0x7_0008, false), (8, false)] {
        let mut director = with_realms(&drops_others("filter INPUT", realm), Forward::Masq, false);
        let came = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 22), "S");
        assert_eq!(director.receive(WAN, &[came]).to_twin.len() == 1, is_its, "{realm:#x}");
    }
    for at in ["raw OUTPUT", "filter OUTPUT", "mangle POSTROUTING"] {
        for (realm, is_its) in [(7, true), (0x8_0007, false), (0, false)] {
            let mut director = with_realms(&drops_others(at, realm), Forward::Masq, false);
            let frame = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 4000), ("192.0.2.100", 22), "S");
            let mut burst: Burst<Frame> = [Frame::new(WAN, &frame)].into_iter().collect();
            let mut out = Out::default();
            director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
            assert_eq!(out.sent.len() == 1, is_its, "{at} {realm:#x}");
        }
    }
}

#[test]
fn a_virtual_services_request_has_the_realm_of_the_way_to_its_real_server() {
    let ipip = Forward::Tunnel(crate::tables::Tunnel::Ipip);
    for (forward, one_packet) in [
        (Forward::Masq, false),
        (Forward::Direct, false),
        (ipip, false),
        (Forward::Masq, true),
        (Forward::Direct, true),
    ] {
        let frame = match one_packet {
            false => from_client(4000, "S"),
            true => super::helped::udp(C2D, ("192.0.2.100", 4000), ("192.0.2.10", 80), b"x"),
        };
        for (at, realm) in [
            ("mangle INPUT", 0x7_0000),
            ("filter INPUT", 0x7_0000),
            ("raw OUTPUT", 6),
            ("filter OUTPUT", 6),
            ("mangle POSTROUTING", 6),
        ] {
            for (realm, is_its) in [(realm, true), (realm ^ 1 << 4, false)] {
                let mut director = with_realms(&drops_others(at, realm), forward, one_packet);
                let sent = director.receive(WAN, std::slice::from_ref(&frame)).sent.len();
                assert_eq!(sent == 1, is_its, "{at} {realm:#x} {forward:?} {one_packet}");
            }
        }
    }
}

#[test]
fn an_answer_of_a_virtual_service_is_routed_anew_behind_forward() {
    for (at, realm) in [("filter FORWARD", 0x6_0007), ("mangle POSTROUTING", 7)] {
        for (realm, is_its) in [(realm, true), (realm ^ 1 << 4, false)] {
            let rule = drops_others(&format!("{at} -p tcp --dport 4000"), realm);
            let mut director = with_realms(&rule, Forward::Masq, false);
            assert_eq!(director.receive(WAN, &[from_client(4000, "S")]).sent.len(), 1);
            let sent = director.receive(LAN, &[from_server(11, 4000, "SA")]).sent.len();
            assert_eq!(sent == 1, is_its, "{at} {realm:#x}");
        }
    }
}

#[test]
fn a_connection_has_other_realms_once_its_route_has() {
    let rule = "filter FORWARD -m realm --realm 0x70006 -j DROP";
    let mut director = with_realms(rule, Forward::Masq, false);
    let plain = director.path.tables.clone();
    let others = Routes::clone(&plain.routes).with_realms([]);
    let other = Tables { routes: others.into(), generation: 3, ..Tables::clone(&plain) };
    director.path.adopt(other.into());
    for flags in ["S", "A", "A"] {
        assert_eq!(director.receive(WAN, &[through(4000, flags)]).sent.len(), 1, "{flags}");
    }
    director.path.adopt(Tables { generation: 4, ..Tables::clone(&plain) }.into());
    assert!(director.receive(WAN, &[through(4000, "A")]).sent.is_empty());
}
