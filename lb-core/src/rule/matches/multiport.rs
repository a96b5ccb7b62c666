//! `multiport`: up to 15 ports, a range counts as two.

use super::Match;
use crate::rule::prelude::*;

use crate::rule::options::port;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct MultiPort {
    which: Which,
    ports: Vec<(u16, u16)>,
    is_not: bool,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Which {
    #[default]
    Source,
    Destination,
    Either,
}

const MAX: usize = 15;
const ANY: u32 = 0b111;

impl MultiPort {
    fn put(&self, out: &mut String, name: impl Fn(u16) -> String) {
        for (at, (from, to)) in self.ports.iter().enumerate() {
            put!(out, "{}{}", if at == 0 { "" } else { "," }, name(*from));
            if from != to {
                put!(out, ":{}", name(*to));
            }
        }
    }

    fn has(&self, port: u16) -> bool {
        self.ports.iter().any(|(from, to)| (*from..=*to).contains(&port))
    }
}

impl Extension for MultiPort {
    const NAME: &'static str = "multiport";
    const OPTIONS: &'static [Opt] = &[
        opt("source-ports", 0).negatable().not_with(ANY & !1),
        opt("sports", 0).negatable().not_with(ANY & !1),
        opt("destination-ports", 1).negatable().not_with(ANY & !2),
        opt("dports", 1).negatable().not_with(ANY & !2),
        opt("ports", 2).negatable().not_with(ANY & !4),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let around = given.around;
        let Some(protocol) = around.port_protocol() else {
            return Err(Error::parameter(if around.protocol == 0 {
                "multiport needs `-p tcp', `-p udp', `-p udplite', `-p sctp' or `-p dccp'"
            } else {
                "multiport only works with TCP, UDP, UDPLITE, SCTP and DCCP"
            }));
        };
        let mut room = MAX;
        let mut ports = Vec::new();
        for part in given.value.split(',') {
            let (from, to) = part.split_once(':').unwrap_or((part, ""));
            let needed = if to.is_empty() && from == part { 1 } else { 2 };
            if needed > room {
                return Err(Error::parameter("too many ports specified"));
            }
            room -= needed;
            let from = port(from, protocol, around.names)?;
            let to = if needed == 1 { from } else { port(to, protocol, around.names)? };
            if from > to || needed == 2 && from == to {
                return Err(Error::parameter("invalid portrange specified"));
            }
            ports.push((from, to));
        }
        self.which = match given.id() {
            0 => Which::Source,
            1 => Which::Destination,
            _ => Which::Either,
        };
        self.ports = ports;
        self.is_not = given.is_negated;
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 { Err(Error::parameter("multiport expection an option")) } else { Ok(()) }
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        let has_ports = matches!(place.header.protocol, 6 | 17 | 33 | 132 | 136) && !place.header.is_not_protocol;
        if has_ports { Ok(()) } else { Err(Refused::Invalid) }
    }

    fn save(&self, out: &mut String, _: Family) {
        let option = match self.which {
            Which::Source => "sports",
            Which::Destination => "dports",
            Which::Either => "ports",
        };
        put!(out, "{} --{option} ", not(self.is_not));
        self.put(out, |port| port.to_string());
    }

    fn list(&self, out: &mut String, style: &Style<'_>, header: &Header) {
        let which = match self.which {
            Which::Source => "sports",
            Which::Destination => "dports",
            Which::Either => "ports",
        };
        let protocol = match header.protocol {
            6 => "tcp",
            17 => "udp",
            33 => "dccp",
            132 => "sctp",
            _ => "udplite",
        };
        put!(out, " multiport {which} {}", if self.is_not { " !" } else { "" });
        self.put(out, |port| style.port(port, protocol));
    }
}

impl Match for MultiPort {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn narrow(&self, to: &mut Narrowed<'_>) {
        match self.which {
            _ if self.is_not => {}
            Which::Source => to.one_of_ports(Field::SourcePort, &self.ports),
            Which::Destination => to.one_of_ports(Field::DestinationPort, &self.ports),
            Which::Either => {}
        }
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some((source, destination)) = view.ports() else { return false };
        let is_there = match self.which {
            Which::Source => self.has(source),
            Which::Destination => self.has(destination),
            Which::Either => self.has(source) || self.has(destination),
        };
        is_there != self.is_not
    }
}
