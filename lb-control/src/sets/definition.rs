//! What a set is made with: the words of `ipset create`, and its header in a listing.

use std::fmt::Write;
use std::sync::Arc;

use lb_core::set::{Element, Family, MAX_TIMEOUT, Part, Place, Set, SetType, Shape, Store};

use super::MAX_ELEMENTS;
use super::text::{self, Refusal, number, shown};

/// Of a list.
const LEAST_SIZE: u32 = 4;
/// Widest range of a bitmap.
const MAX_RANGE: u128 = 65_536;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    pub kind: &'static SetType,
    pub family: Family,
    pub hashsize: u32,
    pub maxelem: u32,
    /// Of elements that say none; `Some(0)`: they stay.
    pub timeout: Option<u32>,
    pub has_counters: bool,
    pub has_comment: bool,
    pub has_skbinfo: bool,
    pub forceadd: bool,
    /// A prefix length; of a bitmap the size of its networks.
    pub netmask: Option<u8>,
    pub bitmask: Option<u128>,
    pub markmask: Option<u32>,
    pub bucketsize: u8,
    pub initval: u32,
    /// Of a bitmap, first and last.
    pub range: (u128, u128),
    pub size: u32,
}

/// Whether a type has an option, and whether a value follows it.
fn option(kind: &SetType, name: &str) -> Option<bool> {
    // Of versions before 6, which say nothing any more.
    let is_old =
        matches!(kind.name, "hash:ip,mark" | "hash:ip,port" | "hash:ip,port,ip" | "hash:ip,port,net");
    let has_mask = matches!(kind.name, "hash:ip" | "hash:ip,port" | "hash:net,net");
    let (is_there, has_value) = match name {
        "-4" | "-6" => (kind.has_family(), false),
        "forceadd" => (kind.is_hash(), false),
        "counters" | "comment" | "skbinfo" => (true, false),
        "timeout" => (true, true),
        "family" => (kind.has_family(), true),
        "hashsize" | "maxelem" | "bucketsize" | "initval" => (kind.is_hash(), true),
        "netmask" => (has_mask || kind.name == "bitmap:ip", true),
        "bitmask" => (has_mask, true),
        "markmask" => (kind.has(Part::Mark), true),
        "range" => (kind.is_bitmap(), true),
        "from" | "to" => (kind.is_bitmap() || is_old, true),
        "network" => (kind.is_bitmap() && !kind.has(Part::OnlyPort) || is_old, true),
        "probes" | "resize" => (is_old || matches!(kind.name, "hash:ip" | "hash:net"), true),
        "gc" => (kind.name == "hash:ip", true),
        "size" => (kind.is_list(), true),
        _ => return None,
    };
    is_there.then_some(has_value)
}

/// Whether a type has all the options that these words are, each with its value, whatever that is: this is asked first.
fn look_over(kind: &SetType, words: &[&str]) -> Result<(), Refusal> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").unwrap_or(word);
        match option(kind, name) {
            None => return Err(Refusal::parameter(format!("Unknown argument: `{word}'"))),
            Some(true) if words.next().is_none() => {
                return Err(Refusal::parameter(format!("Missing mandatory argument of option `{word}'")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// What an option is about: it is said once, by whichever name.
fn about(kind: &SetType, name: &str) -> Option<&'static str> {
    let is_bitmap = kind.is_bitmap();
    Some(match name {
        "4" | "6" | "family" => "family",
        "range" | "network" | "from" if is_bitmap => "from",
        "to" if is_bitmap => "to",
        "hashsize" => "hashsize",
        "maxelem" => "maxelem",
        "bucketsize" => "bucketsize",
        "initval" => "initval",
        "timeout" => "timeout",
        "netmask" => "netmask",
        "bitmask" => "bitmask",
        "markmask" => "markmask",
        "size" => "size",
        _ => return None,
    })
}

fn missing(option: &str) -> Refusal {
    Refusal::parameter(format!("Mandatory option `{option}' is missing"))
}

/// From where to where a bitmap is: ports, or IPv4 addresses.
fn bitmap_range(kind: &SetType, text: &str) -> Result<(u128, u128), Refusal> {
    if kind.has(Part::OnlyPort) {
        let ports = text::only_ports(text)?;
        return Ok(((*ports.start()).into(), (*ports.end()).into()));
    }
    if !text.contains(['/', '-']) {
        return Err(Refusal::syntax(format!("IP/cidr or IP-IP range must be specified: {text}")));
    }
    let (addresses, _) = text::addresses(text, Family::Ipv4)?;
    Ok((*addresses.start(), *addresses.end()))
}

/// The length of the longest network that begins with the first address and has the last one in it; 0: there is none.
fn shared_bits(first: u128, last: u128) -> u8 {
    (1..32).rev().find(|&len| Family::Ipv4.network(last, len) == first).unwrap_or(0)
}

/// The family says how addresses among the other words are read.
fn family(kind: &SetType, words: &[&str]) -> Result<Family, Refusal> {
    let said = words.iter().position(|word| matches!(*word, "family" | "--family" | "-4" | "-6"));
    let Some(at) = said.filter(|_| kind.has_family()) else { return Ok(Family::Ipv4) };
    let value = if words[at].ends_with("family") { words.get(at + 1) } else { words.get(at) };
    // One without its value is told of with the other words.
    let Some(&value) = value else { return Ok(Family::Ipv4) };
    match value {
        "inet" | "ipv4" | "-4" => Ok(Family::Ipv4),
        "inet6" | "ipv6" | "-6" => Ok(Family::Ipv6),
        "any" | "unspec" => Err(Refusal::new("Protocol family not supported by the set type")),
        other => Err(Refusal::syntax(format!("unknown inet family {other}"))),
    }
}

/// What is said of a bitmap's range.
#[derive(Default)]
struct Ends<'w> {
    range: Option<(u128, u128)>,
    /// It is a port alone: the first.
    is_open: bool,
    from: Option<&'w str>,
    to: Option<&'w str>,
}

impl Ends<'_> {
    fn range(&self, kind: &SetType) -> Result<(u128, u128), Refusal> {
        match (self.range, self.from, self.to) {
            (Some((first, _)), _, Some(to)) if self.is_open => bitmap_range(kind, &format!("{first}-{to}")),
            (Some(_), ..) if self.is_open => Err(missing("to")),
            (Some(range), ..) => Ok(range),
            (None, Some(from), Some(to)) => bitmap_range(kind, &format!("{from}-{to}")),
            (None, Some(_), None) => Err(missing("to")),
            (None, None, _) => Err(missing("range")),
        }
    }
}

impl Definition {
    /// Reads what follows the type's name.
    pub(super) fn parse(kind: &'static SetType, words: &[&str], seed: u32) -> Result<Definition, Refusal> {
        let mut this = Definition::of(kind, family(kind, words)?, seed);
        look_over(kind, words)?;
        let mut ends = Ends::default();
        let mut said = Vec::new();
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            if let Some(about) = about(kind, word.trim_start_matches('-')) {
                if said.contains(&about) {
                    let name = word.strip_prefix("--").unwrap_or(word);
                    return Err(Refusal::syntax(format!("{name} already specified")));
                }
                said.push(about);
            }
            let absent = || Refusal::parameter(format!("Missing mandatory argument of option `{word}'"));
            this.take(word, || words.next().ok_or_else(absent), &mut ends)?;
        }
        if this.netmask.is_some() && this.bitmask.is_some() {
            return Err(Refusal::syntax("bitmask and netmask are mutually exclusive, provide only one"));
        }
        if kind.is_hash() {
            this.hashsize = this.hashsize.clamp(64, 1 << 31).next_power_of_two();
        }
        if kind.is_bitmap() {
            this.cover(ends.range(kind)?)?;
        }
        // What masks nothing is none.
        this.netmask = this.netmask.filter(|&len| len < this.family.bits());
        this.bitmask = this.bitmask.filter(|&mask| mask != text::mask(this.family));
        Ok(this)
    }

    /// As a set is made of which nothing is said.
    fn of(kind: &'static SetType, family: Family, seed: u32) -> Definition {
        Definition {
            kind,
            family,
            hashsize: 1024,
            maxelem: 65_536,
            timeout: None,
            has_counters: false,
            has_comment: false,
            has_skbinfo: false,
            forceadd: false,
            netmask: None,
            bitmask: None,
            markmask: None,
            bucketsize: 12,
            initval: seed,
            range: (0, 0),
            size: 8,
        }
    }

    /// Takes one option; `value` is the word behind it.
    fn take<'w>(
        &mut self,
        word: &str,
        mut value: impl FnMut() -> Result<&'w str, Refusal>,
        ends: &mut Ends<'w>,
    ) -> Result<(), Refusal> {
        let (kind, is_bitmap) = (self.kind, self.kind.is_bitmap());
        let u32s = 0..=u64::from(u32::MAX);
        match word.trim_start_matches('-') {
            "family" => {
                value()?;
            }
            "4" | "6" => {}
            "hashsize" => self.hashsize = number(value()?, u32s)? as u32,
            "maxelem" => self.maxelem = number(value()?, u32s)? as u32,
            // As the kernel rounds it.
            "bucketsize" => {
                self.bucketsize = (number(value()?, 0..=255)?.clamp(2, 12) as u8).next_multiple_of(2)
            }
            "initval" => self.initval = number(value()?, u32s)? as u32,
            "forceadd" => self.forceadd = true,
            "timeout" => self.timeout = Some(number(value()?, 0..=MAX_TIMEOUT.into())? as u32),
            "counters" => self.has_counters = true,
            "comment" => self.has_comment = true,
            "skbinfo" => self.has_skbinfo = true,
            "netmask" => {
                let bits = self.family.bits();
                let netmask = number(value()?, 1..=bits.into()).map_err(|refusal| {
                    let also = "Syntax error: netmask is out of the inclusive range of 1-";
                    Refusal::new(format!("{}\n{also}{bits}", refusal.message))
                })?;
                self.netmask = Some(netmask as u8);
            }
            "bitmask" => {
                let mask = text::address(value()?, self.family).map_err(|refusal| {
                    let also = "Syntax error: bitmask is not valid for family =";
                    Refusal::new(format!("{}\n{also} {}", refusal.message, self.family.name()))
                })?;
                if mask == 0 {
                    return Err(Refusal::new("The value of the netmask parameter is invalid"));
                }
                self.bitmask = Some(mask);
            }
            "markmask" => self.markmask = Some(number(value()?, u32s)? as u32),
            // The second, and the next two, as ipset wrote them before version 6.
            "range" | "network" if is_bitmap => {
                let text = value()?;
                ends.range = Some(bitmap_range(kind, text)?);
                ends.is_open = kind.has(Part::OnlyPort) && !text.contains('-');
            }
            "from" if is_bitmap => ends.from = Some(value()?),
            "to" if is_bitmap => ends.to = Some(value()?),
            // Of versions before 6: they say nothing.
            "from" | "to" | "network" | "probes" | "resize" | "gc" => {
                value()?;
            }
            "size" => self.size = (number(value()?, u32s)? as u32).max(LEAST_SIZE),
            _ => return Err(Refusal::parameter(format!("Unknown argument: `{word}'"))),
        }
        Ok(())
    }

    /// Makes a bitmap of this range, in networks where it has a netmask.
    fn cover(&mut self, (first, last): (u128, u128)) -> Result<(), Refusal> {
        let step = 1 << (32 - self.netmask.unwrap_or(32));
        let (begin, end) = (first / step * step, last / step * step + (step - 1));
        if let Some(netmask) = self.netmask.filter(|&netmask| netmask < 32) {
            let shared = shared_bits(begin, end);
            let is_whole = (begin, end) == (0, u32::MAX.into());
            if netmask <= shared || shared == 0 && !is_whole {
                return Err(Refusal::new("Element is out of the range of the set"));
            }
        }
        self.range = (begin, end);
        if (end - begin) / step + 1 > MAX_RANGE {
            return Err(Refusal::new("The range you specified exceeds the size limit of the set type"));
        }
        Ok(())
    }

    /// What is compared of an address.
    pub(super) fn address_mask(&self) -> u128 {
        match (self.netmask, self.bitmask) {
            (Some(len), _) => self.family.network(u128::MAX, len),
            (None, Some(mask)) => mask,
            (None, None) => u128::MAX,
        }
    }

    /// What is compared of a second address.
    pub(super) fn second_mask(&self) -> u128 {
        if self.kind.has(Part::SecondNet) { self.address_mask() } else { u128::MAX }
    }

    /// An empty store for so many elements.
    pub(super) fn store(&self, elements: usize, seed: u64) -> Store {
        let shape = Shape {
            key: Element::key_words(self.kind, self.family),
            value: u8::from(self.kind.has(Part::MacValue) || self.kind.has(Part::Interface)),
            has_timeout: self.timeout.is_some(),
            has_counters: self.has_counters,
            has_comment: self.has_comment,
            has_skbinfo: self.has_skbinfo,
            counts_interfaces: self.kind.has(Part::Interface),
        };
        // Networks of one size may be spread over all addresses.
        if !self.kind.is_bitmap() || self.netmask.is_some() {
            // Each element may be the only one of a network that has a slot too.
            let most = elements * if shape.counts_interfaces { 2 } else { 1 };
            return Store::new(shape, Place::Hashed(seed), (most * 2).max(64).next_power_of_two());
        }
        let (first, last) = self.range;
        Store::new(shape, Place::From(first as u32), (last - first + 1) as usize)
    }

    pub(super) fn set(&self, store: Arc<Store>) -> Set {
        Set {
            kind: self.kind,
            family: self.family,
            netmask: self.address_mask(),
            markmask: self.markmask.unwrap_or(u32::MAX),
            timeout: self.timeout,
            most: if self.kind.is_hash() { (self.maxelem as usize).min(MAX_ELEMENTS) } else { usize::MAX },
            is_forced: self.forceadd,
            range: self.range,
            store,
            members: Arc::default(),
        }
    }

    /// Names and values as a listing has them.
    pub(super) fn header(&self) -> Vec<(&'static str, String)> {
        let mut header = Vec::new();
        let mut say = |name, value: String| header.push((name, value));
        if self.kind.has_family() {
            say("family", self.family.name().to_owned());
        }
        if self.kind.has(Part::Mark) {
            say("markmask", format!("0x{:08x}", self.markmask.unwrap_or(u32::MAX)));
        }
        match self.kind.method {
            lb_core::set::Method::Hash => {
                say("hashsize", self.hashsize.to_string());
                say("maxelem", self.maxelem.to_string());
            }
            lb_core::set::Method::Bitmap => {
                let (first, last) = self.range;
                let value = if self.kind.has(Part::OnlyPort) {
                    format!("{first}-{last}")
                } else {
                    format!("{}-{}", shown(self.family, first), shown(self.family, last))
                };
                say("range", value);
            }
            lb_core::set::Method::List => say("size", self.size.to_string()),
        }
        let mask = match (self.netmask, self.bitmask) {
            (Some(len), _) => Some(("netmask", len.to_string())),
            (None, Some(mask)) => Some(("bitmask", shown(self.family, mask))),
            (None, None) => None,
        };
        // Of types that have them only since Linux 6.3 they come last.
        let (first, last) = if self.kind.parts.len() == 1 { (mask, None) } else { (None, mask) };
        if let Some((name, value)) = first {
            say(name, value);
        }
        if let Some(seconds) = self.timeout {
            say("timeout", seconds.to_string());
        }
        for (is_on, name) in
            [(self.has_counters, "counters"), (self.has_comment, "comment"), (self.has_skbinfo, "skbinfo")]
        {
            if is_on {
                say(name, String::new());
            }
        }
        if self.kind.is_hash() {
            say("bucketsize", self.bucketsize.to_string());
            say("initval", format!("0x{:08x}", self.initval));
        }
        if let Some((name, value)) = last {
            say(name, value);
        }
        header
    }

    pub(super) fn header_line(&self) -> String {
        let mut line = String::new();
        for (name, value) in self.header() {
            let _ = write!(line, " {name}");
            if !value.is_empty() {
                let _ = write!(line, " {value}");
            }
        }
        line
    }

    /// Bytes that the kernel would need for so many elements, with comments of so many bytes: what `ipset list` shows. No two share a
    /// bucket of the kernel's hash.
    pub(super) fn kernel_memory(&self, elements: usize, comments: usize) -> usize {
        let which = usize::from(self.family == Family::Ipv6);
        let extensions = 16 * usize::from(self.has_counters)
            + 8 * usize::from(self.timeout.is_some())
            + 8 * usize::from(self.has_comment)
            + 16 * usize::from(self.has_skbinfo);
        let bytes = self.kind.kernel_bytes[which];
        match self.kind.method {
            lb_core::set::Method::Hash => {
                let element = if extensions > 0 { bytes.next_multiple_of(8) } else { bytes } + extensions;
                let lengths = self.family.bits() as usize * self.kind.kernel_bytes_a_length;
                let regions = (self.hashsize as usize / 1024).max(1) - 1;
                192 + bytes.next_multiple_of(8)
                    + lengths
                    + 24 * regions
                    + elements * (32 + (2 * element).next_multiple_of(8))
                    + comments
            }
            lb_core::set::Method::Bitmap => {
                let step = 1 << (32 - self.netmask.unwrap_or(32));
                let count = ((self.range.1 - self.range.0) / step + 1) as usize;
                let head = match &*self.kind.parts {
                    [Part::OnlyPort] => 72,
                    [Part::Address] => 88,
                    _ => 80,
                };
                head + count.div_ceil(64) * 8 + count * (bytes + extensions) + comments
            }
            lb_core::set::Method::List => 80 + elements * (bytes + extensions) + comments,
        }
    }
}
