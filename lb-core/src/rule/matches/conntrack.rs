//! `conntrack`: what is known of the packet's connection.

use super::Match;
use super::state::{STATES, bit, of};
use crate::conntrack::Status;
use crate::flow::Tuple;
use crate::rule::header::{self, Net};
use crate::rule::names;
use crate::rule::options::{Prefix, any_ports, bits, ip};
use crate::rule::prelude::*;

/// One thing that is asked, and whether the answer must be no.
type Asked<T> = Option<(T, bool)>;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConnTrack {
    states: Asked<u8>,
    protocol: Asked<u8>,
    /// Original source and destination, source and destination of answers.
    nets: [Option<Net>; 4],
    /// As `nets`.
    ports: [Asked<(u16, u16)>; 4],
    status: Asked<u16>,
    expires: Asked<(u32, u32)>,
    direction: Asked<bool>,
}

const SNAT: u8 = 1 << 6;
const DNAT: u8 = 1 << 7;

const NETS: [&str; 4] =
    ["ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst"];
const PORTS: [&str; 4] = ["ctorigsrcport", "ctorigdstport", "ctreplsrcport", "ctrepldstport"];
/// `NONE` is none of these: no connection has one of none, so that it matches nothing.
const STATUSES: [(&str, u16); 4] = [
    ("EXPECTED", Status::EXPECTED.0),
    ("SEEN_REPLY", Status::SEEN_REPLY.0),
    ("ASSURED", Status::ASSURED.0),
    ("CONFIRMED", Status::CONFIRMED.0),
];

fn state_words() -> impl Iterator<Item = (&'static str, u8)> {
    let tracked = STATES.into_iter().map(|state| (state.name(), bit(state)));
    tracked.chain([("SNAT", SNAT), ("DNAT", DNAT)])
}

impl Extension for ConnTrack {
    const NAME: &'static str = "conntrack";
    const OPTIONS: &'static [Opt] = &[
        opt("ctstate", 0).negatable(),
        opt("ctproto", 1).negatable(),
        opt("ctorigsrc", 2).negatable(),
        opt("ctorigdst", 3).negatable(),
        opt("ctreplsrc", 4).negatable(),
        opt("ctrepldst", 5).negatable(),
        opt("ctorigsrcport", 6).negatable(),
        opt("ctorigdstport", 7).negatable(),
        opt("ctreplsrcport", 8).negatable(),
        opt("ctrepldstport", 9).negatable(),
        opt("ctstatus", 10).negatable(),
        opt("ctexpire", 11).negatable(),
        opt("ctdir", 12),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let is_not = given.is_negated;
        match given.id() {
            0 => {
                let mut states = 0;
                for (word, rest) in given.words() {
                    let upper = word.to_ascii_uppercase();
                    let found = state_words().find(|(name, _)| !upper.is_empty() && name.starts_with(&upper));
                    states |= found.ok_or_else(|| Error::parameter(format!("Bad ctstate \"{rest}\"")))?.1;
                }
                self.states = Some((states, is_not));
            }
            1 => {
                let found = names::protocol(given.value, given.around.names);
                let unknown = || Error::parameter(format!("unknown protocol \"{}\" specified", given.value));
                self.protocol = Some((found.ok_or_else(unknown)?, is_not));
            }
            id @ 2..=5 => {
                let Prefix { address, len } = given.prefix()?;
                let mask = header::prefix_mask(len.into(), given.around.family);
                self.nets[usize::from(id) - 2] = Some(Net { address, mask, is_not });
            }
            id @ 6..=9 => {
                let range = any_ports(given, "")?;
                self.ports[usize::from(id) - 6] = Some((range, is_not));
            }
            10 => {
                let mut status = 0;
                for (word, rest) in given.words() {
                    let upper = word.to_ascii_uppercase();
                    status |= match STATUSES.iter().find(|(name, _)| !upper.is_empty() && name.starts_with(&upper)) {
                        Some((_, bit)) => *bit,
                        None if upper == "NONE" => 0,
                        None => return Err(Error::parameter(format!("Bad ctstatus \"{rest}\""))),
                    };
                }
                self.status = Some((status, is_not));
            }
            11 => {
                let (from, to) = given.range(u32::MAX.into())?;
                self.expires = Some(((from as u32, to as u32), is_not));
            }
            _ => {
                self.direction = Some((
                    match given.value.to_ascii_uppercase().as_str() {
                        "ORIGINAL" => false,
                        "REPLY" => true,
                        _ => return Err(Error::parameter(format!("conntrack: Bad value for \"--ctdir\" option: \"{}\"", given.value))),
                    },
                    false,
                ));
            }
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 { Err(Error::parameter("conntrack: At least one option is required")) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, family: Family) {
        self.put(out, family, " --");
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        self.put(out, style.family, " ");
    }
}

impl ConnTrack {
    fn put(&self, out: &mut String, family: Family, dashes: &str) {
        if let Some((states, is_not)) = self.states {
            put!(out, "{}{dashes}ctstate ", not(is_not));
            put_words(out, state_words().filter(|(_, bit)| states & bit != 0).map(|(name, _)| name));
        }
        if let Some((protocol, is_not)) = self.protocol {
            put!(out, "{}{dashes}ctproto {protocol}", not(is_not));
        }
        for (net, name) in self.nets.iter().zip(NETS) {
            let Some(net) = net else { continue };
            put!(out, "{}{dashes}{name} {}", not(net.is_not), ip(net.address, family));
            match header::prefix_len(net.mask, family) {
                Some(len) if len == family.bits() => {}
                Some(len) => put!(out, "/{len}"),
                None => put!(out, "/{}", ip(net.mask, family)),
            }
        }
        for (asked, name) in self.ports.iter().zip(PORTS) {
            let Some(((from, to), is_not)) = asked else { continue };
            put!(out, "{}{dashes}{name} {from}", not(*is_not));
            if to != from {
                put!(out, ":{to}");
            }
        }
        if let Some((status, is_not)) = self.status {
            put!(out, "{}{dashes}ctstatus ", not(is_not));
            if status == 0 {
                out.push_str("NONE");
            }
            put_words(out, STATUSES.iter().filter(|(_, bit)| status & bit != 0).map(|(name, _)| *name));
        }
        if let Some(((from, to), is_not)) = self.expires {
            put!(out, "{}{dashes}ctexpire {from}", not(is_not));
            if to != from {
                put!(out, ":{to}");
            }
        }
        if let Some((is_reply, _)) = self.direction {
            put!(out, "{dashes}ctdir {}", if is_reply { "REPLY" } else { "ORIGINAL" });
        }
    }
}

fn put_words<'w>(out: &mut String, words: impl Iterator<Item = &'w str>) {
    let mut comma = "";
    for word in words {
        put!(out, "{comma}{word}");
        comma = ",";
    }
}

/// The end of a connection that a net or a range of ports is asked of.
fn end(original: &Tuple, reply: &Tuple, which: usize) -> (u128, u16) {
    match which {
        0 => (bits(original.src), original.sport),
        1 => (bits(original.dst), original.dport),
        2 => (bits(reply.src), reply.sport),
        _ => (bits(reply.dst), reply.dport),
    }
}

impl Match for ConnTrack {
    fn depends(&self) -> Depends {
        if self.status.is_none() && self.expires.is_none() { Depends::Flow } else { Depends::Packet }
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        if let Some((states, is_not)) = self.states {
            let nat = view.connection.map_or(0, |connection| {
                let has = |status: Status, bit| if connection.status.has(status) { bit } else { 0 };
                has(Status::SRC_NAT, SNAT) | has(Status::DST_NAT, DNAT)
            });
            if (states & (bit(of(view)) | nat) != 0) == is_not {
                return false;
            }
        }
        let is_more = self.protocol.is_some()
            || self.nets.iter().any(Option::is_some)
            || self.ports.iter().any(Option::is_some)
            || self.status.is_some()
            || self.expires.is_some()
            || self.direction.is_some();
        if !is_more {
            return true;
        }
        // Of none, what is asked of its state says all.
        let Some(connection) = view.connection else { return self.states.is_some() };
        let (original, reply) = (&connection.original, &connection.reply);
        let holds = |asked: Asked<u8>, is: u8| asked.is_none_or(|(wanted, is_not)| (wanted == is) != is_not);
        holds(self.protocol, original.protocol.0)
            && self.nets.iter().enumerate().all(|(which, net)| {
                net.is_none_or(|net| {
                    ((end(original, reply, which).0 ^ net.address) & net.mask == 0) != net.is_not
                })
            })
            && self.ports.iter().enumerate().all(|(which, asked)| {
                asked.is_none_or(|((from, to), is_not)| {
                    (from..=to).contains(&end(original, reply, which).1) != is_not
                })
            })
            && self
                .status
                .is_none_or(|(status, is_not)| (connection.status.0 & status != 0) != is_not)
            && self.expires.is_none_or(|((from, to), is_not)| (from..=to).contains(&connection.expires) != is_not)
            && self.direction.is_none_or(|(is_reply, _)| connection.is_reply == is_reply)
    }
}
