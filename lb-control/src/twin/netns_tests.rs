//! The twin against a real kernel.
//!
//! Goal: what `ip` does in a network namespace shows in the view, and what we ask of the kernel happens on the wire.
//! Method: each test runs in a thread that has unshared its network namespace; veth pairs stand in for the TAPs, their
//! far ends in the namespace of a second thread. Both namespaces go when the threads end, also when a test fails.
//! Nothing here depends on how fast it is: waits end when what is waited for is there, or fail after [`PATIENCE`].

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command as Process, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use lb_core::tables::{Mac, Reachability, Route, Tables, Way};
use nix::sched::{CloneFlags, unshare};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test in a fresh network namespace, or says that it cannot.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root, and this test makes a network namespace");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
        sh("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a line of shell in the namespace of this thread.
fn sh(line: &str) {
    let output = Process::new("sh").args(["-ec", line]).output().expect("there is a shell");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A second namespace, where the neighbours are.
struct Far {
    lines: Option<mpsc::Sender<String>>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
    namespace: String,
}

impl Far {
    fn new() -> Far {
        let (lines, received) = mpsc::channel::<String>();
        let (tell, done) = mpsc::channel();
        let (tell_namespace, namespace) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
            let task = format!("/proc/{}/task/{}", nix::unistd::getpid(), nix::unistd::gettid());
            tell_namespace.send(format!("{task}/ns/net")).expect("the test waits");
            for line in received {
                sh(&line);
                tell.send(()).expect("the test waits");
            }
        });
        let namespace = namespace.recv().expect("the thread runs");
        Far { lines: Some(lines), done, thread: Some(thread), namespace }
    }

    fn sh(&self, line: &str) {
        self.lines.as_ref().expect("not dropped").send(line.to_owned()).expect("the thread runs");
        self.done.recv().unwrap_or_else(|_| panic!("failed on the far side: {line}"));
    }

    /// A twin `name`, and the other end of its wire, `<name>-far`, here.
    fn wire(&self, name: &str) {
        sh(&format!(
            "ip link add {name} type veth peer name {name}-far; ip link set {name}-far netns {}",
            self.namespace
        ));
        // Fast, so that the tests are: the kernel's own state machine is what is tested, not its patience.
        sh(&format!(
            "for f in 4 6; do echo 100 > /proc/sys/net/ipv$f/neigh/{name}/retrans_time_ms; \
             echo 1 > /proc/sys/net/ipv$f/neigh/{name}/delay_first_probe_time; done"
        ));
        self.sh(&format!("ip link set {name}-far up; sysctl -qw net.ipv6.conf.{name}-far.accept_dad=0"));
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn port(name: &str, number: u16) -> TwinPort {
    TwinPort { name: name.to_owned(), id: PortId(number), outside: number == 0 }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().expect("a prefix")).collect()
}

const WAN: InterfaceId = InterfaceId(0);

fn via(gateway: Option<&str>) -> Option<Route> {
    Some(Route::Via { interface: WAN, gateway: gateway.map(ip) })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Waits until the view is as wanted.
async fn wait_for(twin: &Twin, what: &str, is_so: impl Fn(&TwinView) -> bool) {
    let mut changed = twin.changed();
    let waited = tokio::time::timeout(PATIENCE, changed.wait_for(|view| is_so(view))).await;
    assert!(waited.is_ok(), "never came: {what}; the view is {:#?}", twin.view());
}

fn way(view: &TwinView, to: &str) -> Way {
    let tables = Tables {
        interfaces: view.interfaces.clone(),
        routes: view.routes.clone(),
        neighbours: view.neighbours.clone(),
        ..Tables::default()
    };
    tables.way(ip(to))
}

/// The MAC address that packets to `to` are sent to.
fn mac_of(view: &TwinView, to: &str) -> Option<Mac> {
    let Way::Hop(hop) = way(view, to) else { return None };
    let hop = view.neighbours.get(hop)?;
    (hop.state == Reachability::Reachable).then_some(hop.dst_mac)
}

fn has_failed(view: &TwinView, to: &str) -> bool {
    let Way::Hop(hop) = way(view, to) else { return false };
    view.neighbours.get(hop).is_some_and(|hop| hop.state == Reachability::Failed)
}

#[test]
fn configured_addresses_make_the_twin_an_interface_with_local_and_connected_routes() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        sh("ip link set wan address 02:00:00:00:00:01 mtu 1400");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        block_on(twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24", "2001:db8::1/64"]))).expect("sets");
        let view = twin.view();
        let wan = view.interfaces.get(WAN).expect("is there");
        assert_eq!(
            (wan.name.as_str(), wan.port, wan.vlan, wan.mtu, wan.outside),
            ("wan", PortId(0), 0, 1400, true)
        );
        assert_eq!(wan.mac, [2, 0, 0, 0, 0, 1]);
        assert_eq!(wan.ipv4.map(IpAddr::from), Some(ip("192.0.2.1")));
        assert_eq!(wan.ipv6.map(IpAddr::from), Some(ip("2001:db8::1")));
        for local in ["192.0.2.1", "192.0.2.255", "127.0.0.1", "2001:db8::1", "::1"] {
            assert_eq!(view.routes.lookup(ip(local)), Some(Route::Local), "{local}");
        }
        assert_eq!(view.routes.lookup(ip("192.0.2.9")), via(None));
        assert_eq!(view.routes.lookup(ip("2001:db8::9")), via(None));
        assert_eq!(view.routes.lookup(ip("198.51.100.1")), None);
        assert_eq!(way(&view, "192.0.2.9"), Way::Unresolved(WAN, ip("192.0.2.9")));
    });
}
