//! Goal: what operators see and set of tracked connections is so: listings, counts of packets, limits. Method: a rule that turns tracking on,
//! connections through the director, and what lists and counters say of them.

use super::hooks::{Workers, back, rules, through};
use super::*;
use crate::conntrack::{self, Accounting, Labels, Status};
use crate::nat::Range;
use crate::tables::Settings;

/// A director with a rule that never fits, with these switches.
fn director(set: fn(&mut Settings)) -> Director {
    let mut director = Director::new();
    adopt(&mut director, 1, set);
    director
}

fn adopt(director: &mut Director, generation: u32, set: fn(&mut Settings)) {
    let mut tables = tables(generation, &[11, 12], 1);
    set(&mut tables.settings);
    tables.rules = Arc::new(rules(&["filter FORWARD -p tcp --dport 1 -j DROP"]));
    director.path.adopt(Arc::new(tables));
}

fn plain(director: &mut Director, generation: u32, set: fn(&mut Settings)) {
    let mut tables = tables(generation, &[11, 12], 1);
    set(&mut tables.settings);
    director.path.adopt(Arc::new(tables));
}

pub(super) fn list(director: &Director) -> Vec<FlowView> {
    let mut views = Vec::new();
    director.path.list(0, u32::MAX, director.now, &mut |view| views.push(view));
    views
}

fn end(director: &mut Director, view: &FlowView) -> bool {
    director.path.order(&view.original(), &Order::plain(Deed::End), director.now) == Outcome::Done
}

#[test]
fn a_routed_connection_is_listed_with_its_state_and_what_was_seen_of_it() {
    let mut director = director(|_| {});
    director.receive(WAN, &[through(4000, "S")]);
    let view = list(&director).remove(0);
    assert_eq!((view.is_tracked, view.state), (true, "SYN_SENT"));
    assert_eq!(view.known.status, Status::CONFIRMED);
    director.receive(LAN, &[back(4000, "SA")]);
    director.receive(WAN, &[through(4000, "A")]);
    let view = list(&director).remove(0);
    assert_eq!(view.state, "ESTABLISHED");
    assert!(view.known.status.has(Status::SEEN_REPLY) && view.known.status.has(Status::ASSURED));
    assert_eq!((view.client, view.server), ((ip("192.0.2.100"), 4000), (ip("10.0.0.11"), 22)));
    assert_eq!(view.local, None);
}

#[test]
fn a_connection_knows_nothing_of_the_one_that_had_its_place_before() {
    let mut director = director(|_| {});
    director.receive(WAN, &[through(4000, "S")]);
    director.receive(LAN, &[back(4000, "SA")]);
    let view = list(&director).remove(0);
    assert!(end(&mut director, &view));
    // It begins while there are no rules, in the same place.
    plain(&mut director, 2, |_| {});
    director.receive(WAN, &[from_client(4000, "S")]);
    assert_eq!(list(&director)[0].known, Known::default());
    adopt(&mut director, 3, |_| {});
    director.receive(WAN, &[from_client(4000, "A")]);
    assert_eq!(list(&director)[0].known.status, Status::CONFIRMED);
}

#[test]
fn packets_and_bytes_are_counted_by_direction_while_that_is_on() {
    let counting: fn(&mut Settings) = |settings| settings.sysctls.conntrack.acct = 1;
    for (has_rules, is_served) in [(true, false), (true, true), (false, true)] {
        let mut director = Director::new();
        let adopt: fn(&mut Director, u32, fn(&mut Settings)) = if has_rules { adopt } else { plain };
        let (mut to, mut from) = (through(4000, "S"), back(4000, "SA"));
        if is_served {
            (to, from) = (from_client(4000, "S"), from_server(11, 4000, "SA"));
        }
        let bytes = |frame: &[u8]| frame.len() as u64 - 14;
        adopt(&mut director, 1, |_| {});
        director.receive(WAN, &[to.clone()]);
        assert_eq!(list(&director)[0].known.accounting, None);
        adopt(&mut director, 2, counting);
        director.receive(WAN, &[to.clone(), to.clone()]);
        director.receive(LAN, &[from.clone()]);
        // All of them are counted where rules need not be walked for each.
        let ack = if is_served { from_client(4000, "A") } else { through(4000, "A") };
        director.receive(WAN, &vec![ack.clone(); 5]);
        // Conntrack does not count a SYN that comes again.
        let again = if is_served { 2 } else { 0 };
        let sent = again * bytes(&to) + 5 * bytes(&ack);
        let counted = Accounting { packets: [again + 5, 1], bytes: [sent, bytes(&from)] };
        assert_eq!(list(&director)[0].known.accounting, Some(counted), "{has_rules} {is_served}");
        let original = list(&director)[0].original();
        let zero = Order::plain(Deed::Zero);
        assert_eq!(director.path.order(&original, &zero, director.now), Outcome::Done);
        assert_eq!(list(&director)[0].known.accounting, Some(Accounting::default()));
        director.receive(WAN, std::slice::from_ref(&ack));
        let counted = Accounting { packets: [1, 0], bytes: [bytes(&ack), 0] };
        assert_eq!(list(&director)[0].known.accounting, Some(counted), "{has_rules} {is_served}");
        // Off again, the count stands still.
        adopt(&mut director, 3, |_| {});
        director.receive(WAN, &[to.clone()]);
        assert_eq!(list(&director)[0].known.accounting, Some(counted), "{has_rules} {is_served}");
    }
}

#[test]
fn what_a_connection_is_not_prolonged_by_is_not_counted() {
    let mut director = director(|settings| settings.sysctls.conntrack.acct = 1);
    let mut counts = |port, frame: Vec<u8>| {
        director.receive(port, &[frame]);
        list(&director)[0].known.accounting.map(|counted| counted.packets)
    };
    assert_eq!(counts(WAN, through(4000, "S")), Some([1, 0]));
    assert_eq!(counts(WAN, through(4000, "S")), Some([1, 0]), "it comes again");
    assert_eq!(counts(LAN, back(4000, "SA")), Some([1, 1]));
    assert_eq!(counts(WAN, through(4000, "A")), Some([2, 1]));
    assert_eq!(counts(LAN, back(4000, "SA")), Some([2, 1]), "it may answer a SYN that nobody saw");
    assert_eq!(counts(WAN, through(4000, "SF")), Some([2, 1]), "it is INVALID");
    assert_eq!(counts(WAN, through(4000, "A")), Some([3, 1]));
}

#[test]
fn a_refusal_ends_its_connection_also_where_a_rule_drops_it() {
    for rule in
        ["filter FORWARD -p tcp --dport 1 -j DROP", "filter FORWARD -p tcp --tcp-flags RST RST -j DROP"]
    {
        let mut director = Director::new();
        let mut tables = tables(1, &[11, 12], 1);
        tables.rules = Arc::new(rules(&[rule]));
        director.path.adopt(Arc::new(tables));
        director.receive(WAN, &[through(4000, "S")]);
        assert_eq!(list(&director).len(), 1);
        director.receive(LAN, &[back(4000, "RA")]);
        assert_eq!(list(&director).len(), 0, "{rule}");
    }
}

#[test]
fn what_the_host_refuses_is_no_connection() {
    for rule in
        ["filter FORWARD -p tcp --dport 1 -j DROP", "filter OUTPUT -p tcp --tcp-flags RST RST -j DROP"]
    {
        let mut director = Director::new();
        let mut tables = tables(1, &[11, 12], 1);
        tables.rules = Arc::new(rules(&[rule]));
        director.path.adopt(Arc::new(tables));
        let out = director.receive(WAN, &[tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 23), "S")]);
        assert_eq!((out.to_twin.len(), list(&director).len()), (1, 1));
        let refusal = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 23), ("192.0.2.100", 4000), "RA");
        let mut burst: Burst<Frame> = [Frame::new(WAN, &refusal)].into_iter().collect();
        director.path.receive_from_twin(WAN, &mut burst, director.now, &mut Out::default());
        assert_eq!(list(&director).len(), 0, "{rule}");
    }
}

#[test]
fn that_a_connection_is_counted_is_no_status_that_rules_see() {
    let asked = |set: fn(&mut Settings)| {
        let mut director = Director::new();
        let mut tables = tables(1, &[11, 12], 1);
        set(&mut tables.settings);
        tables.rules = Arc::new(rules(&[
            "filter INPUT -m conntrack ! --ctstatus EXPECTED,SEEN_REPLY,ASSURED,CONFIRMED",
        ]));
        director.path.adopt(Arc::new(tables));
        director.receive(WAN, &[from_client(4000, "S"), from_client(4000, "S")]);
        director.counters[0].rule(1).packets.get()
    };
    // The second packet finds it confirmed.
    assert_eq!([asked(|_| {}), asked(|settings| settings.sysctls.conntrack.acct = 1)], [1, 1]);
}

#[test]
fn the_first_packet_counts_too() {
    let mut director = director(|settings| settings.sysctls.conntrack.acct = 1);
    director.receive(WAN, &[through(4000, "S"), from_client(4001, "S")]);
    for view in list(&director) {
        assert_eq!(view.known.accounting.map(|counted| counted.packets), Some([1, 0]), "{view:?}");
    }
}

#[test]
fn beyond_the_limit_one_that_is_not_assured_goes_and_none_that_is() {
    let mut director = director(|settings| settings.sysctls.conntrack.max = 2);
    let flows = |director: &Director| {
        let flows = &director.counters[0].flows;
        (flows.tracked.get(), flows.early_drop.get(), flows.full.get())
    };
    for port in [4000, 4001, 4002] {
        assert_eq!(director.receive(WAN, &[through(port, "S")]).sent.len(), 1);
    }
    assert_eq!(flows(&director), (2, 1, 0));
    let open: Vec<u16> = list(&director).iter().map(|view| view.client.1).collect();
    for &port in &open {
        director.receive(LAN, &[back(port, "SA")]);
        director.receive(WAN, &[through(port, "A")]);
    }
    assert!(director.receive(WAN, &[through(4003, "S")]).sent.is_empty());
    assert_eq!(flows(&director), (2, 1, 1));
    // A virtual service's connection is none of these.
    assert_eq!(director.receive(WAN, &[from_client(4004, "S")]).sent.len(), 1);
    assert_eq!(flows(&director), (2, 1, 1));
    director.path.check_connections().unwrap();
}

#[test]
fn in_a_full_table_a_services_connection_takes_the_place_of_one_that_nobody_answered() {
    let mut director = director(|_| {});
    let capacity = director.counters[0].flows.capacity.get() as u16;
    for port in 0..capacity {
        director.receive(WAN, &[through(4000 + port, "S")]);
    }
    assert_eq!(director.counters[0].flows.tracked.get(), u64::from(capacity));
    assert_eq!(director.receive(WAN, &[from_client(4000, "S")]).sent.len(), 1);
    let flows = &director.counters[0].flows;
    assert_eq!((flows.tracked.get(), flows.early_drop.get()), (u64::from(capacity) - 1, 1));
    director.path.check_connections().unwrap();
}

#[test]
fn what_can_begin_nothing_counts_as_invalid() {
    let mut director = director(|_| {});
    director.receive(WAN, &[through(4000, "SF")]);
    assert_eq!(director.counters[0].flows.invalid.get(), 1);
}

#[test]
fn a_quarter_of_the_connections_can_be_counted_and_places_come_back() {
    let mut director = Director::new();
    plain(&mut director, 2, |settings| settings.sysctls.conntrack.acct = 1);
    let counted =
        |director: &Director| list(director).iter().filter(|view| view.known.accounting.is_some()).count();
    for n in 0..30 {
        director.receive(WAN, &[from_client(4000 + n, "S")]);
    }
    assert_eq!((counted(&director), director.counters[0].flows.uncounted.get()), (25, 5));
    director.path.check_connections().unwrap();
    for view in list(&director).iter().take(10) {
        end(&mut director, view);
    }
    director.path.check_connections().unwrap();
    for n in 0..5 {
        director.receive(WAN, &[from_client(5000 + n, "S")]);
    }
    assert_eq!((list(&director).len(), counted(&director)), (25, 20));
    director.path.check_connections().unwrap();
}

#[test]
fn a_packet_that_a_rule_stops_behind_conntrack_prolongs_its_connection() {
    const CLIENT_END: (&str, u16) = ("192.0.2.100", 4000);
    let second = crate::time::Timeout::from_secs(1);
    for (line, is_host, is_seen) in [
        ("raw PREROUTING -p udp -j DROP", false, false),
        ("mangle PREROUTING -p udp -j DROP", false, true),
        ("filter FORWARD -p udp -j DROP", false, true),
        ("filter FORWARD -p udp -j REJECT", false, true),
        ("mangle POSTROUTING -p udp -j DROP", false, true),
        ("raw OUTPUT -p udp -j DROP", true, false),
        ("filter OUTPUT -p udp -j DROP", true, true),
        ("mangle POSTROUTING -p udp -j DROP", true, true),
    ] {
        let mut director = director(|_| {});
        let server = (if is_host { "192.0.2.1" } else { "10.0.0.11" }, 53);
        let answer = |director: &mut Director| {
            if !is_host {
                let frame = datagram_between(([2, 0, 0, 0, 2, 11], OUR_LAN), server, CLIENT_END, 1).remove(0);
                return director.receive(LAN, &[frame]);
            }
            let frame = datagram_between((OUR_WAN, CLIENT), server, CLIENT_END, 1).remove(0);
            let (mut out, mut burst) = (Out::default(), [Frame::new(WAN, &frame)].into_iter().collect());
            director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
            out
        };
        director.receive(WAN, &datagram_between(C2D, CLIENT_END, server, 1));
        assert_eq!(answer(&mut director).sent.len(), 1);
        let began = list(&director)[0].expires_in;
        let rules = Arc::new(rules(&[line]));
        director.path.adopt(Arc::new(Tables { rules, ..tables(3, &[11, 12], 1) }));
        director.now = director.now.after(second);
        let out = answer(&mut director);
        assert!(out.sent.iter().all(|(port, _)| *port == LAN), "it is told of at most: {line}");
        let left = list(&director)[0].expires_in;
        assert_eq!(left, if is_seen { began } else { crate::time::Timeout(began.0 - second.0) }, "{line}");
    }
}

#[test]
fn mark_status_and_timeout_are_set_from_outside_and_the_rest_stays() {
    let mut director = director(|_| {});
    director.receive(WAN, &[through(4000, "S"), from_client(4001, "S")]);
    for before in list(&director) {
        let order = |director: &mut Director, change| {
            let order = Order::plain(Deed::Change(change));
            assert_eq!(director.path.order(&before.original(), &order, director.now), Outcome::Done);
            list(director).into_iter().find(|view| view.client == before.client).unwrap()
        };
        let marked = order(&mut director, Change { mark: Some(7), ..Change::default() });
        assert_eq!(marked, FlowView { known: Known { mark: 7, ..before.known }, ..before.clone() });
        let mut status = before.known.status;
        status.set(Status::ASSURED);
        let assured = order(&mut director, Change { status: Status::ASSURED, ..Change::default() });
        assert_eq!(assured, FlowView { known: Known { mark: 7, status, ..before.known }, ..before.clone() });
        let timeout = crate::time::Timeout::from_secs(5);
        let short = order(&mut director, Change { timeout: Some(timeout), ..Change::default() });
        assert_eq!(short, FlowView { expires_in: timeout, ..assured });
    }
    director.path.check_connections().unwrap();
    let nobody = list(&director)[0].original().reversed();
    assert_eq!(
        director.path.order(&nobody, &Order::plain(Deed::Change(Change::default())), director.now),
        Outcome::Absent
    );
}

#[test]
fn what_becomes_of_a_connection_is_told_while_somebody_reads() {
    use EventKind::{Destroy, New, Update};
    let mut director = director(|_| {});
    director.receive(WAN, &[through(3999, "S")]);
    let events = director.path.tables.events.clone();
    assert_eq!(events.take(), None, "nobody reads");
    events.set_read(true);
    director.receive(WAN, &[through(4000, "S"), from_client(4001, "S")]);
    director.receive(LAN, &[back(4000, "SA"), back(4000, "SA")]);
    director.receive(WAN, &[through(4000, "A")]);
    let told = |port: u16| {
        let all: Vec<FlowEvent> = std::iter::from_fn(|| events.take()).collect();
        let of_it = all.into_iter().filter(|event| event.view.client.1 == port);
        of_it.map(|event| (event.kind, event.view.state)).collect::<Vec<_>>()
    };
    let expected = [(New, "SYN_SENT"), (Update, "SYN_RECV"), (Update, "ESTABLISHED")];
    assert_eq!(told(4000), expected);
    for view in list(&director) {
        director.path.order(
            &view.original(),
            &Order::plain(Deed::Change(Change { mark: Some(1), ..Change::default() })),
            director.now,
        );
        end(&mut director, &view);
    }
    assert_eq!(told(4000), [(Update, "ESTABLISHED"), (Destroy, "ESTABLISHED")]);
    // One of a service, whose time is over.
    director.receive(WAN, &[from_client(4002, "S")]);
    for _ in 0..200 {
        director.now = director.now.after(crate::time::Timeout::from_secs(1));
        director.turn();
    }
    assert_eq!(told(4002), [(New, "NONE"), (Update, "SYN_RECV"), (Destroy, "SYN_RECV")]);
    events.set_read(false);
    director.receive(WAN, &[from_client(4003, "S")]);
    assert_eq!(events.take(), None);
}

#[test]
fn of_a_connection_is_told_what_its_rule_names() {
    use EventKind::{Destroy, New, Update};
    for (named, expected) in [
        ("new,destroy", vec![New, Destroy]),
        // One in its second answer, and a mark from outside.
        ("assured,mark", vec![Update, Update]),
        ("protoinfo", vec![Update, Update, Update]),
        ("secmark", vec![]),
    ] {
        let mut director = Director::new();
        let mut tables = tables(2, &[11, 12], 1);
        tables.rules = Arc::new(rules(&[&format!("raw PREROUTING -j CT --ctevents {named}")]));
        director.path.adopt(Arc::new(tables));
        let events = director.path.tables.events.clone();
        events.set_read(true);
        director.receive(WAN, &[through(4000, "S")]);
        director.receive(LAN, &[back(4000, "SA")]);
        director.receive(WAN, &[through(4000, "A")]);
        let view = list(&director).remove(0);
        let change = Deed::Change(Change { mark: Some(1), ..Change::default() });
        director.path.order(&view.original(), &Order::plain(change), director.now);
        end(&mut director, &view);
        let told: Vec<EventKind> = std::iter::from_fn(|| events.take()).map(|event| event.kind).collect();
        assert_eq!(told, expected, "{named}");
        // A virtual service's is told whole.
        director.receive(WAN, &[from_client(4001, "S")]);
        assert_eq!(events.take().map(|event| event.kind), Some(New));
    }
}

#[test]
fn events_that_nobody_takes_are_counted_and_lost() {
    let mut director = director(|_| {});
    let events = director.path.tables.events.clone();
    events.set_read(true);
    for _ in 0..5000 {
        director.receive(WAN, &[through(4000, "S")]);
        let view = list(&director).remove(0);
        end(&mut director, &view);
    }
    let taken = std::iter::from_fn(|| events.take()).count() as u64;
    assert_eq!(taken + events.lost.get(), 10_000);
    assert!(events.lost.get() > 0);
}

/// What makes a connection without a packet: from .100 to 10.0.0.11:22, with these answers.
fn beginning(sport: u16, answers_to: &str) -> (Tuple, Beginning) {
    let state = conntrack::state_named(Protocol::TCP, Some("ESTABLISHED")).unwrap();
    let original =
        Tuple { src: ip("192.0.2.100"), dst: ip("10.0.0.11"), sport, dport: 22, protocol: Protocol::TCP };
    let reply = Tuple { dst: ip(answers_to), ..original.reversed() };
    let timeout = crate::time::Timeout::from_secs(500);
    let (tags, status, mark) = ([0; 2], Status::NONE, 7);
    (original, Beginning { reply, nat: [None; 2], state, tags, status, mark, labels: Labels::NONE, timeout })
}

fn begin(director: &mut Director, (original, beginning): (Tuple, Beginning)) -> Outcome {
    director.path.order(&original, &Order::plain(Deed::Begin(beginning)), director.now)
}

#[test]
fn a_connection_that_was_begun_from_outside_is_one_like_any_other() {
    let mut director = director(|_| {});
    let events = director.path.tables.events.clone();
    events.set_read(true);
    assert_eq!(begin(&mut director, beginning(4000, "192.0.2.100")), Outcome::Done);
    let seek = Order::plain(Deed::Seek);
    let original = beginning(4000, "192.0.2.100").0;
    assert_eq!(director.path.order(&original, &seek, director.now), Outcome::Exists);
    assert_eq!(director.path.order(&original.reversed(), &seek, director.now), Outcome::Exists);
    assert_eq!(begin(&mut director, beginning(4000, "192.0.2.100")), Outcome::Exists);
    assert_eq!(
        events.take().map(|event| (event.kind, event.view.state)),
        Some((EventKind::New, "ESTABLISHED"))
    );
    let view = list(&director).remove(0);
    assert_eq!((view.expires_in, view.known.mark), (crate::time::Timeout::from_secs(500), 7));
    assert_eq!(view.known.status, Status::CONFIRMED);
    // It is taken up as what it is: an answer, then data.
    assert_eq!(director.receive(LAN, &[back(4000, "A")]).sent.len(), 1);
    assert_eq!(director.receive(WAN, &[through(4000, "A")]).sent.len(), 1);
    let view = list(&director).remove(0);
    assert_eq!(view.state, "ESTABLISHED");
    assert!(view.known.status.has(Status::SEEN_REPLY) && view.known.status.has(Status::ASSURED));
    assert_eq!(director.counters[0].flows.tracked.get(), 1);
    assert!(end(&mut director, &view));
    assert_eq!(director.counters[0].flows.tracked.get(), 0);
    director.path.check_connections().unwrap();
}

#[test]
fn one_that_was_begun_from_outside_is_translated_to_a_port_that_nobody_has() {
    let mut director = director(|_| {});
    for (sport, port) in [(4000, 4000), (4001, 4001)] {
        let (original, begun) = beginning(sport, "192.0.2.100");
        let nat = [None, Some(Range::to(ip("10.0.0.1")))];
        assert_eq!(begin(&mut director, (original, Beginning { nat, ..begun })), Outcome::Done);
        let sent = director.receive(WAN, &[through(sport, "A")]);
        assert_eq!(read(&sent.sent[0].1).1, port);
    }
    // Another client with the same port gets the next one that is free; a port that is asked for is that or none.
    let (original, begun) = beginning(4000, "192.0.2.100");
    let original = Tuple { src: ip("192.0.2.101"), ..original };
    let with = |range| Beginning { reply: original.reversed(), nat: [None, Some(range)], ..begun };
    let taken = Range { ports: Some((4000, 4000)), ..Range::to(ip("10.0.0.1")) };
    assert_eq!(begin(&mut director, (original, with(taken))), Outcome::Full);
    assert_eq!(begin(&mut director, (original, with(Range::to(ip("10.0.0.1"))))), Outcome::Done);
    let view = list(&director).into_iter().find(|view| view.client.0 == ip("192.0.2.101")).unwrap();
    assert_eq!(view.local, Some((ip("10.0.0.1"), 4002)));
    assert!(view.known.status.has(Status::SRC_NAT) && !view.known.status.has(Status::DST_NAT));
}

#[test]
fn what_cannot_be_begun_from_outside_is_refused_with_the_reason() {
    let mut director = director(|_| {});
    let (original, begun) = beginning(4000, "192.0.2.100");
    let of = |original: Tuple| (original, Beginning { reply: original.reversed(), ..begun });
    let served = Tuple { dst: ip("192.0.2.10"), dport: 80, ..original };
    assert_eq!(begin(&mut director, of(served)), Outcome::Served);
    for impossible in [
        Tuple { dst: ip("224.0.0.1"), ..original },
        Tuple { src: ip("0.0.0.0"), ..original },
        Tuple { src: ip("2001:db8::1"), ..original },
        Tuple { src: original.dst, sport: original.dport, ..original },
        Tuple { protocol: Protocol(253), ..original },
        Tuple { protocol: Protocol::ANY, ..original },
    ] {
        assert_eq!(begin(&mut director, of(impossible)), Outcome::Impossible, "{impossible:?}");
    }
    for sport in 0..100 {
        begin(&mut director, of(Tuple { sport, ..original }));
    }
    // None is assured: the next one takes the place of another.
    assert_eq!(list(&director).len(), 100);
    assert_eq!(begin(&mut director, of(Tuple { sport: 200, ..original })), Outcome::Done);
    assert_eq!((list(&director).len(), director.counters[0].flows.early_drop.get()), (100, 1));
    director.path.check_connections().unwrap();
}

#[test]
fn one_worker_alone_begins_a_connection_that_its_packets_come_to() {
    let mut workers = Workers::new(3, rules(&["filter FORWARD -p tcp --dport 1 -j DROP"]));
    for sport in 4000..4020 {
        let (original, begun) = beginning(sport, "192.0.2.100");
        let order = Order::plain(Deed::Begin(begun));
        let outcomes: Vec<Outcome> =
            workers.paths.iter_mut().map(|path| path.order(&original, &order, Tick(100))).collect();
        assert_eq!(outcomes.iter().filter(|&&outcome| outcome == Outcome::Done).count(), 1);
        assert_eq!(outcomes.iter().filter(|&&outcome| outcome == Outcome::Elsewhere).count(), 2);
        for (port, frame) in [(WAN, through(sport, "A")), (LAN, back(sport, "A"))] {
            let (at, sent) = workers.carry(port, &frame, false);
            assert_eq!((outcomes[at], sent.sent.len()), (Outcome::Done, 1));
        }
    }
    assert_eq!(workers.inserted(), 20, "one entry each");
}
