//! Goal: what is explained is what happens, nothing that is alive changes by it, and a trace shows real packets and no others.
//! Method: the same packets explained and sent, under the same rules.

use super::hooks::{bound, director, rules, through};
use super::*;
use crate::rule::{Account, AccountQuota, Named};
use crate::trace::{Filter, Trace};
use crate::trail::{End, Observed, Step};

pub(super) fn explain(director: &Director, port: PortId, frame: &[u8]) -> Observed {
    assuming(director, port, frame, Assumed::First).unwrap()
}

fn assuming(
    director: &Director,
    port: PortId,
    frame: &[u8],
    assumed: Assumed,
) -> Result<Observed, Box<Observed>> {
    let (tables, frame) = (&director.path.tables, Frame::new(port, frame));
    super::explain(tables, &director.counters, frame, false, assumed, director.now)
}

const RULESETS: &[&[&str]] = &[
    &["filter FORWARD -p tcp --dport 22 -j DROP"],
    &["filter FORWARD -p tcp --dport 22 -j REJECT --reject-with tcp-reset"],
    &["filter INPUT -p tcp --dport 80 -j REJECT", "mangle FORWARD -j MARK --set-mark 7"],
    &["filter OUTPUT -d 10.0.0.11 -j DROP"],
    &["nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22", "filter INPUT -j DROP"],
    &["nat POSTROUTING -j SNAT --to-source 192.0.2.1", "raw PREROUTING -p udp -j NOTRACK"],
    &["nat PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 80"],
    &["mangle POSTROUTING -m mark ! --mark 0 -j DROP", "raw PREROUTING -p tcp -j MARK --set-mark 1"],
    &["filter FORWARD -m conntrack --ctstate INVALID -j DROP"],
];

fn packets() -> Vec<Vec<u8>> {
    let to = |address, port, flags| tcp(C2D, ("192.0.2.100", 4000), (address, port), flags);
    vec![
        from_client(4000, "S"),
        from_client(4000, "A"),
        through(4000, "S"),
        through(4000, "A"),
        to("192.0.2.1", 22, "S"),
        to("192.0.2.1", 2222, "S"),
        to("203.0.113.9", 80, "S"),
        tcp(C2D, ("2001:db8::100", 4000), ("2001:db8::10", 80), "S"),
        tcp(C2D, ("192.0.2.1", 4000), ("192.0.2.10", 80), "S"),
        through(4000, "S")[..30].to_vec(),
    ]
}

#[test]
fn what_is_explained_is_what_happens() {
    let mut ways = Vec::new();
    let mut plain = Director::new();
    for frame in packets() {
        let explained = explain(&plain, WAN, &frame);
        plain.path.watch.make_room();
        let real = plain.path.watched(Frame::new(WAN, &frame), false, plain.now, &mut Out::default());
        plain = Director::new();
        assert_eq!(explained, real);
    }
    for lines in RULESETS {
        for frame in packets() {
            let mut director = director(rules(lines));
            let explained = explain(&director, WAN, &frame);
            director.path.watch.make_room();
            let mut out = Out::default();
            let real = director.path.watched(Frame::new(WAN, &frame), false, director.now, &mut out);
            assert_eq!(explained, real, "{lines:?}");
            assert_eq!(
                real.ends.iter().filter(|end| matches!(end, End::Sent { .. })).count(),
                out.sent.len()
            );
            ways.push((real.dropped.map(|(reason, _)| reason), real.ends.is_empty()));
        }
    }
    assert!(ways.contains(&(None, false)) && ways.contains(&(Some(DropReason::Rule), true)));
    assert!(ways.contains(&(Some(DropReason::RuleRejects), false)), "the sender is told");
}

#[test]
fn an_explanation_names_service_server_and_rules() {
    let director = director(rules(&["filter INPUT -p tcp --dport 80 -j ACCEPT"]));
    let road = explain(&director, WAN, &from_client(4000, "S"));
    let key = ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80);
    let service = director.path.tables.services.find(&key);
    let steps = road.trail.steps();
    assert!(steps.contains(&Step::Service(service.unwrap().id)));
    assert!(steps.contains(&Step::Server(Some(ServerId(2)))));
    // Counted by 1: the only rule, which both families have.
    assert!(steps.contains(&Step::Met(1)));
    let [End::Sent { port: LAN, to, is: Some(left) }] = road.ends[..] else { panic!("{:?}", road.ends) };
    assert_eq!((to, left.tuple.dst, left.tuple.dport, left.ttl), (server_mac(11), ip("10.0.0.11"), 8080, 63));
}

#[test]
fn nothing_that_is_alive_changes_by_an_explanation() {
    let lines = [
        "filter FORWARD -m nfacct --nfacct-name few -j LOG",
        "filter FORWARD -p tcp --dport 22 -m limit --limit 1/hour --limit-burst 3 -j ACCEPT",
        "filter FORWARD -m recent --name r --update --seconds 60 --hitcount 2 -j DROP",
        "filter FORWARD -m recent --name r --set",
        "filter FORWARD -m statistic --mode nth --every 3 -j DROP",
        "filter FORWARD -m hashlimit --hashlimit-name h --hashlimit-mode srcip --hashlimit-above 1/hour --hashlimit-burst 6 -j DROP",
        "filter FORWARD -m quota --quota 300 -j RETURN",
        "filter FORWARD -m connlimit --connlimit-above 5 -j DROP",
        "filter FORWARD -j LOG",
    ];
    let fates = |explains: bool| {
        let mut named = Named::new(1);
        let quota = Some(AccountQuota { is_of_packets: true, limit: 9 });
        let account = Arc::new(Account::new(quota, (0, 0)));
        named.accounts.insert("few".into(), account.clone());
        let mut director = director(bound(&lines, &mut named));
        let mut fates = Vec::new();
        for sport in 4000..4016 {
            if explains {
                for _ in 0..5 {
                    explain(&director, WAN, &through(sport, "S"));
                    explain(&director, WAN, &from_client(sport, "S"));
                }
            }
            fates.push(director.receive(WAN, &[through(sport, "S")]).sent.len());
            let out = director.receive(WAN, &[from_client(sport, "S")]);
            fates.push(usize::from(out.sent[0].1.data()[5]));
        }
        let counted: Vec<u64> = (0..9).map(|rule| director.counters[0].rule(rule).packets.get()).collect();
        let told = std::iter::from_fn(|| director.path.tables.rules.events.take()).count();
        let drops = director.dropped(DropReason::Rule);
        let active = director.counters[0].server(ServerId(2)).active.get();
        let entries = director.counters[0].flows.entries.get();
        (fates, counted, told, drops, active, entries, account.counts())
    };
    let (told, alone) = (fates(true), fates(false));
    assert_eq!(told, alone);
    assert!(alone.0.contains(&0) && alone.0.contains(&1), "rules that let some by");
    assert!(alone.6.0 > 9, "a quota that is used up");
}

#[test]
fn the_connections_of_each_real_server_are_known_whatever_its_number() {
    let director = Director::new();
    let mut tables = tables(2, &[11, 12], 1);
    // As where all real servers were exchanged for others.
    let most = director.counters[0].server_capacity() as u32;
    let numbers = [ServerId(most - 2), ServerId(most - 1)];
    let key = ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80);
    let mut servers = tables.services.find(&key).unwrap().servers.clone();
    servers.iter_mut().zip(numbers).for_each(|(server, id)| server.id = id);
    let service = Service::new(None, ServiceId(1), key, SchedulerKind::Lc, servers, 2);
    tables.services = Services::new([Arc::new(service)]).into();
    director.counters[0].server(numbers[0]).active.set(1);
    let frame = Frame::new(WAN, &from_client(4000, "S"));
    let road =
        super::explain(&tables, &director.counters, frame, false, Assumed::First, director.now).unwrap();
    assert!(road.trail.steps().contains(&Step::Server(Some(numbers[1]))));
}

#[test]
fn a_full_real_server_is_not_made_full_by_an_explanation() {
    let mut director = Director::new();
    let mut tables = tables(2, &[11, 12], 1);
    let key = ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80);
    let mut service = Service::clone(tables.services.find(&key).unwrap());
    for server in &mut service.servers {
        server.upper_threshold = 1;
    }
    let service = Arc::new(service);
    tables.services = Services::new([service.clone()]).into();
    director.path.adopt(Arc::new(tables));
    for _ in 0..3 {
        explain(&director, WAN, &from_client(4000, "S"));
    }
    assert!(service.servers.iter().all(Server::takes_new));
    director.receive(WAN, &[from_client(4000, "S")]);
    assert!(!service.servers.iter().all(Server::takes_new), "a real packet does");
}

#[test]
fn a_trace_shows_the_packets_that_it_wants_and_changes_nothing() {
    let trace = Arc::new(Trace::new(Filter { sport: Some(4001), ..Filter::default() }, 10, 100));
    let frames = [from_client(4000, "S"), from_client(4001, "S"), through(4001, "S"), from_client(4002, "S")];
    let sent = |trace: Option<Arc<Trace>>| {
        let mut director = Director::new();
        director.path.adopt(Arc::new(Tables { trace, ..tables(2, &[11, 12], 1) }));
        let mut sent = director.receive(WAN, &frames).sent;
        sent.extend(director.receive(WAN, &[from_client(4001, "A")]).sent);
        sent
    };
    assert_eq!(sent(Some(trace.clone())), sent(None), "in the same order");
    let roads: Vec<Observed> = std::iter::from_fn(|| trace.take()).collect();
    assert_eq!(roads.len(), 3);
    assert!(roads.iter().all(|road| road.came.unwrap().tuple.sport == 4001 && road.ends.len() == 1));
    let known = |road: &Observed| road.trail.steps().iter().any(|step| matches!(step, Step::Known(_)));
    assert_eq!(roads.iter().map(known).collect::<Vec<_>>(), [false, false, true]);
    assert!(roads[0].trail.steps().contains(&Step::Server(Some(ServerId(3)))), "without rules, too");
}

#[test]
fn a_traced_packet_is_followed_to_the_worker_of_its_connection() {
    let trace = Arc::new(Trace::new(Filter::default(), 100, 1000));
    let (counters, uses) = (counters(2), Arc::new(Uses::new(2, 100)));
    let mut workers = [path(0, &counters, &uses), path(1, &counters, &uses)];
    for worker in &mut workers {
        worker.adopt(Arc::new(Tables { trace: Some(trace.clone()), ..tables(2, &[11, 12], 1) }));
    }
    let mut handed = 0;
    for sport in 4000..4016 {
        let mut out = Out::default();
        let mut burst: Burst<Frame> = [Frame::new(WAN, &from_client(sport, "S"))].into_iter().collect();
        workers[0].receive(&mut burst, Tick(100), &mut out);
        let first = trace.take().unwrap();
        if let Some((to, packet, steer)) = out.handed.pop() {
            handed += 1;
            assert_eq!(first.ends[..], [End::HandedOver(to)]);
            workers[1].receive_handed_over(&mut [(packet, steer)].into_iter().collect(), Tick(100), &mut out);
            let then = trace.take().unwrap();
            assert_eq!((then.worker, then.came), (to, first.came));
            assert!(matches!(then.ends[..], [End::Sent { .. }]));
        }
    }
    assert!((1..16).contains(&handed), "{handed}");
}

#[test]
fn what_the_host_sends_is_traced_too() {
    let trace = Arc::new(Trace::new(Filter { from_host: Some((WAN, 0)), ..Filter::default() }, 10, 100));
    let mut director = director(rules(&["filter OUTPUT -p tcp --dport 25 -j DROP"]));
    director
        .path
        .adopt(Arc::new(Tables { trace: Some(trace.clone()), ..Tables::clone(&director.path.tables) }));
    let mut out = Out::default();
    let mail = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 5000), ("192.0.2.100", 25), "S");
    let mut burst: Burst<Frame> = [Frame::new(WAN, &mail)].into_iter().collect();
    director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
    director.receive(WAN, &[through(4000, "S")]);
    let road = trace.take().unwrap();
    assert!(road.is_from_host && road.dropped == Some((DropReason::Rule, Hook::Output)));
    assert!(trace.take().is_none(), "what comes in is not what was asked for");
}

#[test]
fn a_traced_packet_of_a_known_connection_meets_its_rules_each_time() {
    let trace = Arc::new(Trace::new(Filter { dport: Some(22), ..Filter::default() }, 10, 100));
    let mut director = director(rules(&["filter FORWARD -p tcp --dport 22 -j ACCEPT"]));
    director.receive(WAN, &[through(4000, "S")]);
    director.receive(LAN, &[tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 22), ("192.0.2.100", 4000), "SA")]);
    let before = director.counters[0].rule(1).packets.get();
    director.path.adopt(Arc::new(Tables {
        trace: Some(trace.clone()),
        generation: 9,
        ..Tables::clone(&director.path.tables)
    }));
    for _ in 0..4 {
        director.receive(WAN, &[through(4000, "A")]);
    }
    let roads: Vec<Observed> = std::iter::from_fn(|| trace.take()).collect();
    assert_eq!(roads.len(), 4);
    for road in &roads {
        assert!(road.trail.steps().contains(&Step::Met(1)), "whatever is remembered of the connection");
    }
    assert_eq!(director.counters[0].rule(1).packets.get() - before, 4, "each counted once");
}

#[test]
fn an_estimator_counts_no_packet_that_is_explained() {
    let over = |explained: usize, sent: usize| {
        let mut director = director(rules(&[
            "filter FORWARD -j RATEEST --rateest-name e --rateest-interval 1s --rateest-ewmalog 2s",
            "filter FORWARD -m rateest --rateest e --rateest-gt --rateest-pps 5",
        ]));
        (0..explained).for_each(|_| _ = explain(&director, WAN, &through(4000, "S")));
        (0..sent).for_each(|_| _ = director.receive(WAN, &[through(4000, "S")]));
        director.now = Tick(director.now.0 + Tick::PER_SECOND);
        director.receive(WAN, &[through(4000, "S")]);
        director.counters[0].rule(2).packets.get()
    };
    assert_eq!([over(50, 1), over(0, 50)], [0, 1]);
}

/// What the tables that were asked said of the packet's state.
fn states(road: &Observed) -> Vec<CtState> {
    let asked = |step: &Step| if let Step::Asked(asked) = step { Some(asked.state) } else { None };
    let mut states: Vec<CtState> = road.trail.steps().iter().filter_map(asked).collect();
    states.dedup();
    states
}

#[test]
fn a_packet_is_explained_as_one_of_the_state_that_is_said() {
    let lines = [
        "filter FORWARD -m conntrack --ctstate ESTABLISHED,UNTRACKED -j ACCEPT",
        "filter FORWARD -j DROP",
        "filter INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "filter INPUT -j DROP",
        "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22",
    ];
    let director = director(rules(&lines));
    let passes = |frame: &[u8], assumed: Assumed| {
        let road = assuming(&director, WAN, frame, assumed).unwrap();
        (states(&road), road.dropped.is_none())
    };
    let begun = |frame: Vec<u8>| Assumed::Begun(Frame::new(WAN, &frame));
    use CtState::{Established, Invalid, New, Related, Untracked};
    let to = |flags| tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 2222), flags);
    for (first, later) in [
        (through(4000, "S"), through(4000, "A")),
        (from_client(4000, "S"), from_client(4000, "A")),
        (to("S"), to("A")),
    ] {
        assert_eq!(passes(&first, Assumed::First), (vec![New], false));
        assert_eq!(passes(&later, begun(first)), (vec![Established], true));
    }
    let frame = through(4000, "S");
    // Table raw is asked before tracking.
    assert_eq!(passes(&frame, Assumed::State(Invalid)), (vec![New, Invalid], false));
    assert_eq!(passes(&frame, Assumed::State(Untracked)), (vec![New, Untracked], true));
    assert_eq!(passes(&frame, Assumed::State(Related)), (vec![New, Related], false));
}

#[test]
fn what_begins_no_connection_is_told_instead_of_a_packet_of_it() {
    let director = director(rules(&["mangle PREROUTING -s 192.0.2.100 -j DROP"]));
    let first = Assumed::Begun(Frame::new(WAN, &through(4000, "S")));
    let road = assuming(&director, WAN, &through(4000, "A"), first).unwrap_err();
    assert_eq!(road.dropped, Some((DropReason::Rule, Hook::Prerouting)));
}

#[test]
fn an_established_connection_is_begun_in_the_zone_of_its_packets() {
    let director = director(rules(&["raw PREROUTING -p tcp -j CT --zone 5", "filter FORWARD -j DROP"]));
    let first = Assumed::Begun(Frame::new(WAN, &through(4000, "S")));
    let road = assuming(&director, WAN, &through(4000, "A"), first).unwrap();
    assert_eq!(states(&road).last(), Some(&CtState::Established));
}
