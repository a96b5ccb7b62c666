//! What a line says, what a SYN fits (as the kernel was seen to find), and what is told of it.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::hook::Hook;
use crate::rule::event::{Events, Said};
use crate::rule::matches::AnyMatch;
use crate::rule::names::Numeric;
use crate::rule::tests::look_at;
use crate::rule::{Around, Family, Rule, text};
use crate::tables::Tables;
use crate::time::Tick;
use crate::wire::parse::{Parsed, parse};

fn fingerprint(line: &str) -> Fingerprint {
    Fingerprint::read(line).unwrap()
}

fn all(lines: &[&str]) -> Fingerprints {
    let mut all = Fingerprints::default();
    lines.iter().for_each(|line| assert_eq!(all.add(fingerprint(line)), Ok(true), "{line}"));
    all
}

fn osf(words: &str) -> AnyMatch {
    let words = text::split(&format!("-p tcp -m osf {words}")).unwrap();
    let (rules, _) = Rule::read(&words, &mut Around::new(Family::Ipv4, &Numeric)).unwrap();
    rules[0].matches[0].clone()
}

/// What a match says of an IP packet that comes in.
fn asked(asked: &AnyMatch, packet: &[u8], tables: &Tables, events: &Events, now: Tick) -> bool {
    let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 1, 8, 0], packet].concat();
    let Ok(Parsed::Ip(mut headers)) = parse(&frame, frame.len(), Default::default()) else {
        panic!("{packet:?}")
    };
    let tuple = crate::path::tuple_of_frame(&frame).unwrap();
    look_at((&mut frame, &mut headers), tuple, tables, events, now, |view| {
        view.hook = Hook::Prerouting;
        asked.matches(view)
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn what_fits_is_what_fits_in_the_kernel() {
    let (mut lines, mut rules, mut packets) = (Vec::new(), Vec::new(), Vec::new());
    let recorded = include_str!("../../../tests/oracle/osf.txt");
    for line in recorded.lines().filter(|line| !line.starts_with('#')) {
        let (what, of) = line.split_once(' ').unwrap();
        match what {
            "fingerprint" => lines.push(of),
            "rule" => rules.push((of, osf(of))),
            _ => packets.push(of.split_once(' ').unwrap()),
        }
    }
    let tables = Tables { fingerprints: all(&lines).into(), ..Tables::default() };
    let mut matched = 0;
    for (packet, expected) in &packets {
        for ((words, rule), expected) in rules.iter().zip(expected.chars()) {
            let is = asked(rule, &bytes(packet), &tables, &Events::default(), Tick(0));
            assert_eq!(is, expected == '1', "{words}: {packet}");
            matched += u32::from(is);
        }
    }
    assert!(packets.len() == 450 && rules.len() == 25 && matched > 1000, "{matched}");
}

#[test]
fn nothing_fits_where_nothing_is_loaded() {
    let recorded = include_str!("../../../tests/oracle/osf.txt");
    let packets = recorded.lines().filter_map(|line| line.strip_prefix("packet ")?.split(' ').next());
    for words in ["--genre unknown --ttl 2", "! --genre Linux --ttl 2", "--genre Linux --ttl 2 --log 0"] {
        let rule = osf(words);
        for packet in packets.clone() {
            let tables = Tables::default();
            assert!(!asked(&rule, &bytes(packet), &tables, &Events::default(), Tick(0)), "{words}: {packet}");
        }
    }
}

/// A SYN from 10.9.0.2:1000 to 10.9.0.1:9, with DF, a TTL of 60 and a window of 14600, and the options of Linux.
const SYN: &str = "4500003c000140003c062aa70a0900020a09000103e800090000000100000000a0023908f6f00000020405b40402080a000000010000000001030307";

/// Three that it fits.
const THREE: [&str; 3] = [
    "S10:64:1:60:M*,S,T,N,W7:TestLinux:2.6:sub:x",
    "14600:64:1:60:M*,S,T,N,W7:TestB:1::x",
    "*:128:1:60:M*,S,T,N,W7:TestC:1::x",
];

/// What is told of the SYN.
fn told(words: &str, lines: &[&str], now: Tick, events: &Events) -> Vec<String> {
    let tables = Tables { fingerprints: all(lines).into(), ..Tables::default() };
    asked(&osf(words), &bytes(SYN), &tables, events, now);
    let told = std::iter::from_fn(|| events.take()).map(|event| match event.said {
        Said::System { name, hops } => format!("{name} {hops}"),
        Said::NoSystem => "none".to_owned(),
        said => panic!("{said:?}"),
    });
    told.collect()
}

#[test]
fn what_is_told_is_all_that_it_may_be_or_the_first() {
    let told = |words: &str, lines: &[&str]| told(words, lines, Tick(0), &Events::default());
    let systems = ["TestLinux [2.6:sub] 4", "TestB [1:] 4", "TestC [1:] 68"];
    assert_eq!(told("--genre x --ttl 1 --log 0", &THREE), systems);
    assert_eq!(told("--genre x --ttl 1 --log 1", &THREE), systems[..1]);
    assert_eq!(told("--genre x --ttl 1 --log 2", &THREE), systems);
    // 60 is none of their TTLs.
    for level in 0..3 {
        assert_eq!(told(&format!("--genre x --log {level}"), &THREE), ["none"]);
    }
    assert_eq!(told("--genre TestB --ttl 1", &THREE), [""; 0]);
    let many: Vec<String> = (0..20).map(|n| format!("*:64:1:60:M*,S,T,N,W0:Many:{n}::")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(told("--genre x --ttl 1 --log 0", &many).len(), 8);
}

#[test]
fn no_more_is_told_in_a_second_than_there_is_time_for() {
    let events = Events::default();
    let lines =
        |now| (0..150).map(|_| told("--genre x --ttl 1 --log 1", &THREE, now, &events).len()).sum::<usize>();
    assert_eq!(lines(Tick(0)), 100);
    assert_eq!(events.lost.get(), 50);
    assert_eq!(lines(Tick(Tick::PER_SECOND)), 100);
}

#[test]
fn a_line_reads_as_it_is_written() {
    for (line, written) in [
        ("S4:64:1:60:M*,S,T,N,W0:\t\tLinux:2.4::Linux 2.4", "S4:64:1:60:M*,S,T,N,W0:Linux:2.4::"),
        ("0:64:0:48:M*,W0,N:\t\t\tHP-UX:B.11.00:A:x", "*:64:0:48:M*,W0,N:HP-UX:B.11.00:A:"),
        ("2048:255:0:40:.:Windows:.NET::x", "2048:255:0:40:.:Windows:.NET::"),
        ("%8192:128:1:48:M536,N,N,S:Windows:98::x", "%8192:128:1:48:M536,N,N,S:Windows:98::"),
        ("T30:64:1:64:M1460,N,W%2,N,N,T0,N,N,E,N:A:B:C:", "T30:64:1:64:M1460,N,W%2,N,N,T0,N,N,E,N:A:B:C:"),
        ("S12:64:1:44:M1460:@Checkpoint:::x", "S12:64:1:44:M1460:Checkpoint:::"),
        ("S12:64:1:*:M1460:@*odd:::x", "S12:64:1:0:M1460:@*odd:::"),
        ("S*:1:2:3::RISC OS:::", "S0:1:1:3::RISC OS:::"),
        ("*:1:1:40:.:@ Linux:::x", "*:1:1:40:.:@ Linux:::"),
        ("*:1:1:40:.:@:::x", "*:1:1:40:.::::"),
    ] {
        assert_eq!(fingerprint(line).to_string(), written);
        assert_eq!(fingerprint(written), fingerprint(line), "{line}");
    }
    let long = fingerprint(&format!("*:1:1:40:.:{0}ä:{0}:{0}:", "x".repeat(30)));
    assert_eq!((long.genre().len(), long.version().len()), (30, 30), "a letter is not cut in two");
    let long = fingerprint(&format!("*:1:1:40:.:{0}:{0}:{0}:", "x".repeat(99)));
    assert_eq!(long.system().len(), LONGEST_SYSTEM);
    let cut = fingerprint(&format!("*:1:1:40:.:{} y:::", "x".repeat(30)));
    assert_eq!(cut.genre().len(), 30, "a blank at the end of what is kept is no part of it");
}

#[test]
fn a_line_that_cannot_be_is_refused_by_its_field() {
    for (line, what) in [
        ("", "1 fields, expected 9"),
        ("a:b", "2 fields, expected 9"),
        ("*:64:1:60:.:Linux:2.4::x:y", "10 fields, expected 9"),
        ("*:64:1:60:.:Li\nnux:2.4::x", "field \"Li\\nnux\": expected no control characters"),
        ("Q4:64:1:60:.:Linux:2.4::x", "window \"Q4\": expected * (any)"),
        (":64:1:60:.:Linux:2.4::x", "window \"\""),
        ("%0:64:1:60:.:Linux:2.4::x", "window \"%0\""),
        ("S:64:1:60:.:Linux:2.4::x", "window \"S\""),
        ("ä:64:1:60:.:Linux:2.4::x", "window \"ä\""),
        ("S65536:64:1:60:.:Linux:2.4::x", "window \"S65536\""),
        ("4294967296:64:1:60:.:Linux:2.4::x", "window \"4294967296\""),
        ("*:256:1:60:.:Linux:2.4::x", "ttl \"256\": expected 0..=255"),
        ("*:64:y:60:.:Linux:2.4::x", "df \"y\": expected 0 or 1"),
        ("*:64:1:65536:.:Linux:2.4::x", "size \"65536\": expected 0..=65535"),
        ("*:64:1:60:?12:Linux:2.4::x", "options \"?12\": expected N, S"),
        ("*:64:1:60:M:Linux:2.4::x", "options \"M\""),
        ("*:64:1:60:N,,N:Linux:2.4::x", "options \"N,,N\""),
        ("*:64:1:60:T,T,T,T,N:Linux:2.4::x", "40 bytes at most"),
    ] {
        let refused = Fingerprint::read(line).expect_err(line).to_string();
        assert!(
            refused.contains(what) && refused.starts_with(&format!("fingerprint {line:?}: ")),
            "{refused}"
        );
    }
}

#[test]
fn a_line_is_bounded_also_by_blanks_and_zeros() {
    for filler in ["M%s1460", "M1460,%s N", "N%s"] {
        let fill = if filler.ends_with('0') { "0" } else { " " };
        let bare = format!("*:64:1:44:{}:x:::", filler.replace("%s", ""));
        let line = |len: usize| {
            let fill = fill.repeat(len - bare.len());
            format!("*:64:1:44:{}:x:::", filler.replace("%s", &fill))
        };
        assert!(Fingerprint::read(&line(LONGEST_LINE)).is_ok(), "{filler}");
        let refused = Fingerprint::read(&line(LONGEST_LINE + 1)).expect_err(filler).to_string();
        assert_eq!(refused, "fingerprint of 1024 bytes: expected 1023 at most");
    }
}

#[test]
fn they_are_bounded_in_all_and_of_a_shape() {
    let line = |ttl: usize, size: usize| fingerprint(&format!("*:{ttl}:1:{size}:.:x:::"));
    let mut all = Fingerprints::default();
    for size in 0..MOST / MOST_OF_A_SHAPE {
        (0..MOST_OF_A_SHAPE).for_each(|ttl| assert_eq!(all.add(line(ttl, size)), Ok(true)));
    }
    assert_eq!((all.len(), all.add(line(1, 1000))), (MOST, Err(Full::All)));
    assert_eq!(all.add(line(1, 1)), Ok(false), "what is there is no more");
    assert!(all.remove(&line(1, 1)) && !all.remove(&line(1, 1)));
    let other = fingerprint("S1:1:1:0:.:x:::");
    assert_eq!((all.add(other.clone()), all.len()), (Err(Full::Shape), MOST - 1));
    assert!(all.remove(&line(7, 0)));
    assert_eq!(all.add(other.clone()), Ok(true));
    assert_eq!(all.iter().last(), Some(&other));
    let rest: Vec<Fingerprint> = all.iter().cloned().collect();
    assert!(rest.iter().all(|old| all.remove(old)) && all.is_empty() && all.shapes.is_empty());
}

/// Whether a window is what a fingerprint says, asked in one line after the other.
fn fits(asked: Window, window: u16, mss: u16) -> bool {
    let (window, sizes) = (u64::from(window), [u64::from(mss), 1460, 1448]);
    match asked {
        Window::Any => true,
        Window::Exactly(n) => u64::from(n.get()) == window,
        Window::Segments(n) => sizes.iter().any(|size| u64::from(n) * size == window),
        Window::Packets(n) => sizes.iter().any(|size| u64::from(n) * (size + 40) == window),
        Window::MultipleOf(n) => window % u64::from(n.get()) == 0,
    }
}

fn line() -> impl Strategy<Value = String> {
    let window = select(vec!["*", "S4", "T4", "%1460", "5840", "S1", "%1", "S0", "T0", "T1", "S7"]);
    let options = select(vec![".", "M*", "M*,N,N,S", "N,N,S,M*", "M*,S,T,N,W0", "N,N,N,N"]);
    (window, 60..63_u8, 0..2_u8, select(vec![40_u16, 44, 48, 60]), options, "[ab]").prop_map(
        |(window, ttl, df, size, options, genre)| format!("{window}:{ttl}:{df}:{size}:{options}:{genre}:::"),
    )
}

proptest! {
    #[test]
    fn a_shape_finds_what_a_walk_through_all_finds(
        lines in prop::collection::vec(line(), 0..60),
        gone in prop::collection::vec(line(), 0..60),
        (like, window, mss) in (line(), select(vec![0_u16, 1460, 1500, 5840, 5792, 6000, 4096, 7, 40, 65_535]), select(vec![0_u16, 1, 1460, 1024, 65_495, 65_496, 65_535])),
    ) {
        let (mut all, mut list) = (Fingerprints::default(), Vec::new());
        for line in &lines {
            let is_new = !list.contains(&fingerprint(line));
            prop_assert_eq!(all.add(fingerprint(line)), Ok(is_new));
            list.extend(is_new.then(|| fingerprint(line)));
        }
        for line in &gone {
            let is_there = list.contains(&fingerprint(line));
            prop_assert_eq!(all.remove(&fingerprint(line)), is_there);
            list.retain(|other| *other != fingerprint(line));
        }
        prop_assert_eq!(all.len(), list.len());
        prop_assert!(all.iter().eq(&list));
        let syn = Syn::new(fingerprint(&like).shape, window, mss);
        let expected = list.iter().filter(|one| one.shape == syn.shape && fits(one.window, window, mss));
        prop_assert!(all.fitting(&syn).eq(expected));
    }

    #[test]
    fn any_bytes_are_options_or_none(bytes in prop::collection::vec(any::<u8>(), 0..41)) {
        let (mut at, mut kinds) = (0, Vec::new());
        while let Some(&kind) = bytes.get(at) {
            kinds.push(kind);
            at += length(kind).unwrap_or(99);
        }
        let letters = |kind: &u8| match *kind { 0 => "E", 1 => "N", 2 => "M*", 3 => "W*", 4 => "S", _ => "T" };
        let text = kinds.iter().map(letters).collect::<Vec<_>>().join(",");
        let expected = (at == bytes.len()).then(|| kinds_of(&text).unwrap());
        prop_assert_eq!(read_options(&bytes).map(|(kinds, _)| kinds), expected);
    }

    #[test]
    fn any_names_read_as_they_are_written(names in prop::collection::vec("[@* a-cä]{0,34}", 3)) {
        let read = fingerprint(&format!("*:64:1:60:.:{}:", names.join(":")));
        prop_assert_eq!(Fingerprint::read(&read.to_string()), Ok(read));
    }

    #[test]
    fn any_text_is_a_line_or_refused(text in "[-0-9STMNWE%*:,.@ä ]{0,40}") {
        if let Ok(read) = Fingerprint::read(&text) {
            prop_assert_eq!(Fingerprint::read(&read.to_string()), Ok(read));
        }
    }
}
