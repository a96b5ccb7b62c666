//! What rules with LOG, AUDIT and TRACE want told: a line for each packet, in the words of the kernel's own log, so that what reads those reads these.
//!
//! Said is what was kept of a packet ([`KEPT`](lb_core::rule::event::KEPT)): what is behind that is not there.
//!
//! Source of the format: Linux, `net/netfilter/nf_log_syslog.c` (facts), and log lines of it.

mod headers;

use std::fmt::{self, Write};

use lb_core::flow::Tuple;
use lb_core::rule::event::{Event, Said};
use lb_core::tables::{InterfaceId, Interfaces};

use headers::{Part, Result, Shown};

use crate::model::rules::RuleTables;

/// The line of one packet. `rules` say what it met, where that is told.
pub fn line(event: &Event, interfaces: &Interfaces, rules: &RuleTables) -> String {
    let prefix = match event.said {
        Said::Audit => return audit(event),
        Said::Met(number) => trace(rules, number),
        Said::Headers { .. } => event.prefix.to_string(),
        Said::System { name, hops } => format!("{name} : {} hops={hops} ", ends(event)),
        Said::NoSystem => format!("Remote OS is not known: {} ", ends(event)),
    };
    let name = |id: Option<InterfaceId>| {
        id.and_then(|id| interfaces.get(id)).map_or("", |interface| interface.name.as_str())
    };
    let mut out = format!("{prefix}IN={} OUT={} ", name(event.input), name(event.output));
    // Writing to a `String` cannot fail.
    let shown = packet(&mut out, event);
    if event.mark != 0 && shown == Ok(Shown::Whole) {
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

/// As `net/netfilter/nfnetlink_osf.c` names both, in the line before the one with the headers.
fn ends(event: &Event) -> String {
    let Tuple { src, dst, sport, dport, .. } = event.tuple;
    format!("{src}:{sport} -> {dst}:{dport}")
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

/// What is told too, as [`Said::Headers`] has it: of what no rule says it of TCP sequence numbers and options, and IP options.
fn options(event: &Event) -> u8 {
    match event.said {
        Said::Headers { options } => options,
        Said::Met(_) | Said::System { .. } | Said::NoSystem => TCP_SEQUENCE | TCP_OPTIONS | IP_OPTIONS,
        Said::Audit => 0,
    }
}

const TCP_SEQUENCE: u8 = 1;
const TCP_OPTIONS: u8 = 2;
const IP_OPTIONS: u8 = 4;
const DECODED_MAC: u8 = 32;

/// The packet's own part of the line.
fn packet(out: &mut String, event: &Event) -> Result {
    let frame = &event.frame[..usize::from(event.kept)];
    let (l3, options) = (usize::from(event.headers.l3), options(event));
    if event.input.is_some() && frame.len() >= l3 && l3 >= ETHERNET {
        link(out, frame, &frame[l3 - 2..l3], options & DECODED_MAC != 0)?;
    }
    let len = event.headers.ip_len as usize;
    let bytes = frame.get(l3..).unwrap_or_default();
    let bytes = &bytes[..bytes.len().min(len)];
    let ends = Some(&event.tuple);
    Part { bytes, len, options, ends }.write(out, event.headers.is_ipv6)
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// As it is without VLAN tags; `kind`: of what is in the frame.
fn link(out: &mut String, frame: &[u8], kind: &[u8], is_decoded: bool) -> fmt::Result {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let (to, from) = (hex(&frame[..6]), hex(&frame[6..12]));
    match is_decoded {
        true => write!(out, "MACSRC={from} MACDST={to} MACPROTO={:02x}{:02x} ", kind[0], kind[1]),
        false => write!(out, "MAC={to}:{from}:{} ", hex(kind)),
    }
}

#[cfg(test)]
mod tests;
