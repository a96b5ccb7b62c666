//! Goal: FTP's data connections are RELATED to their control connection, and reach who waits for them where either end of that is translated;
//! with several workers too. Method: both ends' control connections, line by line; two TCPs between whom packets are lost and doubled; rules of a few words.

use proptest::prelude::*;

use super::edited::{Dice, End, Seg, between, pieces, seen, talk};
use super::hooks::{Workers, rules};
use super::*;
use crate::conntrack::Status;
use crate::rule::names::Numeric;
use crate::rule::{Around, Family, Refused, Rule, Table, text};

const HELPER: &str = "raw PREROUTING -p tcp --dport 21 -j CT --helper ftp";
const SNAT: &str = "nat POSTROUTING -o wan -j SNAT --to-source 192.0.2.1";
const SNAT_V6: &str = "nat POSTROUTING -o wan -j SNAT --to-source 2001:db8::1";
const DNAT: &str = "nat PREROUTING -i wan -p tcp --dport 21 -j DNAT --to-destination 10.0.0.11";
const DNAT_V6: &str = "nat PREROUTING -i wan -p tcp --dport 21 -j DNAT --to-destination fd00::11";
const RELATED: [&str; 4] = [
    "filter FORWARD -m conntrack --ctstate INVALID -j DROP",
    "filter FORWARD -p tcp --dport 21 -j ACCEPT",
    "filter FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "filter FORWARD -j DROP",
];

fn with(lines: &[&'static str]) -> Vec<&'static str> {
    [&[HELPER], lines, &RELATED].concat()
}

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    let mut tables = Tables { rules: Arc::new(rules(lines)), ..tables(2, &[11, 12], 1) };
    tables.settings.sysctls.conntrack.tcp_loose = 0;
    director.path.adopt(tables.into());
    director
}

pub(super) type Ends = (&'static str, u16);

/// One end of a control connection: where it is, and whom it talks to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub(super) port: PortId,
    pub(super) macs: (Mac, Mac),
    pub(super) own: Ends,
    pub(super) peer: Ends,
    /// The first of its numbers.
    pub(super) isn: u32,
}

impl Side {
    pub(super) fn outside(own: Ends, peer: Ends, isn: u32) -> Side {
        Side { port: WAN, macs: C2D, own, peer, isn }
    }

    pub(super) fn inside(n: u8, own: Ends, peer: Ends, isn: u32) -> Side {
        Side { port: LAN, macs: (server_mac(n), OUR_LAN), own, peer, isn }
    }

    pub(super) fn says(&self, seq: u32, ack: u32, flags: &'static str, data: &str) -> Vec<u8> {
        let seg = Seg { seq, ack, flags, data: data.as_bytes().to_vec(), sack: None };
        between(self.macs, self.own, self.peer, &seg)
    }
}

pub(super) const CLIENT: u32 = 1000;
pub(super) const SERVER: u32 = 7000;

/// A client in the private network and a server outside.
fn outward(sport: u16) -> (Side, Side) {
    let client = Side::inside(11, ("10.0.0.11", sport), ("192.0.2.100", 21), CLIENT);
    (client, Side::outside(("192.0.2.100", 21), ("192.0.2.1", sport), SERVER))
}

/// A client outside and a server in the private network.
fn inward(sport: u16) -> (Side, Side) {
    let client = Side::outside(("192.0.2.100", sport), ("192.0.2.1", 21), CLIENT);
    (client, Side::inside(11, ("10.0.0.11", 21), ("192.0.2.100", sport), SERVER))
}

/// The handshake.
pub(super) fn open(mut carry: impl FnMut(PortId, &[u8]) -> Out, (client, server): (Side, Side)) {
    for (side, seq, ack, flags) in [(client, client.isn, 0, "S"), (server, server.isn, client.isn + 1, "SA")]
    {
        assert_eq!(carry(side.port, &side.says(seq, ack, flags, "")).sent.len(), 1, "{flags}");
    }
    assert_eq!(carry(client.port, &client.says(client.isn + 1, server.isn + 1, "A", "")).sent.len(), 1);
}

/// A line, the first one that `from` says; as the other end reads it.
fn line(mut carry: impl FnMut(PortId, &[u8]) -> Out, from: Side, to: Side, line: &str) -> String {
    let out = carry(from.port, &from.says(from.isn + 1, to.isn + 1, "A", line));
    String::from_utf8(seen(&out.sent[0].1).0.data).expect("text")
}

pub(super) fn carry(director: &mut Director) -> impl FnMut(PortId, &[u8]) -> Out {
    |port, frame| director.receive(port, &[frame.to_vec()])
}

pub(super) fn syn(side: Side, own: u16, peer: u16) -> Vec<u8> {
    tcp(side.macs, (side.own.0, own), (side.peer.0, peer), "S")
}

#[test]
fn a_data_connection_is_related_to_its_control_connection_and_only_where_a_rule_gives_the_helper() {
    for (is_helped, says) in [
        (true, "227 Entering Passive Mode (10,0,0,11,156,64).\r\n"),
        (true, "229 Entering Extended Passive Mode (|||40000|)\r\n"),
        (false, "229 Entering Extended Passive Mode (|||40000|)\r\n"),
    ] {
        let lines = with(&[]);
        let mut director = director(if is_helped { &lines } else { &lines[1..] });
        let client = Side::outside(("192.0.2.100", 4000), ("10.0.0.11", 21), CLIENT);
        let server = Side::inside(11, ("10.0.0.11", 21), ("192.0.2.100", 4000), SERVER);
        open(carry(&mut director), (client, server));
        assert_eq!(line(carry(&mut director), server, client, says), says, "nothing to exchange");
        assert_eq!(director.path.flows.edits().0, 0);
        for (to, passes) in [(40001, false), (40000, is_helped), (40000, is_helped)] {
            let sent = director.receive(WAN, &[syn(client, 5000, to)]).sent;
            assert_eq!(sent.len(), usize::from(passes), "to port {to}");
        }
        let sent = director.receive(WAN, &[syn(client, 5001, 40000)]).sent;
        assert_eq!(sent.len(), 0, "one connection for one line");
        let mut views = Vec::new();
        director.path.list(0, u32::MAX, director.now, &mut |view| views.push(view));
        let data: Vec<_> = views.iter().filter(|view| view.known.status.has(Status::EXPECTED)).collect();
        assert_eq!(data.len(), usize::from(is_helped));
    }
}

#[test]
fn an_active_client_behind_one_address_is_reached() {
    let lines = with(&[SNAT, SNAT_V6]);
    for (says, reads) in [
        ("PORT 10,0,0,11,195,80\r\n", "PORT 192,0,2,1,195,80\r\n"),
        ("EPRT |1|10.0.0.11|50000|\r\n", "EPRT |1|192.0.2.1|50000|\r\n"),
        ("EPRT |2|fd00::11|50000|\r\n", "EPRT |2|2001:db8:0:0:0:0:0:1|50000|\r\n"),
    ] {
        let mut director = director(&lines);
        let (mut client, mut server) = outward(3000);
        if says.contains("fd00") {
            (client.own, client.peer) = (("fd00::11", 3000), ("2001:db8::100", 21));
            (server.own, server.peer) = (("2001:db8::100", 21), ("2001:db8::1", 3000));
        }
        open(carry(&mut director), (client, server));
        assert_eq!(line(carry(&mut director), client, server, says), reads);
        let sent = director.receive(WAN, &[syn(server, 20, 50000)]).sent;
        assert_eq!(read(&sent[0].1), (ip(server.own.0), 20, ip(client.own.0), 50000, 63));
        let answer = tcp(client.macs, (client.own.0, 50000), (client.peer.0, 20), "SA");
        let sent = director.receive(LAN, &[answer]).sent;
        assert_eq!(read(&sent[0].1), (ip(server.peer.0), 50000, ip(server.own.0), 20, 63));
        // What follows is moved by as much, and what acknowledges it back.
        let (len, grown) = (says.len() as u32, reads.len() as u32);
        let answer = server.says(SERVER + 1, CLIENT + 1 + grown, "A", "200 PORT\r\n");
        let sent = director.receive(WAN, &[answer]).sent;
        assert_eq!(seen(&sent[0].1).0.ack, CLIENT + 1 + len);
        let next = client.says(CLIENT + 1 + len, SERVER + 1 + 10, "A", "RETR x\r\n");
        let sent = director.receive(LAN, &[next]).sent;
        assert_eq!(seen(&sent[0].1).0.seq, CLIENT + 1 + grown);
    }
}

#[test]
fn a_passive_server_behind_the_director_is_reached_under_the_directors_address() {
    for (says, reads) in [
        ("227 Passive (10,0,0,11,156,64).\r\n", "227 Passive (192,0,2,1,156,64).\r\n"),
        ("229 Passive (|||40000|)\r\n", "229 Passive (|||40000|)\r\n"),
    ] {
        for is_ipv6 in [false, true] {
            let mut director = director(&with(&[DNAT, DNAT_V6]));
            let (mut client, mut server) = inward(4000);
            if is_ipv6 {
                (client.own, client.peer) = (("2001:db8::100", 4000), ("2001:db8::1", 21));
                (server.own, server.peer) = (("fd00::11", 21), ("2001:db8::100", 4000));
            }
            open(carry(&mut director), (client, server));
            let is_said = !is_ipv6 || says.starts_with("229");
            let must = if is_said { reads } else { says };
            assert_eq!(line(carry(&mut director), server, client, says), must);
            let sent = director.receive(WAN, &[syn(client, 5000, 40000)]).sent;
            assert_eq!(sent.len(), usize::from(is_said), "{says} {is_ipv6}");
            if is_said {
                assert_eq!(read(&sent[0].1), (ip(client.own.0), 5000, ip(server.own.0), 40000, 63));
                let answer = tcp(server.macs, (server.own.0, 40000), (client.own.0, 5000), "SA");
                let sent = director.receive(LAN, &[answer]).sent;
                assert_eq!(read(&sent[0].1), (ip(client.peer.0), 40000, ip(client.own.0), 5000, 63));
            }
        }
    }
}

#[test]
fn a_passive_client_behind_one_address_leaves_by_it_and_reads_what_the_server_said() {
    let mut director = director(&with(&[SNAT]));
    let (client, server) = outward(3000);
    open(carry(&mut director), (client, server));
    let says = "227 Passive (192,0,2,100,156,64).\r\n";
    assert_eq!(line(carry(&mut director), server, client, says), says);
    let sent = director.receive(LAN, &[syn(client, 5000, 40000)]).sent;
    assert_eq!(read(&sent[0].1), (ip("192.0.2.1"), 5000, ip("192.0.2.100"), 40000, 63));
}

#[test]
fn of_two_clients_that_wait_at_the_same_port_behind_one_address_the_second_gets_another() {
    let mut director = director(&with(&[SNAT]));
    let (client, server) = outward(3000);
    open(carry(&mut director), (client, server));
    line(carry(&mut director), client, server, "PORT 10,0,0,11,195,80\r\n");
    let (mut other, server) = outward(3001);
    other.macs = (server_mac(12), OUR_LAN);
    other.own.0 = "10.0.0.12";
    open(carry(&mut director), (other, server));
    let reads = line(carry(&mut director), other, server, "PORT 10,0,0,12,195,80\r\n");
    assert_eq!(reads, "PORT 192,0,2,1,195,81\r\n");
    for (to, must) in [(50001, "10.0.0.12"), (50000, "10.0.0.11")] {
        let sent = director.receive(WAN, &[syn(server, 20, to)]).sent;
        let (_, _, dst, dport, _) = read(&sent[0].1);
        assert_eq!((dst, dport), (ip(must), 50000));
    }
}

#[test]
fn a_control_connection_expects_the_last_one_that_it_told_of_and_nobody_for_another() {
    let mut director = director(&with(&[]));
    let client = Side::outside(("192.0.2.100", 4000), ("10.0.0.11", 21), CLIENT);
    let server = Side::inside(11, ("10.0.0.11", 21), ("192.0.2.100", 4000), SERVER);
    open(carry(&mut director), (client, server));
    for (n, says) in ["229 (|||40000|)\r\n", "229 (|||40001|)\r\n"].into_iter().enumerate() {
        let seq = SERVER + 1 + 17 * n as u32;
        director.receive(LAN, &[server.says(seq, CLIENT + 1, "A", says)]);
    }
    assert_eq!(director.path.expectations.len(), 1);
    assert!(director.receive(WAN, &[syn(client, 5000, 40000)]).sent.is_empty());
    assert_eq!(director.receive(WAN, &[syn(client, 5000, 40001)]).sent.len(), 1);
    for says in ["PORT 192,0,2,101,195,80\r\n", "PORT 192,0,2,100,0,80\r\n"] {
        director.receive(WAN, &[client.says(CLIENT + 1, SERVER + 35, "A", says)]);
        assert_eq!(director.path.expectations.len(), 0, "{says}");
    }
}

#[test]
fn at_any_number_of_workers_data_connections_are_at_their_masters_worker() {
    let mut workers = Workers::new(3, rules(&with(&[SNAT, DNAT])));
    let mut data = 0;
    for n in 0..12 {
        let (client, mut server) = outward(3000 + n);
        let (_, out) = workers.carry(client.port, &client.says(client.isn, 0, "S", ""), false);
        server.peer.1 = read(&out.sent[0].1).1;
        open(|port, frame| workers.carry(port, frame, false).1, (client, server));
        let says = client.says(CLIENT + 1, SERVER + 1, "A", &format!("PORT 10,0,0,11,195,{}\r\n", 80 + n));
        let (began, out) = workers.carry(LAN, &says, false);
        let text = String::from_utf8(seen(&out.sent[0].1).0.data).expect("text");
        let port = crate::wire::ftp::active(text.as_bytes()).expect("a port").port;
        let outside = Side::outside(("192.0.2.100", 20), ("192.0.2.1", port), SERVER);
        let inside = Side::inside(11, ("10.0.0.11", 50_000 + n), ("192.0.2.100", 20), CLIENT);
        for (side, seq, ack, flags) in [
            (outside, SERVER, 0, "S"),
            (inside, CLIENT, SERVER + 1, "SA"),
            (outside, SERVER + 1, CLIENT + 1, "A"),
            (inside, CLIENT + 1, SERVER + 1, "R"),
        ] {
            let (at, out) = workers.carry(side.port, &side.says(seq, ack, flags, ""), false);
            assert_eq!((at, out.sent.len()), (began, 1), "{flags}");
        }
        data += 1;
        let (client, server) = inward(4000 + n);
        open(|port, frame| workers.carry(port, frame, false).1, (client, server));
        let says = "229 Passive (|||40000|)\r\n";
        let (began, out) = workers.carry(LAN, &server.says(SERVER + 1, CLIENT + 1, "A", says), false);
        let port = crate::wire::ftp::passive(&seen(&out.sent[0].1).0.data).expect("a port").port;
        let (at, out) = workers.carry(WAN, &syn(client, 5000 + n, port), false);
        assert_eq!(at, began);
        assert_eq!(read(&out.sent[0].1).3, 40000);
        data += 1;
    }
    assert_eq!(workers.inserted(), 24 + data, "one entry each");
}

#[test]
fn in_a_zone_the_same_is_exchanged_and_expected_there() {
    let zone = "raw PREROUTING -p tcp -j CT --zone 7 --helper ftp";
    let mut director = director(&[&[zone, DNAT], &RELATED[..]].concat());
    let (client, server) = inward(4000);
    open(carry(&mut director), (client, server));
    let reads = line(carry(&mut director), server, client, "227 Passive (10,0,0,11,156,64).\r\n");
    assert_eq!(reads, "227 Passive (192,0,2,1,156,64).\r\n");
    let sent = director.receive(WAN, &[syn(client, 5000, 40000)]).sent;
    assert_eq!(read(&sent[0].1).2, ip("10.0.0.11"));
}

#[test]
fn a_server_on_this_host_is_reached_too() {
    let helper = "raw PREROUTING -p tcp --dport 2121 -j CT --helper ftp";
    let dnat = "nat PREROUTING -d 192.0.2.10 -p tcp --dport 2121 -j DNAT --to-destination 192.0.2.1:21";
    let lines = [
        helper,
        dnat,
        "filter INPUT -p tcp --dport 21 -j ACCEPT",
        "filter INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "filter INPUT -j DROP",
    ];
    let mut director = director(&lines);
    let client = Side::outside(("192.0.2.100", 4000), ("192.0.2.10", 2121), CLIENT);
    let macs = (OUR_WAN, super::CLIENT);
    let server = Side { port: WAN, macs, own: ("192.0.2.1", 21), peer: ("192.0.2.100", 4000), isn: SERVER };
    let host = |director: &mut Director, frame: Vec<u8>| {
        let mut out = Out::default();
        let mut burst: Burst<Frame> = [Frame::new(WAN, &frame)].into_iter().collect();
        director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
        out
    };
    director.receive(WAN, &[client.says(CLIENT, 0, "S", "")]);
    host(&mut director, server.says(SERVER, CLIENT + 1, "SA", ""));
    director.receive(WAN, &[client.says(CLIENT + 1, SERVER + 1, "A", "")]);
    let said = server.says(SERVER + 1, CLIENT + 1, "A", "227 Passive (192,0,2,1,156,64).\r\n");
    let out = host(&mut director, said);
    assert_eq!(seen(&out.sent[0].1).0.data, b"227 Passive (192,0,2,10,156,64).\r\n");
    let data = director.receive(WAN, &[syn(client, 5000, 40000)]).to_twin;
    assert_eq!(read(&data[0]).2, ip("192.0.2.1"));
    // The answer's acknowledgement has come back to the host's own numbers.
    let next = client.says(CLIENT + 1, SERVER + 1 + 34, "A", "RETR x\r\n");
    let out = director.receive(WAN, &[next]);
    assert_eq!(seen(&out.to_twin[0]).0.ack, SERVER + 1 + 33);
}

#[test]
fn a_translated_connection_for_whose_edits_there_is_no_room_is_refused() {
    let mut director = director(&with(&[SNAT]));
    // A fifth of 100.
    for n in 0..21 {
        let (client, _) = outward(3000 + n);
        let sent = director.receive(LAN, &[client.says(CLIENT, 0, "S", "")]).sent;
        assert_eq!(sent.len(), usize::from(n < 20));
    }
    assert_eq!(director.dropped(DropReason::EditTableFull), 1);
    assert_eq!(director.path.check_connections(), Ok(()));
}

#[test]
fn the_helper_is_of_tcp_alone() {
    let check = |line: &str| {
        let words = text::split(line).expect("words");
        let (rules, _) = Rule::read(&words, &mut Around::new(Family::Ipv4, &Numeric)).expect("a rule");
        rules[0].check(Table::Raw, 1 << Hook::Prerouting as u8)
    };
    assert_eq!(check("-p tcp -j CT --helper ftp"), Ok(()));
    assert_eq!(check("-p udp -j CT --helper ftp"), Err(Refused::NotThere));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn each_end_reads_where_it_reaches_the_other_and_all_else_as_it_was_said(
        seed: u64, isns: (u32, u32),
        lines in prop::collection::vec((any::<bool>(), 1024u16.., 0usize..40), 1..6),
        answers in prop::collection::vec((any::<bool>(), 1024u16.., 0usize..40), 1..6),
    ) {
        // Both ends are translated, and no packet may be out of the windows that tracking knows.
        let mut director = director(&[HELPER, DNAT, "nat POSTROUTING -o lan -j MASQUERADE", RELATED[0]]);
        let text = |address: &str| address.replace('.', ",");
        let told = |begin: &str, address: &str, port: u16| format!("{begin}{},{},{}", text(address), port >> 8, port & 0xff);
        let script = |lines: &[(bool, u16, usize)], begin: &str, own: &str, seen: &str| {
            let (mut said, mut meant, mut units) = (String::new(), String::new(), Vec::new());
            for &(tells, port, len) in lines {
                let other = format!("NOOP {}\r\n", "x".repeat(len));
                said += &if tells { told(begin, own, port) + "\r\n" } else { other.clone() };
                meant += &if tells { told(begin, seen, port) + "\r\n" } else { other };
                units.push(said.len());
            }
            (said, meant, units)
        };
        let (says, server_reads, units) = script(&lines, "PORT ", "192.0.2.100", "10.0.0.1");
        let client = End::new(isns.0, says.as_bytes(), units);
        let (says, client_reads, units) = script(&answers, "227 Passive ", "10.0.0.11", "192.0.2.1");
        let server = End::new(isns.1, says.as_bytes(), units);

        let frame = |from_client, seg: &Seg| match from_client {
            true => between(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 21), seg),
            false => between((server_mac(11), OUR_LAN), ("10.0.0.11", 21), ("10.0.0.1", 4000), seg),
        };

        let (at_client, at_server, _) = talk(&mut director, frame, client, server, seed);
        prop_assert_eq!(String::from_utf8(at_client).unwrap(), client_reads);
        prop_assert_eq!(String::from_utf8(at_server).unwrap(), server_reads);
        prop_assert_eq!(director.path.check_connections(), Ok(()));
    }
}

#[test]
fn pieces_of_a_line_are_passed_over() {
    let mut director = director(&with(&[SNAT]));
    let (client, server) = outward(3000);
    open(carry(&mut director), (client, server));
    let says = "PORT 10,0,0,11,195,80\r\n";
    let mut at = 0;
    for to in pieces(says.len() - 1, &mut Dice(1)) {
        let part = &says[at..to.min(says.len() - 1)];
        let seq = CLIENT + 1 + at as u32;
        let sent = director.receive(LAN, &[client.says(seq, SERVER + 1, "A", part)]).sent;
        assert_eq!(seen(&sent[0].1).0.data, part.as_bytes());
        at = to;
    }
    assert_eq!(director.path.expectations.len(), 0);
}
