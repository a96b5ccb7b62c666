//! The twin against a real kernel.
//!
//! Goal: what `ip` does in a network namespace shows in the view, and what we ask of the kernel happens on the wire.
//! Method: each test runs in a thread that has unshared its network namespace; veth pairs stand in for the TAPs, their
//! far ends in the namespace of a second thread. Both namespaces go when the threads end, also when a test fails.
//! Nothing here depends on how fast it is: waits end when what is waited for is there, or fail after [`PATIENCE`].

mod neighbours;
mod realms;

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command as Process, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use lb_core::tables::{Mac, Reachability, Route, Tables, Way};
use lb_core::wire::ethernet;
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::netns::{in_namespace, sh};

const PATIENCE: Duration = Duration::from_secs(30);

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
             echo 1 > /proc/sys/net/ipv$f/neigh/{name}/delay_first_probe_time; done; \
             sysctl -qw net.ipv6.conf.{name}.accept_dad=0"
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
    TwinPort { name: name.to_owned(), id: PortId(number), outside: number == 0, mtu: 9000 }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().expect("a prefix")).collect()
}

const WAN: InterfaceId = InterfaceId(0);
/// The far end of the tests with neighbours.
const NINE: Option<Mac> = Some([2, 0, 0, 0, 0, 9]);

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

/// When this returns, the thread has done what it was asked before, and what was due.
async fn turn_over(twin: &Twin) {
    for _ in 0..2 {
        twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24", "2001:db8::1/64"])).await.expect("as before");
    }
}

/// The MAC address that packets to `to` are sent to.
fn mac_of(view: &TwinView, to: &str) -> Option<Mac> {
    let Way::Hop(hop) = way(view, to) else { return None };
    let hop = view.neighbours.get(hop)?;
    (hop.state == Reachability::Reachable).then(|| ethernet::destination(&hop.macs))
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

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[test]
fn what_interfaces_lose_is_told_once_with_the_view_that_is_without_it() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        sh("sysctl -qw net.ipv4.conf.wan.promote_secondaries=1");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        block_on(async {
            twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24", "2001:db8::1/64"])).await.expect("sets");
            sh("ip addr add 192.0.2.80/24 dev wan; ip addr add 198.51.100.1/24 dev wan");
            sh("ip route add 203.0.113.0/24 via 192.0.2.254");
            let source = |view: &TwinView, to: &str| {
                let tables = Tables {
                    interfaces: view.interfaces.clone(),
                    routes: view.routes.clone(),
                    ..Tables::default()
                };
                tables.source_towards(WAN, ip(to)).map(|address| address.to_string())
            };
            let is_from = |view: &TwinView, to: &str, from: &str| source(view, to).as_deref() == Some(from);
            wait_for(&twin, "sources by network and next hop", |view| {
                is_from(view, "198.51.100.9", "198.51.100.1")
                    && is_from(view, "203.0.113.9", "192.0.2.1")
                    && is_from(view, "2001:db8:9::9", "2001:db8::1")
                    && view.routes.lookup(ip("203.0.113.9")) == via(Some("192.0.2.254"))
            })
            .await;
            let mut changed = twin.changed();
            assert!(twin.news(&mut changed).1.is_empty(), "nothing was lost");
            // It goes and comes: lost all the same.
            for (line, lost) in [
                (
                    "ip addr del 198.51.100.1/24 dev wan; ip addr add 198.51.100.1/24 dev wan",
                    Some("198.51.100.1"),
                ),
                ("ip addr del 192.0.2.1/24 dev wan", Some("192.0.2.1")),
                ("ip link set wan down", None),
            ] {
                sh(line);
                let mut all = Vec::new();
                while all.is_empty() {
                    let heard = tokio::time::timeout(PATIENCE, changed.changed()).await;
                    heard.expect("it is told").expect("it runs");
                    let (view, losses) = twin.news(&mut changed);
                    if lost == Some("192.0.2.1") && !losses.is_empty() {
                        // The secondary address of its network is the primary one now.
                        assert!(!view.routes.is_local(ip("192.0.2.1")), "{line}");
                    }
                    // Linux gives the link-local address away itself.
                    let is_ours = |loss: &Loss| loss.address().is_none_or(|address| !is_link_local(address));
                    all.extend(losses.into_iter().filter(is_ours));
                }
                assert_eq!(all.len(), 1, "{line}: {all:?}");
                assert_eq!(all[0].address(), lost.map(ip), "{line}");
            }
            wait_for(&twin, "no route", |view| view.routes.lookup(ip("203.0.113.9")).is_none()).await;
            let more = twin.news(&mut changed).1;
            assert!(more.iter().all(|loss| loss.address().is_some_and(is_link_local)), "once: {more:?}");
        });
    });
}

#[test]
fn a_port_without_its_interface_is_named() {
    in_namespace(|| {
        let error = Twin::start(vec![port("wan", 0)]).expect_err("there is none");
        assert_eq!(error.to_string(), "port wan: there is no interface wan in this network namespace");
    });
}

#[test]
fn addresses_that_are_no_longer_configured_go_and_those_of_others_stay() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        let set = |list: &[&str]| block_on(twin.set_addresses(PortId(0), &nets(list)));
        set(&["192.0.2.1/24", "2001:db8::1/64"]).expect("sets");
        set(&["192.0.2.1/24", "2001:db8::1/64"]).expect("the same again is no error");
        // A virtual address in the same network is secondary to ours: Linux would drop it with the primary one.
        sh("ip addr add 192.0.2.80/24 dev wan");
        set(&["192.0.2.2/24", "2001:db8::1/48"]).expect("sets");
        let is_local = |address: &str| twin.view().routes.is_local(ip(address));
        assert!(!is_local("192.0.2.1"), "it is not configured any more");
        assert!(is_local("192.0.2.2") && is_local("192.0.2.80") && is_local("2001:db8::1"));
        assert_eq!(twin.view().routes.lookup(ip("2001:db8:0:9::9")), via(None), "the prefix is wider now");
    });
}

#[test]
fn an_address_that_the_kernel_refuses_changes_nothing_and_is_named() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        let set = |list: &[&str]| block_on(twin.set_addresses(PortId(0), &nets(list)));
        set(&["192.0.2.1/24"]).expect("sets");
        sh("sysctl -qw net.ipv6.conf.wan.disable_ipv6=1");
        let error = set(&["192.0.2.2/24", "2001:db8::1/64"]).expect_err("IPv6 is off");
        assert_eq!(
            error.to_string(),
            "port wan: address 2001:db8::1/64: IPv6 is off on this interface (sysctl net.ipv6.conf.wan.disable_ipv6)"
        );
        assert!(twin.view().routes.is_local(ip("192.0.2.1")), "the old one stays");
        assert!(!twin.view().routes.is_local(ip("192.0.2.2")), "the new one is taken back");
        let error = block_on(twin.set_addresses(PortId(7), &[])).expect_err("there is none");
        assert_eq!(error.to_string(), "there is no port number 7");
    });
}

#[test]
fn routes_follow_ip_route() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        sh("ip link add other type veth peer name unused; ip link set other up; ip link set unused up");
        sh("ip addr add 203.0.113.1/24 dev other");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        block_on(async {
            twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24", "2001:db8::1/64"])).await.expect("sets");
            let expect = async |line: &str, to: &str, route: Option<Route>| {
                sh(line);
                wait_for(&twin, &format!("{to} by {route:?} after `{line}`"), |view| {
                    view.routes.lookup(ip(to)) == route
                })
                .await;
            };
            expect("ip route add default via 192.0.2.254", "8.8.8.8", via(Some("192.0.2.254"))).await;
            expect("ip route replace default via 192.0.2.253", "8.8.8.8", via(Some("192.0.2.253"))).await;
            expect("ip route add 8.8.8.0/24 via 192.0.2.252 metric 20", "8.8.8.8", via(Some("192.0.2.252")))
                .await;
            expect("ip route add 8.8.8.0/24 via 192.0.2.251 metric 10", "8.8.8.8", via(Some("192.0.2.251")))
                .await;
            expect("ip route del 8.8.8.0/24 via 192.0.2.251 metric 10", "8.8.8.8", via(Some("192.0.2.252")))
                .await;
            expect("ip route del 8.8.8.0/24", "8.8.8.8", via(Some("192.0.2.253"))).await;
            expect("ip route add blackhole 8.8.8.8", "8.8.8.8", Some(Route::Forbidden)).await;
            expect("ip route del blackhole 8.8.8.8", "8.8.8.8", via(Some("192.0.2.253"))).await;
            expect("ip route add prohibit 8.8.0.0/16", "8.8.8.8", Some(Route::Forbidden)).await;
            expect("ip route add 8.8.8.0/24 via 203.0.113.9", "8.8.8.8", Some(Route::Linux)).await;
            expect(
                "ip route add 8.8.8.8 nexthop via 203.0.113.9 nexthop via 192.0.2.250",
                "8.8.8.8",
                via(Some("192.0.2.250")),
            )
            .await;
            expect("ip route add 9.9.9.9 via inet6 fe80::9 dev wan", "9.9.9.9", via(Some("fe80::9"))).await;
            expect("ip route add local 10.1.0.0/16 dev lo", "10.1.2.3", Some(Route::Local)).await;
            expect("ip -6 route add default via 2001:db8::fe", "2001:db8:9::1", via(Some("2001:db8::fe")))
                .await;
            expect(
                "ip -6 route replace default via 2001:db8::fd",
                "2001:db8:9::1",
                via(Some("2001:db8::fd")),
            )
            .await;
            expect("ip -6 route add unreachable 2001:db8:9::/48", "2001:db8:9::1", Some(Route::Forbidden))
                .await;
            expect("ip -6 route del unreachable 2001:db8:9::/48", "2001:db8:9::1", via(Some("2001:db8::fd")))
                .await;
            // Siblings of a multipath route come and go one by one, each in a message that says part of the truth.
            expect("ip -6 route append default via 2001:db8::fc", "2001:db8:9::1", via(Some("2001:db8::fd")))
                .await;
            expect("ip -6 route del default via 2001:db8::fd", "2001:db8:9::1", via(Some("2001:db8::fc")))
                .await;
            expect("ip -6 route del default", "2001:db8:9::1", None).await;
        });
    });
}

#[test]
fn routes_that_linux_drops_without_a_word_are_gone() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        block_on(async {
            twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24", "192.0.2.2/24"])).await.expect("sets");
            let gone = async |line: &str, to: &str| {
                sh(line);
                wait_for(&twin, &format!("no route to {to} after `{line}`"), |view| {
                    view.routes.lookup(ip(to)).is_none()
                })
                .await;
            };
            sh(
                "ip route add 10.0.0.0/8 via 192.0.2.254 src 192.0.2.2; ip route add 10.0.0.0/9 via 192.0.2.254",
            );
            wait_for(&twin, "the routes", |view| view.routes.lookup(ip("10.255.0.1")).is_some()).await;
            gone("ip addr del 192.0.2.2/24 dev wan", "10.255.0.1").await;
            assert!(twin.view().routes.lookup(ip("10.0.0.1")).is_some(), "this one does not use the address");
            gone("ip link set wan down", "10.0.0.1").await;
            assert_eq!(
                twin.view().routes.lookup(ip("192.0.2.1")),
                Some(Route::Local),
                "Linux keeps it, as for any link"
            );
            sh(
                "ip link set wan up; ip nexthop add id 7 via 192.0.2.254 dev wan; ip route add 10.0.0.0/8 nhid 7",
            );
            wait_for(&twin, "the route by a nexthop object", |view| {
                view.routes.lookup(ip("10.0.0.1")) == via(Some("192.0.2.254"))
            })
            .await;
            gone("ip nexthop del id 7", "10.0.0.1").await;
            sh("ip link del wan");
            wait_for(&twin, "no interface", |view| view.interfaces.get(WAN).is_none()).await;
            wait_for(&twin, "no route of it", |view| view.routes.lookup(ip("192.0.2.9")).is_none()).await;
        });
    });
}

#[test]
fn a_nexthop_object_that_is_replaced_is_followed_where_linux_tells_of_the_object_alone() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        sh("sysctl -qw net.ipv4.nexthop_compat_mode=0; ip link set wan up; ip addr add 192.0.2.1/24 dev wan");
        sh("ip nexthop add id 7 via 192.0.2.254 dev wan; ip route add 10.0.0.0/8 nhid 7");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        block_on(async {
            let expect = async |line: &str, to: &str, route: Option<Route>| {
                sh(line);
                wait_for(&twin, &format!("{to} by {route:?} after `{line}`"), |view| {
                    view.routes.lookup(ip(to)) == route
                })
                .await;
            };
            expect("true", "10.0.0.1", via(Some("192.0.2.254"))).await;
            expect("ip nexthop replace id 7 via 192.0.2.253 dev wan", "10.0.0.1", via(Some("192.0.2.253")))
                .await;
            expect(
                "ip nexthop add id 8 group 7; ip route add 11.0.0.0/8 nhid 8",
                "11.0.0.1",
                via(Some("192.0.2.253")),
            )
            .await;
            expect("ip nexthop replace id 7 via 192.0.2.252 dev wan", "11.0.0.1", via(Some("192.0.2.252")))
                .await;
            expect(
                "ip -6 nexthop add id 9 via fe80::9 dev wan; ip route add 2001:db8:9::/48 nhid 9",
                "2001:db8:9::1",
                via(Some("fe80::9")),
            )
            .await;
            expect(
                "ip nexthop add id 6 blackhole; ip route add 12.0.0.0/8 nhid 6",
                "12.0.0.1",
                Some(Route::Forbidden),
            )
            .await;
            expect("ip nexthop del id 7", "10.0.0.1", None).await;
            assert_eq!(twin.counters().unreadable.get(), 0);
        });
    });
}

#[test]
fn configured_addresses_outlive_a_twin_that_goes_down_and_up() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        block_on(async {
            twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24", "2001:db8::1/64"])).await.expect("sets");
            sh("ip link set wan down");
            wait_for(&twin, "no route while it is down", |view| {
                view.routes.lookup(ip("192.0.2.9")).is_none()
            })
            .await;
            sh("ip link set wan up");
            wait_for(&twin, "both addresses and their networks", |view| {
                ["192.0.2.1", "2001:db8::1"].iter().all(|at| view.routes.is_local(ip(at)))
                    && ["192.0.2.9", "2001:db8::9"].iter().all(|to| view.routes.lookup(ip(to)) == via(None))
            })
            .await;
            // What was taken away by hand stays away.
            sh("ip addr del 2001:db8::1/64 dev wan; ip link set wan down; ip link set wan up");
            wait_for(&twin, "one of them", |view| {
                view.routes.lookup(ip("192.0.2.9")) == via(None) && !view.routes.is_local(ip("2001:db8::1"))
            })
            .await;
        });
    });
}

#[test]
fn a_packet_may_be_as_long_as_its_route_says() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        let mtu = |view: &TwinView, to: &str| {
            let TwinView { interfaces, routes, neighbours } = view.clone();
            Tables { interfaces, routes, neighbours, ..Tables::default() }.mtu_towards(ip(to))
        };
        block_on(async {
            twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24", "2001:db8::1/64"])).await.expect("sets");
            sh(
                "ip route add 192.0.2.11/32 dev wan mtu 1400; ip -6 route add 2001:db8:9::/48 via 2001:db8::9 mtu 1300",
            );
            let are = async |expected: [u16; 3]| {
                wait_for(&twin, &format!("MTUs {expected:?}"), |view| {
                    let to = ["192.0.2.11", "2001:db8:9::1", "192.0.2.12"];
                    to.map(|to| mtu(view, to)) == expected.map(Some)
                })
                .await;
            };
            are([1400, 1300, 1500]).await;
            let neighbours = ["192.0.2.11", "192.0.2.12", "2001:db8::9"];
            for at in neighbours {
                sh(&format!("ip neigh replace {at} lladdr 02:00:00:00:00:09 dev wan nud permanent"));
            }
            wait_for(&twin, "the neighbours", |view| {
                neighbours.iter().all(|to| matches!(way(view, to), Way::Hop(_)))
            })
            .await;
            are([1400, 1300, 1500]).await;
            assert_eq!(mac_of(&twin.view(), "192.0.2.11"), NINE);
            sh("ip route replace 192.0.2.11/32 dev wan mtu lock 1350; ip link set wan mtu 1320");
            are([1320, 1300, 1320]).await;
            sh("ip link set wan mtu 1500");
            are([1350, 1300, 1500]).await;
            sh("ip route del 192.0.2.11/32 dev wan; ip -6 route replace 2001:db8:9::/48 via 2001:db8::9");
            are([1500; 3]).await;
            // What Linux routes over an interface of its own fits that.
            sh(
                "ip link add other mtu 1420 type veth peer name unused; ip link set other up; ip link set unused up",
            );
            sh("ip addr add 203.0.113.1/24 dev other; ip route add 192.0.2.11/32 via 203.0.113.9");
            are([1420, 1500, 1500]).await;
            sh("ip link set other mtu 1380");
            are([1380, 1500, 1500]).await;
            sh("ip route replace 192.0.2.11/32 via 203.0.113.9 mtu 1300");
            are([1300, 1500, 1500]).await;
        });
    });
}

#[test]
fn rules_choose_the_tables_in_their_order() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        block_on(async {
            twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24"])).await.expect("sets");
            sh("ip route add 10.1.0.0/16 via 192.0.2.3; ip route add default via 192.0.2.100 table 100");
            wait_for(&twin, "main", |view| view.routes.lookup(ip("10.1.0.1")) == via(Some("192.0.2.3")))
                .await;
            assert_eq!(twin.view().routes.lookup(ip("8.8.8.8")), None, "no rule names table 100");
            sh("ip rule add pref 40000 lookup 100");
            wait_for(&twin, "100 after main", |view| {
                view.routes.lookup(ip("8.8.8.8")) == via(Some("192.0.2.100"))
            })
            .await;
            assert_eq!(twin.view().routes.lookup(ip("10.1.0.1")), via(Some("192.0.2.3")));
            sh("ip rule add pref 100 lookup 100");
            wait_for(&twin, "100 before main hides it all", |view| {
                view.routes.lookup(ip("10.1.0.1")) == via(Some("192.0.2.100"))
            })
            .await;
            sh("ip rule add pref 50 from 192.0.2.1 prohibit; ip rule del pref 100; ip rule del pref 40000");
            wait_for(&twin, "main alone", |view| view.routes.lookup(ip("8.8.8.8")).is_none()).await;
            assert_eq!(twin.view().routes.lookup(ip("10.1.0.1")), via(Some("192.0.2.3")));
        });
    });
}

#[test]
fn a_rule_by_mark_and_local_routes_in_its_table_make_packets_of_the_mark_local() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        block_on(async {
            twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24"])).await.expect("sets");
            sh(
                "ip route add local 0.0.0.0/0 dev lo table 100; ip -6 route add local 2001:db8::/32 dev lo table 100",
            );
            sh("ip rule add fwmark 0x7/0xf lookup 100; ip -6 rule add fwmark 7 lookup 100");
            wait_for(&twin, "both families", |view| {
                let is_local = |to, mark| view.routes.is_local_by_mark(ip(to), mark);
                is_local("8.8.8.8", 0x17) && is_local("2001:db8::1", 7)
            })
            .await;
            let routes = twin.view().routes;
            let is_local = |to, mark| routes.is_local_by_mark(ip(to), mark);
            assert!(!is_local("8.8.8.8", 8) && !is_local("8.8.8.8", 0) && !is_local("2001:db9::1", 7));
            assert!(!is_local("2001:db8::1", 0x17), "without a mask the whole mark counts");
            assert!(!is_local("192.0.2.1", 7), "an address of its own is local without it");
            assert_eq!(routes.lookup(ip("8.8.8.8")), None);
            sh("ip route add throw 8.0.0.0/8 table 100");
            wait_for(&twin, "throw", |view| !view.routes.is_local_by_mark(ip("8.8.8.8"), 7)).await;
            assert!(twin.view().routes.is_local_by_mark(ip("9.9.9.9"), 7));
            sh("ip rule del fwmark 0x7/0xf lookup 100; ip -6 rule del fwmark 7 lookup 100");
            wait_for(&twin, "no rule", |view| !view.routes.have_marked()).await;
        });
    });
}

/// The task itself, which does nothing until it is told to: what happens meanwhile is a burst, however long it takes.
async fn paused_task(receive_buffer: usize) -> (Task, watch::Receiver<TwinView>, Arc<TwinCounters>) {
    let (out, view) = watch::channel(TwinView::default());
    let counters = Arc::new(TwinCounters::default());
    let task = Task::new(vec![port("wan", 0)], receive_buffer, counters.clone(), (out, Arc::default()))
        .await
        .expect("starts");
    (task, view, counters)
}

/// 10,000 routes, 10.0.0.0/32 and up, by one `ip`.
fn ten_thousand_routes() {
    let lines: String = (0..10_000u32)
        .map(|n| format!("route add 10.0.{}.{}/32 via 192.0.2.254\n", n >> 8, n & 255))
        .collect();
    let mut process =
        Process::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip runs");
    process.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("ip reads");
    assert!(process.wait().expect("ip ends").success());
}

fn last_of_ten_thousand(view: &TwinView) -> bool {
    view.routes.lookup(ip("10.0.39.15")) == via(Some("192.0.2.254"))
}

/// Lets the task turn until the view is as wanted.
async fn turn_until(task: &mut Task, view: &watch::Receiver<TwinView>, is_so: impl Fn(&TwinView) -> bool) {
    let turning = async {
        while !is_so(&view.borrow()) {
            task.turn().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, turning).await.is_ok(), "it never came");
}

#[test]
fn a_burst_of_ten_thousand_routes_makes_few_builds() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        sh("ip addr add 192.0.2.1/24 dev wan; ip link set wan up");
        block_on(async {
            let (mut task, view, counters) = paused_task(task::RECEIVE_BUFFER).await;
            let built = counters.routes_built.get();
            ten_thousand_routes();
            turn_until(&mut task, &view, last_of_ten_thousand).await;
            assert!(counters.events.get() >= 10_000);
            assert_eq!(counters.overruns.get(), 0);
            // One would do. A slow machine may take longer over the messages than we are ready to wait, and build once a turn.
            let built = counters.routes_built.get() - built;
            assert!((1..=50).contains(&built), "{built} builds");
        });
    });
}

#[test]
fn what_was_lost_in_an_overrun_is_read_again() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        sh("ip addr add 192.0.2.1/24 dev wan; ip link set wan up");
        block_on(async {
            let (mut task, view, counters) = paused_task(4096).await;
            sh("ip route add 11.0.0.0/8 via 192.0.2.254");
            turn_until(&mut task, &view, |view| view.routes.lookup(ip("11.0.0.1")).is_some()).await;
            ten_thousand_routes();
            sh("ip route del 11.0.0.0/8; ip addr add 192.0.2.33/24 dev wan");
            sh("ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:09 dev wan nud permanent");
            turn_until(&mut task, &view, last_of_ten_thousand).await;
            assert!(counters.overruns.get() >= 1, "4 KiB cannot hold 10,000 messages");
            assert_eq!(view.borrow().routes.lookup(ip("11.0.0.1")), None);
            assert!(view.borrow().routes.is_local(ip("192.0.2.33")));
            assert_eq!(mac_of(&view.borrow(), "192.0.2.7"), NINE);
        });
    });
}

#[test]
fn links_and_neighbours_that_are_not_ours_publish_nothing() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        sh("ip link set wan up; ip addr add 192.0.2.1/24 dev wan");
        block_on(async {
            let (mut task, mut view, counters) = paused_task(task::RECEIVE_BUFFER).await;
            sh("ip link add other type veth peer name unused; ip link set other address 02:00:00:00:00:55");
            sh("ip link set wan mtu 1300");
            turn_until(&mut task, &view, |view| view.interfaces.get(WAN).is_some_and(|wan| wan.mtu == 1300))
                .await;
            // What the kernel still has to say about the wire coming up may be published meanwhile: not each time.
            for mtu in 1400..1430 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                task.turn().await;
                view.mark_unchanged();
                let events = counters.events.get();
                sh(&format!(
                    "ip link set other mtu {mtu}; \
                     ip neigh replace 10.9.9.9 lladdr 02:00:00:00:{}:66 dev other nud noarp",
                    mtu - 1400
                ));
                while counters.events.get() < events + 2 {
                    task.turn().await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                task.turn().await;
                if !view.has_changed().expect("the task is there") {
                    return;
                }
            }
            panic!("something was published each time");
        });
    });
}

#[test]
fn dropping_the_handle_ends_the_thread() {
    in_namespace(|| {
        let far = Far::new();
        far.wire("wan");
        let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
        let changed = twin.changed();
        drop(twin);
        assert!(changed.has_changed().is_err(), "the sender is gone, and the thread with it");
    });
}
