//! `expect`: what is done to connections that are expected, and how they are shown.
//!
//! Options, messages and exit codes were recorded from conntrack 1.4.7 over connections with netfilter's helper of FTP.

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::options::{Field, Opt, TABLE, Verb};
use super::print::{Format, Kind, name};
use super::{Done, FAILED, SILENT, Stop, Tracker, request, said};
use crate::api::conntrack::{
    ConntrackStatistics, Ends, EventName, Expectation, ExpectationEvent, ExpectationFilter, ExpectationNew,
    Filter,
};
use crate::api::types::ErrorKind;
use crate::cli::director::DirectorError;

/// What was given of one that is to be, beside its connection.
#[derive(Clone, Copy, Default)]
pub(super) struct Announcing {
    pub(super) tuple: [Option<IpAddr>; 2],
    pub(super) mask: [Option<IpAddr>; 2],
    pub(super) tuple_ports: [u16; 2],
    pub(super) mask_ports: [u16; 2],
}

/// Options that a command must have, in the order in which they are missed, and those that it may have.
fn goes_with(verb: Verb) -> (&'static [Opt], &'static [Opt]) {
    const WHICH: &[Opt] = &[Opt::Src, Opt::Dst, Opt::MaskSrc, Opt::MaskDst, Opt::Protocol, Opt::Family];
    const SHOWN: &[Opt] = &[
        Opt::Src,
        Opt::Dst,
        Opt::MaskSrc,
        Opt::MaskDst,
        Opt::Protocol,
        Opt::Family,
        Opt::Output,
        Opt::BufferSize,
    ];
    const NEW: &[Opt] = &[
        Opt::Src,
        Opt::Dst,
        Opt::Protocol,
        Opt::Timeout,
        Opt::TupleSrc,
        Opt::TupleDst,
        Opt::MaskSrc,
        Opt::MaskDst,
    ];
    match verb {
        Verb::List | Verb::Event => (&[], SHOWN),
        Verb::Delete => (&[Opt::Src], WHICH),
        Verb::Get => (&[Opt::Src, Opt::Dst, Opt::Protocol], &[Opt::Src, Opt::Dst, Opt::Protocol]),
        Verb::Create => (NEW, NEW),
        _ => (&[], &[]),
    }
}

/// What must be there, and what may not. `networks`: the source, the destination is more than one address.
pub(super) fn check(
    verb: Verb,
    has: impl Fn(Opt) -> bool,
    fields: &[Field],
    networks: [bool; 2],
) -> Result<(), Stop> {
    match verb {
        Verb::Help | Verb::Version => return Ok(()),
        Verb::Update => return Err(Stop::usage("Can't do --update on expectations")),
        Verb::Add => return Err(Stop::usage("Can't do --add on expectations")),
        _ => {}
    }
    let (needed, known) = goes_with(verb);
    let is_one = matches!(verb, Verb::Get | Verb::Create);
    for row in TABLE {
        let is_network = match row.opt {
            Opt::MaskSrc => networks[0],
            Opt::MaskDst => networks[1],
            _ => false,
        };
        match has(row.opt) {
            false if needed.contains(&row.opt) => return Err(request::missing(row.long[0])),
            true if !known.contains(&row.opt) && row.opt != Opt::NatRange => {
                return Err(request::illegal(row.long[0]));
            }
            _ if is_network && is_one => return Err(request::illegal(row.long[0])),
            _ => {}
        }
    }
    let needed: &[(Field, &str)] = match verb {
        Verb::Get => &[(Field::Sport, "sport"), (Field::Dport, "dport")],
        Verb::Create => &[
            (Field::Sport, "sport"),
            (Field::Dport, "dport"),
            (Field::MaskSport, "mask-port-src"),
            (Field::MaskDport, "mask-port-dst"),
            (Field::TupleSport, "tuple-port-src"),
            (Field::TupleDport, "tuple-port-dst"),
        ],
        _ => &[],
    };
    if let Some((_, name)) = needed.iter().find(|(field, _)| !fields.contains(field)) {
        return Err(request::missing(name));
    }
    let others: &[(Field, &str)] = match verb {
        Verb::Create => &[
            (Field::ReplySport, "reply-port-src"),
            (Field::ReplyDport, "reply-port-dst"),
            (Field::State, "state"),
        ],
        _ => &[
            (Field::MaskSport, "mask-port-src"),
            (Field::MaskDport, "mask-port-dst"),
            (Field::TupleSport, "tuple-port-src"),
            (Field::TupleDport, "tuple-port-dst"),
            (Field::State, "state"),
        ],
    };
    match others.iter().find(|(field, _)| fields.contains(field)) {
        Some((_, name)) => Err(request::illegal(name)),
        None => Ok(()),
    }
}

/// What `-I` describes: of the connection as the filter says.
///
/// # Errors
/// A mask that is of more than one address, of several ports, or of any destination.
pub(super) fn read(filter: &Filter, new: &Announcing) -> Result<ExpectationNew, Stop> {
    for (option, mask) in [("src", new.mask[0]), ("dst", new.mask[1])] {
        let is_whole = mask.is_some_and(|mask| match mask {
            IpAddr::V4(mask) => u32::from(mask) == u32::MAX,
            IpAddr::V6(mask) => u128::from(mask) == u128::MAX,
        });
        if let Some(mask) = mask.filter(|_| !is_whole) {
            return Err(refused(format!(
                "--mask-{option} {mask}: one address is expected, all bits are ones"
            )));
        }
    }
    let [sport, dport] = new.mask_ports;
    if !matches!(sport, 0 | u16::MAX) {
        return Err(refused(format!("--mask-port-src {sport}: 65535 is one port, 0 is any")));
    }
    if dport != u16::MAX {
        return Err(refused(format!("--mask-port-dst {dport}: one port is expected, 65535")));
    }
    let described = || {
        let master = Ends {
            src: filter.src?.address,
            dst: filter.dst?.address,
            sport: filter.sport?,
            dport: filter.dport?,
        };
        let expected = Ends {
            src: new.tuple[0]?,
            dst: new.tuple[1]?,
            sport: if sport == 0 { 0 } else { new.tuple_ports[0] },
            dport: new.tuple_ports[1],
        };
        let is_nowhere = sport != 0 && expected.sport == 0;
        Some(ExpectationNew { protocol: filter.protocol?, expected, master, zone: 0 }).filter(|_| !is_nowhere)
    };
    described().ok_or_else(|| Stop::failed("invalid parameters"))
}

fn refused(message: String) -> Stop {
    Stop { code: FAILED, message, has_hint: false }
}

/// Does a command of expectations.
pub(super) fn done(
    verb: Verb,
    filter: &Filter,
    new: Option<&ExpectationNew>,
    format: Format,
    tracker: &mut dyn Tracker,
    output: &mut dyn Write,
) -> Result<Done, Stop> {
    let which = expectations(filter);
    let all = ExpectationFilter::default();
    let mut printer = Printer { out: output, format, count: 0 };
    match verb {
        Verb::List => {
            tracker.expected(&which, &mut |expectation| printer.print(&expectation, None))?;
            printer.end()?;
            said(0, format!("{} expectations have been shown.", printer.count))
        }
        Verb::Event => {
            tracker.expectation_events(&which, &mut |ExpectationEvent { event, at, expectation }| {
                printer.print(&expectation, Some((event, at)))?;
                printer.out.flush()
            })?;
            printer.end()?;
            said(0, format!("{} expectation events have been shown.", printer.count))
        }
        Verb::Get => {
            // From which port it comes counts where it is known.
            let from = which.sport;
            let which = ExpectationFilter { sport: None, ..which };
            tracker.expected(&which, &mut |expectation| {
                let sport = expectation.expected.sport;
                let is_it = printer.count == 0 && (sport == 0 || from == Some(sport));
                if is_it { printer.print(&expectation, None) } else { Ok(()) }
            })?;
            if printer.count == 0 { Err(Stop::failed("No such file or directory")) } else { Ok(SILENT) }
        }
        Verb::Create => {
            let new = new.ok_or_else(|| Stop::failed("invalid parameters"))?;
            tracker.announce(new).map_err(why_not)?;
            Ok(SILENT)
        }
        Verb::Delete => {
            let mut count = 0;
            tracker.end_expected(&which, &mut |_| {
                count += 1;
                Ok(())
            })?;
            said(if count == 0 { FAILED } else { 0 }, format!("{count} expectations have been deleted."))
        }
        Verb::Flush => {
            tracker.end_expected(&all, &mut |_| Ok(()))?;
            said(0, "expectation table has been emptied.")
        }
        Verb::Count => {
            let mut count = 0u64;
            tracker.expected(&all, &mut |_| {
                count += 1;
                Ok(())
            })?;
            writeln!(printer.out, "{count}")?;
            Ok(SILENT)
        }
        Verb::Statistics => {
            for ConntrackStatistics { cpu, expect_new, expect_create, expect_delete, .. } in
                tracker.statistics()?
            {
                writeln!(
                    printer.out,
                    "cpu={cpu:<4}\texpect_new={expect_new} expect_create={expect_create} expect_delete={expect_delete} "
                )?;
            }
            Ok(SILENT)
        }
        Verb::Add | Verb::Update | Verb::Help | Verb::Version => Ok(SILENT),
    }
}

/// Which expectations a line is about.
fn expectations(filter: &Filter) -> ExpectationFilter {
    let &Filter { family, protocol, src, dst, sport, dport, .. } = filter;
    ExpectationFilter { family, protocol, src, dst, sport, dport }
}

/// As the recorded command says why there is none.
fn why_not(error: DirectorError) -> Stop {
    match error {
        DirectorError::Refused(refused) => match refused.error {
            ErrorKind::NotFound => Stop::failed("master conntrack not found"),
            ErrorKind::ConnectionExists => Stop::failed("File exists"),
            ErrorKind::InvalidOperation => Stop::failed("Operation not supported"),
            _ => DirectorError::Refused(refused).into(),
        },
        error => error.into(),
    }
}

/// Shows them one by one: [`Printer::end`] is to be called after the last.
struct Printer<'a> {
    out: &'a mut dyn Write,
    format: Format,
    count: u64,
}

impl Printer<'_> {
    /// `event`: what became of it, and when.
    fn print(&mut self, shown: &Expectation, event: Option<(EventName, u64)>) -> io::Result<()> {
        self.count += 1;
        if self.format.kind == Kind::Xml {
            if self.count == 1 {
                writeln!(self.out, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<expect>")?;
            }
            return xml(self.out, shown, event.map(|(name, _)| name));
        }
        if self.format.timestamp {
            let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
            let at = event.map_or_else(now, |(_, at)| at);
            write!(self.out, "[{}.{:06}]\t", at / 1_000_000, at % 1_000_000)?;
        }
        if let Some((name, _)) = event {
            let name = format!("[{}]", word(name).to_ascii_uppercase());
            write!(self.out, "{name:>9} ")?;
        }
        line(self.out, shown)
    }

    fn end(&mut self) -> io::Result<()> {
        if self.format.kind == Kind::Xml && self.count > 0 { writeln!(self.out, "</expect>") } else { Ok(()) }
    }
}

fn word(event: EventName) -> &'static str {
    match event {
        EventName::New => "new",
        EventName::Update => "update",
        EventName::Destroy => "destroy",
    }
}

fn line(out: &mut dyn Write, shown: &Expectation) -> io::Result<()> {
    let Expectation { protocol, expires, expected, master, zone, helper, class, .. } = shown;
    write!(out, "{expires} proto={protocol} ")?;
    for (before, Ends { src, dst, sport, dport }) in
        [("", *expected), ("mask-", shown.mask()), ("master-", *master)]
    {
        write!(out, "{before}src={src} {before}dst={dst} sport={sport} dport={dport} ")?;
    }
    if *zone != 0 {
        write!(out, "zone={zone} ")?;
    }
    let flags = [(shown.permanent, "PERMANENT"), (shown.inactive, "INACTIVE")];
    let flags: Vec<&str> = flags.iter().filter(|(is, _)| *is).map(|&(_, name)| name).collect();
    if !flags.is_empty() {
        write!(out, "{} ", flags.join(","))?;
    }
    writeln!(out, "class={class} helper={helper}")
}

fn xml(out: &mut dyn Write, shown: &Expectation, event: Option<EventName>) -> io::Result<()> {
    let Expectation { protocol, expires, expected, master, zone, helper, class, .. } = shown;
    let all = [("expected", *expected), ("mask", shown.mask()), ("master", *master)];
    match event {
        Some(event) => write!(out, "<flow type=\"{}\">", word(event))?,
        None => write!(out, "<flow>")?,
    }
    let (l3, l3_number) = if expected.src.is_ipv6() { ("ipv6", 10) } else { ("ipv4", 2) };
    write!(out, "<layer3 protonum=\"{l3_number}\" protoname=\"{l3}\">")?;
    for (of, Ends { src, dst, .. }) in all {
        write!(out, "<{of}><src>{src}</src><dst>{dst}</dst></{of}>")?;
    }
    write!(out, "</layer3><layer4 protonum=\"{protocol}\" protoname=\"{}\">", name(*protocol))?;
    for (of, Ends { sport, dport, .. }) in all {
        write!(out, "<{of}><sport>{sport}</sport><dport>{dport}</dport></{of}>")?;
    }
    write!(out, "</layer4><meta><helper-name>{helper}</helper-name><timeout>{expires}</timeout>")?;
    if *zone != 0 {
        write!(out, "<zone>{zone}</zone>")?;
    }
    write!(out, "<class>{class}</class>")?;
    for (is, word) in [(shown.permanent, "permanent"), (shown.inactive, "inactive")] {
        if is {
            write!(out, "<{word}/>")?;
        }
    }
    writeln!(out, "</meta></flow>")
}
