//! Goal: frames of real network stacks go through ports on veth and up and down the Linux twins; a clean stop leaves
//! no XDP program and no TAP; a queue that is taken, a missing interface are told in one line.
//! Method: network namespaces (root). The director's has three veth: the first two are the ends of a wire between
//! two hosts, the third port belongs to the twin, which has an address. The hosts ping each other and the director.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Wire, Wiring};
use lb_core::ids::PortId;
use lb_core::path::PathConfig;
use lb_dataplane::{Config, Dataplane, Idle, PortConfig};

const CASE: &str = "LB_TEST_CASE";

fn is_root() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !is_root {
        println!("skipped: network namespaces need root");
    }
    is_root
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The namespaces of one test, gone when dropped.
struct Lab {
    director: String,
    hosts: [String; 3],
}

impl Lab {
    fn new(name: &str) -> Lab {
        let prefix = format!("lbdp{}{name}", std::process::id());
        let director = format!("{prefix}d");
        let hosts = [0, 1, 2].map(|n| format!("{prefix}h{n}"));
        ip(&format!("netns add {director}"));
        let lab = Lab { director, hosts };
        for (n, host) in lab.hosts.iter().enumerate() {
            ip(&format!("netns add {host}"));
            ip(&format!("-n {} link add v{n} type veth peer name eth0 netns {host}", lab.director));
            ip(&format!("-n {} link set v{n} up", lab.director));
            // The first two hosts share a network over the wire, the third has one with the twin.
            let network = n / 2;
            ip(&format!("-n {host} addr add 10.77.{network}.{}/24 dev eth0", n % 2 + 1));
            ip(&format!("-n {host} link set eth0 up"));
            if n == 2 {
                ip(&format!("-n {host} addr replace 10.77.1.1/24 dev eth0"));
            }
        }
        lab
    }

    /// Starts a case in the director's namespace, in a process of its own.
    fn start(&self, case: &str) -> Running {
        let test = std::env::current_exe().unwrap();
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.director])
            .arg(test)
            .args(["--exact", "child", "--nocapture"])
            .env(CASE, case)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Running { child, stdin, stdout }
    }

    /// Sends pings of `size` bytes, of which all must be answered once the neighbours are known.
    fn ping(&self, host: usize, address: &str, size: usize) {
        let host = &self.hosts[host];
        for (count, is_warm) in [(1, false), (20, true)] {
            let output = Command::new("ip")
                .args(["netns", "exec", host, "ping", "-q", "-i", "0.005", "-w", "60"])
                .args(["-c", &count.to_string(), "-s", &size.to_string(), address])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(!is_warm || said.contains(" 0% packet loss"), "ping {address} from {host}: {said}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in self.hosts.iter().chain([&self.director]) {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Waits for the next thing that the case says.
    fn said(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the case ended");
            if let Some((_, said)) = line.split_once("said: ") {
                return said.trim_end().to_owned();
            }
        }
    }

    fn go_on(&mut self) {
        self.order("");
    }

    fn order(&mut self, what: &str) {
        writeln!(self.stdin, "{what}").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let devices: Vec<&str> = case.split_whitespace().collect();
    let pause = || std::io::stdin().read_line(&mut String::new()).unwrap();
    let dataplane = match Dataplane::start_with(config(&devices), |path: PathConfig| {
        Wiring::new(Wire { worker: path.worker, host_ports_from: 2, obeys: false, flows: 0 })
    }) {
        Ok(dataplane) => dataplane,
        Err(error) => return println!("said: {error}"),
    };
    let over: Vec<_> = dataplane.ports().iter().filter(|port| port.xdp_left.is_some()).collect();
    println!("said: running{}", if over.is_empty() { "" } else { " with an XDP program of an earlier run" });
    let last = PortId(devices.len() as u16 - 1);
    let mut order = String::new();
    std::io::stdin().read_line(&mut order).unwrap();
    if order == "twin\n" {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !dataplane.twin_is_gone(last) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("said: gone {}", dataplane.twin_is_gone(last));
        pause();
    }
    let counters = dataplane.counters().clone();
    let sum = |of: &dyn Fn(&lb_core::counters::PortCell) -> u64| -> u64 {
        counters.iter().map(|worker| of(worker.port(last))).sum()
    };
    println!("said: up {} down {}", sum(&|c| c.rx_packets.get()), sum(&|c| c.tx_packets.get()));
    dataplane.stop();
    println!("said: stopped");
    pause();
}

fn config(devices: &[&str]) -> Config {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let port = |(index, device): (usize, &&str)| PortConfig {
        name: format!("twin{index}"),
        device: (*device).to_owned(),
        mtu: 1500,
        outside: false,
        twin: true,
    };
    Config {
        workers: (0..cpus.min(2) as u32).collect(),
        driver_args: vec!["--no-pci".to_owned()],
        memory_mb: 1024,
        huge_pages: false,
        flow_memory: lb_dataplane::FlowMemory::Forgotten,
        max_connections: 1000,
        max_ipv6_connections: 1000,
        max_servers: 4,
        ports: devices.iter().enumerate().map(port).collect(),
        idle: Idle::Sleep,
        hash_seed: None,
    }
}

fn frames_pass_and_nothing_is_left(name: &str, devices: &str) {
    let lab = Lab::new(name);
    let mut running = lab.start(devices);
    assert_eq!(running.said(), "running");
    let links = ip(&format!("-n {} link", lab.director));
    let mac = |line: &str| {
        let at = links.find(line).unwrap_or_else(|| panic!("no {line} in {links}"));
        links[at..].split("link/ether ").nth(1).unwrap()[..17].to_owned()
    };
    assert_eq!(mac(" v2@"), mac(" twin2:"), "a twin has the MAC address of its port");
    ip(&format!("-n {} addr add 10.77.1.9/24 dev twin2", lab.director));
    for size in [10, 1400] {
        lab.ping(0, "10.77.0.2", size);
        lab.ping(2, "10.77.1.9", size);
    }
    running.go_on();
    let said = running.said();
    let counts: Vec<u32> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(counts.iter().all(|&count| count >= 42), "requests and answers, ARP: {said}");
    assert_eq!(running.said(), "stopped");
    let links = ip(&format!("-n {} link", lab.director));
    assert!(!["twin", "xdp", "PROMISC"].iter().any(|left| links.contains(left)), "{links}");
    running.go_on();
    assert!(running.child.wait().unwrap().success());
}

#[test]
fn af_xdp_ports_carry_frames_and_leave_nothing_behind() {
    if is_root() {
        frames_pass_and_nothing_is_left(
            "x",
            "net_af_xdp0,iface=v0 net_af_xdp1,iface=v1 net_af_xdp2,iface=v2",
        );
    }
}

#[test]
fn af_packet_ports_carry_frames_and_leave_nothing_behind() {
    if is_root() {
        frames_pass_and_nothing_is_left(
            "p",
            "net_af_packet0,iface=v0 net_af_packet1,iface=v1 net_af_packet2,iface=v2",
        );
    }
}

#[test]
fn what_a_killed_run_left_is_told_and_is_gone_after_a_clean_stop() {
    if !is_root() {
        return;
    }
    let lab = Lab::new("k");
    let has = |what| ip(&format!("-n {} link show v0", lab.director)).contains(what);
    let mut killed = lab.start("net_af_xdp0,iface=v0");
    assert_eq!(killed.said(), "running");
    drop(killed);
    assert!(has("xdp") && has("PROMISC"), "so there is something to be told");
    let mut running = lab.start("net_af_xdp0,iface=v0");
    assert_eq!(running.said(), "running with an XDP program of an earlier run");
    running.go_on();
    assert!(running.said().starts_with("up"));
    assert_eq!(running.said(), "stopped");
    assert!(!has("xdp") && !has("PROMISC"));
    running.go_on();
    assert!(running.child.wait().unwrap().success());
}

#[test]
fn a_twin_that_somebody_deletes_is_reported() {
    if !is_root() {
        return;
    }
    let lab = Lab::new("g");
    let mut running = lab.start("net_null0 net_null1 net_af_packet2,iface=v2");
    assert_eq!(running.said(), "running");
    // Neither of these is the end of a twin.
    ip(&format!("-n {} link set twin2 down", lab.director));
    ip(&format!("-n {} link set twin2 up", lab.director));
    ip(&format!("-n {} addr add 10.77.1.9/24 dev twin2", lab.director));
    lab.ping(2, "10.77.1.9", 100);
    ip(&format!("-n {} link del twin2", lab.director));
    running.order("twin");
    assert_eq!(running.said(), "gone true");
    running.go_on();
    assert!(running.said().starts_with("up"));
    assert_eq!(running.said(), "stopped");
    running.go_on();
    assert!(running.child.wait().unwrap().success());
}

#[test]
fn what_cannot_start_is_told_in_one_line_with_the_mend() {
    if !is_root() {
        return;
    }
    let lab = Lab::new("q");
    ip(&format!("-n {} link set v2 mtu 1400", lab.director));
    assert_eq!(
        lab.start("net_af_packet0,iface=v2").said(),
        r#"port "twin0", device "net_af_packet0,iface=v2": mtu 1500 is more than the 1400 of v2; run: ip link set v2 mtu 1500"#
    );
    ip(&format!("-n {} link add w0 numrxqueues 3 type veth peer name w1", lab.director));
    assert_eq!(
        lab.start("net_af_xdp0,iface=w0").said(),
        r#"port "twin0", device "net_af_xdp0,iface=w0": w0 has 3 receive queues and 1 of them would be served, the kernel would keep the rest; run: ethtool -L w0 combined 1 (or rx 1 tx 1)"#
    );
    let mut first = lab.start("net_af_xdp0,iface=v0");
    assert_eq!(first.said(), "running");
    assert_eq!(
        lab.start("net_af_packet0,iface=v1").said(),
        r#"port "twin0", device "net_af_packet0,iface=v1": a network interface named twin0 is there already, choose another name for the port"#
    );
    ip(&format!("-n {} link set twin0 name other", lab.director));
    assert_eq!(
        lab.start("net_af_xdp0,iface=v0").said(),
        r#"port "twin0", device "net_af_xdp0,iface=v0": another lbd uses the interface v0"#
    );
    first.go_on();
    assert!(first.said().starts_with("up"));
    assert_eq!(first.said(), "stopped");
    first.go_on();
    assert!(first.child.wait().unwrap().success());
    let mut second = lab.start("net_af_xdp0,iface=v0");
    assert_eq!(second.said(), "running", "what was stopped is free again");
}
