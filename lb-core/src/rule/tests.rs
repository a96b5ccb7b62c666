//! What is read prints as iptables prints it, and reads as the same again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::counted::Counted;
use super::event::Events;
use super::matches::AnyMatch;
use super::names::Numeric;
use super::targets::AnyTarget;
use super::*;
use crate::conntrack::Labels;
use crate::counters::Counter;
use crate::flow::{FlowTable, Tuple, memory_needed};
use crate::mem::Region;
use crate::tables::Tables;
use crate::time::Tick;
use crate::wire::parse::Headers;

/// Looks at a packet as rules see one that came by no interface, of no connection.
pub(super) fn look_at<R>(
    (frame, headers): (&mut [u8], &mut Headers),
    tuple: Tuple,
    tables: &Tables,
    events: &Events,
    now: Tick,
    look: impl FnOnce(&mut View<'_>) -> R,
) -> R {
    look(&mut View {
        tables,
        cpu: 0,
        frame,
        headers,
        hook: Hook::Input,
        tuple,
        input: None,
        output: None,
        mark: 0,
        connection: None,
        labels: Labelled {
            flows: &mut FlowTable::new(Region::heap(memory_needed(1, 0)), 1, 0, 0, now),
            at: None,
            to_be: &mut Labels::default(),
            full: &Counter::default(),
        },
        flow: None,
        counted: &mut Counted::new(0, 1),
        hops: 0,
        is_untracked: false,
        service: None,
        now,
        wall: 0,
        events,
        trail: None,
        copies: None,
        is_traced: false,
        is_dry: false,
        effects: Effects::default(),
    })
}

fn read(family: Family, line: &str) -> Result<Vec<Rule>, Error> {
    Rule::read(&text::split(line)?, &mut Around::new(family, &Numeric)).map(|(rules, _)| rules)
}

#[test]
fn every_file_of_a_match_or_target_is_in_its_table() {
    for (folder, table) in [("matches", AnyMatch::FILES), ("targets", AnyTarget::FILES)] {
        let path = format!("{}/src/rule/{folder}", env!("CARGO_MANIFEST_DIR"));
        let files: BTreeSet<String> = std::fs::read_dir(path)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
            .filter(|name| name != "mod")
            .collect();
        assert_eq!(files, table.iter().map(|&name| name.to_owned()).collect::<BTreeSet<String>>());
    }
}

#[test]
fn whatever_remembers_packets_leaves_it_as_it_is_when_nobody_sent_the_packet() {
    for folder in ["matches", "targets"] {
        let path = format!("{}/src/rule/{folder}", env!("CARGO_MANIFEST_DIR"));
        for file in std::fs::read_dir(path).unwrap() {
            let file = file.unwrap().path();
            let text = std::fs::read_to_string(&file).unwrap();
            let remembers = text.contains("Kept<") || text.contains("tables.sets");
            let is_told = !remembers || text.contains("is_dry");
            assert!(is_told, "{}: explain must not change what it keeps: see View::is_dry", file.display());
        }
    }
}

/// What stands in the docs between these two.
fn told(begin: &str, end: &str) -> String {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/iptables.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let (_, rest) = docs.split_once(begin).expect(begin);
    rest.split_once(end).expect(end).0.replace('\n', " ")
}

#[test]
fn the_docs_name_the_matches_that_there_are_and_those_that_cost_connections_their_course() {
    let first_words = |told: &str| -> BTreeSet<String> {
        told.split(", ").map(|item| item.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    let built: BTreeSet<String> = AnyMatch::ALL.iter().map(|about| about.name.to_owned()).collect();
    assert_eq!(first_words(&told("| matches | ", " |")), built);
    let told = first_words(&told("have it compared packet by packet: ", "; all targets"));
    let costs = |name: &&String| AnyMatch::begin(name).unwrap().depends() > Depends::Flow;
    let untold: Vec<_> = built.iter().filter(costs).filter(|&name| !told.contains(name)).collect();
    assert!(untold.is_empty(), "{untold:?}");
}

/// As written, and as `iptables -S` prints it (recorded).
const LINES: &[(&str, &str)] = &[
    ("-s 192.0.2.7/24 -j ACCEPT", "-s 192.0.2.0/24 -j ACCEPT"),
    ("! -s 10.0.0.0/8 -i eth+ ! -o lan -j DROP", "! -s 10.0.0.0/8 -i eth+ ! -o lan -j DROP"),
    ("-p tcp --dport 80 -j ACCEPT", "-p tcp -m tcp --dport 80 -j ACCEPT"),
    (
        "-p tcp --syn -j REJECT",
        "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j REJECT --reject-with icmp-port-unreachable",
    ),
    ("-p udp --sport 1:1024 -g chain", "-p udp -m udp --sport 1:1024 -g chain"),
    ("-p icmp --icmp-type echo-request -j DROP", "-p icmp -m icmp --icmp-type 8 -j DROP"),
    ("-m state --state NEW,ESTABLISHED -j ACCEPT", "-m state --state NEW,ESTABLISHED -j ACCEPT"),
    (
        "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ),
    ("-m conntrack --ctstate DNAT --ctproto tcp", "-m conntrack --ctstate DNAT --ctproto 6"),
    ("-m string --algo bm --hex-string \"|0d 0a|x\"", "-m string --hex-string \"|0d0a78|\" --algo bm"),
    (
        "-m time --timestart 09:00 --timestop 17:30 --weekdays Mon,Tue",
        "-m time --timestart 09:00:00 --timestop 17:30:00 --weekdays Mon,Tue --datestop 2038-01-19T03:14:07",
    ),
    ("-m statistic --mode nth --every 3 --packet 0", "-m statistic --mode nth --every 3 --packet 0"),
    ("-m recent --name r1 --set", "-m recent --set --name r1 --mask 255.255.255.255 --rsource"),
    ("-m u32 --u32 \"0&0xFF=0x1\"", "-m u32 --u32 \"0x0&0xff=0x1\""),
    ("-m connlabel --set --label 5", "-m connlabel --label \"5\" --set"),
    ("-m connlabel ! --label 0x7f", "-m connlabel ! --label \"127\""),
    ("-m connlabel --label 65541", "-m connlabel --label \"5\""),
    ("-m addrtype --dst-type LOCAL", "-m addrtype --dst-type LOCAL"),
    (
        "-j LOG --log-prefix \"x: \" --log-level debug --log-tcp-options",
        "-j LOG --log-prefix \"x: \" --log-level 7 --log-tcp-options",
    ),
    (
        "-p tcp -j DNAT --to-destination 10.0.0.1:8000-8010 --random",
        "-p tcp -j DNAT --to-destination 10.0.0.1:8000-8010 --random",
    ),
    (
        "-p udp -j SNAT --to-source 192.0.2.1-192.0.2.9:1024-65535 --persistent",
        "-p udp -j SNAT --to-source 192.0.2.1-192.0.2.9:1024-65535 --persistent",
    ),
    (
        "-p tcp -j MASQUERADE --to-ports 1024-2048 --random",
        "-p tcp -j MASQUERADE --to-ports 1024-2048 --random",
    ),
    ("-j NETMAP --to 10.5.0.0/24", "-j NETMAP --to 10.5.0.0/24"),
    ("-j MARK --set-mark 1", "-j MARK --set-xmark 0x1/0xffffffff"),
    ("-j MARK --or-mark 4", "-j MARK --set-xmark 0x4/0x4"),
    ("-j CONNMARK --save-mark", "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"),
    ("-j TOS --set-tos Minimize-Delay", "-j TOS --set-tos 0x10/0x3f"),
    ("-j DSCP --set-dscp-class EF", "-j DSCP --set-dscp 0x2e"),
    ("-j TTL --ttl-set 64", "-j TTL --ttl-set 64"),
    (
        "-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu",
        "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j TCPMSS --clamp-mss-to-pmtu",
    ),
    ("-m ipvs ! --vaddr 192.0.2.9/255.255.255.0", "-m ipvs ! --vaddr 192.0.2.9/24"),
    ("-j CT --notrack", "-j CT --notrack"),
    (
        "-m set --match-set a src,dst ! --update-counters --return-nomatch ! --packets-eq 5 --bytes-gt 0x10 -j DROP",
        "-m set --match-set a src,dst --return-nomatch ! --update-counters ! --packets-eq 5 --bytes-gt 16 -j DROP",
    ),
    (
        "-m set ! --match-set a src ! --update-subcounters",
        "-m set ! --match-set a src ! --update-subcounters",
    ),
    ("-j SET --del-set b dst --add-set a src --exist", "-j SET --add-set a src --exist --del-set b dst"),
    ("-j SET --map-set m src,dst --map-mark", "-j SET --map-set m src,dst --map-mark"),
    // Numbers as C reads them: blanks and a sign before, decimal, octal or hexadecimal; decimal alone where a name may stand.
    ("-p tcp --sport \" 010:+20\" --dport \"\t0x50\"", "-p tcp -m tcp --sport 8:20 --dport 80"),
    ("-p udp --sport \" 010: +20\" --dport +080", "-p udp -m udp --sport 10:20 --dport 80"),
    ("-p tcp -m multiport --dports \" 80, +90: 0x63\"", "-p tcp -m multiport --dports 80,90:99"),
    ("-s \" 0xa. 1\" -d 010.0.0.9/\" 24\"", "-s 10.1.0.0/32 -d 8.0.0.0/24"),
    ("-s 192.0.2.9/0xff.255.\" 0\".0 -p \" +6\"", "-s 192.0.0.0/16 -p tcp"),
    ("-m iprange --src-range 10.1-\" 0xb\"", "-m iprange --src-range 10.1.0.0-11.0.0.0"),
    ("-m mark --mark \" 1/ 0x2\"", "-m mark --mark 0x1/0x2"),
    ("-m limit --limit \" 5/s\" --limit-burst \" 7\"", "-m limit --limit 5/sec --limit-burst 7"),
    (
        "-m statistic --mode random --probability \" +.5\"",
        "-m statistic --mode random --probability 0.50000000000",
    ),
    (
        "-m statistic --mode random --probability nan",
        "-m statistic --mode random --probability 0.00000000000",
    ),
    (
        "-m time --timestart \" 9:+5\" --weekdays \" 1, 02\"",
        "-m time --timestart 09:05:00 --timestop 23:59:59 --weekdays Mon,Tue --datestop 2038-01-19T03:14:07",
    ),
    (
        "-p tcp -j DNAT --to-destination \"10.0.0.1: 80-+0x51\"",
        "-p tcp -j DNAT --to-destination 10.0.0.1:80-81",
    ),
    ("-j MARK --set-mark \" 5/ 9\"", "-j MARK --set-xmark 0x5/0xd"),
    ("-j NFQUEUE", "-j NFQUEUE --queue-num 0"),
    ("-j NFQUEUE --queue-bypass --queue-num 65535", "-j NFQUEUE --queue-num 65535 --queue-bypass"),
    (
        "-j NFQUEUE --queue-cpu-fanout --queue-bypass --queue-balance 0:6",
        "-j NFQUEUE --queue-balance 0:6 --queue-bypass --queue-cpu-fanout",
    ),
];

#[test]
fn what_is_read_prints_as_recorded_and_reads_as_the_same_again() {
    for (line, printed) in LINES {
        let rules = read(Family::Ipv4, line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let [rule] = &rules[..] else { panic!("{line}: {rules:?}") };
        let saved = rule.save(Family::Ipv4, &Numeric);
        assert_eq!(saved.trim_start(), *printed, "{line}");
        assert_eq!(read(Family::Ipv4, &saved).unwrap(), rules, "{line}");
    }
}

#[test]
fn what_iptables_saves_and_does_not_take_is_read_unless_somebody_typed_it() {
    for line in [
        "-m cluster --cluster-local-nodemask 0x00000040 --cluster-total-nodes 8 --cluster-hash-seed 0x00000001",
        "-m hashlimit --hashlimit-upto 0b/s --hashlimit-name h",
        "-p tcp -j SNAT --to-source 192.0.2.1:1000-2000/0",
        "-p tcp -j MASQUERADE --to-ports 1000-2000/0",
    ] {
        let rules = read(Family::Ipv4, line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(rules[0].save(Family::Ipv4, &Numeric).trim_start(), line);
        let mut typed = Around::new(Family::Ipv4, &Numeric);
        typed.are_typed = true;
        let error = Rule::read(&text::split(line).unwrap(), &mut typed).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
    }
}

#[test]
fn each_source_and_destination_is_a_rule() {
    let rules = read(Family::Ipv4, "-s 10.0.0.1,10.0.0.2 -d 192.0.2.1,192.0.2.2 -j DROP").unwrap();
    assert_eq!(rules.len(), 4);
}

#[test]
fn what_cannot_be_is_refused_with_iptables_words() {
    for (line, says) in [
        ("-p tcp --dport 90:80", "invalid portrange (min > max)"),
        ("-j REJECT --reject-with nosuch", "unknown reject type \"nosuch\""),
        ("-j DNAT --to-destination 10.0.0.1:80", "Need TCP, UDP, SCTP or DCCP with port specification"),
        ("-p tcp -j DNAT", "DNAT: option \"--to-destination\" must be specified"),
        ("-j LOG --log-level 9", "log level \"9\" unknown"),
        ("-p tcp --dport \"80 \"", "invalid port/service `80 ' specified"),
        ("-p tcp --dport -80", "invalid port/service `-80' specified"),
        ("-p udp --dport 0x50", "Port \"0x50\" does not resolve to anything."),
        ("-s \"192.0.2.1 \"", "host/network `192.0.2.1 ' not found"),
        ("-s 192.0.2.1/255.255", "invalid mask `255.255' specified"),
        ("-m mark --mark \"1 /2\"", "mark: trailing garbage after value for option \"--mark\"."),
        ("-m mark --mark 1/2x", "mark: trailing garbage after value for option \"--mark\"."),
        ("-m set -j DROP", "You must specify `--match-set' with proper arguments"),
        ("-m set --match-set a", "--match-set requires two args."),
        ("-m set --match-set a in", "You must spefify (the comma separated list of) 'src' or 'dst'."),
        (
            "-m set --match-set a src --packets-lt 1 --packets-gt 2",
            "only one of the --packets-[eq|lt|gt] is allowed",
        ),
        ("-m set --match-set a src ! --bytes-lt 1", "--bytes-lt option cannot be inverted"),
        ("-j SET", "You must specify either `--add-set' or `--del-set' or `--map-set'"),
        ("-j SET --del-set a src --timeout 5", "Option `--timeout' can be used with `--add-set' only"),
        ("-j SET --map-set a src", "You must specify flags `--map-mark' or `--map-prio` or `--map-queue'"),
        ("-j NFQUEUE --queue-balance 6:6", "6 should be less than 6"),
        ("-j NFQUEUE --queue-balance 0:65535", "Invalid argument. Run `dmesg' for more information."),
        (
            "-j SET --map-set a src --map-mark --map-queue",
            "SET: option \"--map-queue\" is not built: nothing here has a packet's priority, or asks for a queue",
        ),
    ] {
        assert_eq!(read(Family::Ipv4, line).unwrap_err().to_string(), says, "{line}");
    }
    let reset = &read(Family::Ipv4, "-j REJECT --reject-with tcp-reset").unwrap()[0];
    assert_eq!(reset.check(Table::Filter, 2), Err(Refused::Invalid), "without -p tcp");
    let reject = &read(Family::Ipv4, "-j REJECT").unwrap()[0];
    assert_eq!(reject.check(Table::Mangle, 2), Err(Refused::Invalid), "in another table");
    let map = &read(Family::Ipv4, "-j SET --map-set a src --map-mark").unwrap()[0];
    assert_eq!(map.check(Table::Filter, 2), Err(Refused::Invalid), "but in table mangle");
}

#[test]
fn chains_that_lead_into_themselves_are_no_table() {
    let chain = |name: &str, hook, to: &str| {
        let rule = Arc::new(read(Family::Ipv4, &format!("-j {to}")).unwrap().remove(0));
        let rules = vec![RuleSource { rule, counter: 1 }];
        ChainSource { name: name.into(), hook, drops: false, counter: 0, rules }
    };
    let table =
        |chains: &[ChainSource]| Rules::default().with_table(Family::Ipv4, Table::Filter, chains).err();
    let input = chain("INPUT", Some(crate::hook::Hook::Input), "a");
    assert_eq!(table(&[input.clone(), chain("a", None, "ACCEPT")]), None);
    assert!(matches!(
        table(&[input.clone(), chain("a", None, "b"), chain("b", None, "a")]),
        Some(BadTable::Loop(_))
    ));
    let apart = [chain("INPUT", Some(crate::hook::Hook::Input), "ACCEPT"), chain("a", None, "a")];
    assert_eq!(table(&apart), None, "no hook leads there");
    assert_eq!(table(&[input]), Some(BadTable::NoChain("a".to_owned())));
}
