//! What a client sends so that its real server takes it for somebody else.

use super::edited::{FTP, Seg, TOA, director, frame, handshake, proxy_of, seen, with};
use super::*;
use crate::tables::ProxyVersion;

/// A segment of the client's for port 80, in two fragments of which the first has so much of it: that one.
fn first_fragment(seg: &Seg, len: usize) -> Vec<u8> {
    let mut first = frame(false, true, seg);
    first.truncate(34 + len);
    first[16..18].copy_from_slice(&(20 + len as u16).to_be_bytes());
    first[20] |= 0x20;
    crate::wire::ipv4::fill_checksum(&mut first[14..34]);
    first
}

/// The numbers and data of what left for the real server.
fn left(out: &Out) -> Vec<(u32, Vec<u8>)> {
    let segments = out.sent.iter().map(|(_, frame)| seen(frame).0);
    segments.map(|seg| (seg.seq, seg.data)).collect()
}

const FORGED: &[u8] = b"XPROXY TCP4 1.2.3.4 192.0.2.10 4000 80\r\n";

#[test]
fn a_client_puts_nothing_of_its_own_where_the_header_is_to_stand() {
    let mut director = director(proxy_of(ProxyVersion::V1));
    let seg = |seq, ack, flags, data: &[u8]| Seg { seq, ack, flags, data: data.to_vec(), sack: None };
    director.receive(WAN, &[frame(false, true, &seg(1000, 0, "S", b""))]);
    let early = director.receive(WAN, &[frame(false, true, &seg(1001, 7001, "A", b"GET /"))]);
    assert!(early.sent.is_empty(), "nobody has said yet what number the header is for");
    director.receive(LAN, &[frame(false, false, &seg(7000, 1001, "SA", b""))]);
    let forged: [(u32, u32, &str, &[u8]); 6] = [
        (1000, 7001, "A", FORGED),
        (1, 7001, "A", &[7; 1001]),
        (1000, 7001, "AF", b"X"),
        // What the real server has not said.
        (1001, 7002, "A", b"GET /"),
        (1001, 7000, "A", b""),
        (1044, 99, "A", FORGED),
    ];
    for (seq, ack, flags, data) in forged {
        let out = director.receive(WAN, &[frame(false, true, &seg(seq, ack, flags, data))]);
        assert!(out.sent.is_empty(), "{seq} {ack} {flags}");
    }
    // What probes whether somebody is there goes on, and a server that speaks first is answered.
    let probe = director.receive(WAN, &[frame(false, true, &seg(1000, 7001, "A", b"\0"))]);
    assert_eq!(left(&probe), [(1000, b"\0".to_vec())]);
    director.receive(LAN, &[frame(false, false, &seg(7001, 1001, "AF", b"220 hello"))]);
    let out = director.receive(WAN, &[frame(false, true, &seg(1001, 7011, "A", b"GET /"))]);
    let header = b"PROXY TCP4 192.0.2.100 192.0.2.10 4000 80\r\n";
    assert_eq!(left(&out), [(1001, header.to_vec()), (1001 + header.len() as u32, b"GET /".to_vec())]);
    assert_eq!(director.path.check_connections(), Ok(()));
}

#[test]
fn the_header_is_for_the_number_that_the_real_server_waits_for() {
    let seg = |seq, ack, flags, data: &[u8]| Seg { seq, ack, flags, data: data.to_vec(), sack: None };
    let len = b"PROXY TCP4 192.0.2.100 192.0.2.10 4000 80\r\n".len() as u32;
    let mut director = director(proxy_of(ProxyVersion::V1));
    director.receive(WAN, &[frame(false, true, &seg(1000, 0, "S", b""))]);
    director.receive(LAN, &[frame(false, false, &seg(7000, 1001, "SA", b""))]);
    // Another SYN, which the real server does not take: it says once more what it waits for.
    director.receive(WAN, &[frame(false, true, &seg(10, 0, "S", b"early"))]);
    director.receive(LAN, &[frame(false, false, &seg(7001, 1001, "A", b""))]);
    let out = director.receive(WAN, &[frame(false, true, &seg(1001 - len, 7001, "A", FORGED))]);
    assert_eq!(left(&out), []);
    // The one that it knows comes again, and it answers again.
    let out = director.receive(WAN, &[frame(false, true, &seg(1000, 0, "S", b""))]);
    assert_eq!(left(&out), [(1000, vec![])]);
    director.receive(LAN, &[frame(false, false, &seg(7000, 1001, "SA", b""))]);
    // Once more: nothing has changed.
    director.receive(WAN, &[frame(false, true, &seg(1000, 0, "S", b""))]);
    let out = director.receive(WAN, &[frame(false, true, &seg(1001, 7001, "A", b"GET /"))]);
    assert_eq!(left(&out)[1], (1001 + len, b"GET /".to_vec()));
    // Or it has forgotten the first, and answers the second.
    director.receive(LAN, &[frame(false, false, &seg(9000, 11, "SA", b""))]);
    let out = director.receive(WAN, &[frame(false, true, &seg(1001 - len, 7001, "A", FORGED))]);
    assert_eq!(left(&out), [], "of a handshake that it may remember by a cookie");
    let out = director.receive(WAN, &[frame(false, true, &seg(11, 9001, "A", b"GET /"))]);
    assert_eq!(left(&out).iter().map(|&(seq, _)| seq).collect::<Vec<_>>(), [11, 11 + len]);
    assert_eq!(director.path.check_connections(), Ok(()));
}

#[test]
fn a_header_that_was_never_sent_is_not_acknowledged() {
    let seg = |seq, ack, flags, data: &[u8]| Seg { seq, ack, flags, data: data.to_vec(), sack: None };
    let mut director = director(proxy_of(ProxyVersion::V1));
    director.receive(WAN, &[frame(false, true, &seg(10, 0, "S", b""))]);
    director.receive(LAN, &[frame(false, false, &seg(7000, 11, "SA", b""))]);
    director.receive(LAN, &[frame(false, false, &seg(7001, 1001, "A", b""))]);
    let out = director.receive(WAN, &[frame(false, true, &seg(11, 7001, "A", b"GET /"))]);
    assert_eq!(left(&out).len(), 2);
}

#[test]
fn a_tcp_header_in_two_fragments_goes_no_further() {
    for options in [proxy_of(ProxyVersion::V1), FTP, TOA] {
        let mut director = director(options);
        let seg = |seq, ack, flags| Seg { seq, ack, flags, data: vec![7; 80], sack: Some((1, 2)) };
        let plain = |seq, ack, flags| Seg { seq, ack, flags, ..Seg::default() };
        director.receive(WAN, &[frame(false, true, &plain(1000, 0, "S"))]);
        director.receive(LAN, &[frame(false, false, &plain(7000, 1001, "SA"))]);
        let out = director.receive(WAN, &[first_fragment(&seg(1001, 7001, "A"), 24)]);
        assert_eq!((left(&out).len(), director.dropped(DropReason::EditInPart)), (0, 1), "{options:?}");
        let out = director.receive(WAN, &[first_fragment(&seg(1001, 7001, "A"), 40)]);
        assert!(!out.sent.is_empty(), "{options:?}");
    }
}

#[test]
fn a_syn_in_fragments_may_have_data_and_opens_nothing_where_a_header_is_due() {
    for (options, sent) in [(proxy_of(ProxyVersion::V2), 0), (TOA, 1)] {
        let mut director = director(options);
        let syn = Seg { seq: 1000, flags: "S", data: vec![7; 80], ..Seg::default() };
        assert_eq!(director.receive(WAN, &[first_fragment(&syn, 24)]).sent.len(), sent);
        let data = director.receive(WAN, &[frame(false, true, &syn)]);
        assert_eq!(seen(&data.sent[0].1).0.data.len(), if sent == 0 { 0 } else { 80 });
    }
}

#[test]
fn a_real_server_that_is_told_of_its_client_is_told_by_each_connection_of_it() {
    let seg = |seq, ack, flags, data: &[u8]| Seg { seq, ack, flags, data: data.to_vec(), sack: None };
    for options in [proxy_of(ProxyVersion::V1), TOA] {
        for (from_client, flags) in [(true, "R"), (true, "AF"), (false, "AF"), (false, "RA")] {
            let mut tables = with(2, options);
            tables.settings.sysctls.conn_reuse_mode = 0;
            let services = tables.services.iter().map(|service| {
                let mut service = Service::clone(service);
                service.servers.truncate(1);
                Arc::new(service)
            });
            tables.services = Services::new(services.collect::<Vec<_>>()).into();
            let mut director = Director::new();
            director.path.adopt(tables.into());
            handshake(&mut director);
            let len = if options.toa { 0 } else { 43 };
            director.receive(WAN, &[frame(false, true, &seg(1001, 7001, "A", b"GET /"))]);
            director.receive(LAN, &[frame(false, false, &seg(7001, 1006 + len, "A", b"hello"))]);
            let (seq, ack) = if from_client { (1006, 7006) } else { (7006, 1006 + len) };
            let port = if from_client { WAN } else { LAN };
            director.receive(port, &[frame(false, from_client, &seg(seq, ack, flags, b""))]);
            director.receive(WAN, &[frame(false, true, &seg(5000, 0, "S", b""))]);
            director.receive(LAN, &[frame(false, false, &seg(9000, 5001, "SA", b""))]);
            let out = director.receive(WAN, &[frame(false, true, &seg(5001, 9001, "A", b""))]);
            let (first, _, told) = seen(&out.sent[0].1);
            let is_told = first.data.starts_with(b"PROXY TCP4") || told.first() == Some(&254);
            assert!(first.seq == 5001 && is_told, "{flags} {options:?}");
        }
    }
}

/// A segment of the client's for port 80 with these options.
fn with_options(seg: &Seg, options: &[u8]) -> Vec<u8> {
    let builder =
        etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1).ipv4([192, 0, 2, 100], [192, 0, 2, 10], 64);
    let builder = builder.tcp(4000, 80, seg.seq, 60_000);
    let builder = if seg.flags == "S" { builder.syn() } else { builder.ack(seg.ack) };
    let mut frame = Vec::new();
    builder.options_raw(options).unwrap().write(&mut frame, &seg.data).unwrap();
    frame
}

/// What says that the client is 9.9.9.9:9.
const LIE: [u8; 8] = [254, 8, 0, 9, 9, 9, 9, 9];

#[test]
fn a_client_does_not_say_itself_who_it_is() {
    let ours = [254, 8, 0x0f, 0xa0, 192, 0, 2, 100];
    let cases: [(Vec<u8>, Vec<u8>); 5] = [
        (LIE.to_vec(), [ours, [1; 8]].concat()),
        // No room for ours.
        ([vec![1; 32], LIE.to_vec()].concat(), vec![1; 40]),
        // At an odd place, twice, between others.
        (
            [&[1][..], &LIE, &[3, 3, 7], &LIE, &[1; 4]].concat(),
            [&ours[..], &[1; 9], &[3, 3, 7], &[1; 12]].concat(),
        ),
        // It runs over the header's end, or has no end: nobody reads it.
        (vec![1, 1, 254, 9], [&ours[..], &[1, 1, 254, 9]].concat()),
        (vec![254, 0, 254, 4], [&ours[..], &[254, 0, 254, 4]].concat()),
    ];
    let plain = |seq, ack, flags, data: &[u8]| Seg { seq, ack, flags, data: data.to_vec(), sack: None };
    for (sent, left) in cases {
        let mut director = director(TOA);
        let options = |director: &mut Director, seg: &Seg| {
            seen(&director.receive(WAN, &[with_options(seg, &sent)]).sent[0].1).2
        };
        let syn = options(&mut director, &plain(1000, 0, "S", b""));
        assert!(!syn.windows(8).any(|option| option == LIE));
        director.receive(LAN, &[frame(false, false, &plain(7000, 1001, "SA", b""))]);
        assert_eq!(options(&mut director, &plain(1001, 7001, "A", b"")), left);
        // What the real server says to anybody's wrong segment is no answer to the client's.
        for (seq, flags) in [(7001, "A"), (7001, "R"), (7000, "SA")] {
            director.receive(LAN, &[frame(false, false, &plain(seq, 1001, flags, b""))]);
            assert_eq!(options(&mut director, &plain(1001, 7001, "A", b"GET /")), left, "{flags}");
        }
        director.receive(LAN, &[frame(false, false, &plain(7001, 1006, "A", b""))]);
        assert_eq!(options(&mut director, &plain(1006, 7001, "A", b"")), sent, "nobody reads it");
    }
}

#[test]
fn a_fragment_gets_no_option_and_says_nothing_else_of_its_client() {
    let mut director = director(TOA);
    let seg = |seq, ack, flags, len| Seg { seq, ack, flags, data: vec![7; len], sack: None };
    director.receive(WAN, &[frame(false, true, &seg(1000, 0, "S", 0))]);
    director.receive(LAN, &[frame(false, false, &seg(7000, 1001, "SA", 0))]);
    let mut first = with_options(&seg(1001, 7001, "A", 80), &LIE);
    let before = u16::from_be_bytes([first[50], first[51]]);
    first.truncate(34 + 40);
    first[16..18].copy_from_slice(&60u16.to_be_bytes());
    first[20] |= 0x20;
    crate::wire::ipv4::fill_checksum(&mut first[14..34]);
    let out = director.receive(WAN, &[first]);
    let left = out.sent[0].1.data();
    assert_eq!(left[54..62], [1; 8]);
    // By as much as the rewrite and the option differ.
    let words = [0xfe08u16, 9, 0x0909, 0x0909, 0xc000, 0x020a, 80];
    let after = [0x0101u16, 0x0101, 0x0101, 0x0101, 0x0a00, 0x000b, 8080];
    let sum = |words: &[u16], not: bool| -> u64 {
        words.iter().map(|&word| u64::from(if not { !word } else { word })).sum()
    };
    let mut total = u64::from(!before) + sum(&words, true) + sum(&after, false);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    assert_eq!(u16::from_be_bytes([left[50], left[51]]), !(total as u16));
}
