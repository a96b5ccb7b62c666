use etherparse::{IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};
use proptest::prelude::*;

use super::icmp::{Mtus, message};
use super::*;
use crate::ids::PortId;
use crate::packet::Frame;
use crate::wire::parse::{Parsed, parse};
use crate::wire::testing::{
    CLIENT, CLIENT6, Extensions, Ip, L4, VIP, VIP6, frame, headers, recipe, tcp, udp, v4, v6,
};

const V4: Addresses = Addresses::V4(Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(172, 20, 8, 1));
const V6: Addresses =
    Addresses::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));

fn fields() -> impl Strategy<Value = Fields> {
    let piece = (any::<u16>(), 0..8000u16, any::<bool>()).prop_map(|(id, place, has_more)| Piece {
        id: id.into(),
        offset: place * 8,
        has_more: has_more || place == 0,
    });
    let protocol =
        prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP), Just(Protocol::SCTP), Just(Protocol(50))];
    (any::<u8>(), any::<u8>(), protocol, 0..1600u16, proptest::option::of(piece)).prop_map(
        |(tos, ttl, protocol, payload_len, piece)| Fields { tos, ttl, protocol, payload_len, piece },
    )
}

/// The same by another's hand.
fn ipv4_by_etherparse(fields: &Fields, id: u16) -> Vec<u8> {
    let Addresses::V4(src, dst) = V4 else { panic!() };
    let protocol = IpNumber(fields.protocol.0);
    let mut ip =
        Ipv4Header::new(fields.payload_len, fields.ttl, protocol, src.octets(), dst.octets()).unwrap();
    ip.dscp = IpDscp::try_new(fields.tos >> 2).unwrap();
    ip.ecn = IpEcn::try_new(fields.tos & 3).unwrap();
    ip.identification = fields.piece.map_or(id, |piece| piece.id as u16);
    ip.dont_fragment = fields.piece.is_none() && fields.payload_len + 20 > 1260;
    ip.more_fragments = fields.piece.is_some_and(|piece| piece.has_more);
    ip.fragment_offset = IpFragOffset::try_new(fields.piece.map_or(0, |piece| piece.offset / 8)).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    ip.to_bytes().to_vec()
}

fn ipv6_by_etherparse(fields: &Fields) -> Vec<u8> {
    let Addresses::V6(src, dst) = V6 else { panic!() };
    let protocol = IpNumber(fields.protocol.0);
    let fragment = fields.piece.map(|piece| {
        let offset = IpFragOffset::try_new(piece.offset / 8).unwrap();
        Ipv6FragmentHeader::new(protocol, offset, piece.has_more, piece.id).to_bytes()
    });
    let ip = Ipv6Header {
        traffic_class: fields.tos,
        hop_limit: fields.ttl,
        source: src.octets(),
        destination: dst.octets(),
        payload_length: fields.payload_len + if fragment.is_some() { 8 } else { 0 },
        next_header: if fragment.is_some() { IpNumber::IPV6_FRAGMENTATION_HEADER } else { protocol },
        ..Ipv6Header::default()
    };
    let mut bytes = ip.to_bytes().to_vec();
    bytes.extend(fragment.into_iter().flatten());
    bytes
}

proptest! {
    #[test]
    fn headers_are_written_as_another_writes_them_and_read_as_they_were_meant(fields in fields(), id: u16) {
        let ip = fields.header(V4, id).unwrap();
        prop_assert_eq!(&ip[..], &ipv4_by_etherparse(&fields, id)[..]);
        prop_assert_eq!(Fields::read(&ip, 0, false), Ok((fields, 20)));
        let ip = fields.header(V6, id).unwrap();
        prop_assert_eq!(&ip[..], &ipv6_by_etherparse(&fields)[..]);
        prop_assert_eq!(Fields::read(&ip, 0, true), Ok((fields, ip.len())));
    }

    #[test]
    fn no_bytes_make_reading_or_an_error_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), is_ipv6: bool) {
        let _ = Fields::read(&bytes, 0, is_ipv6);
        if let Some(header) = bytes.first_chunk() {
            let _ = message(is_ipv6, header, 1500, Mtus::default());
        }
    }
}

/// The frame with the other family's header, which is announced to be as long as it is.
fn exchanged(frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    let before = headers(frame);
    let mut packet = Frame::new(PortId(0), frame);
    let (fields, payload) = Fields::read(frame, before.l3.into(), before.is_ipv6)?;
    let header = fields.header(if before.is_ipv6 { V4 } else { V6 }, 7)?;
    replace(&mut packet, before.l3.into(), payload, &header, !before.is_ipv6)?;
    let (len, dont_fragment) = translated_len(&before);
    let Ok(Parsed::Ip(after)) = parse(packet.data(), packet.frame_len(), Default::default()) else {
        panic!()
    };
    assert_eq!((after.ip_len, after.is_ipv6), (len, !before.is_ipv6));
    if before.is_ipv6 {
        assert_eq!(after.dont_fragment, dont_fragment);
    }
    assert_eq!((after.protocol, after.fragment), (before.protocol, before.fragment));
    assert_eq!(after.fragment_offset, before.fragment_offset);
    Ok(packet.data().to_vec())
}

#[test]
fn options_and_extension_headers_stay_behind_and_tags_and_payload_do_not() {
    let mut all = vec![];
    for ip in [
        v4(),
        Ip::V4 { src: CLIENT, dst: VIP, options: vec![1; 8], dont_fragment: false, more: true, offset: 0 },
        Ip::V4 { src: CLIENT, dst: VIP, options: vec![], dont_fragment: false, more: false, offset: 800 },
        v6(),
        Ip::V6 {
            src: CLIENT6,
            dst: VIP6,
            extensions: Extensions { hop_by_hop: true, destination: true, routing: Some(2), fragment: None },
        },
        Ip::V6 {
            src: CLIENT6,
            dst: VIP6,
            extensions: Extensions { hop_by_hop: true, fragment: Some((0, true)), ..Extensions::default() },
        },
        // All of its datagram (RFC 6946).
        Ip::V6 {
            src: CLIENT6,
            dst: VIP6,
            extensions: Extensions { fragment: Some((0, false)), ..Extensions::default() },
        },
    ] {
        for vlans in [vec![], vec![7], vec![7, 8]] {
            all.push((ip.clone(), vlans));
        }
    }
    for (ip, vlans) in all {
        let is_later = matches!(ip, Ip::V4 { offset: 800, .. });
        let l4 = if is_later { L4::Other(17) } else { udp() };
        let mut recipe = recipe(ip, l4, 64);
        recipe.vlans = vlans;
        let before = recipe.build();
        let after = exchanged(&before).unwrap_or_else(|_| panic!("{recipe:?}"));
        let l3 = usize::from(headers(&before).l3);
        assert_eq!(after[..l3 - 2], before[..l3 - 2], "addresses and tags");
        let (old, new) = (headers(&before), headers(&after));
        assert_eq!(after[new.l4.into()..new.end()], before[old.l4.into()..old.end()], "{recipe:?}");
    }
}

#[test]
fn what_cannot_be_left_out_has_no_form_in_the_other_family() {
    let extension = |kind: u8, body: [u8; 8]| {
        let mut bytes = frame(v6(), tcp(), 8);
        let next = std::mem::replace(&mut bytes[14 + 6], kind);
        let len = u16::from_be_bytes([bytes[18], bytes[19]]) + 8;
        bytes[18..20].copy_from_slice(&len.to_be_bytes());
        let mut body = body;
        body[0] = next;
        bytes.splice(54..54, body);
        bytes
    };
    // Routing, type 2, a segment left; destination options; the same with authentication.
    assert_eq!(exchanged(&extension(43, [0, 0, 2, 1, 0, 0, 0, 0])), Err(DropReason::Untranslatable));
    assert!(exchanged(&extension(43, [0, 0, 2, 0, 0, 0, 0, 0])).is_ok());
    assert!(exchanged(&extension(60, [0, 0, 1, 4, 0, 0, 0, 0])).is_ok());
    assert_eq!(exchanged(&extension(51, [0, 0, 0, 0, 0, 0, 0, 0])), Err(DropReason::Untranslatable));
}

#[test]
fn errors_become_what_rfc_7915_says() {
    let mtus = Mtus { receiver: Some(1500), destination: Some(1500) };
    let to_v6 = |kind, code, rest: [u8; 4]| {
        message(false, &[kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]], 1500, mtus)
            .map(|(kind, code, rest)| (kind, code, u32::from_be_bytes(rest)))
    };
    // Section 4.2, line by line.
    for code in [0, 1, 5, 6, 7, 8, 11, 12] {
        assert_eq!(to_v6(3, code, [0; 4]), Some((1, 0, 0)), "{code}");
    }
    for (code, is) in
        [(2, (4, 1, 6)), (3, (1, 4, 0)), (9, (1, 1, 0)), (10, (1, 1, 0)), (13, (1, 1, 0)), (15, (1, 1, 0))]
    {
        assert_eq!(to_v6(3, code, [0; 4]), Some(is), "{code}");
    }
    assert_eq!((to_v6(3, 14, [0; 4]), to_v6(3, 4, [0, 0, 5, 0xaa])), (None, Some((2, 0, 1470))));
    assert_eq!(to_v6(3, 4, [0, 0, 2, 0]), Some((2, 0, 1280)), "never below what IPv6 links take");
    assert_eq!(to_v6(3, 4, [0, 0, 0, 0]), Some((2, 0, 1500)), "the plateau 1492, and the receiver's link");
    assert_eq!(
        (to_v6(11, 1, [0; 4]), to_v6(4, 0, [0; 4]), to_v6(5, 0, [0; 4])),
        (Some((3, 1, 0)), None, None)
    );
    for (at, is) in [(0, 0), (1, 1), (2, 4), (3, 4), (8, 7), (9, 6), (12, 8), (15, 8), (16, 24), (19, 24)] {
        assert_eq!(to_v6(12, 0, [at, 0, 0, 0]), Some((4, 0, is)), "{at}");
        assert_eq!(to_v6(12, 2, [at, 0, 0, 0]), Some((4, 0, is)), "{at}");
    }
    for at in [4, 5, 6, 7, 10, 11, 20] {
        assert_eq!(to_v6(12, 0, [at, 0, 0, 0]), None, "{at}");
    }
    assert_eq!(to_v6(12, 1, [0; 4]), None);

    let to_v4 = |kind, code, rest: u32| {
        let [a, b, c, d] = rest.to_be_bytes();
        message(true, &[kind, code, 0, 0, a, b, c, d], 1500, mtus)
            .map(|(kind, code, rest)| (kind, code, u32::from_be_bytes(rest)))
    };
    // Section 5.2.
    for (code, is) in [(0, 1), (1, 10), (2, 1), (3, 1), (4, 3)] {
        assert_eq!(to_v4(1, code, 0), Some((3, is, 0)), "{code}");
    }
    assert_eq!((to_v4(1, 5, 0), to_v4(3, 0, 0), to_v4(3, 1, 0)), (None, Some((11, 0, 0)), Some((11, 1, 0))));
    assert_eq!((to_v4(2, 0, 1400), to_v4(2, 0, 9000)), (Some((3, 4, 1380)), Some((3, 4, 1480))));
    assert_eq!((to_v4(4, 1, 6), to_v4(4, 2, 0), to_v4(128, 0, 0)), (Some((3, 2, 0)), None, None));
    for (at, is) in [(0, 0), (1, 1), (4, 2), (5, 2), (6, 9), (7, 8), (8, 12), (23, 12), (24, 16), (39, 16)] {
        assert_eq!(to_v4(4, 0, at), Some((12, 0, u32::from_be_bytes([is, 0, 0, 0]))), "{at}");
    }
    assert_eq!((to_v4(4, 0, 2), to_v4(4, 0, 40)), (None, None));
}
