//! Each thing that can be wrong with a config file, and the exact line that says so.

use lb_core::ipvs::SchedulerKind;
use lb_core::tables::{
    ConnLimits, ConnRate, Forward, GueChecksum, Helper, MarkRule, Prefix, Protocol, ServiceKey, SynCookies,
    Tunnel,
};

use super::*;

const GOOD: &str = r#"
[dataplane]
workers = [1]

[[port]]
name = "wan"
device = "net_af_xdp0,iface=veth0"
"#;

/// The messages for `GOOD` with `more` behind it; `GOOD` has 8 lines, so `more` starts in line 8.
fn errors_with(more: &str) -> Vec<String> {
    let text = format!("{GOOD}{more}");
    Config::parse(&text).expect_err("an invalid config").iter().map(ToString::to_string).collect()
}

fn errors_of(text: &str) -> Vec<String> {
    Config::parse(text).expect_err("an invalid config").iter().map(ToString::to_string).collect()
}

#[test]
fn the_documented_example_is_read_as_written() {
    let config = Config::parse(
        r#"
        [dataplane]
        workers = [1, 3]
        driver_args = ["--no-pci"]
        memory_mb = 256
        huge_pages = false
        flow_memory = "/dev/hugepages/lb"
        max_connections = 2000
        max_ipv6_connections = 1000
        max_servers = 100
        idle = "sleep"
        forwarding = false
        drain_secs = 60

        [[port]]
        name = "wan"
        device = "net_af_xdp0,iface=veth0"
        addresses = ["192.0.2.1/24", "2001:db8::1/64"]
        outside = true
        mtu = 9000

        [api]
        socket = "/tmp/lb.sock"
        http = "127.0.0.1:9477"

        [timeouts]
        tcp = 10
        tcp_fin = 20
        udp = 30

        [[virtual_service]]
        address = "192.0.2.10:80"
        protocol = "udp"
        scheduler = "wrr"
        real_servers = [
          { address = "10.0.0.11:8080", weight = 5, forward = "masq", upper_threshold = 9, lower_threshold = 3 },
          { address = "10.0.0.12" },
        ]
        "#,
    )
    .expect("valid");
    assert_eq!(
        config.dataplane,
        Dataplane {
            workers: vec![1, 3],
            driver_args: vec!["--no-pci".into()],
            memory_mb: 256,
            huge_pages: false,
            flow_memory: FlowMemory::File("/dev/hugepages/lb".into()),
            max_connections: 2000,
            max_ipv6_connections: 1000,
            max_servers: 100,
            idle: Idle::Sleep,
            forwarding: false,
            drain_secs: 60,
        }
    );
    let port = &config.ports[0];
    assert_eq!((port.name.as_str(), port.outside, port.mtu), ("wan", true, 9000));
    assert_eq!(port.addresses[1], PortAddress { address: "2001:db8::1".parse().unwrap(), len: 64 });
    assert_eq!(config.api.http, Some("127.0.0.1:9477".parse().unwrap()));
    assert_eq!(config.api.socket, PathBuf::from("/tmp/lb.sock"));
    let settings = config.settings();
    assert_eq!((settings.tcp.as_secs(), settings.tcp_fin.as_secs(), settings.udp.as_secs()), (10, 20, 30));
    assert!(!settings.forwarding);
    let service = &config.services[0];
    assert_eq!((service.key.protocol, service.key.port), (Protocol::UDP, 80));
    assert_eq!(service.scheduler, SchedulerKind::Wrr.into());
    let first = &service.servers[0];
    assert_eq!((first.weight, first.upper_threshold, first.lower_threshold), (5, 9, 3));
    assert_eq!(service.servers[1].address, "10.0.0.12:80".parse().unwrap(), "the service's port");
    assert_eq!(service.servers[1].weight, 1);
}

#[test]
fn what_is_absent_has_its_documented_default() {
    let config = Config::parse(GOOD).expect("valid");
    let d = &config.dataplane;
    assert_eq!((d.memory_mb, d.huge_pages, d.max_connections, d.idle), (512, true, 1_000_000, Idle::Auto));
    assert_eq!(
        (d.max_ipv6_connections, d.max_servers, d.forwarding, d.drain_secs),
        (1_000_000, 65_536, true, 0)
    );
    assert_eq!(config.api, Api { socket: "/run/lb/api.sock".into(), http: None });
    assert_eq!(config.timeouts, Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
    assert_eq!((config.ports[0].mtu, config.ports[0].outside), (1500, false));
    assert!(config.services.is_empty());
}

#[test]
fn an_unknown_key_names_the_nearest_and_the_allowed_ones() {
    assert_eq!(
        errors_with("[timeouts]\ntcpfin = 3\n"),
        ["line 9: timeouts: tcpfin: unknown key (did you mean tcp_fin?); allowed: tcp, tcp_fin, udp"]
    );
    assert_eq!(
        errors_with("[apj]\nsocket = 3\n"),
        [
            "line 8: apj: unknown key (did you mean api?); allowed: dataplane, port, api, timeouts, sysctl, sync, nflog, virtual_service, mark"
        ]
    );
    assert_eq!(
        errors_with(
            "[[virtual_service]]\naddress = \"192.0.2.10:80\"\nreal_servers = [\n{ adress = \"10.0.0.1:1\" }]\n"
        ),
        [
            "line 11: virtual_service 192.0.2.10:80: real server number 1: address: missing; \
             required: \"address:port\" or \"address\": the service's port; unicast",
            "line 11: virtual_service 192.0.2.10:80: real server number 1: adress: unknown key (did you mean address?); \
             allowed: address, weight, forward, tunnel, tunnel_port, tunnel_checksum, upper_threshold, lower_threshold, quic_server_ids",
        ]
    );
}

#[test]
fn every_error_is_reported_at_once_in_the_order_of_lines() {
    assert_eq!(
        errors_of(
            "[dataplane]\nworkers = [1, 1, 5000]\nmemory_mb = 7\nhuge_pages = \"yes\"\nidle = \"sleeep\"\nmax_connections = 1_000.5\n"
        ),
        [
            "line 1: port: missing; required: a table [[port]] with name and device for each port",
            "line 2: dataplane: workers: CPU 1 stands twice",
            "line 2: dataplane: workers: 5000 is outside 0..=1023",
            "line 3: dataplane: memory_mb: 7 is outside 64..=1048576",
            "line 4: dataplane: huge_pages: expected true or false, found a string: \"yes\"",
            "line 5: dataplane: idle: \"sleeep\" is unknown (did you mean \"sleep\"?); allowed: \"auto\", \"poll\", \"pause\", \"sleep\", \"interrupt\"",
            "line 6: dataplane: max_connections: expected an integer in 1024..=268435456, found a float: 1_000.5",
        ]
    );
}

#[test]
fn a_weight_out_of_range_names_the_server_as_typed() {
    assert_eq!(
        errors_with(
            "[[virtual_service]]\naddress = \"192.0.2.10:80\"\nreal_servers = [\n  { address = \"10.0.1.9:8080\", weight = 70000 },\n]\n"
        ),
        [
            "line 11: virtual_service 192.0.2.10:80: real server 10.0.1.9:8080: weight: 70000 is outside 0..=65535"
        ]
    );
}

#[test]
fn methods_and_tunnels_are_read() {
    let text = r#"[[virtual_service]]
address = "192.0.2.10:80"
real_servers = [
  { address = "10.0.0.11:8080" },
  { address = "10.0.0.12", forward = "direct" },
  { address = "2001:db8::13", forward = "tunnel" },
  { address = "10.0.0.14:80", forward = "tunnel", tunnel = "gue", tunnel_port = 6080, tunnel_checksum = "remote" },
  { address = "10.0.0.15", forward = "tunnel", tunnel = "gre", tunnel_checksum = "checksum" },
  { address = "10.0.0.16:8080", forward = "fullnat" },
  { address = "[2001:db8::17]:8080", forward = "fullnat" },
]
local_addresses = ["10.0.0.2", "2001:db8::2"]
"#;
    let config = Config::parse(&format!("{GOOD}{text}")).expect("a valid config");
    let methods: Vec<_> = config.services[0].servers.iter().map(|server| server.forward).collect();
    let gue = Tunnel::Gue { port: 6080, checksum: GueChecksum::Remote };
    let [ipip, gue, gre] = [Tunnel::Ipip, gue, Tunnel::Gre { checksum: true }].map(Forward::Tunnel);
    assert_eq!(methods, [Forward::Masq, Forward::Direct, ipip, gue, gre, Forward::FullNat, Forward::FullNat]);
    let local = ["10.0.0.2", "2001:db8::2"].map(|address| address.parse::<IpAddr>().expect("an address"));
    assert_eq!(config.services[0].local_addresses, local);
}

#[test]
fn methods_and_tunnels_that_do_not_go_together_are_refused() {
    assert_eq!(
        errors_with(
            r#"[[virtual_service]]
address = "192.0.2.10:80"
real_servers = [
  { address = "10.0.0.11:8080", forward = "direct" },
  { address = "10.0.0.12", tunnel = "gre" },
  { address = "10.0.0.13", forward = "tunnel", tunnel = "gue" },
  { address = "10.0.0.14", forward = "tunnel", tunnel_port = 6080 },
  { address = "10.0.0.15", forward = "tunnel", tunnel = "gre", tunnel_checksum = "remote" },
]
"#
        ),
        [
            "line 11: virtual_service 192.0.2.10:80: real server 10.0.0.11:8080: address: 10.0.0.11:8080 does not have its service's \
             port 80, which only masquerading and FullNAT change",
            "line 12: virtual_service 192.0.2.10:80: real server 10.0.0.12: tunnel: goes with forward = \"tunnel\" alone",
            "line 13: virtual_service 192.0.2.10:80: real server 10.0.0.13: tunnel: \"gue\" needs a tunnel_port",
            "line 14: virtual_service 192.0.2.10:80: real server 10.0.0.14: tunnel_port: goes with tunnel = \"gue\" alone",
            "line 15: virtual_service 192.0.2.10:80: real server 10.0.0.15: tunnel_checksum: \"remote\" goes with tunnel = \"gue\" alone",
        ]
    );
}

#[test]
fn flags_of_other_schedulers_and_local_addresses_that_cannot_be_are_refused() {
    assert_eq!(
        errors_with(
            r#"[[virtual_service]]
address = "192.0.2.10:80"
protocol = "udp"
scheduler_flags = ["sh-port", "flag-1"]
one_packet = true
local_addresses = ["10.0.0.2", "10.0.0.2", "fd00::2", "224.0.0.1", "::1", "ten"]
real_servers = [{ address = "10.0.0.11:8080", forward = "fullnat" }]
"#
        ),
        [
            "line 11: virtual_service 192.0.2.10:80: scheduler_flags: \"sh-port\" is no flag of scheduler wlc",
            "line 12: virtual_service 192.0.2.10:80: one_packet: does not go with forward = \"fullnat\" of real server \
             10.0.0.11:8080",
            "line 13: virtual_service 192.0.2.10:80: local_addresses: 10.0.0.2 stands twice",
            "line 13: virtual_service 192.0.2.10:80: local_addresses: 224.0.0.1 is not unicast",
            "line 13: virtual_service 192.0.2.10:80: local_addresses: ::1 is not unicast",
            "line 13: virtual_service 192.0.2.10:80: local_addresses: \"ten\" is no address",
        ]
    );
}

#[test]
fn persistence_has_a_time_and_a_mask_and_one_packet_is_for_udp() {
    assert_eq!(
        errors_with(
            r#"[[virtual_service]]
address = "192.0.2.10:0"
persistence = 0
real_servers = [{ address = "10.0.0.11" }, { address = "10.0.0.12:8080" }]
[[virtual_service]]
address = "192.0.2.10:80"
persistence = 300
persistence_mask = "24"
real_servers = [{ address = "10.0.0.11:0" }]
[[virtual_service]]
address = "[2001:db8::10]:80"
persistence_mask = "64"
[[virtual_service]]
address = "192.0.2.11:80"
one_packet = true
"#
        ),
        [
            "line 10: virtual_service 192.0.2.10:0: persistence: 0 is outside 1..=2678400",
            "line 15: virtual_service 192.0.2.10:80: persistence_mask: \"24\" is not a mask such as \"255.255.255.0\"",
            "line 16: virtual_service 192.0.2.10:80: real server 10.0.0.11:0: address: \"10.0.0.11:0\" is no address, alone or with port, such as \"10.0.0.11\", \"10.0.0.11:8080\" or \"[2001:db8::11]:8080\"",
            "line 19: virtual_service [2001:db8::10]:80: persistence_mask: there is no persistence",
            "line 22: virtual_service 192.0.2.11:80: one_packet: is for protocol \"udp\" and for `fwmark`",
        ]
    );
}

#[test]
fn what_there_is_no_room_for_is_named_with_the_key_and_the_line() {
    let servers = |count: u32| {
        let list: Vec<_> = (1..=count).map(|n| format!("  {{ address = \"10.0.1.{n}\" }},\n")).collect();
        format!("real_servers = [\n{}]\n", list.concat())
    };
    let text = |first, second| {
        let service = |host, servers: String| {
            format!("[[virtual_service]]\naddress = \"192.0.2.{host}:80\"\n{servers}")
        };
        let good = GOOD.replace("[dataplane]", "[dataplane]\nmax_servers = 16");
        good + &service(1, servers(first)) + &service(2, servers(second))
    };
    assert!(Config::parse(&text(9, 7)).is_ok());
    let errors = errors_of(&text(9, 9));
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].ends_with(
            ": virtual_service 192.0.2.2:80: real_servers: there is room for 16 real servers of all services (dataplane.max_servers)"
        ),
        "{errors:?}"
    );
    let lines = text(9, 9).lines().position(|line| line.contains("192.0.2.2:80")).expect("it is there");
    assert!(errors[0].starts_with(&format!("line {}: ", lines + 1 + 1 + 8)), "{errors:?}");
    let services: String =
        (1..=17).map(|n| format!("[[virtual_service]]\naddress = \"192.0.2.{n}:80\"\n")).collect();
    let errors = errors_of(&(GOOD.replace("[dataplane]", "[dataplane]\nmax_servers = 16") + &services));
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("192.0.2.17:80: address: there is room for 16 virtual services"),
        "{errors:?}"
    );
}

#[test]
fn an_ipv6_real_server_may_stand_in_brackets_with_or_without_port() {
    let text = r#"[[virtual_service]]
address = "[2001:db8::10]:80"
real_servers = [{ address = "[2001:db8::1]" }, { address = "2001:db8::2" }, { address = "[2001:db8::3]:80" }]
"#;
    let config = Config::parse(&format!("{GOOD}{text}")).expect("valid");
    let servers: Vec<_> =
        config.services[0].servers.iter().map(|server| server.address.to_string()).collect();
    assert_eq!(servers, ["[2001:db8::1]:80", "[2001:db8::2]:80", "[2001:db8::3]:80"]);
    for wrong in ["[10.0.0.1]", "[2001:db8::1", "[]"] {
        let errors = errors_with(&text.replace("[2001:db8::1]", wrong));
        assert!(errors[0].contains("is no address, alone or with port"), "{errors:?}");
    }
}

#[test]
fn an_address_of_a_port_is_a_unicast_one() {
    for (wrong, address) in [
        ("0.0.0.0/0", "0.0.0.0"),
        ("0.0.0.0/32", "0.0.0.0"),
        ("224.0.0.5/32", "224.0.0.5"),
        ("::/64", "::"),
        ("ff02::5/128", "ff02::5"),
    ] {
        let port = format!("[[port]]\nname = \"side\"\ndevice = \"net_null7\"\naddresses = [\"{wrong}\"]\n");
        let errors = errors_with(&port);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let end = format!(": port side: addresses: {address} is no unicast address");
        assert!(errors[0].ends_with(&end), "{errors:?}");
    }
}

#[test]
fn duplicates_are_refused() {
    assert_eq!(
        errors_with(
            r#"[[port]]
name = "wan"
device = "net_af_xdp0,iface=veth0"
[[virtual_service]]
address = "192.0.2.10:80"
real_servers = [{ address = "10.0.0.11" }, { address = "10.0.0.11:80" }]
[[virtual_service]]
address = "192.0.2.10:80"
[[virtual_service]]
address = "192.0.2.10:80"
protocol = "udp"
"#
        ),
        [
            "line 9: port wan: name: \"wan\" stands twice",
            "line 10: port wan: device: \"net_af_xdp0,iface=veth0\" is taken by port wan",
            "line 13: virtual_service 192.0.2.10:80: real server 10.0.0.11:80: address: 10.0.0.11:80 stands twice in this service",
            "line 15: virtual_service 192.0.2.10:80: address: 192.0.2.10:80 stands twice: also in line 12",
        ]
    );
}

#[test]
fn addresses_that_cannot_be_are_refused_with_an_example() {
    assert_eq!(
        errors_with(
            r#"[[port]]
name = "a/b"
device = ""
addresses = ["192.0.2.1", "192.0.2.1/33"]
[api]
socket = "lb.sock"
http = "9477"
[[virtual_service]]
address = "192.0.2.10"
[[virtual_service]]
address = "192.0.2.10:0"
[[virtual_service]]
address = "[2001:db8::10]:53"
real_servers = [{ address = "10.0.0.11:53" }, { address = "10.0.0.300" }]
"#
        ),
        [
            "line 9: port a/b: name: \"a/b\" is no name of a Linux interface: 1 to 15 characters of A-Z a-z 0-9 _ . -",
            "line 10: port a/b: device: \"\" is no PCI address or DPDK vdev",
            "line 11: port a/b: addresses: \"192.0.2.1\" is no address with prefix length, such as \"192.0.2.1/24\" or \"2001:db8::1/64\"",
            "line 11: port a/b: addresses: \"192.0.2.1/33\" is no address with prefix length, such as \"192.0.2.1/24\" or \"2001:db8::1/64\"",
            "line 13: api: socket: \"lb.sock\" is no absolute path of at most 107 bytes",
            "line 14: api: http: \"9477\" is no address with port, such as \"127.0.0.1:9477\" or \"[::1]:9477\"",
            "line 16: virtual_service 192.0.2.10: address: \"192.0.2.10\" is no address with port, such as \"192.0.2.10:80\" or \"[2001:db8::10]:80\", and no prefix with one, such as \"192.0.2.0/24:80\"",
            "line 18: virtual_service 192.0.2.10:0: address: port 0 (every port) needs persistence",
            "line 21: virtual_service [2001:db8::10]:53: real server 10.0.0.11:53: address: 10.0.0.11:53 is not IPv6 as its service is: only a tunnel or FullNAT leads there",
            "line 21: virtual_service [2001:db8::10]:53: real server 10.0.0.300: address: \"10.0.0.300\" is no address, alone or with port, such as \"10.0.0.11\", \"10.0.0.11:8080\" or \"[2001:db8::11]:8080\"",
        ]
    );
}

#[test]
fn a_lower_threshold_above_the_upper_one_is_refused() {
    assert_eq!(
        errors_with(
            "[[virtual_service]]\naddress = \"192.0.2.10:80\"\nreal_servers = [{ address = \"10.0.0.1\", upper_threshold = 5, lower_threshold = 6 }]\n"
        ),
        ["line 10: virtual_service 192.0.2.10:80: real server 10.0.0.1: lower_threshold: 6 is outside 0..=5"]
    );
}

#[test]
fn a_table_of_the_wrong_kind_is_refused() {
    assert_eq!(
        errors_of("dataplane = 3\n[port]\nname = \"wan\"\n"),
        [
            "line 1: dataplane: expected a table, found an integer",
            "line 2: port: expected a list of tables: [[port]]",
        ]
    );
    assert_eq!(
        errors_of("[dataplane]\nworkers = []\n[[port]]\n"),
        [
            "line 2: dataplane: workers: 0 workers are outside 1..=64",
            "line 3: port number 1: name: missing; required: 1 to 15 characters of A-Z a-z 0-9 _ . -",
            "line 3: port number 1: device: missing; required: DPDK's",
        ]
    );
}

#[test]
fn broken_syntax_is_reported_with_its_line() {
    let errors = errors_with("[timeouts]\ntcp = \nudp = 4\n");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("line 9: "), "{errors:?}");
    assert!(Config::parse("\u{0}\u{1}[[[").is_err());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/nowhere/lb.toml")).expect_err("no such file");
    assert_eq!(error.to_string(), "/nowhere/lb.toml: No such file or directory (os error 2)");
}

#[test]
fn errors_of_a_file_start_with_its_name_and_line() {
    let file = std::env::temp_dir().join(format!("lb-config-{}.toml", std::process::id()));
    std::fs::write(&file, "[dataplane]\nworkers = [1]\nmemory_mb = 1\n").expect("writable");
    let error = Config::load(&file).expect_err("invalid").to_string();
    std::fs::remove_file(&file).expect("removable");
    let name = file.display();
    assert_eq!(
        error,
        format!(
            "{name}:1: port: missing; required: a table [[port]] with name and device for each port\n\
             {name}:3: dataplane: memory_mb: 1 is outside 64..=1048576"
        )
    );
}

#[test]
fn every_example_config_is_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect(folder) {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            if let Err(error) = Config::load(&path) {
                panic!("{error}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 4, "examples are missing in {folder}: found {seen}");
}

#[test]
fn a_value_with_control_characters_is_quoted_in_one_line() {
    assert_eq!(
        errors_with("[api]\nsocket = \"a\\nb\\u001b[2J\"\n"),
        ["line 9: api: socket: \"a\\nb\\u{1b}[2J\" is no absolute path of at most 107 bytes"]
    );
}

#[test]
fn a_zone_is_refused_not_dropped() {
    let service = "[[virtual_service]]\naddress = \"[fe80::1%3]:80\"\n";
    assert_eq!(
        errors_with(service),
        [
            "line 9: virtual_service [fe80::1%3]:80: address: \"[fe80::1%3]:80\" has a zone, which is not built yet"
        ]
    );
    let server = "[[virtual_service]]\naddress = \"[2001:db8::1]:80\"\nreal_servers = [{ address = \"[fe80::1%3]:80\" }]\n";
    let errors = errors_with(server);
    assert!(errors[1].ends_with(
        "address: [fe80::1%3]:80 has a zone: it cannot be told from the same one on another link"
    ));
}

#[test]
fn a_real_server_that_commands_may_not_add_is_refused_with_its_line() {
    for address in ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::ffff:10.0.0.1", "fe80::1"] {
        let (service, at) = if address.contains(':') {
            ("[2001:db8::10]", format!("[{address}]"))
        } else {
            ("192.0.2.10", address.into())
        };
        let text = format!(
            "[[virtual_service]]\naddress = \"{service}:80\"\nreal_servers = [{{ address = \"{at}:80\" }}]\n"
        );
        let what = format!(
            "line 10: virtual_service {service}:80: real server {at}:80: address: {at}:80 is not unicast"
        );
        assert_eq!(errors_with(&text), [what]);
    }
}

#[test]
fn a_service_by_mark_takes_what_the_rules_for_marks_say() {
    let text = format!(
        "{GOOD}{}",
        r#"[[virtual_service]]
fwmark = 4294967295
persistence = 60
real_servers = [{ address = "10.0.0.11" }, { address = "10.0.0.12:8080", forward = "direct" }]
[[virtual_service]]
fwmark = 7
family = "ipv6"
one_packet = true
real_servers = [{ address = "fd00::11" }]
[[mark]]
mark = 4294967295
protocol = "tcp"
source = "198.51.100.0/24"
destination = "192.0.2.10"
destination_ports = "8000-8999"
[[mark]]
mark = 7
destination_ports = "443"
"#
    );
    let config = Config::parse(&text).expect("a valid config");
    assert_eq!(config.services[0].key, ServiceKey::of_mark(u32::MAX, false));
    assert_eq!(config.services[1].key, ServiceKey::of_mark(7, true));
    assert_eq!(config.services[0].servers[0].address, "10.0.0.11:0".parse().unwrap());
    let prefix = |address: &str, len| Some(Prefix { address: address.parse().unwrap(), len });
    assert_eq!(
        config.marks.0,
        [
            MarkRule {
                mark: u32::MAX,
                protocol: Some(Protocol::TCP),
                source: prefix("198.51.100.0", 24),
                destination: prefix("192.0.2.10", 32),
                destination_ports: 8000..=8999,
                source_set: None,
                destination_set: None,
            },
            MarkRule {
                mark: 7,
                protocol: None,
                source: None,
                destination: None,
                destination_ports: 443..=443,
                source_set: None,
                destination_set: None,
            },
        ]
    );
}

#[test]
fn a_service_may_be_for_a_prefix() {
    let text = format!(
        "{}{}",
        include_str!("../../../configs/minimal.toml").split("[[virtual_service]]").next().unwrap(),
        r#"[[virtual_service]]
address = "192.0.2.0/24:80"
[[virtual_service]]
address = "[2001:db8::/64]:0"
persistence = 60
[[virtual_service]]
address = "0.0.0.0/0:53"
"#
    );
    let config = Config::parse(&text).expect("a valid config");
    let keys: Vec<_> = config
        .services
        .iter()
        .map(|service| (service.key.address, service.key.prefix_len, service.key.port))
        .collect();
    let ip = |text: &str| -> std::net::IpAddr { text.parse().unwrap() };
    assert_eq!(keys, [(ip("192.0.2.0"), 24, 80), (ip("2001:db8::"), 64, 0), (ip("0.0.0.0"), 0, 53)]);
    assert_eq!(
        errors_with(
            r#"[[virtual_service]]
address = "192.0.2.1/24:80"
[[virtual_service]]
address = "192.0.2.0/24:80"
[[virtual_service]]
address = "192.0.2.0/24:80"
[[virtual_service]]
address = "192.0.2.0/24:0"
[[virtual_service]]
address = "224.0.0.0/4:80"
"#
        ),
        [
            "line 9: virtual_service 192.0.2.1/24:80: address: \"192.0.2.1/24:80\" has bits behind the prefix: 192.0.2.0/24:80 is one without",
            "line 13: virtual_service 192.0.2.0/24:80: address: 192.0.2.0/24:80 stands twice: also in line 11",
            "line 15: virtual_service 192.0.2.0/24:0: address: port 0 (every port) needs persistence",
            "line 17: virtual_service 224.0.0.0/4:80: address: 224.0.0.0 is no unicast address",
        ]
    );
}

#[test]
fn what_is_wrong_with_marks_is_named() {
    assert_eq!(
        errors_with(
            r#"[[virtual_service]]
fwmark = 0
[[virtual_service]]
fwmark = 7
address = "192.0.2.10:80"
[[virtual_service]]
fwmark = 7
real_servers = [{ address = "fd00::11" }]
[[virtual_service]]
address = "192.0.2.10:80"
family = "ipv6"
[[mark]]
source = "192.0.2.0/33"
destination_ports = "90-80"
[[mark]]
mark = 8
source = "192.0.2.1"
destination = "2001:db8::/32"
"#
        ),
        [
            "line 9: virtual_service fwmark 0: fwmark: 0 is outside 1..=4294967295",
            "line 12: virtual_service 192.0.2.10:80: address: does not go with `fwmark`",
            "line 14: virtual_service fwmark 7: fwmark: 7 stands twice: also in line 11",
            "line 15: virtual_service fwmark 7: real server fd00::11: address: [fd00::11]:0 is not IPv4 as its service is: only a tunnel or FullNAT leads there",
            "line 18: virtual_service 192.0.2.10:80: family: goes with `fwmark` alone",
            "line 19: mark number 1: mark: missing; required: 1..=4294967295",
            "line 20: mark number 1: source: \"192.0.2.0/33\" is no prefix, such as \"192.0.2.0/24\" or \"2001:db8::/64\"",
            "line 21: mark number 1: destination_ports: \"90-80\" is no port or range of ports, such as \"80\" or \"8000-8999\"",
            "line 24: mark number 2: source: is of another address family than destination",
        ]
    );
}

#[test]
fn a_service_says_when_it_answers_with_syn_cookies() {
    let text = |more: &str, server: &str| {
        format!(
            "[[virtual_service]]\naddress = \"192.0.2.1:80\"\n{more}\nreal_servers = [{{ address = {server} }}]\n"
        )
    };
    for (more, when) in [
        ("", SynCookies::Off),
        ("syn_cookies = \"off\"", SynCookies::Off),
        ("syn_cookies = \"on\"", SynCookies::On),
        ("syn_cookies = \"auto\"", SynCookies::Auto(1000)),
        ("syn_cookies = \"auto:20\"", SynCookies::Auto(20)),
    ] {
        let config = Config::parse(&format!("{GOOD}{}", text(more, "\"10.0.0.1\""))).expect("valid");
        assert_eq!(config.services[0].options.syn_cookies, when, "{more}");
    }
    let at = "virtual_service 192.0.2.1:80: syn_cookies";
    for (more, server, expected) in [
        ("syn_cookies = \"yes\"", "\"10.0.0.1\"", "\"yes\" is none of off, on, auto, auto:SYNS_A_SECOND"),
        (
            "syn_cookies = \"on\"\nprotocol = \"udp\"",
            "\"10.0.0.1\"",
            "is for protocol \"tcp\" and for `fwmark`",
        ),
        (
            "syn_cookies = \"on\"",
            "\"10.0.0.1\", forward = \"direct\"",
            "is for masqueraded real servers, which 10.0.0.1:80 is not",
        ),
        (
            "syn_cookies = \"on\"",
            "\"[fd00::1]:80\", forward = \"fullnat\"",
            "is for real servers of the service's address family, which [fd00::1]:80 is not",
        ),
    ] {
        assert_eq!(errors_with(&text(more, server)), [format!("line 10: {at}: {expected}")]);
    }
}

#[test]
fn ftp_is_for_real_servers_of_both_address_families() {
    let text = "[[virtual_service]]\naddress = \"192.0.2.1:21\"\nhelper = \"ftp\"\nreal_servers = \
        [{ address = \"[fd00::1]:21\", forward = \"fullnat\" }]\n";
    let config = Config::parse(&format!("{GOOD}{text}")).expect("valid");
    assert_eq!(config.services[0].options.helper, Some(Helper::Ftp));
}

#[test]
fn a_service_says_how_many_connections_it_may_have() {
    let text = |more: &str| {
        format!(
            "[[virtual_service]]\naddress = \"192.0.2.1:80\"\n{more}\nreal_servers = [{{ address = \"10.0.0.1\" }}]\n"
        )
    };
    let rate = |per_second, burst| Some(ConnRate { per_second, burst });
    for (more, limits) in [
        ("", ConnLimits::NONE),
        ("conn_limit = 0", ConnLimits::NONE),
        ("conn_limit = 500", ConnLimits { connections: 500, ..ConnLimits::NONE }),
        ("conn_rate = \"20\"", ConnLimits { rate: rate(20, 20), ..ConnLimits::NONE }),
        (
            "source_conn_limit = 9\nsource_conn_rate = \"20:5\"\nsource_prefix = 24",
            ConnLimits {
                source_connections: 9,
                source_rate: rate(20, 5),
                source_prefix: Some(24),
                ..ConnLimits::NONE
            },
        ),
    ] {
        let config = Config::parse(&format!("{GOOD}{}", text(more))).expect("valid");
        assert_eq!(config.services[0].options.limits, limits, "{more}");
    }
    for (more, expected) in [
        ("conn_rate = \"20/s\"", "conn_rate: \"20/s\" is none of RATE, RATE:BURST, in 1..=10000000 each"),
        ("source_prefix = 24", "source_prefix: is for source_conn_limit and source_conn_rate"),
        ("conn_limit = 16000001", "conn_limit: 16000001 is outside 0..=16000000"),
    ] {
        let at = "virtual_service 192.0.2.1:80";
        assert_eq!(errors_with(&text(more)), [format!("line 10: {at}: {expected}")]);
    }
}

const QUIC: &str = r#"
[[virtual_service]]
address = "192.0.2.1:443"
protocol = "udp"
quic_lb = [
  { config_id = 0, server_id_length = 2, nonce_length = 6, key = "8f95f09245765f80256934e50c66207f" },
  { config_id = 6, server_id_length = 3, nonce_length = 16 },
]
real_servers = [
  { address = "10.0.0.1", quic_server_ids = ["0a1b", "0a1b2c"] },
  { address = "10.0.0.2", quic_server_ids = ["0A1C"] },
]
"#;

#[test]
fn quic_connection_ids_have_configurations_and_real_servers_ids() {
    let config = Config::parse(&format!("{GOOD}{QUIC}")).expect("valid");
    let service = &config.services[0];
    let read: Vec<_> = service
        .quic_lb
        .iter()
        .map(|config| (config.id(), config.id_len(), config.nonce_len(), config.key().is_some()))
        .collect();
    assert_eq!(read, [(0, 2, 6, true), (6, 3, 16, false)]);
    let ids = service.servers.iter().map(|server| format!("{:?}", server.quic_server_ids));
    assert_eq!(ids.collect::<Vec<_>>(), ["[0a1b, 0a1b2c]", "[0a1c]"]);
}

#[test]
fn what_is_wrong_with_quic_connection_ids_is_named_and_keys_are_not_shown() {
    let service = "virtual_service 192.0.2.1:443";
    for (right, wrong, line, expected) in [
        ("config_id = 6", "config_id = 7", 14, "quic_lb number 2: config_id: 7 is outside 0..=6"),
        ("config_id = 6, ", "", 14, "quic_lb number 2: config_id: missing; required: 0..=6, each once"),
        ("config_id = 6", "config_id = 0", 12, "quic_lb: config_id 0 stands twice"),
        ("nonce_length = 16", "nonce_length = 3", 14, "quic_lb number 2: nonce_length: 3 is outside 4..=18"),
        (
            "nonce_length = 16",
            "nonce_length = 17",
            14,
            "quic_lb number 2: nonce_length: server_id_length and nonce_length are 20 bytes together, more than 19",
        ),
        ("207f\"", "20\"", 13, "quic_lb number 1: key: is no string of 32 hexadecimal digits"),
        (
            "\"8f95f09245765f80256934e50c66207f\"",
            "8",
            13,
            "quic_lb number 1: key: is no string of 32 hexadecimal digits",
        ),
        ("\"udp\"", "\"tcp\"", 12, "quic_lb: is for protocol \"udp\" and for `fwmark`"),
        (
            "0A1C",
            "0a1b",
            18,
            "real server 10.0.0.2: quic_server_ids: 0a1b stands twice: real server 10.0.0.1 has it",
        ),
        (
            "0A1C",
            "0a",
            18,
            "real server 10.0.0.2: quic_server_ids: 0a is 1 bytes long: quic_lb has server_id_length 2, 3",
        ),
        (
            "0A1C",
            "x",
            18,
            "real server 10.0.0.2: quic_server_ids: \"x\" is not 1 to 15 bytes of two hexadecimal digits each",
        ),
    ] {
        assert!(QUIC.contains(right), "{right}");
        let errors = errors_with(&QUIC.replacen(right, wrong, 1));
        assert_eq!(errors, [format!("line {line}: {service}: {expected}")], "{wrong}");
        assert!(!errors[0].contains("8f95"));
    }
}
