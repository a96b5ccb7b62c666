//! `connbytes`: how many packets or bytes a connection has had, or how many bytes a packet. While there is such a rule, connections are counted.
//!
//! Source of the facts: Linux, `net/netfilter/xt_connbytes.c`.

use super::Match;
use crate::conntrack::Accounting;
use crate::rule::prelude::*;

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum What {
    #[default]
    Packets,
    Bytes,
    AveragePacket,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Way {
    #[default]
    Original,
    Reply,
    Both,
}

const WHAT: [(&str, What); 3] =
    [("packets", What::Packets), ("bytes", What::Bytes), ("avgpkt", What::AveragePacket)];
const WAYS: [(&str, Way); 3] = [("original", Way::Original), ("reply", Way::Reply), ("both", Way::Both)];

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConnBytes {
    from: u64,
    /// Included; the largest number: without end.
    to: u64,
    is_not: bool,
    what: What,
    way: Way,
}

impl ConnBytes {
    fn put(&self, out: &mut String, dashes: &str) {
        put!(out, "{} {dashes}connbytes {}", not(self.is_not), self.from);
        if self.to != u64::MAX {
            put!(out, ":{}", self.to);
        }
        let what = WHAT.iter().find(|(_, what)| *what == self.what).map_or("", |(name, _)| name);
        let way = WAYS.iter().find(|(_, way)| *way == self.way).map_or("", |(name, _)| name);
        let [mode, direction] =
            if dashes.is_empty() { ["connbytes mode", "connbytes direction"] } else { ["--connbytes-mode", "--connbytes-dir"] };
        put!(out, " {mode} {what} {direction} {way}");
    }

    fn value(&self, counts: &Accounting) -> u64 {
        let of = |by_direction: [u64; 2]| match self.way {
            Way::Original => by_direction[0],
            Way::Reply => by_direction[1],
            Way::Both => by_direction[0].wrapping_add(by_direction[1]),
        };
        let (packets, bytes) = (of(counts.packets), of(counts.bytes));
        match self.what {
            What::Packets => packets,
            What::Bytes => bytes,
            What::AveragePacket => bytes.checked_div(packets).unwrap_or(0),
        }
    }
}

impl Extension for ConnBytes {
    const NAME: &'static str = "connbytes";
    const OPTIONS: &'static [Opt] = &[
        opt("connbytes", 0).must().negatable(),
        opt("connbytes-dir", 1).must(),
        opt("connbytes-mode", 2).must(),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let value = given.value;
        let unknown = || Error::parameter(format!("Unknown --{} `{value}'", given.option.name));
        match given.id() {
            0 => {
                let (from, to) = given.range(u64::MAX)?;
                // One number, and a range up to 0: without end.
                let to = if to == 0 || !value.contains(':') { u64::MAX } else { to };
                if from > to {
                    return Err(Error::parameter(format!("{from} should be less than {to}")));
                }
                (self.from, self.to, self.is_not) = (from, to, given.is_negated);
            }
            1 => self.way = WAYS.iter().find(|(name, _)| *name == value).ok_or_else(unknown)?.1,
            _ => self.what = WHAT.iter().find(|(name, _)| *name == value).ok_or_else(unknown)?.1,
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, "--");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        self.put(out, "");
    }
}

impl Match for ConnBytes {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn counts_connections(&self) -> bool {
        true
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let counts = view.connection.and_then(|connection| connection.counts);
        counts.is_some_and(|counts| (self.from..=self.to).contains(&self.value(&counts)) != self.is_not)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_of_packets_that_there_are() {
        let counts = Accounting { packets: [3, 0], bytes: [200, 0] };
        let value = |what, way| ConnBytes { what, way, ..ConnBytes::default() }.value(&counts);
        assert_eq!(value(What::AveragePacket, Way::Original), 66);
        assert_eq!(value(What::AveragePacket, Way::Reply), 0);
        assert_eq!(value(What::AveragePacket, Way::Both), 66);
        assert_eq!([What::Packets, What::Bytes].map(|what| value(what, Way::Both)), [3, 200]);
    }
}
