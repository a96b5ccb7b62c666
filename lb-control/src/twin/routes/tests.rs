use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::route::RouteRealm;
use netlink_packet_route::rule::RuleAttribute;
use proptest::prelude::*;

use super::super::rules::tests::{marked_rule, rule};
use super::*;

const WAN: IfIndex = 10;
const OTHER: IfIndex = 2;
const MAIN: u32 = 254;

fn indices() -> Indices {
    Indices::new(vec![WAN])
}

/// No nexthop objects, and nothing known of links.
fn ways(indices: &Indices) -> Ways<'_> {
    static NONE: std::sync::LazyLock<(Nexthops, Links)> = std::sync::LazyLock::new(Default::default);
    let (nexthops, links) = &*NONE;
    Ways { indices, nexthops, links }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn address(text: &str) -> RouteAddress {
    match ip(text) {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// A route as the kernel tells it.
fn message(to: &str, kind: RouteType, more: impl IntoIterator<Item = RouteAttribute>) -> RouteMessage {
    let (network, len) = to.split_once('/').expect("a prefix");
    let mut message = RouteMessage::default();
    message.header.address_family =
        if ip(network).is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = len.parse().expect("a length");
    message.header.kind = kind;
    message.header.table = MAIN as u8;
    message.attributes.push(RouteAttribute::Destination(address(network)));
    message.attributes.extend(more);
    message
}

fn unicast(to: &str, gateway: &str, index: IfIndex, metric: u32) -> RouteMessage {
    let gateway = RouteAttribute::Gateway(address(gateway));
    message(to, RouteType::Unicast, [gateway, RouteAttribute::Oif(index), RouteAttribute::Priority(metric)])
}

fn hop(gateway: &str, index: IfIndex, flags: RouteNextHopFlags) -> RouteNextHop {
    let mut hop = RouteNextHop::default();
    hop.interface_index = index;
    hop.flags = flags;
    hop.attributes = vec![RouteAttribute::Gateway(address(gateway))];
    hop
}

fn main_only() -> Rules {
    let mut rules = Rules::default();
    rules.add(&rule(32766, MAIN));
    let mut ipv6 = rule(32766, MAIN);
    ipv6.header.family = AddressFamily::Inet6;
    rules.add(&ipv6);
    rules
}

fn tables(messages: &[RouteMessage]) -> RouteTables {
    let mut tables = RouteTables::default();
    messages.iter().for_each(|message| tables.add_dumped(message));
    tables
}

fn lookup(tables: &RouteTables, to: &str) -> Option<Route> {
    tables.build(&main_only(), ways(&indices())).routes.lookup(ip(to))
}

fn via(gateway: &str) -> Option<Route> {
    Some(Route::Via { interface: InterfaceId(0), gateway: Some(ip(gateway)) })
}

#[test]
fn each_type_of_route_has_its_meaning() {
    let tables = tables(&[
        message("10.0.0.1/32", RouteType::Local, []),
        message("10.0.0.255/32", RouteType::Broadcast, []),
        message("2001:db8::/128", RouteType::Anycast, []),
        message("10.1.0.0/16", RouteType::BlackHole, []),
        message("10.2.0.0/16", RouteType::Unreachable, []),
        message("10.3.0.0/16", RouteType::Prohibit, []),
        message("ff00::/8", RouteType::Multicast, []),
        unicast("10.4.0.0/16", "10.0.0.9", OTHER, 0),
        unicast("10.5.0.0/16", "10.0.0.9", WAN, 0),
        message("10.6.0.0/16", RouteType::Unicast, [RouteAttribute::Oif(WAN)]),
    ]);
    let expected = [
        ("10.0.0.1", Some(Route::Local)),
        ("10.0.0.255", Some(Route::Local)),
        ("2001:db8::", Some(Route::Local)),
        ("10.1.0.1", Some(Route::Forbidden)),
        ("10.2.0.1", Some(Route::Forbidden)),
        ("10.3.0.1", Some(Route::Forbidden)),
        ("ff02::1", None),
        ("10.4.0.1", Some(Route::Linux)),
        ("10.5.0.1", via("10.0.0.9")),
        ("10.6.0.1", Some(Route::Via { interface: InterfaceId(0), gateway: None })),
        ("10.7.0.1", None),
    ];
    for (to, route) in expected {
        assert_eq!(lookup(&tables, to), route, "{to}");
    }
    let routes = tables.build(&main_only(), ways(&indices())).routes;
    let is_broadcast = |address: [u8; 4]| routes.is_broadcast(address.into());
    assert_eq!([[10, 0, 0, 255], [10, 0, 0, 1], [255; 4]].map(is_broadcast), [true, false, true]);
    let is_anycast = |address| routes.is_anycast(ip(address));
    assert_eq!(["2001:db8::", "10.0.0.1", "2001:db8::1"].map(is_anycast), [true, false, false]);
}

#[test]
fn routes_by_source_or_tos_and_clones_are_not_mirrored() {
    let mut by_source = unicast("2001:db8::/32", "fe80::1", WAN, 0);
    by_source.header.source_prefix_length = 64;
    let mut by_tos = unicast("10.0.0.0/8", "10.0.0.9", WAN, 0);
    by_tos.header.tos = 8;
    let mut clone = unicast("10.0.0.0/8", "10.0.0.9", WAN, 0);
    clone.header.flags = RouteFlags::Cloned;
    let tables = tables(&[by_source, by_tos, clone]);
    assert_eq!(tables, RouteTables::default());
}

#[test]
fn the_lower_metric_wins_whatever_came_first() {
    let mut tables = tables(&[
        unicast("10.0.0.0/8", "10.0.0.20", WAN, 20),
        unicast("10.0.0.0/8", "10.0.0.10", WAN, 10),
        unicast("10.0.0.0/8", "10.0.0.30", WAN, 30),
    ]);
    assert_eq!(lookup(&tables, "10.9.9.9"), via("10.0.0.10"));
    assert_eq!(tables.remove(&unicast("10.0.0.0/8", "10.0.0.10", WAN, 10)), RouteChange::Changed);
    assert_eq!(lookup(&tables, "10.9.9.9"), via("10.0.0.20"));
}

#[test]
fn a_dead_route_gives_way_to_the_next_metric_and_then_to_a_shorter_prefix() {
    let mut dead = unicast("10.0.0.0/8", "10.0.0.1", WAN, 1);
    dead.header.flags = RouteFlags::Dead;
    let mut also_dead = dead.clone();
    also_dead.attributes.push(RouteAttribute::Priority(2));
    let tables_with = |more: &[RouteMessage]| {
        let mut tables = tables(&[dead.clone(), unicast("0.0.0.0/0", "10.0.0.3", WAN, 0)]);
        more.iter().for_each(|message| tables.add_dumped(message));
        tables
    };
    assert_eq!(
        lookup(&tables_with(&[unicast("10.0.0.0/8", "10.0.0.2", WAN, 2)]), "10.9.9.9"),
        via("10.0.0.2")
    );
    assert_eq!(lookup(&tables_with(&[also_dead]), "10.9.9.9"), via("10.0.0.3"));
}

#[test]
fn of_a_multipath_route_the_first_usable_hop_on_our_interfaces_is_taken() {
    let multipath = |hops: Vec<RouteNextHop>| {
        lookup(
            &tables(&[message("10.0.0.0/8", RouteType::Unicast, [RouteAttribute::MultiPath(hops)])]),
            "10.1.1.1",
        )
    };
    let (alive, dead) = (RouteNextHopFlags::empty(), RouteNextHopFlags::Dead);
    let mut tunnel = hop("10.0.0.4", WAN, alive);
    tunnel.attributes.push(RouteAttribute::Encap(vec![]));
    let ours = hop("10.0.0.1", WAN, alive);
    assert_eq!(
        multipath(vec![hop("10.0.0.2", OTHER, alive), hop("10.0.0.3", WAN, dead), tunnel.clone(), ours]),
        via("10.0.0.1")
    );
    assert_eq!(
        multipath(vec![hop("10.0.0.2", OTHER, alive), hop("10.0.0.3", WAN, dead)]),
        Some(Route::Linux)
    );
    assert_eq!(multipath(vec![tunnel]), Some(Route::Linux), "Linux can encapsulate");
    assert_eq!(multipath(vec![hop("10.0.0.3", WAN, dead)]), None);
}

fn realm(source: u16, destination: u16) -> RouteAttribute {
    RouteAttribute::Realm(RouteRealm { source, destination })
}

#[test]
fn realms_are_those_of_the_route_that_is_taken_and_of_the_rule_that_leads_to_it() {
    let with = |mut message: RouteMessage, said| {
        message.attributes.push(said);
        message
    };
    let hops = |last: RouteAttribute| {
        let mut hops = [("10.0.0.2", OTHER), ("10.0.0.3", WAN), ("10.0.0.4", WAN)]
            .map(|(gateway, index)| hop(gateway, index, RouteNextHopFlags::empty()));
        hops[1].flags = RouteNextHopFlags::Dead;
        hops[0].attributes.push(realm(0, 3));
        hops[1].attributes.push(realm(0, 4));
        hops[2].attributes.push(last);
        message("11.0.0.0/8", RouteType::Unicast, [RouteAttribute::MultiPath(hops.to_vec())])
    };
    let mut all = tables(&[
        with(unicast("10.0.0.0/8", "10.0.0.1", WAN, 0), realm(9, 7)),
        unicast("10.1.0.0/16", "10.0.0.1", WAN, 0),
        with(unicast("10.2.0.0/16", "10.0.0.9", OTHER, 0), realm(0, 2)),
        hops(realm(1, 5)),
        with(message("12.0.0.1/32", RouteType::Local, []), realm(0, 8)),
        with(message("12.0.0.255/32", RouteType::Broadcast, []), realm(0, 8)),
        in_table(100, with(unicast("10.3.0.0/16", "10.0.0.1", WAN, 0), realm(0, 6))),
        in_table(100, unicast("10.4.0.0/16", "10.0.0.1", WAN, 0)),
        in_table(100, message("10.5.0.0/16", RouteType::Throw, [])),
    ]);
    let mut rules = main_only();
    let mut tagged = rule(100, 100);
    tagged.attributes.push(RuleAttribute::Realm(RouteRealm { source: 0x11, destination: 0x12 }));
    rules.add(&tagged);
    let routes = all.build(&rules, ways(&indices())).routes;
    for (to, sent, received) in [
        ("10.9.9.9", 0x9_0007, 0x7_0000),
        ("10.1.9.9", 0, 0),
        ("10.2.9.9", 2, 0x2_0000),
        ("11.1.1.1", 0x1_0005, 0x5_0000),
        ("12.0.0.1", 8, 0x8_0000),
        ("12.0.0.255", 0, 0),
        ("10.3.9.9", 0x11_0006, 0x6_0011),
        ("10.4.9.9", 0x11_0012, 0x12_0011),
        ("10.5.9.9", 0x9_0007, 0x7_0000),
        ("99.9.9.9", 0, 0),
    ] {
        let found = routes.realms(ip(to));
        assert_eq!((found.of_sent(), found.of_received()), (sent, received), "{to}");
    }
    let another = with(unicast("10.0.0.0/8", "10.0.0.1", WAN, 0), realm(0, 1));
    assert_eq!(all.add(&another, NLM_F_REPLACE), RouteChange::Changed, "another realm alone is news");
    assert_eq!(all.build(&rules, ways(&indices())).routes.realms(ip("10.9.9.9")).of_sent(), 1);
    assert_eq!(all.remove(&another), RouteChange::Changed);
}

#[test]
fn replacing_a_route_is_one_message_without_a_removal() {
    let mut tables = tables(&[unicast("10.0.0.0/8", "10.0.0.1", WAN, 0)]);
    let new = unicast("10.0.0.0/8", "10.0.0.2", WAN, 0);
    assert_eq!(tables.add(&new, NLM_F_REPLACE), RouteChange::Changed);
    assert_eq!(lookup(&tables, "10.1.1.1"), via("10.0.0.2"));
    assert_eq!(tables.add(&new, NLM_F_CREATE), RouteChange::None, "said again, it is no news");
    assert_eq!(tables.remove(&new), RouteChange::Changed);
    assert_eq!(tables.remove(&new), RouteChange::None);
    assert_eq!(lookup(&tables, "10.1.1.1"), None);
}

#[test]
fn what_a_message_does_not_tell_is_asked_for() {
    let mut tables = tables(&[unicast("10.0.0.0/8", "10.0.0.1", WAN, 0)]);
    let second = unicast("10.0.0.0/8", "10.0.0.2", WAN, 0);
    assert_eq!(tables.add(&second, NLM_F_CREATE), RouteChange::Unclear, "before or after the first one?");
    assert_eq!(tables.add(&unicast("10.0.0.0/8", "10.0.0.3", WAN, 0), NLM_F_REPLACE), RouteChange::Unclear);
    let unknown = unicast("10.0.0.0/8", "10.0.0.77", WAN, 0);
    assert_eq!(tables.remove(&unknown), RouteChange::Unclear, "one of several hops?");
}

#[test]
fn a_removal_that_differs_in_a_flag_finds_its_route() {
    let mut tables = tables(&[unicast("10.0.0.0/8", "10.0.0.1", WAN, 0)]);
    let mut gone = unicast("10.0.0.0/8", "10.0.0.1", WAN, 0);
    gone.header.flags = RouteFlags::Dead | RouteFlags::Linkdown;
    assert_eq!(tables.remove(&gone), RouteChange::Changed);
    assert_eq!(lookup(&tables, "10.1.1.1"), None);
}

#[test]
fn gateways_in_use_are_named_with_their_link() {
    let tables = tables(&[
        unicast("10.0.0.0/8", "10.0.0.1", WAN, 0),
        unicast("10.0.0.0/8", "10.0.0.2", WAN, 5),
        unicast("11.0.0.0/8", "10.0.0.1", WAN, 0),
        unicast("12.0.0.0/8", "10.0.0.4", OTHER, 0),
        message("13.0.0.0/8", RouteType::Unicast, [RouteAttribute::Oif(WAN)]),
    ]);
    let built = tables.build(&main_only(), ways(&indices()));
    assert_eq!(built.gateways.into_iter().collect::<Vec<_>>(), [(WAN, ip("10.0.0.1"))]);
}

#[test]
fn throw_hands_over_to_the_next_table() {
    let tables = tables(&[
        in_table(100, unicast("10.0.0.0/8", "10.0.0.1", WAN, 0)),
        in_table(100, message("10.1.0.0/16", RouteType::Throw, [])),
        in_table(100, message("11.0.0.0/8", RouteType::Throw, [])),
        unicast("10.0.0.0/8", "10.0.0.2", WAN, 0),
        unicast("10.1.2.0/24", "10.0.0.3", WAN, 0),
        unicast("10.2.2.0/24", "10.0.0.4", WAN, 0),
    ]);
    let mut rules = main_only();
    rules.add(&rule(100, 100));
    let routes = tables.build(&rules, ways(&indices())).routes;
    assert_eq!(routes.lookup(ip("10.9.9.9")), via("10.0.0.1"));
    assert_eq!(routes.lookup(ip("10.1.9.9")), via("10.0.0.2"), "thrown, then by main's longest");
    assert_eq!(routes.lookup(ip("10.1.2.9")), via("10.0.0.3"));
    assert_eq!(routes.lookup(ip("10.2.2.9")), via("10.0.0.1"), "main is not asked, however long its prefix");
    assert_eq!(routes.lookup(ip("11.1.1.1")), Some(Route::Forbidden), "nobody knows it");
}

fn in_table(table: u32, mut message: RouteMessage) -> RouteMessage {
    message.attributes.push(RouteAttribute::Table(table));
    message
}

/// Rules as the kernel has them from the start, of both families, and two by mark before the main table.
fn with_marks() -> Rules {
    let mut rules = main_only();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for mut message in [rule(0, LOCAL_TABLE), marked_rule(10, 100, 1), marked_rule(20, 101, 1)] {
            message.header.family = family;
            rules.add(&message);
        }
    }
    rules
}

#[test]
fn local_routes_of_a_rule_by_mark_are_for_its_mark_alone() {
    let tables = tables(&[
        in_table(LOCAL_TABLE, message("192.0.2.1/32", RouteType::Local, [])),
        in_table(100, message("0.0.0.0/0", RouteType::Local, [RouteAttribute::Oif(1)])),
        in_table(100, message("10.0.0.0/8", RouteType::Throw, [])),
        in_table(100, message("11.0.0.0/8", RouteType::BlackHole, [])),
        in_table(100, unicast("12.0.0.0/8", "10.0.0.1", WAN, 0)),
        in_table(101, message("10.1.0.0/16", RouteType::Local, [])),
        in_table(101, message("12.0.0.0/8", RouteType::Local, [])),
        in_table(101, message("2001:db8::/32", RouteType::Local, [])),
        unicast("0.0.0.0/0", "10.0.0.1", WAN, 0),
    ]);
    let built = tables.build(&with_marks(), ways(&indices()));
    assert_eq!(built.not_followed, ["IPv4 `fwmark 0x1 lookup 100`"]);
    let routes = &built.routes;
    let is_local = |to, mark| routes.is_local_by_mark(ip(to), mark);
    assert!(is_local("198.51.100.1", 1) && !is_local("198.51.100.1", 2));
    assert!(!is_local("192.0.2.1", 1), "a table before says whose it is");
    assert!(is_local("10.1.9.9", 1) && !is_local("10.2.9.9", 1), "thrown to the next rule");
    assert!(!is_local("11.0.0.1", 1) && !is_local("12.0.0.1", 1), "what leads elsewhere is not followed");
    assert!(is_local("2001:db8::1", 1) && !is_local("2001:db9::1", 1));
    assert_eq!(routes.lookup(ip("198.51.100.1")), via("10.0.0.1"), "without a mark");
    assert_eq!(routes.lookup(ip("12.0.0.1")), via("10.0.0.1"));
}

#[test]
fn a_rule_by_mark_behind_a_default_route_says_nothing() {
    let tables = tables(&[
        in_table(100, message("0.0.0.0/0", RouteType::Local, [])),
        unicast("0.0.0.0/0", "10.0.0.1", WAN, 0),
    ]);
    let mut rules = main_only();
    rules.add(&marked_rule(32767, 100, 1));
    assert!(!tables.build(&rules, ways(&indices())).routes.have_marked());
    rules.add(&marked_rule(32765, 100, 1));
    assert!(tables.build(&rules, ways(&indices())).routes.have_marked());
}

#[test]
fn the_two_families_of_a_table_are_put_together() {
    let mut all = tables(&[unicast("10.0.0.0/8", "10.0.0.1", WAN, 0)]);
    all.absorb(tables(&[unicast("2001:db8::/32", "fe80::1", WAN, 0)]));
    assert_eq!(lookup(&all, "10.1.1.1"), via("10.0.0.1"));
    assert_eq!(lookup(&all, "2001:db8::1"), via("fe80::1"));
    let other_order =
        tables(&[unicast("2001:db8::/32", "fe80::1", WAN, 0), unicast("10.0.0.0/8", "10.0.0.1", WAN, 0)]);
    assert_eq!(all, other_order);
}

/// The kernel's way, slowly: table by table, in each the longest usable prefix.
fn kernel_lookup(messages: &[(u32, RouteMessage)], order: &[u32], to: IpAddr) -> Option<Route> {
    for &table in order {
        let mut best: Option<(u8, u32, Entry)> = None;
        for (of, message) in messages {
            let Some((_, prefix, entry)) = parse(message) else { continue };
            let better = best.as_ref().is_none_or(|(len, metric, _)| {
                (std::cmp::Reverse(prefix.len), entry.metric) < (std::cmp::Reverse(*len), *metric)
            });
            if *of == table && masked(to, prefix.len) == prefix && entry.is_usable() && better {
                best = Some((prefix.len, entry.metric, entry));
            }
        }
        match best.map(|(_, _, entry)| entry.route(ways(&indices()))) {
            None | Some(None) => {}
            Some(Some(leads)) => return Some(leads.route),
        }
    }
    None
}

proptest! {
    #[test]
    fn one_longest_prefix_match_says_what_the_kernel_says_table_by_table(
        routes in prop::collection::vec((0u8..3, 0u32..16, 0u32..=4, 0u8..5, any::<bool>()), 0..24),
    ) {
        // 4-bit addresses, so that prefixes of several tables nest and meet.
        let order = [255, 254, 253];
        let messages: Vec<(u32, RouteMessage)> = routes
            .into_iter()
            .enumerate()
            .map(|(n, (table, bits, len, kind, is_dead))| {
                let network = std::net::Ipv4Addr::from(bits << 28);
                let kind = match kind {
                    0 => RouteType::BlackHole,
                    1 => RouteType::Throw,
                    2 => RouteType::Local,
                    _ => RouteType::Unicast,
                };
                // A metric of its own for each: which of two equal ones is first is not what is tested here.
                let mut message = message(&format!("{network}/{len}"), kind, [
                    RouteAttribute::Oif(if n % 3 == 0 { OTHER } else { WAN }),
                    RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, n as u8].into())),
                    RouteAttribute::Priority(n as u32),
                    RouteAttribute::Table(order[usize::from(table)]),
                ]);
                if is_dead {
                    message.header.flags = RouteFlags::Dead;
                }
                (order[usize::from(table)], message)
            })
            .collect();
        let mut rules = Rules::default();
        order.iter().zip(0..).for_each(|(&table, priority)| rules.add(&rule(priority, table)));
        let mut mirror = RouteTables::default();
        messages.iter().for_each(|(_, message)| mirror.add_dumped(message));
        // The second of the tables is asked for a mark as well, before the third.
        let mut marked = Rules::default();
        let by_mark = [rule(0, 255), marked_rule(1, 254, 1), rule(2, 253)];
        by_mark.iter().for_each(|rule| marked.add(rule));
        let for_mark = mirror.build(&marked, ways(&indices())).routes;
        let built = mirror.build(&rules, ways(&indices())).routes;
        for bits in 0u32..16 {
            let to = IpAddr::from(std::net::Ipv4Addr::from(bits << 28 | 1));
            // A `throw` that nobody answers is a hole in what covers it: said as forbidden, which the docs own up to.
            let expected = kernel_lookup(&messages, &order, to);
            let got = built.lookup(to);
            let is_thrown_away = expected.is_none() && got == Some(Route::Forbidden);
            prop_assert!(got == expected || is_thrown_away, "{to}: {got:?}, the kernel says {expected:?}");
            let is_before = kernel_lookup(&messages, &order[..1], to).is_some();
            let is_marked = kernel_lookup(&messages, &order[..2], to) == Some(Route::Local);
            prop_assert_eq!(for_mark.is_local_by_mark(to, 1), is_marked && !is_before, "{}", to);
        }
    }
}
