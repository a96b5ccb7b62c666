//! Goal: matches and targets that look at, or write, more than ends and marks do so on the road. Method: a rule or two, packets, what leaves.

use super::hooks::{bound, director, ping, rules, through};
use super::*;
use crate::rule::Named;
use crate::tables::Zone;

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
    // With data, and with options that leave no room.
    assert_eq!(left(syn("10.0.0.11", &[], 5, 0)), b"");
    assert_eq!(left(syn("10.0.0.11", &[1; 40], 0, 0)), [1; 40]);
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
