//! Goal: a connection that follows a course sees what it would see on a walk, packet by packet and count by count. Method: two directors with the same rules get the same
//! packets, one of which keeps no courses.

use proptest::prelude::*;
use proptest::sample::select;

use super::hooks::rules;
use super::tracking::list;
use super::ttl::with_ttl;
use super::*;
use crate::flow::FlowId;
use crate::rule::Rules;
use crate::tables::Settings;
use crate::time::Timeout;
use crate::wire::checksum::{finish, sum};

impl Director {
    fn with_rules(lines: &[String]) -> Director {
        let mut director = Director::new();
        director.take(2, lines);
        director
    }

    fn take(&mut self, generation: u32, lines: &[String]) {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        self.take_rules(generation, rules(&lines).into());
    }

    fn take_rules(&mut self, generation: u32, rules: Arc<Rules>) {
        self.take_all(generation, rules, self.path.tables.settings);
    }

    fn take_all(&mut self, generation: u32, rules: Arc<Rules>, settings: Settings) {
        self.path.adopt(Arc::new(Tables { rules, settings, ..tables(generation, &[11, 12], 1) }));
    }

    /// What the rules with these numbers have matched.
    fn counts(&self, rules: usize) -> Vec<(u64, u64)> {
        let mut counts = vec![(0, 0); rules];
        assert!(self.counters[0].add_rule_counts(&mut counts));
        counts
    }

    /// The same of walks alone.
    fn walked(&self, rule: u32) -> u64 {
        self.counters[0].rule(rule).packets.get()
    }
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

#[test]
fn an_established_connection_is_counted_and_not_walked() {
    let mut director = Director::with_rules(&lines(&[
        "filter INPUT -m state --state NEW -j ACCEPT",
        "filter INPUT -m state --state ESTABLISHED -j ACCEPT",
        "filter FORWARD -s 10.0.0.0/24",
    ]));
    director.receive(WAN, &[from_client(4000, "S")]);
    director.receive(LAN, &[from_server(11, 4000, "SA")]);
    for _ in 0..5 {
        assert_eq!(director.receive(WAN, &[from_client(4000, "A")]).sent.len(), 1);
        assert_eq!(director.receive(LAN, &[from_server(11, 4000, "A")]).sent.len(), 1);
    }
    // Rules of both families have numbers: of IPv4 come first.
    let packets = director.counts(4).iter().map(|count| count.0).collect::<Vec<_>>();
    assert_eq!(packets[1..], [1, 5, 6]);
    assert_eq!([1, 2, 3].map(|rule| director.walked(rule)), [1, 1, 1], "each walked once");
    director.take(3, &lines(&["filter FORWARD -s 10.0.0.0/24"]));
    assert_eq!([1, 2, 3].map(|rule| director.walked(rule)), [1, 5, 6], "counts outlive the rules");
}

#[test]
fn a_packet_is_not_asked_for_its_service_again() {
    let mut director =
        Director::with_rules(&lines(&["mangle POSTROUTING -m ipvs --vaddr 192.0.2.10 --vdir ORIGINAL"]));
    director.receive(WAN, &[from_client(4000, "S")]);
    director.receive(LAN, &[from_server(11, 4000, "SA")]);
    for _ in 0..5 {
        director.receive(WAN, &[from_client(4000, "A")]);
    }
    // The first as NEW, the second as ESTABLISHED.
    assert_eq!((director.counts(2)[1].0, director.walked(1)), (6, 2));
}

#[test]
fn other_rules_stop_a_connection_at_its_next_packet() {
    let mut director = Director::with_rules(&lines(&["filter INPUT -p tcp -j ACCEPT"]));
    director.receive(WAN, &[from_client(4000, "S"), from_client(4000, "A"), from_client(4000, "A")]);
    assert!(director.path.courses.is_open());
    director.take(3, &lines(&["filter INPUT -p tcp -j DROP"]));
    assert!(director.receive(WAN, &[from_client(4000, "A")]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::Rule), 1);
}

#[test]
fn a_packet_by_another_port_is_walked() {
    let mut director = Director::with_rules(&lines(&["filter INPUT -i lan -p tcp -j DROP"]));
    director.receive(WAN, &[from_client(4000, "S"), from_client(4000, "A"), from_client(4000, "A")]);
    assert!(director.path.courses.is_open());
    let by_lan = tcp((CLIENT, OUR_LAN), ("192.0.2.100", 4000), ("192.0.2.10", 80), "A");
    assert!(director.receive(LAN, &[by_lan]).sent.is_empty());
    assert_eq!(director.receive(WAN, &[from_client(4000, "A")]).sent.len(), 1);
}

#[test]
fn what_looks_into_packets_is_asked_of_each() {
    for line in [
        "filter INPUT -m limit --limit 1/hour --limit-burst 3 -j ACCEPT",
        "filter INPUT -p tcp --tcp-flags ALL ACK",
        "filter INPUT -m length --length 0:9000",
        "mangle PREROUTING -j CONNMARK --set-mark 1",
        "filter INPUT -j RATEEST --rateest-name r --rateest-interval 1s --rateest-ewmalog 4s",
        "filter INPUT -j AUDIT --type accept",
        "mangle POSTROUTING -m conntrack --ctstatus ASSURED",
    ] {
        let mut director = Director::with_rules(&lines(&[line]));
        director.receive(WAN, &[from_client(4000, "S"), from_client(4000, "A"), from_client(4000, "A")]);
        assert!(!director.path.courses.is_open(), "{line}");
    }
}

#[test]
fn a_udp_stream_settles_as_what_it_is_by_then() {
    let mut director = Director::with_rules(&lines(&[
        "filter FORWARD -p udp -m state --state NEW",
        "filter FORWARD -p udp -m state --state ESTABLISHED",
    ]));
    let send = |director: &mut Director, step, count| {
        let (port, frame) = frame(&step).unwrap();
        assert_eq!(director.receive(port, &vec![frame; count]).sent.len(), count);
    };
    send(&mut director, Step::Ask(4000, Comes::Whole), 3);
    director.now = Tick(director.now.0 + 3 * Tick::PER_SECOND);
    send(&mut director, Step::Reply(4000, Comes::Whole), 4);
    assert!(!director.path.flows.entry(FlowId(0)).is_followed());
    send(&mut director, Step::Ask(4000, Comes::Whole), 4);
    let packets = director.counts(3).iter().map(|count| count.0).collect::<Vec<_>>();
    assert_eq!(packets[1..], [3, 8]);
    assert_eq!(
        [1, 2].map(|rule| director.walked(rule)),
        [2, 2],
        "the first is asked before there is a connection"
    );
}

#[test]
fn there_is_room_for_other_courses_after_a_rest() {
    let mut director = Director::with_rules(&lines(&["filter INPUT -p tcp"]));
    while director.counters[0].courses.add(&[1]).is_some() {}
    let ack = |director: &mut Director| director.receive(WAN, &[from_client(4000, "A")]);
    director.receive(WAN, &[from_client(4000, "S")]);
    ack(&mut director);
    assert_eq!((director.path.courses.is_open(), director.counters[0].courses.full.get()), (false, 1));
    director.now = Tick(director.now.0 + 60 * Tick::PER_SECOND);
    ack(&mut director);
    assert!(director.path.courses.is_open());
    ack(&mut director);
    assert_eq!(director.counts(2)[1].0, 4);
}

/// A frame as a fragment of a datagram: its first, or one from the 64th byte on.
fn fragment(mut frame: Vec<u8>, is_first: bool) -> Vec<u8> {
    let bits: u16 = if is_first { 0x2000 } else { 8 };
    frame[20..22].copy_from_slice(&bits.to_be_bytes());
    frame[24..26].copy_from_slice(&[0, 0]);
    let checksum = finish(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

#[derive(Clone, Debug)]
enum Step {
    /// To the virtual service, from its real server, through to a host and back, to the director itself: a connection, flags, how it comes.
    Service(u16, &'static str, Comes),
    Answer(u16, &'static str, Comes),
    Through(u16, &'static str, Comes),
    Back(u16, &'static str, Comes),
    Host(u16, &'static str, Comes),
    /// Through and back by UDP.
    Ask(u16, Comes),
    Reply(u16, Comes),
    Wait(u32),
    /// The tables change: 0 and 1 are rulesets, others change nothing of the rules.
    Change(u8),
    /// Connections' packets are counted from now on, or not any more; packets of others go through, or not.
    Set {
        counts: bool,
        forwards: bool,
    },
    /// Connections that go through end so many seconds from now, if nothing comes.
    Shorten(u16),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Comes {
    Whole,
    ByOtherPort,
    AsFragment(bool),
    /// With no hop left.
    Dying,
}

fn step() -> impl Strategy<Value = Step> {
    let comes = || {
        prop_oneof![8 => Just(Comes::Whole), 1 => Just(Comes::ByOtherPort),
            1 => any::<bool>().prop_map(Comes::AsFragment), 1 => Just(Comes::Dying)]
    };
    let flags =
        || prop_oneof![2 => Just("S"), 6 => Just("A"), 1 => Just("SA"), 1 => Just("FA"), 1 => Just("RA")];
    let packet = || (4000..4003_u16, flags(), comes());
    prop_oneof![
        6 => packet().prop_map(|(n, flags, comes)| Step::Service(n, flags, comes)),
        6 => packet().prop_map(|(n, flags, comes)| Step::Answer(n, flags, comes)),
        3 => packet().prop_map(|(n, flags, comes)| Step::Through(n, flags, comes)),
        3 => packet().prop_map(|(n, flags, comes)| Step::Back(n, flags, comes)),
        1 => packet().prop_map(|(n, flags, comes)| Step::Host(n, flags, comes)),
        3 => (4000..4002_u16, comes()).prop_map(|(n, comes)| Step::Ask(n, comes)),
        3 => (4000..4002_u16, comes()).prop_map(|(n, comes)| Step::Reply(n, comes)),
        2 => (1..300_u32).prop_map(Step::Wait),
        1 => (0..3_u8).prop_map(Step::Change),
        1 => (any::<bool>(), prop::bool::weighted(0.8)).prop_map(|(counts, forwards)| Step::Set { counts, forwards }),
        1 => (1..200_u16).prop_map(Step::Shorten),
    ]
}

/// The port that a step's packet comes by, and the packet.
fn frame(step: &Step) -> Option<(PortId, Vec<u8>)> {
    let (from_wan, from_lan) = ((CLIENT, OUR_WAN), (server_mac(11), OUR_LAN));
    let client = |n: u16| ("192.0.2.100", n);
    let ((macs, from, to), flags, comes) = match *step {
        Step::Service(n, flags, comes) => ((from_wan, client(n), ("192.0.2.10", 80)), flags, comes),
        Step::Answer(n, flags, comes) => ((from_lan, ("10.0.0.11", 8080), client(n)), flags, comes),
        Step::Through(n, flags, comes) => ((from_wan, client(n), ("10.0.0.11", 22)), flags, comes),
        Step::Back(n, flags, comes) => ((from_lan, ("10.0.0.11", 22), client(n)), flags, comes),
        Step::Host(n, flags, comes) => ((from_wan, client(n), ("192.0.2.1", 22)), flags, comes),
        Step::Ask(n, comes) => ((from_wan, client(n), ("10.0.0.11", 53)), "", comes),
        Step::Reply(n, comes) => ((from_lan, ("10.0.0.11", 53), client(n)), "", comes),
        _ => return None,
    };
    let is_wan = (macs == from_wan) != (comes == Comes::ByOtherPort);
    let (port, mac) = if is_wan { (WAN, OUR_WAN) } else { (LAN, OUR_LAN) };
    let is_udp = matches!(step, Step::Ask(..) | Step::Reply(..));
    let macs = (macs.0, mac);
    let whole =
        if is_udp { datagram_between(macs, from, to, 1).remove(0) } else { tcp(macs, from, to, flags) };
    let frame = match comes {
        Comes::AsFragment(is_first) => fragment(whole, is_first),
        Comes::Dying => with_ttl(whole, 1),
        Comes::Whole | Comes::ByOtherPort => whole,
    };
    Some((port, frame))
}

fn line() -> impl Strategy<Value = String> {
    const MATCHES: &[&str] = &[
        "-p tcp -m tcp --dport 80",
        "-p tcp -m tcp --dport 8080",
        "-p tcp -m tcp --sport 4000",
        "-p tcp -m tcp --syn",
        "-p tcp -m tcp --tcp-flags ACK ACK",
        "-p tcp -m multiport --dports 22,4001",
        "-s 192.0.2.100",
        "-d 10.0.0.0/24",
        "-i wan",
        "! -i wan",
        "-o lan",
        "-f",
        "-m state --state NEW",
        "-m state --state ESTABLISHED",
        "-m conntrack --ctstate INVALID",
        "-m conntrack --ctdir REPLY",
        "-m conntrack --ctstatus SEEN_REPLY",
        "-m conntrack --ctorigdst 192.0.2.10",
        "-m length --length 0:46",
        "-m ttl --ttl-lt 64",
        "-m limit --limit 5/sec --limit-burst 3",
        "-m statistic --mode nth --every 2 --packet 0",
        "-m mark --mark 1/1",
        "-m connmark --mark 1",
        "-m addrtype --dst-type LOCAL",
        "-m ipvs --ipvs",
        "-m ipvs --vaddr 192.0.2.10 --vdir REPLY",
    ];
    const PLACES: &[&str] = &[
        "filter INPUT",
        "filter FORWARD",
        "filter OUTPUT",
        "mangle PREROUTING",
        "mangle INPUT",
        "mangle FORWARD",
        "mangle POSTROUTING",
        "raw PREROUTING",
    ];
    let found = prop_oneof![4 => select(MATCHES), 1 => Just("")];
    // Ports and the like come once, and `-p` first.
    let more = prop_oneof![1 => select(&MATCHES[6..]), 1 => Just("")];
    let target = (0..12_usize, select(PLACES)).prop_map(|(target, place)| {
        let of_mangle = ["-j MARK --or-mark 1", "-j CONNMARK --set-mark 1", "-j TTL --ttl-set 70"];
        let of_filter = ["-j DROP", "-j REJECT", "-j ACCEPT"];
        let target = match (target, &place[..3]) {
            (0..3, "man") => of_mangle[target],
            (0..3, "fil") => of_filter[target],
            (0, "raw") => "-j NOTRACK",
            (3..6, _) => "-j ACCEPT",
            (6, _) => "-j LOG",
            _ => "",
        };
        (place, target)
    });
    (found, more, target)
        .prop_map(|(found, more, (place, target))| format!("{place} {found} {more} {target}"))
}

/// That can be read, at least one of them.
fn ruleset() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(line(), 1..8).prop_map(|mut lines| {
        lines.push("filter FORWARD -p tcp".to_owned());
        lines
    })
}

fn seen(out: &Out) -> Vec<(Option<PortId>, Vec<u8>)> {
    let sent = out.sent.iter().map(|(port, frame)| (Some(*port), frame.data().to_vec()));
    sent.chain(out.to_twin.iter().map(|frame| (None, frame.data().to_vec()))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn with_and_without_courses_packets_and_counts_are_the_same(
        rulesets in [ruleset(), ruleset()],
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut directors = [Director::with_rules(&rulesets[0]), Director::with_rules(&rulesets[0])];
        directors[1].path.courses.are_off = true;
        let set = |director: &mut Director, generation, settings| {
            director.take_all(generation, director.path.tables.rules.clone(), settings);
        };
        for (step, generation) in steps.iter().zip(3..) {
            let outs = directors.each_mut().map(|director| match step {
                Step::Wait(ticks) => {
                    director.now = Tick(director.now.0 + ticks);
                    director.turn()
                }
                Step::Change(n) => {
                    match rulesets.get(usize::from(*n)) {
                        Some(lines) => director.take(generation, lines),
                        None => director.take_rules(generation, director.path.tables.rules.clone()),
                    }
                    Out::default()
                }
                &Step::Set { counts, forwards } => {
                    let mut settings = director.path.tables.settings;
                    (settings.sysctls.conntrack.acct, settings.forwarding) = (counts.into(), forwards);
                    set(director, generation, settings);
                    Out::default()
                }
                &Step::Shorten(seconds) => {
                    let timeout = Some(Timeout::from_secs(seconds.into()));
                    for view in list(director).iter().filter(|view| view.is_tracked) {
                        let order = Order::plain(Deed::Change(Change { timeout, ..Change::default() }));
                        director.path.order(&view.original(), &order, director.now);
                    }
                    Out::default()
                }
                _ => frame(step).map(|(port, frame)| director.receive(port, &[frame])).unwrap_or_default(),
            });
            prop_assert_eq!(seen(&outs[0]), seen(&outs[1]), "{:?}", step);
            let counts = directors.each_ref().map(|director| director.counts(40));
            prop_assert_eq!(&counts[0], &counts[1], "{:?}", step);
            let lists = directors.each_ref().map(list);
            prop_assert_eq!(&lists[0], &lists[1], "{:?}", step);
            for &reason in DropReason::ALL {
                let dropped = directors.each_ref().map(|director| director.dropped(reason));
                prop_assert_eq!(dropped[0], dropped[1], "{:?}: {:?}", reason, step);
            }
        }
        prop_assert!(!directors[1].path.courses.is_open());
    }
}
