//! SCTP: associations through the director, their states, and checksums that follow the ports.

use super::shared::{changed, take_over};
use super::*;
use crate::path::Taken;
use crate::tables::Tunnel;
use crate::wire::crc32c::tests::slow as crc32c;
use crate::wire::sctp::*;
use crate::wire::testing;

const DATA: u8 = 0;
const VIP: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";

/// SCTP port 80 of both families, on one real server each, port `port`.
fn by(generation: u32, forward: Forward, port: u16) -> Tables {
    let service = |(id, (vip, server)): (u32, (&str, &str))| {
        let server = Server::new(ServerId(id), (ip(server), port), 1, forward);
        let key = ServiceKey::new(Protocol::SCTP, ip(vip), 80);
        Arc::new(Service::new(None, ServiceId(id), key, SchedulerKind::Rr, vec![server], generation))
    };
    let services = Services::new((0..).zip([(VIP, "10.0.0.11"), (VIP6, "fd00::11")]).map(service));
    Tables { services: services.into(), ..tables(generation, &[11], 1) }
}

fn director(forward: Forward, port: u16) -> Director {
    let mut director = Director::new();
    director.path.adopt(by(2, forward, port).into());
    director
}

/// A packet of these chunks, each with `len` bytes of value, with the checksum that RFC 9260 wants.
fn sctp(macs: (Mac, Mac), from: (&str, u16), to: (&str, u16), chunks: &[u8], len: usize) -> Vec<u8> {
    let mut packet = [from.1.to_be_bytes(), to.1.to_be_bytes(), [1, 2], [3, 4]].concat();
    packet.extend([0; 4]);
    for chunk in chunks {
        packet.extend([*chunk, 0]);
        packet.extend((len as u16 + 4).to_be_bytes());
        packet.extend((0..len.next_multiple_of(4)).map(|n| n as u8));
    }
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let builder = match (ip(from.0), ip(to.0)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, etherparse::IpNumber::SCTP, &packet).unwrap();
    frame
}

fn from_client(chunks: &[u8]) -> Vec<u8> {
    sctp(C2D, ("192.0.2.100", 4000), (VIP, 80), chunks, 16)
}

fn from_server(chunks: &[u8]) -> Vec<u8> {
    sctp((server_mac(11), OUR_LAN), ("10.0.0.11", 8080), ("192.0.2.100", 4000), chunks, 16)
}

/// The packet's ends and whether its checksum is right.
fn read(frame: &[u8]) -> ((IpAddr, u16), (IpAddr, u16), bool) {
    let headers = testing::headers(frame);
    let (l4, end) = (usize::from(headers.l4), headers.end());
    let mut packet = frame[l4..end].to_vec();
    packet[8..12].fill(0);
    let is_right = crc32c(&packet).to_le_bytes() == frame[l4 + 8..l4 + 12];
    ((headers.source(frame), headers.sport), (headers.destination(frame), headers.dport), is_right)
}

/// The fragments of a frame, each of at most 64 bytes of data.
fn fragments(frame: &[u8]) -> Vec<Vec<u8>> {
    let headers = testing::headers(frame);
    let l4 = usize::from(headers.l4);
    let data = &frame[l4..headers.end()];
    let parts: Vec<_> = data.chunks(64).enumerate().collect();
    let last = parts.len() - 1;
    let fragment = |&(n, part): &(usize, &[u8])| {
        let (offset, more) = ((n * 8) as u16, n < last);
        let mut header = frame[14..l4].to_vec();
        if headers.is_ipv6 {
            header[4..6].copy_from_slice(&(part.len() as u16 + 8).to_be_bytes());
            let kind = std::mem::replace(&mut header[6], 44);
            header.extend([kind, 0]);
            header.extend((offset << 3 | u16::from(more)).to_be_bytes());
            header.extend([0, 0, 0, 7]);
        } else {
            header[2..4].copy_from_slice(&(part.len() as u16 + 20).to_be_bytes());
            header[6..8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
        }
        let mut fragment = [&frame[..14], &header, part].concat();
        if !headers.is_ipv6 {
            testing::reseal(&mut fragment);
        }
        fragment
    };
    parts.iter().map(fragment).collect()
}

/// What a receiver makes of fragments in any order: the packet behind the IP header.
fn reassembled(out: &Out) -> Vec<u8> {
    let mut parts: Vec<_> = out
        .sent
        .iter()
        .map(|(_, frame)| {
            let headers = testing::headers(frame.data());
            let data = &frame.data()[usize::from(headers.l4)..headers.end()];
            (headers.fragment_offset, data.to_vec())
        })
        .collect();
    parts.sort();
    parts.into_iter().flat_map(|(_, data)| data).collect()
}

#[test]
fn an_association_goes_into_the_other_family_and_back_in_fragments_too() {
    let ends =
        [(VIP, "192.0.2.100", "fd00::11", "fd00::1"), (VIP6, "2001:db8::100", "10.0.0.11", "10.0.0.1")];
    for (vip, client, server, own) in ends {
        let tables = by(2, Forward::FullNat, 8080);
        let services = tables.services.iter().map(|service| {
            let mut service = Service::clone(service);
            service.servers[0].address =
                ip(if service.key.address.is_ipv6() { "10.0.0.11" } else { "fd00::11" });
            Arc::new(service)
        });
        let services = Services::new(services.collect::<Vec<_>>());
        let mut director = Director::new();
        director.path.adopt(Tables { services: services.into(), ..tables }.into());
        let init = director.receive(WAN, &[sctp(C2D, (client, 4000), (vip, 80), &[INIT], 16)]);
        let (local, to, is_right) = read(init.sent[0].1.data());
        assert_eq!((local.0, to, is_right), (ip(own), (ip(server), 8080), true));
        let macs = (server_mac(11), OUR_LAN);
        let back = director.receive(LAN, &[sctp(macs, (server, 8080), (own, local.1), &[INIT_ACK], 16)]);
        assert_eq!(read(back.sent[0].1.data()), ((ip(vip), 80), (ip(client), 4000), true));
        let whole = sctp(C2D, (client, 4000), (vip, 80), &[DATA], 150);
        let out = director.receive(WAN, &fragments(&whole));
        assert_eq!(out.sent.len(), 3);
        let mut packet = reassembled(&out);
        let sealed: [u8; 4] = packet[8..12].try_into().unwrap();
        packet[8..12].fill(0);
        assert_eq!(crc32c(&packet).to_le_bytes(), sealed);
    }
}

#[test]
fn an_association_is_translated_both_ways_and_counts_as_active_once_established() {
    for (vip, client, server) in [(VIP, "192.0.2.100", "10.0.0.11"), (VIP6, "2001:db8::100", "fd00::11")] {
        let mut director = director(Forward::Masq, 8080);
        let mut go = |is_client: bool, chunk, state, active| {
            let frame = if is_client {
                sctp(C2D, (client, 4000), (vip, 80), &[chunk], 16)
            } else {
                sctp((server_mac(11), OUR_LAN), (server, 8080), (client, 4000), &[chunk], 16)
            };
            let out = director.receive(if is_client { WAN } else { LAN }, &[frame]);
            let expected = if is_client {
                ((ip(client), 4000), (ip(server), 8080), true)
            } else {
                ((ip(vip), 80), (ip(client), 4000), true)
            };
            assert_eq!(read(out.sent[0].1.data()), expected);
            assert_eq!(director.states(), [state]);
            let cell = director.counters[0].server(ServerId(u32::from(ip(vip).is_ipv6())));
            assert_eq!((cell.active.get(), cell.inactive.get()), (active, 1 - active), "in {state}");
        };
        go(true, INIT, "INIT1", 0);
        go(false, INIT_ACK, "C-SENT", 0);
        go(true, COOKIE_ECHO, "C-REPLIED", 0);
        go(false, COOKIE_ACK, "ESTABLISHED", 1);
        go(true, DATA, "ESTABLISHED", 1);
        go(true, SHUTDOWN, "S-RECEIVED", 0);
        go(false, SHUTDOWN_ACK, "S-ACK-SENT", 0);
        go(true, SHUTDOWN_COMPLETE, "CLOSED", 0);
        go(true, INIT, "INIT1", 0);
        assert_eq!(director.counters[0].flows.inserted.get(), 2, "a new INIT is a new connection");
        director.path.check_connections().unwrap();
    }
}

#[test]
fn the_time_of_a_connection_goes_by_its_state() {
    let mut director = director(Forward::Masq, 8080);
    director.receive(WAN, &[from_client(&[INIT])]);
    director.now = Tick(100 + 420);
    director.turn();
    assert_eq!(director.states(), [""; 0], "after four seconds without an answer");
    director.receive(WAN, &[from_client(&[INIT])]);
    director.receive(LAN, &[from_server(&[INIT_ACK])]);
    director.now = Tick(520 + 6000);
    director.turn();
    assert_eq!(director.states(), ["C-SENT"]);
}

#[test]
fn an_abort_behind_a_cookie_counts() {
    let mut director = director(Forward::Masq, 8080);
    director.receive(WAN, &[from_client(&[INIT])]);
    director.receive(LAN, &[from_server(&[INIT_ACK])]);
    director.receive(WAN, &[from_client(&[COOKIE_ECHO, ABORT])]);
    assert_eq!(director.states(), ["CLOSED"]);
    director.receive(WAN, &[from_client(&[INIT])]);
    director.receive(LAN, &[from_server(&[DATA, ABORT])]);
    assert_eq!(director.states(), ["INIT1"], "behind anything else it does not");
}

#[test]
fn only_an_init_begins_a_connection() {
    for chunk in [DATA, INIT_ACK, COOKIE_ECHO, ABORT, SHUTDOWN_ACK] {
        let mut director = director(Forward::Masq, 8080);
        let out = director.receive(WAN, &[from_client(&[chunk])]);
        assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1), "chunk {chunk}: Linux answers");
        assert_eq!(director.states(), [""; 0]);
    }
}

#[test]
fn with_sloppy_sctp_any_chunk_begins_a_connection() {
    for chunk in [DATA, INIT_ACK, COOKIE_ECHO, ABORT, SHUTDOWN_ACK] {
        let mut director = director(Forward::Masq, 8080);
        let mut tables = Tables::clone(&director.path.tables);
        tables.generation += 1;
        tables.settings.sysctls.sloppy_sctp = 1;
        director.path.adopt(tables.into());
        let out = director.receive(WAN, &[from_client(&[chunk])]);
        assert_eq!((out.sent.len(), out.to_twin.len()), (1, 0), "chunk {chunk}");
        assert_eq!(director.states().len(), 1, "chunk {chunk}");
    }
}

#[test]
fn a_wrong_checksum_stays_wrong_by_as_much() {
    let mut director = director(Forward::Masq, 8080);
    let mut frame = from_client(&[INIT]);
    frame[14 + 20 + 9] ^= 0x10;
    let out = director.receive(WAN, &[frame]);
    let mut frame = out.sent[0].1.data().to_vec();
    assert!(!read(&frame).2);
    frame[14 + 20 + 9] ^= 0x10;
    assert!(read(&frame).2);
}

#[test]
fn direct_routing_and_tunnels_leave_the_packet_as_it_is() {
    for forward in [Forward::Direct, Forward::Tunnel(Tunnel::Ipip)] {
        let mut director = director(forward, 80);
        for (chunk, state) in [
            (INIT, "INIT1"),
            (COOKIE_ECHO, "ESTABLISHED"),
            (SHUTDOWN, "S-RECEIVED"),
            (SHUTDOWN_COMPLETE, "CLOSED"),
            (INIT, "INIT1"),
        ] {
            let sent = from_client(&[chunk]);
            let out = director.receive(WAN, std::slice::from_ref(&sent));
            let frame = out.sent[0].1.data();
            assert_eq!(frame[frame.len() - (sent.len() - 34)..], sent[34..]);
            assert_eq!(director.states(), [state]);
        }
        director.path.check_connections().unwrap();
    }
}

#[test]
fn fragments_of_either_family_in_any_order_make_up_the_packet_with_its_checksum() {
    for (vip, client) in [(VIP, "192.0.2.100"), (VIP6, "2001:db8::100")] {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
            let mut director = director(Forward::Masq, 8080);
            let packet = |chunk| sctp(C2D, (client, 4000), (vip, 80), &[chunk], 140);
            director.receive(WAN, &[packet(INIT)]);
            let fragments = fragments(&packet(DATA));
            assert_eq!(fragments.len(), 3);
            let out = director.receive(WAN, &order.map(|n| fragments[n].clone()));
            assert_eq!(out.sent.len(), 3, "{order:?}");
            let mut packet = reassembled(&out);
            assert_eq!(packet[2..4], 8080u16.to_be_bytes());
            let checksum = [packet[8], packet[9], packet[10], packet[11]];
            packet[8..12].fill(0);
            assert_eq!(crc32c(&packet).to_le_bytes(), checksum, "{order:?}");
        }
    }
}

#[test]
fn a_first_fragment_waits_for_the_last_one_only_when_a_port_changes_and_not_for_long() {
    let big = |chunk| sctp(C2D, ("192.0.2.100", 4000), (VIP, 80), &[chunk], 140);
    for (port, sent) in [(80, 1), (8080, 0)] {
        let mut director = director(Forward::Masq, port);
        director.receive(WAN, &[big(INIT)]);
        let out = director.receive(WAN, &fragments(&big(DATA))[..1]);
        assert_eq!(out.sent.len(), sent);
        director.now = Tick(100 + 150);
        director.turn();
        assert_eq!(director.dropped(DropReason::FragmentWithoutLast), 1 - sent as u64);
    }
}

#[test]
fn a_last_fragment_within_the_first_one_completes_nothing() {
    for vip in [VIP, VIP6] {
        let client = if vip == VIP { "192.0.2.100" } else { "2001:db8::100" };
        let packet = |chunk| sctp(C2D, (client, 4000), (vip, 80), &[chunk], 140);
        let mut director = director(Forward::Masq, 8080);
        director.receive(WAN, &[packet(INIT)]);
        let mut fragments = fragments(&packet(DATA));
        if vip == VIP6 {
            // Options of 32 bytes before SCTP, in the first fragment.
            let first = &mut fragments[0];
            let options = [&[132, 3, 1, 28][..], &[0; 28]].concat();
            first[54] = 60;
            first[18..20].copy_from_slice(&(8 + 64 + 32u16).to_be_bytes());
            first.splice(62..62, options);
        }
        let mut last = fragments[2].clone();
        // It says of itself that it begins at 8.
        if vip == VIP {
            last[20..22].copy_from_slice(&1u16.to_be_bytes());
            testing::reseal(&mut last);
        } else {
            last[56..58].copy_from_slice(&8u16.to_be_bytes());
        }
        let out = director.receive(WAN, &[fragments[0].clone(), last]);
        assert_eq!(out.sent.len(), 1, "the later one alone");
        director.now = Tick(100 + 150);
        director.turn();
        assert_eq!(director.dropped(DropReason::FragmentWithoutLast), 1);
    }
}

#[test]
fn first_fragments_beyond_the_room_are_dropped() {
    let mut director = director(Forward::Masq, 8080);
    let big = |chunk| sctp(C2D, ("192.0.2.100", 4000), (VIP, 80), &[chunk], 140);
    director.receive(WAN, &[big(INIT)]);
    let firsts: Vec<_> = (0..65u16)
        .map(|id| {
            let mut first = fragments(&big(DATA)).swap_remove(0);
            first[18..20].copy_from_slice(&id.to_be_bytes());
            testing::reseal(&mut first);
            first
        })
        .collect();
    for burst in firsts.chunks(BURST) {
        assert!(director.receive(WAN, burst).sent.is_empty());
    }
    assert_eq!(director.dropped(DropReason::FragmentTableFull), 1);
}

/// An ICMP error about `about`, which came by, as a router with this address sends it.
fn error_about(macs: (Mac, Mac), router: &str, about: &[u8], quoted: usize) -> Vec<u8> {
    let headers = testing::headers(about);
    let mut frame = Vec::new();
    let quote = &about[14..14 + quoted.min(headers.ip_len as usize)];
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    match (ip(router), headers.source(about)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            builder.ipv4(from.octets(), to.octets(), 64).icmpv4_raw(3, 1, [0; 4]).write(&mut frame, quote)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            builder.ipv6(from.octets(), to.octets(), 64).icmpv6_raw(1, 3, [0; 4]).write(&mut frame, quote)
        }
        _ => unreachable!("one family"),
    }
    .unwrap();
    frame
}

/// The packet that an ICMP error quotes, as a frame; the error's own checksum having been found right.
fn quoted(frame: &[u8]) -> Vec<u8> {
    let headers = testing::headers(frame);
    assert!(checksum::is_good(checksum::of_transport(frame, &headers).unwrap()), "ICMP's checksum");
    [&frame[..14], &frame[usize::from(headers.l4) + 8..headers.end()]].concat()
}

#[test]
fn icmp_errors_go_to_the_end_that_sent_the_packet_and_quote_it_as_it_was() {
    for (vip, client, server, routers) in [
        (VIP, "192.0.2.100", "10.0.0.11", ["10.0.0.77", "192.0.2.77"]),
        (VIP6, "2001:db8::100", "fd00::11", ["fd00::77", "2001:db8::77"]),
    ] {
        for length in [28 + usize::from(ip(vip).is_ipv6()) * 20, 1000] {
            let mut director = director(Forward::Masq, 8080);
            let init = sctp(C2D, (client, 4000), (vip, 80), &[INIT], 16);
            let went = director.receive(WAN, std::slice::from_ref(&init)).sent.remove(0).1;
            let error = error_about((server_mac(11), OUR_LAN), routers[0], went.data(), length);
            let out = director.receive(LAN, &[error]);
            let about = quoted(out.sent[0].1.data());
            let l4 = if ip(vip).is_ipv6() { 54 } else { 34 };
            assert_eq!(
                about[l4..],
                init[l4..about.len()],
                "the client sees the ports and the checksum it sent"
            );

            let answer = sctp((server_mac(11), OUR_LAN), (server, 8080), (client, 4000), &[INIT_ACK], 16);
            let went = director.receive(LAN, std::slice::from_ref(&answer)).sent.remove(0).1;
            let error = error_about(C2D, routers[1], went.data(), length);
            let out = director.receive(WAN, &[error]);
            let about = quoted(out.sent[0].1.data());
            assert_eq!(about[l4..], answer[l4..about.len()], "and so does the server");
        }
    }
}

#[test]
fn an_error_about_the_packet_that_waited_quotes_it_as_it_came() {
    let mut director = director(Forward::Masq, 8080);
    director
        .path
        .adopt(Tables { neighbours: tables(3, &[], 1).neighbours, ..by(3, Forward::Masq, 8080) }.into());
    let init = from_client(&[INIT]);
    director.receive(WAN, std::slice::from_ref(&init));
    director.now = Tick(100 + 500);
    let out = director.turn();
    let about = quoted(out.sent[0].1.data());
    assert_eq!(about[34..], init[34..]);
}

#[test]
fn a_packet_without_a_chunk_is_malformed() {
    let mut director = director(Forward::Masq, 8080);
    let out = director.receive(WAN, &[sctp(C2D, ("192.0.2.100", 4000), (VIP, 80), &[], 0)]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 0));
    assert_eq!(director.dropped(DropReason::TruncatedSctp), 1);
}

#[test]
fn an_association_goes_on_at_the_director_that_was_told_of_it() {
    let sharing = |forward| {
        let mut tables = by(3, forward, 8080);
        tables.settings.is_sharing = true;
        let mut director = Director::new();
        director.path.adopt(tables.into());
        director
    };
    let mut master = sharing(Forward::Masq);
    for (is_answer, chunks) in
        [(false, [INIT]), (true, [INIT_ACK]), (false, [COOKIE_ECHO]), (true, [COOKIE_ACK])]
    {
        match is_answer {
            true => master.receive(LAN, &[from_server(&chunks)]),
            false => master.receive(WAN, &[from_client(&chunks)]),
        };
        assert_eq!(changed(&mut master).len(), usize::from(chunks == [COOKIE_ACK]), "not of the handshake");
    }
    assert_eq!(master.states(), ["ESTABLISHED"]);
    master.receive(WAN, &[from_client(&[SHUTDOWN])]);
    let told = changed(&mut master);
    let mut backup = sharing(Forward::Masq);
    assert_eq!(take_over(&mut backup, &told[0]), Taken::New);
    assert_eq!((told.len(), backup.states()), (1, master.states()));
    let out = backup.receive(WAN, &[from_client(&[DATA])]);
    assert_eq!(read(out.sent[0].1.data()).1, (ip("10.0.0.11"), 8080));
    assert!(read(out.sent[0].1.data()).2, "the checksum");
    let out = backup.receive(LAN, &[from_server(&[SHUTDOWN_ACK])]);
    assert_eq!(read(out.sent[0].1.data()).0, (ip(VIP), 80));
    assert_eq!(backup.states(), ["S-ACK-SENT"]);
    let back = changed(&mut backup);
    assert_eq!(take_over(&mut master, &back[0]), Taken::Updated);
    assert_eq!(master.states(), backup.states());
}
