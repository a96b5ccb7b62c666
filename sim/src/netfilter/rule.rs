//! Rules as the model has them, drawn at random, and as the operator would write them.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv6Addr};

use lb_core::hook::Hook;
use lb_core::rule::{Table, chain_name};

use super::net::{INTERFACES, Net};
use super::npt;
use super::sets::{Adding, SETS};
use crate::draw::Draw;
use crate::wire::{ICMP, ICMPV6, TCP, UDP};

/// The operator's own chains; one leads to later ones only.
pub(super) const OWN: [&str; 3] = ["one", "two", "three"];

/// What a packet is to conntrack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    New,
    Established,
    Related,
    Invalid,
    Untracked,
}

impl State {
    const ALL: [State; 5] =
        [State::New, State::Established, State::Related, State::Invalid, State::Untracked];

    fn name(self) -> &'static str {
        match self {
            State::New => "NEW",
            State::Established => "ESTABLISHED",
            State::Related => "RELATED",
            State::Invalid => "INVALID",
            State::Untracked => "UNTRACKED",
        }
    }
}

/// Addresses with the same first bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Prefix {
    pub(super) address: IpAddr,
    pub(super) len: u8,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Test {
    Input(usize),
    Output(usize),
    Source {
        prefix: Prefix,
        is_not: bool,
    },
    Destination {
        prefix: Prefix,
        is_not: bool,
    },
    Protocol(u8),
    /// Of TCP or UDP, which a [`Test::Protocol`] before says.
    Ports {
        is_source: bool,
        first: u16,
        last: u16,
    },
    States(Vec<State>),
    /// The destination is translated, or the source.
    Translated {
        is_destination: bool,
    },
    Direction {
        is_reply: bool,
    },
    OriginalPort(u16),
    ReplySource(IpAddr),
    Mark {
        value: u32,
        mask: u32,
        is_not: bool,
    },
    ConnMark(u32),
    /// So many packets, or bytes, of a connection.
    Counted {
        from: u64,
        to: u64,
        are_bytes: bool,
        way: Way,
        is_not: bool,
    },
    /// Of the nodes of a cluster, by their bits, one is the connection's.
    Cluster {
        nodes: u32,
        mask: u32,
        seed: u32,
        is_not: bool,
    },
    /// An IP set, by its place, holds the packet.
    Set {
        set: usize,
        is_source: bool,
        is_not: bool,
    },
    /// A program says that the packet is of this protocol.
    Program(u8),
    /// Here every worker says that it is CPU 0.
    Cpu(u32),
    /// No packet has been in IPsec, or shall be.
    Policy {
        is_in: bool,
        is_none: bool,
    },
    /// None has a segment routing header.
    Segments,
}

/// Which packets of a connection count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Original,
    Reply,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    PortUnreachable,
    Reset,
    /// No rule says so: it has no hop left.
    NoHop,
}

/// What an end may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    pub(super) addresses: (IpAddr, IpAddr),
    pub(super) ports: Option<(u16, u16)>,
    /// Any port, also where the own one could stay.
    pub(super) is_random: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Does {
    Nothing,
    Accept,
    Drop,
    Return,
    Jump(&'static str),
    Goto(&'static str),
    Reject(Refusal),
    SetMark(u32),
    OrMark(u32),
    SetConnMark(u32),
    /// The mark is a hash of addresses, perhaps of protocol and ports too: the packet's, or the connection's.
    HashMark {
        is_of_connection: bool,
        has_ports: bool,
        seed: u32,
        below: u32,
    },
    SaveMark,
    RestoreMark,
    NoTrack,
    /// Its connection is in this zone.
    Zone(u16),
    Dnat(Choice),
    Snat(Choice),
    Masquerade {
        ports: Option<(u16, u16)>,
    },
    Redirect {
        port: u16,
    },
    /// An end's prefix becomes the other one.
    Prefix {
        is_destination: bool,
    },
    PutInto {
        set: usize,
        is_source: bool,
        adding: Adding,
    },
    TakeFrom {
        set: usize,
        is_source: bool,
    },
    /// They are right.
    FillChecksum,
}

impl Test {
    /// Connections are counted while somebody asks.
    pub(super) fn counts(&self) -> bool {
        matches!(self, Test::Counted { .. })
    }
}

impl Does {
    /// It says ports, which not every protocol has.
    fn has_ports(self) -> bool {
        match self {
            Does::Dnat(choice) | Does::Snat(choice) => choice.ports.is_some(),
            Does::Masquerade { ports } => ports.is_some(),
            Does::Redirect { .. } => true,
            _ => false,
        }
    }

    /// Conntrack sees a connection in part, or as two.
    pub(super) fn splits(self) -> bool {
        matches!(self, Does::NoTrack | Does::Zone(_))
    }

    /// Whether answers may come to another worker than the connection's, from such a chain.
    pub(super) fn hides_owners(self, hook: Option<Hook>) -> bool {
        match self {
            Does::Dnat(_) | Does::Redirect { .. } | Does::Prefix { .. } => true,
            Does::Snat(_) => hook == Some(Hook::Input),
            _ => false,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rule {
    pub(super) tests: Vec<Test>,
    pub(super) does: Does,
    pub(super) is_ipv6: bool,
}

/// A rule for a chain of a table; `hook`: of a built-in one.
pub(super) fn draw(draw: &mut Draw, net: &Net, table: Table, chain: &str, hook: Option<Hook>) -> Rule {
    let does = draw_target(draw, net, table, chain, hook);
    let mut tests = Vec::new();
    let needs_tcp = does == Does::Reject(Refusal::Reset);
    let needs_ports = does.has_ports();
    let is_splitting = does.splits();
    if draw.coin() || needs_tcp || needs_ports || is_splitting {
        // A handshake that conntrack sees in part is another story.
        let protocol = match draw.below(5) {
            _ if needs_tcp => TCP,
            0 if !needs_ports => net.icmp(),
            n if is_splitting || n < 3 => UDP,
            _ => TCP,
        };
        tests.push(Test::Protocol(protocol));
        if ![ICMP, ICMPV6].contains(&protocol) && draw.coin() {
            let is_source = draw.below(4) == 0;
            let (first, last) = if is_source {
                draw.pick(&[(1, 4002), (4000, 4003)])
            } else {
                draw.pick(&[(80, 80), (53, 100)])
            };
            tests.push(Test::Ports { is_source, first, last });
        }
    }
    // Else addresses of anybody would become those of the network.
    match does {
        Does::Prefix { is_destination: false } => tests.push(Test::Source { prefix: INNER, is_not: false }),
        Does::Prefix { is_destination: true } => {
            tests.push(Test::Destination { prefix: OUTER, is_not: false })
        }
        _ => {}
    }
    for _ in 0..draw.below(3) {
        let test = draw_test(draw, net, table, hook);
        let is_new = tests.iter().all(|other| std::mem::discriminant(other) != std::mem::discriminant(&test));
        if is_new {
            tests.push(test);
        }
    }
    Rule { tests, does, is_ipv6: net.is_ipv6 }
}

const INNER: Prefix = Prefix { address: IpAddr::V6(Ipv6Addr::from_bits(npt::INNER)), len: 64 };
const OUTER: Prefix = Prefix { address: IpAddr::V6(Ipv6Addr::from_bits(npt::OUTER)), len: 64 };

fn draw_test(draw: &mut Draw, net: &Net, table: Table, hook: Option<Hook>) -> Test {
    let is_before_conntrack = table == Table::Raw;
    let interface = draw.below(2) as usize;
    loop {
        let test = match draw.below(20) {
            0 if !matches!(hook, Some(Hook::Output | Hook::Postrouting)) => Test::Input(interface),
            1 if !matches!(hook, Some(Hook::Prerouting | Hook::Input)) => Test::Output(interface),
            2 => Test::Source { prefix: net.prefix(draw), is_not: draw.below(4) == 0 },
            3 => Test::Destination { prefix: net.prefix(draw), is_not: draw.below(4) == 0 },
            4 | 5 if !is_before_conntrack => {
                let states: Vec<State> = State::ALL.into_iter().filter(|_| draw.below(3) == 0).collect();
                Test::States(if states.is_empty() { vec![State::Established] } else { states })
            }
            6 if !is_before_conntrack => Test::Translated { is_destination: draw.coin() },
            7 if !is_before_conntrack => Test::Direction { is_reply: draw.coin() },
            8 if !is_before_conntrack => Test::OriginalPort(80),
            9 if !is_before_conntrack => Test::ReplySource(net.host(1, draw)),
            10 => Test::Mark {
                value: draw.below(4) as u32,
                mask: draw.pick(&[3, 1, u32::MAX]),
                is_not: draw.coin(),
            },
            11 if !is_before_conntrack => Test::ConnMark(draw.below(3) as u32),
            12 if !is_before_conntrack => {
                let are_bytes = draw.coin();
                let (from, to) = if are_bytes {
                    draw.pick(&[(60, 500), (200, 2000)])
                } else {
                    draw.pick(&[(1, 2), (3, 8)])
                };
                let way = draw.pick(&[Way::Original, Way::Reply, Way::Both]);
                Test::Counted { from, to, are_bytes, way, is_not: draw.below(4) == 0 }
            }
            13 if !is_before_conntrack => {
                let nodes = draw.between(1, 4) as u32;
                let mask = draw.between(1, (1 << nodes) - 1) as u32;
                Test::Cluster { nodes, mask, seed: draw.below(3) as u32, is_not: draw.below(4) == 0 }
            }
            14..=16 => Test::Set {
                set: draw.below(SETS.len() as u64) as usize,
                is_source: draw.coin(),
                is_not: draw.below(3) == 0,
            },
            17 => Test::Program(draw.pick(&[TCP, UDP, net.icmp()])),
            18 => match draw.below(3) {
                0 if net.is_ipv6 => Test::Segments,
                _ => Test::Cpu(draw.pick(&[0, 0, 1])),
            },
            19 => {
                let is_none = draw.below(3) > 0;
                match hook {
                    Some(Hook::Prerouting | Hook::Input | Hook::Forward) => {
                        Test::Policy { is_in: true, is_none }
                    }
                    Some(Hook::Output | Hook::Postrouting) => Test::Policy { is_in: false, is_none },
                    _ => continue,
                }
            }
            _ => continue,
        };
        return test;
    }
}

fn draw_target(draw: &mut Draw, net: &Net, table: Table, chain: &str, hook: Option<Hook>) -> Does {
    let own = OWN.iter().position(|own| *own == chain);
    let deeper: &[&'static str] = own.map_or(&OWN, |own| &OWN[own + 1..]);
    let ports = |draw: &mut Draw| draw.pick(&[None, None, Some((5000, 5001)), Some((5000, 5999))]);
    if table == Table::Nat && hook.is_some() && draw.below(4) > 0 {
        return match hook {
            Some(Hook::Prerouting) if draw.below(4) == 0 => Does::Redirect { port: 8080 },
            Some(Hook::Prerouting | Hook::Output) => {
                let first = net.host(draw.below(4).min(1) as usize, draw);
                Does::Dnat(Choice {
                    addresses: (first, first),
                    ports: draw.pick(&[None, Some((8080, 8080))]),
                    is_random: false,
                })
            }
            Some(Hook::Postrouting) if draw.coin() => Does::Masquerade { ports: ports(draw) },
            _ => Does::Snat(Choice {
                addresses: net.pool(draw),
                ports: ports(draw),
                is_random: draw.below(4) == 0,
            }),
        };
    }
    loop {
        let does = match draw.below(20) {
            0 | 1 => Does::Accept,
            2 if table != Table::Nat => Does::Drop,
            3 => Does::Return,
            4..=6 if !deeper.is_empty() => Does::Jump(draw.pick(deeper)),
            7 if !deeper.is_empty() => Does::Goto(draw.pick(deeper)),
            8 if table == Table::Filter => {
                Does::Reject(draw.pick(&[Refusal::PortUnreachable, Refusal::Reset]))
            }
            9 if table == Table::Mangle => Does::SetMark(draw.below(4) as u32),
            10 if table == Table::Mangle => Does::OrMark(draw.pick(&[1, 2])),
            11 if table != Table::Raw => Does::SetConnMark(draw.below(3) as u32),
            12 if table == Table::Mangle => draw.pick(&[Does::SaveMark, Does::RestoreMark]),
            12 if table == Table::Raw => Does::NoTrack,
            8..12 if table == Table::Raw => Does::Zone(draw.between(1, 2) as u16),
            13 => Does::Nothing,
            14 if table == Table::Mangle => Does::HashMark {
                is_of_connection: draw.coin(),
                has_ports: draw.coin(),
                seed: draw.below(3) as u32,
                below: draw.between(1, 4) as u32,
            },
            15 | 16 if table == Table::Mangle && net.is_ipv6 => match hook {
                Some(Hook::Prerouting | Hook::Output) => Does::Prefix { is_destination: true },
                Some(Hook::Input | Hook::Postrouting) => Does::Prefix { is_destination: false },
                _ => continue,
            },
            17 | 18 => {
                let (set, is_source) = (draw.below(SETS.len() as u64) as usize, draw.coin());
                let timeout =
                    if SETS[set].stays() { None } else { draw.pick(&[None, None, Some(1), Some(4)]) };
                let adding = Adding { exist: draw.coin(), timeout };
                match draw.below(3) {
                    0 => Does::TakeFrom { set, is_source },
                    _ => Does::PutInto { set, is_source, adding },
                }
            }
            19 if table == Table::Mangle => Does::FillChecksum,
            _ => continue,
        };
        return does;
    }
}

/// The built-in chains of a table, and the operator's.
pub(super) fn chains(table: Table) -> impl Iterator<Item = (&'static str, Option<Hook>)> {
    let built_in = table.hooks().iter().map(|&hook| (chain_name(hook), Some(hook)));
    built_in.chain(OWN.into_iter().map(|chain| (chain, None)))
}

fn range<T: fmt::Display + PartialEq>((first, last): (T, T), between: char) -> String {
    if first == last { first.to_string() } else { format!("{first}{between}{last}") }
}

impl Choice {
    /// As behind `--to-source`.
    fn text(&self) -> String {
        let addresses = range(self.addresses, '-');
        let Some(ports) = self.ports else { return addresses };
        let ports = range(ports, '-');
        if self.addresses.0.is_ipv6() {
            // A range of addresses is in one pair of brackets.
            format!("[{addresses}]:{ports}")
        } else {
            format!("{addresses}:{ports}")
        }
    }
}

impl fmt::Display for Rule {
    /// As the operator writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        let mut protocol = "";
        for test in &self.tests {
            let not = |is_not: bool| if is_not { "! " } else { "" };
            match test {
                Test::Input(n) => write!(out, "-i {} ", INTERFACES[*n])?,
                Test::Output(n) => write!(out, "-o {} ", INTERFACES[*n])?,
                Test::Source { prefix: Prefix { address, len }, is_not } => {
                    write!(out, "{}-s {address}/{len} ", not(*is_not))?;
                }
                Test::Destination { prefix: Prefix { address, len }, is_not } => {
                    write!(out, "{}-d {address}/{len} ", not(*is_not))?;
                }
                Test::Protocol(number) => {
                    protocol = match *number {
                        TCP => "tcp",
                        UDP => "udp",
                        ICMP => "icmp",
                        _ => "ipv6-icmp",
                    };
                    write!(out, "-p {protocol} ")?;
                }
                Test::Ports { is_source, first, last } => {
                    let which = if *is_source { "sport" } else { "dport" };
                    write!(out, "-m {protocol} --{which} {} ", range((first, last), ':'))?;
                }
                Test::States(states) => {
                    let names: Vec<_> = states.iter().map(|state| state.name()).collect();
                    write!(out, "-m state --state {} ", names.join(","))?;
                }
                Test::Translated { is_destination } => {
                    let state = if *is_destination { "DNAT" } else { "SNAT" };
                    write!(out, "-m conntrack --ctstate {state} ")?;
                }
                Test::Direction { is_reply } => {
                    let direction = if *is_reply { "REPLY" } else { "ORIGINAL" };
                    write!(out, "-m conntrack --ctdir {direction} ")?;
                }
                Test::OriginalPort(port) => write!(out, "-m conntrack --ctorigdstport {port} ")?,
                Test::ReplySource(address) => write!(out, "-m conntrack --ctreplsrc {address} ")?,
                Test::Mark { value, mask, is_not } => {
                    write!(out, "-m mark {}--mark {value:#x}/{mask:#x} ", not(*is_not))?;
                }
                Test::ConnMark(value) => write!(out, "-m connmark --mark {value:#x} ")?,
                Test::Counted { from, to, are_bytes, way, is_not } => {
                    let mode = if *are_bytes { "bytes" } else { "packets" };
                    let way = match way {
                        Way::Original => "original",
                        Way::Reply => "reply",
                        Way::Both => "both",
                    };
                    let not = not(*is_not);
                    write!(
                        out,
                        "-m connbytes {not}--connbytes {from}:{to} --connbytes-dir {way} --connbytes-mode {mode} "
                    )?;
                }
                Test::Set { set, is_source, is_not } => {
                    let (not, set) = (not(*is_not), SETS[*set]);
                    write!(out, "-m set {not}--match-set {} {} ", set.name, set.sides(*is_source))?;
                }
                Test::Program(protocol) => {
                    let at = if self.is_ipv6 { 6 } else { 9 };
                    write!(out, "-m bpf --bytecode \"4,48 0 0 {at},21 0 1 {protocol},6 0 0 1,6 0 0 0\" ")?;
                }
                Test::Cpu(number) => write!(out, "-m cpu --cpu {number} ")?,
                Test::Policy { is_in, is_none } => {
                    let dir = if *is_in { "in" } else { "out" };
                    let pol = if *is_none { "none" } else { "ipsec" };
                    write!(out, "-m policy --dir {dir} --pol {pol} ")?;
                }
                Test::Segments => out.push_str("-m srh --srh-segs-left-eq 0 "),
                Test::Cluster { nodes, mask, seed, is_not } => {
                    let not = not(*is_not);
                    write!(
                        out,
                        "-m cluster --cluster-total-nodes {nodes} {not}--cluster-local-nodemask {mask} --cluster-hash-seed {seed} "
                    )?;
                }
            }
        }
        match &self.does {
            Does::Nothing => {}
            Does::Accept => out.push_str("-j ACCEPT"),
            Does::Drop => out.push_str("-j DROP"),
            Does::Return => out.push_str("-j RETURN"),
            Does::Jump(chain) => write!(out, "-j {chain}")?,
            Does::Goto(chain) => write!(out, "-g {chain}")?,
            Does::Reject(Refusal::PortUnreachable | Refusal::NoHop) => out.push_str("-j REJECT"),
            Does::Reject(Refusal::Reset) => out.push_str("-j REJECT --reject-with tcp-reset"),
            Does::SetMark(mark) => write!(out, "-j MARK --set-mark {mark}")?,
            Does::OrMark(mark) => write!(out, "-j MARK --or-mark {mark}")?,
            Does::SetConnMark(mark) => write!(out, "-j CONNMARK --set-mark {mark}")?,
            Does::HashMark { is_of_connection, has_ports, seed, below } => {
                let of = if *is_of_connection { "ct," } else { "" };
                let ports = if *has_ports { ",proto,sport,dport" } else { "" };
                write!(
                    out,
                    "-j HMARK --hmark-tuple {of}src,dst{ports} --hmark-rnd {seed} --hmark-mod {below}"
                )?;
            }
            Does::SaveMark => out.push_str("-j CONNMARK --save-mark"),
            Does::RestoreMark => out.push_str("-j CONNMARK --restore-mark"),
            Does::NoTrack => out.push_str("-j NOTRACK"),
            Does::Zone(zone) => write!(out, "-j CT --zone {zone}")?,
            Does::Dnat(choice) => write!(out, "-j DNAT --to-destination {}", choice.text())?,
            Does::Snat(choice) => {
                let random = if choice.is_random { " --random" } else { "" };
                write!(out, "-j SNAT --to-source {}{random}", choice.text())?;
            }
            Does::Masquerade { ports } => {
                out.push_str("-j MASQUERADE");
                if let Some(ports) = ports {
                    write!(out, " --to-ports {}", range(*ports, '-'))?;
                }
            }
            Does::Redirect { port } => write!(out, "-j REDIRECT --to-ports {port}")?,
            Does::Prefix { is_destination } => {
                let (inner, outer) = (INNER.address, OUTER.address);
                match is_destination {
                    false => write!(out, "-j SNPT --src-pfx {inner}/64 --dst-pfx {outer}/64")?,
                    true => write!(out, "-j DNPT --src-pfx {outer}/64 --dst-pfx {inner}/64")?,
                }
            }
            Does::PutInto { set, is_source, adding: Adding { exist, timeout } } => {
                let set = SETS[*set];
                write!(out, "-j SET --add-set {} {}", set.name, set.sides(*is_source))?;
                out.push_str(if *exist { " --exist" } else { "" });
                if let Some(seconds) = timeout {
                    write!(out, " --timeout {seconds}")?;
                }
            }
            Does::TakeFrom { set, is_source } => {
                let set = SETS[*set];
                write!(out, "-j SET --del-set {} {}", set.name, set.sides(*is_source))?;
            }
            Does::FillChecksum => out.push_str("-j CHECKSUM --checksum-fill"),
        }
        f.write_str(out.trim_end())
    }
}
