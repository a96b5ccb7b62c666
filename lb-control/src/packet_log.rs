//! What rules with LOG, AUDIT and TRACE want told: a line for each packet, in the words of the kernel's own log, so that what reads those reads these.
//!
//! Source of the format: Linux, `net/netfilter/nf_log_syslog.c` (facts), and log lines of it.

use std::fmt::Write;

use lb_core::rule::event::{Event, Said};
use lb_core::tables::{InterfaceId, Interfaces, Protocol};
use lb_core::wire::parse::Fragment;

use crate::model::rules::RuleTables;

/// The line of one packet. `rules` say what it met, where that is told.
pub fn line(event: &Event, interfaces: &Interfaces, rules: &RuleTables) -> String {
    let prefix = match event.said {
        Said::Audit => return audit(event),
        Said::Met(number) => trace(rules, number),
        Said::Headers { .. } => event.prefix.to_string(),
    };
    let name = |id: Option<InterfaceId>| {
        id.and_then(|id| interfaces.get(id)).map_or("", |interface| interface.name.as_str())
    };
    let frame = &event.frame[..usize::from(event.kept)];
    let mut out = format!("{prefix}IN={} OUT={} ", name(event.input), name(event.output));
    // Writing to a `String` cannot fail.
    let _ = write(&mut out, event, frame);
    if event.mark != 0 {
        let _ = write!(out, "MARK={:#x} ", event.mark);
    }
    out.truncate(out.trim_end().len());
    out
}

/// As `net/netfilter/xt_AUDIT.c` writes its record: no mark is one of all ones.
fn audit(event: &Event) -> String {
    let mark = if event.mark == 0 { u32::MAX } else { event.mark };
    let (src, dst, protocol) = (event.tuple.src, event.tuple.dst, event.headers.protocol.0);
    format!("type=NETFILTER_PKT mark={mark:#x} saddr={src} daddr={dst} proto={protocol}")
}

/// As `net/ipv4/netfilter/ip_tables.c` begins the line of a traced packet.
fn trace(rules: &RuleTables, number: u32) -> String {
    match rules.place(number) {
        Some(place) => {
            let (table, chain, what, at) = place.traced();
            format!("TRACE: {}:{chain}:{what}:{at} ", table.name())
        }
        None => "TRACE: taken out meanwhile ".to_owned(),
    }
}

/// Whether this is told too: of what is traced, TCP sequence numbers and options, and IP options.
fn has_option(event: &Event, bit: u8) -> bool {
    match event.said {
        Said::Headers { options } => options & bit != 0,
        Said::Met(_) => bit & 7 != 0,
        Said::Audit => false,
    }
}

fn write(out: &mut String, event: &Event, frame: &[u8]) -> std::fmt::Result {
    let headers = &event.headers;
    if event.input.is_some() && frame.len() >= 14 {
        let mac = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        match has_option(event, 32) {
            true => write!(
                out,
                "MACSRC={} MACDST={} MACPROTO={:02x}{:02x} ",
                mac(&frame[6..12]),
                mac(&frame[..6]),
                frame[12],
                frame[13]
            )?,
            false => write!(out, "MAC={} ", mac(&frame[..14]))?,
        }
    }
    write!(out, "SRC={} DST={} LEN={} ", event.tuple.src, event.tuple.dst, headers.ip_len)?;
    let ip = frame.get(usize::from(headers.l3)..).unwrap_or_default();
    let byte = |at: usize| ip.get(at).copied().unwrap_or_default();
    if headers.is_ipv6 {
        let class = byte(0) << 4 | byte(1) >> 4;
        let label = u32::from(byte(1) & 15) << 16 | u32::from(byte(2)) << 8 | u32::from(byte(3));
        write!(out, "TC={class} HOPLIMIT={} FLOWLBL={label} ", byte(7))?;
    } else {
        let tos = byte(1);
        let id = u16::from_be_bytes([byte(4), byte(5)]);
        write!(out, "TOS=0x{:02X} PREC=0x{:02X} TTL={} ID={id} ", tos & 0x1e, tos & 0xe0, byte(8))?;
        if byte(6) & 0x40 != 0 {
            out.push_str("DF ");
        }
        if byte(6) & 0x20 != 0 {
            out.push_str("MF ");
        }
        if headers.fragment == Fragment::Later {
            write!(out, "FRAG:{} ", headers.fragment_offset)?;
        }
    }
    transport(out, event, frame.get(usize::from(headers.l4)..).unwrap_or_default())
}

fn transport(out: &mut String, event: &Event, segment: &[u8]) -> std::fmt::Result {
    let word = |at: usize| {
        segment.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes))
    };
    let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
    let is_later = event.headers.fragment == Fragment::Later;
    let (sport, dport) = (event.tuple.sport, event.tuple.dport);
    match event.headers.protocol {
        Protocol::TCP => {
            out.push_str("PROTO=TCP ");
            if is_later {
                return Ok(());
            }
            write!(out, "SPT={sport} DPT={dport} ")?;
            if has_option(event, 1) {
                write!(out, "SEQ={} ACK={} ", long(4), long(8))?;
            }
            write!(out, "WINDOW={} RES=0x{:02x} ", word(14), (word(12) >> 6 & 0x3c) as u8)?;
            let flags = word(12) as u8;
            for (bit, name) in [
                (128, "CWR"),
                (64, "ECE"),
                (32, "URG"),
                (16, "ACK"),
                (8, "PSH"),
                (4, "RST"),
                (2, "SYN"),
                (1, "FIN"),
            ] {
                if flags & bit != 0 {
                    write!(out, "{name} ")?;
                }
            }
            write!(out, "URGP={} ", word(18))?;
            let options = segment.get(20..usize::from(word(12) >> 12) * 4).unwrap_or_default();
            if has_option(event, 2) && !options.is_empty() {
                out.push_str("OPT (");
                options.iter().try_for_each(|byte| write!(out, "{byte:02X}"))?;
                out.push_str(") ");
            }
            Ok(())
        }
        Protocol::UDP => {
            out.push_str("PROTO=UDP ");
            if is_later { Ok(()) } else { write!(out, "SPT={sport} DPT={dport} LEN={} ", word(4)) }
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            let name = if event.headers.is_ipv6 { "ICMPv6" } else { "ICMP" };
            write!(out, "PROTO={name} ")?;
            if is_later {
                return Ok(());
            }
            let kind = segment.first().copied().unwrap_or_default();
            write!(out, "TYPE={kind} CODE={} ", word(0) as u8)?;
            let is_echo =
                if event.headers.is_ipv6 { matches!(kind, 128 | 129) } else { matches!(kind, 0 | 8) };
            if is_echo { write!(out, "ID={} SEQ={} ", word(4), word(6)) } else { Ok(()) }
        }
        Protocol::SCTP => write!(out, "PROTO=132 SPT={sport} DPT={dport} "),
        Protocol(other) => write!(out, "PROTO={other} "),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lb_core::flow::Tuple;
    use lb_core::rule::event::KEPT;
    use lb_core::wire::parse::{Parsed, parse};

    use super::*;

    #[test]
    fn a_line_is_as_the_kernel_writes_it() {
        let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 1, 8, 0];
        packet.extend([0x45, 0, 0, 40, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 100, 10, 0, 0, 11]);
        let sum =
            packet[14..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0x0f, 0xa0, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0, 0, 0, 0]);
        let Ok(Parsed::Ip(headers)) = parse(&packet, packet.len(), Default::default()) else {
            panic!("no IP")
        };
        let mut frame = [0; KEPT];
        frame[..packet.len()].copy_from_slice(&packet);
        let tuple = Tuple {
            src: [192, 0, 2, 100].into(),
            dst: [10, 0, 0, 11].into(),
            sport: 4000,
            dport: 22,
            protocol: Protocol::TCP,
        };
        let event = Event {
            prefix: lb_core::rule::event::prefix("ssh: "),
            level: 4,
            said: Said::Headers { options: 1 },
            input: Some(InterfaceId(0)),
            output: None,
            mark: 7,
            tuple,
            frame,
            kept: packet.len() as u8,
            headers,
        };
        let said = line(&event, &Arc::default(), &RuleTables::new(0));
        assert_eq!(
            said,
            "ssh: IN= OUT= MAC=02:00:00:00:00:01:02:00:00:00:01:01:08:00 SRC=192.0.2.100 DST=10.0.0.11 LEN=40 TOS=0x00 \
             PREC=0x00 TTL=64 ID=4660 DF PROTO=TCP SPT=4000 DPT=22 SEQ=1 ACK=0 WINDOW=64240 RES=0x00 SYN URGP=0 MARK=0x7"
        );
        let audit =
            line(&Event { said: Said::Audit, mark: 0, ..event }, &Arc::default(), &RuleTables::new(0));
        assert_eq!(audit, "type=NETFILTER_PKT mark=0xffffffff saddr=192.0.2.100 daddr=10.0.0.11 proto=6");
    }
}
