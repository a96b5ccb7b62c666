//! Goal: by TCP SIP's helper does the same as by UDP (`helped_sip.rs`), and both ends read a stream without a gap, whatever comes again. Method: phones on
//! both sides, segment by segment; two TCPs between whom segments are lost and doubled; rules of a few words.

use proptest::prelude::*;

use super::edited::{End, Seg, between, seen, talk};
use super::helped::list;
use super::helped_ftp::{CLIENT, SERVER, Side, carry, open};
use super::helped_sip::{AUDIO, BOBS, RELATED, answer, expected, invite, register, registered, session};
use super::hooks::{Workers, rules};
use super::*;
use crate::conntrack::Status;

const HELPER: &str = "raw PREROUTING -p tcp --dport 5060 -j CT --helper sip";
const SNAT: &str = "nat POSTROUTING -o wan -j SNAT --to-source 198.51.100.7";
const SNAT_V6: &str = "nat POSTROUTING -o wan -j SNAT --to-source 2001:db8::1";
const DNAT: &str = "nat PREROUTING -i wan -p tcp --dport 5060 -j DNAT --to-destination 10.0.0.11";
const CALLS: &str = "filter FORWARD -p tcp --dport 5060 -j ACCEPT";

fn with(lines: &[&'static str]) -> Vec<&'static str> {
    [&[HELPER, CALLS], lines, &RELATED].concat()
}

fn director(lines: &[&str]) -> Director {
    super::hooks::director(rules(lines))
}

/// A phone in the private network calls one outside, who knows it by this address.
fn phones(known_as: &'static str) -> (Side, Side) {
    let (own, peer) =
        if known_as.contains(':') { ("fd00::11", "2001:db8::100") } else { ("10.0.0.11", "192.0.2.100") };
    let alice = Side::inside(11, (own, 5062), (peer, 5060), CLIENT);
    (alice, Side::outside((peer, 5060), (known_as, 5062), SERVER))
}

fn by_tcp(message: &str) -> String {
    message.replace("SIP/2.0/UDP", "SIP/2.0/TCP")
}

fn call(from: &str, host: &str, streams: &[&str]) -> String {
    by_tcp(&invite(from, "192.0.2.100:5060", &session(host, streams)))
}

fn taken(from: &str) -> String {
    by_tcp(&answer("200 OK", from, "192.0.2.100:5060", "192.0.2.100:5060", &session("192.0.2.100", &[BOBS])))
}

/// What leaves of it: its number, what it acknowledges, its words.
fn say(director: &mut Director, side: &Side, seq: u32, ack: u32, text: &str) -> Option<(u32, u32, String)> {
    let out = director.receive(side.port, &[side.says(seq, ack, "A", text)]);
    let (seg, ..) = seen(&out.sent.first()?.1);
    Some((seg.seq, seg.ack, String::from_utf8(seg.data).expect("text")))
}

#[test]
fn a_calls_media_are_related_to_it_where_nothing_is_translated() {
    let mut director = director(&with(&[]));
    let (alice, bob) = phones("10.0.0.11");
    open(carry(&mut director), (alice, bob));
    let says = call("10.0.0.11:5062", "10.0.0.11", &[AUDIO]);
    let left = say(&mut director, &alice, CLIENT + 1, SERVER + 1, &says).expect("it goes on");
    assert_eq!(left, (CLIENT + 1, SERVER + 1, says));
    let says = taken("10.0.0.11:5062");
    assert_eq!(say(&mut director, &bob, SERVER + 1, CLIENT + 1, &says).expect("it goes on").2, says);
    assert_eq!(expected(&director).len(), 4);
    let (connections, _) = list(&director.path, director.now);
    assert_eq!(connections[0].known.helper, Some("sip"));
    let media = super::helped::udp(C2D, ("192.0.2.100", 20000), ("10.0.0.11", 10000), b"rtp");
    assert_eq!(director.receive(WAN, &[media]).sent.len(), 1);
    let (connections, _) = list(&director.path, director.now);
    assert!(connections.iter().any(|view| view.known.status.has(Status::EXPECTED)));
}

#[test]
fn several_messages_of_a_segment_are_exchanged_and_what_follows_is_moved_by_all_of_them() {
    let mut director = director(&with(&[SNAT]));
    let (alice, bob) = phones("198.51.100.7");
    open(carry(&mut director), (alice, bob));
    let two = |end: &str, host: &str| {
        let other = call(end, host, &["audio 10002 RTP/AVP 0"]).replace("CSeq: 1", "CSeq: 2");
        format!("{}\r\n\r\n{other}", call(end, host, &[AUDIO]))
    };
    let (says, must) = (two("10.0.0.11:5062", "10.0.0.11"), two("198.51.100.7:5062", "198.51.100.7"));
    assert_ne!(says.len(), must.len());
    for _ in 0..2 {
        let left = say(&mut director, &alice, CLIENT + 1, SERVER + 1, &says).expect("it goes on");
        assert_eq!(left, (CLIENT + 1, SERVER + 1, must.clone()), "also when it comes again");
    }
    // What is behind an edit that is not acknowledged waits; then it is moved, as is what acknowledges it.
    let (len, grown) = (says.len() as u32, must.len() as u32);
    let next = call("10.0.0.11:5062", "10.0.0.11", &[AUDIO]).replace("CSeq: 1", "CSeq: 3");
    assert_eq!(say(&mut director, &alice, CLIENT + 1 + len, SERVER + 1, &next), None);
    assert_eq!(director.dropped(DropReason::EditUnacknowledged), 1);
    let says = taken("198.51.100.7:5062");
    let left = say(&mut director, &bob, SERVER + 1, CLIENT + 1 + grown, &says).expect("it goes on");
    assert_eq!(left, (SERVER + 1, CLIENT + 1 + len, taken("10.0.0.11:5062")));
    let left = say(&mut director, &alice, CLIENT + 1 + len, SERVER + 1, &next).expect("it goes on");
    assert_eq!((left.0, left.1), (CLIENT + 1 + grown, SERVER + 1));
    assert_eq!(left.2, call("198.51.100.7:5062", "198.51.100.7", &[AUDIO]).replace("CSeq: 1", "CSeq: 3"));
    let media = super::helped::udp(C2D, ("192.0.2.100", 20000), ("198.51.100.7", 10000), b"rtp");
    let sent = director.receive(WAN, &[media]).sent;
    assert_eq!(read(&sent[0].1), (ip("192.0.2.100"), 20000, ip("10.0.0.11"), 10000, 63));
}

#[test]
fn a_segment_that_comes_again_with_more_behind_it_is_cut_where_it_cannot_be_changed_yet() {
    let mut director = director(&with(&[SNAT]));
    let (alice, bob) = phones("198.51.100.7");
    open(carry(&mut director), (alice, bob));
    let (says, must) =
        (call("10.0.0.11:5062", "10.0.0.11", &[AUDIO]), call("198.51.100.7:5062", "198.51.100.7", &[AUDIO]));
    say(&mut director, &alice, CLIENT + 1, SERVER + 1, &says).expect("it goes on");
    let more = says.replace("CSeq: 1", "CSeq: 2");
    let out = director.receive(LAN, &[alice.says(CLIENT + 1, SERVER + 1, "AF", &format!("{says}{more}"))]);
    let (seg, flags, _) = seen(&out.sent[0].1);
    assert_eq!((String::from_utf8(seg.data).expect("text"), flags), (must, crate::wire::tcp::ACK));
}

#[test]
fn what_is_not_whole_in_its_segment_goes_on_as_it_is_and_is_not_changed_later() {
    let says = call("10.0.0.11:5062", "10.0.0.11", &[AUDIO]);
    for cut in [60, 200, says.len() - 100, says.len() - 1] {
        let mut director = director(&with(&[SNAT]));
        let (alice, bob) = phones("198.51.100.7");
        open(carry(&mut director), (alice, bob));
        let (first, second) = says.split_at(cut);
        for (from, piece) in [(0, first), (cut, second), (0, &says[..])] {
            let seq = CLIENT + 1 + from as u32;
            let left = say(&mut director, &alice, seq, SERVER + 1, piece).expect("it goes on");
            assert_eq!(left, (seq, SERVER + 1, piece.to_owned()), "cut at {cut}");
        }
    }
}

#[test]
fn a_request_whose_first_word_was_split_goes_on_also_when_it_comes_again_whole() {
    let says = call("10.0.0.11:5062", "10.0.0.11", &[AUDIO]);
    for cut in 1..says.find(' ').expect("a request") {
        let mut director = director(&with(&[SNAT]));
        let (alice, bob) = phones("198.51.100.7");
        open(carry(&mut director), (alice, bob));
        let (first, second) = says.split_at(cut);
        let mut read = String::new();
        for (from, piece) in [(0, first), (cut, second)] {
            let seq = CLIENT + 1 + from as u32;
            read += &say(&mut director, &alice, seq, SERVER + 1, piece).expect("it goes on").2;
        }
        let again = say(&mut director, &alice, CLIENT + 1, SERVER + 1, &says).expect("it goes on").2;
        assert_eq!(again, read, "cut at {cut}");
    }
}

#[test]
fn what_fits_its_packet_alone_and_not_behind_what_was_sent_before_comes_again_by_itself() {
    let says = |pad: usize| {
        let call = call("10.0.0.11:5062", "10.0.0.11", &[AUDIO]);
        call.replace("Call-ID: 1", &format!("Call-ID: {}", "1".repeat(1 + pad)))
    };
    let cut = 3;
    let in_two = |says: &str| {
        let mut director = director(&with(&[SNAT]));
        let (alice, bob) = phones("198.51.100.7");
        open(carry(&mut director), (alice, bob));
        say(&mut director, &alice, CLIENT + 1, SERVER + 1, &says[..cut]).expect("it goes on");
        let seq = CLIENT + 1 + cut as u32;
        let read = say(&mut director, &alice, seq, SERVER + 1, &says[cut..]).expect("it goes on").2;
        (director, alice, read)
    };
    let grown = in_two(&says(0)).2.len() - (says(0).len() - cut);
    assert!(grown > 0);
    // 40 bytes of headers in a packet of 1500.
    let says = says(1460 - grown - (says(0).len() - cut));
    let (mut director, alice, read) = in_two(&says);
    assert_eq!(read.len(), 1460);
    for _ in 0..2 {
        let left = say(&mut director, &alice, CLIENT + 1, SERVER + 1, &says).expect("it goes on");
        assert_eq!(left, (CLIENT + 1, SERVER + 1, says[..cut].to_owned()));
        let seq = CLIENT + 1 + cut as u32;
        let left = say(&mut director, &alice, seq, SERVER + 1, &says[cut..]).expect("it goes on");
        assert_eq!(left, (seq, SERVER + 1, read.clone()));
    }
}

#[test]
fn a_message_that_would_not_fit_into_its_packet_goes_on_as_it_is_and_one_behind_another_waits() {
    let says = call("10.0.0.11:5062", "10.0.0.11", &[AUDIO]);
    let padded = |len: usize| says.replace("Call-ID: 1", &format!("Call-ID: {}", "1".repeat(len)));
    let mut director = director(&with(&[SNAT]));
    let (alice, bob) = phones("198.51.100.7");
    open(carry(&mut director), (alice, bob));
    // 40 bytes of headers in a packet of 1500.
    let long = padded(1 + 1460 - says.len());
    let left = say(&mut director, &alice, CLIENT + 1, SERVER + 1, &long).expect("it goes on");
    assert_eq!(left, (CLIENT + 1, SERVER + 1, long.clone()));
    let two = format!("{says}{}", padded(1 + 1460 - 2 * says.len()));
    let seq = CLIENT + 1 + 1460;
    let left = say(&mut director, &alice, seq, SERVER + 1, &two).expect("it goes on");
    assert_eq!(left, (seq, SERVER + 1, call("198.51.100.7:5062", "198.51.100.7", &[AUDIO])));
}

#[test]
fn words_that_are_no_messages_go_on_and_messages_without_a_number_do_not() {
    for (says, passes) in [
        ("\r\n\r\n", true),
        ("GET / HTTP/1.1\r\n\r\n", true),
        ("OPTIONS sip:b@192.0.2.100 SIP/2.0\r\nCSeq: 1 OPTIONS\r\n\r\n", true),
        ("OPTIONS sip:b@192.0.2.100 SIP/2.0\r\nCSeq: 1 OPTIONS\r\nContent-Length: 99999999\r\n\r\n", true),
        ("INVITE sip:b@192.0.2.100 SIP/2.0\r\nContent-Length: 0\r\n\r\n", false),
    ] {
        let mut director = director(&with(&[SNAT]));
        let (alice, bob) = phones("198.51.100.7");
        open(carry(&mut director), (alice, bob));
        let left = say(&mut director, &alice, CLIENT + 1, SERVER + 1, says);
        assert_eq!(left, passes.then(|| (CLIENT + 1, SERVER + 1, says.to_owned())));
    }
}

#[test]
fn ipv6_is_named_as_the_other_end_knows_it() {
    let mut director = director(&with(&[SNAT_V6]));
    let (alice, bob) = phones("2001:db8::1");
    open(carry(&mut director), (alice, bob));
    let full = "2001:db8:0:0:0:0:0:1";
    let says = by_tcp(&invite("[fd00::11]:5062", "[2001:db8::100]", &session("fd00::11", &[AUDIO])));
    let must = by_tcp(&invite(&format!("[{full}]:5062"), "[2001:db8::100]", &session(full, &[AUDIO])));
    assert_eq!(say(&mut director, &alice, CLIENT + 1, SERVER + 1, &says).expect("it goes on").2, must);
}

#[test]
fn who_has_registered_is_called_by_a_connection_of_the_registrars() {
    let mut director = director(&with(&[SNAT]));
    let (alice, bob) = phones("198.51.100.7");
    open(carry(&mut director), (alice, bob));
    let says = register(5070, ";expires=600");
    let must = says.replace("10.0.0.11", "198.51.100.7");
    for _ in 0..2 {
        assert_eq!(say(&mut director, &alice, CLIENT + 1, SERVER + 1, &says).expect("it goes on").2, must);
    }
    let confirmed = registered("200 OK", "198.51.100.7:5070", 60);
    let reads = say(&mut director, &bob, SERVER + 1, CLIENT + 1 + must.len() as u32, &confirmed);
    assert_eq!(reads.expect("it goes on").2, confirmed);
    let caller = Side::outside(("192.0.2.100", 6000), ("198.51.100.7", 5070), CLIENT);
    let phone = Side::inside(11, ("10.0.0.11", 5070), ("192.0.2.100", 6000), SERVER);
    open(carry(&mut director), (caller, phone));
    let body = session("192.0.2.100", &[BOBS]);
    let call = by_tcp(&invite("192.0.2.100:6000", "198.51.100.7:5070", &body));
    let reads = say(&mut director, &caller, CLIENT + 1, SERVER + 1, &call).expect("it goes on").2;
    assert_eq!(reads, by_tcp(&invite("192.0.2.100:6000", "10.0.0.11:5070", &body)), "the helper reads along");
}

#[test]
fn at_any_number_of_workers_media_come_to_the_calls_worker() {
    let mut workers = Workers::new(3, rules(&with(&[SNAT])));
    for n in 0..12 {
        let (mut alice, mut bob) = phones("198.51.100.7");
        alice.own.1 = 6000 + n;
        let (_, out) = workers.carry(LAN, &alice.says(CLIENT, 0, "S", ""), false);
        bob.peer.1 = read(&out.sent[0].1).1;
        open(|port, frame| workers.carry(port, frame, false).1, (alice, bob));
        let says = call(
            &format!("10.0.0.11:{}", 6000 + n),
            "10.0.0.11",
            &[&format!("audio {} RTP/AVP 0", 10000 + 2 * n)],
        );
        let (began, out) = workers.carry(LAN, &alice.says(CLIENT + 1, SERVER + 1, "A", &says), false);
        let reads = String::from_utf8(seen(&out.sent[0].1).0.data).expect("text");
        let (_, stream) = reads.split_once("m=audio ").expect("a stream");
        let media: u16 = stream.split(' ').next().and_then(|port| port.parse().ok()).expect("a port");
        let rtp = super::helped::udp(C2D, ("192.0.2.100", 20000 + 2 * n), ("198.51.100.7", media), b"rtp");
        let (at, out) = workers.carry(WAN, &rtp, false);
        assert_eq!((at, out.sent.len()), (began, 1));
        assert_eq!(read(&out.sent[0].1).3, 10000 + 2 * n);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_lost_each_end_reads_whole_messages_in_the_directors_name(
        seed: u64, isns: (u32, u32),
        calls in prop::collection::vec((any::<bool>(), any::<bool>()), 1..4),
        answers in prop::collection::vec((any::<bool>(), any::<bool>()), 1..4),
    ) {
        let mut director = director(&with(&[DNAT]));
        let bob = Side::outside(("192.0.2.100", 5062), ("198.51.100.7", 5060), 0);
        let alice = Side::inside(11, ("10.0.0.11", 5060), ("192.0.2.100", 5062), 0);
        let (bobs, alices) = (session("192.0.2.100", &[BOBS]), |host| session(host, &[AUDIO]));
        let calls = said(&calls, [("198.51.100.7:5060", ""), ("10.0.0.11:5060", "")], |(end, _)| {
            by_tcp(&invite("192.0.2.100:5062", end, &bobs))
        });
        let ends = [("10.0.0.11:5060", "10.0.0.11"), ("198.51.100.7:5060", "198.51.100.7")];
        let answers = said(&answers, ends, |(end, host)| {
            by_tcp(&answer("200 OK", "192.0.2.100:5062", end, end, &alices(host)))
        });
        let frame = |from_client: bool, seg: &Seg| {
            let side = if from_client { &bob } else { &alice };
            between(side.macs, side.own, side.peer, seg)
        };
        let client = End::new(isns.0, &calls.0, calls.2);
        let server = End::new(isns.1, &answers.0, answers.2);
        let (at_bob, at_alice, _) = talk(&mut director, frame, client, server, seed);
        prop_assert_eq!(String::from_utf8(at_alice).unwrap(), String::from_utf8(calls.1).unwrap());
        prop_assert_eq!(String::from_utf8(at_bob).unwrap(), String::from_utf8(answers.1).unwrap());
        prop_assert_eq!(director.path.check_connections(), Ok(()));
    }
}

/// Messages as they are said and as they are to be read, and where segments end. Of each: whether it names nobody, and whether a segment ends behind it.
fn said<E: Copy>(
    messages: &[(bool, bool)],
    [own, other]: [E; 2],
    words: impl Fn(E) -> String,
) -> (Vec<u8>, Vec<u8>, Vec<usize>) {
    const PLAIN: &str = "SIP/2.0 100 Trying\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n";
    let (mut said, mut meant, mut units) = (Vec::new(), Vec::new(), Vec::new());
    for &(is_plain, ends) in messages {
        for (end, text) in [(own, &mut said), (other, &mut meant)] {
            let message = if is_plain { PLAIN.to_owned() } else { words(end) };
            text.extend_from_slice(message.as_bytes());
        }
        if ends {
            units.push(said.len());
        }
    }
    if units.last() != Some(&said.len()) {
        units.push(said.len());
    }
    (said, meant, units)
}
