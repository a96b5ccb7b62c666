//! Goal: prefixes are translated both ways without any state, and connections that are tracked keep theirs. Method: rules for one network behind another prefix,
//! packets there and back.

use super::hooks::{director, ping, read_echo, rules};
use super::*;

const INNER: &str = "fd00::11";
/// What that is outside, as [`crate::npt`] has it.
const OUTER: &str = "2001:db8:99:0:ceae::11";
const OUTSIDE: &str = "2001:db8::100";
const S2C: (Mac, Mac) = ([2, 0, 0, 0, 2, 11], OUR_LAN);
const SNPT: &str = "mangle POSTROUTING -s fd00::/64 -j SNPT --src-pfx fd00::/64 --dst-pfx 2001:db8:99::/64";
const DNPT: &str =
    "mangle PREROUTING -d 2001:db8:99::/64 -j DNPT --src-pfx 2001:db8:99::/64 --dst-pfx fd00::/64";
const NOTRACK: &str = "raw PREROUTING -j CT --notrack";

fn leaving(flags: &str) -> Vec<u8> {
    tcp(S2C, (INNER, 5000), (OUTSIDE, 443), flags)
}

fn answer(flags: &str) -> Vec<u8> {
    tcp(C2D, (OUTSIDE, 443), (OUTER, 5000), flags)
}

#[test]
fn packets_of_no_connection_are_translated_one_by_one() {
    let mut director = director(rules(&[NOTRACK, SNPT, DNPT]));
    for flags in ["S", "A", "F"] {
        let out = director.receive(LAN, &[leaving(flags)]);
        assert_eq!(read(&out.sent[0].1), (ip(OUTER), 5000, ip(OUTSIDE), 443, 63));
        let out = director.receive(WAN, &[answer(flags)]);
        assert_eq!(read(&out.sent[0].1), (ip(OUTSIDE), 443, ip(INNER), 5000, 63));
    }
    assert_eq!(director.counters[0].flows.inserted.get(), 0);
    let out = director.receive(LAN, &[ping(S2C, INNER, OUTSIDE, 7, false)]);
    assert_eq!(read_echo(&out.sent[0].1), (ip(OUTER), ip(OUTSIDE), 7));
}

#[test]
fn a_tracked_connection_is_translated_as_it_began_and_its_answers_back() {
    // With and without a rule for the answers.
    for rest in [&[][..], &[DNPT]] {
        let mut director = director(rules(&[&[SNPT], rest].concat()));
        for (there, back) in [("S", "SA"), ("A", "A")] {
            let out = director.receive(LAN, &[leaving(there)]);
            assert_eq!(read(&out.sent[0].1), (ip(OUTER), 5000, ip(OUTSIDE), 443, 63));
            let out = director.receive(WAN, &[answer(back)]);
            assert_eq!(read(&out.sent[0].1), (ip(OUTSIDE), 443, ip(INNER), 5000, 63));
        }
        assert_eq!(director.counters[0].flows.inserted.get(), 1);
        director.path.check_connections().unwrap();
    }
}

#[test]
fn a_connection_from_outside_reaches_whom_its_destination_stands_for() {
    let mut director = director(rules(&[DNPT]));
    for (there, back) in [("S", "SA"), ("A", "A")] {
        let out = director.receive(WAN, &[answer(there)]);
        assert_eq!(read(&out.sent[0].1), (ip(OUTSIDE), 443, ip(INNER), 5000, 63));
        let out = director.receive(LAN, &[leaving(back)]);
        assert_eq!(read(&out.sent[0].1), (ip(OUTER), 5000, ip(OUTSIDE), 443, 63));
    }
}

#[test]
fn rules_behind_it_see_what_it_made() {
    let drop = format!("filter FORWARD -d {INNER} -j DROP");
    for rest in [&[][..], &[NOTRACK]] {
        let mut director = director(rules(&[&[DNPT, &drop], rest].concat()));
        assert!(director.receive(WAN, &[answer("S")]).sent.is_empty());
        assert_eq!(director.dropped(DropReason::Rule), 1);
    }
}

#[test]
fn so_do_those_of_a_long_chain_that_are_found_by_an_index() {
    let mut lines = vec![SNPT.to_owned()];
    lines.extend(
        (0..200).map(|n| format!("mangle POSTROUTING -s 2001:db8:99:0:ceae::{n} -j MARK --set-mark {n}")),
    );
    lines.push("mangle POSTROUTING -m mark --mark 11 -j DROP".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut director = director(rules(&lines));
    assert!(director.receive(LAN, &[leaving("S")]).sent.is_empty(), "::11 is of rule 11");
    assert_eq!(director.dropped(DropReason::Rule), 1);
}

#[test]
fn an_error_is_about_the_packet_that_its_receiver_has_sent() {
    let mut director = director(rules(&[NOTRACK, SNPT, DNPT]));
    let sent = director.receive(LAN, &[ping(S2C, INNER, OUTSIDE, 7, false)]);
    let quoted = &sent.sent[0].1.data()[14..];
    let [router, to] =
        ["2001:db8::7", OUTER].map(|text| text.parse::<std::net::Ipv6Addr>().unwrap().octets());
    let mut error = Vec::new();
    etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1)
        .ipv6(router, to, 64)
        .icmpv6_raw(3, 0, [0; 4])
        .write(&mut error, quoted)
        .unwrap();
    let out = director.receive(WAN, &[error]);
    let (_, _, to, ..) = read(&out.sent[0].1);
    assert_eq!(to, ip(INNER));
    let IpAddr::V6(inner) = ip(INNER) else { unreachable!("it is one") };
    assert_eq!(out.sent[0].1.data()[14 + 40 + 8 + 8..][..16], inner.octets());
}

#[test]
fn an_address_that_nothing_maps_is_told_so() {
    let mut director = director(rules(&[SNPT]));
    let nobody = "fd00::ffff:ffff:ffff:ffff";
    let out = director.receive(LAN, &[tcp(S2C, (nobody, 5000), (OUTSIDE, 443), "S")]);
    assert_eq!(director.dropped(DropReason::RuleRejects), 1);
    let told = out.sent[0].1.data();
    // Parameter problem, "erroneous header field", at the source.
    assert_eq!(told[54..56], [4, 0]);
    assert_eq!(told[58..62], [0, 0, 0, 8]);
}

/// As the sender of [`answer`] hears it.
fn told(director: &mut Director) -> Vec<u8> {
    let out = director.receive(WAN, &[answer("SA")]);
    assert_eq!(out.sent.len(), 1);
    out.sent[0].1.data().to_vec()
}

#[test]
fn who_is_refused_behind_it_is_told_about_what_he_sent() {
    let of_none = "raw PREROUTING -s 2001:db8::/64 -j CT --notrack";
    // What begins nothing, and what is of no connection.
    for rest in [&[][..], &[of_none]] {
        let with = |rule: &'static str| director(rules(&[&[DNPT, rule], rest].concat()));
        let reset = told(&mut with("filter FORWARD -p tcp -j REJECT --reject-with tcp-reset"));
        assert_eq!(read(&Frame::new(WAN, &reset)), (ip(OUTER), 5000, ip(OUTSIDE), 443, 64));
        let error = told(&mut with("filter FORWARD -p tcp -j REJECT"));
        assert_eq!(error[54..56], [1, 4]);
        assert_eq!(error[62..], answer("SA")[14..]);
    }
    // Nor does he know an address to which no way leads.
    let mut director = director(rules(&[
        "mangle PREROUTING -d 2001:db8:99::/64 -j DNPT --src-pfx 2001:db8:99::/64 --dst-pfx 2001:db8:98::/64",
    ]));
    let error = told(&mut director);
    assert_eq!(error[54..56], [1, 0]);
    assert_eq!(error[62..], answer("SA")[14..]);
}

#[test]
fn so_is_the_host() {
    let mut director = director(rules(&[
        "raw OUTPUT -j CT --notrack",
        "mangle OUTPUT -d 2001:db8:99::/64 -j DNPT --src-pfx 2001:db8:99::/64 --dst-pfx fd00::/64",
        "filter OUTPUT -p tcp -j REJECT --reject-with tcp-reset",
    ]));
    let own = tcp((OUR_WAN, CLIENT), ("2001:db8::10", 5000), (OUTER, 443), "S");
    let mut out = Out::default();
    let mut burst: Burst<Frame> = [Frame::new(WAN, &own)].into_iter().collect();
    director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
    assert_eq!(read(&out.to_twin[0]), (ip(OUTER), 443, ip("2001:db8::10"), 5000, 64));
}
