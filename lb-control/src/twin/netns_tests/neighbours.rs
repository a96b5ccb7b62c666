//! Neighbours: asked for on the wire, kept fresh, set by others.

use super::*;

/// Both families: a twin with addresses, and a far end that has `.9` and `::9` with the MAC address 02:…:09.
fn wan_and_a_neighbour(far: &Far) -> Twin {
    far.wire("wan");
    far.sh("ip link set wan-far address 02:00:00:00:00:09");
    far.sh("ip addr add 192.0.2.9/24 dev wan-far; ip addr add 2001:db8::9/64 nodad dev wan-far");
    let twin = Twin::start(vec![port("wan", 0)]).expect("starts");
    block_on(twin.set_addresses(PortId(0), &nets(&["192.0.2.1/24", "2001:db8::1/64"]))).expect("sets");
    twin
}

#[test]
fn resolve_asks_on_the_wire_and_the_answer_is_in_the_view() {
    in_namespace(|| {
        let far = Far::new();
        let twin = wan_and_a_neighbour(&far);
        block_on(async {
            for to in ["192.0.2.9", "2001:db8::9"] {
                assert_eq!(way(&twin.view(), to), Way::Unresolved(WAN, ip(to)));
                // Only an answer from the wire can tell the MAC address of the far end.
                twin.resolve(WAN, ip(to));
                wait_for(&twin, "an answer", |view| mac_of(view, to) == NINE).await;
            }
            let routes = twin.counters().routes_built.get();
            for to in ["192.0.2.66", "2001:db8::66"] {
                twin.resolve(WAN, ip(to));
                wait_for(&twin, "no answer, which is an answer", |view| has_failed(view, to)).await;
                // Nobody asks any more: the next packet shall.
                wait_for(&twin, "forgotten", |view| way(view, to) == Way::Unresolved(WAN, ip(to))).await;
            }
            assert_eq!(
                twin.counters().routes_built.get(),
                routes,
                "a neighbour is no reason to build routes"
            );
        });
    });
}

#[test]
fn a_thousand_questions_for_one_neighbour_are_one_on_the_wire() {
    in_namespace(|| {
        let far = Far::new();
        let twin = wan_and_a_neighbour(&far);
        block_on(async {
            let before = twin.counters().probes.get();
            for _ in 0..1000 {
                twin.resolve(WAN, ip("192.0.2.9"));
            }
            wait_for(&twin, "an answer", |view| mac_of(view, "192.0.2.9") == NINE).await;
            // A second's worth of packets may have been asked for in two seconds, hardly in more.
            assert!((before + 1..=before + 3).contains(&twin.counters().probes.get()));
        });
    });
}

#[test]
fn neighbours_that_somebody_else_sets_are_shown() {
    in_namespace(|| {
        let far = Far::new();
        let twin = wan_and_a_neighbour(&far);
        block_on(async {
            let expect = async |line: &str, to: &str, mac: Option<Mac>| {
                sh(line);
                wait_for(&twin, &format!("{to} at {mac:?} after `{line}`"), |view| mac_of(view, to) == mac)
                    .await;
            };
            let seven = Some([2, 0, 0, 0, 0, 7]);
            for to in ["192.0.2.7", "2001:db8::7"] {
                expect(
                    &format!("ip neigh add {to} lladdr 02:00:00:00:00:07 dev wan nud permanent"),
                    to,
                    seven,
                )
                .await;
                expect(&format!("ip neigh change {to} lladdr 02:00:00:00:00:09 dev wan nud noarp"), to, NINE)
                    .await;
                expect(
                    &format!("ip neigh change {to} lladdr 02:00:00:00:00:07 dev wan nud stale"),
                    to,
                    seven,
                )
                .await;
                expect(&format!("ip neigh del {to} dev wan"), to, None).await;
            }
        });
    });
}

#[test]
fn a_used_neighbour_that_dies_fails_and_comes_back_with_another_mac() {
    in_namespace(|| {
        let far = Far::new();
        let twin = wan_and_a_neighbour(&far);
        // Reachable for half to three halves of this, then stale.
        sh("for f in 4 6; do echo 400 > /proc/sys/net/ipv$f/neigh/wan/base_reachable_time_ms; done");
        block_on(async {
            let hosts = ["192.0.2.9", "2001:db8::9"];
            twin.keep_resolved(hosts.map(ip).to_vec()).await.expect("runs");
            for to in hosts {
                wait_for(&twin, "resolved before any packet", |view| mac_of(view, to) == NINE).await;
            }
            far.sh("ip addr del 192.0.2.9/24 dev wan-far; ip addr del 2001:db8::9/64 dev wan-far");
            for to in hosts {
                wait_for(&twin, "it is noticed that it is gone", |view| has_failed(view, to)).await;
            }
            far.sh("ip link set wan-far address 02:00:00:00:00:0a");
            far.sh("ip addr add 192.0.2.9/24 dev wan-far; ip addr add 2001:db8::9/64 nodad dev wan-far");
            for to in hosts {
                wait_for(&twin, "back", |view| mac_of(view, to) == Some([2, 0, 0, 0, 0, 10])).await;
            }
        });
    });
}

#[test]
fn a_stale_neighbour_is_proved_when_it_is_used_and_left_alone_when_not() {
    in_namespace(|| {
        let far = Far::new();
        let twin = wan_and_a_neighbour(&far);
        let state = |to: &str| {
            let output =
                Process::new("ip").args(["neigh", "show", to, "dev", "wan"]).output().expect("ip runs");
            String::from_utf8(output.stdout).expect("text")
        };
        block_on(async {
            for to in ["192.0.2.9", "2001:db8::9"] {
                sh(&format!("ip neigh replace {to} lladdr 02:00:00:00:00:09 dev wan nud stale"));
                wait_for(&twin, "known", |view| mac_of(view, to) == NINE).await;
                let before = twin.counters().probes.get();
                turn_over(&twin).await;
                assert_eq!(twin.counters().probes.get(), before, "nobody uses it");
                assert!(state(to).contains("STALE"), "{}", state(to));
                twin.resolve(WAN, ip(to));
                turn_over(&twin).await;
                assert_eq!(twin.counters().probes.get(), before + 1);
                assert!(!state(to).contains("STALE"), "{}", state(to));
                // Its next staleness needs no packet.
                sh(&format!("ip neigh replace {to} lladdr 02:00:00:00:00:09 dev wan nud stale"));
                let proved = async {
                    while twin.counters().probes.get() == before + 1 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                assert!(tokio::time::timeout(PATIENCE, proved).await.is_ok(), "{to} was not probed again");
                sh(&format!("ip neigh del {to} dev wan"));
                wait_for(&twin, "gone", |view| mac_of(view, to).is_none()).await;
            }
        });
    });
}

#[test]
fn the_gateway_of_a_route_is_resolved_before_any_packet() {
    in_namespace(|| {
        let far = Far::new();
        let twin = wan_and_a_neighbour(&far);
        block_on(async {
            sh("ip route add 10.0.0.0/8 via 192.0.2.9; ip -6 route add 2001:db8:1::/48 via 2001:db8::9");
            for to in ["10.1.2.3", "2001:db8:1::1"] {
                wait_for(&twin, "the gateway", |view| mac_of(view, to) == NINE).await;
            }
            sh("ip neigh flush dev wan; ip -6 neigh flush dev wan");
            for to in ["10.1.2.3", "2001:db8:1::1"] {
                wait_for(&twin, "the gateway again", |view| mac_of(view, to) == NINE).await;
            }
        });
    });
}
