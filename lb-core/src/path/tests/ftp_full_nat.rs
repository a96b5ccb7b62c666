//! Goal: FTP works behind FullNAT, also where client and real server are of different families: each end hears of ends that it can reach, in words that it
//! knows, and data connections come to them, passive and active, at one worker and at several.
//! Method: both ends' control connections, line by line; two TCPs that lose packets.

use proptest::prelude::*;

use super::edited::{Dice, End, FTP, Seg, between, pieces, seen, talk};
use super::hooks::{Workers, rules};
use super::*;
use crate::flow::carry::Salvage;
use crate::rule::Rules;
use crate::tables::{ServiceOptions, Settings};

/// A client of a virtual service, and a real server that sees `own` in its place.
#[derive(Clone, Copy, Debug)]
struct Ends {
    client: &'static str,
    service: &'static str,
    server: &'static str,
    own: &'static str,
}

const V4_TO_V4: Ends =
    Ends { client: "192.0.2.100", service: "192.0.2.10", server: "10.0.0.11", own: "10.0.0.1" };
const V6_TO_V6: Ends =
    Ends { client: "2001:db8::100", service: "2001:db8::10", server: "fd00::11", own: "fd00::1" };
const V6_TO_V4: Ends = Ends { server: V4_TO_V4.server, own: V4_TO_V4.own, ..V6_TO_V6 };
const V4_TO_V6: Ends = Ends { server: V6_TO_V6.server, own: V6_TO_V6.own, ..V4_TO_V4 };
const ALL: [Ends; 4] = [V4_TO_V4, V6_TO_V6, V6_TO_V4, V4_TO_V6];

impl Ends {
    fn is_mixed(&self) -> bool {
        ip(self.client).is_ipv6() != ip(self.server).is_ipv6()
    }

    fn tables(&self) -> Tables {
        if self.is_mixed() {
            return super::translated::with(2, &[11, 12], FTP);
        }
        let tables = super::edited::with(2, FTP);
        let services = tables.services.iter().map(|service| {
            let mut service = Service::clone(service);
            service.servers.iter_mut().for_each(|server| server.forward = Forward::FullNat);
            Arc::new(service)
        });
        Tables { services: Services::new(services).into(), ..tables }
    }

    fn director(&self) -> Director {
        let mut director = Director::new();
        director.path.adopt(self.tables().into());
        director
    }

    fn of_client(&self, sport: u16, dport: u16, seg: &Seg) -> (PortId, Vec<u8>) {
        (WAN, between(C2D, (self.client, sport), (self.service, dport), seg))
    }

    fn of_server(&self, sport: u16, dport: u16, seg: &Seg) -> (PortId, Vec<u8>) {
        (LAN, between((server_mac(11), OUR_LAN), (self.server, sport), (self.own, dport), seg))
    }
}

fn seg(seq: u32, ack: u32, flags: &'static str, data: &str) -> Seg {
    Seg { seq, ack, flags, data: data.as_bytes().to_vec(), sack: None }
}

/// A control connection, and how far both have come.
struct Control<C> {
    ends: Ends,
    carry: C,
    client: u16,
    /// By which the real server knows the client.
    local: u16,
    /// What each has sent and received, as it counts it.
    sent: [u32; 2],
    received: [u32; 2],
}

impl<C: FnMut(PortId, &[u8]) -> Out> Control<C> {
    fn open(ends: Ends, client: u16, mut carry: C) -> Control<C> {
        let (port, frame) = ends.of_client(client, 80, &seg(1000, 0, "S", ""));
        let (src, local, dst, dport, _) = read(&carry(port, &frame).sent[0].1);
        assert_eq!((src, dst, dport), (ip(ends.own), ip(ends.server), 8080));
        let (port, frame) = ends.of_server(8080, local, &seg(7000, 1001, "SA", ""));
        assert_eq!(carry(port, &frame).sent.len(), 1);
        let mut control = Control { ends, carry, client, local, sent: [1001, 7001], received: [7001, 1001] };
        control.says(true, "");
        control
    }

    /// What the other end hears; both come to have all.
    fn says(&mut self, is_client: bool, line: &str) -> String {
        let heard = self.tries(is_client, line);
        self.sent[usize::from(!is_client)] += line.len() as u32;
        self.received[usize::from(is_client)] += heard.len() as u32;
        // It is acknowledged.
        if !line.is_empty() {
            self.tries(!is_client, "");
        }
        heard
    }

    /// The same, and nobody takes note of it.
    fn tries(&mut self, is_client: bool, line: &str) -> String {
        let who = usize::from(!is_client);
        let said = seg(self.sent[who], self.received[who], "A", line);
        let (port, frame) = match is_client {
            true => self.ends.of_client(self.client, 80, &said),
            false => self.ends.of_server(8080, self.local, &said),
        };
        let out = (self.carry)(port, &frame);
        let (heard, ..) = seen(&out.sent[0].1);
        assert_eq!((heard.seq, heard.ack), (self.received[1 - who], self.sent[1 - who]), "{line:?}");
        String::from_utf8(heard.data).expect("text")
    }

    /// One packet between data ports: how it leaves.
    fn data(
        &mut self,
        is_client: bool,
        sport: u16,
        dport: u16,
        flags: &'static str,
    ) -> (IpAddr, u16, IpAddr, u16, u8) {
        let (port, frame) = match is_client {
            true => self.ends.of_client(sport, dport, &seg(1, 1, flags, "")),
            false => self.ends.of_server(sport, dport, &seg(1, 1, flags, "")),
        };
        let out = (self.carry)(port, &frame);
        assert_eq!(out.sent.len(), 1, "{:?} {flags}", self.ends);
        read(&out.sent[0].1)
    }

    /// A client's data connection to where a server waits.
    fn passive(&mut self, sport: u16) {
        let Ends { client, service, server, own } = self.ends;
        let (src, local, dst, dport, _) = self.data(true, sport, 40000, "S");
        assert_eq!((src, dst, dport), (ip(own), ip(server), 40000), "as the control connection's");
        assert_ne!(local, self.local);
        for _ in 0..2 {
            assert_eq!(self.data(false, 40000, local, "SA"), (ip(service), 40000, ip(client), sport, 63));
            assert_eq!(self.data(true, sport, 40000, "A"), (ip(own), local, ip(server), 40000, 63));
        }
    }

    /// A server's to where its client waits, as it heard.
    fn active(&mut self, local: u16, dport: u16) {
        let Ends { client, service, server, own } = self.ends;
        for flags in ["S", "A"] {
            assert_eq!(self.data(false, 8079, local, flags), (ip(service), 79, ip(client), dport, 63));
            assert_eq!(self.data(true, dport, 79, "SA"), (ip(own), local, ip(server), 8079, 63));
        }
    }
}

fn carry(director: &mut Director) -> impl FnMut(PortId, &[u8]) -> Out {
    |port, frame| director.receive(port, &[frame.to_vec()])
}

const PASSIVE: &str = "227 Entering Passive Mode (10,0,0,11,156,64).\r\n";
const EXTENDED: &str = "229 Entering Extended Passive Mode (|||40000|)\r\n";
const PASSIVE_HERE: &str = "227 Entering Passive Mode (192,0,2,10,156,64).\r\n";

#[test]
fn a_passive_data_connection_comes_from_where_its_control_connection_does() {
    for (ends, asks, heard, answers, answered) in [
        (V4_TO_V4, "PASV\r\n", "PASV\r\n", PASSIVE, PASSIVE_HERE),
        (V4_TO_V4, "EPSV\r\n", "EPSV\r\n", EXTENDED, EXTENDED),
        (V6_TO_V6, "EPSV\r\n", "EPSV\r\n", EXTENDED, EXTENDED),
        (V6_TO_V4, "EPSV\r\n", "PASV\r\n", PASSIVE, EXTENDED),
        (V6_TO_V4, "EPSV 2\r\n", "PASV\r\n", PASSIVE, EXTENDED),
        (V4_TO_V6, "PASV\r\n", "EPSV\r\n", EXTENDED, PASSIVE_HERE),
        (V4_TO_V6, "EPSV 1\r\n", "EPSV 2\r\n", EXTENDED, EXTENDED),
        (V4_TO_V6, "EPSV\r\n", "EPSV\r\n", EXTENDED, EXTENDED),
    ] {
        let mut director = ends.director();
        let mut control = Control::open(ends, 4000, carry(&mut director));
        assert_eq!(control.says(true, asks), heard);
        assert_eq!(control.tries(false, answers), answered, "which was lost");
        assert_eq!(control.says(false, answers), answered);
        control.passive(5000);
        assert_eq!(control.says(true, "NOOP\r\n"), "NOOP\r\n");
        drop(control);
        assert_eq!(director.path.check_connections(), Ok(()));
    }
}

/// The port that a server is told.
fn port_in(line: &str) -> u16 {
    let line = line.trim_end();
    let numbers = || line.rsplit(',').map(|number| number.parse::<u16>().expect("a number"));
    match line.strip_prefix("PORT ") {
        Some(_) => numbers().next().expect("two") + 256 * numbers().nth(1).expect("two"),
        None => line.trim_end_matches('|').rsplit('|').next().expect("fields").parse().expect("a port"),
    }
}

#[test]
fn an_active_data_connection_goes_to_where_its_server_knows_the_client() {
    let (port, v4) = ("PORT 192,0,2,100,195,80\r\n", "EPRT |1|192.0.2.100|50000|\r\n");
    let v6 = "EPRT |2|2001:db8::100|50000|\r\n";
    for (ends, says, hears) in [
        (V4_TO_V4, port, "PORT 10,0,0,1,"),
        (V4_TO_V4, v4, "EPRT |1|10.0.0.1|"),
        (V6_TO_V6, v6, "EPRT |2|fd00:0:0:0:0:0:0:1|"),
        (V6_TO_V4, v6, "PORT 10,0,0,1,"),
        (V4_TO_V6, port, "EPRT |2|fd00:0:0:0:0:0:0:1|"),
        (V4_TO_V6, v4, "EPRT |2|fd00:0:0:0:0:0:0:1|"),
    ] {
        let mut director = ends.director();
        let mut control = Control::open(ends, 4000, carry(&mut director));
        let lost = control.tries(true, says);
        let heard = control.says(true, says);
        assert_eq!(heard, lost, "one that comes again says the same");
        assert!(heard.starts_with(hears) && heard.ends_with("\r\n"), "{heard}");
        control.says(false, "200 PORT command successful\r\n");
        control.active(port_in(heard.trim_end()), 50000);
        drop(control);
        assert_eq!(director.path.check_connections(), Ok(()));
    }
}

#[test]
fn what_is_no_end_of_the_client_goes_as_it_is_and_nobody_is_expected() {
    for (ends, line) in [
        (V4_TO_V4, "PORT 192,0,2,101,195,80\r\n"),
        (V4_TO_V6, "PORT 192,0,2,101,195,80\r\n"),
        (V4_TO_V6, "PORT 192,0,2,100,0,80\r\n"),
        (V6_TO_V4, "EPRT |2|2001:db8::101|50000|\r\n"),
        (V6_TO_V4, "PASV\r\n"),
    ] {
        let mut director = ends.director();
        let mut control = Control::open(ends, 4000, carry(&mut director));
        assert_eq!(control.says(true, line), line);
        assert_eq!(control.says(false, "200 ok\r\n"), "200 ok\r\n");
        drop(control);
        assert_eq!(director.states().len(), 1, "{line}");
    }
    // The client's own PASV.
    let mut director = V6_TO_V4.director();
    let mut control = Control::open(V6_TO_V4, 4000, carry(&mut director));
    control.says(true, "PASV\r\n");
    assert_eq!(control.says(false, PASSIVE), PASSIVE);
    drop(control);
    assert_eq!(director.states().len(), 1);
}

#[test]
fn what_the_server_is_not_to_hear_is_answered_in_its_place_and_order() {
    let wrong = |n| format!("522 Network protocol not supported, use ({n})\r\n");
    for (ends, line, answered) in [
        (V6_TO_V4, "EPSV ALL\r\n", "504 Command not implemented for that parameter\r\n".to_owned()),
        (V6_TO_V4, "EPSV 1\r\n", wrong(2)),
        (V6_TO_V4, "EPRT |1|192.0.2.100|50000|\r\n", wrong(2)),
        (V4_TO_V6, "EPRT |2|2001:db8::100|50000|\r\n", wrong(1)),
    ] {
        let mut director = ends.director();
        let mut control = Control::open(ends, 4000, carry(&mut director));
        assert_eq!(control.tries(true, line), "NOOP\r\n");
        assert_eq!(control.says(true, line), "NOOP\r\n");
        assert_eq!(control.tries(false, "200 NOOP ok.\r\n"), answered);
        assert_eq!(control.says(false, "200 NOOP ok.\r\n"), answered);
        // What follows is answered by the server.
        assert_eq!(control.says(true, "TYPE I\r\n"), "TYPE I\r\n");
        assert_eq!(control.says(false, "200 Binary.\r\n"), "200 Binary.\r\n");
        assert_eq!(control.says(true, line), "NOOP\r\n", "once more");
        assert_eq!(control.says(false, "200 NOOP ok.\r\n"), answered);
    }
}

#[test]
fn behind_auth_that_was_let_nothing_is_read() {
    for (answer, heard) in [("234 Go on\r\n", "EPSV\r\n"), ("530 No\r\n", "PASV\r\n")] {
        let mut director = V6_TO_V4.director();
        let mut control = Control::open(V6_TO_V4, 4000, carry(&mut director));
        control.says(true, "EPSV\r\n");
        control.says(false, PASSIVE);
        assert_eq!(control.says(true, "AUTH TLS\r\n"), "AUTH TLS\r\n");
        assert_eq!(control.says(false, answer), answer);
        assert_eq!(control.says(true, "EPSV\r\n"), heard);
    }
}

#[test]
fn a_data_connection_without_a_local_port_is_not_begun() {
    let mut director = V6_TO_V4.director();
    let mut control = Control::open(V6_TO_V4, 4000, carry(&mut director));
    control.says(true, "EPSV\r\n");
    control.says(false, PASSIVE);
    drop(control);
    // The local address is gone.
    let mut tables = V6_TO_V4.tables();
    let route = |address: &str, len, route| (Prefix { address: ip(address), len }, route);
    let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
    let routes = Routes::new([
        route("2001:db8::", 64, via(0)),
        route("2001:db8::10", 128, Route::Local),
        route("10.0.0.0", 24, via(1)),
    ]);
    tables.routes = routes.into();
    director.path.adopt(Tables { generation: 3, ..tables }.into());
    let (port, frame) = V6_TO_V4.of_client(5000, 40000, &seg(1, 0, "S", ""));
    assert!(director.receive(port, &[frame]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::NoLocalPort), 1);
    let line = seg(1007, 7001 + EXTENDED.len() as u32, "A", "EPRT |2|2001:db8::100|50000|\r\n");
    let (port, frame) = V6_TO_V4.of_client(4000, 80, &line);
    assert!(director.receive(port, &[frame]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::NoLocalPort), 2);
}

#[test]
fn a_killed_director_leaves_data_connections_as_they_are() {
    for ends in ALL {
        let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
        let counters = counters(1);
        let mut path = Path::new(PathConfig { memory, ..config(0, &counters, &Arc::new(Uses::new(1, 100))) });
        path.adopt(ends.tables().into());
        let mut old = Director { path, counters, now: Tick(100) };
        let mut control = Control::open(ends, 4000, carry(&mut old));
        let answer = if ends.is_mixed() && !ip(ends.server).is_ipv6() { PASSIVE } else { EXTENDED };
        control.says(true, "EPSV\r\n");
        control.says(false, answer);
        control.passive(5000);
        let v = if ip(ends.client).is_ipv6() { 2 } else { 1 };
        let heard = control.says(true, &format!("EPRT |{v}|{}|50000|\r\n", ends.client));
        let local = port_in(&heard);
        control.active(local, 50000);
        drop(control);
        drop(old);

        let mut new = ends.director();
        let done = new.path.carry_over(&[Salvage::of(remains.bytes().unwrap()).unwrap()], Tick(200));
        assert_eq!((done.connections, done.no_server, done.damaged), (3, 0, 0), "{ends:?}");
        let (port, frame) = ends.of_server(8079, local, &seg(1, 1, "A", ""));
        let sent = new.receive(port, &[frame]).sent;
        assert_eq!(read(&sent[0].1), (ip(ends.service), 79, ip(ends.client), 50000, 63));
        let (port, frame) = ends.of_client(5000, 40000, &seg(1, 1, "A", ""));
        let sent = new.receive(port, &[frame]).sent;
        assert_eq!(read(&sent[0].1).2, ip(ends.server));
        assert_eq!(new.path.check_connections(), Ok(()));
    }
}

#[test]
fn what_is_awaited_over_a_restart_is_counted_until_it_comes() {
    let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
    let counters = counters(1);
    let mut path = Path::new(PathConfig { memory, ..config(0, &counters, &Arc::new(Uses::new(1, 100))) });
    path.adopt(V4_TO_V4.tables().into());
    let mut old = Director { path, counters, now: Tick(100) };
    let mut control = Control::open(V4_TO_V4, 4000, carry(&mut old));
    let local = port_in(&control.says(true, &format!("EPRT |1|{}|50000|\r\n", V4_TO_V4.client)));
    drop(control);
    drop(old);

    let mut new = V4_TO_V4.director();
    let done = new.path.carry_over(&[Salvage::of(remains.bytes().unwrap()).unwrap()], Tick(200));
    assert_eq!(done.connections, 2);
    let counted = |new: &Director| {
        let flows = &new.counters[0].flows;
        (flows.expect_create.get(), flows.expect_delete.get())
    };
    assert_eq!(counted(&new), (1, 0));
    let (port, frame) = V4_TO_V4.of_server(8079, local, &seg(1, 0, "S", ""));
    assert_eq!(new.receive(port, &[frame]).sent.len(), 1);
    let (port, frame) = V4_TO_V4.of_client(50000, 79, &seg(1, 2, "SA", ""));
    assert_eq!(new.receive(port, &[frame]).sent.len(), 1);
    assert_eq!(counted(&new), (1, 1));
}

#[test]
fn rules_see_it_related_in_the_family_that_it_comes_in() {
    let white_list = [
        "filter INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT",
        "filter INPUT -p tcp --dport 80 -j ACCEPT",
        "filter INPUT -j DROP",
        "filter FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT",
        "filter FORWARD -j DROP",
        "filter OUTPUT -m state --state ESTABLISHED,RELATED -j ACCEPT",
        "filter OUTPUT -p tcp --dport 80 -j ACCEPT",
        "filter OUTPUT -p tcp --dport 8080 -j ACCEPT",
        "filter OUTPUT -j DROP",
    ];
    for ends in ALL {
        let tables = Tables { rules: Arc::new(rules(&white_list)), ..ends.tables() };
        let mut director = Director::new();
        director.path.adopt(tables.into());
        let mut control = Control::open(ends, 4000, carry(&mut director));
        control.says(true, "EPSV\r\n");
        let answer = if ip(ends.server).is_ipv6() || !ends.is_mixed() { EXTENDED } else { PASSIVE };
        assert_eq!(control.says(false, answer), EXTENDED);
        control.passive(5000);
        let v = if ip(ends.client).is_ipv6() { 2 } else { 1 };
        let heard = control.says(true, &format!("EPRT |{v}|{}|50000|\r\n", ends.client));
        control.active(port_in(&heard), 50000);
    }
}

#[test]
fn at_any_number_of_workers_it_is_the_same() {
    for (number, ends) in (1..5).flat_map(|number| ALL.map(|ends| (number, ends))) {
        let mut workers = Workers::new(number, Rules::default());
        let tables = Arc::new(ends.tables());
        workers.paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
        let (answer, v) = match (ip(ends.client).is_ipv6(), ip(ends.server).is_ipv6()) {
            (true, false) => (PASSIVE, 2),
            (is_ipv6, _) => (EXTENDED, if is_ipv6 { 2 } else { 1 }),
        };
        let mut done = 0;
        for client in 4000..4010 {
            // Both real servers have some, and only one is listened to here.
            let (port, syn) = ends.of_client(client, 80, &seg(1000, 0, "S", ""));
            let first = workers.carry(port, &syn, false).1;
            if read(&first.sent[0].1).2 != ip(ends.server) {
                continue;
            }
            done += 1;
            let mut control =
                Control::open(ends, client, |port, frame: &[u8]| workers.carry(port, frame, false).1);
            control.says(true, "EPSV\r\n");
            assert_eq!(control.says(false, answer), EXTENDED);
            control.passive(client + 1000);
            let says = format!("EPRT |{v}|{}|{}|\r\n", ends.client, client + 2000);
            assert_eq!(control.tries(true, &says), control.tries(true, &says));
            let heard = control.says(true, &says);
            control.active(port_in(&heard), client + 2000);
        }
        assert!(done > 2, "{number} workers");
        workers.paths.iter().for_each(|path| assert_eq!(path.check_connections(), Ok(())));
    }
}

#[test]
fn who_is_a_backup_once_it_is_known_who_waits_gives_the_packet_to_the_host() {
    let ends = V4_TO_V4;
    let tables = |generation, is_standby| {
        let tables = ends.tables();
        // One takes what is left.
        let rest = tables.services.iter().map(|service| {
            let mut rest = Service::clone(service);
            (rest.id, rest.key.port) = (ServiceId(rest.id.0 + 10), 0);
            Arc::new(rest)
        });
        let services = Services::new(tables.services.iter().cloned().chain(rest));
        let settings = Settings { is_standby, ..tables.settings };
        Arc::new(Tables { generation, services: services.into(), settings, ..tables })
    };
    let mut workers = Workers::new(3, Rules::default());
    workers.paths.iter_mut().for_each(|path| drop(path.adopt(tables(2, false))));
    let is_listened_to = |client: &u16| {
        let (port, syn) = ends.of_client(*client, 80, &seg(1000, 0, "S", ""));
        read(&workers.carry(port, &syn, false).1.sent[0].1).2 == ip(ends.server)
    };
    let client = (4000..4010).find(is_listened_to).expect("both real servers have some");
    let mut control = Control::open(ends, client, |port, frame: &[u8]| workers.carry(port, frame, false).1);
    control.says(true, "EPSV\r\n");
    assert_eq!(control.says(false, EXTENDED), EXTENDED);
    let (before, mut asked) = (workers.inserted(), 0);
    for (sport, dport) in (5000..5020).flat_map(|sport| [(sport, 40000), (sport, 41000)]) {
        let (port, syn) = ends.of_client(sport, dport, &seg(1, 0, "S", ""));
        let mut out = Out::default();
        let mut handed = vec![(WorkerId(0), Frame::new(port, &syn), Steer::Plain)];
        while let Some((to, packet, steer)) = handed.pop() {
            let path = &mut workers.paths[to.index()];
            let is_known = matches!(steer, Steer::Expected(_));
            path.adopt(tables(3 + asked, is_known));
            asked += u32::from(is_known);
            let mut burst = [(packet, steer)].into_iter().collect();
            path.receive_handed_over(&mut burst, Tick(100), &mut out);
            if is_known {
                assert_eq!(
                    (out.to_twin.len(), out.sent.len(), out.handed.len()),
                    (1, 0, 0),
                    "{sport} {dport}"
                );
            }
            handed.append(&mut out.handed);
        }
    }
    assert!(asked > 10, "{asked}");
    let of_others = 40 - u64::from(asked);
    assert_eq!(workers.inserted() - before, of_others, "who knew itself who waits had no new tables");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_hear_what_is_meant_for_them_whatever_is_lost(
        seed: u64, isns: (u32, u32), is_to_v4: bool, lines in prop::collection::vec((0usize..4, 1024u16.., 0usize..40), 1..6),
    ) {
        let ends = if is_to_v4 { V6_TO_V4 } else { V4_TO_V6 };
        let mut first = ends.director();
        let (_, syn) = ends.of_client(4000, 80, &seg(1, 0, "S", ""));
        let local = read(&first.receive(WAN, &[syn]).sent[0].1).1;
        let (mut asked, mut heard, mut asks) = (String::new(), String::new(), Vec::new());
        let mut say = |says: &str, hears: &str| {
            asked += says;
            heard += hears;
            asks.push(asked.len());
        };
        for &(kind, port, len) in &lines {
            let ask = ["EPSV\r\n", "PASV\r\n"];
            let another = format!("EPRT |2|2001:db8::7|{port}|\r\n");
            let other = format!("STOR {}\r\n", "x".repeat(len));
            match (kind, is_to_v4) {
                (0, true) => say(ask[0], ask[1]),
                (0, false) => say(ask[1], ask[0]),
                (1, true) => say("EPSV ALL\r\n", "NOOP\r\n"),
                // Nobody's.
                (2, true) => say(&another, &another),
                (2, false) => say(&another, "NOOP\r\n"),
                _ => say(&other, &other),
            }
        }
        let mut director = ends.director();
        let client = End::new(isns.0, asked.as_bytes(), asks);
        let answers = b"220 Welcome to all of you.\r\n".repeat(4);
        let server = End::new(isns.1, &answers, pieces(answers.len(), &mut Dice(seed)));
        let frame = |is_client: bool, seg: &Seg| match is_client {
            true => ends.of_client(4000, 80, seg).1,
            false => ends.of_server(8080, local, seg).1,
        };
        let (at_client, at_server, _) = talk(&mut director, frame, client, server, seed);
        prop_assert_eq!(String::from_utf8(at_server).unwrap(), heard);
        prop_assert_eq!(at_client, answers);
        prop_assert_eq!(director.path.check_connections(), Ok(()));
    }
}

#[test]
fn a_control_connection_that_goes_for_what_it_tells_of_is_over() {
    let (counters, memory) = (counters(1), Region::heap(memory_needed(1, 1)));
    let config = config(0, &counters, &Arc::new(Uses::new(1, 1)));
    let config = PathConfig { max_connections: 1, max_ipv6_connections: 1, memory, ..config };
    let mut director = Director { path: Path::new(config), counters, now: Tick(100) };
    director.path.adopt(V4_TO_V4.tables().into());
    let (port, frame) = V4_TO_V4.of_client(4000, 80, &seg(1000, 0, "S", ""));
    let (_, local, ..) = read(&director.receive(port, &[frame]).sent[0].1);
    // Half-open, it may go for another one.
    let (port, frame) = V4_TO_V4.of_server(8080, local, &seg(7001, 1001, "A", PASSIVE));
    let out = director.receive(port, &[frame]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1), "a packet of no connection");
    let flows = &director.counters[0].flows;
    assert_eq!((flows.early_drop.get(), flows.expect_create.get(), flows.expect_delete.get()), (1, 1, 0));
    assert_eq!(director.path.check_connections(), Ok(()));
}

#[test]
fn a_connection_that_nobody_reads_is_not_read_because_the_one_before_it_was() {
    let mut director = Director::new();
    let toa = ServiceOptions { toa: true, ..ServiceOptions::default() };
    director.path.adopt(super::edited::with(2, toa).into());
    let (port, frame) = V4_TO_V4.of_client(4000, 80, &seg(1000, 0, "S", ""));
    let (_, dport, dst, sport, _) = read(&director.receive(port, &[frame]).sent[0].1);
    assert_eq!((dport, dst, sport), (4000, ip("10.0.0.11"), 8080));
    let macs = (server_mac(11), OUR_LAN);
    let said = seg(7001, 1001, "A", PASSIVE);
    let frame = between(macs, (V4_TO_V4.server, 8080), (V4_TO_V4.client, 4000), &said);
    let mut handed = [(Frame::new(LAN, &frame), Steer::Announced(Some(0)))].into_iter().collect();
    let mut out = Out::default();
    director.path.receive_handed_over(&mut handed, director.now, &mut out);
    let (heard, ..) = seen(&out.sent[0].1);
    assert_eq!(String::from_utf8(heard.data).expect("text"), PASSIVE);
}
