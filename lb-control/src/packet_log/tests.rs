use std::sync::Arc;

use lb_core::flow::Tuple;
use lb_core::rule::event::{KEPT, prefix};
use lb_core::tables::Protocol;
use lb_core::wire::parse::{Headers, Parsed, parse};

use super::*;

const ALL: u8 = TCP_SEQUENCE | TCP_OPTIONS | IP_OPTIONS;

/// An IPv4 packet from 192.0.2.100 to 10.0.0.11, its identification 4660.
fn ipv4(protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0, 0, (header + payload.len()) as u8, 0x12, 0x34];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 192, 0, 2, 100, 10, 0, 0, 11]);
    packet.extend(options);
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet from 2001:db8::a to 2001:db8::b.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x6a, 0xb0, 0, 7, 0, payload.len() as u8, next, 63];
    for last in [10, 11] {
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    packet.extend(payload);
    packet
}

fn tcp(options: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x0f, 0xa0, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0xfa, 0xf0, 0, 0, 0, 0];
    segment[12] = (((20 + options.len()) / 4) << 4) as u8;
    segment.extend(options);
    segment
}

const UDP: [u8; 8] = [0, 5, 0, 53, 0, 8, 0, 0];
const IPV4: &str = "SRC=192.0.2.100 DST=10.0.0.11";
const IPV6: &str = "SRC=2001:0db8:0000:0000:0000:0000:0000:000a DST=2001:0db8:0000:0000:0000:0000:0000:000b";
const MIDDLE: &str = "TOS=0x00 PREC=0x00 TTL=64 ID=4660";
const MIDDLE6: &str = "TC=171 HOPLIMIT=63 FLOWLBL=7";

fn framed(tags: &[u8], packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 1], tags, &kind, packet].concat()
}

fn parsed(sent: &[u8]) -> Option<Headers> {
    match parse(sent, sent.len(), Default::default()) {
        Ok(Parsed::Ip(headers)) => Some(headers),
        _ => None,
    }
}

/// The event of such a packet, behind an Ethernet header, and VLAN tags if there are any.
fn event(tags: &[u8], packet: &[u8], options: u8) -> Event {
    let sent = framed(tags, packet);
    let headers = parsed(&sent).unwrap_or_else(|| {
        // What the road refuses is said as far as it goes.
        let is_ipv6 = packet[0] >> 4 == 6;
        let plain = if is_ipv6 { ipv6(17, &UDP) } else { ipv4(17, 0, &[], &UDP) };
        let protocol = Protocol(packet[if is_ipv6 { 6 } else { 9 }]);
        Headers { ip_len: packet.len() as u32, protocol, ..parsed(&framed(tags, &plain)).expect("IP") }
    });
    let (mut frame, kept) = ([0; KEPT], sent.len().min(KEPT));
    frame[..kept].copy_from_slice(&sent[..kept]);
    Event {
        prefix: prefix(""),
        level: 4,
        said: Said::Headers { options },
        input: None,
        output: None,
        mark: 7,
        tuple: Tuple::of_packet(&sent, &headers),
        frame,
        kept: kept as u8,
        headers,
    }
}

fn said(event: &Event) -> String {
    line(event, &Arc::default(), &RuleTables::new(0))
}

/// The line of a packet, from its LEN on.
fn of(packet: &[u8], options: u8) -> String {
    let line = said(&event(&[], packet, options));
    let ends = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
    line.strip_prefix(&format!("IN= OUT= {ends} ")).expect("it begins so").to_owned()
}

#[test]
fn a_line_is_as_the_kernel_writes_it() {
    let packet = ipv4(6, 0x4000, &[], &tcp(&[]));
    let event =
        Event { prefix: prefix("ssh: "), input: Some(InterfaceId(0)), ..event(&[], &packet, TCP_SEQUENCE) };
    assert_eq!(
        said(&event),
        "ssh: IN= OUT= MAC=02:00:00:00:00:01:02:00:00:00:01:01:08:00 SRC=192.0.2.100 DST=10.0.0.11 LEN=40 TOS=0x00 \
         PREC=0x00 TTL=64 ID=4660 DF PROTO=TCP SPT=4000 DPT=22 SEQ=1 ACK=0 WINDOW=64240 RES=0x00 SYN URGP=0 MARK=0x7"
    );
    let audit = said(&Event { said: Said::Audit, mark: 0, ..event });
    assert_eq!(audit, "type=NETFILTER_PKT mark=0xffffffff saddr=192.0.2.100 daddr=10.0.0.11 proto=6");
}

#[test]
fn a_link_header_is_as_it_is_without_its_vlan_tag() {
    for (options, expected) in [
        (0, "IN= OUT= MAC=02:00:00:00:00:01:02:00:00:00:01:01:08:00 SRC="),
        (DECODED_MAC, "IN= OUT= MACSRC=02:00:00:00:01:01 MACDST=02:00:00:00:00:01 MACPROTO=0800 SRC="),
    ] {
        for tags in [&[][..], &[0x81, 0, 0, 7]] {
            let event = event(tags, &ipv4(17, 0, &[], &UDP), options);
            let line = said(&Event { input: Some(InterfaceId(0)), ..event });
            assert!(line.starts_with(expected), "{line}");
        }
    }
}

#[test]
fn options_are_said_where_that_is_asked_for() {
    let packet = ipv4(6, 0, &[1, 1, 1, 0], &tcp(&[2, 4, 5, 0xb4]));
    let ends = "WINDOW=64240 RES=0x00 SYN URGP=0";
    assert_eq!(of(&packet, 0), format!("LEN=48 {MIDDLE} PROTO=TCP SPT=4000 DPT=22 {ends} MARK=0x7"));
    assert_eq!(
        of(&packet, ALL),
        format!(
            "LEN=48 {MIDDLE} OPT (01010100) PROTO=TCP SPT=4000 DPT=22 SEQ=1 ACK=0 {ends} OPT (020405B4) MARK=0x7"
        )
    );
    let traced = Event { said: Said::Met(1), ..event(&[], &packet, 0) };
    assert!(said(&traced).contains(" OPT (01010100) PROTO=TCP SPT=4000 DPT=22 SEQ=1"), "{}", said(&traced));
}

#[test]
fn a_system_is_said_before_the_headers() {
    let event = event(&[], &ipv4(6, 0, &[], &tcp(&[2, 4, 5, 180])), 0);
    let of = |said_of| said(&Event { said: said_of, ..event.clone() });
    let known = of(Said::System { name: prefix("Linux [2.6:.1-7]"), hops: -3 });
    assert!(
        known.starts_with(
            "Linux [2.6:.1-7] : 192.0.2.100:4000 -> 10.0.0.11:22 hops=-3 IN= OUT= SRC=192.0.2.100"
        ),
        "{known}"
    );
    assert!(known.contains(" SEQ=1 ACK=0 ") && known.contains(" OPT (020405B4)"), "{known}");
    let unknown = of(Said::NoSystem);
    assert!(
        unknown.starts_with("Remote OS is not known: 192.0.2.100:4000 -> 10.0.0.11:22 IN= OUT="),
        "{unknown}"
    );
}

#[test]
fn the_rules_ends_are_said_and_not_those_that_the_packet_still_has() {
    let mut event = event(&[], &ipv4(17, 0, &[], &UDP), 0);
    event.tuple = Tuple { src: [203, 0, 113, 1].into(), sport: 9, ..event.tuple };
    assert!(said(&event).starts_with("IN= OUT= SRC=203.0.113.1 DST=10.0.0.11 LEN=28"), "{}", said(&event));
    assert!(said(&event).contains("PROTO=UDP SPT=9 DPT=53 LEN=8"));
}

#[test]
fn protocols_are_said_by_name_or_number() {
    for (protocol, payload, expected) in [
        (17, &UDP[..], "LEN=28 @ PROTO=UDP SPT=5 DPT=53 LEN=8 MARK=0x7"),
        (136, &UDP, "LEN=28 @ PROTO=UDPLITE SPT=5 DPT=53 LEN=8 MARK=0x7"),
        (132, &[0; 12], "LEN=32 @ PROTO=132 MARK=0x7"),
        (50, &[0, 0, 1, 2, 0, 0, 0, 1], "LEN=28 @ PROTO=ESP SPI=0x102 MARK=0x7"),
        (50, &[0, 0, 1, 2], "LEN=24 @ PROTO=ESP INCOMPLETE [4 bytes] MARK=0x7"),
        (51, &[59, 1, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1], "LEN=32 @ PROTO=AH SPI=0x102 MARK=0x7"),
        (47, &[0, 0, 8, 0], "LEN=24 @ PROTO=47 MARK=0x7"),
        (1, &[8, 0, 0, 0, 0, 7, 0, 9], "LEN=28 @ PROTO=ICMP TYPE=8 CODE=0 ID=7 SEQ=9 MARK=0x7"),
        (1, &[13, 0, 0, 0, 0, 7, 0, 9], "LEN=28 @ PROTO=ICMP TYPE=13 CODE=0 INCOMPLETE [8 bytes] MARK=0x7"),
    ] {
        assert_eq!(of(&ipv4(protocol, 0, &[], payload), 0), expected.replace('@', MIDDLE), "{protocol}");
    }
}

#[test]
fn fragments_say_where_they_begin_and_later_ones_no_transport_header() {
    let of = |fragment, protocol| of(&ipv4(protocol, fragment, &[], &[0; 24]), 0);
    assert_eq!(of(0x2001, 6), format!("LEN=44 {MIDDLE} MF FRAG:1 PROTO=TCP MARK=0x7"));
    assert_eq!(of(0x0003, 1), format!("LEN=44 {MIDDLE} FRAG:3 PROTO=ICMP MARK=0x7"));
    assert_eq!(of(0x0003, 50), format!("LEN=44 {MIDDLE} FRAG:3 PROTO=ESP MARK=0x7"));
}

#[test]
fn an_error_says_what_it_is_about_once() {
    let quoted = ipv4(17, 0, &[], &UDP);
    let error = |head: [u8; 8], quoted: &[u8]| ipv4(1, 0, &[], &[&head[..], quoted].concat());
    let about = format!("[{IPV4} LEN=28 {MIDDLE} PROTO=UDP SPT=5 DPT=53 LEN=8 ]");
    let too_big = error([3, 4, 0, 0, 0, 0, 5, 20], &quoted);
    let said_too_big = format!("PROTO=ICMP TYPE=3 CODE=4 {about} MTU=1300 MARK=0x7");
    assert_eq!(of(&too_big, 0), format!("LEN=56 {MIDDLE} {said_too_big}"));
    let redirect = error([5, 1, 0, 0, 10, 0, 0, 9], &quoted);
    assert!(of(&redirect, 0).contains(&format!("TYPE=5 CODE=1 GATEWAY=10.0.0.9 {about} MARK")));
    let problem = error([12, 0, 0, 0, 9, 0, 0, 0], &quoted);
    assert!(of(&problem, 0).ends_with("TYPE=12 CODE=0 PARAMETER=9 MARK=0x7"));
    // An error about an error, as far as that goes.
    let nested = error([11, 0, 0, 0, 0, 0, 0, 0], &too_big);
    let expected =
        format!("TYPE=11 CODE=0 [{IPV4} LEN=56 {MIDDLE} PROTO=ICMP TYPE=3 CODE=4 MTU=1300 ] MARK=0x7");
    assert!(of(&nested, 0).ends_with(&expected), "{}", of(&nested, 0));
    // What is quoted by halves ends where it does, and the line goes on.
    let cut = error([11, 0, 0, 0, 0, 0, 0, 0], &ipv4(6, 0, &[], &tcp(&[]))[..28]);
    let expected =
        format!("TYPE=11 CODE=0 [{IPV4} LEN=40 {MIDDLE} PROTO=TCP INCOMPLETE [8 bytes] ] MARK=0x7");
    assert!(of(&cut, 0).ends_with(&expected), "{}", of(&cut, 0));
    let short = error([11, 0, 0, 0, 0, 0, 0, 0], &quoted[..8]);
    assert!(of(&short, 0).ends_with("TYPE=11 CODE=0 INCOMPLETE [16 bytes] MARK=0x7"), "{}", of(&short, 0));
}

#[test]
fn ipv6_has_all_its_digits_and_its_headers_between() {
    assert_eq!(of(&ipv6(17, &UDP), 0), format!("LEN=48 {MIDDLE6} PROTO=UDP SPT=5 DPT=53 LEN=8 MARK=0x7"));
    let quoted = ipv6(17, &UDP);
    for (head, expected) in [
        ([2, 0, 0, 0, 0, 0, 5, 20], "TYPE=2 CODE=0 [@] MTU=1300 MARK=0x7"),
        ([4, 1, 0, 0, 0, 0, 0, 40], "TYPE=4 CODE=1 POINTER=00000028 [@] MARK=0x7"),
        ([1, 4, 0, 0, 0, 0, 0, 0], "TYPE=1 CODE=4 [@] MARK=0x7"),
        ([128, 0, 0, 0, 0, 7, 0, 9], "TYPE=128 CODE=0 ID=7 SEQ=9 MARK=0x7"),
    ] {
        let about = format!("{IPV6} LEN=48 {MIDDLE6} PROTO=UDP SPT=5 DPT=53 LEN=8 ");
        let line = of(&ipv6(58, &[&head[..], &quoted].concat()), 0);
        assert!(line.ends_with(&format!("PROTO=ICMPv6 {}", expected.replace('@', &about))), "{line}");
    }
    let hop_by_hop = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &UDP].concat();
    let (plain, shown) = ([0, ALL].map(|options| of(&ipv6(0, &hop_by_hop), options))).into();
    let ends = "PROTO=UDP SPT=5 DPT=53 LEN=8 MARK=0x7";
    assert_eq!(plain, format!("LEN=56 {MIDDLE6} {ends}"));
    assert_eq!(shown, format!("LEN=56 {MIDDLE6} OPT ( ) {ends}"));
}

#[test]
fn pieces_and_security_headers_of_ipv6_are_said_among_its_options() {
    let first = [&[17, 0, 0, 1, 0, 0, 0xab, 0xcd][..], &UDP].concat();
    let said_first = "FRAG:0 INCOMPLETE ID:0000abcd PROTO=UDP SPT=5 DPT=53 LEN=8 MARK=0x7";
    assert_eq!(of(&ipv6(44, &first), 0), format!("LEN=56 {MIDDLE6} {said_first}"));
    let later = [17, 0, 0, 8, 0, 0, 0xab, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(of(&ipv6(44, &later), 0), format!("LEN=56 {MIDDLE6} FRAG:8 ID:0000abcd PROTO=UDP MARK=0x7"));
    let ah = [&[17, 1, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1][..], &UDP].concat();
    let of = |next, payload: &[u8], options| {
        let event = event(&[], &ipv6(next, payload), options);
        said(&event).split_once("FLOWLBL=7").expect("it is there").1.to_owned()
    };
    assert_eq!(of(51, &ah, IP_OPTIONS), " OPT ( AH SPI=0x102 ) PROTO=UDP SPT=5 DPT=53 LEN=8 MARK=0x7");
    assert_eq!(of(51, &ah, 0), " PROTO=UDP SPT=5 DPT=53 LEN=8 MARK=0x7");
    let esp = [0, 0, 1, 2, 0, 0, 0, 1, 9, 9, 9, 9];
    assert_eq!(of(50, &esp, IP_OPTIONS), " OPT ( ESP SPI=0x102 )", "and no mark, as in the kernel");
    assert_eq!(of(50, &esp, 0), "");
}

#[test]
fn no_packet_however_it_is_cut_is_more_than_a_line() {
    let quoted = ipv6(17, &UDP);
    let all = [
        ipv4(6, 0, &[1, 1, 1, 0], &tcp(&[2, 4, 5, 0xb4])),
        ipv4(1, 0, &[], &[&[3, 4, 0, 0, 0, 0, 5, 20][..], &ipv4(51, 0, &[], &[0; 12])].concat()),
        ipv6(58, &[&[2, 0, 0, 0, 0, 0, 5, 20][..], &quoted].concat()),
        ipv6(0, &[&[44, 0, 1, 4, 0, 0, 0, 0, 51, 0, 0, 1, 0, 0, 0, 1, 17, 1][..], &[0; 30]].concat()),
    ];
    for packet in all {
        let whole = event(&[], &packet, ALL);
        for kept in 0..=whole.kept {
            let line = said(&Event { kept, input: Some(InterfaceId(0)), ..whole.clone() });
            assert!(line.starts_with("IN= OUT=") && line.len() < 500, "{line}");
        }
    }
}
