//! Goal: an ICMP error that comes in fragments is RELATED as one that comes in one piece, and says the same behind the director, put together.
//! Method: the same error whole and in pieces, in any order, through NAT, at any worker.

use super::hooks::{Workers, rules, time_exceeded};
use super::*;
use crate::wire::testing;

const SNAT: [&str; 4] = [
    "nat POSTROUTING -o wan -j SNAT --to-source 192.0.2.1",
    "nat POSTROUTING -o wan -j SNAT --to-source 2001:db8::1",
    "filter FORWARD -m conntrack --ctstate INVALID -j DROP",
    "filter FORWARD -m conntrack --ctstate RELATED",
];

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    director.path.adopt(Tables { rules: Arc::new(rules(lines)), ..tables(2, &[11, 12], 1) }.into());
    director
}

/// A frame of IPv4 or IPv6 in pieces of so many bytes.
fn pieces(frame: &[u8], most: usize) -> Vec<Vec<u8>> {
    let is_ipv6 = frame[12..14] == [0x86, 0xdd];
    let head = if is_ipv6 { 54 } else { 34 };
    let parts: Vec<&[u8]> = frame[head..].chunks(most).collect();
    let last = parts.len() - 1;
    let cut = |(nth, part): (usize, &&[u8])| {
        let mut piece = frame[..head].to_vec();
        if is_ipv6 {
            let place = (nth * most) as u16 | u16::from(nth != last);
            piece[18..20].copy_from_slice(&(part.len() as u16 + 8).to_be_bytes());
            piece[20] = 44;
            piece.extend([58, 0]);
            piece.extend(place.to_be_bytes());
            piece.extend([0, 0, 0, 77]);
        } else {
            let place = (nth * most / 8) as u16 | if nth == last { 0 } else { 0x2000 };
            piece[16..18].copy_from_slice(&(part.len() as u16 + 20).to_be_bytes());
            piece[18..22].copy_from_slice(&[0, 77, (place >> 8) as u8, place as u8]);
            crate::wire::ipv4::fill_checksum(&mut piece[14..34]);
        }
        piece.extend(*part);
        piece
    };
    parts.iter().enumerate().map(cut).collect()
}

/// What the pieces of a message say, put together; all have these ends, and right headers.
fn together(sent: &[(PortId, Frame)]) -> (Vec<u8>, IpAddr, IpAddr) {
    let read = |(_, frame): &(PortId, Frame)| {
        let headers = testing::headers(frame.data());
        let piece = crate::wire::parse::piece(frame.data(), &headers).unwrap();
        (
            piece.offset,
            frame.data()[piece.at..].to_vec(),
            headers.source(frame.data()),
            headers.destination(frame.data()),
        )
    };
    let mut all: Vec<_> = sent.iter().map(read).collect();
    all.sort_by_key(|piece| piece.0);
    let (src, dst) = (all[0].2, all[0].3);
    assert!(all.iter().all(|piece| (piece.2, piece.3) == (src, dst)), "all the same way");
    (all.into_iter().flat_map(|piece| piece.1).collect(), src, dst)
}

/// A router's error about a packet of IPv6 that left.
fn packet_too_big(about: &Frame) -> Vec<u8> {
    let quoted = &about.data()[14..];
    let to: [u8; 16] = quoted[8..24].try_into().unwrap();
    let from = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1).ipv6(from, to, 60);
    let mut frame = Vec::new();
    builder.icmpv6(etherparse::Icmpv6Type::PacketTooBig { mtu: 1300 }).write(&mut frame, quoted).unwrap();
    frame
}

fn sent_by_server(n: u8, is_ipv6: bool) -> Vec<u8> {
    let macs = (server_mac(n), OUR_LAN);
    match is_ipv6 {
        false => tcp(macs, (&format!("10.0.0.{n}"), 5000), ("192.0.2.100", 443), "S"),
        true => tcp(macs, (&format!("fd00::{n}"), 5000), ("2001:db8::100", 443), "S"),
    }
}

fn error_about(left: &Frame, is_ipv6: bool) -> Vec<u8> {
    if is_ipv6 { packet_too_big(left) } else { time_exceeded(left) }
}

#[test]
fn an_error_in_pieces_says_what_it_says_in_one() {
    for is_ipv6 in [false, true] {
        for order in [[0, 1], [1, 0]] {
            let mut director = director(&SNAT);
            // Another one has the port outside, so that ours is exchanged.
            director.receive(LAN, &[sent_by_server(12, is_ipv6)]);
            let left = director.receive(LAN, &[sent_by_server(11, is_ipv6)]).sent.remove(0).1;
            let error = error_about(&left, is_ipv6);
            let whole = director.receive(WAN, std::slice::from_ref(&error)).sent.remove(0).1;
            let headers = testing::headers(whole.data());
            let ends = (headers.source(whole.data()), headers.destination(whole.data()));
            assert_eq!(ends.1, ip(if is_ipv6 { "fd00::11" } else { "10.0.0.11" }));
            // As far as the checksum that is quoted.
            let parts = pieces(&error, if is_ipv6 { 72 } else { 48 });
            assert_eq!(parts.len(), 2);
            let sent = order.map(|nth| director.receive(WAN, &[parts[nth].clone()]).sent).concat();
            assert_eq!(sent.len(), 2, "{order:?}");
            assert!(
                sent.iter().all(|(port, frame)| { *port == LAN && testing::headers(frame.data()).ttl == 59 })
            );
            assert_eq!(together(&sent), (whole.data()[usize::from(headers.l4)..].to_vec(), ends.0, ends.1));
            assert_eq!(director.dropped(DropReason::Rule), 0);
        }
    }
}

#[test]
fn rules_see_it_once() {
    let mut director = director(&[
        "filter FORWARD -p icmp -m conntrack --ctstate RELATED -m statistic --mode nth --every 2 --packet 1 -j DROP",
    ]);
    let left = director.receive(LAN, &[sent_by_server(11, false)]).sent.remove(0).1;
    let error = error_about(&left, false);
    for (id, passed) in [(1, 2), (2, 0), (3, 2)] {
        let mut parts = pieces(&error, 48);
        for part in &mut parts {
            part[19] = id;
            testing::reseal(part);
        }
        assert_eq!(director.receive(WAN, &parts).sent.len(), passed, "{id}");
    }
    assert_eq!(director.dropped(DropReason::Rule), 2);
}

#[test]
fn one_whose_first_piece_does_not_say_what_it_is_about_is_invalid() {
    let mut director = director(&SNAT);
    let left = director.receive(LAN, &[sent_by_server(11, false)]).sent.remove(0).1;
    let parts = pieces(&error_about(&left, false), 24);
    assert_eq!(parts.len(), 3);
    assert!(director.receive(WAN, &parts).sent.is_empty());
    // Those behind it are of no connection that is for the host.
    assert_eq!(director.counters[0].flows.invalid.get(), 3);
}

#[test]
fn one_about_no_connection_is_invalid() {
    let mut director = director(&["filter FORWARD -m conntrack --ctstate INVALID -j DROP"]);
    let mut about = Frame::new(LAN, &sent_by_server(11, false));
    about.data_mut()[35] ^= 1;
    assert!(director.receive(WAN, &pieces(&error_about(&about, false), 48)).sent.is_empty());
    assert_eq!(director.dropped(DropReason::Rule), 2);
}

#[test]
fn one_from_behind_a_service_has_the_services_address() {
    let mut director = director(&["filter FORWARD -m conntrack --ctstate INVALID -j DROP"]);
    let left = director.receive(WAN, &[from_client(4000, "S")]).sent.remove(0).1;
    let quoted = &left.data()[14..];
    let builder = etherparse::PacketBuilder::ethernet2(server_mac(11), OUR_LAN);
    let kind =
        etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    let mut error = Vec::new();
    builder.ipv4([10, 0, 0, 11], [192, 0, 2, 100], 60).icmpv4(kind).write(&mut error, quoted).unwrap();
    let whole = director.receive(LAN, std::slice::from_ref(&error)).sent.remove(0).1;
    let sent = director.receive(LAN, &pieces(&error, 48)).sent;
    let (said, src, dst) = together(&sent);
    assert_eq!((said, src, dst), (whole.data()[34..].to_vec(), ip("192.0.2.10"), ip("192.0.2.100")));
}

#[test]
fn pieces_of_an_error_find_the_connection_at_any_worker() {
    for number in [2, 3] {
        let mut workers = Workers::new(
            number,
            rules(&[
                "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22",
                "nat POSTROUTING -o lan -j MASQUERADE",
                "filter FORWARD -m conntrack --ctstate INVALID -j DROP",
            ]),
        );
        for sport in 4000..4016 {
            let asked = tcp(C2D, ("192.0.2.100", sport), ("192.0.2.1", 2222), "S");
            let (began, out) = workers.carry(WAN, &asked, false);
            let quoted = out.sent[0].1.data()[14..].to_vec();
            let builder = etherparse::PacketBuilder::ethernet2(server_mac(11), OUR_LAN);
            let kind = etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::Host,
            );
            let mut error = Vec::new();
            builder.ipv4([10, 0, 0, 11], [10, 0, 0, 1], 60).icmpv4(kind).write(&mut error, &quoted).unwrap();
            for piece in pieces(&error, 48) {
                let (at, out) = workers.carry(LAN, &piece, false);
                assert_eq!((at, out.sent.len()), (began, 1), "port {sport}");
                let (_, _, dst) = together(&out.sent);
                assert_eq!(dst, ip("192.0.2.100"));
            }
        }
    }
}
