//! The text is parsed back, sample by sample.

use std::collections::BTreeMap;

use lb_core::drop::DropReason;
use lb_core::hook::Hook;
use lb_core::ids::PortId;

use super::*;
use crate::api::types::{Batch, Command, ForwardMethod, OnError, ServerSpec};
use crate::daemon::fake;

const SERVICES: &str = r#"
[[virtual_service]]
address = "192.0.2.1:80"
real_servers = [{ address = "10.0.0.1:8080", weight = 3 }]
[[virtual_service]]
address = "[2001:db8::1]:53"
protocol = "udp"
real_servers = [{ address = "[2001:db8::11]:53" }]
"#;

/// Samples by name and labels; types by name.
struct Parsed {
    samples: BTreeMap<String, f64>,
    types: BTreeMap<String, String>,
}

/// Reads the text format as far as the program writes it; anything else is a failure.
fn parse(text: &str) -> Parsed {
    let mut scrape = Parsed { samples: BTreeMap::new(), types: BTreeMap::new() };
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.split_once(' ').is_some_and(|(_, help)| !help.is_empty()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            current = name.to_owned();
            assert!(scrape.types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').expect(line);
            assert!(sample.starts_with(&current), "{line} does not belong to {current}");
            let value = value.parse().expect(line);
            assert!(scrape.samples.insert(sample.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    scrape
}

fn scrape() -> Parsed {
    let (control, plane, _) = fake::start(SERVICES);
    let server = control.model().services().next().expect("there").servers[0].id;
    for (n, worker) in plane.workers.iter().enumerate() {
        let n = n as u64;
        let cell = worker.server(server);
        cell.active.set(2 + n);
        cell.inactive.set(10);
        cell.connections.set(100);
        cell.in_packets.set(1000);
        cell.out_bytes.set(50_000);
        worker.port(PortId(0)).rx_packets.set(7);
        worker.flows.entries.set(12);
        worker.flows.full.set(1);
        worker.flows.expect_create.set(9);
        worker.flows.expect_delete.set(7);
        worker.turns.turns.set(5);
        worker.turns.busy_cycles.set(300);
        worker.turns.busy_turns[0].set(90);
        worker.turns.busy_turns[6].set(2);
        worker.turns.idle_turns[10].set(1);
        worker.turns.idle_cycles.set(9_000_000_000);
        worker.turns.nap_cycles.set(8_000_000_000);
        worker.turns.bursts[0].set(4);
        worker.turns.bursts[5].set(6);
        worker.dropped(DropReason::NoRoute, Hook::Forward).set(3);
    }
    parse(&text(&control))
}

#[test]
fn ipvs_figures_stand_under_node_exporters_names_and_labels() {
    let scrape = scrape();
    let labels = r#"{local_address="192.0.2.1",local_port="80",remote_address="10.0.0.1",remote_port="8080",proto="TCP",local_mark=""}"#;
    let backend = |ending: &str| scrape.samples[&format!("lb_ipvs_backend_{ending}{labels}")];
    assert_eq!(
        (backend("connections_active"), backend("connections_inactive"), backend("weight")),
        (5.0, 20.0, 3.0)
    );
    assert_eq!((backend("connections_total"), backend("outgoing_bytes_total")), (200.0, 100_000.0));
    assert_eq!(scrape.samples["lb_ipvs_connections_total"], 200.0);
    assert_eq!(scrape.samples["lb_ipvs_incoming_packets_total"], 2000.0);
    let udp6 = r#"{local_address="2001:db8::1",local_port="53",remote_address="2001:db8::11",remote_port="53",proto="UDP",local_mark=""}"#;
    assert_eq!(scrape.samples[&format!("lb_ipvs_backend_weight{udp6}")], 1.0);
}

#[test]
fn workers_ports_flows_and_drops_are_there() {
    let scrape = scrape();
    let of = |name: &str| *scrape.samples.get(name).unwrap_or_else(|| panic!("{name} is missing"));
    assert_eq!(of(r#"lb_worker_busy_cycles_total{worker="1",cpu="6"}"#), 300.0);
    assert_eq!(of(r#"lb_worker_burst_packets_bucket{worker="0",cpu="4",le="1"}"#), 4.0);
    assert_eq!(of(r#"lb_worker_burst_packets_bucket{worker="0",cpu="4",le="31"}"#), 4.0);
    assert_eq!(of(r#"lb_worker_burst_packets_bucket{worker="0",cpu="4",le="+Inf"}"#), 10.0);
    assert_eq!(of(r#"lb_worker_burst_packets_sum{worker="0",cpu="4"}"#), 4.0 + 6.0 * 32.0);
    let turns = |name: &str, turn: &str, le: &str| {
        of(&format!(r#"lb_worker_turn_seconds_{name}{{worker="1",cpu="6",turn="{turn}"{le}}}"#))
    };
    assert_eq!(turns("bucket", "busy", r#",le="0.0001""#), 90.0);
    assert_eq!(turns("bucket", "busy", r#",le="0.0002""#), 92.0);
    assert_eq!((turns("count", "busy", ""), turns("sum", "busy", "")), (92.0, 300.0 / 2e9));
    assert_eq!(turns("bucket", "idle", r#",le="0.0016""#), 0.0);
    assert_eq!(turns("bucket", "idle", r#",le="+Inf""#), 1.0);
    assert_eq!(turns("sum", "idle", ""), 0.5, "without the sleep");
    assert_eq!(of(r#"lb_worker_generation{worker="0",cpu="4"}"#), of("lb_tables_generation"));
    assert_eq!(of(r#"lb_port_receive_packets_total{port="wan"}"#), 14.0);
    assert_eq!(of(r#"lb_port_up{port="wan"}"#), 1.0);
    assert_eq!(of(r#"lb_port_receive_missed_total{port="wan"}"#), 3.0);
    assert_eq!(of(r#"lb_port_transmit_errors_total{port="wan"}"#), 5.0);
    assert_eq!(of(r#"lb_port_twin_refused_total{port="wan"}"#), 6.0);
    assert_eq!(of("lb_worker_buffers_in_use"), 77.0);
    assert_eq!(of("lb_twin_events_total"), 0.0);
    assert_eq!(of("lb_conntrack_entries"), 24.0);
    assert_eq!(of("lb_conntrack_entries_limit"), 1000.0);
    assert_eq!(of("lb_conntrack_stat_drop"), 2.0);
    assert_eq!(of("lb_conntrack_expectations"), 4.0);
    assert_eq!(of(r#"lb_drops_total{reason="no_route",hook="forward"}"#), 6.0);
    assert_eq!(of("lb_tables_services"), 2.0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        of(&format!(r#"lb_build_info{{version="{version}",arch="{}"}}"#, std::env::consts::ARCH)),
        1.0
    );
}

#[test]
fn drops_of_rules_are_there_by_hook_and_by_chain() {
    let (mut control, plane, _) = fake::start(SERVICES);
    let change = r#"{"family": "ipv4", "tables": [{"table": "filter", "commands": [
        {"do": "new_chain", "chain": "web"},
        {"do": "append", "chain": "web", "rule": ["-p", "tcp", "-j", "DROP"]},
        {"do": "append", "chain": "web", "rule": ["-j", "REJECT"]},
        {"do": "append", "chain": "web", "rule": ["-j", "ACCEPT"]},
        {"do": "append", "chain": "INPUT", "rule": ["-j", "web"]},
        {"do": "set_policy", "chain": "FORWARD", "policy": "DROP"}]}]}"#;
    control.change_rules(&serde_json::from_str(change).expect("a batch")).expect("right");
    // Every rule and policy counts one packet.
    for worker in &plane.workers {
        (0..100).for_each(|number| worker.rule(number).packets.add(1));
        worker.dropped(DropReason::Rule, Hook::Input).set(2);
        worker.dropped(DropReason::RuleRejects, Hook::Input).set(1);
    }
    let scrape = parse(&text(&control));
    let drops = scrape.samples.iter().filter(|(name, _)| name.starts_with("lb_rule_drops_total"));
    let drops: Vec<_> = drops.map(|(name, packets)| (name.as_str(), *packets)).collect();
    assert_eq!(
        drops,
        [
            (r#"lb_rule_drops_total{family="ipv4",table="filter",chain="FORWARD"}"#, 2.0),
            (r#"lb_rule_drops_total{family="ipv4",table="filter",chain="web"}"#, 4.0),
        ]
    );
    assert_eq!(scrape.samples[r#"lb_drops_total{reason="rule",hook="input"}"#], 4.0);
    assert_eq!(scrape.samples[r#"lb_drops_total{reason="rule_rejects",hook="input"}"#], 2.0);
}

#[test]
fn what_rules_count_under_a_name_is_there_by_that_name() {
    let (mut control, ..) = fake::start("");
    assert!(!text(&control).contains("lb_nfacct"));
    let add = r#"[
        {"do": "add", "name": "web \"1\"", "counts": {"packets": 3, "bytes": 400}},
        {"do": "add", "name": "b", "quota": {"unit": "packets", "limit": 3}},
        {"do": "add", "name": "c\\", "quota": {"unit": "packets", "limit": 3}, "counts": {"packets": 3, "bytes": 0}}
    ]"#;
    let add: Vec<crate::api::accounts::AccountCommand> = serde_json::from_str(add).expect("commands");
    control.change_accounts(&add).expect("room");
    let samples = parse(&text(&control)).samples;
    assert_eq!(samples[r#"lb_nfacct_packets_total{name="web \"1\""}"#], 3.0);
    assert_eq!(samples[r#"lb_nfacct_bytes_total{name="web \"1\""}"#], 400.0);
    assert_eq!(samples[r#"lb_nfacct_packets_total{name="b"}"#], 0.0);
    assert_eq!(samples[r#"lb_nfacct_over_quota{name="b"}"#], 0.0);
    assert_eq!(samples[r#"lb_nfacct_over_quota{name="c\\"}"#], 1.0);
    assert_eq!(samples.keys().filter(|sample| sample.starts_with("lb_nfacct_over_quota")).count(), 2);
}

#[test]
fn timers_of_rules_are_there_by_their_labels() {
    let (mut control, ..) = fake::start("");
    assert!(!text(&control).contains("lb_idletimer"));
    let append = |timeout: &str, label: &str, more: &[&str]| {
        let rule = [&["-j", "IDLETIMER", "--timeout", timeout, "--label", label], more].concat();
        let batch = serde_json::json!({"family": "ipv4", "tables": [{"table": "filter", "commands": [
            {"do": "append", "chain": "FORWARD", "rule": rule}]}]});
        serde_json::from_value::<crate::api::rules::RuleBatch>(batch).expect("a batch")
    };
    control.change_rules(&append("3600", "two words", &[])).expect("right");
    control.change_rules(&append("60", "phone", &["--alarm"])).expect("right");
    for (timeout, label, more) in [
        ("60", "phone", &[][..]),
        ("0", "x", &[]),
        ("2147483", "x", &[]),
        ("1", "", &[]),
        ("1", "a/b", &[]),
        ("1", "power", &[]),
    ] {
        assert!(control.change_rules(&append(timeout, label, more)).is_err(), "{timeout} {label:?}");
    }
    let samples = parse(&text(&control)).samples;
    let is_near = |sample: &str, value: f64| (value - 5.0..=value).contains(&samples[sample]);
    assert!(is_near(r#"lb_idletimer_seconds{label="two words"}"#, 3600.0));
    assert!(is_near(r#"lb_idletimer_seconds{label="phone"}"#, 60.0));
    assert_eq!(samples.keys().filter(|sample| sample.starts_with("lb_idletimer")).count(), 2);
}

#[test]
fn counters_end_in_total_and_nothing_else_does() {
    for (name, kind) in scrape().types {
        if !name.starts_with("lb_conntrack_stat_") {
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        }
        assert!(name.starts_with("lb_"), "{name}");
    }
}

#[test]
fn every_file_of_the_folder_stands_in_the_table() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metrics");
    for entry in std::fs::read_dir(folder).expect(folder) {
        let path = entry.expect("readable").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let is_listed = FAMILIES.iter().any(|(listed, _)| *listed == name);
        assert!(
            is_listed || matches!(name.as_str(), "mod" | "moment" | "series" | "tests"),
            "{name} is not in FAMILIES"
        );
    }
}

#[test]
fn the_text_of_many_real_servers_comes_in_pieces_and_is_that_of_when_it_was_asked_for() {
    let (mut control, plane) = fake::start_large(3000);
    let server = {
        let mut servers = control.model().services().flat_map(|service| &service.servers);
        servers.find(|server| server.address.to_string() == "10.0.7.215").expect("one of them").id
    };
    plane.workers[1].server(server).in_packets.set(5);
    let mut scrape = Scrape::of(&control);
    let batch = Batch { commands: vec![Command::Flush], on_error: OnError::Continue };
    assert_eq!(control.batch(&batch).done, 1);
    let mut pieces = Vec::new();
    while !scrape.is_over() {
        pieces.push(scrape.piece());
    }
    assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() < PIECE + 1024));
    let Parsed { samples, .. } = parse(&pieces.concat());
    for Series { name, of, .. } in ipvs::SERIES {
        let is_it = |sample: &&String| sample.split_once('{').is_some_and(|(of, _)| of == *name);
        let expected = if matches!(of, series::Of::Servers(_)) { 3000 } else { 0 };
        assert_eq!(samples.keys().filter(is_it).count(), expected, "{name}");
    }
    assert_eq!(samples["lb_tables_servers"], 3000.0);
    let labels = r#"{local_address="192.0.2.3",local_port="80",remote_address="10.0.7.215",remote_port="8080",proto="TCP",local_mark=""}"#;
    assert_eq!(samples[&format!("lb_ipvs_backend_incoming_packets_total{labels}")], 5.0);
}

#[test]
fn services_of_one_mark_are_told_apart_by_their_family() {
    let service = |family: &str, server: &str| {
        format!(
            "[[virtual_service]]\nfwmark = 7\nfamily = \"{family}\"\nconn_limit = 5\nscheduler = \"mh\"\n\
             real_servers = [{{ address = \"{server}\" }}]\n"
        )
    };
    let same = "10.0.0.1";
    let (mut control, ..) = fake::start(&(service("ipv4", same) + &service("ipv6", "2001:db8::11")));
    let server =
        ServerSpec { forward: ForwardMethod::Tunnel, ..ServerSpec::new("10.0.0.9:0".parse().expect("one")) };
    let add = |service: &str| Command::AddServer {
        service: service.parse().expect("an address"),
        server: server.clone(),
    };
    let batch = Batch { commands: vec![add("fwmark/7"), add("fwmark6/7")], on_error: OnError::Continue };
    assert_eq!(control.batch(&batch).failed, []);
    // Nothing stands twice: that is looked at there.
    let samples = parse(&text(&control)).samples;
    for address in ["", "::"] {
        let of_service = format!(r#"local_address="{address}",local_port="0""#);
        let end = r#"proto="FWM",local_mark="00000007""#;
        for sample in [
            format!(
                r#"lb_ipvs_backend_weight{{{of_service},remote_address="10.0.0.9",remote_port="0",{end}}}"#
            ),
            format!("lb_ipvs_conn_limit_connections{{{of_service},{end}}}"),
            format!(r#"lb_ipvs_limited_connections_total{{{of_service},{end},limit="conn_limit"}}"#),
        ] {
            assert!(samples.contains_key(&sample), "{sample} in {samples:?}");
        }
    }
}
