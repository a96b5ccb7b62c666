//! Goal: what an index finds is what a walk from rule to rule finds. Method: tables of chains long enough to have an index, of words that often speak of the same
//! few addresses, ports and interfaces; the same packets through two copies of a table, whose rules remember apart; verdicts, marks, counters compared.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use super::super::index::SHORT;
use super::super::names::Numeric;
use super::super::tests::look_at;
use super::super::view::Effects;
use super::super::{Account, AccountQuota, Around, Connection, Named, text};
use super::*;
use crate::conntrack::helper::HelperId;
use crate::conntrack::{CtState, Status, Zones};
use crate::flow::Tuple;
use crate::ids::PortId;
use crate::tables::{Interface, InterfaceId, Interfaces, Protocol, Tables};
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

const CHAINS: [&str; 3] = ["INPUT", "one", "two"];

/// An address of a few.
fn address(family: Family, n: u8) -> IpAddr {
    match family {
        Family::Ipv4 => format!("10.0.0.{n}").parse().unwrap(),
        Family::Ipv6 => format!("2001:db8::{n:x}").parse().unwrap(),
    }
}

fn not() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => Just("! ")]
}

/// Maybe what `words` says.
fn maybe(weight: u32, words: impl Strategy<Value = String> + 'static) -> BoxedStrategy<String> {
    prop_oneof![weight => words, 1 => Just(String::new())].boxed()
}

fn net(family: Family, option: &'static str) -> BoxedStrategy<String> {
    let masks = match family {
        Family::Ipv4 => vec!["", "/30", "/31", "/8", "/0", "/255.0.0.255"],
        Family::Ipv6 => vec!["", "/126", "/127", "/32", "/0", "/ffff::ff"],
    };
    let net = (not(), 0..12_u8, select(masks));
    maybe(3, net.prop_map(move |(not, n, mask)| format!("{not}{option} {}{mask} ", address(family, n))))
}

fn interface(option: &'static str) -> BoxedStrategy<String> {
    let names = select(vec!["wan", "lan", "dmz", "wan+", "la+", "nowhere"]);
    let words = (not(), names).prop_map(move |(not, name)| format!("{not}{option} {name} "));
    prop_oneof![1 => words, 3 => Just(String::new())].boxed()
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![0..6_u16, 65_533..=65_535_u16]
}

fn ports() -> BoxedStrategy<String> {
    let range = (port(), port()).prop_map(|(a, b)| format!("{}:{}", a.min(b), a.max(b)));
    prop_oneof![3 => port().prop_map(|port| port.to_string()), 1 => range].boxed()
}

fn protocol() -> BoxedStrategy<String> {
    let with_ports = (select(vec!["tcp", "udp", "sctp"]), 0..4_u8, not(), ports(), not(), ports()).prop_map(
        |(protocol, which, not_source, source, not_destination, destination)| {
            let mut words = format!("-p {protocol} ");
            if which & 1 != 0 {
                words += &format!("{not_source}--sport {source} ");
            }
            if which & 2 != 0 {
                words += &format!("{not_destination}--dport {destination} ");
            }
            words
        },
    );
    let many = (select(vec!["sports", "dports", "ports"]), not(), prop::collection::vec(port(), 1..4))
        .prop_map(|(which, not, ports)| {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("-p tcp -m multiport {not}--{which} {} ", ports.join(","))
        });
    prop_oneof![4 => with_ports, 1 => many, 1 => Just("-p icmp ".to_owned()), 1 => Just("! -p udp ".to_owned()),
        2 => Just(String::new())]
    .boxed()
}

fn other(family: Family) -> BoxedStrategy<String> {
    let range = (select(vec!["src", "dst"]), not(), 0..12_u8, 0..12_u8).prop_map(move |(end, not, a, b)| {
        format!("-m iprange {not}--{end}-range {}-{} ", address(family, a.min(b)), address(family, a.max(b)))
    });
    let words = vec![
        "-m limit --limit 5/sec --limit-burst 2 ",
        "-m statistic --mode nth --every 3 --packet 0 ",
        "-m quota --quota 1000 ",
        "-m nfacct --nfacct-name few ",
        "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 2 --hashlimit-mode srcip --hashlimit-name h ",
        "-m recent --set ",
        "-m recent --update --seconds 2 --hitcount 2 ",
        "-m mark --mark 1/1 ",
        "-m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 1 ",
        "-m cpu ! --cpu 0 ",
        "-m state --state NEW ",
        "-f ",
        "! -f ",
    ];
    prop_oneof![5 => Just(String::new()), 2 => range, 3 => select(words).prop_map(str::to_owned)].boxed()
}

fn target(chain: usize) -> BoxedStrategy<String> {
    let mut targets = vec![
        "",
        "-j ACCEPT",
        "-j DROP",
        "-j RETURN",
        "-j MARK --or-mark 1",
        "-j MARK --and-mark 2",
        "-j HMARK --hmark-tuple src,dst,sport --hmark-mod 4 --hmark-rnd 1",
        "-j LOG",
    ];
    targets.extend(["-j one", "-g one", "-j two", "-g two"].into_iter().skip(chain * 2));
    select(targets).prop_map(str::to_owned).boxed()
}

/// Lines of a chain. What narrows stands before or behind what remembers.
fn lines(family: Family, chain: usize) -> impl Strategy<Value = Vec<String>> {
    let heads = (net(family, "-s"), net(family, "-d"), interface("-i"), interface("-o"));
    let line = (heads, other(family), protocol(), other(family), target(chain)).prop_map(
        |((source, destination, input, output), before, protocol, behind, target)| {
            format!("{source}{destination}{input}{output}{before}{protocol}{behind}{target}")
        },
    );
    prop::collection::vec(line, 0..200)
}

fn compile(family: Family, lines: &[Vec<String>], drops: bool) -> Rules {
    let mut named = Named::new(1);
    let quota = Some(AccountQuota { is_of_packets: true, limit: 3 });
    named.accounts.insert("few".into(), Arc::new(Account::new(quota, (0, 0))));
    let mut counter = 0;
    let chain = |(name, lines): (&&str, &Vec<String>)| {
        let hook = (*name == "INPUT").then_some(Hook::Input);
        let read = |line: &String| {
            let read = Rule::read(&text::split(line).unwrap(), &mut Around::new(family, &Numeric));
            // Not all words go together.
            let mut rule = read.ok()?.0.into_iter().next()?;
            rule.bind(&mut named).ok()?;
            counter += 1;
            Some(RuleSource { rule: Arc::new(rule), counter })
        };
        let rules = lines.iter().filter_map(read).collect();
        ChainSource { name: (*name).into(), hook, drops, counter: 0, rules }
    };
    let chains: Vec<ChainSource> = CHAINS.iter().zip(lines).map(chain).collect();
    Rules::default().with_table(family, Table::Filter, &chains).unwrap()
}

fn interfaces() -> Tables {
    let interface = |(port, name): (u16, &str)| Interface {
        name: name.to_owned(),
        port: PortId(port),
        vlan: 0,
        mac: [2; 6],
        mtu: 1500,
        outside: false,
        group: 0,
        ipv4: None,
        ipv6: None,
    };
    let list = (0..).zip(["wan", "lan", "dmz"]).map(interface).collect();
    Tables { interfaces: Arc::new(Interfaces::new(list)), ..Tables::default() }
}

#[derive(Clone, Debug)]
struct Sent {
    ends: (u8, u8),
    ports: (u16, u16),
    protocol: u8,
    input: Option<u16>,
    output: Option<u16>,
    fragment: Fragment,
    is_new: bool,
    after: u32,
}

fn sent() -> impl Strategy<Value = Sent> {
    let fragment =
        prop_oneof![4 => Just(Fragment::None), 1 => Just(Fragment::First), 1 => Just(Fragment::Later)];
    let interfaces = (prop::option::of(0..3_u16), prop::option::of(0..3_u16));
    let protocol = select(vec![1, 6, 6, 17, 132]);
    ((0..13_u8, 0..13_u8), (port(), port()), protocol, interfaces, fragment, any::<bool>(), 0..30_u32)
        .prop_map(|(ends, ports, protocol, (input, output), fragment, is_new, after)| Sent {
            ends,
            ports,
            protocol,
            input,
            output,
            fragment,
            is_new,
            after,
        })
}

type Found = (Verdict, u32, Effects);

fn walk(
    sent: &Sent,
    family: Family,
    now: Tick,
    tables: &Tables,
    rules: &Rules,
    run: impl Fn(&mut View<'_>) -> Verdict,
) -> Found {
    let tuple = Tuple {
        src: address(family, sent.ends.0),
        dst: address(family, sent.ends.1),
        sport: sent.ports.0,
        dport: sent.ports.1,
        protocol: Protocol(sent.protocol),
    };
    let mut headers = Headers {
        is_ipv6: family == Family::Ipv6,
        protocol: tuple.protocol,
        fragment: sent.fragment,
        ip_len: 100,
        ..Headers::NONE
    };
    let connection = Connection {
        state: if sent.is_new { CtState::New } else { CtState::Established },
        is_reply: false,
        status: Status::NONE,
        original: tuple,
        reply: tuple.reversed(),
        mark: 0,
        zones: Zones::NONE,
        told_by: HelperId::NONE,
        expires: 0,
        counts: None,
    };
    look_at((&mut [], &mut headers), tuple, tables, &rules.events, now, |view| {
        view.input = sent.input.map(InterfaceId);
        view.output = sent.output.map(InterfaceId);
        view.connection = Some(connection);
        (run(view), view.mark, view.effects)
    })
}

fn tables() -> impl Strategy<Value = (Family, Vec<Vec<String>>)> {
    select(&Family::ALL[..]).prop_flat_map(|family| {
        let chains = (lines(family, 0), lines(family, 1), lines(family, 2));
        chains.prop_map(move |(input, one, two)| (family, vec![input, one, two]))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_index_changes_nothing_of_what_rules_do(
        (family, lines) in tables(),
        drops in any::<bool>(),
        packets in prop::collection::vec(sent(), 1..200),
    ) {
        let (fast, slow) = (compile(family, &lines, drops), compile(family, &lines, drops));
        let interfaces = interfaces();
        let (counted, counted_slowly) = (WorkerCounters::new(0, 0), WorkerCounters::new(0, 0));
        let mut now = Tick(1000);
        for sent in &packets {
            now = Tick(now.0 + sent.after);
            let found = walk(sent, family, now, &interfaces, &fast, |view| {
                fast.run(Table::Filter, Hook::Input, view, &counted)
            });
            let expected = walk(sent, family, now, &interfaces, &slow, |view| {
                slow.run_linearly(Table::Filter, Hook::Input, view, &counted_slowly)
            });
            prop_assert_eq!(found, expected, "{:?}", sent);
            for number in 0..lines.iter().map(Vec::len).sum::<usize>() as u32 + 1 {
                let of = |counters: &WorkerCounters| {
                    let cell = counters.rule(number);
                    (cell.packets.get(), cell.bytes.get())
                };
                prop_assert_eq!(of(&counted), of(&counted_slowly), "rule {}: {:?}", number, sent);
            }
            let told = || std::iter::from_fn(|| fast.events.take().map(|event| event.mark)).collect::<Vec<_>>();
            let expected = std::iter::from_fn(|| slow.events.take().map(|event| event.mark)).collect::<Vec<_>>();
            prop_assert_eq!(told(), expected);
        }
    }
}

#[test]
fn no_connection_has_the_status_none() {
    let sent = Sent {
        ends: (1, 2),
        ports: (4000, 80),
        protocol: 6,
        input: None,
        output: None,
        fragment: Fragment::None,
        is_new: true,
        after: 0,
    };
    for (line, verdict) in [
        ("-m conntrack --ctstatus NONE -j DROP", Verdict::Accept),
        ("-m conntrack ! --ctstatus NONE -j DROP", Verdict::Drop),
        ("-m conntrack --ctstatus NONE,ASSURED -j DROP", Verdict::Accept),
    ] {
        let rules = compile(Family::Ipv4, &[vec![line.to_owned()], vec![], vec![]], false);
        let counters = WorkerCounters::new(0, 0);
        let found = walk(&sent, Family::Ipv4, Tick(0), &interfaces(), &rules, |view| {
            rules.run(Table::Filter, Hook::Input, view, &counters)
        });
        assert_eq!(found.0, verdict, "{line}");
    }
}

#[test]
fn a_long_chain_asks_the_rules_that_may_match_alone() {
    let family = Family::Ipv4;
    let hosts = (0..10_000).map(|n| format!("-s 172.16.{}.{} -j DROP", n / 256, n % 256));
    let ports = (0..10_000).map(|n| format!("-s 10.{}.0.0/16 -p tcp --dport {n} -j ACCEPT", n % 100));
    for lines in [hosts.collect::<Vec<_>>(), ports.collect()] {
        let rules = compile(family, &[lines, vec![], vec![]], false);
        let compiled = rules.tables[0][Table::Filter as usize].as_ref().unwrap();
        let index = compiled.chains[0].index.as_ref().unwrap();
        let sent = Sent {
            ends: (1, 2),
            ports: (4000, 6400),
            protocol: 6,
            input: None,
            output: None,
            fragment: Fragment::None,
            is_new: true,
            after: 0,
        };
        let asked = std::cell::Cell::new(0);
        walk(&sent, family, Tick(0), &interfaces(), &rules, |view| {
            let mut search = index.search(view);
            let mut at = 0;
            while let Some(found) = index.next(&mut search, at) {
                asked.set(asked.get() + 1);
                at = found + 1;
            }
            Verdict::Accept
        });
        assert!(asked.get() <= 1, "{}", asked.get());
        let bytes = index.memory();
        assert!(bytes < 1 << 20, "{bytes} bytes");
    }
}

#[test]
fn rules_of_wide_ranges_take_no_more_memory_than_they_may() {
    let lines = (0..4000).map(|n| format!("-p tcp --dport {n}:{} -j ACCEPT", 60_000 - n)).collect();
    let rules = compile(Family::Ipv4, &[lines, vec![], vec![]], false);
    let compiled = rules.tables[0][Table::Filter as usize].as_ref().unwrap();
    assert!(compiled.chains[0].rules.len() > SHORT);
    let bytes = compiled.chains[0].index.as_ref().unwrap().memory();
    assert!(bytes < 4000 * 320, "{bytes} bytes");
}
