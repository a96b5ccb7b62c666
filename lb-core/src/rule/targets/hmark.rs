//! `HMARK`: the packet's mark becomes a hash of its ends, the same in both directions and on all nodes of a cluster, kernels included.
//!
//! Source of the facts: Linux, `net/netfilter/xt_HMARK.c`; what is printed: recorded from iptables 1.8.9.

use super::Target;
use crate::rule::chain6::Chain6;
use crate::rule::header::prefix_mask;
use crate::rule::jhash;
use crate::rule::options::bits;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct HashMark {
    /// Bits of the addresses that count.
    source: u8,
    destination: u8,
    /// Ports, the source's in the upper half, or an IPsec packet's SPI: bits that count, and bits that are there.
    port_mask: u32,
    ports: u32,
    protocol_mask: u16,
    seed: u32,
    modulus: u32,
    offset: u32,
    /// Ends are those of the connection.
    is_of_connection: bool,
    /// What was said, by [`SHOWN`].
    said: u16,
}

const SOURCE: u16 = 1;
const DESTINATION: u16 = 1 << 1;
const SOURCE_PORT_MASK: u16 = 1 << 2;
const DESTINATION_PORT_MASK: u16 = 1 << 3;
const SPI_MASK: u16 = 1 << 4;
const SOURCE_PORT: u16 = 1 << 5;
const DESTINATION_PORT: u16 = 1 << 6;
const SPI: u16 = 1 << 7;
const PROTOCOL: u16 = 1 << 8;

/// Names of what may be hashed, in the order in which they are printed, and whether iptables prints so many digits of it.
const SHOWN: [(&str, u16, usize); 9] = [
    ("src-prefix", SOURCE, 0),
    ("dst-prefix", DESTINATION, 0),
    ("sport-mask", SOURCE_PORT_MASK, 4),
    ("dport-mask", DESTINATION_PORT_MASK, 4),
    ("spi-mask", SPI_MASK, 8),
    ("sport", SOURCE_PORT, 4),
    ("dport", DESTINATION_PORT, 4),
    ("spi", SPI, 8),
    ("proto-mask", PROTOCOL, 2),
];

const TUPLE: u8 = 0;
const RND: u8 = 10;
const MOD: u8 = 11;
const OFFSET: u8 = 12;

/// What is hashed of a packet.
#[derive(Clone, Copy, Default)]
struct Ends {
    source: u128,
    destination: u128,
    protocol: u8,
    /// Of what has any: as [`HashMark::ports`].
    ports: Option<u32>,
}

impl HashMark {
    /// Addresses alone are hashed.
    fn is_of_addresses(&self) -> bool {
        self.said & !(SOURCE | DESTINATION) == 0
    }

    fn says(&self, what: u16) -> bool {
        self.said & what != 0
    }

    /// Takes in one thing that is hashed.
    fn say(&mut self, name: &str, value: u32) {
        let upper = value << 16;
        let bit = SHOWN.iter().find(|(known, ..)| *known == name).map_or(0, |(_, bit, _)| *bit);
        match bit {
            SOURCE => self.source = value as u8,
            DESTINATION => self.destination = value as u8,
            SOURCE_PORT_MASK => self.port_mask = self.port_mask & 0xffff | upper,
            DESTINATION_PORT_MASK => self.port_mask = self.port_mask & !0xffff | value,
            SPI_MASK => self.port_mask = value,
            SOURCE_PORT => self.ports = self.ports & 0xffff | upper,
            DESTINATION_PORT => self.ports = self.ports & !0xffff | value,
            SPI => self.ports = value,
            _ => self.protocol_mask = value as u16,
        }
        self.said |= bit;
    }

    fn tuple(&mut self, given: &Given<'_, '_>) -> Result<(), Error> {
        if given.value.ends_with(',') {
            return Err(Error::parameter(format!(
                "\"--{}\" requires a list of types with no spaces, e.g. src,dst,sport,dport,proto",
                given.option.name
            )));
        }
        let all = given.around.family.bits();
        for kind in given.value.split(',') {
            match kind {
                "ct" => self.is_of_connection = true,
                "src" => self.say("src-prefix", all),
                "dst" => self.say("dst-prefix", all),
                "sport" => self.say("sport-mask", 0xffff),
                "dport" => self.say("dport-mask", 0xffff),
                "spi" => self.say("spi-mask", u32::MAX),
                "proto" => self.say("proto-mask", 0xffff),
                other => return Err(Error::parameter(format!("Bad type \"{other}\""))),
            }
        }
        Ok(())
    }

    fn value(&self, what: u16) -> u32 {
        match what {
            SOURCE => self.source.into(),
            DESTINATION => self.destination.into(),
            SOURCE_PORT_MASK => self.port_mask >> 16,
            DESTINATION_PORT_MASK => self.port_mask & 0xffff,
            SPI_MASK => self.port_mask,
            SOURCE_PORT => self.ports >> 16,
            DESTINATION_PORT => self.ports & 0xffff,
            SPI => self.ports,
            _ => self.protocol_mask.into(),
        }
    }

    fn mark(&self, ends: &Ends, family: Family) -> u32 {
        // Of IPv6 the four words of the address, one upon the other.
        let word = |address: u128, len: u8| {
            let masked = address & prefix_mask(len.into(), family);
            (0..4).fold(0, |word, part| word ^ (masked >> (32 * part)) as u32)
        };
        let (source, destination) =
            (word(ends.source, self.source), word(ends.destination, self.destination));
        let words = [source.min(destination), source.max(destination), 0];
        let hash = match ends.ports.filter(|_| !self.is_of_addresses()) {
            Some(ports) => {
                let ports = ports & self.port_mask | self.ports;
                let (one, other) = (ports >> 16, ports & 0xffff);
                jhash::of_words(&[words[0], words[1], one.max(other) << 16 | one.min(other)], self.seed)
            }
            None => jhash::of_words(&words, self.seed),
        };
        let protocol = if self.is_of_addresses() { 0 } else { u32::from(ends.protocol) };
        let hash = hash ^ protocol & u32::from(self.protocol_mask);
        jhash::below(hash, self.modulus).wrapping_add(self.offset)
    }
}

impl Extension for HashMark {
    const NAME: &'static str = "HMARK";
    const OPTIONS: &'static [Opt] = &[
        opt("hmark-tuple", TUPLE),
        opt("hmark-src-prefix", 1),
        opt("hmark-dst-prefix", 2),
        opt("hmark-sport-mask", 3),
        opt("hmark-dport-mask", 4),
        opt("hmark-spi-mask", 5),
        opt("hmark-sport", 6),
        opt("hmark-dport", 7),
        opt("hmark-spi", 8),
        opt("hmark-proto-mask", 9),
        opt("hmark-rnd", RND),
        opt("hmark-mod", MOD),
        opt("hmark-offset", OFFSET),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let name = given.option.name.trim_start_matches("hmark-");
        match given.id() {
            TUPLE => return self.tuple(given),
            RND => self.seed = given.u32()?,
            MOD => self.modulus = given.number(1, u32::MAX.into())? as u32,
            OFFSET => self.offset = given.u32()?,
            _ => {
                // It was said by `--hmark-tuple`.
                if SHOWN.iter().any(|(known, bit, _)| *known == name && self.says(*bit)) {
                    return Err(Error::parameter(format!(
                        "HMARK: option \"--{}\" can only be used once.\n",
                        given.option.name
                    )));
                }
                let value = match name {
                    "src-prefix" | "dst-prefix" => given.prefix_len(given.value)?.into(),
                    "spi-mask" | "spi" => given.u32()?,
                    _ => given.u16()?.into(),
                };
                self.say(name, value);
            }
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        for (option, name) in [(MOD, "mod"), (RND, "rnd")] {
            if seen & 1 << option == 0 {
                return Err(Error::parameter(format!("--hmark-{name} is mandatory")));
            }
        }
        if self.says(SPI_MASK) && self.says(SOURCE_PORT_MASK | DESTINATION_PORT_MASK) {
            return Err(Error::parameter(
                "you cannot use --hmark-spi-mask and --hmark-?port-mask,at the same time",
            ));
        }
        if self.said == 0 && !self.is_of_connection {
            return Err(Error::parameter("you have to specify --hmark-tuple at least"));
        }
        Ok(())
    }

    fn check(&self, _: &Place<'_>) -> Result<(), Refused> {
        let is_both = self.says(SPI) && self.says(SOURCE_PORT | DESTINATION_PORT);
        if is_both { Err(Refused::Invalid) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, _: Family) {
        for (name, bit, digits) in SHOWN.iter().filter(|(_, bit, _)| self.says(*bit)) {
            match digits {
                0 => put!(out, " --hmark-{name} {}", self.value(*bit)),
                digits => put!(out, " --hmark-{name} {:#0width$x}", self.value(*bit), width = digits + 2),
            }
        }
        put!(out, " --hmark-rnd {:#010x} --hmark-mod {}", self.seed, self.modulus);
        if self.offset != 0 {
            put!(out, " --hmark-offset {}", self.offset);
        }
        out.push_str(if self.is_of_connection { " --hmark-tuple ct" } else { "" });
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        put!(out, " HMARK mod {} ", self.modulus);
        if self.offset != 0 {
            put!(out, "+ {:#x} ", self.offset);
        }
        out.push_str(if self.is_of_connection { "ct, " } else { "" });
        for (name, bit, digits) in SHOWN.iter().filter(|(_, bit, _)| self.says(*bit)) {
            match (digits, self.value(*bit)) {
                // As iptables has it.
                (0, 128) if style.family == Family::Ipv6 => put!(out, "{name}  "),
                (0, value) => put!(out, "{name} {value} "),
                (_, value) => put!(out, "{name} {value:#x} "),
            }
        }
        put!(out, "rnd {:#x} ", self.seed);
    }
}

/// The ends of a packet at this hook; of the packet that an ICMP error is about.
fn of_packet(view: &View<'_>) -> Option<Ends> {
    const ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
    let protocol = view.protocol();
    let message = view.transport();
    let is_whole = view.headers.fragment == crate::wire::parse::Fragment::None;
    let kind = message.first().copied().filter(|_| is_whole);
    match (protocol, kind) {
        (1, Some(kind)) if ERRORS.contains(&kind) => return of_ipv4(message.get(8..)?),
        (58, Some(..128)) => return of_ipv6(message.get(8..)?),
        _ => {}
    }
    let ports = match protocol {
        _ if !is_whole => None,
        6 | 17 | 132 => Some(u32::from(view.tuple.sport) << 16 | u32::from(view.tuple.dport)),
        protocol => ports(protocol, message),
    };
    Some(Ends { source: view.source(), destination: view.destination(), protocol, ports })
}

fn of_ipv4(packet: &[u8]) -> Option<Ends> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let [first, _, _, _, _, _, high, low, _, protocol, ..] = *header;
    let end = |at: usize| header[at..].first_chunk().map(|bytes| u32::from_be_bytes(*bytes).into());
    let is_whole = u16::from_be_bytes([high, low]) & 0x3fff == 0;
    let payload = packet.get(usize::from(first & 0xf) * 4..).filter(|_| is_whole);
    let ports = payload.and_then(|payload| ports(protocol, payload));
    Some(Ends { source: end(12)?, destination: end(16)?, protocol, ports })
}

fn of_ipv6(packet: &[u8]) -> Option<Ends> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let end = |at: usize| header[at..].first_chunk().map(|bytes| u128::from_be_bytes(*bytes));
    let mut chain = Chain6::of_packet(packet)?;
    let (mut payload, mut is_whole) = (&packet[40..], true);
    for (kind, header) in chain.by_ref() {
        payload = payload.get(header.len()..)?;
        is_whole &= kind != crate::rule::chain6::FRAGMENT;
    }
    let ports = ports(chain.kind, payload).filter(|_| is_whole);
    Some(Ends { source: end(8)?, destination: end(24)?, protocol: chain.kind, ports })
}

/// Ports, or an SPI, where a protocol has them.
fn ports(protocol: u8, payload: &[u8]) -> Option<u32> {
    let at = match protocol {
        6 | 17 | 33 | 50 | 132 | 136 => 0,
        51 => 4,
        _ => return None,
    };
    payload.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn of_connection(view: &View<'_>) -> Option<Ends> {
    let connection = view.connection?;
    let (original, reply) = (connection.original, connection.reply);
    let protocol = original.protocol.0;
    // Of ICMPv6 the identifier stands for both.
    let destination_port = if protocol == 58 { original.sport } else { reply.sport };
    let ports = u32::from(original.sport) << 16 | u32::from(destination_port);
    Some(Ends {
        source: bits(original.src),
        destination: bits(reply.src),
        protocol,
        ports: (protocol != 1).then_some(ports),
    })
}

impl Target for HashMark {
    /// What is no connection's own is an SPI.
    fn depends(&self) -> Depends {
        if self.is_of_connection || self.is_of_addresses() { Depends::Flow } else { Depends::Packet }
    }

    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let ends = if self.is_of_connection { of_connection(view) } else { of_packet(view) };
        if let Some(ends) = ends {
            view.mark = self.mark(&ends, view.family());
            view.effects.has_mark = true;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::names::Numeric;
    use crate::rule::targets::AnyTarget;
    use crate::rule::{Around, Jump, Rule, text};

    fn target(family: Family, options: &str) -> HashMark {
        let line = format!("-j HMARK {options} --hmark-mod 4294967295 --hmark-rnd 0x12345678");
        let words = text::split(&line).unwrap();
        let rule = Rule::read(&words, &mut Around::new(family, &Numeric)).unwrap().0.remove(0);
        match rule.jump {
            Jump::Target(AnyTarget::HashMark(target)) => *target,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn packets_get_the_mark_that_linux_gives_them() {
        // Seen on Linux 6.18: TCP 4000 to 80 and its answer, UDP 4000 to 53, ESP of SPI 0x12345678, ICMP's echo.
        let (a, b) = (0xc000_0264_u128, 0xcb00_7107_u128);
        let ends = |source, destination, protocol, ports| Ends { source, destination, protocol, ports };
        let packets = [
            ends(a, b, 6, Some(4000 << 16 | 80)),
            ends(b, a, 6, Some(80 << 16 | 4000)),
            ends(a, b, 17, Some(4000 << 16 | 53)),
            ends(a, b, 50, Some(0x1234_5678)),
            ends(a, b, 1, None),
        ];
        for (options, expected) in [
            ("--hmark-tuple src,dst", [0xfaf3_e3e2; 5]),
            (
                "--hmark-tuple src,dst,sport,dport,proto",
                [0x162e_f699, 0x162e_f699, 0xf3a3_7b1a, 0x1a47_5e52, 0xfaf3_e3e1],
            ),
            ("--hmark-tuple src,sport", [0xd4eb_a0ee, 0x34d6_fa66, 0xd4eb_a0ee, 0x16c4_da53, 0x44a6_e82f]),
            (
                "--hmark-src-prefix 24 --hmark-dst-prefix 16 --hmark-sport-mask 0xf000 --hmark-proto-mask 6",
                [0xc857_b7d9, 0xc259_49c7, 0xc857_b7db, 0xf3a5_8314, 0xc857_b7db],
            ),
            (
                "--hmark-sport 0x1111 --hmark-dport-mask 0xff",
                [0x4c0a_8d99, 0x2ac9_6b57, 0x4fcd_5f22, 0x809a_aeb5, 0x58ab_cccb],
            ),
            ("--hmark-spi-mask 0xffff", [0xf880_702f, 0x29b7_1c2f, 0xf6ff_391c, 0x8b7e_5082, 0x58ab_cccb]),
            ("--hmark-spi 0xabcd1234", [0x23ab_bf81, 0x23ab_bf81, 0x23ab_bf81, 0x23ab_bf81, 0x58ab_cccb]),
            ("--hmark-proto-mask 6", [0x58ab_ccc9, 0x58ab_ccc9, 0x58ab_cccb, 0x58ab_cccd, 0x58ab_cccb]),
        ] {
            let target = target(Family::Ipv4, options);
            let got = packets.each_ref().map(|ends| target.mark(ends, Family::Ipv4));
            assert_eq!(got, expected, "{options}\n{got:x?}");
        }
        let c = 0x2001_0db8_u128 << 96 | 0x100;
        let d = 0xfd00_u128 << 112 | 0x11_0007;
        let packets = [
            ends(c, d, 6, Some(4000 << 16 | 80)),
            ends(d, c, 6, Some(80 << 16 | 4000)),
            ends(c, d, 51, Some(0x1234)),
            ends(c, d, 58, None),
        ];
        for (options, expected) in [
            ("--hmark-tuple src,dst", [0x3aa7_699c; 4]),
            ("--hmark-tuple src,dst,sport,dport,proto", [0xfb6b_3b6d, 0xfb6b_3b6d, 0xa131_fac2, 0x3aa7_69a6]),
            (
                "--hmark-src-prefix 48 --hmark-dport-mask 0xffff",
                [0x1870_e364, 0xc485_d603, 0xacfb_3eb3, 0xc859_df87],
            ),
        ] {
            let target = target(Family::Ipv6, options);
            let got = packets.each_ref().map(|ends| target.mark(ends, Family::Ipv6));
            assert_eq!(got, expected, "{options}\n{got:x?}");
        }
    }

    #[test]
    fn a_mark_is_below_the_modulus_and_begins_at_the_offset() {
        // `(hash × modulus) >> 32`, of the first hash above.
        let ends = Ends { source: 0xc000_0264, destination: 0xcb00_7107, protocol: 6, ports: None };
        let of = |modulus, offset| {
            let line = format!(
                "-j HMARK --hmark-tuple src,dst --hmark-mod {modulus} --hmark-offset {offset} --hmark-rnd 0x12345678"
            );
            let words = text::split(&line).unwrap();
            let rule = Rule::read(&words, &mut Around::new(Family::Ipv4, &Numeric)).unwrap().0.remove(0);
            match rule.jump {
                Jump::Target(AnyTarget::HashMark(target)) => target.mark(&ends, Family::Ipv4),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!([of(10, 0), of(10, 100), of(1000, 7), of(1, 5)], [9, 109, 987, 5]);
        assert_eq!(of(u32::MAX, 1), 0xfaf3_e3e3);
        assert_eq!(of(2, u32::MAX), 0, "it goes round");
    }

    #[test]
    fn ports_are_where_their_protocol_has_them() {
        let payload = [1, 2, 3, 4, 5, 6, 7, 8];
        for protocol in 0..=255 {
            let expected = match protocol {
                // TCP, UDP, DCCP, ESP, SCTP, UDP-Lite; AH, whose SPI is the second word (RFC 4302 §2).
                6 | 17 | 33 | 50 | 132 | 136 => Some(0x0102_0304),
                51 => Some(0x0506_0708),
                _ => None,
            };
            assert_eq!(ports(protocol, &payload), expected, "{protocol}");
        }
        assert_eq!(ports(51, &payload[..7]), None);
        assert_eq!(ports(6, &payload[..3]), None);
    }

    #[test]
    fn an_icmp_error_counts_as_the_packet_that_it_is_about() {
        let udp = [15, 160, 0, 53, 0, 8, 0, 0];
        let mut v4 = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 192, 0, 2, 1];
        v4.extend(udp);
        let ends = of_ipv4(&v4).unwrap();
        assert_eq!((ends.source, ends.destination, ends.protocol), (0x0a00_0002, 0xc000_0201, 17));
        assert_eq!(ends.ports, Some(4000 << 16 | 53));
        v4[6] = 0x20;
        assert_eq!(of_ipv4(&v4).unwrap().ports, None, "a fragment");
        let mut v6 = vec![0x60, 0, 0, 0, 0, 16, 60, 64];
        v6.extend([[0x20; 16], [0xfd; 16]].concat());
        v6.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        v6.extend(udp);
        let ends = of_ipv6(&v6).unwrap();
        assert_eq!((ends.protocol, ends.ports), (17, Some(4000 << 16 | 53)));
        assert!(of_ipv4(&v4[..19]).is_none() && of_ipv6(&v6[..39]).is_none());
    }
}
