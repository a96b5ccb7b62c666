//! Goal: matches and targets that look at, or write, more than ends and marks do so on the road. Method: a rule or two, packets, what leaves.

use super::hooks::{bound, director, ping, rules, through};
use super::*;
use crate::rule::Named;
use crate::tables::Zone;
use crate::time::Timeout;

/// The options of a TCP segment, its checksums and lengths having been found right.
fn options(frame: &Frame) -> Vec<u8> {
    let data = frame.data();
    let Ok(Parsed::Ip(headers)) = parse(data, data.len(), Default::default()) else { panic!("{data:?}") };
    assert!(checksum::is_good(checksum::of_transport(data, &headers).unwrap()));
    let tcp = &data[headers.l4.into()..headers.end()];
    tcp[20..usize::from(tcp[12] >> 4) * 4].to_vec()
}

/// A SYN to port 22, of the virtual service 80, with these options, and so much behind its header; `padding` pads the frame.
fn syn(to: &str, options: &[u8], data: usize, padding: usize) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1);
    let builder = match ip(to) {
        IpAddr::V4(to) => builder.ipv4([192, 0, 2, 100], to.octets(), 64),
        IpAddr::V6(to) => {
            let IpAddr::V6(from) = ip("2001:db8::100") else { unreachable!("it is one") };
            builder.ipv6(from.octets(), to.octets(), 64)
        }
    };
    let builder = builder
        .tcp(4000, if to == "192.0.2.10" { 80 } else { 22 }, 1, 1000)
        .syn()
        .options_raw(options)
        .unwrap();
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![7; data]).unwrap();
    frame.resize(frame.len() + padding, 0);
    frame
}

#[test]
fn a_syn_that_says_no_segment_size_is_made_to() {
    let mut director = director(rules(&["mangle FORWARD -p tcp --syn -j TCPMSS --set-mss 1400"]));
    let mut left = |frame: Vec<u8>| options(&director.receive(WAN, &[frame]).sent[0].1);
    let [is_v4, is_v6] = [536_u16, 1220].map(|mss| [&[2, 4][..], &mss.to_be_bytes()].concat());
    for padding in [0, 6] {
        assert_eq!(left(syn("10.0.0.11", &[], 0, padding)), is_v4);
    }
    assert_eq!(left(syn("fd00::11", &[], 0, 0)), is_v6);
    let window_scale = [1, 3, 3, 7];
    assert_eq!(left(syn("10.0.0.11", &window_scale, 0, 0)), [&is_v4[..], &window_scale].concat());
    // What it says is lowered and never raised.
    assert_eq!(left(syn("10.0.0.11", &[2, 4, 5, 180], 0, 0)), [2, 4, 5, 120]);
    assert_eq!(left(syn("10.0.0.11", &[2, 4, 1, 0], 0, 0)), [2, 4, 1, 0]);
    // With data, and with options that leave no room: as long as it came.
    for (given, data) in [(&[][..], 5), (&[1; 40], 0)] {
        let came = syn("10.0.0.11", given, data, 0);
        let sent = director.receive(WAN, std::slice::from_ref(&came)).sent.remove(0).1;
        assert_eq!((options(&sent), sent.data().len()), (given.to_vec(), came.len()));
    }
}

#[test]
fn options_that_are_stripped_say_nothing_and_the_others_what_they_said() {
    let mut director =
        director(rules(&["mangle FORWARD -p tcp -j TCPOPTSTRIP --strip-options mss,wscale,8"]));
    let mut left = |given: &[u8]| options(&director.receive(WAN, &[syn("10.0.0.11", given, 3, 0)]).sent[0].1);
    assert_eq!(left(&[]), b"");
    assert_eq!(left(&[2, 4, 5, 180, 3, 3, 7, 1]), [1; 8]);
    assert_eq!(left(&[1, 2, 4, 5, 180, 4, 2, 3, 3, 7, 0, 0]), [1, 1, 1, 1, 1, 4, 2, 1, 1, 1, 0, 0]);
    assert_eq!(
        left(&[254, 3, 9, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 4, 2]),
        [254, 3, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 2]
    );
    // Behind the end there are no options, and one that is too long is none.
    assert_eq!(left(&[0, 2, 4, 5]), [0, 2, 4, 5]);
    assert_eq!(left(&[1, 1, 2, 9]), [1, 1, 2, 9]);
}

#[test]
fn what_a_packet_says_of_congestion_is_rewritten() {
    let sent = |rule: &str| {
        let mut director = director(rules(&[rule]));
        let mut frame = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1);
        let builder = builder.ipv4([192, 0, 2, 100], [10, 0, 0, 11], 64).tcp(4000, 22, 1, 1000).syn();
        builder.ece().cwr().write(&mut frame, b"").unwrap();
        let sent = director.receive(WAN, &[frame]).sent.remove(0).1;
        assert_eq!(options(&sent), b"");
        (sent.data()[15] & 3, sent.data()[47] & 0xc2)
    };
    assert_eq!(sent("mangle FORWARD -p tcp -j ECN --ecn-tcp-remove"), (0, 2));
    assert_eq!(sent("mangle FORWARD -p tcp -j ECN --ecn-tcp-ece 0"), (0, 0x82));
    assert_eq!(sent("mangle FORWARD -j ECN --ecn-ip-ect 2"), (2, 0xc2));
    assert_eq!(
        sent("mangle FORWARD -p tcp -j ECN --ecn-tcp-cwr 0 --ecn-tcp-ece 1 --ecn-ip-ect 3"),
        (3, 0x42)
    );
}

#[test]
fn interfaces_are_told_apart_by_their_group_and_no_packet_comes_by_a_bridge() {
    let passes = |rule: &str| {
        let mut director = Director::new();
        let mut tables = Tables { rules: Arc::new(rules(&[rule])), ..tables(2, &[11, 12], 1) };
        let interfaces = tables.interfaces.iter().map(|(_, interface)| {
            let group = if interface.name == "wan" { 7 } else { 0 };
            Interface { group, ..interface.clone() }
        });
        tables.interfaces = Interfaces::new(interfaces.collect()).into();
        director.path.adopt(tables.into());
        director.receive(WAN, &[through(4000, "S")]).sent.len() == 1
    };
    for (asked, is_so) in [
        ("devgroup --src-group 7", true),
        ("devgroup --src-group 3/3", true),
        ("devgroup ! --src-group 7", false),
        ("devgroup --src-group 7 --dst-group default", true),
        ("devgroup --src-group 7 ! --dst-group 0", false),
        ("physdev --physdev-in wan", false),
        ("physdev ! --physdev-in wan ! --physdev-is-bridged", true),
        ("physdev ! --physdev-in wan --physdev-is-out", false),
    ] {
        assert_eq!(passes(&format!("filter FORWARD -m {asked} -j DROP")), !is_so, "{asked}");
    }
}

#[test]
fn a_syn_that_has_grown_is_whole_behind_a_tunnel() {
    let mut director = Director::new();
    let mut tables = tables(2, &[11, 12], 1);
    let key = ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80);
    let mut service = Service::clone(tables.services.find(&key).unwrap());
    for server in &mut service.servers {
        server.forward = Forward::Tunnel(crate::tables::Tunnel::Ipip);
    }
    tables.services = Services::new([Arc::new(service)]).into();
    tables.rules = Arc::new(rules(&["mangle PREROUTING -p tcp --syn -j TCPMSS --set-mss 1400"]));
    director.path.adopt(Arc::new(tables));
    let sent = director.receive(WAN, &[syn("192.0.2.10", &[], 0, 0)]).sent.remove(0).1;
    let inner = [&sent.data()[..14], &sent.data()[34..]].concat();
    assert_eq!(options(&Frame::new(LAN, &inner)), [2, 4, 2, 24]);
    assert_eq!(
        u16::from_be_bytes([sent.data()[16], sent.data()[17]]),
        64,
        "20 of the tunnel, 44 of the client"
    );
}

#[test]
fn rules_of_one_hashlimit_name_share_what_the_first_of_them_says() {
    let limit = |protocol: &str, rate: &str, burst: u32, mode: &str| {
        format!(
            "filter FORWARD -p {protocol} -m hashlimit --hashlimit-name h --hashlimit-upto {rate} \
             --hashlimit-burst {burst} --hashlimit-mode {mode} -j ACCEPT"
        )
    };
    let lines = [
        limit("tcp", "1/hour", 3, "srcip"),
        limit("icmp", "1/min", 100, "dstip"),
        "filter FORWARD -j DROP".to_owned(),
    ];
    let mut director = director(bound(&lines.each_ref().map(String::as_str), &mut Named::new(1)));
    let passed = |director: &mut Director, frame: Vec<u8>| director.receive(WAN, &[frame]).sent.len();
    let syns: usize = (4000..4002).map(|port| passed(&mut director, through(port, "S"))).sum();
    let pings: usize =
        (0..5).map(|id| passed(&mut director, ping(C2D, "192.0.2.100", "10.0.0.11", id, false))).sum();
    assert_eq!((syns, pings), (2, 1), "three of one source");
    assert_eq!(passed(&mut director, ping(C2D, "192.0.2.101", "10.0.0.11", 9, false)), 1, "of another one");
}

#[test]
fn a_time_of_the_day_is_that_of_the_hosts_zone_if_the_rule_says_so() {
    let passes = |options: &str, hour: u64| {
        let rule = format!("filter FORWARD -m time --timestart 08:00 --timestop 08:59:59 {options} -j DROP");
        let mut director = Director::new();
        let mut tables = tables(2, &[11, 12], 1);
        tables.settings.booted = hour * 3600;
        // An hour ahead, and from 08:00 UTC on two.
        tables.zone = Arc::new(Zone::new(3600, vec![(8 * 3600, 7200)]));
        tables.rules = Arc::new(rules(&[&rule]));
        director.path.adopt(Arc::new(tables));
        director.receive(WAN, &[through(4000, "S")]).sent.len() == 1
    };
    let dropped = |options: &str| (5..11).filter(|&hour| !passes(options, hour)).collect::<Vec<u64>>();
    assert_eq!(dropped(""), [8]);
    assert_eq!([dropped("--kerneltz"), dropped("--localtz")], [[7], [7]]);
}

#[test]
fn type_and_code_of_a_question_are_of_its_connection() {
    let mut director = director(rules(&["filter FORWARD -p tcp --dport 1 -j DROP"]));
    let question = |code: u8| {
        let mut frame = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1);
        let builder = builder.ipv4([192, 0, 2, 100], [10, 0, 0, 11], 64);
        builder.icmpv4_raw(8, code, [0, 7, 0, 1]).write(&mut frame, b"ping").unwrap();
        frame
    };
    for code in [0, 5] {
        assert_eq!(director.receive(WAN, &[question(code)]).sent.len(), 1);
    }
    let mut kinds = Vec::new();
    director.path.list(0, u32::MAX, director.now, &mut |view| kinds.push(view.original().dport));
    kinds.sort_unstable();
    assert_eq!(kinds, [0x0800, 0x0805]);
}

#[test]
fn a_packet_is_kept_as_it_came_with_what_its_rule_saw() {
    let mut named = Named::new(1);
    let lines = [
        "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22",
        "filter FORWARD -j NFLOG --nflog-group 7 --nflog-prefix x --nflog-size 40 --nflog-threshold 5",
        "mangle FORWARD -j MARK --set-mark 3",
    ];
    let mut director = director(bound(&lines, &mut named));
    let frame = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 2222), "S");
    director.receive(WAN, std::slice::from_ref(&frame));
    let captures = named.known_captures().unwrap();
    let captured = captures.take().unwrap();
    let wanted = captured.wanted;
    assert_eq!((wanted.group, &*wanted.prefix, wanted.size, wanted.threshold), (7, "x", Some(40), 5));
    assert_eq!((captured.hook, captured.mark, captured.hops), (Hook::Forward, 3, 1));
    assert_eq!((captured.input, captured.output), (Some(InterfaceId(0)), Some(InterfaceId(1))));
    assert_eq!(captured.frame[..], frame[..]);
    let mut seen = captured.frame;
    as_seen(&mut seen, &captured.headers, &captured.tuple, captured.hops);
    assert_eq!(read(&Frame::new(LAN, &seen)), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 22, 63));
    // Nobody takes them: those that are too many are counted.
    for _ in 0..600 {
        director.receive(WAN, &[through(4000, "S")]);
    }
    assert_eq!(captures.lost.get(), 600 - std::iter::from_fn(|| captures.take()).count() as u64);
    assert!(captures.lost.get() > 0);
}

#[test]
fn lines_that_nobody_writes_are_lost_and_counted_and_there_is_room_again_when_they_are_written() {
    let mut director = director(bound(&["filter FORWARD -j LOG"], &mut Named::new(1)));
    let rules = director.path.tables.rules.clone();
    let mut written = |times| {
        (0..times).for_each(|_| drop(director.receive(WAN, &[through(4000, "S")])));
        (std::iter::from_fn(|| rules.events.take()).count(), rules.events.lost.get())
    };
    assert_eq!(written(1030), (1024, 6));
    assert_eq!(written(7), (7, 6));
}

proptest::proptest! {
    #[test]
    fn what_a_rule_saw_has_its_ends_hops_and_right_checksums(
        is_ipv6 in proptest::bool::ANY,
        protocol in proptest::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP]),
        (sport, dport, id) in (1..65_535_u16, 1..65_535_u16, 1..65_535_u16),
        (hops, data) in (0..2_u8, 0..40_u16),
    ) {
        let [src, dst, other] = match is_ipv6 {
            true => ["2001:db8::100", "2001:db8::10", "fd00::11"],
            false => ["192.0.2.100", "192.0.2.10", "10.0.0.11"],
        }.map(ip);
        let (protocol, icmp) = match (protocol, is_ipv6) {
            (Protocol::ICMP, true) => (Protocol::ICMPV6, (128, 0)),
            (Protocol::ICMP, false) => (Protocol::ICMP, (8, 0)),
            (protocol, _) => (protocol, (0, 0)),
        };
        let probe = crate::probe::Probe { src, dst, protocol, sport, dport, tcp_flags: 2, icmp, ttl: 64, data };
        let mut frame = probe.frame(OUR_WAN, CLIENT, 0);
        let came = parsed(&frame);
        let tuple = tuple_of_frame(&frame).unwrap();
        let seen = Tuple { src: other, sport: id, ..tuple };
        as_seen(&mut frame, &came, &seen, hops);
        let is = parsed(&frame);
        proptest::prop_assert_eq!((tuple_of_frame(&frame), is.ttl), (Some(seen), 64 - hops));
        proptest::prop_assert!(checksum::is_good(checksum::of_transport(&frame, &is).unwrap()));
    }
}

fn parsed(frame: &[u8]) -> Headers {
    let Ok(Parsed::Ip(headers)) = parse(frame, frame.len(), Default::default()) else { panic!("{frame:?}") };
    headers
}

/// What is told of packets by TRACE: the numbers of the rules, in their order.
fn traced(director: &Director) -> Vec<u32> {
    let events = &director.path.tables.rules.events;
    let met = |event: crate::rule::event::Event| match event.said {
        crate::rule::event::Said::Met(number) => Some(number),
        _ => None,
    };
    std::iter::from_fn(|| events.take()).filter_map(met).collect()
}

#[test]
fn what_a_traced_packet_meets_behind_the_rule_is_told() {
    let lines = [
        "raw PREROUTING -p tcp --dport 80 -j ACCEPT",
        "raw PREROUTING -p tcp --sport 4000 -j TRACE",
        "raw PREROUTING -p udp -j DROP",
        "raw PREROUTING -p tcp --dport 22",
        "mangle FORWARD -j MARK --set-mark 1",
        "filter FORWARD -p tcp --sport 4000 -j ACCEPT",
        "filter OUTPUT -j ACCEPT",
    ];
    let mut director = director(rules(&lines));
    director.receive(WAN, &[through(4000, "S")]);
    // Numbers as in `bound`; a chain's end is 0.
    assert_eq!(traced(&director), [4, 0, 0, 5, 0, 6, 0]);
    director.receive(WAN, &[through(4001, "S"), from_client(4000, "S")]);
    assert!(traced(&director).is_empty());
}

#[test]
fn a_trace_goes_on_where_a_virtual_service_sends_the_packet_and_is_bounded_in_rate() {
    let mut director = director(rules(&["raw PREROUTING -j TRACE", "filter OUTPUT -d 10.0.0.11 -j ACCEPT"]));
    director.receive(WAN, &[from_client(4000, "S")]);
    assert!(traced(&director).contains(&2));
    let lines: usize = (0..200)
        .map(|_| {
            director.receive(WAN, &[from_client(4000, "A")]);
            traced(&director).iter().filter(|number| **number == 2).count()
        })
        .sum();
    assert_eq!(lines, 49);
    assert_eq!(director.path.tables.rules.events.untraced.get(), 151);
    director.now = director.now.after(Timeout::from_secs(1));
    director.receive(WAN, &[from_client(4000, "A")]);
    assert!(traced(&director).contains(&2), "a second later");
}

/// What leaves by `port` in the turn behind a packet.
fn copied(director: &mut Director, frame: Vec<u8>) -> Vec<(PortId, Frame)> {
    director.receive(WAN, &[frame]);
    director.turn().sent
}

#[test]
fn a_copy_goes_to_the_gateway_as_the_rule_saw_the_packet() {
    let mut director = director(rules(&[
        "mangle PREROUTING -s 192.0.2.100 -j TEE --gateway 10.0.0.12",
        "mangle PREROUTING -s 2001:db8::100 -j TEE --gateway fd00::12",
        "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22",
        "mangle FORWARD -p tcp -j TEE --gateway 10.0.0.12 --oif lan",
        "mangle FORWARD -p tcp -j TEE --gateway 10.0.0.12 --oif wan",
        "mangle FORWARD -p tcp -j TEE --gateway 10.0.0.12 --oif none",
    ]));
    let frame = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 2222), "S");
    let sent = copied(&mut director, frame);
    let seen: Vec<_> = sent.iter().map(|(port, frame)| (*port, read(frame))).collect();
    let as_came = (ip("192.0.2.100"), 4000, ip("192.0.2.1"), 2222, 63);
    let translated = (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 22, 63);
    assert_eq!(seen, [(LAN, as_came), (LAN, translated)]);
    for (_, frame) in &sent {
        assert_eq!((frame.data()[..6].to_vec(), frame.data()[20] & 0x40), (server_mac(12).to_vec(), 0x40));
        let headers = parsed(frame.data());
        assert!(checksum::is_good(checksum::of_transport(frame.data(), &headers).unwrap()));
    }
    let sent = copied(&mut director, tcp(C2D, ("2001:db8::100", 4000), ("fd00::11", 22), "S"));
    assert_eq!(sent[0].1.data()[..6], server_mac(12));
    assert_eq!(director.dropped(DropReason::NoRoute), 1, "by the other interface");
    assert!(director.turn().sent.is_empty(), "once");
}

#[test]
fn a_copy_meets_output_and_postrouting_untracked_and_is_not_copied() {
    let mut director = director(rules(&[
        "mangle PREROUTING -j TEE --gateway 10.0.0.11",
        "mangle OUTPUT -j TEE --gateway 10.0.0.11",
        "mangle POSTROUTING -m conntrack --ctstate UNTRACKED -o lan -j TEE --gateway 10.0.0.11",
        "filter OUTPUT -p tcp --dport 23 -m conntrack --ctstate UNTRACKED -j DROP",
    ]));
    let to = |port| tcp(C2D, ("192.0.2.100", 4000), ("10.0.0.11", port), "S");
    assert_eq!(copied(&mut director, to(22)).len(), 1);
    assert_eq!(copied(&mut director, to(23)).len(), 0);
    assert_eq!(director.dropped(DropReason::Rule), 1);
    assert_eq!(director.counters[0].flows.entries.get(), 2, "no connection is a copy's");
}

#[test]
fn a_copy_without_room_or_hops_is_counted_and_its_packet_goes_on() {
    let mut director = director(rules(&["mangle PREROUTING -j TEE --gateway 10.0.0.11"]));
    let mut sent = 0;
    for _ in 0..300 {
        sent += director.receive(WAN, &[through(4000, "S")]).sent.len();
    }
    let copies = director.turn().sent.len() as u64;
    assert_eq!((sent, copies + director.dropped(DropReason::CopyLost)), (300, 300));
    assert!(copies >= 100 && director.dropped(DropReason::CopyLost) > 0);
    let mut last = through(4000, "S");
    last[22] = 1;
    let sum = u16::from_be_bytes([last[24], last[25]]);
    let sum = crate::wire::checksum::Delta::word(64 << 8 | 6, 1 << 8 | 6).apply(sum);
    last[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(copied(&mut director, last).len(), 0);
    assert_eq!(director.dropped(DropReason::TtlExceeded), 2, "the packet, and its copy");
}

#[test]
fn what_a_program_is_to_be_asked_about_is_dropped_since_none_listens_or_let_pass_where_the_rule_says_so() {
    let sent = |line: &str| {
        let mut director = director(rules(&[line, "filter INPUT -j DROP"]));
        let sent = director.receive(WAN, &[syn("192.0.2.10", &[], 0, 0)]).sent.len();
        (sent, director.dropped(DropReason::QueueUnread), director.dropped(DropReason::Rule))
    };
    assert_eq!(sent("filter INPUT -j QUEUE"), (0, 1, 0));
    assert_eq!(sent("filter INPUT -j NFQUEUE --queue-num 7"), (0, 1, 0));
    assert_eq!(sent("filter INPUT -j NFQUEUE --queue-balance 0:3 --queue-cpu-fanout"), (0, 1, 0));
    assert_eq!(sent("filter INPUT -j NFQUEUE --queue-bypass"), (1, 0, 0));
}

#[test]
fn a_timer_of_a_label_begins_anew_with_each_packet_that_meets_a_rule_of_it() {
    let mut named = Named::new(1);
    let lines = [
        "mangle PREROUTING -p tcp -j IDLETIMER --timeout 30 --label web",
        "filter FORWARD -p tcp --dport 1 -j IDLETIMER --timeout 90 --label other --alarm",
        "filter FORWARD -p tcp --syn -j IDLETIMER --timeout 60 --label web",
    ];
    let mut director = director(bound(&lines, &mut named));
    let left = |now: Tick| {
        let mut all: Vec<_> =
            named.idle_timers().map(|(label, timer)| (label, timer.left(now), timer.is_alarm)).collect();
        all.sort_unstable();
        all
    };
    let start = director.now;
    let at = |seconds: u32| Tick(start.0.wrapping_add(seconds * Tick::PER_SECOND));
    let first = left(start)[1].1;
    assert!([30, 60].contains(&first), "{first}");
    assert_eq!(left(start)[0], ("other", 90, true));
    director.now = at(5);
    assert_eq!(director.receive(WAN, &[through(4000, "S")]).sent.len(), 1, "it goes on");
    assert_eq!(left(at(6)), [("other", 84, true), ("web", 59, false)], "the last rule's time");
    director.now = at(10);
    director.receive(WAN, &[through(4000, "A")]);
    assert_eq!(left(at(10))[1].1, 30);
    director.receive(WAN, &[ping(C2D, "192.0.2.100", "10.0.0.11", 7, false)]);
    assert_eq!(left(at(40)), [("other", 50, true), ("web", 0, false)]);
    assert_eq!(left(at(90)), [("other", 0, true), ("web", 0, false)]);
    director.now = at(100);
    director.receive(WAN, &[through(4000, "A")]);
    assert_eq!(left(at(101))[1].1, 29);
}

#[test]
fn packets_are_counted_under_a_name_by_all_rules_that_name_it() {
    use crate::rule::{Account, AccountQuota};
    let mut named = Named::new(1);
    let quota = Some(AccountQuota { is_of_packets: true, limit: 2 });
    for (name, quota) in [("all", None), ("few", quota), ("before", None), ("behind", None)] {
        named.accounts.insert(name.into(), Arc::new(Account::new(quota, (0, 0))));
    }
    let lines = [
        "mangle PREROUTING -p tcp -m nfacct --nfacct-name all",
        "mangle FORWARD -p tcp -m nfacct --nfacct-name before -m tcp --dport 1 -j DROP",
        "mangle FORWARD -p tcp -m tcp --dport 1 -m nfacct --nfacct-name behind",
        "filter FORWARD -m nfacct --nfacct-name all",
        "filter FORWARD -p tcp -m nfacct --nfacct-name few -j DROP",
    ];
    let mut director = director(bound(&lines, &mut named));
    let passed: Vec<usize> =
        (4000..4004).map(|port| director.receive(WAN, &[through(port, "S")]).sent.len()).collect();
    assert_eq!(passed, [1, 1, 0, 0], "more than two");
    director.receive(WAN, &[ping(C2D, "192.0.2.100", "10.0.0.11", 7, false)]);
    let counted = |name: &str| named.accounts[name].counts();
    let len = (through(4000, "S").len() - 14) as u64;
    let ping_len = (ping(C2D, "192.0.2.100", "10.0.0.11", 7, false).len() - 14) as u64;
    assert_eq!(counted("all"), (9, 8 * len + ping_len));
    assert_eq!(counted("few"), (4, 4 * len));
    assert_eq!((counted("before"), counted("behind")), ((4, 4 * len), (0, 0)), "what comes this far");
    director.receive(WAN, &[through(4000, "A"), through(4000, "A")]);
    assert_eq!((counted("all").0, counted("few").0), (13, 6), "each packet of a connection");
}
