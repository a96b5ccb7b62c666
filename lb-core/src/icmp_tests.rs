use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::ids::PortId;
use crate::packet::Frame;
use crate::wire::testing::{
    self, CLIENT, CLIENT6, Ip, L4, Recipe, VIP, VIP6, frame, headers, recipe, recorded, tcp, udp,
};

fn packet(frame: &[u8]) -> Frame {
    Frame::new(PortId(0), frame)
}

/// The error about `frame`.
fn error_about(frame: &[u8], problem: Problem, source: IpAddr) -> Vec<u8> {
    let mut packet = packet(frame);
    make_error(&mut packet, &headers(frame), problem, source).unwrap();
    packet.data().to_vec()
}

fn vip() -> IpAddr {
    Ipv4Addr::from(VIP).into()
}

/// Without what the kernel draws for each packet: the identification, and with it the header's checksum.
fn without_id(mut frame: Vec<u8>) -> Vec<u8> {
    frame[18..20].fill(0);
    frame[24..26].fill(0);
    frame
}

/// Decrements the TTL, as forwarding does.
fn forwarded(mut frame: Vec<u8>) -> Vec<u8> {
    ipv4::decrement_ttl(ipv4::header_mut(&mut frame, 14).unwrap());
    frame
}

#[test]
fn port_unreachable_is_as_recorded() {
    for name in ["SYN", "UDP"] {
        let step = recorded("no-server", name);
        let ours = error_about(&step.frame("c0", "out"), Problem::PortUnreachable, vip());
        assert_eq!(headers(&ours).protocol, Protocol::ICMP, "the header's checksum is good");
        assert_eq!(without_id(ours), without_id(step.frame("c0", "in")), "{name}");
    }
}

#[test]
fn ipv6_port_unreachable_is_as_recorded() {
    let step = recorded("nat-ipv6", "connect with no server");
    let ours = error_about(&step.frame("c0", "out"), Problem::PortUnreachable, VIP6.into());
    let mut recorded = step.frame("c0", "in");
    // The kernel draws a flow label.
    recorded[14..18].copy_from_slice(&[0x60, 0, 0, 0]);
    assert_eq!(ours, recorded);
}

#[test]
fn fragmentation_needed_is_as_recorded() {
    let step = recorded("nat-mtu", "1400-byte packet with DF");
    let mut sent = step.frame("c0", "out");
    // Only the first 160 bytes were recorded: the rest is more of the same.
    let fill = sent[159];
    sent.resize(1414, fill);
    let ours = error_about(&forwarded(sent), Problem::TooBig { mtu: 1300 }, vip());
    assert_eq!(ours.len(), 14 + 576);
    assert_eq!(without_id(ours[..160].to_vec()), without_id(step.frame("c0", "in")));
}

#[test]
fn errors_from_behind_are_translated_as_recorded() {
    for name in
        ["frag-needed from behind the director about client->server packet", "time-exceeded from behind"]
    {
        let step = recorded("icmp-mapping", name);
        let mut frame = step.frame("r0", "out");
        let (found, expected) = (headers(&frame), step.frame("c0", "in"));
        assert!(is_translatable(&found));
        let quoted = embedded(&frame, &found).unwrap();
        assert_eq!((quoted.protocol, quoted.sport, quoted.dport), (Protocol::TCP, 4901, 8080));
        assert_eq!((quoted.src, quoted.dst), ([172, 20, 10, 1].into(), [10, 2, 0, 11].into()));
        translate(&mut frame, &found, &quoted, End::Source, vip(), 2020).unwrap();
        assert_eq!(forwarded(frame)[14..], expected[14..], "{name}");
    }
}

#[test]
fn errors_from_the_front_are_translated_as_recorded() {
    let step = recorded(
        "icmp-mapping",
        "frag-needed from a router between client and director about server->client packet",
    );
    let mut frame = step.frame("c0", "out");
    let found = headers(&frame);
    let quoted = embedded(&frame, &found).unwrap();
    assert_eq!((quoted.src, quoted.sport, quoted.dport), (vip(), 2020, 4901));
    translate(&mut frame, &found, &quoted, End::Destination, [10, 2, 0, 11].into(), 8080).unwrap();
    assert_eq!(forwarded(frame)[14..], step.frame("r0", "in")[14..]);
}

#[test]
fn quoted_udp_is_what_the_client_sent() {
    let step = recorded("icmp-mapping", "UDP to closed port on real server");
    let mut frame = step.frame("r0", "out");
    let found = headers(&frame);
    let quoted = embedded(&frame, &found).unwrap();
    translate(&mut frame, &found, &quoted, End::Source, vip(), 2020).unwrap();
    let ours = forwarded(frame);
    let at = usize::from(quoted.l4) + udp::CHECKSUM;
    // The kernel leaves the checksum that the real server saw; ours is the client's own.
    let mut expected = step.frame("c0", "in");
    let theirs = be16(expected[at], expected[at + 1]);
    let sent = step.frame("c0", "out");
    expected[at..at + 2].copy_from_slice(&sent[40..42]);
    let checksum = Delta::word(theirs, be16(sent[40], sent[41])).apply(be16(expected[36], expected[37]));
    expected[36..38].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(ours[14..], expected[14..]);
}

#[test]
fn long_packets_are_quoted_in_part() {
    let v4 = error_about(&frame(testing::v4(), udp(), 3000), Problem::HostUnreachable, vip());
    assert_eq!((v4.len(), headers(&v4).ip_len), (14 + 576, 576));
    let v6 = error_about(&frame(testing::v6(), udp(), 3000), Problem::TooBig { mtu: 1400 }, VIP6.into());
    assert_eq!((v6.len(), headers(&v6).ip_len), (14 + 1280, 1280));
    assert_eq!(v6[54..62], [2, 0, v6[56], v6[57], 0, 0, 5, 120]);
    assert!(embedded(&v4, &headers(&v4)).is_ok() && embedded(&v6, &headers(&v6)).is_ok());
}

#[test]
fn each_problem_has_its_type_and_code() {
    let about = |ip, at: usize, problem| {
        let source = if at == 34 { vip() } else { VIP6.into() };
        let error = error_about(&frame(ip, udp(), 30), problem, source);
        (error[at], error[at + 1])
    };
    for (problem, v4, v6) in [
        (Problem::NetUnreachable, (3, 0), (1, 0)),
        (Problem::HostUnreachable, (3, 1), (1, 3)),
        (Problem::PortUnreachable, (3, 3), (1, 4)),
        (Problem::Prohibited, (3, 13), (1, 1)),
        (Problem::BeyondScope, (3, 0), (1, 2)),
        (Problem::TooBig { mtu: 1400 }, (3, 4), (2, 0)),
        (Problem::TimeExceeded, (11, 0), (3, 0)),
    ] {
        assert_eq!(about(testing::v4(), 34, problem), v4);
        assert_eq!(about(testing::v6(), 54, problem), v6);
    }
}

#[test]
fn error_goes_back_through_the_same_vlan() {
    let sent = Recipe { vlans: vec![7], padding: 9, ..recipe(testing::v4(), udp(), 5) }.build();
    let error = error_about(&sent, Problem::TimeExceeded, vip());
    assert_eq!(error[..12], [testing::CLIENT_MAC, testing::OUR_MAC].concat());
    assert_eq!((headers(&error).vlan, headers(&error).dst), (7, u32::from_be_bytes(CLIENT)));
    assert_eq!(error.len(), 18 + 28 + 33, "padding is not quoted");
}

#[test]
fn some_packets_get_no_error() {
    let between =
        |src, dst| Ip::V4 { src, dst, options: vec![], dont_fragment: false, more: false, offset: 0 };
    let fragment =
        Ip::V4 { src: CLIENT, dst: VIP, options: vec![], dont_fragment: false, more: false, offset: 1480 };
    let v6_between = |src, dst| Ip::V6 { src, dst, extensions: Default::default() };
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut broadcast = frame(testing::v4(), udp(), 30);
    broadcast[..6].fill(0xff);
    for (frame, source) in [
        (frame(testing::v4(), L4::Icmp { kind: 3, code: 3 }, 40), vip()),
        (frame(testing::v6(), L4::Icmp { kind: 1, code: 4 }, 40), VIP6.into()),
        (frame(testing::v6(), L4::Icmp { kind: 137, code: 0 }, 40), VIP6.into()),
        (frame(between(CLIENT, [224, 0, 0, 5]), udp(), 40), vip()),
        (frame(between(CLIENT, [255; 4]), udp(), 40), vip()),
        (frame(between([0; 4], [255; 4]), udp(), 40), vip()),
        (frame(v6_between([0; 16], all_nodes), udp(), 40), VIP6.into()),
        (frame(v6_between(CLIENT6, all_nodes), udp(), 40), VIP6.into()),
        (frame(fragment, L4::Other(17), 40), vip()),
        (broadcast, vip()),
        (frame(testing::v4(), udp(), 40), VIP6.into()),
        (frame(testing::v6(), udp(), 40), vip()),
    ] {
        let mut packet = packet(&frame);
        let outcome = make_error(&mut packet, &headers(&frame), Problem::PortUnreachable, source);
        assert_eq!((outcome, packet.data()), (Err(NoError::Forbidden), &frame[..]));
    }
    let question = frame(testing::v4(), L4::Icmp { kind: 8, code: 0 }, 40);
    assert!(may_answer(&question, &headers(&question)));
}

#[test]
fn without_headroom_there_is_no_error() {
    let frame = frame(testing::v4(), udp(), 40);
    let mut packet = packet(&[&[0; 9], &frame[..]].concat());
    packet.move_start(9).unwrap();
    while packet.move_start(-1).is_ok() {}
    let tight = packet.frame_len() - frame.len();
    packet.data_mut()[..frame.len()].copy_from_slice(&frame);
    packet.set_len(frame.len()).unwrap();
    assert!(tight > 28, "the buffer had headroom until it was used up");
    let outcome = make_error(&mut packet, &headers(&frame), Problem::PortUnreachable, vip());
    assert_eq!((outcome, packet.data()), (Err(NoError::NoRoom), &frame[..]));
}

#[test]
fn unreadable_errors_are_refused() {
    let error = error_about(&frame(testing::v4(), tcp(), 30), Problem::TimeExceeded, vip());
    let found = headers(&error);
    let reason = |at: usize, byte: u8| {
        let mut error = error.clone();
        error[at] = byte;
        refill(&mut error);
        embedded(&error, &headers(&error)).err()
    };
    let mut flipped = error.clone();
    flipped[60] ^= 1;
    assert_eq!(embedded(&flipped, &found), Err(DropReason::BadIcmpChecksum));
    assert_eq!(reason(42, 0x45), None);
    assert_eq!(reason(42, 0x65), Some(DropReason::BadIcmpPayload), "version");
    assert_eq!(reason(42, 0x44), Some(DropReason::BadIcmpPayload), "header length");
    assert_eq!(reason(49, 1), Some(DropReason::BadIcmpPayload), "later fragment");
    assert_eq!(reason(17, 20 + 8 + 27), Some(DropReason::BadIcmpPayload), "less than 8 bytes of TCP");
    assert_eq!(reason(17, 20 + 8 + 28), None, "8 bytes of TCP");
}

/// Writes both outer checksums of an untagged error anew.
fn refill(error: &mut [u8]) {
    if error[14] >> 4 == 4 {
        testing::reseal(error);
    }
    let found = headers(error);
    let at = usize::from(found.l4) + 2;
    error[at..at + 2].fill(0);
    let sum = checksum::finish(checksum::of_transport(error, &found).unwrap());
    error[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn redirects_are_not_translated() {
    for (ip, kind, expected) in [
        (testing::v4(), 3, true),
        (testing::v4(), 4, true),
        (testing::v4(), 5, false),
        (testing::v4(), 8, false),
        (testing::v4(), 11, true),
        (testing::v4(), 12, true),
        (testing::v6(), 1, true),
        (testing::v6(), 2, true),
        (testing::v6(), 3, true),
        (testing::v6(), 4, true),
        (testing::v6(), 5, true),
        (testing::v6(), 100, true),
        (testing::v6(), 137, false),
    ] {
        assert_eq!(is_translatable(&headers(&frame(ip, L4::Icmp { kind, code: 0 }, 40))), expected, "{kind}");
    }
}

#[test]
fn rate_is_limited_as_by_linux() {
    let start = Tick(u32::MAX - 1);
    let mut limit = RateLimit::new(RateLimit::ICMP_PER_SECOND, RateLimit::ICMP_BURST, start);
    let mut sent = |now, tries| (0..tries).filter(|_| limit.allow(now)).count();
    assert_eq!(sent(start, 100), 50, "the burst");
    assert_eq!(sent(Tick(u32::MAX), 100), 10, "a hundredth of a second, 1000 a second");
    assert_eq!(sent(Tick(2), 100), 30, "across the wrap");
    assert_eq!(sent(Tick(50_000), 100), 50, "no more than the burst is saved");
    let mut slow = RateLimit::new(1, 1, Tick(0));
    assert_eq!((0..1000).filter(|n| slow.allow(Tick(*n))).count(), 10, "one a second");
}

fn a_quoted_packet() -> impl Strategy<Value = Vec<u8>> {
    let ip = prop_oneof![
        Just(testing::v4()),
        Just(testing::v6()),
        Just(Ip::V4 {
            src: CLIENT,
            dst: VIP,
            options: vec![1; 4],
            dont_fragment: false,
            more: false,
            offset: 0
        }),
        Just(Ip::V6 {
            src: CLIENT6,
            dst: VIP6,
            extensions: testing::Extensions {
                hop_by_hop: true,
                fragment: Some((0, true)),
                ..Default::default()
            },
        }),
    ];
    let l4 = prop_oneof![Just(udp()), Just(testing::L4::Tcp { sport: 1, dport: 2, flags: 16, options: 1 })];
    (ip, l4, 1usize..200, any::<[u8; 2]>()).prop_map(|(ip, l4, len, salt)| {
        let mut payload = vec![0x64; len * 8];
        payload[..2].copy_from_slice(&salt);
        Recipe { payload, ..recipe(ip, l4, 0) }.build()
    })
}

proptest! {
    #[test]
    fn translation_keeps_every_checksum_right_and_can_be_undone(
        sent in a_quoted_packet(),
        cut in 8usize..60,
        v4: [u8; 4],
        v6: [u8; 16],
        port: u16,
        is_source: bool,
    ) {
        let inner = headers(&sent);
        let source: IpAddr = if inner.is_ipv6 { VIP6.into() } else { vip() };
        let mut error = error_about(&sent, Problem::HostUnreachable, source);
        // Routers quote as little as 8 bytes of the transport header.
        let found = headers(&error);
        let quoted = embedded(&error, &found).unwrap();
        prop_assert_eq!((quoted.src, quoted.dst), (inner.source(&sent), inner.destination(&sent)));
        prop_assert_eq!((quoted.protocol, quoted.sport, quoted.dport), (inner.protocol, inner.sport, inner.dport));
        error.truncate(usize::from(quoted.l4) + cut);
        let len = error.len() - usize::from(found.l3);
        if found.is_ipv6 {
            error[18..20].copy_from_slice(&(len as u16 - 40).to_be_bytes());
        } else {
            error[16..18].copy_from_slice(&(len as u16).to_be_bytes());
        }
        refill(&mut error);

        let found = headers(&error);
        let (end, old_port) = if is_source { (End::Source, quoted.dport) } else { (End::Destination, quoted.sport) };
        let address: IpAddr = if found.is_ipv6 { v6.into() } else { v4.into() };
        let before = error.clone();
        translate(&mut error, &found, &quoted, end, address, port).unwrap();
        let after = embedded(&error, &found).unwrap();
        let l3 = usize::from(found.l3);
        let outer: (IpAddr, IpAddr) = if found.is_ipv6 {
            let ip = ipv6::header(&error, l3).unwrap();
            (ipv6::source(ip).into(), ipv6::destination(ip).into())
        } else {
            let ip = ipv4::header(&error, l3).unwrap();
            (ipv4::source(ip).to_be_bytes().into(), ipv4::destination(ip).to_be_bytes().into())
        };
        prop_assert_eq!(outer.0, if is_source { address } else { found.source(&before) });
        prop_assert_eq!(outer.1, if is_source { found.destination(&before) } else { address });
        if is_source {
            prop_assert_eq!((after.dst, after.dport, after.src), (address, port, quoted.src));
        } else {
            prop_assert_eq!((after.src, after.sport, after.dst), (address, port, quoted.dst));
        }
        let mut refilled = error.clone();
        if !found.is_ipv6 {
            testing::reseal(&mut refilled);
            let at = usize::from(quoted.l3);
            ipv4::fill_checksum(&mut refilled[at..usize::from(quoted.l4)]);
        }
        prop_assert_eq!(&refilled, &error, "both IP headers' checksums");
        let outer = if is_source { source } else { inner.source(&sent) };
        let inner_end = if is_source { quoted.dst } else { quoted.src };
        prop_assert_eq!(outer, inner_end);
        translate(&mut error, &found, &after, end, outer, old_port).unwrap();
        prop_assert_eq!(error, before);
    }

    #[test]
    fn no_bytes_make_it_panic(
        sent in a_quoted_packet(),
        changes in proptest::collection::vec((0usize..160, any::<u8>()), 1..6),
        len in 0usize..200,
    ) {
        let source: IpAddr = if headers(&sent).is_ipv6 { VIP6.into() } else { vip() };
        let good = error_about(&sent, Problem::TimeExceeded, source);
        let (found, quoted) = (headers(&good), embedded(&good, &headers(&good)).unwrap());
        let mut bad = good.clone();
        for (at, byte) in changes {
            let at = at % bad.len();
            bad[at] = byte;
        }
        bad.truncate(len);
        // Headers of another packet, and a frame that is shorter than they say.
        let _ = translate(&mut bad, &found, &quoted, End::Source, source, 1);
        let _ = make_error(&mut packet(&bad), &headers(&sent), Problem::TimeExceeded, source);
        if embedded(&bad, &found).is_ok() {
            let again = embedded(&bad, &found).unwrap();
            let _ = translate(&mut bad, &found, &again, End::Destination, source, 1);
        }
    }
}
