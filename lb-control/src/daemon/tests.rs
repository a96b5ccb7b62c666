//! The control task over a fake data plane.

use std::sync::atomic::Ordering::Relaxed;

use lb_core::ids::{PortId, ServerId};
use lb_core::ipvs::limiter::Limit;
use lb_core::tables::{Interface, Interfaces};

use std::net::IpAddr;

use super::fake::{FakePlane, config, start, start_from};
use super::handle::ADOPTION;
use super::*;
use crate::api::types::{CookieView, LimitedView, ServerSpec, ServiceAddress, ServiceSpec, Timeouts};

const SERVICE: &str = r#"
[[virtual_service]]
address = "192.0.2.1:80"
scheduler = "rr"
real_servers = [{ address = "10.0.0.1" }, { address = "10.0.0.2" }]
"#;

fn service() -> ServiceAddress {
    "tcp/192.0.2.1:80".parse().expect("an address")
}

fn delete(server: &str) -> Command {
    Command::DeleteServer { service: service(), server: server.parse().expect("an address") }
}

fn add(server: &str) -> Command {
    Command::AddServer { service: service(), server: ServerSpec::new(server.parse().expect("an address")) }
}

fn batch(commands: Vec<Command>, on_error: OnError) -> Batch {
    Batch { commands, on_error }
}

#[test]
fn the_first_tables_hold_the_files_services_and_timeouts() {
    let (control, plane, host) = start(&format!("[timeouts]\nudp = 10\n{SERVICE}"));
    assert_eq!(plane.publications(), 1);
    let tables = plane.tables();
    assert_eq!((tables.services.len(), tables.settings.udp.as_secs()), (1, 10));
    assert!(tables.generation > 0, "0 says that a worker has no tables");
    assert_eq!(*host.kept.lock().unwrap(), ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(control.problems(), [""; 0]);
}

#[test]
fn marks_and_sysctls_of_the_file_are_in_the_first_tables_and_follow_a_reload() {
    let file = |mark: u32| format!("{SERVICE}[[mark]]\nmark = {mark}\n[sysctl]\nsloppy_tcp = 1\n");
    let (mut control, plane, _) = start(&file(7));
    let marks = |plane: &FakePlane| plane.tables().marks.0.iter().map(|rule| rule.mark).collect::<Vec<_>>();
    assert_eq!((marks(&plane), plane.tables().settings.sysctls.sloppy_tcp), (vec![7], 1));
    control.reload(config(&file(8))).expect("right");
    assert_eq!((marks(&plane), plane.publications()), (vec![8], 2));
    control.reload(config(SERVICE)).expect("right");
    assert_eq!((marks(&plane), plane.tables().settings.sysctls.sloppy_tcp), (vec![], 0));
}

#[test]
fn a_batch_is_published_once_and_failures_are_told_by_place() {
    let (mut control, plane, _) = start(SERVICE);
    let commands = vec![add("10.0.0.3:80"), add("10.0.0.1:80"), delete("10.0.0.9:80"), add("10.0.0.4:80")];
    let reply = control.batch(&batch(commands, OnError::Continue));
    assert_eq!(reply.done, 2);
    let failed: Vec<_> = reply.failed.iter().map(|failure| (failure.index, failure.error.error)).collect();
    assert_eq!(failed, [(1, ErrorKind::ServerExists), (2, ErrorKind::NoSuchServer)]);
    assert_eq!(plane.publications(), 2);
    assert_eq!(plane.tables().services.iter().next().unwrap().servers.len(), 4);
}

#[test]
fn a_batch_with_rollback_that_fails_changes_and_publishes_nothing() {
    let (mut control, plane, _) = start(SERVICE);
    let commands = vec![add("10.0.0.3:80"), add("10.0.0.1:80"), Command::Flush];
    let reply = control.batch(&batch(commands, OnError::Rollback));
    assert_eq!((reply.done, reply.failed.len(), reply.failed[0].index), (0, 1, 1));
    assert_eq!(plane.publications(), 1);
    assert_eq!(control.services(None).unwrap()[0].servers.len(), 2);
}

#[test]
fn it_is_said_which_services_answer_with_syn_cookies_now() {
    let file = format!("{SERVICE}syn_cookies = \"auto:2\"\n");
    let (control, plane, _) = start(&file);
    let id = plane.tables().services.iter().next().expect("one").id;
    let cookies = |control: &Control| control.services(None).expect("one")[0].cookies;
    assert_eq!((control.status().syn_cookies, cookies(&control)), (vec![], Some(CookieView::default())));
    let cell = plane.workers[0].service(id);
    assert!(cell.count_syn(1, false, crate::sets::now()));
    cell.cookies_sent.add(1);
    assert_eq!(control.status().syn_cookies, [service()]);
    assert_eq!(cookies(&control), Some(CookieView { on: true, sent: 1, ..CookieView::default() }));
    let metrics = crate::metrics::text(&control);
    let labels = "{local_address=\"192.0.2.1\",local_port=\"80\",proto=\"TCP\",local_mark=\"\"} 1\n";
    for name in ["", "_sent_total"] {
        assert!(metrics.contains(&format!("lb_ipvs_syn_cookies{name}{labels}")), "{metrics}");
    }
    let (control, ..) = start(SERVICE);
    assert_eq!(cookies(&control), None);
}

#[test]
fn it_is_said_what_a_service_refuses_by_its_limits() {
    let file = format!("{SERVICE}conn_limit = 2\nsource_conn_rate = \"5\"\n");
    let (mut control, plane, _) = start(&file);
    let tables = plane.tables();
    let limited = tables.services.iter().next().expect("one");
    assert!(limited.limiter.is_some());
    let view = |control: &Control| control.services(None).expect("one")[0].limited;
    assert_eq!(view(&control), Some(LimitedView::default()));
    plane.workers[0].service(limited.id).limited[Limit::SourceRate as usize].add(3);
    plane.workers[1].service(limited.id).limited[Limit::Connections as usize].add(1);
    let expected = LimitedView { conn_limit: 1, source_conn_rate: 3, ..LimitedView::default() };
    assert_eq!(view(&control), Some(expected));
    let metrics = crate::metrics::text(&control);
    let labels = "local_address=\"192.0.2.1\",local_port=\"80\",proto=\"TCP\",local_mark=\"\"";
    for line in [
        format!("lb_ipvs_limited_connections_total{{{labels},limit=\"source_conn_rate\"}} 3\n"),
        format!("lb_ipvs_limited_connections_total{{{labels},limit=\"conn_rate\"}} 0\n"),
        format!("lb_ipvs_conn_limit_connections{{{labels}}} 0\n"),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    control.batch(&batch(vec![Command::EditService(ServiceSpec::new(service(), "rr"))], OnError::Continue));
    assert_eq!(view(&control), None);
}

#[test]
fn it_is_said_which_services_packets_go_by_hash_alone() {
    let (control, plane, _) = start(&SERVICE.replace("\"rr\"", "\"mh\""));
    let id = plane.tables().services.iter().next().expect("one").id;
    assert_eq!(control.status().by_hash, []);
    plane.workers[1].service(id).count_hashed(crate::sets::now());
    assert_eq!(control.status().by_hash, [service()]);
    let metrics = crate::metrics::text(&control);
    let labels = "{local_address=\"192.0.2.1\",local_port=\"80\",proto=\"TCP\",local_mark=\"\"} 1\n";
    assert!(metrics.contains(&format!("lb_ipvs_by_hash_packets_total{labels}")), "{metrics}");
}

#[test]
fn a_command_that_changes_no_table_publishes_none() {
    let (mut control, plane, _) = start(SERVICE);
    let commands = vec![
        Command::Zero { service: None },
        Command::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 0, udp: 0 }),
        Command::EditService(ServiceSpec::new(service(), "rr")),
    ];
    assert_eq!(control.batch(&batch(commands, OnError::Continue)).done, 3);
    assert_eq!(plane.publications(), 1);
}

#[test]
fn an_unchanged_file_publishes_nothing_at_a_reload() {
    let (mut control, plane, host) = start(SERVICE);
    let reload = control.reload(config(SERVICE)).expect("nothing to do");
    assert!(reload.is_empty());
    assert_eq!(plane.publications(), 1);
    assert!(host.addresses.lock().unwrap().is_empty());
}

#[test]
fn a_reload_keeps_ids_of_what_stays() {
    let (mut control, plane, _) = start(SERVICE);
    let before = plane.tables();
    let server = |tables: &Tables, ip: &str| {
        let service = tables.services.iter().next().expect("there").clone();
        service.servers.iter().find(|s| s.address.to_string() == ip).expect("there").id
    };
    let kept = server(&before, "10.0.0.1");
    control.reload(config(&SERVICE.replace("10.0.0.2", "10.0.0.3"))).expect("right");
    assert_eq!(server(&plane.tables(), "10.0.0.1"), kept);
    assert_eq!(plane.publications(), 2);
}

#[test]
fn a_reload_that_cannot_be_done_changes_nothing() {
    let (mut control, plane, _) = start(SERVICE);
    let many: Vec<_> = (1..=70).map(|n| format!("{{ address = \"10.0.1.{n}\" }}")).collect();
    let more = SERVICE.replace("{ address = \"10.0.0.2\" }", &many.join(", "));
    let head = "[dataplane]\nworkers = [4, 6]\nmax_servers = 128\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n";
    let more = Config::parse(&format!("{head}{more}")).expect("valid");
    let error = control.reload(more).expect_err("64 servers at most");
    assert_eq!(error.error, ErrorKind::Full);
    let end = ": there is room for 64 real servers (dataplane.max_servers) until a restart, which takes the file's 128";
    assert!(error.to_string().ends_with(end), "{error}");
    assert_eq!(plane.publications(), 1);
    assert_eq!(control.services(None).unwrap()[0].servers.len(), 2);
    assert!(control.reload(config(SERVICE)).expect("the file of before").is_empty());
}

#[test]
fn what_needs_a_restart_is_said_again_until_it_is_undone() {
    let (mut control, _, host) = start(SERVICE);
    let changed = || {
        let mut new = config(SERVICE);
        new.dataplane.workers = vec![4];
        new.ports[0].addresses = vec![parse_address("192.0.2.1/24")];
        new
    };
    assert_eq!(control.reload(changed()).unwrap().restart.len(), 1);
    let again = control.reload(changed()).unwrap();
    assert_eq!((again.restart.len(), again.addresses.len()), (1, 0), "the address was put there before");
    assert_eq!(*host.addresses.lock().unwrap(), [(PortId(0), vec![parse_address("192.0.2.1/24")])]);
    assert_eq!(control.reload(config(SERVICE)).unwrap().restart.len(), 0);
    assert_eq!(host.addresses.lock().unwrap()[1], (PortId(0), vec![]), "and taken away");
}

fn parse_address(text: &str) -> crate::config::PortAddress {
    let (address, len) = text.split_once('/').unwrap();
    crate::config::PortAddress { address: address.parse().unwrap(), len: len.parse().unwrap() }
}

#[test]
fn forwarding_follows_a_reload() {
    let (mut control, plane, _) = start(SERVICE);
    let mut new = config(SERVICE);
    new.dataplane.forwarding = false;
    control.reload(new).expect("right");
    assert!(!plane.tables().settings.forwarding);
}

#[test]
fn an_id_is_freed_when_all_workers_have_the_new_tables_and_no_connection_is_left() {
    let (mut control, plane, _) = start(SERVICE);
    let id = control.model().services().next().unwrap().servers[0].id;
    plane.workers[1].server(id).inactive.set(1);
    plane.is_deaf.store(true, Relaxed);
    control.batch(&batch(vec![delete("10.0.0.2:80")], OnError::Continue));
    let removed = |control: &Control| control.model().removed_servers().collect::<Vec<ServerId>>();
    plane.workers[1].server(id).inactive.set(0);
    control.look_after(Instant::now());
    assert_eq!(removed(&control), [id], "the workers may still bind to it");
    plane.workers.iter().for_each(|w| w.turns.generation.set(plane.tables().generation.into()));
    plane.workers[1].server(id).inactive.set(1);
    control.look_after(Instant::now());
    assert_eq!(removed(&control), [id], "it has a connection");
    plane.workers[1].server(id).inactive.set(0);
    control.look_after(Instant::now());
    assert_eq!(removed(&control), [id], "a connection may just have been between two counts");
    control.look_after(Instant::now());
    assert_eq!(removed(&control), []);
}

#[test]
fn workers_that_do_not_adopt_and_a_twin_that_is_down_are_problems() {
    let (mut control, plane, host) = start(SERVICE);
    plane.is_deaf.store(true, Relaxed);
    control.batch(&batch(vec![delete("10.0.0.2:80")], OnError::Continue));
    host.problems.lock().unwrap().push("port wan: address refused".into());
    control.set_twin_problem(Some("netlink socket closed".into()));
    let published = plane.tables().generation;
    let of_linux = ["port wan: address refused", "twin: netlink socket closed"];
    assert_eq!(control.problems(), of_linux, "the workers have a moment");
    for seconds in 1..=4 {
        plane.workers.iter().for_each(|worker| worker.turns.turns.add(1));
        control.look_after(Instant::now() + Duration::from_secs(seconds));
    }
    assert_eq!(
        control.problems(),
        [
            format!("worker 0 uses tables {}, published are {published}", published - 1),
            format!("worker 1 uses tables {}, published are {published}", published - 1),
            of_linux[0].to_owned(),
            of_linux[1].to_owned(),
        ]
    );
    assert!(!control.status().ready);
}

#[test]
fn what_linux_says_is_published_and_the_same_again_is_not() {
    let (mut control, plane, _) = start(SERVICE);
    let interface = Interface {
        name: "wan".into(),
        port: Default::default(),
        vlan: 0,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        outside: true,
        group: 0,
        ipv4: None,
        ipv6: None,
    };
    let network = Network { interfaces: Arc::new(Interfaces::new(vec![interface])), ..Network::default() };
    control.use_network(&network);
    control.use_network(&network);
    assert_eq!(plane.publications(), 2);
    let tables = plane.tables();
    assert_eq!((tables.interfaces.iter().count(), tables.services.len()), (1, 1));
}

#[test]
fn a_config_whose_services_cannot_be_made_is_found_by_the_check() {
    let mut bad = config(SERVICE);
    // The file's reader refuses it too: this is for what it may not know of.
    bad.services[0].servers[0].address = "0.0.0.1:80".parse().expect("an address");
    let error = check(&bad).expect_err("not unicast").to_string();
    assert_eq!(error, "real server 0.0.0.1:80 of tcp/192.0.2.1:80: the address is not unicast");
}

#[tokio::test]
async fn requests_are_answered_in_turn_and_refused_after_the_end() {
    let (control, plane, _) = start(SERVICE);
    let handle = control.spawn();
    handle.command(add("10.0.0.3:80")).await.expect("right");
    let error = handle.command(add("10.0.0.3:80")).await.expect_err("twice");
    assert_eq!(error.error, ErrorKind::ServerExists);
    let count =
        handle.ask(|control| control.services(None).unwrap()[0].servers.len()).await.expect("an answer");
    assert_eq!((count, plane.publications()), (3, 2));
}

/// What runs, in the words of `ipvsadm -S`.
fn running(control: &Control) -> Vec<String> {
    let server =
        |server: &crate::api::types::ServerView| format!("{} {}", server.spec.server, server.spec.weight);
    let service = |service: &crate::api::types::ServiceView| {
        let servers: Vec<_> = service.servers.iter().map(server).collect();
        format!("{} {}: {}", service.spec.service, service.spec.scheduler, servers.join(", "))
    };
    control.services(None).expect("all").iter().map(service).collect()
}

fn weight(server: &str, weight: u32) -> Command {
    let spec = ServerSpec::new(server.parse().expect("an address"));
    Command::EditServer { service: service(), server: ServerSpec { weight, ..spec } }
}

#[test]
fn what_was_made_by_command_is_there_after_a_restart_and_the_files_changes_are_applied() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("model");
    let (mut control, ..) = start_from(SERVICE, Some(&file));
    let other: ServiceAddress = "udp/192.0.2.9:53".parse().expect("an address");
    let commands = vec![
        Command::AddService(ServiceSpec::new(other, "lc")),
        add("10.0.0.3:80"),
        weight("10.0.0.1:80", 0),
        Command::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 0, udp: 77 }),
    ];
    assert_eq!(control.batch(&batch(commands, OnError::Continue)).done, 4);
    let before = running(&control);
    drop(control);

    let (mut control, plane, _) = start_from(SERVICE, Some(&file));
    assert_eq!(running(&control), before);
    assert_eq!((plane.publications(), plane.tables().settings.udp.as_secs()), (1, 77));
    // A reload changes what the next start compares with.
    control.reload(config(&SERVICE.replace("\"rr\"", "\"wrr\""))).expect("right");
    drop(control);

    let edited = SERVICE.replace("{ address = \"10.0.0.2\" }", "{ address = \"10.0.0.4\" }");
    let (control, ..) = start_from(&edited, Some(&file));
    let expected =
        ["tcp/192.0.2.1:80 rr: 10.0.0.4:80 1, 10.0.0.3:80 1, 10.0.0.1:80 0", "udp/192.0.2.9:53 lc: "];
    assert_eq!(running(&control), expected, "as the file says where it changed, and as it was elsewhere");
    drop(control);
    let (control, ..) = start_from(&edited, Some(&file));
    assert_eq!(running(&control), expected, "and again");
}

#[test]
fn fingerprints_are_in_the_tables_at_once_and_after_a_restart() {
    const FIRST: &str = "S4:64:1:60:M*,S,T,N,W7:Linux:2.6:8:";
    const SECOND: &str = "16384:64:0:40:.:ULTRIX:4.5::";
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("model");
    let in_tables = |plane: &FakePlane| {
        plane.tables().fingerprints.iter().map(ToString::to_string).collect::<Vec<String>>()
    };
    let add = |line: &str| Command::AddFingerprint { line: line.to_owned() };
    let (mut control, plane, _) = start_from(SERVICE, Some(&file));
    let both = batch(vec![add(FIRST), add("no:fingerprint"), add(SECOND)], OnError::Continue);
    let reply = control.batch(&both);
    assert_eq!((reply.done, reply.failed[0].index, plane.publications()), (2, 1, 2));
    assert_eq!(in_tables(&plane), [FIRST, SECOND]);
    assert_eq!((control.batch(&both).done, plane.publications()), (2, 2), "they are there");
    let remove = Command::RemoveFingerprint { line: FIRST.to_owned() };
    control.batch(&batch(vec![remove, add(FIRST), Command::Flush], OnError::Rollback));
    assert_eq!(in_tables(&plane), [SECOND, FIRST]);
    control.reload(config("[timeouts]\nudp = 10\n")).expect("right");
    drop(control);
    let (control, plane, _) = start_from("[timeouts]\nudp = 10\n", Some(&file));
    assert_eq!(in_tables(&plane), [SECOND, FIRST]);
    assert_eq!(control.fingerprint_views()[0].genre, "ULTRIX");
}

#[test]
fn a_damaged_model_or_one_that_the_new_file_does_not_fit_leaves_the_file_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("model");
    std::fs::write(&file, "lbd-model 1 boot=x").expect("written");
    let (mut control, ..) = start_from(SERVICE, Some(&file));
    assert_eq!(running(&control), ["tcp/192.0.2.1:80 rr: 10.0.0.2:80 1, 10.0.0.1:80 1"]);
    let many = (1..=60).map(|n| add(&format!("10.0.1.{n}:80"))).collect();
    assert_eq!(control.batch(&batch(many, OnError::Rollback)).done, 60);
    drop(control);
    let more: Vec<_> = (1..=10).map(|n| format!("{{ address = \"10.0.2.{n}\" }}")).collect();
    let larger = SERVICE.replace("{ address = \"10.0.0.2\" }", &more.join(", "));
    let (control, ..) = start_from(&larger, Some(&file));
    assert_eq!(control.services(None).expect("all")[0].servers.len(), 11, "there is room for 64");
}

#[test]
fn draining_is_published_and_told_and_no_change_ends_it() {
    let (mut control, plane, _) = start(SERVICE);
    // Two connections, one more of a server that is removed; a client's template, connections that are only routed.
    let servers = &control.model().services().next().expect("one").servers;
    let id = |address: &str| {
        servers.iter().find(|server| server.address.to_string() == address).expect("there").id
    };
    let (stays, goes) = (id("10.0.0.1"), id("10.0.0.2"));
    for worker in &plane.workers {
        worker.flows.entries.set(9);
        worker.server(stays).persistent.set(1);
    }
    plane.workers[1].server(stays).active.set(1);
    plane.workers[0].server(stays).inactive.set(1);
    plane.workers[0].server(goes).active.set(1);
    assert_eq!(control.batch(&batch(vec![delete("10.0.0.2:80")], OnError::Continue)).done, 1);
    let mut new = config(SERVICE);
    new.dataplane.drain_secs = 60;
    control.reload(new).expect("right");
    assert_eq!(control.drain(), Duration::from_secs(60));
    assert!(plane.tables().settings.draining);
    let mut new = config(SERVICE);
    new.dataplane.forwarding = false;
    control.reload(new).expect("right");
    assert_eq!(control.batch(&batch(vec![add("10.0.0.3:80")], OnError::Continue)).done, 1);
    let settings = plane.tables().settings;
    assert!(settings.draining && !settings.forwarding);
    assert_eq!(control.problems(), ["draining: 3 connections are left, new ones are not taken"]);
}

#[test]
fn a_port_without_link_or_twin_is_a_problem_while_it_lasts() {
    let (control, plane, _) = start(SERVICE);
    assert_eq!(control.problems(), [""; 0]);
    plane.is_unplugged.store(true, Relaxed);
    assert_eq!(control.problems(), ["port wan: no link"]);
    plane.is_unplugged.store(false, Relaxed);
    plane.is_twin_gone.store(true, Relaxed);
    assert_eq!(control.problems(), ["port wan: its twin is gone, restart lbd"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_answered_when_all_workers_go_by_it_and_none_holds_it_up_for_ever() {
    let (control, plane, _) = start(SERVICE);
    let handle = control.spawn();
    plane.is_deaf.store(true, Relaxed);
    let change = |server: &'static str| {
        let handle = handle.clone();
        tokio::spawn(async move { handle.command(delete(server)).await })
    };
    let asked = change("10.0.0.1:80");
    tokio::time::sleep(ADOPTION / 2).await;
    let published = plane.tables().generation.into();
    plane.workers[0].turns.generation.set(published);
    tokio::time::sleep(ADOPTION / 4).await;
    assert!(plane.publications() == 2 && !asked.is_finished(), "one worker goes by what was before");
    plane.workers[1].turns.generation.set(published);
    tokio::time::sleep(ADOPTION / 8).await;
    assert!(asked.is_finished());

    let asked = change("10.0.0.2:80");
    tokio::time::sleep(ADOPTION * 2).await;
    assert!(asked.is_finished() && plane.publications() == 3, "they stand still");
}
