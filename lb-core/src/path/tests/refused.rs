//! Goal: who is told that a packet goes no further, and who is not; what becomes of its connection.
//! Method: packets that rules or routes refuse, and their answers.

use super::hooks::{back, rules, through};
use super::*;

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
