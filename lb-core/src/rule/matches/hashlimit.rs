//! `hashlimit`: so many packets, or bytes, in a time from, or to, each address or port.
//!
//! Rules of one name and family share one table. As in the kernel it is the rule which made it that says what a packet is known by there and
//! what it pays; of the others only `upto` or `above` counts.
//!
//! Source of the facts: Linux, `net/netfilter/xt_hashlimit.c` (revision 3), iptables-extensions(8), recorded lines.

use super::Match;
use crate::rule::header::prefix_mask;
use crate::rule::options::bits;
use crate::rule::per_key::{KeyedBy, PerKey, Price};
use crate::rule::prelude::*;
use crate::rule::rate;
use crate::rule::state::shared;
use crate::rule::text::{atoi, leading_number};

/// Units in a second in which a packet's cost is given.
const SCALE: u64 = 1_000_000;
const MOST_BURST: u64 = 1_000_000;
/// To which the kernel cuts sizes of its table.
const MOST_KEYS: u32 = 1 << 20;
const DEFAULT_BURST: u64 = 5;
/// Milliseconds.
const COLLECTION: u32 = 1000;
/// Seconds after which a key is forgotten when bytes are counted, without and with a burst.
const BYTES_EXPIRE: u32 = 15;
const BURST_EXPIRE: u32 = 60;
/// Seconds that the kernel has room for as credit.
const LONGEST: u64 = 134_217;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct HashLimit {
    is_above: bool,
    /// Of packets: what one costs, in 1/[`SCALE`] s. Of bytes: what 16 of them cost, in 2⁻³² s.
    cost: u64,
    are_bytes: bool,
    /// Packets. Of bytes: how many seconds' worth of them; 0: unsaid.
    burst: u64,
    /// Seconds of the unit of the rate.
    unit: u32,
    /// Bits: destination address 1 and port 4, source address 2 and port 8.
    mode: u8,
    source_prefix: Option<u8>,
    destination_prefix: Option<u8>,
    is_prefix_too_long: bool,
    name: String,
    size: u32,
    most: u32,
    /// Milliseconds.
    collection: u32,
    expire: u32,
    /// Whether the rate of a whole interval decides, and seconds of one.
    is_rate_match: bool,
    interval: u32,
    is_ipv6: bool,
    table: Kept<PerKey>,
}

/// In the order in which they are printed.
const MODES: [(&str, u8); 4] = [("srcip", 2), ("srcport", 8), ("dstip", 1), ("dstport", 4)];

impl Extension for HashLimit {
    const NAME: &'static str = "hashlimit";
    const OPTIONS: &'static [Opt] = &[
        opt("hashlimit-upto", 0).negatable().not_with(1 << 1),
        opt("hashlimit-above", 1).negatable().not_with(1 << 0),
        // Its old name.
        opt("hashlimit", 0).negatable().not_with(1 << 1),
        opt("hashlimit-burst", 2),
        opt("hashlimit-htable-size", 3),
        opt("hashlimit-htable-max", 4),
        opt("hashlimit-htable-gcinterval", 5),
        opt("hashlimit-htable-expire", 6),
        opt("hashlimit-name", 7).must(),
        opt("hashlimit-mode", 8),
        opt("hashlimit-srcmask", 9),
        opt("hashlimit-dstmask", 10),
        flag("hashlimit-rate-match", 11),
        opt("hashlimit-rate-interval", 12),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            id @ (0 | 1) => {
                self.is_above = (id == 1) != given.is_negated;
                self.rate(given)?;
            }
            2 => self.burst = burst(given.value)?,
            3 => self.size = given.u32()?.min(MOST_KEYS),
            // As the kernel cuts it.
            4 => self.most = given.u32()?.min(MOST_KEYS),
            5 => self.collection = given.u32()?,
            6 => self.expire = given.u32()?,
            7 => self.name = given.text(1, 254)?,
            8 => {
                for word in given.value.split(',').filter(|word| !word.is_empty()) {
                    let known = MODES.iter().find(|(name, _)| *name == word);
                    self.mode |= known.ok_or_else(|| bad_value("hashlimit-mode", given.value))?.1;
                }
            }
            // The kernel refuses what is longer than an address.
            9 => self.source_prefix = Some(given.u8()?),
            10 => self.destination_prefix = Some(given.u8()?),
            11 => self.is_rate_match = true,
            _ => self.interval = given.u32()?,
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, around: &Around<'_>) -> Result<(), Error> {
        let has = |id: u32| seen & 1 << id != 0;
        if seen & 3 == 0 {
            return Err(Error::parameter("You have to specify --hashlimit"));
        }
        if !has(5) {
            self.collection = COLLECTION;
        }
        if !has(6) {
            self.expire = self.unit.saturating_mul(1000);
        }
        if !has(12) {
            self.interval = 1;
        }
        self.is_ipv6 = around.family == Family::Ipv6;
        let all = around.family.bits() as u8;
        self.is_prefix_too_long = self.source_prefix.max(self.destination_prefix) > Some(all);
        self.source_prefix = Some(self.source_prefix.unwrap_or(all));
        self.destination_prefix = Some(self.destination_prefix.unwrap_or(all));
        if self.are_bytes {
            let second = bytes_of(self.cost);
            if has(2) && self.burst < second {
                return Err(Error::parameter(format!("burst cannot be smaller than {second}b")));
            }
            if has(2) && !has(6) {
                self.expire = BURST_EXPIRE * 1000;
            }
            self.burst = self.burst.div_ceil(second.max(1));
        } else {
            if !has(2) {
                self.burst = DEFAULT_BURST;
            }
            if !(1..=MOST_BURST).contains(&self.burst) {
                return Err(bad_burst());
            }
            if self.is_rate_match {
                self.cost /= u64::from(self.unit.max(1));
            }
        }
        Ok(())
    }

    fn check(&self, _: &Place<'_>) -> Result<(), Refused> {
        if self.is_prefix_too_long || self.collection == 0 || self.expire == 0 || self.interval == 0 {
            return Err(Refused::Invalid);
        }
        let is_fine = self.are_bytes || self.is_rate_match || self.cost.saturating_mul(self.burst) <= LONGEST * SCALE;
        if is_fine { Ok(()) } else { Err(Refused::OutOfRange) }
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        let keys = named.keys();
        let room = if self.most != 0 { self.most } else { self.size.saturating_mul(8) };
        let keyed_by = KeyedBy {
            mode: self.mode,
            source_prefix: self.source_prefix.unwrap_or_default(),
            destination_prefix: self.destination_prefix.unwrap_or_default(),
        };
        let make = || PerKey::new(room as usize, self.expire, keyed_by, self.price(), keys);
        self.table.set(shared(&mut named.rates[usize::from(self.is_ipv6)], &self.name, make));
        Ok(())
    }

    fn save(&self, out: &mut String, family: Family) {
        let how = if self.is_above { "above" } else { "upto" };
        put!(out, " --hashlimit-{how} ");
        let quantum = self.put_rate(out, self.cost, |out, burst| put!(out, " --hashlimit-burst {burst}"));
        self.put_mode(out, " --hashlimit-mode ", ",");
        put!(out, " --hashlimit-name {}", self.name);
        self.put_rest(out, " --hashlimit-", quantum, family);
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        put!(out, " limit: {} ", if self.is_above { "above" } else { "up to" });
        let cost = if self.are_bytes { self.cost } else { self.cost.saturating_mul(self.interval.into()) };
        let quantum = self.put_rate(out, cost, |out, burst| put!(out, " burst {burst}"));
        self.put_mode(out, " mode ", "-");
        self.put_rest(out, " ", quantum, style.family);
    }
}

impl HashLimit {
    /// `10/sec`, or `512kb/s`.
    fn rate(&mut self, given: &Given<'_, '_>) -> Result<(), Error> {
        let bad = || bad_value(given.option.name, given.value);
        if let Some((number, factor)) = rate_of_bytes(given.value, given.around.are_typed) {
            let bytes = number.checked_mul(factor).filter(|bytes| bytes >> 4 < u64::from(u32::MAX));
            let bytes = bytes.ok_or_else(|| Error::parameter(format!("Rate too high \"{}\"", given.value)))?;
            (self.are_bytes, self.unit) = (true, BYTES_EXPIRE);
            self.cost = cost_of(bytes);
            return Ok(());
        }
        let (packets, unit) = rate::read(given.value).ok_or_else(bad)?;
        self.unit = unit;
        self.cost = SCALE * u64::from(self.unit) / u64::from(packets);
        if self.cost == 0 {
            return Err(Error::parameter(format!("Rate too fast \"{}\"", given.value)));
        }
        Ok(())
    }

    /// Appends rate and burst; after how many milliseconds iptables thinks that a key of this rate is forgotten.
    fn put_rate(&self, out: &mut String, cost: u64, put_burst: impl Fn(&mut String, String)) -> u32 {
        if !self.are_bytes {
            let shown = rate::shown(cost, SCALE);
            out.push_str(&shown);
            put_burst(out, self.burst.to_string());
            let unit = shown.split_once('/').and_then(|(_, unit)| rate::seconds(unit));
            return unit.unwrap_or_default().saturating_mul(1000);
        }
        put!(out, "{}/s", shown_rate(cost));
        if self.burst == 0 {
            return BYTES_EXPIRE * 1000;
        }
        put_burst(out, shown_burst(bytes_of(cost).saturating_mul(self.burst)));
        BURST_EXPIRE * 1000
    }

    fn put_mode(&self, out: &mut String, before: &str, between: &str) {
        let mut before = before;
        for (name, _) in MODES.iter().filter(|(_, bit)| self.mode & bit != 0) {
            put!(out, "{before}{name}");
            before = between;
        }
    }

    fn put_rest(&self, out: &mut String, dashes: &str, quantum: u32, family: Family) {
        let all = family.bits() as u8;
        let numbers = [
            ("htable-size", self.size, 0),
            ("htable-max", self.most, 0),
            ("htable-gcinterval", self.collection, COLLECTION),
            ("htable-expire", self.expire, quantum),
            ("srcmask", self.source_prefix.unwrap_or(all).into(), all.into()),
            ("dstmask", self.destination_prefix.unwrap_or(all).into(), all.into()),
        ];
        for (name, value, usual) in numbers {
            if value != usual {
                put!(out, "{dashes}{name} {value}");
            }
        }
        if self.is_rate_match {
            put!(out, "{dashes}rate-match");
            if self.interval != 1 {
                put!(out, "{dashes}rate-interval {}", self.interval);
            }
        }
    }

    fn price(&self) -> Price {
        match (self.is_rate_match, self.are_bytes) {
            (true, true) => {
                let second = bytes_of(self.cost);
                let most = second.saturating_mul(self.burst.max(1));
                Price::Window { most, rate: second, seconds: self.interval, are_bytes: true }
            }
            (true, false) => {
                let rate = SCALE / self.cost.max(1);
                let most = rate.saturating_add(self.burst);
                Price::Window { most, rate, seconds: self.interval, are_bytes: false }
            }
            (false, true) => Price::Bytes { per_chunk: self.cost, refills: self.burst as u32 },
            (false, false) => {
                let per_tick = SCALE / u64::from(crate::time::Tick::PER_SECOND);
                Price::Packets { cost: self.cost, cap: self.cost.saturating_mul(self.burst), per_tick }
            }
        }
    }
}

fn bad_value(option: &str, value: &str) -> Error {
    Error::parameter(format!("hashlimit: Bad value for \"--{option}\" option: \"{value}\""))
}

fn bad_burst() -> Error {
    Error::parameter(format!("bad value for option \"--hashlimit-burst\", or out of range (1-{MOST_BURST})."))
}

/// What 16 bytes cost at so many a second.
fn cost_of(bytes: u64) -> u64 {
    u64::from(u32::MAX) / ((bytes >> 4) + 1)
}

/// What a second pays for, in bytes.
fn bytes_of(cost: u64) -> u64 {
    (u64::from(u32::MAX).checked_div(cost).unwrap_or(u64::from(u32::MAX)).max(1) - 1) << 4
}

/// `512kb/s`: a number and the factor of its unit. As in iptables any other letter before the `b` has none.
fn rate_of_bytes(text: &str, is_typed: bool) -> Option<(u64, u64)> {
    let at = text.find("b/s").filter(|at| *at > 0)?;
    let factor = match text.as_bytes()[at - 1] {
        b'k' => 1 << 10,
        b'm' => 1 << 20,
        _ => 1,
    };
    let number = u64::try_from(atoi(text)).unwrap_or(u64::MAX);
    // What is saved of less than 16 bytes, which iptables does not read again.
    let is_saved = text == "0b/s" && !is_typed;
    (number > 0 || is_saved).then_some((number, factor))
}

fn unit_of_bytes(text: &str) -> Option<u64> {
    match text.to_ascii_lowercase().as_str() {
        "b" => Some(1),
        "kb" => Some(1 << 10),
        "mb" => Some(1 << 20),
        _ => None,
    }
}

fn burst(text: &str) -> Result<u64, Error> {
    let (number, rest) = leading_number(text).ok_or_else(bad_burst)?;
    // iptables reads what is no unit of it as bytes.
    let factor = unit_of_bytes(rest).unwrap_or(1);
    number.checked_mul(factor).filter(|burst| u32::try_from(*burst).is_ok()).ok_or_else(bad_burst)
}

/// A second's bytes, in the largest unit in which they are read as the same again.
fn shown_rate(cost: u64) -> String {
    let bytes = bytes_of(cost);
    let is_same = |shift: u32| bytes >> shift > 0 && cost_of(bytes >> shift << shift) == cost;
    match [20, 10].into_iter().find(|shift| is_same(*shift)) {
        Some(20) => format!("{}mb", bytes >> 20),
        Some(_) => format!("{}kb", bytes >> 10),
        None => format!("{bytes}b"),
    }
}

/// In the largest unit of which there is one.
fn shown_burst(bytes: u64) -> String {
    match bytes {
        0x10_0000.. => format!("{}mb", bytes >> 20),
        0x400.. => format!("{}kb", bytes >> 10),
        _ => format!("{bytes}b"),
    }
}

impl Match for HashLimit {
    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(table) = self.table.get() else { return false };
        let family = view.family();
        let KeyedBy { mode, source_prefix, destination_prefix } = table.keyed_by();
        let mask = |prefix: u8| prefix_mask(prefix.into(), family);
        let tuple = &view.tuple;
        let (mut parts, mut ports) = ([0; 2], 0);
        if mode & 2 != 0 {
            parts[0] = bits(tuple.src) & mask(source_prefix);
        }
        if mode & 1 != 0 {
            parts[1] = bits(tuple.dst) & mask(destination_prefix);
        }
        if mode & 0b1100 != 0 {
            // Protocols without ports have 0.
            let (source, destination) = view.ports().unwrap_or_default();
            let wanted = |bit: u8, port: u16| if mode & bit != 0 { u64::from(port) } else { 0 };
            ports |= wanted(8, source) << 16 | wanted(4, destination);
        }
        let key = table.keys().of(parts, ports);
        let bytes = view.headers.ip_len;
        let is_within = match view.is_dry {
            true => table.would_take(key, bytes, view.now),
            false => table.take(key, bytes, view.now),
        };
        is_within != self.is_above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_and_shown_in_the_steps_of_the_kernel() {
        for (bytes, shown) in [
            (96, "96b"),
            (100, "96b"),
            (4096, "4kb"),
            (123_456, "123456b"),
            (1_100_000, "1100000b"),
            (2_000_000, "2000016b"),
            (10 << 20, "10mb"),
        ] {
            assert_eq!(shown_rate(cost_of(bytes)), shown, "{bytes}");
        }
        assert_eq!(shown_burst(5 * 123_456), "602kb");
    }
}
