//! Goal: who is told that a packet goes no further, and who is not; which rules see it; what becomes of its connection.
//! Method: packets that rules or routes refuse, and their answers; what rules have counted.

use super::hooks::{Workers, back, rules, through};
use super::ttl::with_ttl;
use super::*;
use crate::time::Timeout;
use crate::wire::testing;

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    let mut tables = tables(2, &[11, 12], 1);
    let local = (Prefix { address: ip("192.0.2.255"), len: 32 }, Route::Local);
    let links = [("192.0.2.0", 24, 0), ("10.0.0.0", 24, 1), ("2001:db8::", 64, 0), ("fd00::", 64, 1)];
    let links = links.map(|(address, len, n)| {
        let via = Route::Via { interface: InterfaceId(n), gateway: None };
        (Prefix { address: ip(address), len }, via)
    });
    let routes = Routes::new([local].into_iter().chain(links));
    tables.routes = routes.with_broadcasts(["192.0.2.255".parse().unwrap()]).into();
    if !lines.is_empty() {
        tables.rules = Arc::new(rules(lines));
    }
    director.path.adopt(tables.into());
    director
}

#[test]
fn what_went_to_all_of_a_network_is_not_answered() {
    for how in ["icmp-port-unreachable", "tcp-reset"] {
        let rule = format!("filter INPUT -p tcp -j REJECT --reject-with {how}");
        let mut director = director(&[&rule]);
        let frame = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.255", 22), "S");
        assert!(director.receive(WAN, &[frame]).sent.is_empty(), "{how}");
        assert_eq!(director.dropped(DropReason::RuleRejects), 1);
    }
}

#[test]
fn what_is_damaged_is_not_answered() {
    let mut director = director(&["filter FORWARD -j REJECT"]);
    let udp = |is_summed: bool, is_damaged: bool| {
        let mut frame = datagram_between(C2D, ("192.0.2.100", 4000), ("10.0.0.11", 53), 1).remove(0);
        if !is_summed {
            frame[40..42].fill(0);
        }
        *frame.last_mut().unwrap() ^= u8::from(is_damaged);
        frame
    };
    let mut answers = |frame: Vec<u8>| director.receive(WAN, &[frame]).sent.len();
    assert_eq!([udp(true, false), udp(true, true), udp(false, true)].map(&mut answers), [1, 0, 1]);
    let mut segment = through(4000, "S");
    assert_eq!(answers(segment.clone()), 1);
    *segment.last_mut().unwrap() ^= 1;
    assert_eq!(answers(segment), 0);
}

#[test]
fn what_comes_from_a_link_local_address_stays_on_its_link() {
    for lines in [&[][..], &["filter FORWARD -j ACCEPT"]] {
        let mut director = director(lines);
        let sent = |director: &mut Director, to: &str| {
            let out = director.receive(WAN, &[tcp(C2D, ("fe80::5", 4000), (to, 22), "S")]);
            out.sent.into_iter().map(|(port, frame)| (port, frame.data().to_vec())).collect::<Vec<_>>()
        };
        let answer = sent(&mut director, "fd00::11");
        assert_eq!(answer.len(), 1);
        let (port, frame) = &answer[0];
        assert_eq!(
            (*port, frame[20], &frame[54..56]),
            (WAN, 58, &[1, 2][..]),
            "beyond the scope of its source"
        );
        assert_eq!(director.dropped(DropReason::MartianAddress), 1);
        let on_link = sent(&mut director, "2001:db8::100");
        assert_eq!(on_link.iter().map(|(port, frame)| (*port, frame[20])).collect::<Vec<_>>(), [(WAN, 6)]);
    }
}

#[test]
fn a_connection_whose_packet_is_answered_with_a_reset_is_closed() {
    let lines = ["filter FORWARD -p tcp --tcp-flags PSH PSH -j REJECT --reject-with tcp-reset"];
    let mut director = director(&lines);
    director.receive(WAN, &[through(4000, "S")]);
    director.receive(LAN, &[back(4000, "SA")]);
    assert_eq!(director.receive(WAN, &[through(4000, "A")]).sent.len(), 1);
    assert_eq!(director.states(), ["ESTABLISHED"]);
    let mut push = through(4000, "A");
    push[47] |= 8;
    let sum = u16::from_be_bytes([push[50], push[51]]);
    let sum = checksum::Delta::word(0x5010, 0x5018).apply(sum);
    push[50..52].copy_from_slice(&sum.to_be_bytes());
    let out = director.receive(WAN, &[push]);
    assert_eq!(out.sent[0].0, WAN, "it is told");
    let view = super::tracking::list(&director).remove(0);
    assert_eq!((view.state, view.expires_in), ("CLOSE", crate::time::Timeout::from_secs(10)));
}

/// One rule at each place, in the order of their numbers, that goes by `says`.
fn counting(says: &str) -> Vec<String> {
    let places = ["raw PREROUTING", "mangle PREROUTING", "mangle INPUT", "mangle FORWARD", "mangle OUTPUT"];
    let more = ["mangle POSTROUTING", "filter INPUT", "filter FORWARD", "filter OUTPUT"];
    places.iter().chain(&more).map(|place| format!("{place} {says}")).collect()
}

/// By how much the counts of [`counting`] grow: packets, whose bytes are as many times `len`.
fn met(director: &mut Director, len: u64, work: impl FnOnce(&mut Director)) -> [u64; 9] {
    let counts = |director: &Director| {
        let mut counts = vec![(0, 0); 10];
        assert!(director.counters[0].add_rule_counts(&mut counts));
        counts.split_off(1)
    };
    let before = counts(director);
    work(director);
    let grown = counts(director).into_iter().zip(before).map(|(now, then)| (now.0 - then.0, now.1 - then.1));
    let packets: Vec<u64> =
        grown.map(|(packets, bytes)| (bytes == packets * len).then_some(packets).unwrap()).collect();
    packets.try_into().unwrap()
}

/// What the rules of [`counting`] see of packets that are routed, and of those that a virtual service sends on.
const ROUTED: [u64; 9] = [1, 1, 0, 1, 0, 1, 0, 1, 0];
const REFUSED: [u64; 9] = [1, 1, 0, 0, 0, 0, 0, 0, 0];
const SENT_ON: [u64; 9] = [1, 1, 1, 0, 1, 1, 1, 0, 1];
const NOT_SENT_ON: [u64; 9] = [1, 1, 1, 0, 0, 0, 1, 0, 0];

fn is_time_exceeded(out: &Out) -> bool {
    let [(_, frame)] = &out.sent[..] else { return false };
    let headers = testing::headers(frame.data());
    (headers.protocol, headers.icmp_type) == (Protocol::ICMP, 11)
}

/// Rules that have a connection follow a course, and such that look at each packet.
const EACH_WAY: [&str; 2] = ["-p tcp", "-p tcp -m ttl --ttl-gt 0"];

#[test]
fn what_is_told_of_a_segment_without_sense_is_related_to_the_connection_of_its_ends_at_whatever_worker_that_is()
 {
    let mut workers = Workers::new(4, rules(&["mangle OUTPUT -p icmp -m state --state RELATED"]));
    for (n, sport) in (1..).zip(4000..4020) {
        workers.carry(WAN, &through(sport, "S"), false);
        let (_, out) = workers.carry(LAN, &with_ttl(back(sport, "SF"), 1), false);
        assert!(is_time_exceeded(&out));
        let met: u64 = workers.counters.iter().map(|worker| worker.rule(1).packets.get()).sum();
        assert_eq!(met, n, "{sport}");
    }
}

#[test]
fn a_packet_of_a_connection_that_has_no_hops_left_is_no_packet_for_forward() {
    for says in EACH_WAY {
        let lines = counting(says);
        let mut director = director(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        director.receive(WAN, &[through(4000, "S")]);
        director.receive(LAN, &[back(4000, "SA")]);
        for (port, frame) in [(WAN, through(4000, "A")), (LAN, back(4000, "A"))] {
            let len = frame.len() as u64 - 14;
            let dying = with_ttl(frame.clone(), 1);
            for _ in 0..3 {
                let goes = |director: &mut Director| {
                    assert_eq!(director.receive(port, std::slice::from_ref(&frame)).sent.len(), 1);
                };
                assert_eq!(met(&mut director, len, goes), ROUTED, "{says}");
                let ends = |director: &mut Director| {
                    assert!(is_time_exceeded(&director.receive(port, std::slice::from_ref(&dying))));
                };
                assert_eq!(met(&mut director, len, ends), REFUSED, "{says}");
            }
        }
    }
}

#[test]
fn what_a_virtual_service_cannot_send_on_is_no_packet_for_output_and_an_answer_none_for_forward() {
    for says in EACH_WAY {
        for forward in [Forward::Masq, Forward::Direct, Forward::Tunnel(crate::tables::Tunnel::Ipip)] {
            let lines = counting(says);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let plain = tables(2, &[11, 12], 1);
            let services = plain.services.iter().map(|service| {
                let mut service = Service::clone(service);
                service.servers.iter_mut().for_each(|server| server.forward = forward);
                Arc::new(service)
            });
            let services = Services::new(services.collect::<Vec<_>>()).into();
            let mut director = Director::new();
            director.path.adopt(Tables { rules: Arc::new(rules(&lines)), services, ..plain }.into());
            director.receive(WAN, &[from_client(4000, "S")]);
            let mut ways = vec![(WAN, from_client(4000, "A"), SENT_ON, NOT_SENT_ON)];
            if forward == Forward::Masq {
                director.receive(LAN, &[from_server(11, 4000, "SA")]);
                ways.push((LAN, from_server(11, 4000, "A"), ROUTED, REFUSED));
            }
            for (port, frame, is_met, is_met_when_refused) in ways {
                let len = frame.len() as u64 - 14;
                let dying = with_ttl(frame.clone(), 1);
                for _ in 0..3 {
                    let goes = |director: &mut Director| {
                        assert_eq!(director.receive(port, std::slice::from_ref(&frame)).sent.len(), 1);
                    };
                    assert_eq!(met(&mut director, len, goes), is_met, "{says} {forward:?}");
                    let ends = |director: &mut Director| {
                        assert!(is_time_exceeded(&director.receive(port, std::slice::from_ref(&dying))));
                    };
                    assert_eq!(met(&mut director, len, ends), is_met_when_refused, "{says} {forward:?}");
                }
            }
        }
    }
}

/// A datagram that may not be split, of so many bytes.
fn datagram_in_one_piece(sport: u16, len: u16) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1);
    let mut frame = Vec::new();
    let builder = builder.ipv4([192, 0, 2, 100], [10, 0, 0, 11], 64).udp(sport, 53);
    builder.write(&mut frame, &vec![7; usize::from(len) - 28]).unwrap();
    frame[20] |= 0x40;
    testing::reseal(&mut frame);
    frame
}

#[test]
fn what_is_too_big_for_the_next_hop_is_no_packet_for_forward() {
    for says in ["-p udp", "-p udp -m ttl --ttl-gt 0"] {
        let lines = counting(says);
        let mut director = director(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        director.receive(WAN, &[datagram_in_one_piece(4000, 100)]);
        for _ in 0..3 {
            for (len, is_met) in [(1500, ROUTED), (1501, REFUSED)] {
                let works = |director: &mut Director| {
                    let out = director.receive(WAN, &[datagram_in_one_piece(4000, len)]);
                    assert_eq!(out.sent[0].0, if len == 1500 { LAN } else { WAN });
                };
                assert_eq!(met(&mut director, len.into(), works), is_met, "{says} {len}");
            }
        }
        assert_eq!(director.dropped(DropReason::TooBig), 3);
    }
}

#[test]
fn a_connection_is_prolonged_by_what_is_refused_behind_tracking_and_by_what_rules_drop_behind_ipvs() {
    let expires = |director: &Director| super::tracking::list(director)[0].expires_in;
    let rest = |director: &mut Director| {
        director.now = director.now.after(Timeout::from_secs(20));
        director.turn();
    };
    let mut director = director(&["filter FORWARD -p tcp"]);
    director.receive(WAN, &[through(4000, "S")]);
    director.receive(LAN, &[back(4000, "SA")]);
    director.receive(WAN, &[through(4000, "A")]);
    let whole = expires(&director);
    rest(&mut director);
    assert_ne!(expires(&director), whole);
    director.receive(WAN, &[with_ttl(through(4000, "A"), 1)]);
    assert_eq!(expires(&director), whole);

    let begin = |lines: &[&str]| {
        let mut director = super::hooks::director(rules(lines));
        director.receive(WAN, &[from_client(4000, "S")]);
        director.receive(LAN, &[from_server(11, 4000, "SA")]);
        director.receive(WAN, &[from_client(4000, "A")]);
        assert_eq!(director.states(), ["ESTABLISHED"]);
        director
    };
    for (table, prolongs) in [
        ("filter OUTPUT", true),
        ("mangle POSTROUTING", true),
        ("filter INPUT", false),
        ("mangle PREROUTING", false),
        ("raw PREROUTING", false),
    ] {
        let rule = format!("{table} -p tcp --tcp-flags FIN FIN -j DROP");
        let mut director = begin(&[&rule]);
        let packets = |director: &Director| director.counters[0].server(ServerId(2)).in_packets.get();
        rest(&mut director);
        let before = packets(&director);
        assert!(director.receive(WAN, &[from_client(4000, "FA")]).sent.is_empty());
        let (state, seconds) = if prolongs { ("CLOSE_WAIT", 60) } else { ("ESTABLISHED", 880) };
        assert_eq!(director.states(), [state], "{table}");
        assert_eq!(expires(&director), Timeout::from_secs(seconds), "{table}");
        assert_eq!(packets(&director) - before, u64::from(prolongs), "{table}");
    }
    for (table, prolongs) in [("mangle POSTROUTING", true), ("filter FORWARD", false)] {
        let rule = format!("{table} -p tcp --sport 8080 --tcp-flags FIN FIN -j DROP");
        let other = format!("{table} -p tcp --sport 80 --tcp-flags FIN FIN -j DROP");
        let mut director = begin(&[&rule, &other]);
        assert!(director.receive(LAN, &[from_server(11, 4000, "FA")]).sent.is_empty(), "{table}");
        assert_eq!(director.states() != ["ESTABLISHED"], prolongs, "{table}");
    }
}

#[test]
fn a_first_packet_that_output_drops_has_begun_its_connection() {
    let mut director = super::hooks::director(rules(&["filter OUTPUT -p tcp --syn -j DROP"]));
    assert!(director.receive(WAN, &[from_client(4000, "S")]).sent.is_empty());
    assert_eq!(director.states(), ["SYN_RECV"]);
    assert_eq!(director.counters[0].server(ServerId(2)).in_packets.get(), 1);
}
