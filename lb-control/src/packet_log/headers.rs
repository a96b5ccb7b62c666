//! The headers of a packet, or of one that an ICMP error quotes, in a line of the log.
//!
//! Source of the format: Linux, `net/netfilter/nf_log_syslog.c` (facts), and log lines of it.

use std::fmt::{self, Write};
use std::net::IpAddr;

use lb_core::flow::Tuple;
use lb_core::tables::Protocol;

use super::{IP_OPTIONS, TCP_OPTIONS, TCP_SEQUENCE};

/// Whether there was all that the line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shown {
    Whole,
    /// The line ends where the packet does.
    Cut,
}

pub(super) type Result = std::result::Result<Shown, fmt::Error>;

/// A packet, or the part of one that an ICMP error quotes.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    /// From the IP header on.
    pub(super) bytes: &'a [u8],
    /// How many bytes there were.
    pub(super) len: usize,
    pub(super) options: u8,
    /// As the rule saw them; `None`: a quoted packet's are its own.
    pub(super) ends: Option<&'a Tuple>,
}

const UDP_LITE: Protocol = Protocol(136);
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AH: u8 = 51;
const DESTINATION: u8 = 60;

impl<'a> Part<'a> {
    pub(super) fn write(self, out: &mut String, is_ipv6: bool) -> Result {
        if is_ipv6 { self.ipv6(out) } else { self.ipv4(out) }
    }

    fn part<const LEN: usize>(&self, at: usize) -> Option<&'a [u8; LEN]> {
        self.bytes.get(at..)?.first_chunk()
    }

    /// A header that is not all there.
    fn incomplete(&self, out: &mut String, at: usize) -> Result {
        write!(out, "INCOMPLETE [{} bytes] ", self.len.saturating_sub(at))?;
        Ok(Shown::Cut)
    }

    /// What an ICMP error at `at` quotes; what is quoted quotes no more.
    fn quote(&self, out: &mut String, at: usize, is_ipv6: bool) -> fmt::Result {
        if self.ends.is_none() {
            return Ok(());
        }
        let bytes = self.bytes.get(at..).unwrap_or_default();
        out.push('[');
        Part { bytes, len: self.len.saturating_sub(at), ends: None, ..*self }.write(out, is_ipv6)?;
        out.push_str("] ");
        Ok(())
    }

    fn ipv4(self, out: &mut String) -> Result {
        let Some(header) = self.part::<20>(0) else {
            out.push_str("TRUNCATED");
            return Ok(Shown::Cut);
        };
        let octets = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).unwrap_or_default();
        let ends = self.ends.map(|ends| (ends.src, ends.dst));
        let (src, dst) = ends.unwrap_or((IpAddr::from(octets(12)), IpAddr::from(octets(16))));
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (tos, ttl, protocol) = (header[1], header[8], header[9]);
        write!(out, "SRC={src} DST={dst} LEN={} ", word(2))?;
        write!(out, "TOS=0x{:02X} PREC=0x{:02X} TTL={ttl} ID={} ", tos & 0x1e, tos & 0xe0, word(4))?;
        for (bit, name) in [(0x8000, "CE "), (0x4000, "DF "), (0x2000, "MF ")] {
            if word(6) & bit != 0 {
                out.push_str(name);
            }
        }
        // In units of eight bytes.
        let offset = word(6) & 0x1fff;
        if offset != 0 {
            write!(out, "FRAG:{offset} ")?;
        }
        let behind = usize::from(header[0] & 15) * 4;
        if self.options & IP_OPTIONS != 0 && behind > 20 {
            let Some(options) = self.bytes.get(20..behind) else {
                out.push_str("TRUNCATED");
                return Ok(Shown::Cut);
            };
            put_options(out, options)?;
        }
        let is_later = offset != 0;
        match Protocol(protocol) {
            Protocol::ICMP => self.icmp(out, behind, is_later),
            Protocol(ESP | AH) => self.ipsec(out, protocol, behind, is_later),
            other => self.transport(out, other, behind, is_later),
        }
    }

    /// TCP, UDP, and what there are no words for.
    fn transport(self, out: &mut String, protocol: Protocol, at: usize, is_later: bool) -> Result {
        match protocol {
            Protocol::TCP => self.tcp(out, at, is_later),
            Protocol::UDP | UDP_LITE => {
                out.push_str(if protocol == Protocol::UDP { "PROTO=UDP " } else { "PROTO=UDPLITE " });
                if is_later {
                    return Ok(Shown::Whole);
                }
                let Some(header) = self.part::<8>(at) else { return self.incomplete(out, at) };
                self.ports(out, header)?;
                write!(out, "LEN={} ", u16::from_be_bytes([header[4], header[5]]))?;
                Ok(Shown::Whole)
            }
            Protocol(other) => {
                write!(out, "PROTO={other} ")?;
                Ok(Shown::Whole)
            }
        }
    }

    fn ports(&self, out: &mut String, header: &[u8]) -> fmt::Result {
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let seen = self.ends.filter(|ends| ends.protocol.has_ports());
        let (sport, dport) = seen.map_or((port(0), port(2)), |ends| (ends.sport, ends.dport));
        write!(out, "SPT={sport} DPT={dport} ")
    }

    fn tcp(self, out: &mut String, at: usize, is_later: bool) -> Result {
        out.push_str("PROTO=TCP ");
        if is_later {
            return Ok(Shown::Whole);
        }
        let Some(header) = self.part::<20>(at) else { return self.incomplete(out, at) };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
        self.ports(out, header)?;
        if self.options & TCP_SEQUENCE != 0 {
            write!(out, "SEQ={} ACK={} ", long(4), long(8))?;
        }
        write!(out, "WINDOW={} RES=0x{:02x} ", word(14), (header[12] & 15) << 2)?;
        for (at, name) in
            ["CWR ", "ECE ", "URG ", "ACK ", "PSH ", "RST ", "SYN ", "FIN "].into_iter().enumerate()
        {
            if header[13] & (128 >> at) != 0 {
                out.push_str(name);
            }
        }
        write!(out, "URGP={} ", word(18))?;
        let behind = usize::from(header[12] >> 4) * 4;
        if self.options & TCP_OPTIONS != 0 && behind > 20 {
            let Some(options) = self.bytes.get(at + 20..at + behind) else {
                out.push_str("OPT (TRUNCATED)");
                return Ok(Shown::Cut);
            };
            put_options(out, options)?;
        }
        Ok(Shown::Whole)
    }

    /// AH and ESP behind an IPv4 header.
    fn ipsec(self, out: &mut String, protocol: u8, at: usize, is_later: bool) -> Result {
        let (name, len, spi) = if protocol == AH { ("AH", 12, 4) } else { ("ESP", 8, 0) };
        write!(out, "PROTO={name} ")?;
        if is_later {
            return Ok(Shown::Whole);
        }
        match self.bytes.get(at..at + len) {
            Some(header) => write!(out, "SPI={:#x} ", long(header, spi))?,
            None => drop(self.incomplete(out, at)?),
        }
        Ok(Shown::Whole)
    }

    fn icmp(self, out: &mut String, at: usize, is_later: bool) -> Result {
        out.push_str("PROTO=ICMP ");
        if is_later {
            return Ok(Shown::Whole);
        }
        let Some(&[kind, code, _, _, a, b, c, d]) = self.part::<8>(at) else {
            self.incomplete(out, at)?;
            return Ok(Shown::Whole);
        };
        write!(out, "TYPE={kind} CODE={code} ")?;
        let wanted = match kind {
            3 | 4 | 5 | 11 | 12 => 28,
            13 | 14 => 20,
            17 | 18 => 12,
            _ => 0,
        };
        if self.len.saturating_sub(at) < wanted {
            self.incomplete(out, at)?;
            return Ok(Shown::Whole);
        }
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        match kind {
            0 | 8 => write!(out, "ID={high} SEQ={low} ")?,
            12 => write!(out, "PARAMETER={a} ")?,
            3 | 4 | 5 | 11 => {
                if kind == 5 {
                    write!(out, "GATEWAY={a}.{b}.{c}.{d} ")?;
                }
                self.quote(out, at + 8, false)?;
                if (kind, code) == (3, 4) {
                    write!(out, "MTU={low} ")?;
                }
            }
            _ => {}
        }
        Ok(Shown::Whole)
    }

    fn ipv6(self, out: &mut String) -> Result {
        let Some(header) = self.part::<40>(0) else {
            out.push_str("TRUNCATED");
            return Ok(Shown::Cut);
        };
        let octets = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).unwrap_or_default();
        let ends = self.ends.map(|ends| (ends.src, ends.dst));
        let (src, dst) = ends.unwrap_or((IpAddr::from(octets(8)), IpAddr::from(octets(24))));
        let (first, len) = (long(header, 0), usize::from(u16::from_be_bytes([header[4], header[5]])) + 40);
        write!(out, "SRC={} DST={} LEN={len} ", Full(src), Full(dst))?;
        write!(out, "TC={} HOPLIMIT={} FLOWLBL={} ", first >> 20 & 0xff, header[7], first & 0xf_ffff)?;
        let (mut at, mut next, mut is_later) = (40, header[6], false);
        while matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | ESP | AH | DESTINATION) {
            match self.extension(out, next, at, &mut is_later)? {
                Some(len) => (next, at) = (self.bytes[at], at + len),
                None => return Ok(Shown::Cut),
            }
        }
        match Protocol(next) {
            Protocol::ICMPV6 => self.icmpv6(out, at, is_later),
            other => self.transport(out, other, at, is_later),
        }
    }

    /// One header between IPv6's and the transport's, at `at`: its length, or `None` where the line ends.
    fn extension(
        &self,
        out: &mut String,
        kind: u8,
        at: usize,
        is_later: &mut bool,
    ) -> std::result::Result<Option<usize>, fmt::Error> {
        let Some(&[_, units]) = self.part::<2>(at) else {
            out.push_str("TRUNCATED");
            return Ok(None);
        };
        let units = usize::from(units);
        let are_shown = self.options & IP_OPTIONS != 0;
        if are_shown {
            out.push_str("OPT ( ");
        }
        let len = match kind {
            FRAGMENT => {
                out.push_str("FRAG:");
                let Some(header) = self.part::<8>(at) else {
                    out.push_str("TRUNCATED ");
                    return Ok(None);
                };
                let offset = u16::from_be_bytes([header[2], header[3]]);
                write!(out, "{} ", offset & 0xfff8)?;
                if offset & 1 != 0 {
                    out.push_str("INCOMPLETE ");
                }
                write!(out, "ID:{:08x} ", long(header, 4))?;
                *is_later |= offset & 0xfff8 != 0;
                8
            }
            AH | ESP => {
                let is_behind = self.security(out, kind, at, are_shown, *is_later)?;
                if !is_behind {
                    return Ok(None);
                }
                (units + 2) * 4
            }
            _ if *is_later => {
                if are_shown {
                    out.push(')');
                }
                return Ok(None);
            }
            _ => (units + 1) * 8,
        };
        if are_shown {
            out.push_str(") ");
        }
        Ok(Some(len))
    }

    /// AH or ESP among IPv6's headers. False: the line ends there, as it does behind each ESP.
    fn security(
        &self,
        out: &mut String,
        kind: u8,
        at: usize,
        is_shown: bool,
        is_later: bool,
    ) -> std::result::Result<bool, fmt::Error> {
        let (name, len, spi) = if kind == AH { ("AH ", 12, 4) } else { ("ESP ", 8, 0) };
        if !is_shown {
            return Ok(kind == AH);
        }
        out.push_str(name);
        if is_later {
            out.push(')');
            return Ok(false);
        }
        match self.bytes.get(at..at + len) {
            Some(header) => write!(out, "SPI={:#x} ", long(header, spi))?,
            None => {
                self.incomplete(out, at)?;
                out.push(')');
                return Ok(false);
            }
        }
        if kind == ESP {
            out.push(')');
        }
        Ok(kind == AH)
    }

    fn icmpv6(self, out: &mut String, at: usize, is_later: bool) -> Result {
        out.push_str("PROTO=ICMPv6 ");
        if is_later {
            return Ok(Shown::Whole);
        }
        let Some(header) = self.part::<8>(at) else { return self.incomplete(out, at) };
        let (kind, value) = (header[0], long(header, 4));
        write!(out, "TYPE={kind} CODE={} ", header[1])?;
        match kind {
            128 | 129 => write!(out, "ID={} SEQ={} ", value >> 16, value & 0xffff)?,
            1..=4 => {
                if kind == 4 {
                    write!(out, "POINTER={value:08x} ")?;
                }
                self.quote(out, at + 8, true)?;
                if kind == 2 {
                    write!(out, "MTU={value} ")?;
                }
            }
            _ => {}
        }
        Ok(Shown::Whole)
    }
}

fn long(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn put_options(out: &mut String, options: &[u8]) -> fmt::Result {
    out.push_str("OPT (");
    options.iter().try_for_each(|byte| write!(out, "{byte:02X}"))?;
    out.push_str(") ");
    Ok(())
}

/// An address with all its digits.
struct Full(IpAddr);

impl fmt::Display for Full {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(out),
            IpAddr::V6(address) => {
                let [first, rest @ ..] = address.segments();
                write!(out, "{first:04x}")?;
                rest.iter().try_for_each(|group| write!(out, ":{group:04x}"))
            }
        }
    }
}
