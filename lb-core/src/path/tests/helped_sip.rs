//! Goal: a call's media and the calls of who has registered are RELATED to the messages that tell of them, reach who waits for them where either end is translated,
//! and are expected no longer than the call is; with several workers too. Method: phones on both sides, message by message; rules of a few words that let in nothing
//! else.

use super::helped::{list, udp};
use super::hooks::{Workers, rules};
use super::*;
use crate::conntrack::Status;
use crate::time::Timeout;
use crate::wire::checksum;
use crate::wire::parse::{Parsed, parse};

const HELPER: &str = "raw PREROUTING -p udp --dport 5060 -j CT --helper sip";
const SNAT: &str = "nat POSTROUTING -o wan -j SNAT --to-source 192.0.2.1";
const SNAT_V6: &str = "nat POSTROUTING -o wan -j SNAT --to-source 2001:db8::1";
const DNAT: &str = "nat PREROUTING -i wan -p udp --dport 5060 -j DNAT --to-destination 10.0.0.11";
pub(super) const RELATED: [&str; 3] = [
    "filter FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "filter FORWARD -p udp --dport 5060 -j ACCEPT",
    "filter FORWARD -j DROP",
];

fn with(lines: &[&'static str]) -> Vec<&'static str> {
    [&[HELPER], lines, &RELATED].concat()
}

fn director(lines: &[&str]) -> Director {
    super::hooks::director(rules(lines))
}

type Ends = (&'static str, u16);

const ALICE: Ends = ("10.0.0.11", 5060);
const CAROL: Ends = ("10.0.0.12", 5060);
const BOB: Ends = ("192.0.2.100", 5060);
const US: Ends = ("192.0.2.1", 5060);

/// From the private network, and from outside.
fn inner(from: Ends, to: (&str, u16), data: &[u8]) -> (PortId, Vec<u8>) {
    let n = from.0.rsplit(['.', ':']).next().and_then(|n| n.parse().ok()).expect("a number");
    (LAN, udp((server_mac(n), OUR_LAN), from, to, data))
}

fn outer(from: Ends, to: (&str, u16), data: &[u8]) -> (PortId, Vec<u8>) {
    (WAN, udp(C2D, from, to, data))
}

fn sent(director: &mut Director, (port, frame): (PortId, Vec<u8>)) -> Option<Frame> {
    director.receive(port, &[frame]).sent.into_iter().next().map(|(_, frame)| frame)
}

/// What a datagram says, whose lengths and checksum are right.
fn text(frame: &Frame) -> String {
    let Ok(Parsed::Ip(headers)) = parse(frame.data(), frame.frame_len(), Default::default()) else {
        panic!("no IP packet")
    };
    let sum = checksum::of_transport(frame.data(), &headers).expect("whole");
    assert!(checksum::is_good(sum));
    assert_eq!(headers.end(), frame.frame_len());
    String::from_utf8(frame.data()[usize::from(headers.l4) + 8..].to_vec()).expect("text")
}

/// With the right length of its body.
fn message(lines: &[&str], body: &str) -> String {
    format!("{}\r\nContent-Length: {}\r\n\r\n{body}", lines.join("\r\n"), body.len())
}

pub(super) fn session(address: &str, streams: &[&str]) -> String {
    let kind = if address.contains(':') { 6 } else { 4 };
    let lines: String = streams.iter().map(|stream| format!("m={stream}\r\n")).collect();
    format!("v=0\r\no=- 1 1 IN IP{kind} {address}\r\ns=-\r\nc=IN IP{kind} {address}\r\nt=0 0\r\n{lines}")
}

/// Hosts as in URIs: of who calls, and whom.
pub(super) fn invite(from: &str, to: &str, body: &str) -> String {
    let lines = [
        &format!("INVITE sip:b@{to} SIP/2.0"),
        &format!("Via: SIP/2.0/UDP {from};branch=z9hG4bK1;rport"),
        &format!("From: <sip:a@{from}>;tag=1"),
        &format!("To: <sip:b@{to}>"),
        "Call-ID: 1",
        "CSeq: 1 INVITE",
        &format!("Contact: <sip:a@{from};ob>"),
    ];
    message(&lines.map(|line: &str| line), body)
}

pub(super) fn answer(code: &str, from: &str, to: &str, own: &str, body: &str) -> String {
    let port = from.rsplit(':').next().unwrap_or_default();
    let host = from.rsplit_once(':').map_or(from, |(host, _)| host).trim_matches(['[', ']']);
    let lines = [
        &format!("SIP/2.0 {code}"),
        &format!("Via: SIP/2.0/UDP {from};branch=z9hG4bK1;received={host};rport={port}"),
        &format!("From: <sip:a@{from}>;tag=1"),
        &format!("To: <sip:b@{to}>;tag=2"),
        "CSeq: 1 INVITE",
        &format!("Contact: <sip:b@{own}>"),
    ];
    message(&lines.map(|line: &str| line), body)
}

fn short(method: &str) -> String {
    message(&[&format!("{method} sip:b@192.0.2.100:5060 SIP/2.0"), &format!("CSeq: 2 {method}")], "")
}

pub(super) const AUDIO: &str = "audio 10000 RTP/AVP 0";
pub(super) const BOBS: &str = "audio 20000 RTP/AVP 0";

pub(super) fn expected(director: &Director) -> Vec<(IpAddr, u16)> {
    let mut ends: Vec<_> = list(&director.path, director.now).1.iter().map(|view| view.virtual_).collect();
    ends.sort_unstable();
    ends
}

/// Alice calls Bob, who takes the call.
fn call(director: &mut Director) {
    let call = invite("10.0.0.11:5060", "192.0.2.100:5060", &session("10.0.0.11", &[AUDIO]));
    let taken = answer(
        "200 OK",
        "10.0.0.11:5060",
        "192.0.2.100:5060",
        "192.0.2.100:5060",
        &session("192.0.2.100", &[BOBS]),
    );
    assert_eq!(text(&sent(director, inner(ALICE, BOB, call.as_bytes())).expect("it goes on")), call);
    assert_eq!(text(&sent(director, outer(BOB, ALICE, taken.as_bytes())).expect("it goes on")), taken);
}

#[test]
fn a_calls_media_are_related_to_it_both_ways_and_nothing_else_is() {
    for is_helped in [true, false] {
        let lines = with(&[]);
        let mut director = director(if is_helped { &lines } else { &lines[1..] });
        call(&mut director);
        let (connections, expected) = list(&director.path, director.now);
        assert_eq!(expected.len(), if is_helped { 4 } else { 0 });
        let rest = if is_helped { 3600 } else { 30 };
        assert_eq!(connections[0].expires_in, Timeout::from_secs(rest));
        for (frame, passes) in [
            (outer(("192.0.2.100", 20000), ("10.0.0.11", 10002), b"rtp"), false),
            (outer(("192.0.2.101", 20000), ("10.0.0.11", 10000), b"rtp"), false),
            (outer(("192.0.2.100", 20000), ("10.0.0.11", 10000), b"rtp"), is_helped),
            (inner(("10.0.0.11", 10000), ("192.0.2.100", 20000), b"rtp"), is_helped),
            (inner(("10.0.0.11", 10001), ("192.0.2.100", 20001), b"rtcp"), is_helped),
            (outer(("192.0.2.100", 20001), ("10.0.0.11", 10001), b"rtcp"), is_helped),
        ] {
            assert_eq!(sent(&mut director, frame).is_some(), passes);
        }
        let (connections, _) = list(&director.path, director.now);
        let is_told = |view: &&FlowView| view.known.status.has(Status::EXPECTED);
        assert_eq!(connections.iter().filter(is_told).count(), if is_helped { 2 } else { 0 });
        assert!(connections.iter().filter(is_told).all(|view| view.known.helper.is_none()));
    }
}

#[test]
fn what_a_call_announced_is_expected_no_more_when_it_ends() {
    let busy = answer("486 Busy", "10.0.0.11:5060", "192.0.2.100:5060", "192.0.2.100:5060", "");
    let (ringing, another) = (busy.replace("486 Busy", "180 Ringing"), busy.replace("CSeq: 1", "CSeq: 7"));
    for (frame, left) in [
        (inner(ALICE, BOB, short("BYE").as_bytes()), 0),
        (outer(BOB, ALICE, short("BYE").as_bytes()), 0),
        (outer(BOB, ALICE, busy.as_bytes()), 0),
        (outer(BOB, ALICE, ringing.as_bytes()), 4),
        (outer(BOB, ALICE, another.as_bytes()), 4),
        (inner(ALICE, BOB, short("OPTIONS").as_bytes()), 4),
        (inner(ALICE, BOB, short("CANCEL").as_bytes()), 4),
        (inner(ALICE, BOB, short("INVITE").as_bytes()), 0),
    ] {
        let mut director = director(&with(&[]));
        call(&mut director);
        assert!(sent(&mut director, frame).is_some());
        assert_eq!(expected(&director).len(), left);
        let counts = &director.path.mine.flows;
        assert_eq!(counts.expect_create.get() - counts.expect_delete.get(), left as u64);
    }
    let mut director = director(&with(&[]));
    call(&mut director);
    director.now = director.now.after(Timeout::from_secs(180));
    assert_eq!(expected(&director), [], "nor after three minutes");
}

#[test]
fn behind_one_address_a_phone_is_named_and_reached_by_it() {
    let mut director = director(&with(&[SNAT]));
    // Carol was first, and has these ports.
    let carols = invite("10.0.0.12", "192.0.2.100:5060", &session("10.0.0.12", &[AUDIO]));
    let reads = text(&sent(&mut director, inner(CAROL, BOB, carols.as_bytes())).expect("it goes on"));
    assert_eq!(reads, invite("192.0.2.1:5060", "192.0.2.100:5060", &session("192.0.2.1", &[AUDIO])));
    let call = invite(
        "10.0.0.11:5060",
        "192.0.2.100:5060",
        &session("10.0.0.11", &[AUDIO, "video 10002 RTP/AVP 31"]),
    );
    let moved = ["audio 10002 RTP/AVP 0", "video 10004 RTP/AVP 31"];
    let reads = text(&sent(&mut director, inner(ALICE, BOB, call.as_bytes())).expect("it goes on"));
    assert_eq!(reads, invite("192.0.2.1:5061", "192.0.2.100:5060", &session("192.0.2.1", &moved)));
    // Sent again it says the same.
    let again = text(&sent(&mut director, inner(ALICE, BOB, call.as_bytes())).expect("it goes on"));
    assert_eq!(again, reads);
    assert_eq!(director.path.flows.edits().0, 2);
    let outside = ("192.0.2.1", 5061);
    let taken = |from, body: &str| answer("200 OK", from, "192.0.2.100:5060", "192.0.2.100", body);
    let bobs = session("192.0.2.100", &[BOBS]);
    let reads = text(
        &sent(&mut director, outer(BOB, outside, taken("192.0.2.1:5061", &bobs).as_bytes()))
            .expect("it goes on"),
    );
    assert_eq!(reads, taken("10.0.0.11:5060", &bobs));
    // Who sends first: the port is the one that the other end was told.
    let frame = sent(&mut director, inner(("10.0.0.11", 10000), ("192.0.2.100", 20000), b"rtp"))
        .expect("it is related");
    assert_eq!(read(&frame), (ip("192.0.2.1"), 10002, ip("192.0.2.100"), 20000, 63));
    let frame = sent(&mut director, outer(("192.0.2.100", 20000), ("192.0.2.1", 10002), b"rtp"))
        .expect("it is an answer");
    assert_eq!(read(&frame), (ip("192.0.2.100"), 20000, ip("10.0.0.11"), 10000, 63));
    let frame = sent(&mut director, outer(("192.0.2.100", 20001), ("192.0.2.1", 10003), b"rtcp"))
        .expect("it is related");
    assert_eq!(read(&frame), (ip("192.0.2.100"), 20001, ip("10.0.0.11"), 10001, 63));
    let frame =
        sent(&mut director, outer(("192.0.2.100", 7), ("192.0.2.1", 10004), b"rtp")).expect("it is related");
    assert_eq!(read(&frame), (ip("192.0.2.100"), 7, ip("10.0.0.11"), 10002, 63));
    assert_eq!(expected(&director).iter().filter(|end| end.0 == ip("192.0.2.1")).count(), 2 + 2);
    // The other end ends it: its address is Alice's to her.
    let bye = short("BYE").replace("sip:b@192.0.2.100:5060", "sip:a@192.0.2.1:5061");
    let reads = text(&sent(&mut director, outer(BOB, outside, bye.as_bytes())).expect("it goes on"));
    assert_eq!(reads, bye.replace("192.0.2.1:5061", "10.0.0.11:5060"));
    assert_eq!(expected(&director), [(ip("192.0.2.1"), 10000), (ip("192.0.2.1"), 10001)], "Carol's");
    assert!(sent(&mut director, inner(("10.0.0.11", 10000), ("192.0.2.100", 20000), b"rtp")).is_some());
}

#[test]
fn a_phone_behind_the_director_is_called_and_answers_in_the_directors_name() {
    let mut director = director(&with(&[DNAT]));
    let bobs = session("192.0.2.100", &[BOBS]);
    let call = invite("192.0.2.100:5060", "192.0.2.1", &bobs);
    let reads = text(&sent(&mut director, outer(BOB, US, call.as_bytes())).expect("it goes on"));
    assert_eq!(reads, invite("192.0.2.100:5060", "10.0.0.11:5060", &bobs));
    let taken = |to, own, body: &str| answer("200 OK", "192.0.2.100:5060", to, own, body);
    let says = taken("10.0.0.11:5060", "10.0.0.11:5060", &session("10.0.0.11", &[AUDIO]));
    let reads = text(&sent(&mut director, inner(ALICE, BOB, says.as_bytes())).expect("it goes on"));
    assert_eq!(reads, taken("192.0.2.1:5060", "192.0.2.1:5060", &session("192.0.2.1", &[AUDIO])));
    let frame = sent(&mut director, inner(("10.0.0.11", 10000), ("192.0.2.100", 20000), b"rtp"))
        .expect("it is related");
    assert_eq!(read(&frame), (ip("192.0.2.1"), 10000, ip("192.0.2.100"), 20000, 63));
    let frame = sent(&mut director, outer(("192.0.2.100", 20001), ("192.0.2.1", 10001), b"rtcp"))
        .expect("it is related");
    assert_eq!(read(&frame), (ip("192.0.2.100"), 20001, ip("10.0.0.11"), 10001, 63));
}

#[test]
fn ipv6_is_named_in_brackets_and_without() {
    let mut director = director(&with(&[SNAT_V6]));
    let (alice, bob) = (("fd00::11", 5060), ("2001:db8::100", 5060));
    let full = "2001:db8:0:0:0:0:0:1";
    let call = invite("[fd00::11]:5060", "[2001:db8::100]", &session("fd00::11", &[AUDIO]));
    let reads = text(&sent(&mut director, inner(alice, bob, call.as_bytes())).expect("it goes on"));
    assert_eq!(reads, invite(&format!("[{full}]:5060"), "[2001:db8::100]", &session(full, &[AUDIO])));
    let taken = |from: &str| answer("200 OK", from, "[2001:db8::100]", "[2001:db8::100]", "");
    let says = taken("[2001:db8::1]:5060");
    let reads =
        text(&sent(&mut director, outer(bob, ("2001:db8::1", 5060), says.as_bytes())).expect("it goes on"));
    let host = "fd00:0:0:0:0:0:0:11";
    assert_eq!(reads, taken(&format!("[{host}]:5060")));
    let frame = sent(&mut director, outer(("2001:db8::100", 9), ("2001:db8::1", 10000), b"rtp"))
        .expect("it is related");
    assert_eq!(read(&frame).2, ip("fd00::11"));
}

pub(super) fn register(port: u16, expires: &str) -> String {
    message(
        &[
            "REGISTER sip:192.0.2.100 SIP/2.0",
            "CSeq: 9 REGISTER",
            &format!("Contact: <sip:a@10.0.0.11:{port}>{expires}"),
        ],
        "",
    )
}

pub(super) fn registered(code: &str, end: &str, expires: u32) -> String {
    message(
        &[
            &format!("SIP/2.0 {code}"),
            "CSeq: 9 REGISTER",
            &format!("Contact: <sip:a@{end}>;expires={expires}"),
        ],
        "",
    )
}

#[test]
fn who_has_registered_is_called_by_the_registrar() {
    let mut director = director(&with(&[SNAT]));
    let says = register(7000, ";expires=600");
    let reads = text(&sent(&mut director, inner(ALICE, BOB, says.as_bytes())).expect("it goes on"));
    assert_eq!(reads, says.replace("10.0.0.11:7000", "192.0.2.1:7000"));
    let calls = (("192.0.2.100", 5062), ("192.0.2.1", 7000));
    let body = session("192.0.2.100", &[BOBS]);
    let call = invite("192.0.2.100:5062", "192.0.2.1:7000", &body);
    assert!(sent(&mut director, outer(("192.0.2.100", 9), calls.1, call.as_bytes())).is_none(), "not yet");
    let trying = registered("100 Trying", "192.0.2.1:7000", 60);
    sent(&mut director, outer(BOB, US, trying.as_bytes())).expect("it goes on");
    assert!(sent(&mut director, outer(("192.0.2.100", 9), calls.1, call.as_bytes())).is_none(), "not yet");
    let confirmed = registered("200 OK", "192.0.2.1:7000", 60);
    sent(&mut director, outer(BOB, US, confirmed.as_bytes())).expect("it goes on");
    assert_eq!(list(&director.path, director.now).1[0].expires_in, Timeout::from_secs(60));
    // From any port, and more than once; the helper reads along in it.
    for (port, media) in [(5062, 3), (5064, 3)] {
        let reads =
            sent(&mut director, outer((calls.0.0, port), calls.1, call.as_bytes())).expect("it is related");
        assert_eq!((read(&reads).2, read(&reads).3), (ip("10.0.0.11"), 7000));
        assert!(text(&reads).starts_with("INVITE sip:b@10.0.0.11:7000 SIP/2.0"));
        assert_eq!(expected(&director).len(), media, "the first one has told of the media");
    }
    let frame = sent(&mut director, inner(("10.0.0.11", 10000), ("192.0.2.100", 20000), b"rtp"))
        .expect("it is related");
    assert_eq!(read(&frame).0, ip("192.0.2.1"));
    // It is over when the registrar says so, or that it is not so.
    let gone = registered("200 OK", "192.0.2.1:7000", 0);
    let refused = registered("403 No", "192.0.2.1:7000", 60);
    for end in [gone, refused] {
        sent(&mut director, inner(ALICE, BOB, says.as_bytes())).expect("it goes on");
        sent(&mut director, outer(BOB, US, confirmed.as_bytes())).expect("it goes on");
        assert!(expected(&director).contains(&(ip("192.0.2.1"), 7000)));
        sent(&mut director, outer(BOB, US, end.as_bytes())).expect("it goes on");
        assert!(!expected(&director).contains(&(ip("192.0.2.1"), 7000)));
    }
}

#[test]
fn a_registration_that_is_none_of_its_senders_is_passed_over() {
    let (own, body) = (register(5060, ";expires=60"), "");
    for (says, count) in [
        (own.clone(), 1),
        (own.replace(";expires=60", ""), 0),
        (own.replace(";expires=60", "\r\nExpires: 60"), 1),
        (own.replace(";expires=60", ";expires=0"), 0),
        (own.replace("10.0.0.11", "10.0.0.12"), 0),
        (own.replace(":5060", ":5060;transport=tcp"), 0),
        (own.replace("10.0.0.11", "phone.example"), 0),
    ] {
        let mut director = director(&with(&[SNAT]));
        assert!(sent(&mut director, inner(ALICE, BOB, (says.clone() + body).as_bytes())).is_some());
        assert_eq!(expected(&director).len(), count, "{says}");
    }
}

#[test]
fn what_cannot_be_read_as_far_as_it_must_is_dropped_and_what_is_no_message_goes_on() {
    let call = invite("10.0.0.11:5060", "192.0.2.100:5060", &session("10.0.0.11", &[AUDIO]));
    let contact = register(80, ";expires=60");
    for (says, passes, count) in [
        (call.replace("CSeq: 1 INVITE", "CSeq: x"), false, 0),
        (call.replace("audio 10000", "audio 1022"), false, 0),
        (call.replace("audio 10000", "audio 66000"), false, 0),
        (call.replace("c=IN", "x=IN"), false, 0),
        (contact, false, 0),
        ("SIP/2.0 200 OK\r\n\r\n".to_owned(), false, 0),
        (call.replace("audio 10000", "audio 0"), true, 0),
        (call.replace("c=IN IP4 10.0.0.11", "c=IN IP4 10.0.0.12"), true, 0),
        (call.replace("audio 10000", "text 10000"), true, 0),
        ("\r\n\r\n".to_owned(), true, 0),
        (call.clone(), true, 2),
    ] {
        let mut director = director(&with(&[SNAT]));
        assert_eq!(sent(&mut director, inner(ALICE, BOB, says.as_bytes())).is_some(), passes, "{says}");
        assert_eq!(director.dropped(DropReason::BadSip), u64::from(!passes), "{says}");
        assert_eq!(expected(&director).len(), count, "{says}");
    }
}

#[test]
fn at_any_number_of_workers_media_come_to_the_calls_worker_by_the_port_that_was_told() {
    for nat in [&[][..], &[SNAT]] {
        let mut workers = Workers::new(3, rules(&with(nat)));
        for n in 0..18 {
            let alice = ("10.0.0.11", 6000 + n);
            let body = session("10.0.0.11", &[&format!("audio {} RTP/AVP 0", 10000 + 2 * n)]);
            let call = invite(&format!("10.0.0.11:{}", alice.1), "192.0.2.100:5060", &body);
            let (port, frame) = inner(alice, BOB, call.as_bytes());
            let (began, out) = workers.carry(port, &frame, false);
            let reads = text(&out.sent[0].1);
            let to = if nat.is_empty() { "10.0.0.11" } else { "192.0.2.1" };
            let (_, stream) = reads.split_once("m=audio ").expect("a stream");
            let media: u16 = stream.split(' ').next().and_then(|port| port.parse().ok()).expect("a port");
            for step in [0, 1, 0] {
                let (port, frame) = outer(("192.0.2.100", 20000 + 2 * n + step), (to, media + step), b"rtp");
                let (at, out) = workers.carry(port, &frame, false);
                assert_eq!((at, out.sent.len()), (began, 1), "{media}");
                let (_, _, dst, dport, _) = read(&out.sent[0].1);
                assert_eq!((dst, dport), (ip("10.0.0.11"), 10000 + 2 * n + step));
                let (port, frame) =
                    inner(("10.0.0.11", dport), ("192.0.2.100", 20000 + 2 * n + step), b"rtp");
                let (at, out) = workers.carry(port, &frame, false);
                assert_eq!((at, out.sent.len()), (began, 1), "{media}");
                assert_eq!(read(&out.sent[0].1).1, media + step);
            }
        }
        assert_eq!(workers.inserted(), 18 * 3, "one entry each");
    }
}

#[test]
fn a_message_in_fragments_is_passed_as_it_is() {
    let mut director = director(&with(&[SNAT]));
    let mut call = invite("10.0.0.11:5060", "192.0.2.100:5060", &session("10.0.0.11", &[AUDIO]));
    call += &" ".repeat(call.len().next_multiple_of(8) - call.len());
    let (port, mut frame) = inner(ALICE, BOB, call.as_bytes());
    // More fragments follow.
    frame[20] |= 0x20;
    let mut ip = etherparse::Ipv4Header::from_slice(&frame[14..]).expect("a header").0;
    ip.header_checksum = ip.calc_header_checksum();
    frame[14..34].copy_from_slice(&ip.to_bytes());
    let left = sent(&mut director, (port, frame)).expect("it goes on");
    assert!(String::from_utf8_lossy(left.data()).contains("c=IN IP4 10.0.0.11"));
    assert_eq!(expected(&director), []);
}
