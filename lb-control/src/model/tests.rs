use std::sync::atomic::Ordering::Relaxed;

use lb_core::tables;
use proptest::prelude::*;

use super::*;
use crate::api::types::{ForwardMethod, Persistence, ServerSpec, Tunnel};

pub(super) fn service(text: &str) -> ServiceAddress {
    text.parse().expect(text)
}

fn server(text: &str) -> ServerSpec {
    ServerSpec::new(text.parse().expect(text))
}

fn add(text: &str) -> Command {
    Command::AddService(ServiceSpec::new(service(text), "rr"))
}

fn edit(text: &str, scheduler: &str) -> Command {
    Command::EditService(ServiceSpec::new(service(text), scheduler))
}

fn add_server(of: &str, text: &str) -> Command {
    Command::AddServer { service: service(of), server: server(text) }
}

fn delete_server(of: &str, text: &str) -> Command {
    Command::DeleteServer { service: service(of), server: text.parse().expect(text) }
}

const WEB: &str = "tcp/192.0.2.1:80";
const A: &str = "10.0.0.1:8080";
const B: &str = "10.0.0.2:8080";

fn model() -> Model {
    Model::new(Limits { services: 3, servers: 3 })
}

pub(super) fn with_servers(servers: &[&str]) -> Model {
    let mut model = model();
    model.apply(&add(WEB)).expect("new");
    for text in servers {
        model.apply(&add_server(WEB, text)).expect("new");
    }
    model
}

fn web(model: &Model) -> &Arc<Service> {
    model.find(&service(WEB)).expect("there")
}

fn refused(model: &mut Model, command: Command) -> ErrorKind {
    let before = format!("{:?}", model.services().collect::<Vec<_>>());
    let error = model.apply(&command).expect_err("refused");
    assert_eq!(format!("{:?}", model.services().collect::<Vec<_>>()), before, "nothing is half applied");
    error.error
}

#[test]
fn servers_stand_newest_first() {
    let model = with_servers(&[A, B]);
    let ports: Vec<_> = web(&model).servers.iter().map(|server| server.address.to_string()).collect();
    assert_eq!(ports, ["10.0.0.2", "10.0.0.1"]);
}

#[test]
fn errors_are_the_kernels() {
    let mut model = with_servers(&[A]);
    let none = "tcp/192.0.2.99:80";
    assert_eq!(refused(&mut model, add(WEB)), ErrorKind::ServiceExists);
    assert_eq!(refused(&mut model, edit(none, "rr")), ErrorKind::NoSuchService);
    assert_eq!(refused(&mut model, edit(WEB, "nosuch")), ErrorKind::UnknownScheduler);
    assert_eq!(
        refused(&mut model, Command::DeleteService { service: service(none) }),
        ErrorKind::NoSuchService
    );
    assert_eq!(refused(&mut model, Command::Zero { service: Some(service(none)) }), ErrorKind::NoSuchService);
    assert_eq!(refused(&mut model, add_server(none, A)), ErrorKind::ServiceNotDefined);
    assert_eq!(refused(&mut model, add_server(WEB, A)), ErrorKind::ServerExists);
    assert_eq!(refused(&mut model, delete_server(WEB, B)), ErrorKind::NoSuchServer);
    assert_eq!(refused(&mut model, delete_server(none, A)), ErrorKind::ServiceNotDefined);
    let edit_b = Command::EditServer { service: service(WEB), server: server(B) };
    assert_eq!(refused(&mut model, edit_b), ErrorKind::NoSuchServer);
    let above = ServerSpec { lower_threshold: 1, ..server(B) };
    assert_eq!(
        refused(&mut model, Command::AddServer { service: service(WEB), server: above }),
        ErrorKind::OutOfRange
    );
    let heavy = ServerSpec { weight: MAX_WEIGHT + 1, ..server(B) };
    assert_eq!(
        refused(&mut model, Command::AddServer { service: service(WEB), server: heavy }),
        ErrorKind::OutOfRange
    );
    for bad in ["224.0.0.5:80", "0.0.0.0:80", "255.255.255.255:80", "[2001:db8::11]:80"] {
        assert_eq!(refused(&mut model, add_server(WEB, bad)), ErrorKind::InvalidOperation, "{bad}");
    }
    let long = Timeouts { tcp: 2_678_401, tcp_fin: 0, udp: 0 };
    assert_eq!(refused(&mut model, Command::SetTimeouts(long)), ErrorKind::InvalidOperation);
}

fn tunnel(encapsulation: &str, port: u16, checksum: Option<&str>) -> Option<Tunnel> {
    let checksum = checksum.map(str::to_owned);
    Some(Tunnel { encapsulation: encapsulation.to_owned(), port, checksum })
}

#[test]
fn methods_and_tunnels_come_back_as_they_were_said() {
    let mut model = Model::new(Limits { services: 1, servers: 7 });
    model.apply(&add(WEB)).expect("new");
    let cases = [
        ("10.0.0.1:80", ForwardMethod::Direct, None),
        ("10.0.0.2:80", ForwardMethod::Tunnel, tunnel("ipip", 0, None)),
        ("10.0.0.3:80", ForwardMethod::Tunnel, tunnel("gue", 6080, Some("none"))),
        ("10.0.0.4:80", ForwardMethod::Tunnel, tunnel("gue", 6080, Some("checksum"))),
        ("10.0.0.5:80", ForwardMethod::Tunnel, tunnel("gue", 6080, Some("remote"))),
        ("10.0.0.6:80", ForwardMethod::Tunnel, tunnel("gre", 0, Some("none"))),
        ("[2001:db8::7]:80", ForwardMethod::Tunnel, tunnel("gre", 0, Some("checksum"))),
    ];
    for (at, forward, tunnel) in &cases {
        let server = ServerSpec { forward: *forward, tunnel: tunnel.clone(), ..server(at) };
        model.apply(&Command::AddServer { service: service(WEB), server }).expect(at);
    }
    let web = model.find(&service(WEB)).expect("there");
    let said: Vec<_> = web
        .servers
        .iter()
        .rev()
        .map(|server| server_spec(web, server))
        .map(|spec| (spec.forward, spec.tunnel))
        .collect();
    assert_eq!(said, cases.map(|(_, forward, tunnel)| (forward, tunnel)));
    let server = ServerSpec {
        forward: ForwardMethod::Tunnel,
        tunnel: tunnel("gre", 0, None),
        ..server("10.0.0.1:80")
    };
    model.apply(&Command::EditServer { service: service(WEB), server }).expect("there");
    let web = model.find(&service(WEB)).expect("there");
    let gre = tables::Tunnel::Gre { checksum: false };
    assert_eq!(web.servers.last().map(|server| server.forward), Some(Forward::Tunnel(gre)));
}

#[test]
fn methods_that_do_not_go_together_are_refused_and_leave_no_id_behind() {
    let mut model = with_servers(&[]);
    let (direct, tunneling) = (ForwardMethod::Direct, ForwardMethod::Tunnel);
    let cases = [
        (
            "10.0.0.1:8080",
            direct,
            None,
            "direct does not change the port: it must be the virtual service's, 80",
        ),
        (
            "10.0.0.1:8080",
            tunneling,
            None,
            "tunnel does not change the port: it must be the virtual service's, 80",
        ),
        ("[2001:db8::1]:80", direct, None, "only a tunnel or FullNAT leads to another address family"),
        ("10.0.0.1:80", direct, tunnel("ipip", 0, None), "a tunnel is asked for with forward direct"),
        ("10.0.0.1:80", tunneling, tunnel("gue", 0, None), "a tunnel of type gue needs a port other than 0"),
        ("10.0.0.1:80", tunneling, tunnel("gre", 7, None), "a tunnel of type gre has no port"),
        (
            "10.0.0.1:80",
            tunneling,
            tunnel("gre", 0, Some("remote")),
            "a tunnel of type gre has no checksum \"remote\"",
        ),
        (
            "10.0.0.1:80",
            tunneling,
            tunnel("vxlan", 0, None),
            "no tunnel of type \"vxlan\"; there are ipip, gue, gre",
        ),
    ];
    for (at, forward, tunnel, what) in cases {
        let server = ServerSpec { forward, tunnel, ..server(at) };
        let refused = model.apply(&Command::AddServer { service: service(WEB), server }).expect_err(what);
        assert_eq!(refused.error, ErrorKind::InvalidOperation);
        assert_eq!(refused.message, format!("real server {at} of {WEB}: {what}"));
    }
    assert_eq!(model.server_ids_in_use(), 0);
}

#[test]
fn options_are_said_again_as_they_were_said_and_go_with_an_edit_without_them() {
    let mut model = Model::new(Limits { services: 9, servers: 9 });
    let spec = |at: &str, timeout, netmask: Option<&str>| {
        let netmask = netmask.map(str::to_owned);
        ServiceSpec {
            persistence: Some(Persistence { timeout, netmask }),
            ..ServiceSpec::new(service(at), "rr")
        }
    };
    let every_port = "tcp/192.0.2.4:0";
    for spec in [
        spec(every_port, 360, None),
        spec("tcp/192.0.2.5:80", 1, Some("255.0.255.0")),
        spec("udp/[2001:db8::1]:53", 2_678_400, Some("64")),
    ] {
        model.apply(&Command::AddService(spec.clone())).expect("right");
        assert_eq!(service_spec(model.find(&spec.service).expect("there")), spec);
    }
    model.apply(&add_server(every_port, "10.0.0.7:0")).expect("it gets the port that the client asked for");
    let whole = spec("tcp/192.0.2.6:80", 60, Some("255.255.255.255"));
    model.apply(&Command::AddService(whole.clone())).expect("right");
    let persistence = service_spec(model.find(&whole.service).expect("there")).persistence;
    assert_eq!(persistence.expect("said").netmask, None, "each address is a client anyway");

    let udp = ServiceSpec { one_packet: true, ..ServiceSpec::new(service("udp/192.0.2.8:53"), "rr") };
    model.apply(&Command::AddService(udp.clone())).expect("right");
    assert_eq!(service_spec(model.find(&udp.service).expect("there")), udp);
    let tcp = ServiceSpec { service: service("tcp/192.0.2.8:53"), ..udp };
    assert_eq!(refused(&mut model, Command::AddService(tcp)), ErrorKind::InvalidOperation);

    let before = model.find(&service(every_port)).expect("there").clone();
    let longer = spec(every_port, 720, None);
    let change = model.apply(&Command::EditService(longer.clone())).expect("right");
    let after = model.find(&service(every_port)).expect("there").clone();
    assert!(change.publish);
    assert_eq!(
        (service_spec(&after), after.version),
        (longer.clone(), before.version),
        "the scheduler sees no change"
    );
    assert!(!model.apply(&Command::EditService(longer)).expect("right").publish, "nothing is new");
    model.apply(&add_server(every_port, "10.0.0.8:0")).expect("right");
    assert_eq!(model.find(&service(every_port)).expect("there").options, after.options);
    let plain = Command::EditService(ServiceSpec::new(service("tcp/192.0.2.5:80"), "wlc"));
    model.apply(&plain).expect("right");
    assert_eq!(model.find(&service("tcp/192.0.2.5:80")).expect("there").options.persistence, None);

    for bad in [
        spec(every_port, 0, None),
        spec(every_port, 2_678_401, None),
        spec(every_port, 60, Some("64")),
        spec("udp/[2001:db8::1]:53", 60, Some("255.255.255.0")),
        ServiceSpec::new(service(every_port), "rr"),
    ] {
        let refused = refused(&mut model, Command::EditService(bad.clone()));
        assert_eq!(refused, ErrorKind::InvalidOperation, "{bad:?}");
    }
}

#[test]
fn the_persistence_engine_of_a_service_is_one_that_there_is() {
    let mut model = with_servers(&[]);
    let spec = |name: &str| ServiceSpec {
        persistence_engine: Some(name.to_owned()),
        ..ServiceSpec::new(service("udp/192.0.2.2:5060"), "rr")
    };
    let error = model.apply(&Command::AddService(spec("sips"))).expect_err("there is none");
    assert_eq!(error.error, ErrorKind::UnknownScheduler);
    assert_eq!(
        error.message,
        "virtual service udp/192.0.2.2:5060: no persistence engine \"sips\"; there is sip"
    );
    model.apply(&Command::AddService(spec("sip"))).expect("there is");
    let found = model.find(&service("udp/192.0.2.2:5060")).expect("there");
    assert_eq!(super::service_spec(found), spec("sip"));
}

#[test]
fn services_by_mark_have_servers_of_any_port_and_no_need_of_persistence() {
    let mut model = Model::new(Limits { services: 10, servers: 10 });
    for address in ["fwmark/7", "fwmark/4294967295", "fwmark6/7"] {
        let spec = ServiceSpec { one_packet: true, ..ServiceSpec::new(service(address), "rr") };
        model.apply(&Command::AddService(spec.clone())).expect("right");
        assert_eq!(refused(&mut model, Command::AddService(spec)), ErrorKind::ServiceExists);
        let is_ipv6 = address.starts_with("fwmark6");
        let servers = if is_ipv6 { ["[fd00::1]:0", "[fd00::1]:80"] } else { ["10.0.0.1:0", "10.0.0.1:80"] };
        for server in servers {
            model.apply(&add_server(address, server)).expect("right");
            let direct = ServerSpec { forward: ForwardMethod::Direct, ..self::server(server) };
            model.apply(&Command::EditServer { service: service(address), server: direct }).expect("right");
        }
        let found = model.find(&service(address)).expect("there");
        assert_eq!(super::address(&found.key), service(address));
    }
    let mixed = refused(&mut model, add_server("fwmark/7", "[fd00::1]:80"));
    assert_eq!(mixed, ErrorKind::InvalidOperation);
    assert!(model.find(&service("fwmark/8")).is_none());
}

#[test]
fn full_nat_has_its_local_addresses_and_keeps_no_datagram_apart() {
    let mut model = Model::new(Limits { services: 10, servers: 10 });
    let local = |addresses: &[&str]| ServiceSpec {
        local_addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
        ..ServiceSpec::new(service("udp/192.0.2.8:53"), "rr")
    };
    let at = service("udp/192.0.2.8:53");
    let two = local(&["10.0.0.2", "10.0.0.3"]);
    model.apply(&Command::AddService(two.clone())).expect("right");
    let full_nat = ServerSpec { forward: ForwardMethod::FullNat, ..server("10.0.0.1:5353") };
    model.apply(&Command::AddServer { service: at, server: full_nat.clone() }).expect("another port is fine");
    let said: Vec<_> = model.commands().collect();
    assert!(said.contains(&Command::AddService(two.clone())), "{said:?}");
    assert!(said.contains(&Command::AddServer { service: at, server: full_nat.clone() }), "{said:?}");

    let wrong = [&["10.0.0.2", "10.0.0.2"][..], &["ff02::1"], &["224.0.0.1"], &["127.0.0.1"], &["0.0.0.0"]];
    for addresses in wrong {
        let kind = refused(&mut model, Command::EditService(local(addresses)));
        assert_eq!(kind, ErrorKind::InvalidOperation, "{addresses:?}");
    }
    let one = local(&["10.0.0.3"]);
    assert!(model.apply(&Command::EditService(one.clone())).expect("right").publish);
    assert!(!model.apply(&Command::EditService(one.clone())).expect("right").publish, "nothing is new");
    model.apply(&add_server("udp/192.0.2.8:53", "10.0.0.4:53")).expect("right");
    assert_eq!(service_spec(model.find(&at).expect("there")), one, "another server changes nothing of it");

    let apart = ServiceSpec { one_packet: true, ..one };
    assert_eq!(refused(&mut model, Command::EditService(apart.clone())), ErrorKind::InvalidOperation);
    model.apply(&Command::DeleteServer { service: at, server: full_nat.server }).expect("there");
    model.apply(&Command::EditService(apart)).expect("right");
    let refusal = refused(&mut model, Command::AddServer { service: at, server: full_nat.clone() });
    assert_eq!(refusal, ErrorKind::InvalidOperation);
    let edit = ServerSpec { server: "10.0.0.4:53".parse().expect("valid"), ..full_nat };
    assert_eq!(
        refused(&mut model, Command::EditServer { service: at, server: edit }),
        ErrorKind::InvalidOperation
    );
}

#[test]
fn full_nat_leads_into_the_other_family_and_what_cannot_follow_is_refused() {
    for (at, other) in [("tcp/192.0.2.8:21", "[fd00::1]:2121"), ("tcp/[2001:db8::8]:21", "10.0.0.1:2121")] {
        let mut model = Model::new(Limits { services: 10, servers: 10 });
        let service_of_all = ServiceSpec {
            local_addresses: ["10.0.0.2", "fd00::2"]
                .map(|address| address.parse().expect("an address"))
                .to_vec(),
            helper: Some("ftp".to_owned()),
            proxy_protocol: Some("v2".to_owned()),
            toa: true,
            ..ServiceSpec::new(service(at), "rr")
        };
        let full_nat = ServerSpec { forward: ForwardMethod::FullNat, ..server(other) };
        let add = Command::AddServer { service: service(at), server: full_nat.clone() };
        model.apply(&Command::AddService(service_of_all)).expect("right");
        assert!(model.apply(&add).expect("nothing is in its way").publish);
        assert!(model.commands().any(|said| said == add));
        for forward in [ForwardMethod::Masq, ForwardMethod::Direct] {
            let server = ServerSpec { forward, ..full_nat.clone() };
            let edit = Command::EditServer { service: service(at), server };
            assert_eq!(refused(&mut model, edit), ErrorKind::InvalidOperation, "{forward:?}");
        }
    }
}

#[test]
fn syn_cookies_are_for_tcp_and_for_real_servers_whose_answers_come_by_in_the_same_family() {
    let mut model = with_servers(&[A]);
    let with = |at: &str, when: &str| ServiceSpec {
        syn_cookies: Some(when.to_owned()),
        ..ServiceSpec::new(service(at), "rr")
    };
    let wrong = Command::EditService(with(WEB, "auto:0"));
    let refusal = model.apply(&wrong).expect_err("no flood has no SYN");
    let said =
        format!("virtual service {WEB}: syn_cookies \"auto:0\" is none of off, on, auto, auto:SYNS_A_SECOND");
    assert_eq!(refusal.message, said);
    let udp = Command::AddService(with("udp/192.0.2.8:53", "on"));
    let refusal = model.apply(&udp).expect_err("it has no SYN");
    assert_eq!(refusal.message, "virtual service udp/192.0.2.8:53: syn_cookies is for TCP");
    model.apply(&Command::EditService(with(WEB, "auto:1000"))).expect("right");
    let spec = service_spec(model.find(&service(WEB)).expect("there"));
    assert_eq!(spec.syn_cookies.as_deref(), Some("auto"));
    let direct = ServerSpec { forward: ForwardMethod::Direct, ..server("10.0.0.2:80") };
    let mixed = ServerSpec { forward: ForwardMethod::FullNat, ..server("[fd00::1]:80") };
    for server in [direct.clone(), mixed] {
        let refusal = model.apply(&Command::AddServer { service: service(WEB), server }).expect_err("no");
        assert!(refusal.message.contains("syn_cookies are for"), "{}", refusal.message);
    }
    model.apply(&Command::EditService(with(WEB, "off"))).expect("right");
    model.apply(&Command::AddServer { service: service(WEB), server: direct }).expect("right");
    assert_eq!(refused(&mut model, Command::EditService(with(WEB, "on"))), ErrorKind::InvalidOperation);
}

#[test]
fn a_service_is_limited_as_it_says_and_what_is_counted_outlives_an_edit() {
    let mut model = with_servers(&[A]);
    let mut with = |edit: &dyn Fn(&mut ServiceSpec)| {
        let mut spec = ServiceSpec::new(service(WEB), "rr");
        edit(&mut spec);
        let done = model.apply(&Command::EditService(spec.clone()));
        let known = model.find(&service(WEB)).expect("there");
        done.map(|_| {
            assert_eq!(service_spec(known), spec);
            known.limiter.clone()
        })
    };
    for (edit, said) in [
        (
            &(|spec: &mut ServiceSpec| spec.conn_limit = 16_000_001) as &dyn Fn(&mut ServiceSpec),
            "conn_limit 16000001 is outside 0..=16000000",
        ),
        (
            &|spec| spec.source_conn_rate = Some("5/s".to_owned()),
            "source_conn_rate \"5/s\" is none of RATE, RATE:BURST, in 1..=10000000 each",
        ),
        (
            &|spec| (spec.source_conn_limit, spec.source_prefix) = (5, Some(33)),
            "source_prefix 33 is outside 1..=32",
        ),
        (
            &|spec| (spec.conn_limit, spec.source_prefix) = (5, Some(24)),
            "source_prefix is for source_conn_limit and source_conn_rate",
        ),
    ] {
        let refusal = with(edit).expect_err(said);
        assert_eq!(refusal.message, format!("virtual service {WEB}: {said}"));
    }
    let all = |spec: &mut ServiceSpec| {
        (spec.conn_limit, spec.conn_rate) = (7, Some("100:20".to_owned()));
        (spec.source_conn_limit, spec.source_conn_rate) = (2, Some("5".to_owned()));
        spec.source_prefix = Some(24);
    };
    let limiter = with(&all).expect("right").expect("it is limited");
    assert_eq!(limiter.connections(), 0);
    let again = with(&|spec| (all(spec), spec.toa = true).1).expect("right").expect("it is limited");
    assert!(Arc::ptr_eq(&limiter, &again), "nothing is limited otherwise");
    assert!(with(&|_| ()).expect("right").is_none());
}

#[test]
fn only_changes_that_a_scheduler_sees_change_the_version() {
    let mut model = with_servers(&[A]);
    let mut seen = vec![web(&model).version];
    let mut step = |model: &mut Model, command: Command, changes: bool| {
        model.apply(&command).expect("right");
        let version = web(model).version;
        assert_eq!(!seen.contains(&version), changes, "{command:?}");
        seen.push(version);
    };
    step(&mut model, edit(WEB, "rr"), false);
    step(&mut model, edit(WEB, "wrr"), true);
    step(&mut model, edit(WEB, "rr"), true);
    step(&mut model, add_server(WEB, B), true);
    step(&mut model, Command::EditServer { service: service(WEB), server: server(B) }, true);
    step(&mut model, delete_server(WEB, B), true);
    step(&mut model, add("tcp/192.0.2.2:80"), false);
    step(&mut model, Command::Zero { service: None }, false);
    model.apply(&Command::DeleteService { service: service(WEB) }).expect("there");
    step(&mut model, add(WEB), true);
}

#[test]
fn a_change_leaves_other_services_shared() {
    let mut model = with_servers(&[]);
    let other = "udp/192.0.2.1:80";
    model.apply(&add(other)).expect("new");
    let (web_before, other_before) =
        (web(&model).clone(), model.find(&service(other)).expect("there").clone());
    model.apply(&add_server(WEB, A)).expect("new");
    assert!(!Arc::ptr_eq(web(&model), &web_before));
    assert!(web_before.servers.is_empty(), "tables in use do not change");
    assert!(Arc::ptr_eq(model.find(&service(other)).expect("there"), &other_before));
}

#[test]
fn a_removed_server_comes_back_with_id_and_counts_and_is_as_full_as_it_was() {
    let mut model = model();
    model.apply(&add(WEB)).expect("new");
    let limited = ServerSpec { upper_threshold: 3, ..server(A) };
    let change =
        model.apply(&Command::AddServer { service: service(WEB), server: limited.clone() }).expect("new");
    let id = web(&model).servers[0].id;
    assert_eq!(change.zeroed_servers, HashSet::from([id]));
    web(&model).servers[0].overloaded.store(true, Relaxed);

    model.apply(&delete_server(WEB, A)).expect("there");
    assert_eq!(model.release(|_| true), [], "it has connections");
    assert_eq!(model.removed_servers().collect::<Vec<_>>(), [id]);
    assert_eq!(model.services_by_server().get(&id), Some(&service(WEB)), "its connections are the service's");
    let change =
        model.apply(&Command::AddServer { service: service(WEB), server: limited.clone() }).expect("new");
    assert!(change.zeroed_servers.is_empty(), "its counts are back");
    assert_eq!(web(&model).servers[0].id, id);
    assert!(web(&model).servers[0].overloaded.load(Relaxed), "it has its connections");
    assert_eq!(model.removed_servers().count(), 0);

    // With its service it loses the statistics, but not the connections.
    model.apply(&Command::Flush).expect("always");
    model.apply(&add(WEB)).expect("new");
    let change =
        model.apply(&Command::AddServer { service: service(WEB), server: limited.clone() }).expect("new");
    assert_eq!(change.zeroed_servers, HashSet::from([id]));
    assert!(web(&model).servers[0].overloaded.load(Relaxed));

    // With another threshold it is as if it had been edited.
    for (upper_threshold, is_full) in [(2, true), (3, false), (0, false)] {
        web(&model).servers[0].overloaded.store(true, Relaxed);
        model.apply(&delete_server(WEB, A)).expect("there");
        let server = ServerSpec { upper_threshold, ..limited.clone() };
        model.apply(&Command::AddServer { service: service(WEB), server }).expect("new");
        assert_eq!(web(&model).servers[0].overloaded.load(Relaxed), is_full, "{upper_threshold}");
    }
    // Without connections nothing is known of it any more.
    model.apply(&delete_server(WEB, A)).expect("there");
    model.release(|_| false);
    model.apply(&Command::AddServer { service: service(WEB), server: limited }).expect("new");
    assert!(!web(&model).servers[0].overloaded.load(Relaxed));
}

#[test]
fn a_quiesced_server_has_its_last_weight_until_it_is_added_again() {
    let mut model = with_servers(&[A]);
    let weigh = |model: &mut Model, weight| {
        let server = ServerSpec { weight, ..server(A) };
        model.apply(&Command::EditServer { service: service(WEB), server }).expect("there");
        (web(model).servers[0].weight, web(model).servers[0].last_weight)
    };
    assert_eq!([5, 0, 7, 0].map(|weight| weigh(&mut model, weight)), [(5, 5), (0, 5), (7, 7), (0, 7)]);
    model.apply(&delete_server(WEB, A)).expect("there");
    let added = ServerSpec { weight: 0, ..server(A) };
    model.apply(&Command::AddServer { service: service(WEB), server: added }).expect("new");
    assert_eq!(web(&model).servers[0].last_weight, 0);
}

#[test]
fn a_higher_threshold_clears_overload_at_once() {
    let mut model = with_servers(&[A]);
    let set = |model: &mut Model, upper| {
        let server = ServerSpec { upper_threshold: upper, ..server(A) };
        model.apply(&Command::EditServer { service: service(WEB), server }).expect("there");
        web(model).servers[0].overloaded.load(Relaxed)
    };
    set(&mut model, 5);
    web(&model).servers[0].overloaded.store(true, Relaxed);
    assert!(set(&mut model, 4));
    let in_use = web(&model).servers[0].overloaded.clone();
    assert!(!set(&mut model, 6));
    in_use.store(true, Relaxed);
    assert!(
        !web(&model).servers[0].overloaded.load(Relaxed),
        "a worker with the tables of before is not heard"
    );
    web(&model).servers[0].overloaded.store(true, Relaxed);
    assert!(!set(&mut model, 0));
}

#[test]
fn ids_are_bounded_and_come_back_when_no_connection_is_left() {
    let mut model = with_servers(&[A, B, "10.0.0.3:8080"]);
    let id = web(&model).servers[1].id;
    assert_eq!(refused(&mut model, add_server(WEB, "10.0.0.4:8080")), ErrorKind::Full);
    model.apply(&delete_server(WEB, B)).expect("there");
    model.apply(&add_server(WEB, "10.0.0.4:8080")).expect("a removed one takes no room");
    assert_eq!(refused(&mut model, add_server(WEB, B)), ErrorKind::Full);
    assert_eq!(model.server_ids_in_use(), 4);
    assert_eq!(model.release(|asked| asked != id), [id]);
    assert_eq!(model.server_ids_in_use(), 3);
    model.apply(&delete_server(WEB, A)).expect("there");
    let change = model.apply(&add_server(WEB, B)).expect("there is room");
    assert_eq!((web(&model).servers[0].id, change.zeroed_servers), (id, HashSet::from([id])));

    for port in [81, 82] {
        model.apply(&add(&format!("tcp/192.0.2.1:{port}"))).expect("there is room");
    }
    assert_eq!(refused(&mut model, add("tcp/192.0.2.1:83")), ErrorKind::Full);
    let gone = model.find(&service("tcp/192.0.2.1:81")).expect("there").id;
    model.apply(&Command::DeleteService { service: service("tcp/192.0.2.1:81") }).expect("there");
    model.apply(&add("tcp/192.0.2.1:83")).expect("there is room again");
    assert_eq!(model.find(&service("tcp/192.0.2.1:83")).expect("there").id, gone);
}

#[test]
fn a_batch_that_fails_changes_nothing() {
    let mut model = with_servers(&[A]);
    let overloaded = web(&model).servers[0].overloaded.clone();
    overloaded.store(true, Relaxed);
    let lift = Command::EditServer { service: service(WEB), server: server(A) };
    let before = web(&model).clone();
    let (index, error) = model
        .apply_all(&[lift.clone(), Command::Flush, add_server(WEB, A)])
        .expect_err("the service is gone");
    assert_eq!((index, error.error), (2, ErrorKind::ServiceNotDefined));
    assert!(Arc::ptr_eq(web(&model), &before));
    assert!(overloaded.load(Relaxed), "a change that did not happen lets nobody in");

    let change = model.apply_all(&[lift, add("tcp/192.0.2.2:80")]).expect("right");
    assert!(change.publish && change.zeroed_services.len() == 1);
    assert!(!web(&model).servers[0].overloaded.load(Relaxed));
}

#[test]
fn zero_leaves_a_timeout_as_it_is() {
    let mut model = model();
    assert_eq!(model.timeouts(), Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
    let change = model.apply(&Command::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 5, udp: 0 })).expect("right");
    assert!(change.publish);
    assert_eq!(model.timeouts(), Timeouts { tcp: 900, tcp_fin: 5, udp: 300 });
    assert_eq!(model.settings(Settings::default()).tcp_fin.as_secs(), 5);
    let nothing = model.apply(&Command::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 0, udp: 0 })).expect("right");
    assert_eq!(nothing, Change::default());
}

#[test]
fn servers_added_in_one_batch_stand_as_if_added_one_by_one() {
    let servers = ["10.0.0.3:8080", A, "10.0.0.4:8080", B];
    let commands: Vec<_> = servers.iter().map(|server| add_server(WEB, server)).collect();
    let mut model = with_servers(&[A]);
    let (mut failed, version) = (Vec::new(), web(&model).version);
    let change = model.apply_each(&commands, |index, error| {
        failed.push((index, error.error));
        ControlFlow::Continue(())
    });
    assert_eq!(failed, [(1, ErrorKind::ServerExists), (3, ErrorKind::Full)]);
    let there: Vec<_> = web(&model).servers.iter().map(|server| server.address.to_string()).collect();
    assert_eq!(there, ["10.0.0.4", "10.0.0.3", "10.0.0.1"]);
    assert!(change.publish && change.zeroed_servers.len() == 2);
    assert_eq!(web(&model).version, version + 1, "built once");
}

#[test]
fn what_is_zeroed_often_is_noted_once() {
    let mut model = with_servers(&[A, B]);
    let zero = vec![Command::Zero { service: None }; 1000];
    let change = model.apply_all(&zero).expect("right");
    assert_eq!((change.zeroed_services.len(), change.zeroed_servers.len()), (1, 2));
}

fn any_service() -> impl Strategy<Value = ServiceAddress> {
    let text = (any::<bool>(), any::<bool>(), 1..4u8, 1..3u16);
    text.prop_map(|(is_tcp, is_ipv6, host, port)| {
        let transport = if is_tcp { "tcp" } else { "udp" };
        let ip = if is_ipv6 { format!("[2001:db8::{host}]") } else { format!("192.0.2.{host}") };
        format!("{transport}/{ip}:{port}").parse().expect("an address")
    })
}

fn any_server_of(service: ServiceAddress) -> impl Strategy<Value = ServerSpec> {
    let numbers = (1..6u8, 1..3u16, 0..=MAX_WEIGHT, 0..100u32, 0..100u32);
    numbers.prop_map(move |(host, port, weight, a, b)| {
        let ip: IpAddr = if service.is_ipv6() {
            format!("2001:db8:1::{host}").parse().expect("IPv6")
        } else {
            IpAddr::from([10, 0, 0, host])
        };
        ServerSpec {
            weight,
            upper_threshold: a.max(b),
            lower_threshold: a.min(b),
            ..ServerSpec::new(SocketAddr::new(ip, port))
        }
    })
}

fn any_command() -> impl Strategy<Value = Command> {
    let scheduler = prop_oneof![Just("rr"), Just("wrr"), Just("lc"), Just("wlc")];
    let service = || {
        (any_service(), scheduler.clone(), 0..3u32)
            .prop_map(|(a, name, conn_limit)| ServiceSpec { conn_limit, ..ServiceSpec::new(a, name) })
    };
    let with_server = || any_service().prop_flat_map(|a| (Just(a), any_server_of(a)));
    prop_oneof![
        8 => service().prop_map(Command::AddService),
        1 => service().prop_map(Command::EditService),
        1 => any_service().prop_map(|service| Command::DeleteService { service }),
        16 => with_server().prop_map(|(service, server)| Command::AddServer { service, server }),
        4 => with_server().prop_map(|(service, server)| Command::EditServer { service, server }),
        4 => with_server().prop_map(|(service, server)| {
            Command::DeleteServer { service, server: server.server }
        }),
        1 => (0..99u32, 0..99u32, 0..99u32).prop_map(|(tcp, tcp_fin, udp)| {
            Command::SetTimeouts(Timeouts { tcp, tcp_fin, udp })
        }),
    ]
}

/// All that the operator sees of a model.
fn seen(model: &Model) -> impl PartialEq + std::fmt::Debug {
    let servers = |service: &Service| {
        service.servers.iter().map(|server| server_spec(service, server)).collect::<Vec<_>>()
    };
    let services: Vec<_> =
        model.services().map(|service| (service_spec(service), servers(service))).collect();
    (services, model.timeouts())
}

proptest! {
    #[test]
    fn the_commands_of_a_model_make_the_same_one_again(commands in prop::collection::vec(any_command(), 0..200)) {
        let limits = Limits { services: 20, servers: 40 };
        let mut model = Model::new(limits);
        model.apply_each(&commands, |_, _| ControlFlow::Continue(()));
        let mut again = Model::new(limits);
        let all: Vec<_> = model.commands().collect();
        prop_assert!(again.apply_all(&all).is_ok());
        prop_assert_eq!(seen(&again), seen(&model));
    }
}

#[test]
fn sysctls_go_into_the_settings_and_are_kept_for_the_next_start() {
    let mut model = with_servers(&[]);
    let set = |name: &str, value| Command::SetSysctl(SysctlValue { name: name.to_owned(), value });
    assert!(model.apply(&set("expire_nodest_conn", 1)).expect("right").publish);
    assert!(!model.apply(&set("expire_nodest_conn", 1)).expect("right").publish, "nothing is new");
    assert_eq!(model.settings(Settings::default()).sysctls.expire_nodest_conn, 1);
    let mut next = Model::new(Limits { services: 10, servers: 10 });
    for command in model.commands() {
        next.apply(&command).expect("right");
    }
    assert_eq!(next.sysctls(), model.sysctls());
    let error = model.apply(&set("conn_reuse_mode", 4)).expect_err("too large");
    assert_eq!(error.message, "sysctl conn_reuse_mode: 4 is outside 0..=3");
    assert!(!model.apply(&set("ignore_tunneled", 1)).expect("always so").publish);
    let error = model.apply(&set("ignore_tunneled", 0)).expect_err("never so");
    assert!(error.message.starts_with("sysctl ignore_tunneled: 0: allowed is 1 alone: "), "{error}");
    let error = model.apply(&set("drop_nothing", 1)).expect_err("not there");
    assert!(error.message.starts_with("no sysctl \"drop_nothing\"; there are am_droprate, "), "{error}");
}
