//! Streams that are edited, seen by two TCPs: whatever is lost, doubled or comes in another order, each end has in the end what it
//! should have. And what is told of a client, byte by byte.

use std::net::Ipv4Addr;

use etherparse::{TcpOptionElement, TcpOptions};
use proptest::prelude::*;

use super::*;
use crate::flow::carry::Salvage;
use crate::tables::{ConnLimits, Helper, ProxyVersion, ServiceOptions, SynCookies};
use crate::wire::proxy;
use crate::wire::segment::Segment;
use crate::wire::tcp::{ACK, SYN};

const CLIENT_PORT: u16 = 4000;

pub(super) fn with(generation: u32, options: ServiceOptions) -> Tables {
    let tables = tables(generation, &[11, 12], 1);
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        service.options = options;
        service
    });
    let services: Vec<_> =
        services.filter(|service| service.key.protocol == Protocol::TCP).map(Arc::new).collect();
    Tables { services: Services::new(services).into(), ..tables }
}

pub(super) fn director(options: ServiceOptions) -> Director {
    let mut director = Director::new();
    director.path.adopt(with(2, options).into());
    director
}

pub(super) fn proxy_of(version: ProxyVersion) -> ServiceOptions {
    ServiceOptions { proxy_protocol: Some(version), ..ServiceOptions::default() }
}

pub(super) const FTP: ServiceOptions = ServiceOptions {
    persistence: None,
    engine: None,
    one_packet: false,
    proxy_protocol: None,
    toa: false,
    clamp_mss: false,
    syn_cookies: SynCookies::Off,
    helper: Some(Helper::Ftp),
    limits: ConnLimits::NONE,
};
pub(super) const TOA: ServiceOptions = ServiceOptions { toa: true, helper: None, ..FTP };

fn original(is_ipv6: bool) -> crate::flow::Tuple {
    let (src, dst) = if is_ipv6 { ("2001:db8::100", "2001:db8::10") } else { ("192.0.2.100", "192.0.2.10") };
    crate::flow::Tuple { src: ip(src), dst: ip(dst), sport: CLIENT_PORT, dport: 80, protocol: Protocol::TCP }
}

/// A segment as it goes in or as it came out.
#[derive(Clone, Debug, Default)]
pub(super) struct Seg {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: &'static str,
    pub(super) data: Vec<u8>,
    pub(super) sack: Option<(u32, u32)>,
}

pub(super) fn frame(is_ipv6: bool, from_client: bool, seg: &Seg) -> Vec<u8> {
    let (src, sport, dst, dport, macs) = match (is_ipv6, from_client) {
        (false, true) => ("192.0.2.100", CLIENT_PORT, "192.0.2.10", 80, C2D),
        (true, true) => ("2001:db8::100", CLIENT_PORT, "2001:db8::10", 80, C2D),
        (false, false) => ("10.0.0.11", 8080, "192.0.2.100", CLIENT_PORT, (server_mac(11), OUR_LAN)),
        (true, false) => ("fd00::11", 8080, "2001:db8::100", CLIENT_PORT, (server_mac(11), OUR_LAN)),
    };
    between(macs, (src, sport), (dst, dport), seg)
}

pub(super) fn between(
    macs: (Mac, Mac),
    (src, sport): (&str, u16),
    (dst, dport): (&str, u16),
    seg: &Seg,
) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let builder = match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut builder = builder.tcp(sport, dport, seg.seq, 60_000);
    for flag in seg.flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(seg.ack),
            'R' => builder.rst(),
            'F' => builder.fin(),
            _ => unreachable!("a flag"),
        };
    }
    let options = match seg.sack {
        Some(block) => TcpOptions::try_from_elements(&[
            TcpOptionElement::Noop,
            TcpOptionElement::Noop,
            TcpOptionElement::SelectiveAcknowledgement(block, [None; 3]),
        ])
        .unwrap(),
        None => TcpOptions::default(),
    };
    let builder = builder.options_raw(options.as_slice()).unwrap();
    let mut frame = Vec::new();
    builder.write(&mut frame, &seg.data).unwrap();
    frame
}

/// A segment that left, with its options and TCP flags, its checksums having been found right.
pub(super) fn seen(frame: &Frame) -> (Seg, u8, Vec<u8>) {
    read(frame);
    let bytes = frame.data();
    let Ok(Parsed::Ip(headers)) = parse(bytes, bytes.len(), Default::default()) else { panic!("no IP") };
    let segment = Segment::of(bytes, &headers).unwrap();
    let options = bytes[usize::from(headers.l4) + 20..segment.data].to_vec();
    let block = options.windows(10).find(|option| option[..2] == [5, 10]);
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let sack = block.map(|block| (number(&block[2..6]), number(&block[6..])));
    let data = bytes[segment.data..headers.end()].to_vec();
    (Seg { seq: segment.seq, ack: segment.ack, flags: "", data, sack }, headers.tcp_flags, options)
}

/// One end's TCP: what it sends and how far that is acknowledged, what it has of the other's. Offsets are from the first byte on.
pub(super) struct End {
    isn: u32,
    sends: Vec<u8>,
    acked: usize,
    sent: usize,
    /// So much may be sent at first by one segment each.
    units: Vec<usize>,
    peer: Option<u32>,
    has: Vec<Option<u8>>,
    is_established: bool,
}

impl End {
    pub(super) fn new(isn: u32, sends: &[u8], units: Vec<usize>) -> End {
        let sends = sends.to_vec();
        End { isn, sends, acked: 0, sent: 0, units, peer: None, has: Vec::new(), is_established: false }
    }

    fn received(&self) -> usize {
        self.has.iter().take_while(|byte| byte.is_some()).count()
    }

    fn ack(&self) -> u32 {
        self.peer.map_or(0, |isn| isn.wrapping_add(1 + self.received() as u32))
    }

    fn segment(&self, from: usize, to: usize) -> Seg {
        let has = self.received();
        let block = self.has.iter().skip(has).position(Option::is_some).map(|gap| has + gap);
        let sack = block.zip(self.peer).map(|(at, isn)| {
            let end = at + self.has[at..].iter().take_while(|byte| byte.is_some()).count();
            let number = |at: usize| isn.wrapping_add(1 + at as u32);
            (number(at), number(end))
        });
        let seq = self.isn.wrapping_add(1 + from as u32);
        Seg { seq, ack: self.ack(), flags: "A", data: self.sends[from..to].to_vec(), sack }
    }

    fn take(&mut self, seg: &Seg, flags: u8) {
        if flags & SYN != 0 {
            self.peer = Some(seg.seq);
        }
        let Some(peer) = self.peer else { return };
        if flags & ACK != 0 {
            let offset = |number: u32| number.wrapping_sub(self.isn.wrapping_add(1)) as i32;
            let ack = offset(seg.ack);
            assert!(
                (0..=self.sent as i32).contains(&ack),
                "acknowledges {ack} of {} that were sent",
                self.sent
            );
            self.is_established = true;
            self.acked = self.acked.max(ack as usize);
            if let Some((from, to)) = seg.sack {
                let (from, to) = (offset(from), offset(to));
                assert!(
                    from >= ack && from <= to && to <= self.sent as i32,
                    "holds {from}..{to} of {}",
                    self.sent
                );
            }
        }
        let from = seg.seq.wrapping_sub(peer.wrapping_add(1)) as i32;
        for (at, &byte) in (from..).zip(&seg.data) {
            let at = usize::try_from(at).expect("nothing is before the stream");
            if self.has.len() <= at {
                self.has.resize(at + 1, None);
            }
            assert_eq!(*self.has[at].get_or_insert(byte), byte, "byte {at} is another one than before");
        }
    }
}

pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn up_to(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Lets both ends talk until each has all; for a while packets behind the director are lost. Returns what each has.
pub(super) fn talk(
    director: &mut Director,
    frame: impl Fn(bool, &Seg) -> Vec<u8>,
    client: End,
    server: End,
    seed: u64,
) -> (Vec<u8>, Vec<u8>, [End; 2]) {
    let mut dice = Dice(seed);
    let mut ends = [client, server];
    let mut under_way: Vec<(usize, Seg, u8)> = Vec::new();
    for step in 0.. {
        assert!(step < 20_000, "they do not come to an end");
        let is_lossy = step < 400;
        let who = dice.up_to(2);
        let end = &mut ends[who];
        let seg = match (who, end.peer, end.is_established) {
            (0, None, _) => Some(Seg { seq: end.isn, flags: "S", ..Seg::default() }),
            (1, Some(_), false) => Some(Seg { seq: end.isn, ack: end.ack(), flags: "SA", ..Seg::default() }),
            (_, Some(_), true) => Some(if end.sent == end.acked && end.sent < end.sends.len() {
                let from = end.sent;
                let unit = end.units.iter().copied().find(|&unit| unit > from).unwrap_or(end.sends.len());
                end.sent = unit;
                end.segment(from, unit)
            } else {
                // Again, and not in the same pieces; or an acknowledgement alone.
                let from = end.acked + dice.up_to(end.sent - end.acked + 1);
                let from = if dice.up_to(2) == 0 { end.acked } else { from };
                let to = from + dice.up_to(end.sent - from + 1);
                end.segment(from, if is_lossy { to } else { end.sent })
            }),
            _ => None,
        };
        if let Some(seg) = seg {
            let port = if who == 0 { WAN } else { LAN };
            for (port, sent) in director.receive(port, &[frame(who == 0, &seg)]).sent {
                let (seg, flags, _) = seen(&sent);
                under_way.push((usize::from(port == LAN), seg, flags));
            }
        }
        while !under_way.is_empty() && dice.up_to(3) > 0 {
            let at = dice.up_to(under_way.len());
            let (to, seg, flags) = under_way[at].clone();
            // Some come twice, some never.
            if dice.up_to(8) > 0 {
                under_way.swap_remove(at);
            }
            if !(is_lossy && dice.up_to(3) == 0) {
                ends[to].take(&seg, flags);
            }
        }
        if !is_lossy && ends.iter().all(|end| end.acked == end.sends.len()) {
            break;
        }
    }
    let all = |end: &End| end.has.iter().map(|byte| byte.expect("no gap")).collect();
    (all(&ends[0]), all(&ends[1]), ends)
}

pub(super) fn pieces(len: usize, dice: &mut Dice) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while at < len {
        at = (at + 1 + dice.up_to(60)).min(len);
        ends.push(at);
    }
    ends
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_real_server_reads_the_header_and_then_what_the_client_said_whatever_is_lost(
        seed: u64, isns: (u32, u32), is_v2: bool, is_ipv6: bool,
        request in prop::collection::vec(any::<u8>(), 0..200),
        reply in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let version = if is_v2 { ProxyVersion::V2 } else { ProxyVersion::V1 };
        let mut director = director(proxy_of(version));
        let mut dice = Dice(seed ^ 1);
        let client = End::new(isns.0, &request, pieces(request.len(), &mut dice));
        let server = End::new(isns.1, &reply, pieces(reply.len(), &mut dice));
        let (at_client, at_server, _) = talk(&mut director, |from_client, seg| frame(is_ipv6, from_client, seg), client, server, seed);
        let header = proxy::header(version, &original(is_ipv6));
        // A client that says nothing need not have come so far that its acknowledgement carried the header.
        if !(request.is_empty() && at_server.is_empty()) {
            prop_assert_eq!(at_server, [&header[..], &request[..]].concat());
        }
        prop_assert_eq!(at_client, reply);
        prop_assert_eq!(director.path.check_connections(), Ok(()));
    }

    #[test]
    fn a_client_of_ftp_reads_the_services_address_and_all_else_as_it_was_said(
        seed: u64, isns: (u32, u32), lines in prop::collection::vec((any::<bool>(), 1024u16.., 0usize..40), 1..6),
    ) {
        let mut director = director(FTP);
        let (mut said, mut meant, mut units) = (Vec::new(), Vec::new(), Vec::new());
        for (is_passive, port, len) in lines {
            let line = |address: &str| match is_passive {
                true => format!("227 Entering Passive Mode ({address},{},{}).\r\n", port >> 8, port & 0xff),
                false => format!("200 {}\r\n", "x".repeat(len)),
            };
            said.extend_from_slice(line("10,0,0,11").as_bytes());
            meant.extend_from_slice(line("192,0,2,10").as_bytes());
            units.push(said.len());
        }
        let request = b"USER x\r\nPASV\r\n".repeat(4);
        let client = End::new(isns.0, &request, pieces(request.len(), &mut Dice(seed)));
        let (at_client, at_server, _) = talk(&mut director, |from_client, seg| frame(false, from_client, seg), client, End::new(isns.1, &said, units), seed);
        prop_assert_eq!(String::from_utf8(at_client).unwrap(), String::from_utf8(meant).unwrap());
        prop_assert_eq!(at_server, request);
        prop_assert_eq!(director.path.check_connections(), Ok(()));
    }
}

/// The handshake: what left for the real server last.
pub(super) fn handshake(director: &mut Director) -> (Seg, u8, Vec<u8>) {
    let seg = |seq, ack, flags| Seg { seq, ack, flags, ..Seg::default() };
    director.receive(WAN, &[frame(false, true, &seg(1000, 0, "S"))]);
    director.receive(LAN, &[frame(false, false, &seg(7000, 1001, "SA"))]);
    let out = director.receive(WAN, &[frame(false, true, &seg(1001, 7001, "A"))]);
    seen(&out.sent[0].1)
}

#[test]
fn the_header_goes_with_the_clients_acknowledgement_and_again_until_it_is_acknowledged() {
    let mut director = director(proxy_of(ProxyVersion::V1));
    let header = b"PROXY TCP4 192.0.2.100 192.0.2.10 4000 80\r\n";
    let (first, ..) = handshake(&mut director);
    assert_eq!((first.seq, &first.data[..]), (1001, &header[..]));

    let data = Seg { seq: 1001, ack: 7001, flags: "A", data: b"GET /".to_vec(), ..Seg::default() };
    let out = director.receive(WAN, &[frame(false, true, &data)]);
    let left: Vec<_> =
        out.sent.iter().map(|(_, frame)| seen(frame).0).map(|seg| (seg.seq, seg.data)).collect();
    let behind = 1001 + header.len() as u32;
    assert_eq!(left, [(1001, header.to_vec()), (behind, b"GET /".to_vec())], "a segment of its own");

    let answer = Seg { seq: 7001, ack: behind, flags: "A", ..Seg::default() };
    let out = director.receive(LAN, &[frame(false, false, &answer)]);
    assert_eq!(seen(&out.sent[0].1).0.ack, 1001);
    let out = director.receive(WAN, &[frame(false, true, &data)]);
    assert_eq!((out.sent.len(), seen(&out.sent[0].1).0.seq), (1, behind));
}

#[test]
fn a_client_is_told_of_its_own_segment_and_not_of_the_header_before_it() {
    let mut director = director(proxy_of(ProxyVersion::V1));
    handshake(&mut director);
    let without = |generation, resolved| Tables {
        neighbours: tables(generation, resolved, 1).neighbours,
        ..with(generation, proxy_of(ProxyVersion::V1))
    };
    director.path.adopt(without(3, &[12]).into());
    let data = Seg { seq: 1001, ack: 7001, flags: "A", data: b"GET /".to_vec(), ..Seg::default() };
    assert!(director.receive(WAN, &[frame(false, true, &data)]).sent.is_empty(), "both wait");
    director.now = Tick(director.now.0 + 500);
    let out = director.turn();
    let errors: Vec<_> = out.sent.iter().map(|(port, frame)| (*port, frame.data().len())).collect();
    // Ethernet, IP, ICMP, and what came.
    assert_eq!(errors, [(WAN, 14 + 20 + 8 + 45)]);
    assert_eq!(director.dropped(DropReason::NeighbourFailed), 2);
}

#[test]
fn the_header_before_data_in_fragments_is_none_of_them() {
    for is_ipv6 in [false, true] {
        let mut director = director(proxy_of(ProxyVersion::V2));
        let seg = |seq, ack, flags| Seg { seq, ack, flags, ..Seg::default() };
        director.receive(WAN, &[frame(is_ipv6, true, &seg(1000, 0, "S"))]);
        director.receive(LAN, &[frame(is_ipv6, false, &seg(7000, 1001, "SA"))]);
        let data = Seg { seq: 1001, ack: 7001, flags: "A", data: vec![7; 44], ..Seg::default() };
        let mut first = frame(is_ipv6, true, &data);
        // Where its header says that more fragments follow, and by which bit.
        let (at, more) = if is_ipv6 { (57, 1) } else { (20, 0x20) };
        if is_ipv6 {
            first.splice(54..54, [6, 0, 0, 0, 0, 0, 0, 9]);
            (first[18], first[19], first[20]) = (0, 20 + 44 + 8, 44);
        }
        first[at] |= more;
        if !is_ipv6 {
            crate::wire::ipv4::fill_checksum(&mut first[14..34]);
        }
        let out = director.receive(WAN, &[first]);
        let pieces: Vec<bool> = out.sent.iter().map(|(_, frame)| frame.data()[at] & more != 0).collect();
        assert_eq!(pieces, [false, true], "the header, and what came");
        let (header, ..) = seen(&out.sent[0].1);
        assert_eq!((header.seq, header.data.len()), (1001, if is_ipv6 { 52 } else { 28 }));
    }
}

#[test]
fn a_reset_after_the_handshake_is_one_that_the_real_server_takes() {
    let mut director = director(proxy_of(ProxyVersion::V2));
    let reset = Seg { seq: 1001, flags: "R", ..Seg::default() };
    let seg = |seq, ack, flags| Seg { seq, ack, flags, ..Seg::default() };
    director.receive(WAN, &[frame(false, true, &seg(1000, 0, "S"))]);
    director.receive(LAN, &[frame(false, false, &seg(7000, 1001, "SA"))]);
    let out = director.receive(WAN, &[frame(false, true, &reset)]);
    assert_eq!(seen(&out.sent[0].1).0.seq, 1001, "the header was never sent");
    let mut director = self::director(proxy_of(ProxyVersion::V2));
    handshake(&mut director);
    let out = director.receive(WAN, &[frame(false, true, &reset)]);
    assert_eq!(seen(&out.sent[0].1).0.seq, 1001 + 28);
}

#[test]
fn data_in_a_syn_does_not_come_before_the_header() {
    let mut director = director(proxy_of(ProxyVersion::V2));
    let syn = Seg { seq: 1000, flags: "S", data: b"early".to_vec(), ..Seg::default() };
    let out = director.receive(WAN, &[frame(false, true, &syn)]);
    assert_eq!(seen(&out.sent[0].1).0.data, b"");
}

#[test]
fn without_room_for_its_edits_a_connection_is_refused_but_for_an_option_that_may_be_left_out() {
    for (options, is_refused) in [(proxy_of(ProxyVersion::V1), true), (FTP, true), (TOA, false)] {
        let mut director = director(options);
        // A fifth of 100.
        let syns: Vec<_> = (0..21).map(|n| from_client(5000 + n, "S")).collect();
        assert_eq!(director.receive(WAN, &syns).sent.len(), if is_refused { 20 } else { 21 });
        assert_eq!(director.dropped(DropReason::EditTableFull), u64::from(is_refused));
        assert_eq!(director.counters[0].edits.full.get(), 1);
        assert_eq!(director.path.check_connections(), Ok(()));
    }
}

#[test]
fn the_option_goes_with_what_the_client_sends_until_the_real_server_has_answered() {
    let mut director = director(TOA);
    let (ack, _, options) = handshake(&mut director);
    assert_eq!((ack.seq, &options[..]), (1001, &[254, 8, 0x0f, 0xa0, 192, 0, 2, 100][..]));
    let data = Seg { seq: 1001, ack: 7001, flags: "A", data: b"GET /".to_vec(), ..Seg::default() };
    let out = director.receive(WAN, &[frame(false, true, &data)]);
    let (left, _, options) = seen(&out.sent[0].1);
    assert_eq!((options.len(), &left.data[..]), (8, &b"GET /"[..]));
    // What fills the link goes without.
    let full = Seg { data: vec![1; 1460], ..data.clone() };
    let out = director.receive(WAN, &[frame(false, true, &full)]);
    assert_eq!((seen(&out.sent[0].1).2.len(), director.counters[0].edits.toa_left_out.get()), (0, 1));
    let answer = Seg { seq: 7001, ack: 1006, flags: "A", ..Seg::default() };
    director.receive(LAN, &[frame(false, false, &answer)]);
    let out = director.receive(WAN, &[frame(false, true, &data)]);
    assert_eq!(seen(&out.sent[0].1).2.len(), 0);
    director.turn();
    assert_eq!(director.counters[0].edits.entries.get(), 0, "it is like any other");
}

#[test]
fn an_ipv6_clients_option_has_twenty_bytes() {
    let mut director = director(TOA);
    let seg = |seq, ack, flags| Seg { seq, ack, flags, ..Seg::default() };
    director.receive(WAN, &[frame(true, true, &seg(1000, 0, "S"))]);
    director.receive(LAN, &[frame(true, false, &seg(7000, 1001, "SA"))]);
    let out = director.receive(WAN, &[frame(true, true, &seg(1001, 7001, "A"))]);
    let (_, _, options) = seen(&out.sent[0].1);
    let client: std::net::Ipv6Addr = "2001:db8::100".parse().unwrap();
    assert_eq!(options, [&[254, 20, 0x0f, 0xa0], &client.octets()[..]].concat());
}

#[test]
fn a_killed_director_leaves_what_its_connections_are_moved_by() {
    let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
    let counters = counters(1);
    let mut path = Path::new(PathConfig { memory, ..config(0, &counters, &Arc::new(Uses::new(1, 100))) });
    path.adopt(with(2, proxy_of(ProxyVersion::V2)).into());
    let mut old = Director { path, counters, now: Tick(100) };
    handshake(&mut old);
    drop(old);

    let mut new = director(proxy_of(ProxyVersion::V2));
    let done = new.path.carry_over(&[Salvage::of(remains.bytes().unwrap()).unwrap()], Tick(200));
    assert_eq!((done.connections, done.damaged), (1, 0));
    let answer = Seg { seq: 7001, ack: 1001 + 28, flags: "A", ..Seg::default() };
    let out = new.receive(LAN, &[frame(false, false, &answer)]);
    assert_eq!(seen(&out.sent[0].1).0.ack, 1001);
    assert_eq!(new.path.check_connections(), Ok(()));
}

/// Lets the control connection say something.
pub(super) fn say(director: &mut Director, from_client: bool, line: &str) -> Out {
    let (seq, ack) = if from_client { (1001, 7001) } else { (7001, 1001) };
    let seg = Seg { seq, ack, flags: "A", data: line.as_bytes().to_vec(), ..Seg::default() };
    director.receive(if from_client { WAN } else { LAN }, &[frame(false, from_client, &seg)])
}

#[test]
fn a_passive_data_connection_goes_to_the_server_of_its_control_connection() {
    for (line, said) in [
        (
            "227 Entering Passive Mode (10,0,0,11,156,64).\r\n",
            "227 Entering Passive Mode (192,0,2,10,156,64).\r\n",
        ),
        (
            "229 Entering Extended Passive Mode (|||40000|)\r\n",
            "229 Entering Extended Passive Mode (|||40000|)\r\n",
        ),
    ] {
        let mut director = director(FTP);
        handshake(&mut director);
        let out = say(&mut director, false, line);
        assert_eq!(String::from_utf8(seen(&out.sent[0].1).0.data).unwrap(), said);
        let syn = |client: &str| tcp(C2D, (client, 4444), ("192.0.2.10", 40000), "S");
        let out = director.receive(WAN, &[syn("192.0.2.100")]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4444, ip("10.0.0.11"), 40000, 63));
        let back = tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 40000), ("192.0.2.100", 4444), "SA");
        let out = director.receive(LAN, &[back]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.10"), 40000, ip("192.0.2.100"), 4444, 63));
        let out = director.receive(WAN, &[syn("192.0.2.101")]);
        assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1), "another client is not expected");
    }
}

#[test]
fn an_active_data_connection_comes_from_the_service() {
    for line in ["PORT 192,0,2,100,195,80\r\n", "EPRT |1|192.0.2.100|50000|\r\n"] {
        let mut director = director(FTP);
        handshake(&mut director);
        let out = say(&mut director, true, line);
        assert_eq!(seen(&out.sent[0].1).0.data, line.as_bytes());
        // Next to the service's port, and to the real server's.
        let syn = tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 8079), ("192.0.2.100", 50000), "S");
        let out = director.receive(LAN, &[syn]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.10"), 79, ip("192.0.2.100"), 50000, 63));
        let back = tcp(C2D, ("192.0.2.100", 50000), ("192.0.2.10", 79), "SA");
        let out = director.receive(WAN, &[back]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 50000, ip("10.0.0.11"), 8079, 63));
    }
}

#[test]
fn what_went_on_in_two_pieces_keeps_its_length_when_it_comes_whole() {
    let line = "227 Entering Passive Mode (10,0,0,11,156,64).\r\n";
    // Before the address, and in it: what can still be exchanged is.
    for (cut, whole) in [(20, line.replace("10,0,0,11", "192,0,2,10")), (30, line.to_owned())] {
        let mut director = director(FTP);
        handshake(&mut director);
        let piece = |from: usize, to: usize| {
            let data = line.as_bytes()[from..to].to_vec();
            frame(false, false, &Seg { seq: 7001 + from as u32, ack: 1001, flags: "A", data, sack: None })
        };
        let out = director.receive(LAN, &[piece(0, cut)]);
        assert_eq!(seen(&out.sent[0].1).0.data, line.as_bytes()[..cut]);
        let out = director.receive(LAN, &[piece(0, line.len())]);
        assert_eq!(String::from_utf8(seen(&out.sent[0].1).0.data).unwrap(), whole, "cut at {cut}");
        let next = Seg {
            seq: 7001 + line.len() as u32,
            ack: 1001,
            flags: "A",
            data: b"200\r\n".to_vec(),
            sack: None,
        };
        let out = director.receive(LAN, &[frame(false, false, &next)]);
        assert_eq!(seen(&out.sent[0].1).0.seq, 7001 + whole.len() as u32);
    }
}

#[test]
fn nobody_is_expected_for_another() {
    let mut director = director(FTP);
    handshake(&mut director);
    let before = director.states().len();
    for line in
        ["PORT 192,0,2,101,195,80\r\n", "PORT 192,0,2,100,0,80\r\n", "EPRT |2|2001:db8::100|50000|\r\n"]
    {
        say(&mut director, true, line);
    }
    assert_eq!(director.states().len(), before);
}

#[test]
fn what_one_worker_reads_another_one_knows_before_the_client_does() {
    const WORKERS: usize = 4;
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    for client_port in 0..12u16 {
        let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
        for path in &mut paths {
            path.adopt(with(2, FTP).into());
        }
        let control = 4000 + client_port;
        let seg = |from_client: bool, flags: &'static str, data: &[u8]| {
            let mut bytes =
                frame(false, from_client, &Seg { seq: 1, ack: 1, flags, data: data.to_vec(), sack: None });
            let at = 34 + if from_client { 0 } else { 2 };
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&control.to_be_bytes());
            let sum = u16::from_be_bytes([bytes[50], bytes[51]]);
            let sum = checksum::Delta::word(old, control).apply(sum);
            bytes[50..52].copy_from_slice(&sum.to_be_bytes());
            bytes
        };
        deliver(&mut paths, 0, WAN, &seg(true, "S", b""));
        deliver(&mut paths, 1, LAN, &seg(false, "SA", b""));
        deliver(&mut paths, 2, WAN, &seg(true, "A", b""));
        let sent = deliver(&mut paths, 3, LAN, &seg(false, "A", b"227 Entering (10,0,0,11,156,64)\r\n"));
        assert_eq!(seen(&sent[0].1).0.data, b"227 Entering (192,0,2,10,156,64)\r\n");
        for port in 0..8 {
            let syn = tcp(C2D, ("192.0.2.100", 6000 + port), ("192.0.2.10", 40000), "S");
            let sent = deliver(&mut paths, usize::from(port) % WORKERS, WAN, &syn);
            assert_eq!(read(&sent[0].1).2, ip("10.0.0.11"));
        }
        let sent = deliver(&mut paths, 0, WAN, &seg(true, "A", b"PORT 192,0,2,100,195,80\r\n"));
        assert_eq!(read(&sent[0].1).2, ip("10.0.0.11"), "what tells goes on");
        let syn = tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 8079), ("192.0.2.100", 50000), "S");
        let sent = deliver(&mut paths, 1, LAN, &syn);
        assert_eq!(read(&sent[0].1).0, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)));
    }
}
