//! Goal: fragments of what rules follow go with their first one, whichever worker has the connection, pings too, no rule is passed by, and none is
//! asked twice about one datagram.
//! Method: datagrams and pings in pieces, in any order, through NAT and through table raw.

use super::hooks::{Workers, rules};
use super::*;

const OUTSIDE: &str = "192.0.2.1";
const SNAT: &str = "nat POSTROUTING -s 10.0.0.0/24 -j SNAT --to-source 192.0.2.1";

/// An echo request or its answer in three pieces.
fn ping_in_pieces(macs: (Mac, Mac), from: &str, to: &str, id: u16, is_reply: bool) -> Vec<Vec<u8>> {
    const PART: usize = 80;
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (ip(from), ip(to)) else { panic!("IPv4") };
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1).ipv4(src.octets(), dst.octets(), 64);
    let payload: Vec<u8> = (0..3 * PART - 8).map(|n| n as u8).collect();
    let mut whole = Vec::new();
    if is_reply {
        builder.icmpv4_echo_reply(id, 1).write(&mut whole, &payload).unwrap();
    } else {
        builder.icmpv4_echo_request(id, 1).write(&mut whole, &payload).unwrap();
    }
    let piece = |nth: usize| {
        let mut frame = [&whole[..34], &whole[34 + nth * PART..34 + (nth + 1) * PART]].concat();
        let more = if nth < 2 { 0x2000u16 } else { 0 };
        frame[16..18].copy_from_slice(&(20 + PART as u16).to_be_bytes());
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        frame[20..22].copy_from_slice(&(more | (nth * PART / 8) as u16).to_be_bytes());
        crate::wire::ipv4::fill_checksum(&mut frame[14..34]);
        frame
    };
    (0..3).map(piece).collect()
}

/// What pieces say, put together, and whom they are from and to.
fn together(sent: &[(PortId, Frame)]) -> (Vec<u8>, IpAddr, IpAddr) {
    let offset = |frame: &Frame| u16::from_be_bytes([frame.data()[20], frame.data()[21]]) & 0x1fff;
    let mut frames: Vec<&Frame> = sent.iter().map(|(_, frame)| frame).collect();
    frames.sort_by_key(|frame| offset(frame));
    let ends = |frame: &Frame| {
        let end = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame.data()[at..at + 4]).unwrap());
        (end(26), end(30))
    };
    assert!(frames.iter().all(|frame| ends(frame) == ends(frames[0])), "all the same way");
    let said = frames.iter().flat_map(|frame| frame.data()[34..].to_vec()).collect();
    (said, ends(frames[0]).0, ends(frames[0]).1)
}

#[test]
fn a_ping_in_pieces_is_translated_both_ways() {
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
        let mut director = Director::new();
        let tables = Tables { rules: Arc::new(rules(&[SNAT])), ..tables(2, &[11, 12], 1) };
        director.path.adopt(tables.into());
        let macs = |n| (server_mac(n), OUR_LAN);
        // Another one has this identifier outside already.
        let others = ping_in_pieces(macs(12), "10.0.0.12", "192.0.2.100", 7, false);
        director.receive(LAN, &others);
        let mut pass = |port, pieces: Vec<Vec<u8>>| {
            let came = order.map(|nth| director.receive(port, &[pieces[nth].clone()]).sent);
            let sent = came.concat();
            assert_eq!(sent.len(), 3, "{order:?}");
            together(&sent)
        };
        let (said, src, dst) = pass(LAN, ping_in_pieces(macs(11), "10.0.0.11", "192.0.2.100", 7, false));
        assert_eq!((src, dst), (ip(OUTSIDE), ip("192.0.2.100")));
        let id = u16::from_be_bytes([said[4], said[5]]);
        assert_ne!(id, 7);
        let whole =
            |pieces: Vec<Vec<u8>>| pieces.iter().flat_map(|piece| piece[34..].to_vec()).collect::<Vec<u8>>();
        assert_eq!(said, whole(ping_in_pieces(C2D, OUTSIDE, "192.0.2.100", id, false)), "its checksum too");
        let (said, src, dst) = pass(WAN, ping_in_pieces(C2D, "192.0.2.100", OUTSIDE, id, true));
        assert_eq!((src, dst), (ip("192.0.2.100"), ip("10.0.0.11")));
        assert_eq!(said, whole(ping_in_pieces(C2D, "192.0.2.100", "10.0.0.11", 7, true)));
    }
}

#[test]
fn pieces_of_an_answer_find_the_connection_at_any_worker() {
    let mut workers = Workers::new(
        3,
        rules(&[
            "nat PREROUTING -p udp --dport 2222 -j DNAT --to-destination 10.0.0.11:53",
            "nat POSTROUTING -o lan -j MASQUERADE",
        ]),
    );
    for sport in 4000..4032 {
        let asked = datagram_between(C2D, ("192.0.2.100", sport), (OUTSIDE, 2222), 1).remove(0);
        let (began, out) = workers.carry(WAN, &asked, false);
        let (src, port, ..) = read(&out.sent[0].1);
        let answer =
            datagram_between((server_mac(11), OUR_LAN), ("10.0.0.11", 53), (&src.to_string(), port), 3);
        for piece in answer {
            let (at, out) = workers.carry(LAN, &piece, false);
            assert_eq!((at, out.sent.len()), (began, 1));
            let (_, src, dst) = together(&out.sent);
            assert_eq!((src, dst), (ip(OUTSIDE), ip("192.0.2.100")));
        }
    }
}

#[test]
fn no_piece_passes_table_raw_by() {
    let mut director = Director::new();
    let tables = Tables { rules: Arc::new(rules(&["raw PREROUTING -j DROP"])), ..tables(2, &[11, 12], 1) };
    director.path.adopt(tables.into());
    let datagram = datagram_between(C2D, ("192.0.2.100", 4000), ("10.0.0.11", 53), 3);
    let ping = ping_in_pieces(C2D, "192.0.2.100", "10.0.0.11", 7, false);
    for piece in [datagram, ping].concat() {
        assert_eq!(director.receive(WAN, &[piece]).sent.len(), 0);
    }
    assert_eq!(director.dropped(DropReason::Rule), 6);
}

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    let tables = Tables { rules: Arc::new(rules(lines)), ..tables(2, &[11, 12], 1) };
    director.path.adopt(tables.into());
    director
}

/// A datagram through the director, in three pieces.
fn through(dport: u16) -> Vec<Vec<u8>> {
    datagram_between(C2D, ("192.0.2.100", 4000), ("10.0.0.11", dport), 3)
}

const DEFAULT_DROP: [&str; 4] = [
    "filter FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT",
    "filter FORWARD -p udp --dport 514 -j ACCEPT",
    "filter FORWARD -p icmp --icmp-type echo-request -j ACCEPT",
    "filter FORWARD -j DROP",
];

#[test]
fn pieces_pass_where_their_first_one_does() {
    let ping = || ping_in_pieces(C2D, "192.0.2.100", "10.0.0.11", 7, false);
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        for (pieces, passed) in [(through(514), 3), (through(515), 0), (ping(), 3)] {
            let mut director = director(&DEFAULT_DROP);
            let came = order.map(|nth| director.receive(WAN, &[pieces[nth].clone()]).sent.len());
            assert_eq!(came.iter().sum::<usize>(), passed, "{order:?}");
            assert_eq!(director.dropped(DropReason::Rule), 3 - passed as u64);
        }
    }
}

#[test]
fn pieces_of_a_datagram_whose_identification_was_anothers_follow_their_own_first_one() {
    let mut director = director(&DEFAULT_DROP);
    let sent = [514, 515, 514, 514, 515].map(|dport| director.receive(WAN, &through(dport)).sent.len());
    assert_eq!(sent, [3, 0, 3, 3, 0]);
}

#[test]
fn pieces_to_the_host_pass_where_their_first_one_does() {
    let lines = DEFAULT_DROP.map(|line| line.replace("FORWARD", "INPUT"));
    let mut director = director(&lines.each_ref().map(String::as_str));
    for (dport, passed) in [(514, 3), (515, 0)] {
        let pieces = datagram_between(C2D, ("192.0.2.100", 4000), (OUTSIDE, dport), 3);
        assert_eq!(director.receive(WAN, &pieces).to_twin.len(), passed);
    }
}

#[test]
fn a_datagram_is_one_packet_to_rules() {
    let mut director = director(&[
        "filter FORWARD -f -j DROP",
        "filter FORWARD -p udp -m statistic --mode nth --every 2 --packet 1 -j DROP",
        "filter FORWARD -m connbytes --connbytes 3: --connbytes-dir original --connbytes-mode packets -j DROP",
    ]);
    let sent = [(); 4].map(|()| director.receive(WAN, &through(514)).sent.len());
    // Dropped ones count too.
    assert_eq!(sent, [3, 0, 0, 0]);
    assert_eq!(director.dropped(DropReason::Rule), 9);
}

#[test]
fn pieces_leave_with_the_mark_and_with_what_rules_wrote_of_the_first_one() {
    let mut director = director(&[
        "mangle PREROUTING -p udp --dport 514 -j MARK --set-mark 5",
        "mangle PREROUTING -p udp --dport 514 -j TTL --ttl-set 40",
        "mangle FORWARD -p udp --dport 514 -j TOS --set-tos 0x10",
        "filter FORWARD -m mark ! --mark 5 -j DROP",
    ]);
    let sent = director.receive(WAN, &through(514)).sent;
    assert_eq!(sent.len(), 3);
    for (_, frame) in &sent {
        assert_eq!((frame.data()[15], frame.data()[22]), (0x10, 39));
        assert!(checksum::is_good(checksum::sum(&frame.data()[14..34])));
    }
}

#[test]
fn pieces_that_are_not_tracked_go_with_their_first_one_too() {
    let mut director = director(&[
        "raw PREROUTING -p udp --dport 514 -j NOTRACK",
        "filter FORWARD -m state --state UNTRACKED -j ACCEPT",
        "filter FORWARD -j DROP",
    ]);
    assert_eq!(director.receive(WAN, &through(514)).sent.len(), 3);
    assert_eq!(director.receive(WAN, &through(515)).sent.len(), 0);
}

#[test]
fn the_sender_of_a_refused_datagram_is_told_once() {
    let mut director = director(&["filter FORWARD -p udp -j REJECT"]);
    assert_eq!(director.receive(WAN, &through(514)).sent.len(), 1);
    assert_eq!(director.dropped(DropReason::RuleRejects), 1);
    assert_eq!(director.dropped(DropReason::Rule), 2);
}

#[test]
fn pieces_of_what_finds_no_port_go_nowhere() {
    let mut director = director(&["nat POSTROUTING -p udp -j SNAT --to-source 192.0.2.1:5000"]);
    let macs = (server_mac(11), OUR_LAN);
    let datagram = |sport| datagram_between(macs, ("10.0.0.11", sport), ("192.0.2.100", 53), 3);
    assert_eq!(director.receive(LAN, &datagram(4000)).sent.len(), 3);
    assert_eq!(director.receive(LAN, &datagram(4001)).sent.len(), 0);
    assert_eq!(director.dropped(DropReason::NoLocalPort), 3);
}
