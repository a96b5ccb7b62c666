//! Any frame is parsed, or refused with a reason; what the parser says of it is true, and what is made of it (the
//! error about it, its fragments, the same with another tag) is a right packet again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::{Arbitrary, Unstructured};
use lb_core::icmp::{self, Problem};
use lb_core::ids::PortId;
use lb_core::packet::{Frame, Packet, RxChecksum};
use lb_core::wire::parse::{Fragment, Headers, Parsed, parse, parse_into};
use lb_core::wire::{checksum, ethernet, fragment, ipv4, ipv6};

#[derive(Arbitrary)]
enum PortsWord {
    Unknown,
    Good,
    Bad,
}

/// What comes with the frame; in the input it stands behind it.
#[derive(Arbitrary)]
struct With {
    word: PortsWord,
    /// Bytes of the frame in further segments.
    chained: u16,
    mtu: u16,
    vlan: u16,
}

pub(crate) fn run(data: &[u8]) {
    let (frame, with) = data.split_at(data.len().saturating_sub(7));
    let Ok(with) = With::arbitrary_take_rest(Unstructured::new(with)) else { return };
    let word = match with.word {
        PortsWord::Unknown => RxChecksum::Unknown,
        PortsWord::Good => RxChecksum::Good,
        PortsWord::Bad => RxChecksum::Bad,
    };
    let frame_len = frame.len() + usize::from(with.chained % 2000);
    let parsed = parse(frame, frame_len, word);
    let mut into = Headers::NONE;
    match (parsed, parse_into(&mut into, frame, frame_len, word)) {
        (Ok(Parsed::Ip(headers)), Ok(true)) => assert_eq!(headers, into),
        (Ok(Parsed::Other), Ok(false)) => assert_eq!(into, Headers::NONE),
        (Err(one), Err(other)) => assert_eq!((one, into), (other, Headers::NONE)),
        (one, other) => panic!("parse says {one:?}, parse_into {other:?}"),
    }
    let Ok(Parsed::Ip(headers)) = parsed else { return };
    check_headers(&headers, frame, frame_len);
    if icmp::is_translatable(&headers)
        && let Ok(embedded) = icmp::embedded(frame, &headers)
    {
        assert!(usize::from(embedded.l4) + 8 <= headers.end(), "{embedded:?}");
    }
    // What follows is asked of packets in one piece of memory, by the tags that they came with.
    if frame_len == frame.len() && word == RxChecksum::Unknown {
        check_error(frame, &headers);
        check_fragments(frame, &headers, with.mtu);
        check_tag(frame, headers, with.vlan % 4095);
    }
}

fn headers_of(frame: &[u8]) -> Headers {
    match parse(frame, frame.len(), RxChecksum::Unknown) {
        Ok(Parsed::Ip(headers)) => headers,
        other => panic!("{other:?}: {frame:02x?}"),
    }
}

/// What the path relies on without looking again.
fn check_headers(headers: &Headers, frame: &[u8], frame_len: usize) {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let ip = if headers.is_ipv6 { ipv6::LEN } else { ipv4::LEN };
    assert!(l3 >= ethernet::LEN && l3 + ip <= l4 && l4 <= frame.len(), "{headers:?}");
    assert!(l4 <= headers.end() && headers.end() <= frame_len, "{headers:?}");
    assert!(headers.vlan < 4096 && headers.inner_vlan < 4096, "{headers:?}");
    assert_eq!(headers.fragment_offset == 0, headers.fragment != Fragment::Later, "{headers:?}");
    let is_later = headers.fragment == Fragment::Later;
    let transport = if is_later {
        0
    } else {
        [(6, 20), (17, 8), (132, 16)].iter().find(|t| t.0 == headers.protocol.0).map_or(0, |t| t.1)
    };
    assert!(headers.l4_len() >= transport && frame.len() >= l4 + transport, "{headers:?}");
    assert!(transport > 0 || (headers.sport, headers.dport, headers.tcp_flags) == (0, 0, 0), "{headers:?}");
}

/// The error about a packet goes to its sender, with good checksums, and quotes it.
fn check_error(frame: &[u8], headers: &Headers) {
    let ours: IpAddr = match headers.is_ipv6 {
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        false => Ipv4Addr::new(192, 0, 2, 1).into(),
    };
    let mut packet = Frame::new(PortId(0), frame);
    match icmp::make_error(&mut packet, headers, Problem::HostUnreachable, ours) {
        Err(_) => assert_eq!(packet.data(), frame, "no error, and yet the packet is another"),
        Ok(()) => {
            let error = packet.data();
            let (l3, link) = (usize::from(headers.l3), &error[..12]);
            assert_eq!((&link[..6], &link[6..]), (&frame[6..12], &frame[..6]));
            assert_eq!(error[12..l3], frame[12..l3], "the tags");
            let (source, made) = (headers.source(frame), headers_of(error));
            assert_eq!((made.source(error), made.destination(error)), (ours, source));
            assert!(made.is_icmp_error());
            let sum = checksum::of_transport(error, &made).expect("an error in one piece");
            assert!(checksum::is_good(sum), "{error:02x?}");
            let quote = &error[usize::from(made.l4) + 8..made.end()];
            assert_eq!(quote, &frame[l3..l3 + quote.len()], "what is quoted");
        }
    }
}

/// The pieces of a packet are at most as long as asked, and have its data at its place.
fn check_fragments(frame: &[u8], headers: &Headers, mtu: u16) {
    let mut packet = Frame::new(PortId(0), frame);
    let mut later = Default::default();
    let new = || Some(Frame::new(PortId::NONE, &[]));
    if fragment::split(&mut packet, headers, mtu, new, &mut later).is_err() {
        assert_eq!(packet.data(), frame, "not split, and yet the packet is another");
        return;
    }
    if later.is_empty() {
        assert!(headers.ip_len <= u32::from(mtu) || packet.data() == frame);
        return;
    }
    let data = &frame[usize::from(headers.l4)..headers.end()];
    let mut at = 0;
    for piece in std::iter::once(&packet).chain(&later) {
        let piece = piece.data();
        // A first piece may be too short for its transport header, which we would not take from others.
        let ip = ipv4::header(piece, usize::from(headers.l3)).expect("an IPv4 header");
        let (header_len, total) = (ipv4::header_len(ip), usize::from(u16::from_be_bytes([ip[2], ip[3]])));
        let l3 = usize::from(headers.l3);
        assert!(checksum::is_good(checksum::sum(&piece[l3..l3 + header_len])), "{piece:02x?}");
        assert!(total <= usize::from(mtu) && l3 + total == piece.len(), "{total} bytes for an MTU of {mtu}");
        let offset = usize::from(ipv4::fragmentation(ip) & 0x1fff) * 8;
        assert_eq!(offset, usize::from(headers.fragment_offset) + at);
        let part = &piece[l3 + header_len..];
        assert_eq!(part, &data[at..at + part.len()]);
        at += part.len();
    }
    assert_eq!(at, data.len(), "data was lost");
}

/// With another tag it is the same packet.
fn check_tag(frame: &[u8], mut headers: Headers, vlan: u16) {
    let mut packet = Frame::new(PortId(0), frame);
    ethernet::set_vlan(&mut packet, &mut headers, vlan).expect("there is room for a tag");
    assert_eq!(headers_of(packet.data()), headers, "tagged {vlan}: {frame:02x?}");
}
