//! Goal: `connlimit` counts the connections of an address that there are: each once, and none that is over. Method: connections that are
//! opened, closed, reset and left alone, on one worker and on two.

use super::hooks::rules;
use super::*;
use crate::rule::Rules;

const S2D: (Mac, Mac) = ([2, 0, 0, 0, 2, 11], OUR_LAN);

fn adopt(director: &mut Director, rules: &Rules) {
    director.path.adopt(Arc::new(Tables { rules: Arc::new(rules.clone()), ..tables(2, &[11, 12], 1) }));
}

fn director(rules: &Rules) -> Director {
    let mut director = Director::new();
    adopt(&mut director, rules);
    director
}

fn through(client: u8, sport: u16, flags: &str) -> Vec<u8> {
    tcp(C2D, (&format!("192.0.2.{client}"), sport), ("10.0.0.11", 22), flags)
}

/// Whether a SYN comes through.
fn opens(director: &mut Director, client: u8, sport: u16) -> bool {
    !director.receive(WAN, &[through(client, sport, "S")]).sent.is_empty()
}

fn answers(director: &mut Director, client: u8, dport: u16, flags: &str) {
    let client = format!("192.0.2.{client}");
    director.receive(LAN, &[tcp(S2D, ("10.0.0.11", 22), (&client, dport), flags)]);
}

const TWO: &str = "filter FORWARD -p tcp --syn -m connlimit --connlimit-above 2 -j DROP";

#[test]
fn an_address_has_two_connections_and_a_third_when_one_is_over() {
    let mut director = director(&rules(&[TWO]));
    assert_eq!(
        [4000, 4001, 4002, 4003].map(|port| opens(&mut director, 100, port)),
        [true, true, false, false]
    );
    assert!(opens(&mut director, 100, 4001), "one more SYN of a connection that is there");
    // Reset by the server, which ends it.
    answers(&mut director, 100, 4000, "RA");
    assert_eq!([4002, 4003].map(|port| opens(&mut director, 100, port)), [true, false]);
    // Closed by both: it is remembered for a while.
    answers(&mut director, 100, 4001, "SA");
    director.receive(WAN, &["A", "FA"].map(|flags| through(100, 4001, flags)));
    answers(&mut director, 100, 4001, "FA");
    assert!(!opens(&mut director, 100, 4003));
    director.receive(WAN, &[through(100, 4001, "A")]);
    assert!(director.states().contains(&"TIME_WAIT"), "{:?}", director.states());
    assert_eq!([4003, 4004].map(|port| opens(&mut director, 100, port)), [true, false]);
    // Left alone until SYN_SENT is over.
    director.now = Tick(director.now.0 + 200 * Tick::PER_SECOND);
    (0..200).for_each(|_| _ = director.turn());
    assert_eq!([4005, 4006, 4007].map(|port| opens(&mut director, 100, port)), [true, true, false]);
}

#[test]
fn addresses_are_counted_by_their_net_and_rules_apart() {
    let by_net = "filter FORWARD -p tcp -m connlimit --connlimit-upto 1 --connlimit-mask 26 -j ACCEPT";
    let mut director = director(&rules(&[by_net, "filter FORWARD -p tcp -j DROP"]));
    assert_eq!([100, 101, 20].map(|client| opens(&mut director, client, 4000)), [true, false, true]);
    let both =
        [TWO, "filter FORWARD -p tcp --syn -m connlimit --connlimit-above 3 --connlimit-daddr -j DROP"];
    let mut director = self::director(&rules(&both));
    assert_eq!(
        [100, 100, 100].map(|client| opens(&mut director, client, 4000 + u16::from(client))),
        [true; 3]
    );
    let tried = [(100, 4001), (100, 4002), (101, 4000), (102, 4000)];
    assert_eq!(tried.map(|(client, port)| opens(&mut director, client, port)), [true, false, true, false]);
}

#[test]
fn connections_of_virtual_services_count_until_they_are_ended() {
    let rule = "filter INPUT -p tcp --syn -m connlimit --connlimit-above 1 -j DROP";
    let mut director = director(&rules(&[rule]));
    let opens =
        |director: &mut Director, port| !director.receive(WAN, &[from_client(port, "S")]).sent.is_empty();
    assert_eq!([4000, 4001].map(|port| opens(&mut director, port)), [true, false]);
    let flow = {
        let mut flows = Vec::new();
        director.path.list(0, u32::MAX, director.now, &mut |flow| flows.push(flow.original()));
        flows[0]
    };
    assert_eq!(director.path.order(&flow, &Order::plain(Deed::End), director.now), Outcome::Done);
    assert_eq!([4001, 4002].map(|port| opens(&mut director, port)), [true, false]);
}

#[test]
fn a_connection_is_over_also_by_a_packet_that_a_rule_stops() {
    let rules = [
        "filter FORWARD -p tcp --syn -m connlimit --connlimit-above 1 -j DROP",
        "filter FORWARD -s 192.0.2.100 -p tcp --tcp-flags SYN,FIN,ACK ACK -j DROP",
    ];
    let mut director = director(&self::rules(&rules));
    assert_eq!([4000, 4001].map(|port| opens(&mut director, 100, port)), [true, false]);
    answers(&mut director, 100, 4000, "SA");
    director.receive(WAN, &["A", "FA"].map(|flags| through(100, 4000, flags)));
    answers(&mut director, 100, 4000, "FA");
    assert!(director.receive(WAN, &[through(100, 4000, "A")]).sent.is_empty());
    assert_eq!(director.states(), ["TIME_WAIT"]);
    assert_eq!([4001, 4002].map(|port| opens(&mut director, 100, port)), [true, false]);
}

#[test]
fn a_connection_that_counts_follows_a_course_until_it_is_over() {
    let rule = "filter INPUT -p tcp --syn -m connlimit --connlimit-above 1 -j DROP";
    let mut director = director(&rules(&[rule]));
    director.receive(WAN, &[from_client(4000, "S")]);
    director.receive(LAN, &[from_server(11, 4000, "SA")]);
    director.receive(WAN, &[from_client(4000, "A"), from_client(4000, "A")]);
    assert!(director.path.courses.is_open());
    assert!(director.receive(WAN, &[from_client(4001, "S")]).sent.is_empty());
    director.receive(WAN, &[from_client(4000, "R")]);
    assert_eq!(director.states(), ["CLOSE"]);
    assert_eq!(director.receive(WAN, &[from_client(4001, "S")]).sent.len(), 1);
}

#[test]
fn a_connection_that_was_there_before_the_rule_counts_from_its_next_packet_on() {
    let mut director = director(&rules(&["filter INPUT -p 253 -j DROP"]));
    assert!(opens(&mut director, 100, 4000) && opens(&mut director, 100, 4001));
    adopt(&mut director, &rules(&["filter FORWARD -p tcp -m connlimit --connlimit-above 2 -j DROP"]));
    assert!(opens(&mut director, 100, 4002), "of the others no packet has come");
    assert!(opens(&mut director, 100, 4000));
    assert!(!opens(&mut director, 100, 4001), "the third");
}

#[test]
fn workers_count_together() {
    let rules = rules(&[TWO]);
    let mut workers = [director(&rules), director(&rules)];
    let mut opens = |worker: usize, port| opens(&mut workers[worker], 100, port);
    assert_eq!([opens(0, 4000), opens(1, 4001), opens(0, 4002), opens(1, 4003)], [true, true, false, false]);
    answers(&mut workers[1], 100, 4001, "RA");
    assert!(self::opens(&mut workers[0], 100, 4002) && !self::opens(&mut workers[1], 100, 4003));
}

#[test]
fn connections_of_a_persistent_service_are_counted_for_their_own_clients_at_any_worker() {
    const WORKERS: usize = 3;
    let rules = rules(&["filter INPUT -p tcp --syn -m connlimit --connlimit-above 2 -j DROP"]);
    let tables = Arc::new(Tables { rules: Arc::new(rules), ..super::persistent::persistent(2, |_| ()) });
    let (counters, uses) = (counters(WORKERS), Arc::new(Uses::new(WORKERS, 100)));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
    // All at once: while one is at its template's worker another one is at hand.
    let opened = [4000, 4001, 4002].map(|port| {
        let syn = |client| tcp(C2D, (&format!("192.0.2.{client}"), port), ("192.0.2.10", 80), "S");
        let syns: Vec<_> = (100..108).map(syn).collect();
        let mut clients: Vec<_> =
            deliver_all(&mut paths, 0, WAN, &syns).iter().map(|(_, frame)| read(frame).0).collect();
        clients.sort();
        clients.len()
    });
    assert_eq!(opened, [8, 8, 0]);
}

#[test]
fn connections_of_one_client_that_are_at_their_template_at_once_do_not_exceed_its_limit() {
    const WORKERS: usize = 3;
    let rules = rules(&["filter INPUT -p tcp --syn -m connlimit --connlimit-above 10 -j DROP"]);
    let tables = Arc::new(Tables { rules: Arc::new(rules), ..super::persistent::persistent(2, |_| ()) });
    let (counters, uses) = (counters(WORKERS), Arc::new(Uses::new(WORKERS, 100)));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
    for _ in 0..2 {
        let syns: Vec<_> = (4000..4030).map(|port| from_client(port, "S")).collect();
        assert_eq!(deliver_all(&mut paths, 0, WAN, &syns).len(), 10, "and their repetitions are let pass");
    }
    let refused: u64 = counters.iter().map(|of| of.dropped(DropReason::Rule, Hook::Input).get()).sum();
    assert_eq!(refused, 40);
}
