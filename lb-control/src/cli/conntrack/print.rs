//! How connections are shown: conntrack's line, its XML, and command lines that say the same.

use std::io::{self, Write};

use lb_core::flow::Direction;

use super::options::{PROTOCOLS, TABLE, VERBS};
use crate::api::conntrack::{ConntrackEvent, ConntrackStatistics, Ends, EventName, StatusBit, Tracked};
use crate::cli::labels::LabelNames;

/// As which version it speaks.
pub(crate) const VERSION: &str = "1.4.7";

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Kind {
    #[default]
    Line,
    Xml,
    Save,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Format {
    pub(crate) kind: Kind,
    /// The family before all else.
    pub(crate) extended: bool,
    pub(crate) id: bool,
    /// Those that have a name.
    pub(crate) labels: bool,
    /// Of an event: when it was.
    pub(crate) timestamp: bool,
}

/// Prints connections one by one: [`Printer::end`] is to be called after the last.
pub(crate) struct Printer<'a> {
    out: &'a mut dyn Write,
    format: Format,
    names: &'a LabelNames,
    /// XML has a first and a last line.
    has_frame: bool,
    pub(crate) count: u64,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, format: Format, names: &'a LabelNames) -> Printer<'a> {
        Printer { out, format, names, has_frame: true, count: 0 }
    }

    /// As the recorded command shows what it deletes.
    pub(crate) fn without_frame(
        out: &'a mut dyn Write,
        format: Format,
        names: &'a LabelNames,
    ) -> Printer<'a> {
        Printer { has_frame: false, ..Printer::new(out, format, names) }
    }

    pub(crate) fn print(&mut self, tracked: &Tracked) -> io::Result<()> {
        self.count += 1;
        let labels = self.labels(tracked);
        match self.format.kind {
            Kind::Line => line(self.out, tracked, labels.as_deref(), self.format, None),
            Kind::Xml => {
                if self.count == 1 && self.has_frame {
                    writeln!(self.out, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>")?;
                }
                xml(self.out, tracked, labels.as_deref(), None)
            }
            Kind::Save => save(self.out, tracked),
        }
    }

    /// What becomes of a connection, at once.
    pub(crate) fn event(&mut self, event: &ConntrackEvent) -> io::Result<()> {
        let ConntrackEvent { event: name, at, tracked } = event;
        self.count += 1;
        let (word, xml_word) = match name {
            EventName::New => ("[NEW]", "new"),
            EventName::Update => ("[UPDATE]", "update"),
            EventName::Destroy => ("[DESTROY]", "destroy"),
        };
        let labels = self.labels(tracked);
        let at = self.format.timestamp.then_some((at / 1_000_000, at % 1_000_000));
        match self.format.kind {
            Kind::Xml => {
                if self.count == 1 {
                    writeln!(self.out, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>")?;
                }
                xml(self.out, tracked, labels.as_deref(), Some(xml_word))?;
            }
            Kind::Save => save(self.out, tracked)?,
            Kind::Line => {
                if let Some((seconds, micros)) = at {
                    write!(self.out, "[{seconds}.{micros:06}]\t")?;
                }
                write!(self.out, "{word:>9} ")?;
                line(self.out, tracked, labels.as_deref(), self.format, Some(*name))?;
            }
        }
        self.out.flush()
    }

    /// Names of its labels; `None`: it has none, or they are not shown.
    fn labels(&self, tracked: &Tracked) -> Option<Vec<&'a str>> {
        let is_shown = self.format.labels && !tracked.labels.is_empty();
        is_shown.then(|| tracked.labels.iter().filter_map(|&bit| self.names.name(bit.into())).collect())
    }

    pub(crate) fn end(&mut self) -> io::Result<()> {
        if self.format.kind == Kind::Xml && self.count > 0 && self.has_frame {
            writeln!(self.out, "</conntrack>")?;
        }
        Ok(())
    }
}

/// The protocol's name as in listings; those that conntrack has no words for are `unknown`.
pub(super) fn name(protocol: u8) -> &'static str {
    PROTOCOLS.iter().find(|family| family.number == protocol).map_or("unknown", |family| family.name)
}

fn family(tracked: &Tracked) -> (&'static str, u8) {
    if tracked.is_ipv6() { ("ipv6", 10) } else { ("ipv4", 2) }
}

/// `event`: what became of it; those say no use, and of one that is over a mark alone that it has, and the time that it had left.
fn line(
    out: &mut dyn Write,
    tracked: &Tracked,
    labels: Option<&[&str]>,
    format: Format,
    event: Option<EventName>,
) -> io::Result<()> {
    if format.extended {
        let (name, number) = family(tracked);
        write!(out, "{name:<8} {number} ")?;
    }
    let protocol = tracked.protocol;
    write!(out, "{:<8} {protocol} ", name(protocol))?;
    if event != Some(EventName::Destroy) || tracked.expires != 0 {
        write!(out, "{} ", tracked.expires)?;
    }
    if let Some(state) = &tracked.state {
        write!(out, "{state} ")?;
    }
    ends(out, tracked, Direction::Original)?;
    if tracked.orig_zone != 0 {
        write!(out, "zone-orig={} ", tracked.orig_zone)?;
    }
    counted(out, tracked, Direction::Original)?;
    if tracked.has(StatusBit::Unreplied) {
        write!(out, "[UNREPLIED] ")?;
    }
    ends(out, tracked, Direction::Reply)?;
    if tracked.reply_zone != 0 {
        write!(out, "zone-reply={} ", tracked.reply_zone)?;
    }
    counted(out, tracked, Direction::Reply)?;
    if tracked.has(StatusBit::Assured) {
        write!(out, "[ASSURED] ")?;
    }
    if tracked.mark != 0 || event != Some(EventName::Destroy) {
        write!(out, "mark={} ", tracked.mark)?;
    }
    if tracked.zone != 0 {
        write!(out, "zone={} ", tracked.zone)?;
    }
    if let Some(helper) = &tracked.helper {
        write!(out, "helper={helper} ")?;
    }
    let uses = if event.is_none() { "use=1 " } else { "" };
    let id = if format.id { format!("id={} ", tracked.id) } else { String::new() };
    // Of a listing nothing follows, of an event the last blank stays.
    let labels = match labels {
        None => String::new(),
        // As the recorded command says that those it has have no name.
        Some([]) => "labels ".to_owned(),
        Some(names) => format!("labels={} ", names.join(",")),
    };
    let end = format!("{uses}{id}{labels}");
    writeln!(out, "{}", if event.is_none() { end.trim_end() } else { &end })
}

fn side(tracked: &Tracked, direction: Direction) -> Ends {
    match direction {
        Direction::Original => tracked.original,
        Direction::Reply => tracked.reply,
    }
}

fn ends(out: &mut dyn Write, tracked: &Tracked, direction: Direction) -> io::Result<()> {
    let Ends { src, dst, sport, dport } = side(tracked, direction);
    write!(out, "src={src} dst={dst} ")?;
    match tracked.protocol {
        1 | 58 => {
            let (kind, code, id) = tracked.icmp(direction).unwrap_or_default();
            write!(out, "type={kind} code={code} id={id} ")
        }
        47 => write!(out, "srckey={sport:#x} dstkey={dport:#x} "),
        protocol if has_ports(protocol) => write!(out, "sport={sport} dport={dport} "),
        _ => Ok(()),
    }
}

/// Packets and bytes, where they are counted.
fn packets(tracked: &Tracked, direction: Direction) -> Option<(u64, u64)> {
    let counted = tracked.counted?;
    Some(match direction {
        Direction::Original => (counted.original_packets, counted.original_bytes),
        Direction::Reply => (counted.reply_packets, counted.reply_bytes),
    })
}

fn counted(out: &mut dyn Write, tracked: &Tracked, direction: Direction) -> io::Result<()> {
    match packets(tracked, direction) {
        Some((packets, bytes)) => write!(out, "packets={packets} bytes={bytes} "),
        None => Ok(()),
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

fn xml(
    out: &mut dyn Write,
    tracked: &Tracked,
    labels: Option<&[&str]>,
    event: Option<&str>,
) -> io::Result<()> {
    match event {
        Some(event) => write!(out, "<flow type=\"{event}\">")?,
        None => write!(out, "<flow>")?,
    }
    let ((l3, l3_number), protocol) = (family(tracked), tracked.protocol);
    for (word, direction, zone) in [
        ("original", Direction::Original, tracked.orig_zone),
        ("reply", Direction::Reply, tracked.reply_zone),
    ] {
        let Ends { src, dst, sport, dport } = side(tracked, direction);
        write!(out, "<meta direction=\"{word}\"><layer3 protonum=\"{l3_number}\" protoname=\"{l3}\">")?;
        write!(out, "<src>{src}</src><dst>{dst}</dst></layer3>")?;
        write!(out, "<layer4 protonum=\"{protocol}\" protoname=\"{}\">", name(protocol))?;
        if has_ports(protocol) {
            write!(out, "<sport>{sport}</sport><dport>{dport}</dport>")?;
        } else if protocol == 47 {
            write!(out, "<srckey>{sport:#x}</srckey><dstkey>{dport:#x}</dstkey>")?;
        }
        write!(out, "</layer4>")?;
        if zone != 0 {
            write!(out, "<zone>{zone}</zone>")?;
        }
        if let Some((packets, bytes)) = packets(tracked, direction) {
            write!(out, "<counters><packets>{packets}</packets><bytes>{bytes}</bytes></counters>")?;
        }
        write!(out, "</meta>")?;
    }
    write!(out, "<meta direction=\"independent\">")?;
    if let Some(state) = &tracked.state {
        write!(out, "<state>{state}</state>")?;
    }
    if event != Some("destroy") || tracked.expires != 0 {
        write!(out, "<timeout>{}</timeout>", tracked.expires)?;
    }
    write!(out, "<mark>{}</mark>", tracked.mark)?;
    if let Some(names) = labels {
        let names: String = names.iter().map(|name| format!("<label>{name}</label>")).collect();
        write!(out, "<labels>{names}</labels>")?;
    }
    if tracked.zone != 0 {
        write!(out, "<zone>{}</zone>", tracked.zone)?;
    }
    if let Some(helper) = &tracked.helper {
        write!(out, "<helper>{helper}</helper>")?;
    }
    if event.is_none() {
        write!(out, "<use>1</use>")?;
    }
    write!(out, "<id>{}</id>", tracked.id)?;
    if tracked.has(StatusBit::Assured) {
        write!(out, "<assured/>")?;
    }
    if tracked.has(StatusBit::Unreplied) {
        write!(out, "<unreplied/>")?;
    }
    writeln!(out, "</meta></flow>")
}

fn save(out: &mut dyn Write, tracked: &Tracked) -> io::Result<()> {
    let Tracked { original, reply, protocol, .. } = tracked;
    let known = [(StatusBit::SeenReply, "SEEN_REPLY"), (StatusBit::Assured, "ASSURED")];
    let status: Vec<&str> =
        known.iter().filter(|(bit, _)| tracked.has(*bit)).map(|&(_, name)| name).collect();
    let status = if status.is_empty() { "UNSET".to_owned() } else { status.join(",") };
    write!(out, "-A -t {} -u {status} ", tracked.expires)?;
    for (option, zone) in
        [("-w", tracked.zone), ("--orig-zone", tracked.orig_zone), ("--reply-zone", tracked.reply_zone)]
    {
        if zone != 0 {
            write!(out, "{option} {zone} ")?;
        }
    }
    write!(out, "-s {} -d {} ", original.src, original.dst)?;
    // What is translated is said as the option that does so.
    let option = |is_translated, plain, nat| if is_translated { nat } else { plain };
    write!(out, "{} {} ", option(reply.src != original.dst, "-r", "-g"), reply.src)?;
    write!(out, "{} {} ", option(reply.dst != original.src, "-q", "-n"), reply.dst)?;
    match name(*protocol) {
        "unknown" => write!(out, "-p {protocol}")?,
        name => write!(out, "-p {name}")?,
    }
    if has_ports(*protocol) {
        write!(out, " --sport {} --dport {}", original.sport, original.dport)?;
        write!(out, " --reply-port-src {} --reply-port-dst {}", reply.sport, reply.dport)?;
    } else if let Some((kind, code, id)) = tracked.icmp(Direction::Original) {
        let name = name(*protocol);
        write!(out, " --{name}-type {kind} --{name}-code {code} --{name}-id {id}")?;
    }
    if let Some(state) = &tracked.state {
        write!(out, " --state {state}")?;
    }
    writeln!(out)
}

/// The kernel's counters; of those that have no meaning here none ever counts.
pub(crate) fn statistics(out: &mut dyn Write, workers: &[ConntrackStatistics]) -> io::Result<()> {
    workers.iter().try_for_each(|worker| {
        let ConntrackStatistics { cpu, found, invalid, insert, insert_failed, drop, early_drop, .. } = worker;
        writeln!(
            out,
            "cpu={cpu:<4}\tfound={found} invalid={invalid} insert={insert} insert_failed={insert_failed} drop={drop} early_drop={early_drop} \
             error=0 search_restart=0 clash_resolve=0 chaintoolong=0 "
        )
    })
}

pub(crate) fn help(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Connections of lbd, in the words of conntrack {VERSION}.")?;
    writeln!(out, "Usage: conntrack COMMAND [OPTIONS]\n\nCommands:")?;
    for row in VERBS.iter().filter(|row| !row.help.is_empty()) {
        let name = format!("-{}, --{} {}", row.short, row.long[0], row.arguments);
        writeln!(out, "  {name:<36}  {}", row.help)?;
    }
    writeln!(out, "\nTables: conntrack, expect, dying, unconfirmed\n\nOptions:")?;
    for row in TABLE.iter().filter(|row| !row.help.is_empty()) {
        let short =
            if row.short.is_ascii_graphic() { format!("-{}, ", row.short) } else { "    ".to_owned() };
        let name = format!("{short}--{} {}", row.long[0], row.argument);
        writeln!(out, "  {name:<36}  {}", row.help)?;
    }
    writeln!(out, "\nOptions after -p:")?;
    PROTOCOLS.iter().try_for_each(|family| {
        let known = family.options.iter().copied().flatten();
        let names: Vec<String> = known.map(|(name, _)| format!("--{name}")).collect();
        writeln!(out, "  {:<8}  {}", family.name, names.join(" "))
    })
}
