use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::super::testing::{
    CLIENT, CLIENT6, Extensions, Ip, L4, Recipe, VIP, VIP6, frame, headers, recipe, refusal, reseal, tcp,
    udp, v4, v6,
};
use super::*;

fn changed(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// As `changed`, with a header checksum that says so.
fn resealed(frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = changed(frame, at, bytes);
    reseal(&mut frame);
    frame
}

fn v4_with(options: &[u8]) -> Ip {
    Ip::V4 { src: CLIENT, dst: VIP, options: options.to_vec(), dont_fragment: true, more: false, offset: 0 }
}

fn v4_between(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    frame(Ip::V4 { src, dst, options: vec![], dont_fragment: true, more: false, offset: 0 }, udp(), 30)
}

fn v4_fragment(offset: u16, more: bool) -> Ip {
    Ip::V4 { src: CLIENT, dst: VIP, options: vec![], dont_fragment: false, more, offset }
}

fn v6_with(extensions: Extensions) -> Ip {
    Ip::V6 { src: CLIENT6, dst: VIP6, extensions }
}

fn v6_between(src: &str, dst: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    frame(Ip::V6 { src: octets(src), dst: octets(dst), extensions: Extensions::default() }, udp(), 30)
}

/// An IPv6 packet whose payload begins with extension headers written by hand.
fn v6_raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let frame = Recipe { payload: payload.to_vec(), ..recipe(v6(), L4::Other(59), 0) }.build();
    changed(frame, 14 + 6, &[first])
}

#[test]
fn headers_stay_small() {
    assert!(size_of::<Headers>() <= 40);
    assert!(size_of::<Result<Parsed, DropReason>>() <= 40);
}

#[test]
fn plain_tcp_is_read() {
    let frame = frame(v4(), tcp(), 0);
    let expected = Headers {
        src: u32::from_be_bytes(CLIENT),
        dst: u32::from_be_bytes(VIP),
        fragment_id: 0x1234,
        ip_len: 40,
        fragment_offset: 0,
        datagram_len: 0,
        sport: 4700,
        dport: 2018,
        vlan: 0,
        inner_vlan: 0,
        l4: 34,
        l3: 14,
        ttl: 64,
        protocol: Protocol::TCP,
        tcp_flags: 2,
        icmp_type: 0,
        fragment: Fragment::None,
        is_ipv6: false,
        dont_fragment: true,
        is_for_twin: false,
    };
    assert_eq!(parse_plain(&frame, frame.len(), RxChecksum::Unknown), Some(expected));
    assert_eq!(headers(&frame), expected);
}

#[test]
fn padding_does_not_count() {
    let frame = Recipe { padding: 30, ..recipe(v4(), udp(), 1) }.build();
    let headers = headers(&frame);
    assert_eq!((headers.ip_len, headers.end(), headers.l4_len()), (29, 43, 9));
}

#[test]
fn chained_frame_is_measured_by_its_whole_length() {
    let frame = frame(v4(), udp(), 3000);
    assert!(
        matches!(parse(&frame[..2048], frame.len(), RxChecksum::Unknown), Ok(Parsed::Ip(h)) if h.ip_len == 3028)
    );
    assert_eq!(parse(&frame[..2048], 2048, RxChecksum::Unknown), Err(DropReason::BadIpv4TotalLength));
}

#[test]
fn tags_are_passed_over() {
    let tagged = |vlans: &[u16]| {
        let headers = headers(&Recipe { vlans: vlans.to_vec(), ..recipe(v4(), tcp(), 9) }.build());
        (headers.vlan, headers.inner_vlan, headers.vlan_len(), headers.l3, headers.l4, headers.dport)
    };
    assert_eq!(tagged(&[7]), (7, 0, 4, 18, 38, 2018));
    assert_eq!(tagged(&[7, 8]), (7, 8, 8, 22, 42, 2018));
    assert_eq!(tagged(&[0]), (0, 0, 4, 18, 38, 2018), "a priority tag names no VLAN");
    assert_eq!(tagged(&[0, 8]), (8, 0, 8, 22, 42, 2018));
}

#[test]
fn third_tag_and_cut_tag_are_refused() {
    let double = Recipe { vlans: vec![1, 2], ..recipe(v4(), tcp(), 9) }.build();
    assert_eq!(refusal(&changed(double.clone(), 20, &[0x81, 0x00])), DropReason::BadVlan);
    assert_eq!(refusal(&double[..17]), DropReason::BadVlan);
    assert_eq!(refusal(&double[..20]), DropReason::BadVlan);
}

#[test]
fn other_ethertypes_are_other() {
    for ethertype in [[0x08, 0x06], [0x88, 0xcc], [0x00, 0x40]] {
        let frame = changed(frame(v4(), tcp(), 9), 12, &ethertype);
        assert_eq!(parse(&frame, frame.len(), RxChecksum::Unknown), Ok(Parsed::Other));
    }
}

#[test]
fn short_frames_are_refused() {
    let v4 = frame(v4(), tcp(), 9);
    assert_eq!(refusal(&[]), DropReason::TruncatedEthernet);
    assert_eq!(refusal(&v4[..13]), DropReason::TruncatedEthernet);
    assert_eq!(refusal(&v4[..33]), DropReason::TruncatedIpv4);
    assert_eq!(refusal(&frame(v6(), tcp(), 9)[..53]), DropReason::TruncatedIpv6);
}

#[test]
fn version_is_that_of_the_ethertype() {
    assert_eq!(refusal(&changed(frame(v4(), tcp(), 30), 14, &[0x65])), DropReason::BadIpVersion);
    assert_eq!(refusal(&changed(frame(v6(), tcp(), 9), 14, &[0x45])), DropReason::BadIpVersion);
}

#[test]
fn ipv4_lengths_are_checked() {
    let good = frame(v4(), udp(), 4);
    assert_eq!(refusal(&resealed(good.clone(), 14, &[0x44])), DropReason::BadIpv4HeaderLength);
    assert_eq!(
        refusal(&changed(good.clone(), 14, &[0x4f])),
        DropReason::BadIpv4HeaderLength,
        "longer than the packet"
    );
    assert_eq!(refusal(&resealed(good.clone(), 16, &[0, 19])), DropReason::BadIpv4TotalLength);
    assert_eq!(refusal(&resealed(good.clone(), 16, &[0, 33])), DropReason::BadIpv4TotalLength);
    assert_eq!(headers(&good).ip_len, 32);
}

#[test]
fn ipv4_checksum_is_believed_or_computed() {
    let good = frame(v4(), tcp(), 9);
    let bad = changed(good.clone(), 24, &[good[24] ^ 1]);
    let reason = |frame: &[u8], said| parse(frame, frame.len(), said).err();
    assert_eq!(reason(&bad, RxChecksum::Unknown), Some(DropReason::BadIpv4Checksum));
    assert_eq!(reason(&bad, RxChecksum::Good), None);
    assert_eq!(reason(&good, RxChecksum::Bad), Some(DropReason::BadIpv4Checksum));
}

#[test]
fn ipv4_options_are_walked() {
    let router_alert = frame(v4_with(&[1, 1, 148, 4, 0, 0, 0, 9]), tcp(), 9);
    assert_eq!((headers(&router_alert).l4, headers(&router_alert).dport), (42, 2018));
    assert_eq!(
        headers(&frame(v4_with(&[1, 1, 0, 131]), tcp(), 9)).l4,
        38,
        "nothing counts behind the end of options"
    );
    for (options, reason) in [
        ([131, 7, 4, 10, 0, 0, 1, 0], DropReason::Ipv4SourceRoute),
        ([1, 137, 7, 4, 10, 0, 0, 1], DropReason::Ipv4SourceRoute),
        ([148, 9, 0, 0, 0, 0, 0, 0], DropReason::BadIpv4Option),
        ([148, 1, 0, 0, 0, 0, 0, 0], DropReason::BadIpv4Option),
        ([1, 1, 1, 1, 1, 1, 1, 148], DropReason::BadIpv4Option),
        ([131, 200, 0, 0, 0, 0, 0, 0], DropReason::BadIpv4Option),
    ] {
        assert_eq!(refusal(&frame(v4_with(&options), tcp(), 9)), reason, "{options:?}");
    }
}

#[test]
fn martian_ipv4_addresses_are_refused() {
    for (src, dst) in [
        ([0, 0, 0, 0], VIP),
        ([0, 1, 2, 3], [224, 0, 0, 1]),
        ([127, 0, 0, 1], VIP),
        ([224, 0, 0, 1], VIP),
        ([239, 255, 255, 255], VIP),
        ([255, 255, 255, 255], VIP),
        (CLIENT, [127, 0, 0, 1]),
        (CLIENT, [0, 0, 0, 0]),
        (CLIENT, [0, 255, 0, 1]),
    ] {
        assert_eq!(refusal(&v4_between(src, dst)), DropReason::MartianAddress, "{src:?} to {dst:?}");
    }
}

#[test]
fn multicast_and_broadcast_go_to_the_twin() {
    for (src, dst, is_for_twin) in [
        ([0, 0, 0, 0], [255, 255, 255, 255], true),
        ([0, 0, 0, 0], [224, 0, 0, 22], true),
        (CLIENT, [224, 0, 0, 18], true),
        (CLIENT, [239, 255, 255, 250], true),
        (CLIENT, [240, 0, 0, 1], false),
        (CLIENT, [223, 255, 255, 255], false),
        ([1, 0, 0, 0], [126, 0, 0, 1], false),
        ([240, 0, 0, 1], [128, 0, 0, 1], false),
    ] {
        assert_eq!(headers(&v4_between(src, dst)).is_for_twin, is_for_twin, "{src:?} to {dst:?}");
    }
    for (src, dst, is_for_twin) in [
        ("::", "ff02::1:ff00:1", true),
        ("fe80::1", "ff02::5", true),
        ("fd10::9", "fe80::1", true),
        ("fe80::9", "fd09::1", false),
        ("fd10::9", "fd09::1", false),
    ] {
        assert_eq!(headers(&v6_between(src, dst)).is_for_twin, is_for_twin, "{src} to {dst}");
    }
}

#[test]
fn martian_ipv6_addresses_are_refused() {
    for (src, dst) in [
        ("::1", "fd09::1"),
        ("fd10::9", "::1"),
        ("::", "fd09::1"),
        ("fd10::9", "::"),
        ("ff02::1", "fd09::1"),
        ("::ffff:10.0.0.1", "fd09::1"),
        ("fd10::9", "::ffff:10.9.0.1"),
    ] {
        assert_eq!(refusal(&v6_between(src, dst)), DropReason::MartianAddress, "{src} to {dst}");
    }
}

#[test]
fn ipv4_fragments_are_told_apart() {
    let first = headers(&frame(v4_fragment(0, true), udp(), 1472));
    assert_eq!((first.fragment, first.fragment_offset, first.dport), (Fragment::First, 0, 2018));
    let later = headers(&frame(v4_fragment(1480, true), L4::Other(17), 1480));
    assert_eq!((later.fragment, later.fragment_offset, later.dport), (Fragment::Later, 1480, 0));
    let last = headers(&frame(v4_fragment(2960, false), L4::Other(17), 3));
    assert_eq!((last.fragment, last.fragment_id, last.l4_len()), (Fragment::Later, 0x1234, 3));
}

#[test]
fn impossible_fragments_are_refused() {
    for (ip, len) in [
        (v4_fragment(0, true), 1473),
        (v4_fragment(65_528, false), 8),
        (v4_fragment(8, false), 0),
        (v6_with(Extensions { fragment: Some((0, true)), ..Extensions::default() }), 1473),
        (v6_with(Extensions { fragment: Some((65_528, false)), ..Extensions::default() }), 8),
        (v6_with(Extensions { fragment: Some((8, true)), ..Extensions::default() }), 0),
    ] {
        assert_eq!(refusal(&frame(ip.clone(), L4::Other(17), len)), DropReason::BadFragment, "{ip:?}");
    }
    let largest = frame(v4_fragment(65_528, false), L4::Other(17), 7);
    assert_eq!(headers(&largest).fragment_offset, 65_528);
}

#[test]
fn ipv6_extension_headers_are_passed_over() {
    let all =
        Extensions { hop_by_hop: true, destination: true, routing: Some(0), fragment: Some((0, false)) };
    let parsed = headers(&frame(v6_with(all), tcp(), 9));
    assert_eq!((parsed.l4, parsed.protocol, parsed.dport), (14 + 40 + 8 + 16 + 8 + 8, Protocol::TCP, 2018));
    assert_eq!(parsed.fragment, Fragment::None, "an atomic fragment is a whole packet");
    let mut authenticated = vec![17, 4, 0, 0];
    authenticated.resize(24, 0);
    authenticated.extend([0x12, 0x5c, 0x07, 0xe2, 0, 8, 0, 0]);
    assert_eq!(headers(&v6_raw(51, &authenticated)).dport, 2018);
    let none = headers(&v6_raw(59, &[1, 2, 3]));
    assert_eq!((none.protocol, none.dport), (Protocol(59), 0));
}

#[test]
fn ipv6_fragments_are_told_apart() {
    let piece = |offset, more| {
        v6_with(Extensions { hop_by_hop: true, fragment: Some((offset, more)), ..Extensions::default() })
    };
    let first = headers(&frame(piece(0, true), udp(), 1200));
    assert_eq!((first.fragment, first.fragment_id, first.dport), (Fragment::First, 0xdead_beef, 2018));
    let later = headers(&frame(piece(1208, false), L4::Other(17), 3));
    assert_eq!(
        (later.fragment, later.fragment_offset, later.protocol),
        (Fragment::Later, 1208, Protocol::UDP)
    );
    assert_eq!((later.dport, later.l4_len()), (0, 3));
}

#[test]
fn bad_ipv6_headers_are_refused() {
    let good = frame(v6(), udp(), 4);
    assert_eq!(refusal(&changed(good.clone(), 18, &[0, 13])), DropReason::BadIpv6PayloadLength);
    let segments_left = changed(
        frame(v6_with(Extensions { routing: Some(0), ..Extensions::default() }), udp(), 4),
        14 + 40 + 3,
        &[1],
    );
    assert_eq!(refusal(&segments_left), DropReason::Ipv6RoutingHeader0);
    let another_type = changed(segments_left, 14 + 40 + 2, &[4]);
    assert_eq!(headers(&another_type).dport, 2018, "other routing headers are the destination's business");

    let chain = |count: usize, last: u8| {
        let mut bytes = Vec::new();
        for n in 0..count {
            bytes.extend([if n + 1 == count { last } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        bytes.extend([0x12, 0x5c, 0x07, 0xe2, 0, 8, 0, 0]);
        v6_raw(60, &bytes)
    };
    assert_eq!(headers(&chain(8, 17)).dport, 2018);
    assert_eq!(refusal(&chain(9, 17)), DropReason::BadIpv6Extension, "too many");
    let hop_by_hop = |first| {
        let udp = [0x12, 0x5c, 0x07, 0xe2, 0, 8, 0, 0];
        v6_raw(first, &[&[60 - first, 0, 1, 4, 0, 0, 0, 0], &[17, 0, 1, 4, 0, 0, 0, 0], &udp[..]].concat())
    };
    assert_eq!(headers(&hop_by_hop(0)).dport, 2018);
    assert_eq!(refusal(&hop_by_hop(60)), DropReason::BadIpv6Extension, "hop-by-hop not first");
    assert_eq!(refusal(&v6_raw(60, &[17, 1, 1, 4, 0, 0, 0, 0])), DropReason::BadIpv6Extension, "overrun");
    assert_eq!(refusal(&v6_raw(44, &[17, 0, 0])), DropReason::BadIpv6Extension, "cut");
    let twice = [44, 0, 0, 0, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 1, 0x12, 0x5c, 0x07, 0xe2, 0, 8, 0, 0];
    assert_eq!(refusal(&v6_raw(44, &twice)), DropReason::BadIpv6Extension, "two fragment headers");
}

#[test]
fn bad_transport_headers_are_refused() {
    for (ip, l4) in [(v4(), 34), (v6(), 54)] {
        let tcp = frame(ip.clone(), tcp(), 3);
        assert_eq!(refusal(&changed(tcp.clone(), l4 + 12, &[0x40])), DropReason::BadTcpOffset);
        assert_eq!(refusal(&changed(tcp.clone(), l4 + 12, &[0x60])), DropReason::BadTcpOffset);
        assert_eq!(refusal(&frame(ip.clone(), L4::Other(6), 19)), DropReason::TruncatedTcp);
        let udp = frame(ip.clone(), udp(), 20);
        assert_eq!(refusal(&changed(udp.clone(), l4 + 4, &[0, 7])), DropReason::BadUdpLength);
        assert_eq!(refusal(&changed(udp.clone(), l4 + 4, &[0, 29])), DropReason::BadUdpLength);
        assert_eq!(headers(&changed(udp, l4 + 4, &[0, 8])).dport, 2018, "data behind the UDP datagram");
        assert_eq!(refusal(&frame(ip.clone(), L4::Other(17), 7)), DropReason::TruncatedUdp);
        let icmp = if l4 == 34 { 1 } else { 58 };
        assert_eq!(refusal(&frame(ip.clone(), L4::Other(132), 15)), DropReason::TruncatedSctp);
        assert_eq!(refusal(&frame(ip, L4::Other(icmp), 7)), DropReason::TruncatedIcmp);
    }
}

#[test]
fn first_fragment_speaks_of_the_whole_datagram() {
    let udp = changed(frame(v4_fragment(0, true), udp(), 32), 38, &[0x10, 0]);
    assert_eq!(headers(&udp).dport, 2018);
    let options_in_the_next = changed(frame(v4_fragment(0, true), tcp(), 4), 46, &[0xf0]);
    assert_eq!(headers(&options_in_the_next).dport, 2018);
    assert_eq!(refusal(&frame(v4_fragment(0, true), L4::Other(6), 16)), DropReason::TruncatedTcp);
}

#[test]
fn icmp_errors_are_told_from_questions() {
    for (ip, kind, is_error) in [
        (v4(), 0, false),
        (v4(), 3, true),
        (v4(), 8, false),
        (v4(), 11, true),
        (v4(), 12, true),
        (v6(), 1, true),
        (v6(), 4, true),
        (v6(), 128, false),
        (v6(), 135, false),
    ] {
        let headers = headers(&frame(ip, L4::Icmp { kind, code: 0 }, 40));
        assert_eq!((headers.icmp_type, headers.is_icmp_error()), (kind, is_error));
    }
    assert!(!headers(&frame(v6(), L4::Other(1), 40)).is_icmp_error());
}

fn any_recipe() -> impl Strategy<Value = Recipe> {
    let unicast4 = any::<[u8; 4]>().prop_map(|mut a| {
        a[0] = 1 + a[0] % 120;
        a
    });
    let unicast6 = any::<[u8; 16]>().prop_map(|mut a| {
        a[0] = 0x20;
        a
    });
    let options = prop_oneof![
        4 => Just(vec![]),
        1 => Just(vec![1, 1, 1, 0]),
        1 => Just(vec![7, 7, 4, 0, 0, 0, 0, 0]),
    ];
    let v4 = (unicast4.clone(), unicast4, options, any::<bool>(), any::<bool>(), 0u16..3).prop_map(
        |(src, dst, options, dont_fragment, more, offset)| Ip::V4 {
            src,
            dst,
            options,
            dont_fragment,
            more: more && offset > 0,
            offset: offset.saturating_sub(1) * 1480,
        },
    );
    let extensions = (
        any::<bool>(),
        any::<bool>(),
        proptest::option::of(0u8..5),
        proptest::option::of((0u16..3, any::<bool>())),
    )
        .prop_map(|(hop_by_hop, destination, routing, fragment)| Extensions {
            hop_by_hop,
            destination,
            routing,
            fragment: fragment.map(|(n, more)| (n * 1480, more)),
        });
    let v6 = (unicast6.clone(), unicast6, extensions).prop_map(|(src, dst, extensions)| Ip::V6 {
        src,
        dst,
        extensions,
    });
    let l4 = prop_oneof![
        4 => (any::<u16>(), any::<u16>(), 0u8..64, 0usize..11)
            .prop_map(|(sport, dport, flags, options)| L4::Tcp { sport, dport, flags, options }),
        4 => (any::<u16>(), any::<u16>()).prop_map(|(sport, dport)| L4::Udp { sport, dport }),
        2 => (any::<u16>(), any::<u16>(), any::<u8>())
            .prop_map(|(sport, dport, chunk)| L4::Sctp { sport, dport, chunk }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(kind, code)| L4::Icmp { kind, code }),
        1 => Just(L4::Other(47)),
    ];
    let vlans = proptest::collection::vec(1u16..4095, 0..3);
    (vlans, prop_oneof![2 => v4, 1 => v6], l4, 1usize..150, 0usize..20).prop_map(
        |(vlans, ip, l4, len, padding)| {
            // All but the last fragment are multiples of 8 bytes long, the transport header included.
            let odd = matches!(l4, L4::Tcp { options, .. } if options % 2 == 0);
            let payload = vec![0x64; len * 8 + usize::from(odd) * 4];
            Recipe { vlans, ip, l4, payload, padding }
        },
    )
}

/// Reads a frame by etherparse and compares what both found.
fn compare_with_etherparse(frame: &[u8]) {
    let ours = headers(frame);
    let theirs = SlicedPacket::from_ethernet(frame).unwrap();
    let ids: Vec<u16> = theirs.vlan_ids().iter().map(|id| id.value()).collect();
    assert_eq!([ours.vlan, ours.inner_vlan].iter().copied().filter(|id| *id != 0).collect::<Vec<_>>(), ids);
    let payload = theirs.ip_payload().unwrap();
    let at = payload.payload.as_ptr().addr() - frame.as_ptr().addr();
    match theirs.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header();
            assert!(!ours.is_ipv6);
            assert_eq!((ours.src, ours.dst), (ip.source_addr().into(), ip.destination_addr().into()));
            assert_eq!(ours.source(frame), ip.source_addr());
            assert_eq!((ours.ip_len, ours.ttl), (ip.total_len().into(), ip.ttl()));
            assert_eq!(ours.fragment_offset, ip.fragments_offset().byte_offset());
            assert_eq!(ours.dont_fragment, ip.dont_fragment());
        }
        NetSlice::Ipv6(ip) => {
            assert!(ours.is_ipv6);
            assert_eq!(ours.source(frame), ip.header().source_addr());
            assert_eq!(ours.destination(frame), ip.header().destination_addr());
            assert_eq!(
                (ours.ip_len, ours.ttl),
                (u32::from(ip.header().payload_length()) + 40, ip.header().hop_limit())
            );
        }
        NetSlice::Arp(_) => panic!("no ARP was built"),
    }
    assert_eq!(ours.fragment != Fragment::None, payload.fragmented);
    assert_eq!(
        (usize::from(ours.l4), ours.l4_len(), ours.protocol.0),
        (at, payload.payload.len(), payload.ip_number.0)
    );
    match theirs.transport.as_ref() {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = u8::from(tcp.fin())
                | u8::from(tcp.syn()) << 1
                | u8::from(tcp.rst()) << 2
                | u8::from(tcp.psh()) << 3
                | u8::from(tcp.ack()) << 4
                | u8::from(tcp.urg()) << 5;
            assert_eq!((ours.sport, ours.dport), (tcp.source_port(), tcp.destination_port()));
            assert_eq!(ours.tcp_flags, flags);
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!((ours.sport, ours.dport), (udp.source_port(), udp.destination_port()));
        }
        Some(TransportSlice::Icmpv4(icmp)) => assert_eq!(ours.icmp_type, icmp.type_u8()),
        Some(TransportSlice::Icmpv6(icmp)) => assert_eq!(ours.icmp_type, icmp.type_u8()),
        // Etherparse reads no SCTP.
        _ if ours.protocol == Protocol::SCTP && ours.fragment != Fragment::Later => {
            let at = usize::from(ours.l4);
            let ports = u32::from(ours.sport) << 16 | u32::from(ours.dport);
            assert_eq!(ports.to_be_bytes(), frame[at..at + 4]);
        }
        // A first fragment: etherparse reads no ports from one.
        _ if ours.fragment == Fragment::First => {}
        _ => assert_eq!((ours.sport, ours.dport, ours.icmp_type), (0, 0, 0)),
    }
}

/// The straight line and the general reader say the same of any bytes.
fn compare_readers(frame: &[u8], frame_len: usize) {
    for said in [RxChecksum::Unknown, RxChecksum::Good, RxChecksum::Bad] {
        let thorough = general(frame, frame_len, said);
        if let Some(headers) = parse_plain(frame, frame_len, said) {
            assert_eq!(thorough, Ok(Parsed::Ip(headers)));
        }
        assert_eq!(parse(frame, frame_len, said), thorough);
        let mut headers = Headers::default();
        let (found, expected) = match thorough {
            Ok(Parsed::Ip(headers)) => (Ok(true), headers),
            Ok(Parsed::Other) => (Ok(false), headers),
            Err(reason) => (Err(reason), headers),
        };
        assert_eq!((parse_into(&mut headers, frame, frame_len, said), headers), (found, expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn valid_packets_are_read_as_etherparse_reads_them(recipe in any_recipe()) {
        let frame = recipe.build();
        compare_with_etherparse(&frame);
        compare_readers(&frame, frame.len());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), more in 0usize..3000) {
        compare_readers(&bytes, bytes.len() + more);
    }

    #[test]
    fn no_mutation_makes_it_panic(
        recipe in any_recipe(),
        cut in any::<proptest::sample::Index>(),
        is_cut: bool,
        changes in proptest::collection::vec((0usize..120, any::<u8>()), 0..5),
    ) {
        let mut frame = recipe.build();
        for (at, byte) in changes {
            let at = at % frame.len();
            frame[at] = byte;
        }
        if is_cut {
            frame.truncate(cut.index(frame.len()));
        }
        compare_readers(&frame, frame.len());
        if let Ok(Parsed::Ip(headers)) = parse(&frame, frame.len(), RxChecksum::Good) {
            assert!(headers.end() <= frame.len() && usize::from(headers.l4) <= headers.end());
        }
    }
}
