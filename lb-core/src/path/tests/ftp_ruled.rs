//! Goal: rules see the data connections of a virtual service's FTP as RELATED to their control connections, and let them through where they let in nothing
//! else. Method: a white list of a few words; both ends' control connections, line by line; with several workers too.

use super::edited::{FTP, Seg, between, seen, with};
use super::helped::list;
use super::hooks::{Workers, rules};
use super::*;
use crate::conntrack::Status;
use crate::flow::Tuple;
use crate::tables::ServiceOptions;

const WHITE_LIST: [&str; 8] = [
    "filter INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT",
    "filter INPUT -p tcp --dport 80 -j ACCEPT",
    "filter INPUT -j DROP",
    "filter FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT",
    "filter FORWARD -j DROP",
    "filter OUTPUT -m state --state ESTABLISHED,RELATED -j ACCEPT",
    "filter OUTPUT -p tcp --dport 8080 -j ACCEPT",
    "filter OUTPUT -j DROP",
];

fn tables_of(options: ServiceOptions, lines: &[&str]) -> Tables {
    Tables { rules: Arc::new(rules(lines)), ..with(2, options) }
}

fn director(tables: Tables) -> Director {
    let mut director = Director::new();
    director.path.adopt(tables.into());
    director
}

fn carry(director: &mut Director) -> impl FnMut(PortId, &[u8]) -> Out {
    |port, frame| director.receive(port, &[frame.to_vec()])
}

/// A client of a virtual service, and the real server that it comes to.
#[derive(Clone, Copy)]
struct Ends {
    client: (&'static str, u16),
    service: (&'static str, u16),
    server: (&'static str, u16),
    /// As the real server sees the client.
    seen: (&'static str, u16),
}

impl Ends {
    const V4: Ends = Ends {
        client: ("192.0.2.100", 4000),
        service: ("192.0.2.10", 80),
        server: ("10.0.0.11", 8080),
        seen: ("192.0.2.100", 4000),
    };
    const V6: Ends = Ends {
        client: ("2001:db8::100", 4000),
        service: ("2001:db8::10", 80),
        server: ("fd00::11", 8080),
        seen: ("2001:db8::100", 4000),
    };

    fn says(&self, is_client: bool, flags: &'static str, data: &str) -> (PortId, Vec<u8>) {
        let (seq, ack) = match (is_client, flags) {
            (true, "S") => (1000, 0),
            (false, "SA") => (7000, 1001),
            (true, _) => (1001, 7001),
            (false, _) => (7001, 1001),
        };
        let seg = Seg { seq, ack, flags, data: data.as_bytes().to_vec(), sack: None };
        match is_client {
            true => (WAN, between(C2D, self.client, self.service, &seg)),
            false => (LAN, between((server_mac(11), OUR_LAN), self.server, self.seen, &seg)),
        }
    }

    /// The handshake, and a line of one of them as the other one reads it.
    fn open_and_say(
        &self,
        mut carry: impl FnMut(PortId, &[u8]) -> Out,
        is_client: bool,
        line: &str,
    ) -> String {
        for (is_client, flags) in [(true, "S"), (false, "SA"), (true, "A")] {
            let (port, frame) = self.says(is_client, flags, "");
            assert_eq!(carry(port, &frame).sent.len(), 1, "{flags}");
        }
        let (port, frame) = self.says(is_client, "A", line);
        String::from_utf8(seen(&carry(port, &frame).sent[0].1).0.data).expect("text")
    }

    /// A packet of the client's data connection.
    fn passive(&self, sport: u16, flags: &str) -> Vec<u8> {
        tcp(C2D, (self.client.0, sport), (self.service.0, 40000), flags)
    }

    /// What the real server answers there.
    fn answer(&self, dport: u16, flags: &str) -> Vec<u8> {
        tcp((server_mac(11), OUR_LAN), (self.server.0, 40000), (self.seen.0, dport), flags)
    }
}

#[test]
fn a_passive_data_connection_is_related_and_nothing_else_comes_in() {
    for (ends, says, reads) in [
        (Ends::V4, "227 Passive (10,0,0,11,156,64).\r\n", "227 Passive (192,0,2,10,156,64).\r\n"),
        (Ends::V4, "229 Passive (|||40000|)\r\n", "229 Passive (|||40000|)\r\n"),
        (Ends::V6, "229 Passive (|||40000|)\r\n", "229 Passive (|||40000|)\r\n"),
    ] {
        let mut director = director(tables_of(FTP, &WHITE_LIST));
        assert_eq!(ends.open_and_say(carry(&mut director), false, says), reads);
        let elsewhere = tcp(C2D, (ends.client.0, 5000), (ends.service.0, 40001), "S");
        let other = if ends.client.0.contains(':') { "2001:db8::101" } else { "192.0.2.101" };
        let of_another = tcp(C2D, (other, 5000), (ends.service.0, 40000), "S");
        assert!(director.receive(WAN, &[elsewhere, of_another]).sent.is_empty());
        assert_eq!(director.dropped(DropReason::Rule), 2);
        for (is_client, flags) in [(true, "S"), (true, "S"), (false, "SA"), (true, "A"), (false, "A")] {
            let (port, frame) = match is_client {
                true => (WAN, ends.passive(5000, flags)),
                false => (LAN, ends.answer(5000, flags)),
            };
            let must = match is_client {
                true => (ip(ends.client.0), 5000, ip(ends.server.0), 40000, 63),
                false => (ip(ends.service.0), 40000, ip(ends.client.0), 5000, 63),
            };
            assert_eq!(read(&director.receive(port, &[frame]).sent[0].1), must, "{flags}");
        }
        let cell = director.counters[0].server(ServerId(if ends.client.0.contains(':') { 6 } else { 2 }));
        assert_eq!((cell.active.get(), cell.connections.get()), (2, 2));
        assert_eq!(director.path.check_connections(), Ok(()));
    }
}

#[test]
fn an_active_data_connection_is_related_and_nothing_else_goes_out() {
    for (ends, line) in [
        (Ends::V4, "PORT 192,0,2,100,195,80\r\n"),
        (Ends::V4, "EPRT |1|192.0.2.100|50000|\r\n"),
        (Ends::V6, "EPRT |2|2001:db8::100|50000|\r\n"),
    ] {
        let mut director = director(tables_of(FTP, &WHITE_LIST));
        assert_eq!(ends.open_and_say(carry(&mut director), true, line), line);
        let from_server =
            |to, flags| tcp((server_mac(11), OUR_LAN), (ends.server.0, 8079), (ends.client.0, to), flags);
        assert!(director.receive(LAN, &[from_server(50001, "S")]).sent.is_empty());
        assert_eq!(director.dropped(DropReason::Rule), 1);
        let answer = |flags| tcp(C2D, (ends.client.0, 50000), (ends.service.0, 79), flags);
        for (port, frame) in [
            (LAN, from_server(50000, "S")),
            (LAN, from_server(50000, "S")),
            (WAN, answer("SA")),
            (LAN, from_server(50000, "A")),
            (WAN, answer("A")),
        ] {
            let must = match port {
                LAN => (ip(ends.service.0), 79, ip(ends.client.0), 50000, 63),
                _ => (ip(ends.client.0), 50000, ip(ends.server.0), 8079, 63),
            };
            assert_eq!(read(&director.receive(port, &[frame]).sent[0].1), must);
        }
        assert_eq!(director.states(), ["ESTABLISHED"; 2]);
    }
}

#[test]
fn only_new_data_connections_are_related_and_established_ones_are_not() {
    let related = |chain: &str| format!("filter {chain} -m state --state RELATED -j DROP");
    for (chain, is_active) in [("INPUT", false), ("OUTPUT", false), ("FORWARD", true)] {
        let line = if is_active { "PORT 192,0,2,100,195,80\r\n" } else { "229 (|||40000|)\r\n" };
        let first = match is_active {
            true => (LAN, tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 8079), ("192.0.2.100", 50000), "S")),
            false => (WAN, Ends::V4.passive(5000, "S")),
        };
        let mut director = director(tables_of(FTP, &[&related(chain)]));
        Ends::V4.open_and_say(carry(&mut director), is_active, line);
        assert!(director.receive(first.0, &[first.1]).sent.is_empty(), "{chain}");
        assert_eq!(director.dropped(DropReason::Rule), 1);
    }
}

/// What was told since the last time: what became of it, whether it is expected, and by which port it goes to.
fn told(director: &Director) -> Vec<(EventKind, bool, u16)> {
    let events = director.path.tables.events.clone();
    let all = std::iter::from_fn(move || events.take()).map(|FlowEvent { kind, view }| {
        let expected = view.known.told_by.and_then(|_| view.expected());
        (kind, expected.is_some(), expected.unwrap_or_else(|| view.original()).dport)
    });
    all.collect()
}

#[test]
fn what_a_services_helper_expects_is_listed_told_of_and_forgotten_as_is_ordered() {
    use EventKind::{Destroy, New};
    let control = Tuple {
        src: ip("192.0.2.100"),
        dst: ip("192.0.2.10"),
        sport: 4000,
        dport: 80,
        protocol: Protocol::TCP,
    };
    for (is_client, says, from, to) in [
        (false, "229 Passive (|||40000|)\r\n", ("192.0.2.100", 0), ("192.0.2.10", 40000)),
        (true, "PORT 192,0,2,100,195,80\r\n", ("10.0.0.11", 8079), ("192.0.2.100", 50000)),
    ] {
        let mut director = director(tables_of(FTP, &WHITE_LIST));
        Ends::V4.open_and_say(carry(&mut director), is_client, "NOOP\r\n");
        director.path.tables.events.set_read(true);
        let (port, frame) = Ends::V4.says(is_client, "A", says);
        director.receive(port, std::slice::from_ref(&frame));
        assert_eq!(told(&director), [(New, true, to.1)]);
        let (connections, expected) = list(&director.path, director.now);
        assert_eq!((connections.len(), connections[0].known.helper), (1, Some("ftp")));
        let [view] = &expected[..] else { panic!("{expected:?}") };
        assert_eq!((view.known.told_by, view.known.helper), (Some(control), Some("ftp")));
        let tuple = view.expected().expect("it has not come");
        assert_eq!((tuple.src, tuple.sport, tuple.dst, tuple.dport), (ip(from.0), from.1, ip(to.0), to.1));
        director.receive(port, std::slice::from_ref(&frame));
        assert_eq!(told(&director), [(Destroy, true, to.1), (New, true, to.1)], "told once more");
        let forget = Order::plain(Deed::Forget);
        assert_eq!(director.path.order(&view.original(), &forget, director.now), Outcome::Done);
        assert_eq!(director.path.order(&view.original(), &forget, director.now), Outcome::Absent);
        assert_eq!(told(&director), [(Destroy, true, to.1)]);
        let (port_of_data, data) = match is_client {
            false => (WAN, Ends::V4.passive(5000, "S")),
            true => (LAN, tcp((server_mac(11), OUR_LAN), from, to, "S")),
        };
        assert!(
            director.receive(port_of_data, std::slice::from_ref(&data)).sent.is_empty(),
            "nobody is expected"
        );
        director.receive(port, std::slice::from_ref(&frame));
        told(&director);
        assert_eq!(director.receive(port_of_data, &[data]).sent.len(), 1);
        if is_client {
            // IPVS sees it when the server acknowledges.
            director.receive(WAN, &[tcp(C2D, to, ("192.0.2.10", 79), "SA")]);
            director.receive(LAN, &[tcp((server_mac(11), OUR_LAN), from, to, "A")]);
        }
        let kinds: Vec<_> =
            told(&director).into_iter().map(|(kind, is_expected, _)| (kind, is_expected)).collect();
        assert_eq!(kinds[..2], [(Destroy, true), (New, false)], "it has come");
        let (connections, expected) = list(&director.path, director.now);
        assert_eq!(expected.iter().filter_map(FlowView::expected).count(), 0);
        assert_eq!(connections.len(), 2);
        let data = connections.iter().find(|view| view.original().dport != 80).expect("it is listed");
        assert!(data.known.status.has(Status::EXPECTED) && data.known.helper.is_none());
        let counts = &director.path.mine.flows;
        let counted = [&counts.expect_create, &counts.expect_new, &counts.expect_delete];
        assert_eq!(counted.map(|count| count.get()), [3, 1, 3]);
    }
}

#[test]
fn without_a_helper_nothing_is_related() {
    let mut director = director(tables_of(ServiceOptions { helper: None, ..FTP }, &WHITE_LIST));
    Ends::V4.open_and_say(carry(&mut director), false, "229 Passive (|||40000|)\r\n");
    assert!(director.receive(WAN, &[Ends::V4.passive(5000, "S")]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::Rule), 1);
}

#[test]
fn a_data_connection_has_its_control_connections_mark_and_its_helper_matches() {
    let lines = [
        "mangle INPUT -p tcp --dport 80 -j CONNMARK --set-mark 7",
        "filter INPUT -p tcp --dport 80 -j ACCEPT",
        "filter INPUT -m helper --helper ftp -m connmark --mark 7 -m conntrack --ctstatus EXPECTED -j ACCEPT",
        "filter INPUT -j DROP",
    ];
    let mut director = director(tables_of(FTP, &lines));
    Ends::V4.open_and_say(carry(&mut director), false, "229 Passive (|||40000|)\r\n");
    for flags in ["S", "A"] {
        assert_eq!(director.receive(WAN, &[Ends::V4.passive(5000, flags)]).sent.len(), 1, "{flags}");
    }
    let mut views = Vec::new();
    director.path.list(0, u32::MAX, director.now, &mut |view| views.push(view));
    let data = views.iter().find(|view| view.client.1 == 5000).expect("it is listed");
    assert_eq!((data.known.mark, data.known.status.has(Status::EXPECTED)), (7, true));
}

#[test]
fn in_a_zone_it_is_expected_as_well_and_what_is_not_tracked_is_not() {
    for (raw, is_expected) in [
        ("raw PREROUTING -p tcp -j CT --zone 7", true),
        ("raw PREROUTING -p tcp --dport 40000 -j CT --notrack", false),
    ] {
        let mut director = director(tables_of(FTP, &[&[raw], &WHITE_LIST[..]].concat()));
        Ends::V4.open_and_say(carry(&mut director), false, "229 Passive (|||40000|)\r\n");
        let sent = director.receive(WAN, &[Ends::V4.passive(5000, "S")]).sent;
        assert_eq!(sent.len(), usize::from(is_expected), "{raw}");
    }
}

#[test]
fn where_a_rule_leads_to_the_service_data_connections_take_the_same_way() {
    // To an address of this host, and to one that is nobody's here.
    for address in ["192.0.2.1", "198.51.100.9"] {
        let dnat =
            format!("nat PREROUTING -d {address} -p tcp --dport 21 -j DNAT --to-destination 192.0.2.10:80");
        let lines = [&[&dnat[..]], &WHITE_LIST[..]].concat();
        let mut director = director(tables_of(FTP, &lines));
        let ends = Ends {
            service: (if address == "192.0.2.1" { "192.0.2.1" } else { "198.51.100.9" }, 21),
            ..Ends::V4
        };
        let reads = ends.open_and_say(carry(&mut director), false, "227 Passive (10,0,0,11,156,64).\r\n");
        assert_eq!(reads, format!("227 Passive ({},156,64).\r\n", address.replace('.', ",")));
        let sent = director.receive(WAN, &[ends.passive(5000, "S")]).sent;
        assert_eq!(read(&sent[0].1), (ip("192.0.2.100"), 5000, ip("10.0.0.11"), 40000, 63));
        let sent = director.receive(LAN, &[ends.answer(5000, "SA")]).sent;
        assert_eq!(read(&sent[0].1), (ip(address), 40000, ip("192.0.2.100"), 5000, 63));
    }
}

#[test]
fn with_source_nat_a_passive_data_connection_comes_from_where_a_rule_says() {
    let lines = ["nat POSTROUTING -m ipvs --vaddr 192.0.2.10 -j MASQUERADE"];
    let mut tables = tables_of(FTP, &[&lines, &WHITE_LIST[..]].concat());
    tables.settings.sysctls.source_nat = 1;
    let mut director = director(tables);
    let ends = Ends { seen: ("10.0.0.1", 4000), ..Ends::V4 };
    let reads = ends.open_and_say(carry(&mut director), false, "227 Passive (10,0,0,11,156,64).\r\n");
    assert_eq!(reads, "227 Passive (192,0,2,10,156,64).\r\n");
    let sent = director.receive(WAN, &[ends.passive(5000, "S")]).sent;
    assert_eq!(read(&sent[0].1), (ip("10.0.0.1"), 5000, ip("10.0.0.11"), 40000, 63));
    let sent = director.receive(LAN, &[ends.answer(5000, "SA")]).sent;
    assert_eq!(read(&sent[0].1), (ip("192.0.2.10"), 40000, ip("192.0.2.100"), 5000, 63));
}

#[test]
fn a_draining_director_begins_no_data_connection() {
    let mut director = director(tables_of(FTP, &WHITE_LIST));
    Ends::V4.open_and_say(carry(&mut director), false, "229 Passive (|||40000|)\r\n");
    let mut tables = tables_of(FTP, &WHITE_LIST);
    tables.settings.draining = true;
    director.path.adopt(tables.into());
    assert!(director.receive(WAN, &[Ends::V4.passive(5000, "S")]).sent.is_empty());
}

#[test]
fn at_any_number_of_workers_it_is_the_same() {
    for number in 1..5 {
        let mut workers = Workers::new(number, rules(&WHITE_LIST));
        let tables = Arc::new(tables_of(FTP, &WHITE_LIST));
        workers.paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
        let mut done = 0;
        for n in 0..10 {
            let ends =
                Ends { client: ("192.0.2.100", 4000 + n), seen: ("192.0.2.100", 4000 + n), ..Ends::V4 };
            let (_, out) = workers.carry(WAN, &ends.says(true, "S", "").1, false);
            if read(&out.sent[0].1).2 != ip("10.0.0.11") {
                continue;
            }
            done += 1;
            let says = "229 Passive (|||40000|)\r\n";
            ends.open_and_say(|port, frame| workers.carry(port, frame, false).1, false, says);
            let sport = 6000 + n;
            let (began, out) = workers.carry(WAN, &ends.passive(sport, "S"), false);
            assert_eq!(read(&out.sent[0].1).2, ip("10.0.0.11"), "{number} workers");
            for (port, frame) in [(LAN, ends.answer(sport, "SA")), (WAN, ends.passive(sport, "A"))] {
                let (at, out) = workers.carry(port, &frame, false);
                assert_eq!((at, out.sent.len()), (began, 1), "{number} workers");
            }
            let says = format!("PORT 192,0,2,100,195,{n}\r\n");
            let (port, frame) = ends.says(true, "A", &says);
            assert_eq!(workers.carry(port, &frame, false).1.sent.len(), 1);
            let to = 195 * 256 + n;
            let syn = tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 8079), ("192.0.2.100", to), "S");
            let (began, out) = workers.carry(LAN, &syn, false);
            assert_eq!(read(&out.sent[0].1).1, 79, "{number} workers");
            let answer = tcp(C2D, ("192.0.2.100", to), ("192.0.2.10", 79), "SA");
            let (at, out) = workers.carry(WAN, &answer, false);
            assert_eq!((at, out.sent.len()), (began, 1));
        }
        assert!(done > 2, "{number} workers");
    }
}
