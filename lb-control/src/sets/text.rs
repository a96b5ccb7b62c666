//! Words of `ipset` lines: numbers, addresses, ports, elements; what they mean, and how they are written.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use arrayvec::ArrayVec;
use hashbrown::HashMap;
use lb_core::set::{Element, Family, Interface, Part, SetType};

/// Why a line is not done. `code`: ipset's exit code, 2 for a line that has the wrong parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: u8,
    pub message: String,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>) -> Refusal {
        Refusal { code: 1, message: message.into() }
    }

    pub(super) fn syntax(message: impl AsRef<str>) -> Refusal {
        Refusal::new(format!("Syntax error: {}", message.as_ref()))
    }

    pub(super) fn parameter(message: impl Into<String>) -> Refusal {
        Refusal { code: 2, message: message.into() }
    }
}

/// Words of a line; a comment stands between quotation marks.
pub(super) fn words(line: &str) -> Result<Vec<&str>, Refusal> {
    let mut words = Vec::with_capacity(8);
    let mut rest = line.trim_ascii_start();
    while let Some(first) = rest.bytes().next() {
        let (word, after) = match first {
            b'"' => rest[1..].split_once('"').ok_or_else(|| Refusal::parameter("Missing close quote!"))?,
            _ => {
                rest.split_at(rest.bytes().position(|byte| byte.is_ascii_whitespace()).unwrap_or(rest.len()))
            }
        };
        words.push(word);
        rest = after.trim_ascii_start();
    }
    Ok(words)
}

/// What stands before and behind a separator; one at either end of a word parts nothing.
fn parted(text: &str, separator: char) -> Option<(&str, &str)> {
    let is_at_an_end = text.starts_with(separator) || text.ends_with(separator);
    text.split_once(separator).filter(|_| !is_at_an_end)
}

/// A number, decimal, hexadecimal (`0x10`) or octal (`010`), perhaps behind blanks.
pub(super) fn number(text: &str, allowed: RangeInclusive<u64>) -> Result<u64, Refusal> {
    let word = text.trim_ascii_start();
    let (is_negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (digits, if digits.starts_with('0') { 8 } else { 10 }),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(Refusal::syntax(format!("'{text}' is invalid as number")));
    }
    // What is too large for a number is out of every range, as what is below zero.
    let number = u64::from_str_radix(digits, radix).ok().filter(|&number| !is_negative || number == 0);
    number.filter(|number| allowed.contains(number)).ok_or_else(|| {
        let (least, most) = (allowed.start(), allowed.end());
        Refusal::syntax(format!("'{text}' is out of range {least}-{most}"))
    })
}

/// What stands between brackets, which keep a name with a dash, or an address with colons, together.
fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text)
}

/// `A` or `A-B`; a dash between brackets parts nothing.
///
/// Source: ipset(8), "COMMENTS" and "hash:ip,port".
fn ends(text: &str) -> Result<(&str, Option<&str>), Refusal> {
    if !text.starts_with('[') {
        return Ok(parted(text, '-').map_or((text, None), |(first, last)| (first, Some(last))));
    }
    let missing = || Refusal::syntax(format!("cannot find closing escape character ']' in {text}"));
    let (first, rest) = text.split_at(text.find(']').ok_or_else(missing)? + 1);
    match rest.strip_prefix('-') {
        Some(last) => Ok((first, Some(last))),
        None if rest.is_empty() => Ok((first, None)),
        None => Err(Refusal::syntax(format!("range separator expected after '{first}'"))),
    }
}

pub(super) fn address(text: &str, family: Family) -> Result<u128, Refusal> {
    let text = unbracketed(text);
    let parsed = match family {
        Family::Ipv4 => {
            let whole = text.parse::<Ipv4Addr>().map(u32::from).ok();
            whole.or_else(|| short_address(text)).map(u128::from)
        }
        Family::Ipv6 => text.parse::<Ipv6Addr>().map(u128::from).ok(),
    };
    match parsed {
        Some(address) => Ok(address),
        None => {
            let version = if family == Family::Ipv4 { 4 } else { 6 };
            Err(Refusal::syntax(format!("cannot parse {text}: resolving to IPv{version} address failed")))
        }
    }
}

/// An IPv4 address of fewer than four numbers, the last of which stands for all that follow; or with octal ones. `0` is 0.0.0.0, `10.1` is
/// 10.0.0.1.
///
/// Source: inet_aton(3).
fn short_address(text: &str) -> Option<u32> {
    let number = |text: &str| {
        let radix = if text.len() > 1 && text.starts_with('0') { 8 } else { 10 };
        u32::from_str_radix(text, radix).ok().filter(|_| !text.starts_with('+'))
    };
    let (firsts, last) = match text.rsplit_once('.') {
        Some((firsts, last)) => (Some(firsts), last),
        None => (None, text),
    };
    let (mut address, mut left) = (0, 32);
    for text in firsts.into_iter().flat_map(|firsts| firsts.split('.')) {
        left -= 8;
        let byte = number(text).filter(|&byte| left > 0 && byte < 256)?;
        address |= byte << left;
    }
    number(last).filter(|&rest| u64::from(rest) < 1 << left).map(|rest| address | rest)
}

fn prefix_len(text: &str, family: Family) -> Result<u8, Refusal> {
    number(text, 0..=255)?;
    Ok(number(text, 0..=family.bits().into())? as u8)
}

/// `A`, `A-B` or `A/LEN`; and the length, if one was said.
pub(super) fn addresses(text: &str, family: Family) -> Result<(RangeInclusive<u128>, Option<u8>), Refusal> {
    if let Some((first, len)) = parted(text, '/') {
        let len = prefix_len(len, family)?;
        let first = family.network(address(first, family)?, len);
        let last = first
            | (family.network(u128::MAX, family.bits()) & !family.network(u128::MAX, len) & mask(family));
        return Ok((first..=last, Some(len)));
    }
    let (first, last) = ends(text)?;
    let a = address(first, family)?;
    let b = last.map_or(Ok(a), |last| address(last, family))?;
    Ok((a.min(b)..=a.max(b), None))
}

/// All bits of an address.
pub(super) fn mask(family: Family) -> u128 {
    if family == Family::Ipv4 { u32::MAX.into() } else { u128::MAX }
}

/// The largest network that begins with a range's first address and ends within it: its length and its last address.
pub(super) fn first_network(first: u128, last: u128, family: Family) -> (u8, u128) {
    let mut len = family.bits();
    let mut end = first;
    while len > 0 {
        let host = family.bits() - (len - 1);
        let wider = if host == 128 { u128::MAX } else { (1 << host) - 1 };
        let wider_end = first | wider;
        if first & wider != 0 || wider_end > last {
            break;
        }
        (len, end) = (len - 1, wider_end);
    }
    (len, end)
}

/// Ports that are known by name where the system has no list of services.
const KNOWN: &[(&str, u16)] = &[
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("tftp", 69),
    ("http", 80),
    ("pop3", 110),
    ("ntp", 123),
    ("imap2", 143),
    ("snmp", 161),
    ("https", 443),
    ("syslog", 514),
];

fn service(name: &str, protocol: &str) -> Option<u16> {
    static SERVICES: LazyLock<HashMap<(String, String), u16>> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/etc/services").unwrap_or_default();
        let mut services = HashMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (Some(name), Some((port, protocol))) =
                (words.next(), words.next().and_then(|at| at.split_once('/')))
            else {
                continue;
            };
            let Ok(port) = port.parse() else { continue };
            for name in std::iter::once(name).chain(words) {
                services.entry((name.to_owned(), protocol.to_owned())).or_insert(port);
            }
        }
        services
    });
    if SERVICES.is_empty() {
        return KNOWN.iter().find(|(known, _)| *known == name).map(|&(_, port)| port);
    }
    SERVICES.get(&(name.to_owned(), protocol.to_owned())).copied()
}

/// As Debian's `/etc/protocols` has them.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ggp", 3),
    ("ipencap", 4),
    ("st", 5),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("pup", 12),
    ("udp", 17),
    ("hmp", 20),
    ("xns-idp", 22),
    ("rdp", 27),
    ("iso-tp4", 29),
    ("dccp", 33),
    ("xtp", 36),
    ("ddp", 37),
    ("idpr-cmtp", 38),
    ("ipv6", 41),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("idrp", 45),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("skip", 57),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("rspf", 73),
    ("vmtp", 81),
    ("eigrp", 88),
    ("ospf", 89),
    ("ax.25", 93),
    ("ipip", 94),
    ("etherip", 97),
    ("encap", 98),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("l2tp", 115),
    ("isis", 124),
    ("sctp", 132),
    ("fc", 133),
    ("mobility-header", 135),
    ("udplite", 136),
    ("mpls-in-ip", 137),
    ("manet", 138),
    ("hip", 139),
    ("shim6", 140),
    ("wesp", 141),
    ("rohc", 142),
    ("ethernet", 143),
];

/// ICMP types by name: type and code.
const ICMP: &[(&str, u8, u8)] = &[
    ("echo-reply", 0, 0),
    ("pong", 0, 0),
    ("network-unreachable", 3, 0),
    ("host-unreachable", 3, 1),
    ("protocol-unreachable", 3, 2),
    ("port-unreachable", 3, 3),
    ("fragmentation-needed", 3, 4),
    ("source-route-failed", 3, 5),
    ("network-unknown", 3, 6),
    ("host-unknown", 3, 7),
    ("network-prohibited", 3, 9),
    ("host-prohibited", 3, 10),
    ("TOS-network-unreachable", 3, 11),
    ("TOS-host-unreachable", 3, 12),
    ("communication-prohibited", 3, 13),
    ("host-precedence-violation", 3, 14),
    ("precedence-cutoff", 3, 15),
    ("source-quench", 4, 0),
    ("network-redirect", 5, 0),
    ("host-redirect", 5, 1),
    ("TOS-network-redirect", 5, 2),
    ("TOS-host-redirect", 5, 3),
    ("echo-request", 8, 0),
    ("ping", 8, 0),
    ("router-advertisement", 9, 0),
    ("router-solicitation", 10, 0),
    ("ttl-zero-during-transit", 11, 0),
    ("ttl-zero-during-reassembly", 11, 1),
    ("ip-header-bad", 12, 0),
    ("required-option-missing", 12, 1),
    ("timestamp-request", 13, 0),
    ("timestamp-reply", 14, 0),
    ("address-mask-request", 17, 0),
    ("address-mask-reply", 18, 0),
];
const ICMPV6: &[(&str, u8, u8)] = &[
    ("no-route", 1, 0),
    ("communication-prohibited", 1, 1),
    ("address-unreachable", 1, 3),
    ("port-unreachable", 1, 4),
    ("packet-too-big", 2, 0),
    ("ttl-zero-during-transit", 3, 0),
    ("ttl-zero-during-reassembly", 3, 1),
    ("bad-header", 4, 0),
    ("unknown-header-type", 4, 1),
    ("unknown-option", 4, 2),
    ("echo-request", 128, 0),
    ("ping", 128, 0),
    ("echo-reply", 129, 0),
    ("pong", 129, 0),
    ("router-solicitation", 133, 0),
    ("router-advertisement", 134, 0),
    ("neighbour-solicitation", 135, 0),
    ("neighbour-advertisement", 136, 0),
    ("redirect", 137, 0),
];

fn port(text: &str, protocol: &str) -> Result<u16, Refusal> {
    let first = match number(text, 0..=65535) {
        Ok(port) => return Ok(port as u16),
        Err(refusal) => refusal,
    };
    service(unbracketed(text), protocol).ok_or_else(|| {
        // ipset tries the name after the number, and tells of both.
        let message = format!(
            "{}\nSyntax error: '{protocol}' is invalid as number\ncannot parse '{text}' as a {protocol} port",
            first.message
        );
        Refusal::new(message)
    })
}

/// `80`, `http`, `80-90`, `[ftp-data]-80`.
pub(super) fn ports(text: &str, protocol: &str) -> Result<RangeInclusive<u16>, Refusal> {
    if service(text, protocol).is_none()
        && let (first, Some(last)) = ends(text)?
    {
        // In this order ipset reads them, and tells of the first that it cannot.
        let (b, a) = (port(last, protocol)?, port(first, protocol)?);
        return Ok(a.min(b)..=a.max(b));
    }
    let only = port(text, protocol)?;
    Ok(only..=only)
}

fn protocol(name: &str) -> Result<u8, Refusal> {
    let by_name = PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, n)| n);
    by_name
        .map_or_else(|| number(name, 0..=255).map(|number| number as u8), Ok)
        .map_err(|_| Refusal::syntax(format!("cannot parse '{name}' as a protocol")))
}

/// `[tcp:|udp:]PORT[-PORT]`, where the protocol says nothing.
pub(super) fn only_ports(text: &str) -> Result<RangeInclusive<u16>, Refusal> {
    match protocol_ports(text, Family::Ipv4)? {
        (6 | 17, ports) => Ok(ports),
        _ => Err(Refusal::syntax("Only protocols TCP and UDP are valid")),
    }
}

/// `[PROTOCOL:]PORT[-PORT]`, `icmp:NAME`, `icmp:TYPE/CODE`.
fn protocol_ports(text: &str, family: Family) -> Result<(u8, RangeInclusive<u16>), Refusal> {
    let Some((name, rest)) = text.split_once(':').filter(|(name, rest)| !name.is_empty() && !rest.is_empty())
    else {
        return Ok((6, ports(text, "tcp")?));
    };
    let protocol = protocol(name)?;
    let ports = match protocol {
        6 | 17 | 132 | 136 => ports(rest, protocol_name(protocol).unwrap_or("tcp"))?,
        1 | 58 => {
            let (table, what, of, which) = match protocol {
                1 => (ICMP, "ICMP", Family::Ipv4, "inet"),
                _ => (ICMPV6, "ICMPv6", Family::Ipv6, "inet6"),
            };
            if family != of {
                let message = format!("Protocol {what} can be used with family {which} only");
                return Err(Refusal::syntax(message));
            }
            let named = table.iter().find(|(known, ..)| known.eq_ignore_ascii_case(rest));
            let named = named.map(|&(_, kind, code)| (kind, code));
            let (kind, code) = match (named, parted(rest, '/')) {
                (Some(named), _) => named,
                (None, Some((kind, code))) => (number(kind, 0..=255)? as u8, number(code, 0..=255)? as u8),
                (None, None) => {
                    return Err(Refusal::new(format!("Cannot parse {rest} as an {what} type/code.")));
                }
            };
            let only = u16::from(kind) << 8 | u16::from(code);
            only..=only
        }
        _ => {
            let only = number(rest, 0..=0).map_err(|_| {
                Refusal::syntax(format!("Protocol {name} can be used with pseudo port value 0 only."))
            })?;
            only as u16..=only as u16
        }
    };
    Ok((protocol, ports))
}

fn protocol_name(protocol: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|&&(_, number)| number == protocol).map(|&(name, _)| name)
}

fn mac(text: &str) -> Result<[u8; 6], Refusal> {
    let bad = || Refusal::syntax(format!("cannot parse '{text}' as ethernet address"));
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or_else(bad)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
    }
    if parts.next().is_some() { Err(bad()) } else { Ok(mac) }
}

/// What a word names: elements of a type from one to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) first: Element,
    pub(super) addresses: RangeInclusive<u128>,
    pub(super) len: Option<u8>,
    pub(super) ports: RangeInclusive<u16>,
    pub(super) seconds: RangeInclusive<u128>,
    pub(super) second_len: Option<u8>,
}

/// Parts that an element has at most.
const MOST_PARTS: usize = 3;

/// Of the element that is missing behind the first, and behind the second.
const ORDINALS: [&str; MOST_PARTS - 1] = ["Second", "Third"];

/// Reads an element. `is_wildcard`: the interface's name stands for those that begin so.
pub(super) fn range(text: &str, kind: &SetType, family: Family, is_wildcard: bool) -> Result<Range, Refusal> {
    let mut words = ArrayVec::<&str, { MOST_PARTS + 1 }>::new();
    let mut rest = text;
    let is_optional = kind.has(Part::MacValue);
    let parts = kind.parts.len().clamp(1, MOST_PARTS);
    while let Some((first, behind)) = parted(rest, ',') {
        if words.len() + 1 == parts {
            let which = ["Elem separator", "Two elem separators", "Three elem separators"][parts - 1];
            let most = ["none", "one", "two"][parts - 1];
            let message = format!("{which} in {text}, but settype {} supports {most}.", kind.name);
            return Err(Refusal::syntax(message));
        }
        words.push(first);
        rest = behind;
    }
    words.push(rest);
    if words.len() < parts && !is_optional {
        let which = ORDINALS[words.len() - 1];
        return Err(Refusal::syntax(format!("{which} element is missing from {text}.")));
    }
    let mut range = Range {
        first: Element::default(),
        addresses: 0..=0,
        len: None,
        ports: 0..=0,
        seconds: 0..=0,
        second_len: None,
    };
    let not_plain = |text: &str| Refusal::syntax(format!("plain IP address must be supplied: {text}"));
    let single = |text: &str| {
        // The kernel takes ranges of IPv4 addresses alone, and none with a MAC.
        let is_plain_alone = family == Family::Ipv6 || is_optional;
        let found = addresses(text, family);
        let is_more = || match &found {
            Ok((_, len)) => len.map_or(parted(text, '-').is_some(), |len| len != family.bits()),
            Err(_) => parted(text, '/').or(parted(text, '-')).is_some(),
        };
        if is_plain_alone && is_more() { Err(not_plain(text)) } else { found }
    };
    for (&word, part) in words.iter().zip(kind.parts.iter()) {
        match part {
            Part::Address => range.addresses = single(word)?.0,
            Part::SecondAddress => {
                range.seconds = single(word)?.0;
                if range.seconds.start() != range.seconds.end() {
                    return Err(not_plain(word));
                }
            }
            Part::Net => (range.addresses, range.len) = addresses(word, family)?,
            Part::SecondNet => (range.seconds, range.second_len) = addresses(word, family)?,
            Part::Port => (range.first.protocol, range.ports) = protocol_ports(word, family)?,
            Part::OnlyPort => range.ports = only_ports(word)?,
            Part::Mac | Part::MacValue => range.first.mac = mac(word)?,
            Part::Mark => range.first.mark = number(word, 0..=u32::MAX.into())? as u32,
            Part::Interface => {
                let (is_physdev, name) = match word.strip_prefix("physdev:") {
                    Some(name) => (true, name),
                    None => (false, word),
                };
                // A 0 ends the name for whoever reads it.
                let is_there = |read: &Interface| is_physdev || !read.is_empty();
                let read = Interface::new(name).filter(|read| is_there(read) && read.text() == name);
                let interface = read.ok_or_else(|| {
                    let why =
                        if name.contains('\0') { "has a 0 byte" } else { "is longer than 15 characters" };
                    Refusal::syntax(format!("interface name '{name}' {why}"))
                })?;
                range.first.interface = Interface { is_physdev, is_wildcard, ..interface };
            }
            Part::Set => {}
        }
    }
    Ok(range)
}

/// An address as inet_ntop(3) writes it: behind 96 zero bits an IPv4 address stands.
pub(super) fn shown(family: Family, bits: u128) -> String {
    match u32::try_from(bits) {
        Ok(low) if family == Family::Ipv6 && low > 0xffff => format!("::{}", Ipv4Addr::from(low)),
        _ => family.address(bits).to_string(),
    }
}

/// `A`, `A-B` or `A/LEN` with its addresses as they are written in listings.
fn as_written(text: &str, family: Family) -> String {
    let written = |text: &str| match address(text, family) {
        Ok(bits) => shown(family, bits),
        Err(_) => text.to_owned(),
    };
    match (text.split_once('/'), text.split_once('-')) {
        (Some((first, len)), _) => format!("{}/{len}", written(first)),
        (None, Some((first, last))) => format!("{}-{}", written(first), written(last)),
        (None, None) => written(text),
    }
}

/// An element as `ipset test` repeats it: as `ipset list` would write it, but for networks, which stay as they were said.
pub(super) fn repeated(text: &str, range: &Range, kind: &SetType, family: Family) -> String {
    let full = format!("/{}", family.bits());
    let words = text.split(',').zip(kind.parts.iter()).map(|(word, part)| {
        let mut said = String::new();
        let element = Element { port: *range.ports.start(), ..range.first };
        // Writing to a string does not fail.
        let _ = match part {
            Part::SecondNet => {
                let first = word.split('-').next().unwrap_or(word);
                write!(said, "{}", as_written(first.trim_end_matches(&full), family))
            }
            Part::Address | Part::Net | Part::SecondAddress => {
                write!(said, "{}", as_written(word.trim_end_matches(&full), family))
            }
            Part::Interface => write!(said, "{}", word.trim_start_matches("physdev:")),
            Part::OnlyPort => write!(said, "{}", element.port),
            Part::Port => write_port(&mut said, &element),
            Part::Mac | Part::MacValue => write_mac(&mut said, element.mac),
            Part::Mark => write!(said, "0x{:08x}", element.mark),
            Part::Set => write!(said, "{word}"),
        };
        said
    });
    words.collect::<Vec<_>>().join(",")
}

/// What `ipset test` has to say of more than one element, which it is not asked about; networks are one.
pub(super) fn refused_range(text: &str, range: &Range, kind: &SetType, family: Family) -> Option<Refusal> {
    let address = match kind.parts.first() {
        Some(Part::Address | Part::Net) => text.split(',').next().unwrap_or_default(),
        _ => "",
    };
    let takes_net = kind.has(Part::Net) || kind.name == "hash:ip";
    let what = match () {
        () if address.contains('/') && !takes_net => "IP/CIDR",
        () if address.contains('-') && kind.name != "hash:ip" => "FROM-TO IP",
        () if range.ports.start() != range.ports.end() => "FROM-TO port",
        () => return None,
    };
    let family = if kind.has_family() || kind.has(Part::Address) { family.name() } else { "unspec" };
    let name = kind.name;
    Some(Refusal::new(format!(
        "{what} range is not allowed in command test with set type {name} and family {family}"
    )))
}

fn write_mac(out: &mut String, [a, b, c, d, e, f]: [u8; 6]) -> std::fmt::Result {
    write!(out, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{f:02X}")
}

/// Writes an element as `ipset list` does.
pub(super) fn write_element(out: &mut String, element: &Element, kind: &SetType, family: Family) {
    let full = family.bits();
    let network = |out: &mut String, address: u128, len: u8| {
        let _ = write!(out, "{}", shown(family, address));
        if len < full {
            let _ = write!(out, "/{len}");
        }
    };
    for (index, part) in kind.parts.iter().enumerate() {
        if *part == Part::MacValue && element.mac == [0; 6] {
            continue;
        }
        if index > 0 {
            out.push(',');
        }
        // Writing to a string does not fail.
        let _ = match part {
            Part::Address => write!(out, "{}", shown(family, element.address)),
            Part::SecondAddress => write!(out, "{}", shown(family, element.second)),
            Part::Net => {
                network(out, element.address, element.len);
                Ok(())
            }
            Part::SecondNet => {
                network(out, element.second, element.second_len);
                Ok(())
            }
            Part::OnlyPort => write!(out, "{}", element.port),
            Part::Port => write_port(out, element),
            Part::Mac | Part::MacValue => write_mac(out, element.mac),
            Part::Mark => write!(out, "0x{:08x}", element.mark),
            Part::Interface => {
                let physdev = if element.interface.is_physdev { "physdev:" } else { "" };
                write!(out, "{physdev}{}", element.interface.text())
            }
            Part::Set => Ok(()),
        };
    }
}

fn write_port(out: &mut String, element: &Element) -> std::fmt::Result {
    match protocol_name(element.protocol) {
        Some(name) => write!(out, "{name}:")?,
        None => write!(out, "{}:", element.protocol)?,
    }
    let table = match element.protocol {
        1 => ICMP,
        58 => ICMPV6,
        _ => return write!(out, "{}", element.port),
    };
    let (kind, code) = ((element.port >> 8) as u8, element.port as u8);
    match table.iter().find(|&&(_, k, c)| (k, c) == (kind, code)) {
        Some((name, ..)) => write!(out, "{name}"),
        None => write!(out, "{kind}/{code}"),
    }
}
