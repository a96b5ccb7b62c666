//! Goal: the `lbctl` binary does what its help says, by each of its names, against the daemon's API and without one.
//!
//! Method: the daemon's control plane serves its API on a socket; the binary is run as an operator runs it, and exit code,
//! standard output and standard error are looked at.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lb_control::api::types::FingerprintView;
use lb_control::cli::client::Client;
use lb_core::flow::Method;
use lb_core::ids::ServerId;
use lb_core::path::{FlowView, Known};
use lb_core::tables::Protocol;
use lb_core::time::Timeout;
use support::Daemon;

const LBCTL: &str = env!("CARGO_BIN_EXE_lbctl");

struct Done {
    code: Option<i32>,
    out: String,
    errors: String,
}

fn run(program: &Path, words: &str, socket: &Path, stdin: &str) -> Done {
    run_words(program, &words.split_whitespace().collect::<Vec<_>>(), socket, stdin)
}

fn run_words(program: &Path, words: &[&str], socket: &Path, stdin: &str) -> Done {
    let mut child = Command::new(program)
        .args(words)
        .env("LB_SOCKET", socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("it reads");
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Done { code: status.code(), out: text(stdout), errors: text(stderr) }
}

/// Runs `lbctl` and expects it to succeed in silence but for its output.
fn lbctl(daemon: &Daemon, words: &str) -> String {
    let done = run(Path::new(LBCTL), words, &daemon.socket(), "");
    assert_eq!((done.code, done.errors.as_str()), (Some(0), ""), "lbctl {words}");
    done.out
}

const TABLE: &str = "\
-A -t 10.0.0.100:80 -s wrr
-a -t 10.0.0.100:80 -r 10.0.0.200:8080 -m -w 5 -x 100 -y 50
-a -t 10.0.0.100:80 -r 10.0.0.201:8080 -m -w 0
-A -u [2001:db8::1]:53 -s rr
-A -u [2001:db8::2]:53 -s rr --laddr 2001:db8::8,2001:db8::9
-a -u [2001:db8::2]:53 -r [fd00::1]:5353 --fullnat -w 1
-A -t 10.0.0.100:81 -s rr --syn-cookies auto:500 --conn-limit 9 --source-conn-limit 3 --conn-rate 5:2 --source-conn-rate 7 --source-prefix 24
-A -u 10.0.0.100:443 -s rr --quic-lb 0:2:6:8f95f09245765f80256934e50c66207f,6:3:4
-a -u 10.0.0.100:443 -r 10.0.0.200:443 -m -w 1 --quic-server-id 0a1b,0a1b2c
";

/// A TCP and a UDP connection.
fn two_connections() -> Vec<FlowView> {
    let at = |last, port| (IpAddr::from([10, 0, 0, last]), port);
    let flow = |protocol, state, seconds, client, server| FlowView {
        is_template: false,
        is_tracked: false,
        known: Known::default(),
        protocol,
        client: at(client, 40_000),
        virtual_: at(100, 80),
        server: at(200, 8080),
        local: None,
        call: None,
        server_id: ServerId(server),
        method: Method::Masq,
        state,
        expires_in: Timeout::from_secs(seconds),
    };
    vec![flow(Protocol::TCP, "ESTABLISHED", 834, 1, 0), flow(Protocol::UDP, "UDP", 300, 2, 3)]
}

fn with_services() -> Daemon {
    let daemon = Daemon::start(two_connections());
    let done = run(Path::new(LBCTL), "ipvsadm -R", &daemon.socket(), TABLE);
    assert_eq!((done.code, done.errors.as_str()), (Some(0), ""));
    daemon
}

#[test]
fn services_are_listed_with_what_they_carry() {
    let daemon = with_services();
    let listing = lbctl(&daemon, "services");
    let lines: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..3], ["tcp/10.0.0.100:80", "wrr", "0"]);
    assert_eq!(lines[2][..3], ["10.0.0.201:8080", "masq", "0"]);
    assert_eq!(lines[2].last(), Some(&"quiesced"));
    assert_eq!(lines[3][..6], ["10.0.0.200:8080", "masq", "5", "0", "0", "50..100"]);
    assert!(lines[7].join(" ").ends_with("no real server takes connections"), "{listing}");

    let one = lbctl(&daemon, "services udp/[2001:db8::1]:53 --json");
    let json: serde_json::Value = serde_json::from_str(&one).expect("JSON");
    assert_eq!(json["services"].as_array().map(Vec::len), Some(1));
    let none = run(Path::new(LBCTL), "services tcp/10.0.0.9:80", &daemon.socket(), "");
    assert_eq!((none.code, none.out.as_str()), (Some(1), ""));
    assert!(none.errors.starts_with("lbctl: ") && none.errors.contains("tcp/10.0.0.9:80"), "{}", none.errors);
}

#[test]
fn what_is_saved_is_restored_with_thresholds() {
    let saved = lbctl(&with_services(), "services --save");
    assert!(saved.contains("-a -t 10.0.0.100:80 -r 10.0.0.200:8080 -m -w 5 -x 100 -y 50\n"), "{saved}");
    let other = Daemon::start(Vec::new());
    let done = run(Path::new(LBCTL), "ipvsadm-restore", &other.socket(), &saved);
    assert_eq!(done.code, Some(0), "{}", done.errors);
    assert_eq!(lbctl(&other, "services --save"), saved);
    assert!(!lbctl(&other, "ipvsadm-save -n").contains("-x 100"), "the kernel's tool forgets thresholds");
}

#[test]
fn keys_are_shown_to_who_saves_and_in_no_listing_or_message() {
    const KEY: &str = "8f95f09245765f80256934e50c66207f";
    let daemon = with_services();
    for (words, shows) in [
        ("services --json", false),
        ("services udp/10.0.0.100:443 --json", false),
        ("services", false),
        ("ipvsadm -L -n", false),
        ("ipvsadm -S -n", true),
        ("services --save", true),
        ("services udp/10.0.0.100:443 --save", true),
    ] {
        assert_eq!(lbctl(&daemon, words).contains(KEY), shows, "{words}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&lbctl(&daemon, "services udp/10.0.0.100:443 --json")).expect("JSON");
    assert_eq!(json["services"][0]["quic_lb"][0]["key"], "hidden");
    for (wrong, code) in [("0:2:6:8f95f09245", 255), ("0:2:x:8f95f09245", 2)] {
        let words = format!("ipvsadm -E -u 10.0.0.100:443 --quic-lb {wrong}");
        let done = run(Path::new(LBCTL), &words, &daemon.socket(), "");
        assert!(done.code == Some(code) && !done.errors.contains("8f95"), "{}", done.errors);
    }
}

/// More lines than go to the daemon together.
#[test]
fn a_thousand_services_with_ten_thousand_servers_are_saved_as_they_were_restored() {
    let mut table = String::new();
    for n in 0..1000_u32 {
        let (kind, service) = match n % 3 {
            0 => ("-t", format!("192.0.{}.{}:80", n / 250, n % 250)),
            1 => ("-u", format!("192.0.{}.{}:53", n / 250, n % 250)),
            _ => ("-t", format!("[2001:db8::{n:x}]:443")),
        };
        writeln!(table, "-A {kind} {service} -s {}", ["rr", "wlc", "sh", "mh"][n as usize % 4])
            .expect("a string");
        for m in (0..10).rev() {
            let server = match n % 3 {
                2 => format!("[fd00::{n:x}:{m}]:443"),
                _ => format!("10.{}.{}.{m}:80", n / 250, n % 250),
            };
            writeln!(table, "-a {kind} {service} -r {server} -m -w {}", n % 7 + m).expect("a string");
        }
    }
    let (one, other) = (Daemon::start(Vec::new()), Daemon::start(Vec::new()));
    let restore = |daemon: &Daemon, table: &str| {
        let done = run(Path::new(LBCTL), "ipvsadm-restore", &daemon.socket(), table);
        assert_eq!((done.code, done.out.as_str(), done.errors.as_str()), (Some(0), "", ""));
        lbctl(daemon, "ipvsadm-save -n")
    };
    let saved = restore(&one, &table);
    let sorted = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&saved), sorted(&table));
    assert_eq!(saved.lines().count(), 11_000);
    assert_eq!(restore(&other, &saved), saved);
}

#[test]
fn connections_are_selected_and_counted() {
    let daemon = with_services();
    assert_eq!(lbctl(&daemon, "connections --count"), "2\n");
    assert_eq!(lbctl(&daemon, "connections --count --state established"), "1\n");
    assert_eq!(lbctl(&daemon, "connections --count --service udp/10.0.0.100:443"), "1\n");
    assert_eq!(lbctl(&daemon, "connections --count --server 10.0.0.201:8080"), "0\n");
    assert_eq!(lbctl(&daemon, "connections --count --client 10.0.0.0/30 --protocol udp"), "1\n");
    assert_eq!(lbctl(&daemon, "connections --count --virtual 10.0.0.101"), "0\n");
    let refused = run(Path::new(LBCTL), "connections --state FOO", &daemon.socket(), "");
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.errors.contains("is no state of a connection, those are ASSURED, "),
        "{}",
        refused.errors
    );
    assert_eq!(
        lbctl(&daemon, "ipvsadm -Lnc"),
        "IPVS connection entries\n\
         pro expire state       source             virtual            destination\n\
         TCP 13:54  ESTABLISHED 10.0.0.1:40000     10.0.0.100:80      10.0.0.200:8080\n\
         UDP 05:00  UDP         10.0.0.2:40000     10.0.0.100:80      10.0.0.200:8080\n"
    );
}

#[test]
fn a_connection_is_listed_of_the_service_that_has_it() {
    let tcp = two_connections().remove(0);
    let of = |server| FlowView { server_id: ServerId(server), ..tcp.clone() };
    let daemon = Daemon::start((0..5).map(of).collect());
    let services =
        ["-f 7", "-t 10.0.0.0/24:80", "-t 10.0.0.100:80", "-t 10.0.0.100:0 -p 60"].map(|service| {
            let name = service.trim_end_matches(" -p 60");
            format!("-A {service} -s rr\n-a {name} -r 10.0.0.200:0 -m\n")
        });
    let done = run(Path::new(LBCTL), "ipvsadm -R", &daemon.socket(), &services.concat());
    assert_eq!((done.code, done.errors.as_str()), (Some(0), ""));
    for service in ["fwmark/7", "tcp/10.0.0.0/24:80", "tcp/10.0.0.100:80", "tcp/10.0.0.100:0"] {
        let listed = lbctl(&daemon, &format!("connections --json --service {service}"));
        let of_it = format!("\"service\":\"{service}\"");
        assert!(listed.lines().count() == 1 && listed.contains(&of_it), "{service}: {listed}");
    }
    assert_eq!(lbctl(&daemon, "connections --count"), "5\n", "and one of no service");
    assert_eq!(lbctl(&daemon, "connections --count --service fwmark/8"), "0\n");
}

#[test]
fn every_listing_answers_and_gives_json() {
    let daemon = with_services();
    for command in ["status", "ports", "workers", "drops"] {
        let done = run(Path::new(LBCTL), &format!("{command} --json"), &daemon.socket(), "");
        assert_eq!(done.errors, "", "{command}");
        serde_json::from_str::<serde_json::Value>(&done.out)
            .unwrap_or_else(|error| panic!("{command}: {error}"));
        let plain = run(Path::new(LBCTL), command, &daemon.socket(), "");
        assert_eq!(plain.errors, "", "{command}");
        assert!(!plain.out.is_empty() && !plain.out.starts_with(['{', '[']), "{command}: {}", plain.out);
    }
    assert!(lbctl(&daemon, "metrics").contains("lb_ipvs_"));
    assert_eq!(lbctl(&daemon, "set --udp 60"), "tcp 900 s, tcp-fin 120 s, udp 60 s\n");
}

#[test]
fn links_are_the_commands_that_they_are_named_after() {
    let daemon = with_services();
    let directory = tempfile::tempdir().expect("a directory");
    let link = |name: &str| {
        let path = directory.path().join(name);
        std::os::unix::fs::symlink(LBCTL, &path).expect("a link");
        path
    };
    let ipvsadm = link("ipvsadm");
    let listing = run(&ipvsadm, "-Ln -u [2001:db8::1]:53", &daemon.socket(), "");
    assert!(listing.out.ends_with("UDP  [2001:db8::1]:53 rr\n"), "{}", listing.out);
    let wrong = run(&ipvsadm, "-D -t 10.0.0.9:80", &daemon.socket(), "");
    assert_eq!((wrong.code, wrong.errors.as_str()), (Some(255), "No such service\n"));
    let usage = run(&ipvsadm, "-A", &daemon.socket(), "");
    assert_eq!(usage.code, Some(2));
    let iptables = run(&link("ip6tables-legacy"), "-A INPUT -s 2001:db8::/32 -j DROP", &daemon.socket(), "");
    assert_eq!((iptables.code, iptables.errors.as_str()), (Some(0), ""));
    let rules = run(&link("ip6tables"), "-S INPUT", &daemon.socket(), "");
    assert_eq!(rules.out, "-P INPUT ACCEPT\n-A INPUT -s 2001:db8::/32 -j DROP\n");
    let missing = run(&link("nfnl_osf"), "-d", &daemon.socket(), "");
    assert_eq!((missing.code, missing.out.as_str()), (Some(254), "Missing fingerprints file argument.\n"));
    let ipset = run(&link("ipset"), "list", &daemon.socket(), "");
    assert_eq!((ipset.code, ipset.errors.as_str()), (Some(0), ""));
    let nfacct = link("nfacct");
    let account = "{ pkts = 00000000000000000003, bytes = 00000000000000000040 } = web;\n";
    let restored = run(&nfacct, "restore", &daemon.socket(), account);
    assert_eq!((restored.code, restored.errors.as_str()), (Some(0), ""));
    assert_eq!(run(&nfacct, "list", &daemon.socket(), "").out, account);
}

#[test]
fn no_daemon_is_one_line_and_nothing_else() {
    let nowhere = Path::new("/nonexistent/api.sock");
    let reason = "no lbd at /nonexistent/api.sock: No such file or directory\n";
    for (words, code, name) in [
        ("status", 1, "lbctl"),
        ("connections", 1, "lbctl"),
        ("ipvsadm -Ln", 255, "ipvsadm"),
        ("ipvsadm -Lnc", 255, "ipvsadm"),
        ("ipvsadm -C", 255, "ipvsadm"),
    ] {
        let done = run(Path::new(LBCTL), words, nowhere, "");
        assert_eq!((done.code, done.out.as_str()), (Some(code), ""), "{words}");
        assert_eq!(done.errors, format!("{name}: {reason}"), "{words}");
    }
}

#[test]
fn a_long_restore_is_one_request() {
    let daemon = Daemon::start(Vec::new());
    let lines = |action: &str, rest: &str| -> String {
        (0..1_000).map(|n| format!("{action} -t 10.1.{}.{}:80 {rest}\n", n / 250, n % 250 + 1)).collect()
    };
    let table = lines("-A", "-s wlc") + &lines("-a", "-r 10.2.0.1:80 -m");
    let status = || -> serde_json::Value {
        let done = run(Path::new(LBCTL), "status --json", &daemon.socket(), "");
        serde_json::from_str(&done.out).expect("JSON")
    };
    let before = status()["generation"].as_u64().expect("a number");
    let done = run(Path::new(LBCTL), "ipvsadm -R", &daemon.socket(), &table);
    assert_eq!((done.code, done.errors.as_str()), (Some(0), ""));
    let after = status();
    assert_eq!((after["services"].as_u64(), after["servers"].as_u64()), (Some(1_000), Some(1_000)));
    assert_eq!(after["generation"].as_u64(), Some(before + 1), "one set of new tables for all of them");
}

#[test]
fn completions_and_man_pages_follow_from_the_commands() {
    let daemon = Daemon::start(Vec::new());
    for shell in ["bash", "zsh", "fish"] {
        assert!(lbctl(&daemon, &format!("completions {shell}")).contains("connections"), "{shell}");
    }
    assert!(lbctl(&daemon, "man").contains(".TH lbctl 1"));
    let directory = tempfile::tempdir().expect("a directory");
    lbctl(&daemon, &format!("man --directory {}", directory.path().display()));
    let page = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect(name);
    assert!(page("lbctl-services.1").starts_with(".ie"));
    for part in [".TH lbd 8", "\\-\\-forget", "LBD_LOG", "SIGHUP"] {
        assert!(page("lbd.8").contains(part), "{part}");
    }
    assert!(page("lbctl.1").contains(".TP\n\\fBLB_SOCKET\\fR\n"));
    assert!(page("lbctl-sysctl.1").contains(".TP\n\\fBam_droprate\\fR\nof how many new connections"));
    for (name, part) in [
        ("iptables", "\\-\\-append CHAIN rule"),
        ("ipvsadm", "\\-\\-add\\-service"),
        ("ipset", "create SET TYPE"),
        ("conntrack", "Tables: conntrack, expect"),
        ("nfacct", "add NAME [byte|packet LIMIT]"),
    ] {
        assert!(page(&format!("lbctl-{name}.1")).contains(part), "{name}");
    }
}

#[test]
fn a_fixed_sysctl_is_listed_and_takes_its_value_alone() {
    let daemon = Daemon::start(Vec::new());
    for (words, shown) in [
        ("sysctl net.ipv4.vs.ignore_tunneled=1", "net.ipv4.vs.ignore_tunneled = 1\n"),
        ("sysctl ignore_tunneled", "net.ipv4.vs.ignore_tunneled = 1\n"),
        ("sysctl -w net/ipv4/vs/sync_ports=1", "net.ipv4.vs.sync_ports = 1\n"),
        ("sysctl nf_conntrack_log_invalid=0", "net.netfilter.nf_conntrack_log_invalid = 0\n"),
        ("sysctl -w net.ipv4.vs.lblcr_expiration=86400", "net.ipv4.vs.lblcr_expiration = 86400\n"),
        ("sysctl run_estimation=1", "net.ipv4.vs.run_estimation = 1\n"),
        ("sysctl snat_reroute=0", "net.ipv4.vs.snat_reroute = 0\n"),
        ("sysctl cache_bypass=1", "net.ipv4.vs.cache_bypass = 1\n"),
    ] {
        assert_eq!(lbctl(&daemon, words), shown, "{words}");
    }
}

#[test]
fn sysctls_have_the_kernels_names_and_are_set_all_or_none() {
    let daemon = Daemon::start(Vec::new());
    let all = "net.ipv4.vs.am_droprate = 10\nnet.ipv4.vs.amemthresh = 1024\nnet.ipv4.vs.backup_only = 0\nnet.ipv4.vs.cache_bypass = 0\nnet.ipv4.vs.conn_reuse_mode = 1\n\
               net.ipv4.vs.conntrack = 0\nnet.ipv4.vs.drop_entry = 0\nnet.ipv4.vs.drop_newcomers = 1\nnet.ipv4.vs.drop_packet = 0\n\
               net.ipv4.vs.expire_nodest_conn = 2\nnet.ipv4.vs.expire_quiescent_template = 0\nnet.ipv4.vs.ignore_tunneled = 1\n\
               net.ipv4.vs.lblc_expiration = 86400\nnet.ipv4.vs.lblcr_expiration = 86400\nnet.ipv4.vs.nat_icmp_send = 0\nnet.ipv4.vs.pmtu_disc = 1\nnet.ipv4.vs.run_estimation = 1\n\
               net.ipv4.vs.schedule_icmp = 0\nnet.ipv4.vs.secure_tcp = 0\nnet.ipv4.vs.sloppy_sctp = 0\nnet.ipv4.vs.sloppy_tcp = 0\n\
               net.ipv4.vs.snat_reroute = 1\nnet.ipv4.vs.sync_period = 0\nnet.ipv4.vs.sync_persist_mode = 0\nnet.ipv4.vs.sync_ports = 1\nnet.ipv4.vs.sync_refresh_period = 10\n\
               net.ipv4.vs.sync_retries = 0\nnet.ipv4.vs.sync_sock_size = 0\nnet.ipv4.vs.sync_threshold = 0\t0\n\
               net.ipv4.vs.sync_version = 1\n";
    let shown = lbctl(&daemon, "sysctl");
    let of_tracking = shown.strip_prefix(all).expect("those of IPVS come first");
    assert!(of_tracking.lines().all(|line| line.starts_with("net.netfilter.nf_conntrack_")), "{of_tracking}");
    assert!(of_tracking.contains("net.netfilter.nf_conntrack_tcp_timeout_established = 432000\n"));
    let set = lbctl(&daemon, "sysctl net/netfilter/nf_conntrack_udp_timeout=7");
    assert_eq!(set, "net.netfilter.nf_conntrack_udp_timeout = 7\n");
    let set = lbctl(&daemon, "sysctl -w net.ipv4.vs.sloppy_tcp=1 conn_reuse_mode=0");
    assert_eq!(set, "net.ipv4.vs.conn_reuse_mode = 0\nnet.ipv4.vs.sloppy_tcp = 1\n");
    assert_eq!(lbctl(&daemon, "sysctl sloppy_tcp"), "net.ipv4.vs.sloppy_tcp = 1\n");
    assert!(lbctl(&daemon, "sysctl --json sloppy_tcp").contains("\"value\": 1"));
    for (words, reason) in [
        ("sysctl sloppy_sctp=1 sloppy_tcp=2", "allowed are 0..=1"),
        ("sysctl sloppy_sctp=yes", "allowed are 0..=1"),
        ("sysctl drop_entries=1", "there are am_droprate, amemthresh"),
        (
            "sysctl ignore_tunneled=0",
            "allowed is 1 alone: what came in a tunnel to the director is unpacked by Linux",
        ),
        ("sysctl lblc_expiration=60", "remembered for a day"),
        ("sysctl run_estimation=0", "rates are estimated"),
        ("sysctl cache_bypass=2", "allowed are 0..=1"),
        ("sysctl ignore_tunneled=yes", "allowed is 1 alone"),
        ("sysctl snat_reroute=2", "allowed are 0..=1"),
        ("sysctl nf_conntrack_checksum=1", "no checksum of a packet that goes through is looked at"),
        ("sysctl nf_conntrack_tcp_loose=2", "allowed are 0..=1"),
        ("sysctl net.netfilter.nf_conntrack_buckets=1", "the index has the size of the flow table"),
        ("sysctl net.ipv4.vs.sync_qlen_max=3", "no message waits"),
    ] {
        let done = run(Path::new(LBCTL), words, &daemon.socket(), "");
        assert_eq!((done.code, done.out.as_str()), (Some(2), ""), "{words}");
        assert!(done.errors.contains(reason), "{words}: {}", done.errors);
    }
    assert_eq!(lbctl(&daemon, "sysctl sloppy_sctp"), "net.ipv4.vs.sloppy_sctp = 0\n");
}

#[test]
fn idle_timers_are_listed_by_label() {
    let daemon = Daemon::start(Vec::new());
    assert_eq!(lbctl(&daemon, "idletimers --json"), "[]\n");
    lbctl(&daemon, "iptables -A FORWARD -j IDLETIMER --timeout 36000 --label web");
    lbctl(&daemon, "ip6tables -A FORWARD -p tcp -j IDLETIMER --timeout 7 --label web");
    lbctl(&daemon, "iptables -A INPUT -j IDLETIMER --timeout 7200 --label phone --alarm");
    assert_eq!(
        lbctl(&daemon, "iptables -S INPUT"),
        "-P INPUT ACCEPT\n-A INPUT -j IDLETIMER --timeout 7200 --label phone --alarm\n"
    );
    let listed = lbctl(&daemon, "iptables -L INPUT -n");
    assert!(listed.ends_with(" timeout:7200 label:phone alarm\n"), "{listed}");
    let shown = lbctl(&daemon, "idletimers");
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    let labels: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(labels, ["label", "phone", "web"], "{shown}");
    assert!((7100..=7200).contains(&rows[1][1].parse::<u32>().expect(&shown)), "{shown}");
    assert!(
        (35_900..=36_000).contains(&rows[2][1].parse::<u32>().expect(&shown)),
        "the first rule's time: {shown}"
    );
    let done = run(
        Path::new(LBCTL),
        "iptables -A INPUT -j IDLETIMER --timeout 9 --label phone",
        &daemon.socket(),
        "",
    );
    let refusal = "iptables: Invalid argument. Run `dmesg' for more information.\n";
    assert_eq!((done.code, done.errors.as_str()), (Some(1), refusal));
}

#[test]
fn sync_threshold_is_two_numbers_as_the_kernels() {
    let daemon = Daemon::start(Vec::new());
    let sysctl = |argument: &str| run_words(Path::new(LBCTL), &["sysctl", argument], &daemon.socket(), "");
    for (argument, shown) in [
        ("net.ipv4.vs.sync_threshold=3 50", "3\t50"),
        ("net.ipv4.vs.sync_threshold", "3\t50"),
        ("net/ipv4/vs/sync_threshold = 4", "4\t50"),
        ("sync_threshold=7\t0", "7\t0"),
    ] {
        assert_eq!(sysctl(argument).out, format!("net.ipv4.vs.sync_threshold = {shown}\n"), "{argument}");
    }
    assert_eq!(sysctl("sync_period=9").out, "net.ipv4.vs.sync_period = 9\n");
    for (argument, reason) in [
        ("sync_threshold=50 50", "50 is not below 50, as it is to be unless that is 0"),
        ("sync_threshold=1 2 3", "allowed are one or two numbers, 0..=2147483647"),
        ("sync_threshold=", "allowed are one or two numbers, 0..=2147483647"),
        ("sync_period=1 2", "allowed are 0..=2147483647"),
    ] {
        let done = sysctl(argument);
        assert_eq!((done.code, done.out.as_str()), (Some(2), ""), "{argument}");
        assert!(done.errors.contains(reason), "{argument}: {}", done.errors);
    }
    assert_eq!(sysctl("sync_threshold").out, "net.ipv4.vs.sync_threshold = 7\t9\n");
}

#[test]
fn fingerprints_are_loaded_and_taken_away_as_by_nfnl_osf() {
    let daemon = Daemon::start(Vec::new());
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("it is written");
        path.display().to_string()
    };
    let good = file(
        "good",
        "# ours\n\nS10:64:1:60:M*,S,T,N,W7:\tOurs:2.6: sub:Details\n%8192:128:1:48:M*,N,N,S:@Other OS:XP::x",
    );
    let bad = file("bad", "bad:line\n*:255:0:40:.:Last:1::x\n");
    let load = |words: &str| {
        let done = run(Path::new(LBCTL), &format!("nfnl_osf {words}"), &daemon.socket(), "");
        (done.code, done.out + &done.errors)
    };
    let genres = || {
        let views: Vec<FingerprintView> =
            Client::new(&daemon.socket()).expect("a client").get("/v1/fingerprints").expect("an answer");
        views.into_iter().map(|view| view.genre).collect::<Vec<_>>()
    };
    let said = "Loading 'S10:64:1:60:M*,S,T,N,W7:\tOurs:2.6: sub:Details'.\nLoading '%8192:128:1:48:M*,N,N,S:@Other OS:XP::x'.\n";
    for _ in 0..2 {
        assert_eq!(load(&format!("-f {good}")), (Some(0), said.to_owned()));
        assert_eq!(genres(), ["Ours", "Other OS"]);
    }
    let why = "Loading 'bad:line'.\nFailed to load line 1: fingerprint \"bad:line\": 2 fields, expected 9 with a colon between two.\n\
               Loading '*:255:0:40:.:Last:1::x'.\n";
    assert_eq!(load(&format!("-f {bad}")), (Some(234), why.to_owned()));
    assert_eq!(genres(), ["Ours", "Other OS", "Last"]);
    for _ in 0..2 {
        assert_eq!(
            load(&format!("-d -f {good}")),
            (Some(0), said.to_owned()),
            "what is gone already is no error"
        );
        assert_eq!(genres(), ["Last"]);
    }
    assert_eq!(load("-d"), (Some(254), "Missing fingerprints file argument.\n".to_owned()));
    let missing = load("-f /nowhere/pf.os");
    assert_eq!(missing.0, Some(255));
    assert!(missing.1.starts_with("Failed to open file '/nowhere/pf.os': No such file"), "{}", missing.1);
    assert_eq!(load("-x").0, Some(255));
    let nobody = run(Path::new(LBCTL), &format!("nfnl_osf -f {good}"), Path::new("/nowhere"), "");
    assert_eq!(
        (nobody.code, nobody.errors.contains("no lbd at /nowhere")),
        (Some(255), true),
        "{}",
        nobody.errors
    );
}
