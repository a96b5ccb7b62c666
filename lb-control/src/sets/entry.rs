//! An entry as a line says it: what stands beside the element, and for which elements it is.

use std::ops::RangeInclusive;

use lb_core::set::{Element, Extensions, MAX_TIMEOUT, Part, SetType, SkbInfo};
use lb_core::time::Tick;

use super::IpSets;
use super::definition::Definition;
use super::text::{self, Refusal, number};

/// Longest comment, bytes.
const MAX_COMMENT: usize = 255;

/// What an entry says besides the element.
#[derive(Default)]
pub(super) struct Said {
    pub(super) nomatch: bool,
    pub(super) timeout: Option<u32>,
    pub(super) packets: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) comment: Option<String>,
    /// Mark and mask.
    pub(super) skb_mark: Option<(u32, u32)>,
    pub(super) skb_priority: Option<u32>,
    pub(super) skb_queue: Option<u16>,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    pub(super) is_wildcard: bool,
}

impl Said {
    /// What follows an element, of which `command` takes some. Whether the set keeps it is [another question](Self::is_kept_by).
    pub(super) fn read(command: &str, kind: &SetType, rest: &[&str]) -> Result<Said, Refusal> {
        let mut said = Said::default();
        let mut words = rest.iter().copied();
        let (is_add, is_test) = (command == "add", command == "test");
        // Each once.
        fn put<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), Refusal> {
            match place.replace(value) {
                Some(_) => Err(Refusal::syntax(format!("{name} already specified"))),
                None => Ok(()),
            }
        }
        while let Some(typed) = words.next() {
            let mut value = || {
                words.next().ok_or_else(|| {
                    Refusal::parameter(format!("Missing mandatory argument of option `{typed}'"))
                })
            };
            let counts = 0..=u64::MAX - 1;
            let word = typed.strip_prefix("--").unwrap_or(typed);
            match word {
                "timeout" if is_add => {
                    put(&mut said.timeout, word, number(value()?, 0..=MAX_TIMEOUT.into())? as u32)?;
                }
                "packets" if is_add => put(&mut said.packets, word, number(value()?, counts)?)?,
                "bytes" if is_add => put(&mut said.bytes, word, number(value()?, counts)?)?,
                "comment" if is_add => {
                    let comment = value()?;
                    if comment.len() > MAX_COMMENT {
                        return Err(Refusal::syntax(format!(
                            "Comment is longer than the maximum allowed {MAX_COMMENT} characters"
                        )));
                    }
                    if comment.contains('"') {
                        return Err(Refusal::syntax("\" character is not permitted in comments"));
                    }
                    put(&mut said.comment, word, comment.to_owned())?;
                }
                "nomatch" if kind.has_nets() && (is_add || is_test) => said.nomatch = true,
                "wildcard" if kind.has(Part::Interface) && !is_test => said.is_wildcard = true,
                "skbmark" if is_add => put(&mut said.skb_mark, word, skb_mark(value()?)?)?,
                "skbprio" if is_add => put(&mut said.skb_priority, word, skb_priority(value()?)?)?,
                "skbqueue" if is_add => {
                    put(&mut said.skb_queue, word, number(value()?, 0..=u16::MAX.into())? as u16)?;
                }
                "before" | "after" if kind.is_list() => {
                    if said.before.is_some() || said.after.is_some() {
                        return Err(Refusal::syntax(format!("{word} already specified")));
                    }
                    let neighbour = Some(value()?.to_owned());
                    *(if word == "before" { &mut said.before } else { &mut said.after }) = neighbour;
                }
                _ => return Err(Refusal::parameter(format!("Unknown argument: `{typed}'"))),
            }
        }
        Ok(said)
    }

    fn skb(&self) -> SkbInfo {
        let (mark, mask) = self.skb_mark.unwrap_or_default();
        SkbInfo {
            mark,
            mask,
            priority: self.skb_priority.unwrap_or_default(),
            queue: self.skb_queue.unwrap_or_default(),
        }
    }

    /// Whether a set was made to keep all of it; in the order in which the kernel asks.
    pub(super) fn is_kept_by(&self, definition: &Definition) -> Result<(), Refusal> {
        let says_skb = self.skb_mark.is_some() || self.skb_priority.is_some() || self.skb_queue.is_some();
        let asked = [
            (self.timeout.is_some(), definition.timeout.is_some(), "Timeout", "timeout"),
            (
                self.packets.is_some() || self.bytes.is_some(),
                definition.has_counters,
                "Packet/byte counters",
                "counter",
            ),
            (self.comment.is_some(), definition.has_comment, "Comment", "comment"),
            (says_skb, definition.has_skbinfo, "Skbinfo mapping", "skbinfo"),
        ];
        match asked.into_iter().find(|&(is_said, is_kept, ..)| is_said && !is_kept) {
            Some((.., what, which)) => {
                Err(Refusal::new(format!("{what} cannot be used: set was created without {which} support")))
            }
            None => Ok(()),
        }
    }
}

/// Hexadecimal digits at the beginning of a word, with `0x` before them or not, and what follows: as scanf(3) reads `%x`, whose value is cut to 32 bits.
fn hex(text: &str) -> Option<(u32, &str)> {
    let is_digit = |text: &str| text.starts_with(|first: char| first.is_ascii_hexdigit());
    let digits =
        text.strip_prefix("0x").or(text.strip_prefix("0X")).filter(|rest| is_digit(rest)).unwrap_or(text);
    let end = digits.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    // What is too large for 64 bits is all ones.
    (end > 0).then(|| (u64::from_str_radix(digits, 16).unwrap_or(u64::MAX) as u32, rest))
}

fn after_0x(text: &str) -> Option<(u32, &str)> {
    text.strip_prefix("0x").and_then(hex)
}

/// `0xMARK` or `0xMARK/0xMASK`: without `0x` a mask says nothing, nor does what follows.
fn skb_mark(text: &str) -> Result<(u32, u32), Refusal> {
    let bad = "Invalid skbmark format, it should be:  MARK/MASK or MARK (see manpage)";
    let (mark, rest) = after_0x(text).ok_or_else(|| Refusal::syntax(bad))?;
    let mask = rest.strip_prefix('/').and_then(after_0x);
    Ok((mark, mask.map_or(u32::MAX, |(mask, _)| mask)))
}

/// `MAJOR:MINOR`, hexadecimal; what follows says nothing.
fn skb_priority(text: &str) -> Result<u32, Refusal> {
    let read = hex(text).and_then(|(major, rest)| Some((major, hex(rest.strip_prefix(':')?)?.0)));
    let bad = "Invalid skbprio format, it should be:MAJOR:MINOR (see manpage)";
    let (major, minor) = read.ok_or_else(|| Refusal::syntax(bad))?;
    Ok((major & 0xffff) << 16 | minor & 0xffff)
}

/// The first word of `a,before,b`, which is the same as `a before b`.
///
/// # Errors
/// It is said twice.
pub(super) fn beside<'a>(entry: &'a str, said: &mut Said) -> Result<&'a str, Refusal> {
    let mut words = entry.splitn(3, ',');
    let (first, which, neighbour) = (words.next().unwrap_or(entry), words.next(), words.next());
    let (Some(which @ ("before" | "after")), Some(name)) = (which, neighbour) else { return Ok(entry) };
    if let Some(again) =
        [("before", &said.before), ("after", &said.after)].iter().find(|(_, said)| said.is_some())
    {
        return Err(Refusal::syntax(format!("{} already specified", again.0)));
    }
    *(if which == "before" { &mut said.before } else { &mut said.after }) = Some(name.to_owned());
    Ok(first)
}

/// An address with the MAC that its type keeps beside it.
pub(super) fn has_mac_value(kind: &SetType, element: &Element) -> bool {
    kind.has(Part::MacValue) && element.mac != [0; 6]
}

pub(super) fn extensions(definition: &Definition, said: &Said, now: Tick) -> Extensions {
    let seconds = said.timeout.or(definition.timeout).unwrap_or(0);
    Extensions {
        until: IpSets::until(seconds, now),
        held: 0,
        packets: said.packets.unwrap_or(0),
        bytes: said.bytes.unwrap_or(0),
        comment: 0,
        skb: said.skb(),
    }
}

/// What is put in again keeps the counts that the line does not say.
pub(super) fn keep_counts(extensions: &mut Extensions, said: &Said, before: &Extensions) {
    extensions.packets = said.packets.unwrap_or(before.packets);
    extensions.bytes = said.bytes.unwrap_or(before.bytes);
}

/// The first element of a range, as the set compares it.
pub(super) fn first(definition: &Definition, range: &text::Range) -> Element {
    let full = definition.family.bits();
    let kind = definition.kind;
    Element {
        address: range.addresses.start() & definition.address_mask(),
        len: if kind.has(Part::Net) { full } else { 0 },
        port: *range.ports.start(),
        second: range.seconds.start() & definition.second_mask(),
        second_len: if kind.has(Part::SecondNet) { full } else { 0 },
        mark: range.first.mark & definition.markmask.unwrap_or(u32::MAX),
        ..range.first
    }
}

/// Whether there can be elements of such a range: a bitmap has places for all of it, and ports are of a protocol.
pub(super) fn is_possible(definition: &Definition, range: &text::Range) -> Result<(), Refusal> {
    let (least, most) = definition.range;
    let (from, to) = if definition.kind.has(Part::OnlyPort) {
        ((*range.ports.start()).into(), (*range.ports.end()).into())
    } else {
        (*range.addresses.start(), *range.addresses.end())
    };
    if definition.kind.is_bitmap() && (from < least || to > most) {
        return Err(Refusal::new("Element is out of the range of the set"));
    }
    if definition.kind.has(Part::Port) && range.first.protocol == 0 {
        return Err(Refusal::new("Invalid protocol specified"));
    }
    Ok(())
}

/// Gives each element of a range to `each`, until it refuses one. Of networks the fewest that are the range.
pub(super) fn expand(
    definition: &Definition,
    range: &text::Range,
    each: &mut dyn FnMut(&Element) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (kind, family) = (definition.kind, definition.family);
    let all = [range.len, range.second_len].map(|len| len == Some(0));
    let is_refused = match kind.name {
        "hash:net" | "hash:net,port" | "hash:ip,port,net" => all.contains(&true),
        "hash:net,net" | "hash:net,port,net" => all == [true; 2],
        _ => false,
    };
    if is_refused {
        return Err(Refusal::new("The value of the CIDR parameter of the IP address is invalid"));
    }
    let is_whole = |part, addresses: &RangeInclusive<u128>, len: Option<u8>| {
        kind.has(part) && len.is_none() && *addresses == (0..=text::mask(family))
    };
    if is_whole(Part::Net, &range.addresses, range.len)
        || is_whole(Part::SecondNet, &range.seconds, range.second_len)
    {
        return Err(Refusal::new("Invalid range, covers the whole address space"));
    }
    let step = match definition.netmask {
        Some(len) if kind.has(Part::Address) => 1 << (family.bits() - len),
        _ => 1,
    };
    let begin = first(definition, range);
    // The kernel counts a bitmap's networks from the first address on, so that one that the last lies in may not be met.
    let from = *range.addresses.start();
    let mut address = if kind.is_bitmap() { from } else { from / step * step };
    loop {
        let (len, address_end) = if kind.has(Part::Net) {
            text::first_network(address, *range.addresses.end(), family)
        } else {
            (0, address + (step - 1))
        };
        for port in range.ports.clone() {
            let mut second = *range.seconds.start();
            loop {
                let (second_len, second_end) = if kind.has(Part::SecondNet) {
                    text::first_network(second, *range.seconds.end(), family)
                } else {
                    (0, second)
                };
                each(&Element {
                    address: address & definition.address_mask(),
                    len,
                    port,
                    second: second & definition.second_mask(),
                    second_len,
                    ..begin
                })?;
                if second_end >= *range.seconds.end() {
                    break;
                }
                second = second_end + 1;
            }
        }
        if address_end >= *range.addresses.end() {
            return Ok(());
        }
        address = address_end + 1;
    }
}
