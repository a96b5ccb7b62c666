//! IP sets: what the operator and rules put into them, and whether a packet is in one.

use std::net::IpAddr;

use hashbrown::HashMap;
use lb_core::flow::Tuple;
use lb_core::time::{Tick, Timeout};

use super::net::Net;
use super::packet::number;
use crate::draw::Draw;
use crate::wire::{TCP, UDP};

/// What a set's elements are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Address,
    /// The longest of those that an address is in counts.
    Net,
    AddressAndMark,
    /// Of TCP and UDP.
    Port,
}

/// One set of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SetName {
    pub(super) name: &'static str,
    kind: Kind,
    create: &'static str,
    /// Seconds that an element stays if nothing else is said; `None`: all stay.
    timeout: Option<u32>,
}

pub(super) const SETS: [SetName; 4] = [
    SetName { name: "ips", kind: Kind::Address, create: "hash:ip timeout 3", timeout: Some(3) },
    SetName { name: "nets", kind: Kind::Net, create: "hash:net", timeout: None },
    SetName { name: "marks", kind: Kind::AddressAndMark, create: "hash:ip,mark timeout 0", timeout: Some(0) },
    SetName {
        name: "ports",
        kind: Kind::Port,
        create: "bitmap:port range 0-9000 timeout 2",
        timeout: Some(2),
    },
];
/// Ports that there is room for.
const LAST_PORT: u16 = 9000;
/// Elements that no packet has, so that there is room for all that packets may bring.
const FILLERS: u128 = 600;

/// Address and length of its prefix, mark, port.
pub(super) type Element = (u128, u8, u32, u16);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    until: Option<Tick>,
    /// What is in this one is not in the set.
    is_not: bool,
}

/// What a rule says of what it puts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Adding {
    /// What is there begins anew.
    pub(super) exist: bool,
    pub(super) timeout: Option<u32>,
}

/// What sets look at of a packet.
pub(super) struct Seen {
    pub(super) ends: Tuple,
    pub(super) mark: u32,
}

/// By their place in [`SETS`].
pub(super) struct Sets {
    is_ipv6: bool,
    held: [HashMap<Element, Held>; SETS.len()],
    pub(super) now: Tick,
}

impl SetName {
    /// How often a rule says which end is meant.
    pub(super) fn sides(self, is_source: bool) -> String {
        let side = if is_source { "src" } else { "dst" };
        if self.kind == Kind::AddressAndMark { format!("{side},{side}") } else { side.to_owned() }
    }

    pub(super) fn stays(self) -> bool {
        self.timeout.is_none()
    }
}

impl Sets {
    pub(super) fn new(is_ipv6: bool, now: Tick) -> Sets {
        Sets { is_ipv6, held: Default::default(), now }
    }

    fn whole(&self) -> u8 {
        if self.is_ipv6 { 128 } else { 32 }
    }

    /// What makes the sets, as the operator says it.
    pub(super) fn begin(&self) -> Vec<String> {
        let family = if self.is_ipv6 { "family inet6" } else { "" };
        let mut lines = Vec::new();
        for set in SETS {
            let family = if set.kind == Kind::Port { "" } else { family };
            let (kind, rest) = set.create.split_once(' ').unwrap_or((set.create, ""));
            lines.push(format!("create {} {kind} {family} {rest}", set.name));
            let timeout = if set.stays() { "" } else { "timeout 0" };
            let mark = if set.kind == Kind::AddressAndMark { ",9" } else { "" };
            if set.kind != Kind::Port {
                let filler = |n| format!("add {} {}{mark} {timeout}", set.name, self.filler(n));
                lines.extend((0..FILLERS).map(filler));
            }
        }
        lines
    }

    fn filler(&self, n: u128) -> IpAddr {
        let at = number("198.18.0.0".parse().expect("an address"));
        let at_ipv6 = number("2001:2::".parse().expect("an address"));
        if self.is_ipv6 { IpAddr::V6((at_ipv6 + n).into()) } else { IpAddr::V4(((at + n) as u32).into()) }
    }

    fn is_filler(&self, address: u128) -> bool {
        let first = number(self.filler(0));
        (first..first + FILLERS).contains(&address)
    }

    /// Something that the operator puts in or takes out, here too: the line.
    pub(super) fn change(&mut self, draw: &mut Draw, net: &Net) -> String {
        let place = draw.below(SETS.len() as u64) as usize;
        let SetName { name, kind, timeout: default, .. } = SETS[place];
        let prefix = net.prefix(draw);
        let (whole, mark, port) =
            (self.whole(), draw.below(4) as u32, draw.pick(&[80, 53, 22, 4000, 4001, 8080]));
        let (element, text) = match kind {
            Kind::Address => ((number(prefix.address), whole, 0, 0), prefix.address.to_string()),
            Kind::Net => {
                let first = number(prefix.address) >> (whole - prefix.len) << (whole - prefix.len);
                ((first, prefix.len, 0, 0), format!("{}/{}", prefix.address, prefix.len))
            }
            Kind::AddressAndMark => {
                ((number(prefix.address), whole, mark, 0), format!("{},{mark}", prefix.address))
            }
            Kind::Port => ((0, whole, 0, port), port.to_string()),
        };
        if draw.below(3) == 0 {
            self.held[place].remove(&element);
            return format!("del {name} {text}");
        }
        let timeout = default.map(|default| draw.pick(&[default, 0, 1, 4]));
        let is_not = kind == Kind::Net && draw.below(3) == 0;
        self.held[place].insert(element, Held { until: self.until(timeout), is_not });
        let timeout = timeout.map_or(String::new(), |seconds| format!("timeout {seconds}"));
        format!("add {name} {text} {timeout}{}", if is_not { "nomatch" } else { "" })
    }

    fn until(&self, seconds: Option<u32>) -> Option<Tick> {
        seconds.filter(|&seconds| seconds > 0).map(|seconds| self.now.after(Timeout::from_secs(seconds)))
    }

    /// What a packet is to a set. `None`: it has no such.
    fn element(&self, place: usize, seen: &Seen, is_source: bool) -> Option<Element> {
        let Seen { ends, mark } = *seen;
        let (address, port) = if is_source { (ends.src, ends.sport) } else { (ends.dst, ends.dport) };
        match SETS[place].kind {
            Kind::Address | Kind::Net => Some((number(address), self.whole(), 0, 0)),
            Kind::AddressAndMark => Some((number(address), self.whole(), mark, 0)),
            Kind::Port => {
                let has_any = [TCP, UDP].contains(&ends.protocol.0);
                has_any.then_some((0, self.whole(), 0, port))
            }
        }
    }

    fn is_there(&self, place: usize, element: &Element) -> bool {
        let held = self.held[place].get(element);
        held.is_some_and(|held| held.until.is_none_or(|until| !self.now.is_at_or_after(until)))
    }

    pub(super) fn holds(&self, place: usize, seen: &Seen, is_source: bool) -> bool {
        let Some(element) = self.element(place, seen, is_source) else { return false };
        if SETS[place].kind != Kind::Net {
            return self.is_there(place, &element);
        }
        let whole = self.whole();
        let is_in = |(first, len, ..): &Element| {
            let rest = u32::from(whole - len);
            first.checked_shr(rest).unwrap_or(0) == element.0.checked_shr(rest).unwrap_or(0)
        };
        let held = self.held[place].iter().filter(|(net, _)| is_in(net));
        held.max_by_key(|((_, len, ..), _)| *len).is_some_and(|(_, held)| !held.is_not)
    }

    pub(super) fn add(&mut self, place: usize, seen: &Seen, is_source: bool, adding: Adding) {
        let Some(element) = self.element(place, seen, is_source) else { return };
        if element.3 > LAST_PORT || !adding.exist && self.is_there(place, &element) {
            return;
        }
        let seconds = SETS[place].timeout.and_then(|default| adding.timeout.or(Some(default)));
        let held = Held { until: self.until(seconds), is_not: false };
        self.held[place].insert(element, held);
    }

    pub(super) fn remove(&mut self, place: usize, seen: &Seen, is_source: bool) {
        if let Some(element) = self.element(place, seen, is_source)
            && self.is_there(place, &element)
        {
            self.held[place].remove(&element);
        }
    }

    /// What is in a set, in order.
    pub(super) fn elements(&self, place: usize) -> Vec<Element> {
        let there = self.held[place].keys().filter(|element| self.is_there(place, element));
        sorted(there.copied())
    }

    /// The same of what the path has there.
    pub(super) fn without_fillers(&self, elements: impl Iterator<Item = Element>) -> Vec<Element> {
        sorted(elements.filter(|element| !self.is_filler(element.0)))
    }
}

fn sorted(elements: impl Iterator<Item = Element>) -> Vec<Element> {
    let mut all: Vec<Element> = elements.collect();
    all.sort_unstable();
    all
}
