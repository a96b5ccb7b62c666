//! Goal: a client that was answered with a SYN cookie and the server behind talk as if they had opened the connection with each other. Method: the target
//! `SYNPROXY` as operators write it, packet by packet; and two TCPs between whom packets are lost and doubled.

use proptest::prelude::*;

use super::edited::{Dice, End, Seg, between, pieces, seen, talk};
use super::hooks::rules;
use super::*;
use crate::flow::Tuple;
use crate::ipvs::limiter::Limiters;
use crate::tables::{ClientMask, Persistence, ProxyVersion, Settings, SynCookies};
use crate::time::Timeout;
use crate::wire::bare::Bare;
use crate::wire::tcp::{ACK, FIN, RST, SYN};
use crate::wire::tcp_options::TcpOptions;

const CLIENT_END: (&str, u16) = ("192.0.2.100", 4000);
const VIP: (&str, u16) = ("192.0.2.10", 80);
const SERVER: (&str, u16) = ("10.0.0.11", 8080);

const NOTRACK: &str = "raw PREROUTING -p tcp -m tcp --syn -j CT --notrack";
const OFFER: &str = "--sack-perm --timestamp --wscale 7 --mss 1460";

/// As the target's manual page has it.
fn lines(chain: &str, more: &[&str]) -> Vec<String> {
    let proxy = format!("filter {chain} -p tcp -m state --state INVALID,UNTRACKED -j SYNPROXY {OFFER}");
    let rest = format!("filter {chain} -m state --state INVALID -j DROP");
    let lines = [NOTRACK.to_owned(), proxy, rest];
    lines.into_iter().chain(more.iter().map(|&line| line.to_owned())).collect()
}

fn with(chain: &str, more: &[&str], tables: Tables) -> Tables {
    let mut settings = Settings::default();
    settings.sysctls.conntrack.tcp_loose = 0;
    let lines = lines(chain, more);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    Tables { rules: Arc::new(rules(&lines)), settings, ..tables }
}

fn director(chain: &str, more: &[&str]) -> Director {
    let mut director = Director::new();
    director.path.adopt(with(chain, more, tables(2, &[11, 12], 1)).into());
    director
}

/// A segment without data, as its sender makes it.
#[derive(Clone, Copy, Debug, Default)]
struct Says {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    options: TcpOptions,
}

fn frame(macs: (Mac, Mac), from: (&str, u16), to: (&str, u16), says: Says) -> Vec<u8> {
    let ends = Tuple { src: ip(from.0), sport: from.1, dst: ip(to.0), dport: to.1, protocol: Protocol::TCP };
    let link = [&macs.1[..], &macs.0[..], &[8, 0]].concat();
    let mut frame = Frame::new(WAN, &link);
    let Says { seq, ack, flags, window, options } = says;
    Bare { seq, ack, flags, window, options: &options.bytes() }.write(&mut frame, link.len(), &ends).unwrap();
    frame.data().to_vec()
}

/// What left: by which port, between which ends, and what it says.
type Left = (PortId, (IpAddr, u16), (IpAddr, u16), Says);

fn left(out: &Out) -> Vec<Left> {
    let say = |(port, frame): &(PortId, Frame)| {
        let (src, sport, dst, dport, _) = read(frame);
        let (seg, flags, _) = seen(frame);
        assert!(seg.data.is_empty());
        let l4 = 14 + 20;
        let window = u16::from_be_bytes([frame.data()[l4 + 14], frame.data()[l4 + 15]]);
        let options = TcpOptions::of(frame.data(), l4);
        (*port, (src, sport), (dst, dport), Says { seq: seg.seq, ack: seg.ack, flags, window, options })
    };
    out.sent.iter().map(say).collect()
}

fn one(out: &Out) -> Left {
    let left = left(out);
    assert_eq!(left.len(), 1, "{left:?}");
    left[0]
}

/// A client and a server, each with its numbers and its clock.
struct Case {
    director: Director,
    to: (&'static str, u16),
    /// The client's first number, and what it was answered with.
    seq: u32,
    isn: u32,
}

const CLIENTS: TcpOptions =
    TcpOptions { mss: Some(1400), scale: Some(6), sack: true, stamps: Some((500, 0)) };
const SERVERS: TcpOptions =
    TcpOptions { mss: Some(1460), scale: Some(9), sack: true, stamps: Some((90_000, 500)) };

impl Case {
    fn new(director: Director, to: (&'static str, u16)) -> Case {
        Case { director, to, seq: 1000, isn: 0 }
    }

    fn client(&mut self, says: Says) -> Out {
        self.director.receive(WAN, &[frame(C2D, CLIENT_END, self.to, says)])
    }

    fn server(&mut self, says: Says) -> Out {
        self.director.receive(LAN, &[frame((server_mac(11), OUR_LAN), SERVER, CLIENT_END, says)])
    }

    /// The client's SYN; what it is answered.
    fn asks(&mut self) -> Says {
        let out = self.client(Says {
            seq: self.seq,
            flags: SYN,
            window: 64_240,
            options: CLIENTS,
            ..Says::default()
        });
        let (port, from, to, says) = one(&out);
        assert_eq!((port, from, to), (WAN, (ip(self.to.0), self.to.1), (ip(CLIENT_END.0), CLIENT_END.1)));
        self.isn = says.seq;
        says
    }

    /// Its acknowledgement of what `says` said.
    fn acknowledgement(&self, says: &Says) -> Says {
        let stamps = says.options.stamps.map(|(clock, _)| (510, clock));
        let options = TcpOptions { stamps, ..TcpOptions::default() };
        Says { seq: self.seq + 1, ack: says.seq.wrapping_add(1), flags: ACK, window: 502, options }
    }

    /// All of it: what left behind the server's answer, for the server and for the client.
    fn opens(&mut self) -> (Says, Says) {
        let says = self.asks();
        let out = self.client(self.acknowledgement(&says));
        assert_eq!(one(&out).3.flags, SYN);
        let out = self.server(self.answer());
        let left = left(&out);
        assert_eq!((left.len(), left[0].0, left[1].0), (2, LAN, WAN), "{left:?}");
        assert_eq!(left[1].1, (ip(self.to.0), self.to.1));
        (left[0].3, left[1].3)
    }

    fn answer(&self) -> Says {
        Says { seq: 7000, ack: self.seq + 1, flags: SYN | ACK, window: 65_160, options: SERVERS }
    }

    fn counts(&self) -> [u64; 5] {
        let cookies = &self.director.counters[0].cookies;
        [&cookies.syn_received, &cookies.valid, &cookies.invalid, &cookies.retrans, &cookies.reopened]
            .map(|count| count.get())
    }
}

fn forwarded() -> Case {
    Case::new(director("FORWARD", &[]), SERVER)
}

/// [`tables`] whose services answer with cookies.
fn cookies(when: SynCookies) -> Tables {
    let tables = tables(2, &[11, 12], 1);
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        service.options.syn_cookies = when;
        Arc::new(service)
    });
    Tables { services: Services::new(services.collect::<Vec<_>>()).into(), ..tables }
}

fn by_service(when: SynCookies) -> Case {
    let mut director = Director::new();
    director.path.adopt(cookies(when).into());
    Case::new(director, VIP)
}

fn served() -> Case {
    Case::new(director("INPUT", &[]), VIP)
}

#[test]
fn a_syn_is_answered_with_a_closed_window_and_what_the_rule_offers_and_nothing_is_kept() {
    let mut case = forwarded();
    let says = case.asks();
    assert_eq!((says.ack, says.flags, says.window), (1001, SYN | ACK, 0));
    let (_, echo) = says.options.stamps.expect("timestamps");
    let TcpOptions { mss, scale, sack, .. } = says.options;
    assert_eq!((mss, scale, sack, echo), (Some(1460), Some(7), true, 500));
    assert!(case.director.states().is_empty());
    assert_eq!(case.counts(), [1, 0, 0, 0, 0]);
    // Who has no timestamps is promised nothing that could not be remembered.
    let options = TcpOptions { stamps: None, ..CLIENTS };
    let out = case.client(Says { seq: 1000, flags: SYN, options, ..Says::default() });
    assert_eq!(one(&out).3.options, TcpOptions { mss: Some(1460), ..TcpOptions::default() });
}

#[test]
fn the_server_is_asked_with_what_the_client_said_once_it_has_acknowledged() {
    for mut case in [forwarded(), served(), by_service(SynCookies::On)] {
        let says = case.asks();
        let out = case.client(case.acknowledgement(&says));
        let (port, from, to, syn) = one(&out);
        assert_eq!((port, from), (LAN, (ip(CLIENT_END.0), CLIENT_END.1)));
        assert_eq!(to, (ip(SERVER.0), SERVER.1));
        assert_eq!((syn.seq, syn.ack, syn.flags, syn.window), (1000, 0, SYN, 502 << 6));
        // Of 1400 the cookie remembers 1360, of all else everything.
        assert_eq!(syn.options, TcpOptions { mss: Some(1360), stamps: Some((510, 0)), ..CLIENTS });
        assert_eq!(case.director.states().len(), 1);
        assert_eq!(case.counts(), [1, 1, 0, 0, 0]);
    }
}

#[test]
fn a_connection_that_a_cookie_opens_is_told_as_new_also_where_rules_would_be_asked_for_its_source() {
    for source_nat in [0, 1] {
        let mut tables = cookies(SynCookies::On);
        tables.settings.sysctls.source_nat = source_nat;
        let mut director = Director::new();
        director.path.adopt(tables.into());
        let mut case = Case::new(director, VIP);
        let events = case.director.path.tables.events.clone();
        events.set_read(true);
        let says = case.asks();
        case.client(case.acknowledgement(&says));
        let first = events.take().expect("it has begun");
        assert_eq!((first.kind, first.view.client), (EventKind::New, (ip(CLIENT_END.0), CLIENT_END.1)));
    }
}

#[test]
fn when_the_server_answers_it_is_acknowledged_and_the_clients_window_opens() {
    for mut case in [forwarded(), served(), by_service(SynCookies::On)] {
        let (server, client) = case.opens();
        let told = (server.seq, server.ack, server.flags, server.window);
        assert_eq!(told, (1001, 7001, ACK, 502));
        assert_eq!(server.options.stamps, Some((500, 90_000)));
        let (seen, isn) = (client.options.stamps.expect("timestamps"), case.isn);
        // In units of the scale that the client was told.
        assert_eq!((client.seq, client.ack, client.flags, client.window), (isn + 1, 1001, ACK, 65_160 >> 7));
        assert_eq!(seen.1, 500);
        assert_eq!(case.director.states(), ["ESTABLISHED"]);
    }
}

#[test]
fn numbers_clocks_and_windows_are_moved_both_ways() {
    for mut case in [forwarded(), served(), by_service(SynCookies::On)] {
        let (_, opened) = case.opens();
        let (ours, _) = opened.options.stamps.unwrap();
        let options = |stamps| TcpOptions { stamps: Some(stamps), ..TcpOptions::default() };
        // The server's windows are of 512 bytes, the client thinks of 128.
        let says = Says { seq: 7001, ack: 1001, flags: ACK, window: 100, options: options((90_040, 510)) };
        let (.., heard) = one(&case.server(says));
        assert_eq!((heard.seq, heard.ack, heard.window), (case.isn + 1, 1001, 400));
        assert_eq!(heard.options.stamps, Some((ours + 40, 510)));
        let says =
            Says { seq: 1001, ack: case.isn + 1, flags: ACK, window: 77, options: options((560, ours + 40)) };
        let (.., heard) = one(&case.client(says));
        assert_eq!((heard.seq, heard.ack, heard.window), (1001, 7001, 77));
        assert_eq!(heard.options.stamps, Some((560, 90_040)));
    }
}

#[test]
fn what_acknowledges_no_cookie_or_an_old_one_opens_nothing() {
    let mut case = forwarded();
    let says = case.asks();
    let good = case.acknowledgement(&says);
    for bad in [Says { ack: good.ack ^ 4, ..good }, Says { seq: good.seq + 1, ..good }] {
        assert!(case.client(bad).sent.is_empty());
    }
    assert_eq!((case.counts(), case.director.dropped(DropReason::BadCookie)), ([1, 0, 2, 0, 0], 2));
    case.director.now = case.director.now.after(Timeout::from_secs(128));
    assert!(case.client(good).sent.is_empty());
    assert!(case.director.states().is_empty());
    let says = case.asks();
    assert_eq!(case.client(case.acknowledgement(&says)).sent.len(), 1);
}

#[test]
fn a_client_that_waits_has_the_server_asked_again() {
    for mut case in [forwarded(), served(), by_service(SynCookies::On)] {
        let says = case.asks();
        let good = case.acknowledgement(&says);
        let first = one(&case.client(good)).3;
        // A probe of the window has the number before.
        for again in [good, Says { seq: good.seq - 1, ..good }] {
            let syn = one(&case.client(again)).3;
            assert_eq!((syn.seq, syn.flags, syn.options), (first.seq, SYN, first.options));
        }
        assert_eq!(case.counts(), [1, 3, 0, 2, 0]);
        assert!(case.client(Says { ack: good.ack + 9, ..good }).sent.is_empty(), "not of this cookie");
        assert_eq!(case.director.states().len(), 1);
        // And a server that did not hear the acknowledgement gets another one.
        for expected in [2, 1] {
            let out = case.server(case.answer());
            assert_eq!(out.sent.len(), expected);
            let (port, .., says) = left(&out)[0];
            assert_eq!((port, says.seq, says.ack, says.flags), (LAN, 1001, 7001, ACK));
            assert_eq!(says.options.stamps, Some((500, 90_000)));
        }
    }
}

#[test]
fn a_server_that_refuses_is_heard_by_the_client() {
    for mut case in [forwarded(), served(), by_service(SynCookies::On)] {
        let says = case.asks();
        case.client(case.acknowledgement(&says));
        let out = case.server(Says { ack: 1001, flags: RST | ACK, ..Says::default() });
        let (port, .., heard) = one(&out);
        assert_eq!((port, heard.seq, heard.ack, heard.flags), (WAN, case.isn + 1, 1001, RST | ACK));
    }
}

#[test]
fn a_server_that_takes_the_syn_for_an_old_connections_is_told_that_there_is_none() {
    for mut case in [forwarded(), served(), by_service(SynCookies::On)] {
        let says = case.asks();
        case.client(case.acknowledgement(&says));
        let out = case.server(Says { seq: 44_000, ack: 33_000, flags: ACK, ..Says::default() });
        let (port, from, to, heard) = one(&out);
        assert_eq!((port, heard.seq, heard.flags), (LAN, 33_000, RST));
        assert_eq!((from, to), ((ip(CLIENT_END.0), CLIENT_END.1), (ip(SERVER.0), SERVER.1)));
    }
}

#[test]
fn a_connection_is_opened_again_with_the_same_ends() {
    let mut case = forwarded();
    case.opens();
    case.client(Says { seq: 1001, ack: case.isn + 1, flags: RST | ACK, ..Says::default() });
    assert_eq!(case.director.states(), ["CLOSE"]);
    // Whatever its number is.
    case.seq = 1500;
    case.opens();
    assert_eq!(case.director.states(), ["ESTABLISHED"]);
    assert_eq!(case.counts(), [2, 2, 0, 0, 1]);
    // Of a service it is the kernel's conn_reuse_mode.
    let mut case = served();
    case.opens();
    case.client(Says { seq: 1001, ack: case.isn + 1, flags: RST | ACK, ..Says::default() });
    assert_eq!(case.director.states(), ["CLOSE"]);
    let says = case.asks();
    let (port, .., syn) = one(&case.client(case.acknowledgement(&says)));
    assert_eq!((port, syn.flags, case.director.states()), (LAN, SYN, vec!["SYN_RECV"]));
}

#[test]
fn the_servers_syn_passes_output_and_is_translated_there() {
    let mut case = Case::new(
        director("FORWARD", &["nat OUTPUT -p tcp --dport 9 -j DNAT --to-destination 10.0.0.11:8080"]),
        ("10.0.0.12", 9),
    );
    let (server, client) = case.opens();
    assert_eq!((server.ack, client.seq), (7001, case.isn + 1));
    let drops = "filter OUTPUT -p tcp --dport 8080 -j DROP";
    let mut case = Case::new(director("FORWARD", &[drops]), SERVER);
    let says = case.asks();
    assert!(case.client(case.acknowledgement(&says)).sent.is_empty());
    assert_eq!(case.director.counters[0].dropped(DropReason::Rule, Hook::Output).get(), 1);
    assert!(case.director.states().is_empty());
}

#[test]
fn what_a_helper_exchanges_is_exchanged_in_a_connection_that_was_opened_twice() {
    let lines = [
        "nat OUTPUT -p tcp --dport 9 -j DNAT --to-destination 10.0.0.11:8080",
        "raw OUTPUT -p tcp --dport 9 -j CT --helper ftp",
    ];
    let mut case = Case::new(director("FORWARD", &lines), ("10.0.0.12", 9));
    case.opens();
    let data = b"227 Passive (10,0,0,11,156,64)\r\n".to_vec();
    let says = Seg { seq: 7001, ack: 1001, flags: "A", data, sack: None };
    let answer = between((server_mac(11), OUR_LAN), SERVER, CLIENT_END, &says);
    let (heard, ..) = seen(&case.director.receive(LAN, &[answer]).sent[0].1);
    assert_eq!((heard.seq, &heard.data[..]), (case.isn + 1, &b"227 Passive (10,0,0,12,156,64)\r\n"[..]));
    assert_eq!(case.director.path.expectations.len(), 1);
}

#[test]
fn a_server_on_this_host_is_asked_by_the_twin() {
    let mut case = Case::new(director("INPUT", &[]), ("192.0.2.1", 22));
    let says = case.asks();
    let out = case.client(case.acknowledgement(&says));
    let [syn] = &out.to_twin[..] else { panic!("{} up the twin", out.to_twin.len()) };
    assert_eq!((seen(syn).1, out.sent.len()), (SYN, 0));
    let by_host = |case: &mut Case, says| {
        let mut out = Out::default();
        let answer = frame((CLIENT, OUR_WAN), ("192.0.2.1", 22), CLIENT_END, says);
        let mut burst: Burst<Frame> = [Frame::new(WAN, &answer)].into_iter().collect();
        case.director.path.receive_from_twin(WAN, &mut burst, case.director.now, &mut out);
        out
    };
    let answer = case.answer();
    let out = by_host(&mut case, answer);
    let (ack, flags, _) = seen(&out.to_twin[0]);
    assert_eq!((ack.seq, ack.ack, flags), (1001, 7001, ACK));
    let (port, from, _, update) = one(&out);
    assert_eq!(
        (port, from, update.seq, update.window),
        (WAN, (ip("192.0.2.1"), 22), case.isn + 1, 65_160 >> 7)
    );
    let out = by_host(&mut case, Says { seq: 7001, ack: 1001, flags: ACK, ..Says::default() });
    assert_eq!(one(&out).3.seq, case.isn + 1);
    let out = case.client(Says { seq: 1001, ack: case.isn + 1, flags: ACK, ..Says::default() });
    assert_eq!(seen(&out.to_twin[0]).0.ack, 7001);
}

#[test]
fn a_real_server_whose_answers_do_not_come_by_is_not_asked() {
    let mut tables = tables(2, &[11, 12], 1);
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        for server in &mut service.servers {
            server.forward = Forward::Direct;
        }
        Arc::new(service)
    });
    tables.services = Services::new(services.collect::<Vec<_>>()).into();
    let mut case = served();
    case.director.path.adopt(with("INPUT", &[], tables).into());
    let says = case.asks();
    assert!(case.client(case.acknowledgement(&says)).sent.is_empty());
    assert_eq!(case.director.dropped(DropReason::NotProxied), 1);
    assert!(case.director.states().is_empty());
}

#[test]
fn the_header_is_for_the_number_that_the_client_acknowledged_a_cookie_with() {
    let mut case = by_service(SynCookies::On);
    let tables = cookies(SynCookies::On);
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        service.options.proxy_protocol = Some(ProxyVersion::V1);
        Arc::new(service)
    });
    let mut tables = Tables { services: Services::new(services.collect::<Vec<_>>()).into(), ..tables };
    (tables.generation, tables.settings.sysctls.conn_reuse_mode) = (3, 0);
    case.director.path.adopt(tables.into());
    let says = case.asks();
    case.client(case.acknowledgement(&says));
    let another = Says { seq: 10, flags: SYN, options: CLIENTS, ..Says::default() };
    assert!(case.client(another).sent.is_empty(), "the real server is asked by one number");
    let answer = case.answer();
    case.server(answer);
    let data = |seq, ack, data: &[u8]| Seg { seq, ack, flags: "A", data: data.to_vec(), sack: None };
    let sent = |case: &mut Case, seg: Seg| -> Vec<_> {
        let out = case.director.receive(WAN, &[between(C2D, CLIENT_END, VIP, &seg)]);
        out.sent.iter().map(|(_, frame)| seen(frame).0).map(|seg| (seg.seq, seg.data)).collect()
    };
    let isn = case.isn;
    let header = b"PROXY TCP4 192.0.2.100 192.0.2.10 4000 80\r\n".to_vec();
    let behind = 1001 + header.len() as u32;
    assert_eq!(sent(&mut case, data(1000, isn + 1, b"XPROXY TCP4 1.2.3.4")), []);
    assert!(case.client(another).sent.is_empty());
    assert_eq!(sent(&mut case, data(1001, isn + 1, b"GET /")), [(1001, header), (behind, b"GET /".to_vec())]);
    // Over for the real server, whatever `conn_reuse_mode` says: another connection is another cookie's.
    case.server(Says { seq: 7001, ack: behind + 5, flags: ACK, ..Says::default() });
    case.server(Says { seq: 7001, ack: behind + 5, flags: ACK | FIN, ..Says::default() });
    case.seq = 5000;
    let says = case.asks();
    assert_eq!((says.ack, says.flags), (5001, SYN | ACK));
}

#[test]
fn all_workers_know_a_cookie() {
    let counters = counters(2);
    let uses = Arc::new(Uses::new(2, 100));
    let tables = Arc::new(with("INPUT", &[], tables(2, &[11, 12], 1)));
    let mut paths = [0, 1].map(|worker| path(worker, &counters, &uses));
    let mut say = |worker: usize, says| {
        paths[worker].adopt(tables.clone());
        let mut out = Out::default();
        let mut handed: ArrayVec<(Frame, Steer), BURST> = ArrayVec::new();
        handed.push((Frame::new(WAN, &frame(C2D, CLIENT_END, VIP, says)), Steer::Plain));
        // As if it were the owner's.
        paths[worker].receive_handed_over(&mut handed, Tick(100), &mut out);
        out
    };
    let syn = Says { seq: 1000, flags: SYN, options: CLIENTS, ..Says::default() };
    let owner = usize::from(say(0, syn).sent.is_empty());
    let isn = one(&say(owner, syn)).3.seq;
    let mut elsewhere = Director::new();
    elsewhere.path.adopt(tables.clone());
    let mut case = Case::new(elsewhere, VIP);
    assert_eq!(case.asks().seq, isn);
}

#[test]
fn a_service_answers_with_cookies_while_a_flood_comes() {
    let mut case = by_service(SynCookies::Auto(10));
    let syn =
        |n: u16| frame(C2D, ("192.0.2.100", 5000 + n), VIP, Says { seq: 1, flags: SYN, ..Says::default() });
    let syns = |case: &mut Case, count: u16| {
        let frames: Vec<_> = (0..count).map(syn).collect();
        let sent = case.director.receive(WAN, &frames).sent;
        sent.iter().filter(|(port, _)| *port == WAN).count()
    };
    assert_eq!(syns(&mut case, 9), 0, "all of them go to real servers");
    assert_eq!((case.director.states().len(), syns(&mut case, 9)), (9, 0), "known ones are no flood");
    case.director.now = case.director.now.after(Timeout::from_secs(300));
    case.director.turn();
    assert!(case.director.states().is_empty());
    assert_eq!(syns(&mut case, 30), 21);
    case.opens();
    assert_eq!(case.director.states().len(), 10);
    case.director.now = case.director.now.after(Timeout::from_secs(10));
    let answered = case.director.counters[0].cookies.syn_received.get();
    case.client(Says { seq: 1, flags: SYN, ..Says::default() });
    case.director
        .receive(WAN, &[frame(C2D, ("192.0.2.100", 4001), VIP, Says { flags: SYN, ..Says::default() })]);
    assert_eq!(case.director.counters[0].cookies.syn_received.get(), answered, "the flood is over");
}

#[test]
fn a_service_goes_on_as_without_cookies_with_what_acknowledges_none() {
    let mut case = by_service(SynCookies::On);
    let out = case.client(Says { seq: 1001, ack: 77, flags: ACK, ..Says::default() });
    assert_eq!((out.sent.len(), out.to_twin.len(), case.counts()), (0, 1, [0, 0, 1, 0, 0]));
    let out = case.client(Says { seq: 1001, flags: RST, ..Says::default() });
    assert_eq!((out.to_twin.len(), case.counts()), (1, [0, 0, 1, 0, 0]));
    // One is good that was made before there was no need any more.
    let mut case = by_service(SynCookies::On);
    let says = case.asks();
    case.director.path.adopt(cookies(SynCookies::Auto(5)).into());
    assert_eq!(one(&case.client(case.acknowledgement(&says))).3.flags, SYN);
}

#[test]
fn who_acknowledges_a_cookie_is_asked_about_when_the_connection_is_opened() {
    let first = limited::with(&mut Limiters::new(1), tables(2, &[11, 12], 1), limited::at_most(1));
    let services = first.services.iter().map(|service| {
        let mut service = (**service).clone();
        service.options.syn_cookies = SynCookies::On;
        Arc::new(service)
    });
    let services = Services::new(services.collect::<Vec<_>>()).into();
    let second = Tables { generation: 3, services, ..first.clone() };
    let mut director = Director::new();
    director.path.adopt(first.into());
    director.receive(WAN, &[from_client(5000, "S")]);
    director.path.adopt(second.into());
    let mut case = Case::new(director, VIP);
    let says = case.asks();
    let refused = case.client(case.acknowledgement(&says));
    assert_eq!((refused.sent.len(), case.director.dropped(DropReason::ServiceConnLimit)), (0, 1));
    case.director.now = case.director.now.after(Timeout::from_secs(70));
    case.director.turn();
    assert_eq!(one(&case.client(case.acknowledgement(&says))).3.flags, SYN, "sent again it finds a place");
}

#[test]
fn rules_see_a_connection_that_a_service_has_opened_as_a_new_one() {
    for loose in [0, 1] {
        let mut case = by_service(SynCookies::On);
        let mut settings = Settings::default();
        settings.sysctls.conntrack.tcp_loose = loose;
        let rules = Arc::new(rules(&[
            "filter INPUT -m state --state INVALID -j DROP",
            "filter OUTPUT -p tcp --dport 8081 -j DROP",
        ]));
        case.director.path.adopt(Tables { rules, settings, ..cookies(SynCookies::On) }.into());
        let (server, client) = case.opens();
        assert_eq!((server.ack, client.seq), (7001, case.isn + 1), "{loose}");
        assert_eq!(case.director.states(), ["ESTABLISHED"]);
    }
}

#[test]
fn a_persistent_clients_connections_are_opened_at_their_workers_whoever_has_its_template() {
    const WORKERS: usize = 4;
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let tables = cookies(SynCookies::On);
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        let persistence = Persistence { timeout: Timeout::from_secs(100), mask: ClientMask::WHOLE };
        service.options.persistence = Some(persistence);
        Arc::new(service)
    });
    let services = Services::new(services.collect::<Vec<_>>()).into();
    let tables = Arc::new(Tables { services, ..tables });
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    for path in &mut paths {
        path.adopt(tables.clone());
    }
    let mut owners = std::collections::BTreeSet::new();
    for port in 4000..4020 {
        let from = (CLIENT_END.0, port);
        let syn = frame(C2D, from, VIP, Says { seq: 1000, flags: SYN, options: CLIENTS, ..Says::default() });
        let sent = deliver(&mut paths, 0, WAN, &syn);
        let isn = seen(&sent[0].1).0.seq;
        let ack = Says { seq: 1001, ack: isn.wrapping_add(1), flags: ACK, ..Says::default() };
        let sent = deliver(&mut paths, 1, WAN, &frame(C2D, from, VIP, ack));
        assert_eq!((sent.len(), seen(&sent[0].1).1), (1, SYN));
        owners.insert(sent[0].0);
        let answer = Says { seq: 7000, ack: 1001, flags: SYN | ACK, ..Says::default() };
        let answer = frame((server_mac(11), OUR_LAN), SERVER, from, answer);
        let sent = deliver(&mut paths, 2, LAN, &answer);
        let heard: Vec<_> =
            sent.iter().map(|(_, frame)| seen(frame).0).map(|seg| (seg.seq, seg.ack)).collect();
        assert_eq!(heard, [(1001, 7001), (isn.wrapping_add(1), 1001)]);
    }
    assert_eq!(owners.len(), WORKERS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn each_end_gets_what_the_other_said_whatever_is_lost(
        seed: u64, isns: (u32, u32), who: u8, is_proxy: bool,
        request in prop::collection::vec(any::<u8>(), 1..200),
        reply in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let Case { mut director, to, .. } = match who % 3 {
            0 => forwarded(),
            1 => served(),
            _ => by_service(SynCookies::On),
        };
        let has_header = is_proxy && to == VIP;
        if has_header {
            let mut tables = (*director.path.tables).clone();
            let services = tables.services.iter().map(|service| {
                let mut service = (**service).clone();
                service.options.proxy_protocol = Some(ProxyVersion::V1);
                Arc::new(service)
            });
            tables.services = Services::new(services.collect::<Vec<_>>()).into();
            director.path.adopt(Tables { generation: 3, ..tables }.into());
        }
        let mut dice = Dice(seed ^ 1);
        let client = End::new(isns.0, &request, pieces(request.len(), &mut dice));
        let server = End::new(isns.1, &reply, pieces(reply.len(), &mut dice));
        let frame = |from_client, seg: &Seg| match from_client {
            true => between(C2D, CLIENT_END, to, seg),
            false => between((server_mac(11), OUR_LAN), SERVER, CLIENT_END, seg),
        };
        let (at_client, at_server, _) = talk(&mut director, frame, client, server, seed);
        let header = if has_header { "PROXY TCP4 192.0.2.100 192.0.2.10 4000 80\r\n" } else { "" };
        prop_assert_eq!(at_server, [header.as_bytes(), &request].concat());
        prop_assert_eq!(at_client, reply);
        prop_assert_eq!(director.path.check_connections(), Ok(()));
    }
}

/// Whoever takes over moves numbers, clocks and windows as the one before did.
#[test]
fn a_connection_goes_on_at_a_director_that_was_told_of_it() {
    let sharing = || {
        let mut tables = with("INPUT", &[], tables(2, &[11, 12], 1));
        tables.settings.is_sharing = true;
        let mut director = Director::new();
        director.path.adopt(tables.into());
        director
    };
    let mut case = Case::new(sharing(), VIP);
    let says = case.asks();
    case.client(case.acknowledgement(&says));
    assert!(super::shared::changed(&mut case.director).is_empty(), "the server has not answered");
    case.server(case.answer());
    let told = super::shared::changed(&mut case.director);
    assert_eq!(told.len(), 1);
    let talk = |case: &mut Case| {
        let options = TcpOptions { stamps: Some((600, 0)), ..TcpOptions::default() };
        let isn = case.isn;
        let there = case.client(Says { seq: 1001, ack: isn + 1, flags: ACK, window: 600, options });
        let options = TcpOptions { stamps: Some((91_000, 600)), ..TcpOptions::default() };
        let back = case.server(Says { seq: 7001, ack: 1001, flags: ACK, window: 700, options });
        [one(&there), one(&back)]
            .map(|(_, _, _, says)| (says.seq, says.ack, says.window, says.options.stamps))
    };
    let expected = talk(&mut case);
    assert_eq!(expected[0].1, 7001);
    case.director = sharing();
    assert_eq!(super::shared::take_over(&mut case.director, &told[0]), crate::path::Taken::New);
    assert_eq!(talk(&mut case), expected);
}

#[test]
fn what_is_sent_for_either_end_passes_output_and_postrouting() {
    for (chain, to) in [("FORWARD", SERVER), ("INPUT", VIP)] {
        for place in
            ["filter OUTPUT", "mangle OUTPUT", "mangle POSTROUTING -o lan", "mangle POSTROUTING -o wan"]
        {
            for (direction, goes_on) in [("ORIGINAL", WAN), ("REPLY", LAN)] {
                let is_other_way = place.ends_with(if goes_on == WAN { "wan" } else { "lan" });
                let rule = format!(
                    "{place} -p tcp -m tcp --tcp-flags SYN,ACK ACK -m conntrack --ctstate ESTABLISHED --ctdir {direction} -j DROP"
                );
                let mut case = Case::new(director(chain, &[&rule]), to);
                let says = case.asks();
                let out = case.client(case.acknowledgement(&says));
                assert_eq!(one(&out).3.flags, SYN, "{rule}");
                let out = case.server(case.answer());
                let ports: Vec<PortId> = left(&out).iter().map(|left| left.0).collect();
                let expected = if is_other_way { vec![LAN, WAN] } else { vec![goes_on] };
                assert_eq!(ports, expected, "{chain} {rule}");
            }
        }
    }
}

#[test]
fn a_client_that_asks_again_is_seen_by_rules_as_new_and_its_syn_by_output() {
    for (chain, to) in [("FORWARD", SERVER), ("INPUT", VIP)] {
        let ack = "-p tcp -m tcp --tcp-flags SYN,ACK ACK -m conntrack --ctstate NEW";
        let stops = format!("filter {chain} {ack} -j DROP");
        for line in ["filter OUTPUT -p tcp --dport 8080", &stops] {
            let is_stopped = line == stops;
            let mut case = Case::new(director(chain, &[line]), to);
            let says = case.asks();
            let acknowledgement = case.acknowledgement(&says);
            assert_eq!(one(&case.client(acknowledgement)).3.flags, SYN, "{line}");
            let probe = Says { seq: acknowledgement.seq - 1, ..acknowledgement };
            let out = case.client(probe);
            if is_stopped {
                assert!(out.sent.is_empty(), "{chain}");
                assert_eq!(case.director.dropped(DropReason::Rule), 1);
                continue;
            }
            assert_eq!(one(&out).3.flags, SYN, "{chain}");
            let mut counts = vec![(0, 0); 20];
            assert!(case.director.counters[0].add_rule_counts(&mut counts));
            // NOTRACK, two of the chain, and this one.
            assert_eq!(counts[4].0, 2, "{chain}: once each time");
        }
    }
}
