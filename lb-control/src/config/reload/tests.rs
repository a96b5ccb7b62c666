use super::*;
use crate::api::types::{ForwardMethod, Persistence};
use crate::config::Said;
use crate::model::Limits;

const HEAD: &str = "[dataplane]\nworkers = [1]\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n";

fn config(more: &str) -> Config {
    Config::parse(&format!("{HEAD}{more}")).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn service(servers: &str) -> Config {
    config(&format!(
        "[[virtual_service]]\naddress = \"192.0.2.1:80\"\nscheduler = \"rr\"\nreal_servers = [{servers}]\n"
    ))
}

fn started(config: &Config) -> Model {
    let mut model = Model::new(Limits { services: 100, servers: 100 });
    let first = Reload::first(config, &model);
    model.apply_all(&first.commands).expect("right");
    model
}

/// The commands of a reload, in words; that they can be done is part of the test.
fn said(old: &Config, new: &Config, model: &mut Model) -> Vec<String> {
    let reload = Reload::between(old, new, model);
    model.apply_all(&reload.commands).expect("a reload that can be done");
    reload.commands.iter().map(|command| Said(command).to_string()).collect()
}

fn by_hand(model: &mut Model, command: Command) {
    model.apply(&command).expect("right");
}

fn address() -> ServiceAddress {
    "tcp/192.0.2.1:80".parse().expect("an address")
}

#[test]
fn a_first_file_makes_its_services_with_the_servers_in_the_order_of_ipvsadm() {
    let model = started(&service(r#"{ address = "10.0.0.1" }, { address = "10.0.0.2", weight = 7 }"#));
    let service = model.find(&address()).expect("it is there");
    let servers: Vec<_> = service.servers.iter().map(|s| (s.address.to_string(), s.weight)).collect();
    assert_eq!(servers, [("10.0.0.2".to_owned(), 7), ("10.0.0.1".to_owned(), 1)], "newest first");
}

#[test]
fn an_unchanged_file_changes_nothing_whatever_was_done_by_hand() {
    let file = service(r#"{ address = "10.0.0.1" }"#);
    let mut model = started(&file);
    by_hand(&mut model, Command::DeleteService { service: address() });
    let reload = Reload::between(&file, &file.clone(), &model);
    assert!(reload.is_empty(), "{reload:?}");
}

#[test]
fn only_what_differs_between_the_files_is_changed() {
    let old = service(r#"{ address = "10.0.0.1" }, { address = "10.0.0.2" }, { address = "10.0.0.3" }"#);
    let new = service(
        r#"{ address = "10.0.0.1" }, { address = "10.0.0.2", weight = 5 }, { address = "10.0.0.4" }"#,
    );
    let mut model = started(&old);
    assert_eq!(
        said(&old, &new, &mut model),
        [
            "real server 10.0.0.3:80 of tcp/192.0.2.1:80 removed",
            "real server 10.0.0.2:80 of tcp/192.0.2.1:80: forward is masq, weight is 5, thresholds are 0 and 0",
            "real server 10.0.0.4:80 of tcp/192.0.2.1:80 added, forward masq, weight 1",
        ]
    );
}

#[test]
fn what_the_file_never_named_stays() {
    let old = service(r#"{ address = "10.0.0.1" }"#);
    let mut model = started(&old);
    let other: ServiceAddress = "udp/192.0.2.9:53".parse().expect("an address");
    by_hand(&mut model, Command::AddService(ServiceSpec::new(other, "rr")));
    let by_hand_server = ServerSpec::new("10.0.0.9:80".parse().expect("an address"));
    by_hand(&mut model, Command::AddServer { service: address(), server: by_hand_server });
    assert_eq!(said(&old, &service(""), &mut model), ["real server 10.0.0.1:80 of tcp/192.0.2.1:80 removed"]);
    assert!(model.find(&other).is_some());
    assert_eq!(model.find(&address()).expect("it is there").servers.len(), 1);
    assert_eq!(said(&service(""), &config(""), &mut model), ["virtual service tcp/192.0.2.1:80 removed"]);
    assert_eq!(model.services().len(), 1);
}

#[test]
fn a_weight_set_by_hand_outlives_a_change_of_thresholds_in_the_file() {
    let old = service(r#"{ address = "10.0.0.1", weight = 3 }"#);
    let mut model = started(&old);
    let server = ServerSpec { weight: 0, ..ServerSpec::new("10.0.0.1:80".parse().expect("an address")) };
    by_hand(&mut model, Command::EditServer { service: address(), server });
    let new = service(r#"{ address = "10.0.0.1", weight = 3, upper_threshold = 9, lower_threshold = 4 }"#);
    assert_eq!(
        said(&old, &new, &mut model),
        ["real server 10.0.0.1:80 of tcp/192.0.2.1:80: forward is masq, weight is 0, thresholds are 9 and 4"]
    );
}

#[test]
fn what_was_set_by_hand_outlives_a_change_of_other_words_in_the_file() {
    let file = |persistence: u32, weight: u32| {
        config(&format!(
            "[[virtual_service]]\naddress = \"192.0.2.1:80\"\npersistence = {persistence}\n\
             real_servers = [{{ address = \"10.0.0.1\", weight = {weight} }}]\n"
        ))
    };
    let (old, new) = (file(300, 5), file(600, 6));
    let mut model = started(&old);
    let spec = ServiceSpec {
        syn_cookies: Some("on".to_owned()),
        conn_limit: 1000,
        warmup: 30,
        ..model::service_spec(model.find(&address()).expect("it is there"))
    };
    by_hand(&mut model, Command::EditService(spec.clone()));
    let server = ServerSpec {
        forward: ForwardMethod::FullNat,
        weight: 5,
        ..ServerSpec::new("10.0.0.1:80".parse().expect("an address"))
    };
    by_hand(&mut model, Command::EditServer { service: address(), server: server.clone() });
    said(&old, &new, &mut model);
    let service = model.find(&address()).expect("it is there");
    let persistence = spec.persistence.clone().map(|it| Persistence { timeout: 600, ..it });
    assert_eq!(model::service_spec(service), ServiceSpec { persistence, ..spec });
    let of_server = model::server_spec(service, &service.servers[0]);
    assert_eq!(of_server, ServerSpec { weight: 6, ..server });
}

#[test]
fn a_service_made_by_hand_becomes_what_a_new_file_says_of_it() {
    let mut model = started(&config(""));
    by_hand(&mut model, Command::AddService(ServiceSpec::new(address(), "lc")));
    let server = ServerSpec { weight: 9, ..ServerSpec::new("10.0.0.1:80".parse().expect("an address")) };
    by_hand(&mut model, Command::AddServer { service: address(), server });
    let new = service(r#"{ address = "10.0.0.1" }, { address = "10.0.0.2" }"#);
    assert_eq!(
        said(&config(""), &new, &mut model),
        [
            "virtual service tcp/192.0.2.1:80: scheduler is rr",
            "real server 10.0.0.1:80 of tcp/192.0.2.1:80: forward is masq, weight is 1, thresholds are 0 and 0",
            "real server 10.0.0.2:80 of tcp/192.0.2.1:80 added, forward masq, weight 1",
        ]
    );
}

#[test]
fn real_servers_may_exchange_their_quic_server_ids_and_what_was_set_by_hand_stays() {
    let file = |key: &str, ids: [&str; 2]| {
        config(&format!(
            "[[virtual_service]]\naddress = \"192.0.2.1:443\"\nprotocol = \"udp\"\n\
             quic_lb = [{{ config_id = 1, server_id_length = 1, nonce_length = 4, key = \"{key}\" }}]\n\
             real_servers = [{{ address = \"10.0.0.1\", quic_server_ids = [\"{}\"] }}, \
             {{ address = \"10.0.0.2\", quic_server_ids = [\"{}\"] }}]\n",
            ids[0], ids[1]
        ))
    };
    let (key, other_key) = ("0".repeat(32), "f".repeat(32));
    let (old, new) = (file(&key, ["0a", "0b"]), file(&key, ["0b", "0a"]));
    let mut model = started(&old);
    let server = |n: u8, ids: &str| {
        format!(
            "real server 10.0.0.{n}:443 of udp/192.0.2.1:443: forward is masq, weight is 1, thresholds are 0 and 0{ids}"
        )
    };
    assert_eq!(
        said(&old, &new, &mut model),
        [server(2, ""), server(1, ""), server(1, ", QUIC server ID 0b"), server(2, ", QUIC server ID 0a"),]
    );
    assert_eq!(said(&new, &new, &mut model), [""; 0]);
    let spec = ServerSpec {
        quic_server_ids: vec!["0c".to_owned()],
        ..ServerSpec::new(new.services[0].servers[0].address)
    };
    by_hand(
        &mut model,
        Command::EditServer { service: "udp/192.0.2.1:443".parse().expect("valid"), server: spec },
    );
    let newer = file(&other_key, ["0b", "0a"]);
    assert_eq!(
        said(&new, &newer, &mut model),
        ["virtual service udp/192.0.2.1:443: scheduler is wlc, QUIC-LB configuration 1"]
    );
    let service = model.find(&"udp/192.0.2.1:443".parse().expect("valid")).expect("there");
    let ids: Vec<_> = service
        .servers
        .iter()
        .map(|server| model::server_spec(service, server).quic_server_ids.concat())
        .collect();
    assert_eq!(ids, ["0a", "0c"]);
}

#[test]
fn what_was_deleted_by_hand_comes_back_when_the_file_changes_it() {
    let old = service(r#"{ address = "10.0.0.1" }"#);
    let mut model = started(&old);
    by_hand(&mut model, Command::DeleteService { service: address() });
    let new = service(r#"{ address = "10.0.0.1", weight = 2 }"#);
    assert_eq!(
        said(&old, &new, &mut model),
        [
            "virtual service tcp/192.0.2.1:80 added, scheduler rr",
            "real server 10.0.0.1:80 of tcp/192.0.2.1:80 added, forward masq, weight 2",
        ]
    );
}

#[test]
fn a_changed_timeout_leaves_the_others_as_they_are() {
    let old = config("[timeouts]\ntcp = 100\nudp = 10\n");
    let mut model = started(&old);
    by_hand(&mut model, Command::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 0, udp: 77 }));
    assert_eq!(
        said(&old, &config("[timeouts]\ntcp = 200\nudp = 10\n"), &mut model),
        ["timeouts: tcp is 200 s"]
    );
    assert_eq!(model.timeouts(), Timeouts { tcp: 200, tcp_fin: 120, udp: 77 });
}

#[test]
fn what_needs_a_restart_is_named_with_both_values() {
    let old = config("mtu = 1500\naddresses = [\"192.0.2.1/24\", \"192.0.2.2/24\"]\n");
    let text = HEAD.replace("[1]", "[1, 2]").replace("net_null0", "net_null1");
    let new =
        Config::parse(&format!("{text}addresses = [\"192.0.2.2/24\", \"192.0.2.3/24\"]\n")).expect("valid");
    let reload = Reload::between(&old, &new, &started(&old));
    assert_eq!(
        reload.restart,
        [
            "dataplane.workers: [1] is in use, the file says [1, 2]",
            "port wan: device: \"net_null0\" is in use, the file says \"net_null1\"",
        ]
    );
    let words = text.replace("workers", "idle = \"pause\"\nflow_memory = \"/dev/shm/x\"\nworkers")
        + "[api]\nhttp = \"127.0.0.1:9477\"\n";
    let restart = Reload::between(&old, &Config::parse(&words).expect("valid"), &started(&old)).restart;
    for line in [
        "dataplane.flow_memory: \"named after api.socket\" is in use, the file says \"/dev/shm/x\"",
        "dataplane.idle: \"auto\" is in use, the file says \"pause\"",
        "api.http: \"none\" is in use, the file says \"127.0.0.1:9477\"",
    ] {
        assert!(restart.iter().any(|said| said == line), "{restart:?}");
    }
    let changes: Vec<_> = reload.addresses.iter().map(|c| (c.address.to_string(), c.is_added)).collect();
    assert_eq!(changes, [("192.0.2.1/24".to_owned(), false), ("192.0.2.3/24".to_owned(), true)]);
    assert!(reload.commands.is_empty());
}
