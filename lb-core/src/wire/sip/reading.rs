//! Goal: what a message names is found, at its place, however it is written. Method: messages of which it is known what they name, in all ways to write
//! it; for session descriptions a slow twin; any bytes.

use std::net::IpAddr;

use proptest::prelude::*;

use super::message::{Cseq, Message, Method, Start, Transport};
use super::sdp::{Kind, Session};
use super::{Place, words_of_address, words_of_end};
use crate::tables::Protocol;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(message: &str, place: Place) -> &str {
    &message[place.at..place.at + place.len]
}

#[test]
fn a_request_names_ends() {
    let text = "INVITE sip:bob@192.0.2.100:5070;transport=udp SIP/2.0\r\n\
        v: SIP / 2.0 / UDP 10.0.0.11;branch=z9;rport=4000;received=192.0.2.1;maddr=10.0.0.12 , SIP/2.0/TCP 10.0.0.99\r\n\
        Via: SIP/2.0/UDP 10.0.0.98\r\n\
        From: \"A <sip:x@1.1.1.1>; \\\" \" <sip:alice@10.0.0.11>;tag=1\r\n\
        t: sip:bob@192.0.2.100;tag=5\r\n\
        CSeq: 4711\r\n \tINVITE\r\n\
        Contact : <sip:alice;x=1@10.0.0.11:5062;transport=TCP>;expires=60,\r\n <sip:[2001:db8::1]:5>, sip:10.0.0.13;expires=7\r\n\
        m: *\r\n\
        Contact: <sips:no@10.0.0.14>, <sip:name.example.com>, <sip:10.0.0.1.example.com>, <sip:10.0.0.15:0>, <sip:10.0.0.16:66000>\r\n\
        Expires: 3600\r\n\
        l: 5\r\n\
        \r\n\
        From: <sip:body@10.0.0.17>\r\n";
    let message = Message::read(text.as_bytes()).expect("a message");
    assert_eq!(message.start, Start::Request(Method::Invite));
    assert_eq!(message.cseq, Some(Cseq { number: 4711, method: Method::Invite }));
    let ends = [message.uri, message.from, message.to].map(|end| end.expect("it is there"));
    assert_eq!(ends.map(|end| at(text, end.place)), ["192.0.2.100:5070", "10.0.0.11", "192.0.2.100"]);
    assert_eq!(ends.map(|end| end.port), [5070, 5060, 5060]);
    let via = message.via.expect("it is there");
    assert_eq!(
        (via.end.address, via.end.port, via.transport),
        (ip("10.0.0.11"), 5060, Transport::Of(Protocol::UDP))
    );
    let (rport, received, maddr) = (via.rport.unwrap(), via.received.unwrap(), via.maddr.unwrap());
    assert_eq!(
        [at(text, rport.0), at(text, received.0), at(text, maddr.0)],
        ["4000", "192.0.2.1", "10.0.0.12"]
    );
    assert_eq!((rport.1, received.1, maddr.1), (4000, ip("192.0.2.1"), ip("10.0.0.12")));
    let contacts: Vec<_> =
        message.contacts.iter().map(|contact| (at(text, contact.end.place), contact.expires)).collect();
    assert_eq!(contacts, [("10.0.0.11:5062", Some(60)), ("[2001:db8::1]:5", None), ("10.0.0.13", Some(7))]);
    assert_eq!(message.contacts[0].transport, Transport::Of(Protocol::TCP));
    assert!(
        !message.contacts[0].transport.may_be(Protocol::UDP)
            && message.contacts[1].transport.may_be(Protocol::UDP)
    );
    assert_eq!(
        (message.expires, message.content_length.map(|(place, length)| (at(text, place), length))),
        (Some(3600), Some(("5", 5)))
    );
    assert!(text[message.body..].starts_with("From: <sip:body"));
}

#[test]
fn what_is_an_answer_and_what_is_no_message() {
    let busy = b"sip/2.0 486 Busy\nCSEQ: 1 Register\nContact: <sip:10.0.0.1>";
    let answer = Message::read(busy).expect("a message");
    assert_eq!((answer.start, answer.contacts.len()), (Start::Answer(486), 1));
    assert_eq!(answer.cseq, Some(Cseq { number: 1, method: Method::Register }));
    assert_eq!(answer.body, busy.len(), "it has none");
    for none in
        ["", "\r\n\r\n", "SIP/2.0 x", "INVITE", "INVITE sip:1.2.3.4", "3NV sip:1.2.3.4 SIP/2.0\r\n", " a b"]
    {
        assert!(Message::read(none.as_bytes()).is_none(), "{none:?}");
    }
    let odd =
        Message::read(b"OPTIONS tel:5 SIP/2.0\r\nno field\r\nCSeq: x\r\nFrom\r\nVia: SIP/2.0/UDP name\r\n")
            .expect("a message");
    assert_eq!(
        (odd.start, odd.uri, odd.cseq, odd.from, odd.via),
        (Start::Request(Method::Other), None, None, None, None)
    );
}

#[test]
fn a_session_says_where_media_go_to() {
    let text = "SIP/2.0 200 OK\r\n\r\n--part\r\nc=IN IP4 9.9.9.9\r\n\r\n\
        v=0\r\no=- 1 1 IN IP4 10.0.0.11\r\ns=-\r\nc=IN IP4 10.0.0.12/127\r\nt=0 0\r\n\
        m=text 9 RTP/AVP 98\r\nc=IN IP4 10.0.0.13\r\n\
        m=audio 49170/2 RTP/AVP 0\r\nc=IN IP6 2001:db8::5\r\nc=IN IP4 10.0.0.14\r\n\
        m=audio 0 RTP/AVP 0\r\nc=IN IP4 10.0.0.15\r\n\
        m=video 99999 RTP/AVP 31\r\nc=IN IP4 host.example\r\nm=image 4 udptl t38\r\nm=video 6 RTP/AVP 31\r\nc=IN IP4 10.0.0.16\r\n";
    let session = Session::read(text.as_bytes(), 18).expect("a session");
    let address =
        |found: Option<super::sdp::Address>| found.map(|found| (at(text, found.place), found.address));
    assert_eq!(address(session.owner), Some(("10.0.0.11", ip("10.0.0.11"))));
    assert_eq!(address(session.connection), Some(("10.0.0.12", ip("10.0.0.12"))));
    let media: Vec<_> = session
        .media
        .iter()
        .map(|media| (media.kind, media.port, at(text, media.port_place), address(media.connection)))
        .collect();
    assert_eq!(
        media,
        [
            (Kind::Audio, 49170, "49170", Some(("2001:db8::5", ip("2001:db8::5")))),
            (Kind::Video, 99999, "99999", None),
            (Kind::Image, 4, "4", None),
        ]
    );
    assert!(Session::read(b"\r\nm=audio 4 RTP/AVP 0\r\n", 0).is_none());
}

/// One end as it may be written, and what it is.
fn written() -> impl Strategy<Value = (String, (IpAddr, u16))> {
    let host = prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| (IpAddr::from(octets).to_string(), IpAddr::from(octets))),
        any::<u128>().prop_map(|bits| {
            let address = IpAddr::from(bits.to_be_bytes());
            (format!("[{address}]"), address)
        }),
    ];
    (host, proptest::option::of(1u16..)).prop_map(|((text, address), port)| match port {
        Some(port) => (format!("{text}:{port}"), (address, port)),
        None => (text, (address, 5060)),
    })
}

/// A URI in a field, with what may stand around it.
fn addressed() -> impl Strategy<Value = (String, (IpAddr, u16))> {
    let name = prop::sample::select(vec!["", "Bob ", "\"a, <b>; \\\" sip:c@1.1.1.1\" ", "\t"]);
    let user = prop::sample::select(vec!["", "bob@", "+49;phone-context=x:y@"]);
    let inner = prop::sample::select(vec!["", ";transport=udp", ";lr;ob"]);
    let outer = prop::sample::select(vec!["", ";tag=5;expires=60", ";+x=\"<a,b>\"", " "]);
    let scheme = prop::sample::select(vec!["sip:", "SIP:"]);
    (name, scheme, user, written(), inner, outer).prop_map(
        |(name, scheme, user, (text, end), inner, outer)| {
            (format!("{name}<{scheme}{user}{text}{inner}>{outer}"), end)
        },
    )
}

fn named(long: &'static str, short: &'static str) -> impl Strategy<Value = String> {
    let colon = prop::sample::select(vec![":", ": ", " \t: ", ":\r\n ", ": \n\t"]);
    (prop::sample::select(vec![long.to_owned(), short.to_owned(), long.to_uppercase()]), colon)
        .prop_map(|(name, colon)| name + colon)
}

proptest! {
    #[test]
    fn ends_are_found_however_they_are_written(
        (via, (sent, sent_by)) in (named("Via", "v"), written()),
        (from, (sender, from_end)) in (named("From", "f"), addressed()),
        (contact, contacts) in (named("Contact", "m"), proptest::collection::vec(addressed(), 1..6)),
        (length, cseq) in (0u32..70_000, 0u32..),
        end_of_line in prop::sample::select(vec!["\r\n", "\n", "\r"]),
        noise in prop::sample::select(vec!["", "X-Via: SIP/2.0/UDP 1.1.1.1", "Vi: 1", "mm: <sip:2.2.2.2>"]),
    ) {
        let all: Vec<_> = contacts.iter().map(|(text, _)| text.as_str()).collect();
        let mut lines = vec![
            "SIP/2.0 200 OK".to_owned(),
            format!("{via}SIP/2.0/UDP {sent};branch=z9"),
            format!("{from}{sender}"),
            format!("{contact}{}", all.join(" , ")),
            format!("Content-Length: {length}"),
            format!("CSeq: {cseq} INVITE"),
        ];
        if !noise.is_empty() {
            lines.insert(1, noise.to_owned());
        }
        let text = lines.join(end_of_line) + end_of_line + end_of_line + "v=0";
        let message = Message::read(text.as_bytes()).expect("a message");
        prop_assert_eq!(&text[message.body..], "v=0");
        prop_assert_eq!(message.cseq, Some(Cseq { number: cseq, method: Method::Invite }));
        prop_assert_eq!(message.content_length.map(|(_, said)| said), Some(length));
        let found = message.via.expect("a Via").end;
        prop_assert_eq!((found.address, found.port, at(&text, found.place)), (sent_by.0, sent_by.1, sent.as_str()));
        let found = message.from.expect("a From");
        prop_assert_eq!((found.address, found.port), from_end);
        let found: Vec<_> = message.contacts.iter().map(|contact| (contact.end.address, contact.end.port)).collect();
        let expected: Vec<_> = contacts.iter().map(|&(_, end)| end).collect();
        prop_assert_eq!(found, expected);
        // Other words there are read as they were meant.
        let place = message.contacts[0].end.place;
        let other = words_of_end(from_end.0, from_end.1);
        let other = std::str::from_utf8(&other).expect("text");
        let text = format!("{}{other}{}", &text[..place.at], &text[place.at + place.len..]);
        let found = Message::read(text.as_bytes()).expect("a message").contacts[0].end;
        prop_assert_eq!((found.address, found.port), from_end);
    }

    #[test]
    fn a_session_is_read_as_by_a_twin_that_takes_it_apart_line_by_line(lines in proptest::collection::vec(line(), 0..14), has_cr: bool) {
        let text = lines.join(if has_cr { "\r\n" } else { "\n" });
        let found = Session::read(text.as_bytes(), 0).map(|session| {
            let address = |found: Option<super::sdp::Address>| found.map(|found| at(&text, found.place).to_owned());
            let media = session.media.iter();
            let media = media.map(|media| (at(&text, media.port_place).to_owned(), address(media.connection))).collect();
            (address(session.owner), address(session.connection), media)
        });
        prop_assert_eq!(found, twin(&lines));
    }

    #[test]
    fn no_bytes_do_harm_and_places_are_in_them(
        begin in prop::sample::select(vec!["", "INVITE sip:", "INVITE sip:a@[::1]:5 SIP/2.0\r\nVia: SIP/2.0/UDP 1.2.3.4", "SIP/2.0 200 \r\nm: <sip:", "OPTIONS a b\r\n\r\nv=0\r\nc=IN IP6 "]),
        rest in proptest::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"sip:@<>\",;=[]:.01fa \r\nvmc=IN4".to_vec())], 0..200),
    ) {
        let text = [begin.as_bytes(), &rest].concat();
        if let Some(message) = Message::read(&text) {
            prop_assert!(message.body <= text.len());
            let ends = message.contacts.iter().map(|contact| contact.end).chain(message.uri).chain(message.from);
            for end in ends.chain(message.via.map(|via| via.end)) {
                let there = [b"INVITE sip:", &text[end.place.at..end.place.at + end.place.len], b" SIP/2.0\r\n"].concat();
                let again = Message::read(&there).and_then(|message| message.uri).expect("an end");
                prop_assert_eq!((again.address, again.port, again.place.len), (end.address, end.port, end.place.len));
            }
        }
        if let Some(session) = Session::read(&text, 0) {
            for address in session.media.iter().filter_map(|media| media.connection).chain(session.connection) {
                let words = std::str::from_utf8(&text[address.place.at..address.place.at + address.place.len]).expect("text");
                prop_assert_eq!(ip(words), address.address);
                prop_assert_eq!(ip(std::str::from_utf8(&words_of_address(address.address)).expect("text")), address.address);
            }
        }
    }
}

fn line() -> impl Strategy<Value = String> {
    let address = prop::sample::select(vec![
        "IN IP4 10.0.0.1",
        "IN IP4 10.0.0.2/7",
        "IN IP6 fd00::1",
        "IN IP6 10.0.0.1",
        "IN IP4 fd00::1",
        "IN IP4 a.example",
        "IN IP4",
        "IN IP4 10.0.0.1x",
    ]);
    let port = prop::sample::select(vec!["10000", "0", "5/2", "x", "70000", ""]);
    prop_oneof![
        2 => Just("v=0".to_owned()),
        2 => address.clone().prop_map(|address| format!("o=- 1 1 {address}")),
        4 => address.prop_map(|address| format!("c={address}")),
        4 => (prop::sample::select(vec!["audio ", "video ", "image ", "text ", "audio", "Audio "]), port)
            .prop_map(|(kind, port)| format!("m={kind}{port} RTP/AVP 0")),
        1 => Just("a=x c=IN IP4 1.1.1.1".to_owned()),
    ]
}

type Read = (Option<String>, Option<String>, Vec<(String, Option<String>)>);

fn twin(lines: &[String]) -> Option<Read> {
    let begin = lines.iter().position(|line| line.starts_with("v="))?;
    let internet = |line: &str| {
        let (words, is_ipv6) = match (line.split_once("IN IP4 "), line.split_once("IN IP6 ")) {
            (Some((_, words)), _) => (words, false),
            (_, Some((_, words))) => (words, true),
            _ => return None,
        };
        let words = words.split('/').next().unwrap_or_default();
        let address: IpAddr = words.parse().ok()?;
        (address.is_ipv6() == is_ipv6).then(|| words.to_owned())
    };
    let (rest, mut media) = (&lines[begin + 1..], Vec::new());
    let starts: Vec<usize> = (0..rest.len()).filter(|&at| rest[at].starts_with("m=")).collect();
    let first = starts.first().copied().unwrap_or(rest.len());
    let find = |lines: &[String], kind: &str| {
        lines.iter().filter(|line| line.starts_with(kind)).find_map(|line| internet(line))
    };
    let (owner, connection) = (find(&rest[..first], "o="), find(&rest[..first], "c="));
    for (n, &start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(rest.len());
        let words: Vec<&str> = rest[start][2..].split(' ').collect();
        let digits: String = words[1].chars().take_while(char::is_ascii_digit).collect();
        let is_open = digits.parse::<u32>().is_ok_and(|port| port != 0);
        if ["audio", "video", "image"].contains(&words[0]) && is_open && media.len() < 3 {
            media.push((digits, find(&rest[start + 1..end], "c=")));
        }
    }
    Some((owner, connection, media))
}
