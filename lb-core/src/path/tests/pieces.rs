//! Goal: fragments of what rules follow go with their first one, whichever worker has the connection, pings too, and no rule is passed by.
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
fn table_raw_is_asked_about_each_piece() {
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
