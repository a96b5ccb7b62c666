//! What does a command line ask for? Options to a filter and a format, with the checks and messages of conntrack 1.4.7.

use std::net::{IpAddr, Ipv4Addr};

use lb_core::conntrack::Labels;
use lb_core::conntrack::tcp::TcpState;
use lb_core::rule::text::aton;

use super::Stop;
use super::create::{self, Beside};
use super::expected::{self, Announcing};
use super::getopt::{Given, Words};
use super::options::{
    DCCP_STATES, Family, Field, LISTEN, Needs, OTHERS, Opt, PROTOCOLS, TABLE, VERBS, Verb, is_sctp_state,
    is_tcp_state,
};
use super::print::{Format, Kind};
use crate::api::conntrack::{
    self as api, ConntrackChange, ConntrackNew, EventName, ExpectationNew, Filter, LabelBits, Masked, NatTo,
    Net, StatusBit, Statuses, mask,
};
use crate::cli::labels::LabelNames;

/// What a command is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Table {
    Expectations,
    Connections,
    /// Connections that are neither begun nor ended, of which there are none.
    Between,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) verb: Verb,
    /// Help is what a line without a command is about.
    pub(crate) has_verb: bool,
    pub(crate) table: Table,
    pub(crate) filter: Filter,
    /// Of an update, what is set; of a list, whether counts are 0 then.
    pub(crate) change: ConntrackChange,
    /// What is to be begun.
    pub(crate) new: Option<ConntrackNew>,
    /// Or to be expected.
    pub(crate) announced: Option<ExpectationNew>,
    /// Which are shown.
    pub(crate) events: Vec<EventName>,
    pub(crate) format: Format,
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    verb: Option<Verb>,
    table: Option<Table>,
    given: Vec<Opt>,
    fields: Vec<Field>,
    filter: Filter,
    beside: Beside,
    announcing: Announcing,
    /// Whether `-s` and `-d` are more than one address.
    networks: [bool; 2],
    events: Vec<EventName>,
    masks: [Option<IpAddr>; 2],
    format: Format,
    protocol: Option<&'static Family>,
    /// `-u` named nothing that can be looked for.
    has_void_status: bool,
}

/// Reads a command line; gives to `warn` what is to be told whatever comes of it.
///
/// # Errors
/// As recorded.
pub(crate) fn parse(
    words: &[String],
    names: &LabelNames,
    warn: &mut dyn FnMut(&str),
) -> Result<Request, Stop> {
    let mut words = Words::new(words);
    let mut reading = Reading::default();
    while let Some(given) = words.next_option()? {
        match given {
            Given::Verb(verb) => reading.verb(verb, &mut words)?,
            Given::Opt(opt, argument) => {
                match opt {
                    Opt::Label | Opt::LabelAdd | Opt::LabelDel => reading.label(opt, argument, names)?,
                    _ => reading.option(opt, argument, warn)?,
                }
                words.protocol = reading.protocol;
            }
            Given::Field(field, argument) => reading.field(field, argument)?,
        }
    }
    reading.finish()
}

impl Reading {
    fn verb(&mut self, verb: Verb, words: &mut Words<'_>) -> Result<(), Stop> {
        if self.verb.replace(verb).is_some() {
            return Err(Stop::usage("Invalid commands combination"));
        }
        if let Some(word) = words.optional() {
            let tables = [
                ("expect", Table::Expectations),
                ("conntrack", Table::Connections),
                ("dying", Table::Between),
                ("unconfirmed", Table::Between),
            ];
            let found = tables.iter().find(|(name, _)| name.starts_with(word));
            let &(_, table) = found.ok_or_else(|| Stop::usage(format!("unknown type `{word}'")))?;
            self.table = Some(table);
        }
        Ok(())
    }

    fn option(&mut self, opt: Opt, argument: Option<&str>, warn: &mut dyn FnMut(&str)) -> Result<(), Stop> {
        self.given.push(opt);
        let text = argument.unwrap_or_default();
        match opt {
            Opt::Src => {
                self.filter.src = Some(self.net(text)?);
                self.networks[0] = is_network(self.filter.src);
            }
            Opt::Dst => {
                self.filter.dst = Some(self.net(text)?);
                self.networks[1] = is_network(self.filter.dst);
            }
            Opt::ReplySrc => self.filter.reply_src = Some(self.host(text, "--reply-src")?),
            Opt::ReplyDst => self.filter.reply_dst = Some(self.host(text, "--reply-dst")?),
            Opt::MaskSrc => self.masks[0] = Some(self.address(text)?),
            Opt::MaskDst => self.masks[1] = Some(self.address(text)?),
            Opt::TupleSrc => self.announcing.tuple[0] = Some(self.net(text)?.address),
            Opt::TupleDst => self.announcing.tuple[1] = Some(self.net(text)?.address),
            Opt::Protocol => {
                self.protocol = PROTOCOLS.iter().find(|family| family.name.eq_ignore_ascii_case(text));
                let other =
                    || OTHERS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|row| row.1);
                let number = self.protocol.map(|family| family.number).or_else(other);
                let number = number.or_else(|| text.parse().ok()).ok_or_else(|| unsupported(text))?;
                self.protocol = PROTOCOLS.iter().find(|family| family.number == number);
                self.filter.protocol = Some(number);
            }
            Opt::Family => {
                let family = match text {
                    "ipv4" => api::Family::Ipv4,
                    "ipv6" => api::Family::Ipv6,
                    _ => return Err(unsupported(text)),
                };
                self.family(family)?;
            }
            Opt::Status => self.status(text, warn)?,
            Opt::Output => self.output(text)?,
            Opt::Mark => {
                let (value, mask) =
                    text.split_once('/').map_or((text, u32::MAX), |(value, mask)| (value, number(mask)));
                self.filter.mark = Some(Masked { value: number(value), mask });
            }
            Opt::Zone => self.filter.zone = Some(number(text) as u16),
            Opt::OrigZone => self.filter.orig_zone = Some(number(text) as u16),
            Opt::ReplyZone => self.filter.reply_zone = Some(number(text) as u16),
            Opt::EventMask => self.events.extend(events(text)?),
            Opt::Id => self.filter.id = Some(number(text)),
            Opt::SrcNat => (self.filter.src_nat, self.beside.ports[0]) = self.nat(argument)?,
            Opt::DstNat => (self.filter.dst_nat, self.beside.ports[1]) = self.nat(argument)?,
            Opt::AnyNat => (self.filter.any_nat, _) = self.nat(argument)?,
            Opt::NatRange => warn("WARNING: ignoring -a, deprecated option."),
            Opt::Timeout => self.beside.timeout = Some(number(text)),
            Opt::Zero | Opt::Secmark | Opt::BufferSize | Opt::Label | Opt::LabelAdd | Opt::LabelDel => {}
        }
        Ok(())
    }

    /// Labels by name; of `--label-del` without any all.
    fn label(&mut self, opt: Opt, argument: Option<&str>, names: &LabelNames) -> Result<(), Stop> {
        self.given.push(opt);
        self.format.labels = true;
        let mut labels = if argument.is_none() { Labels::of(0..Labels::BITS) } else { Labels::NONE };
        for name in argument.into_iter().flat_map(|names| names.split(',')) {
            let bit = names.bit(name).and_then(|bit| u8::try_from(bit).ok());
            let unknown = || Stop::usage(format!("unknown label '{name}'"));
            labels = labels.with(bit.filter(|&bit| bit < Labels::BITS).ok_or_else(unknown)?);
        }
        let all = match opt {
            Opt::LabelAdd => &mut self.beside.label_add,
            Opt::LabelDel => &mut self.beside.label_del,
            _ => {
                let before = self.filter.labels.map(|all| all.0).unwrap_or_default();
                self.filter.labels = Some(LabelBits(before.and(labels)));
                return Ok(());
            }
        };
        *all = Some(all.unwrap_or_default().and(labels));
        if self.beside.label_add.is_some() && self.beside.label_del.is_some() {
            let message = "cannot use --label-add and --label-del at the same time";
            return Err(Stop { code: super::FAILED, message: message.to_owned(), has_hint: false });
        }
        Ok(())
    }

    fn field(&mut self, field: Field, text: &str) -> Result<(), Stop> {
        self.fields.push(field);
        // Decimal alone.
        let decimal = || digits(text, 10);
        let port = || decimal() as u16;
        match field {
            Field::Sport => self.filter.sport = Some(port()),
            Field::Dport => self.filter.dport = Some(port()),
            Field::ReplySport => self.filter.reply_sport = Some(port()),
            Field::ReplyDport => self.filter.reply_dport = Some(port()),
            Field::Type => self.filter.icmp_type = Some(decimal() as u8),
            Field::Code => self.filter.icmp_code = Some(decimal() as u8),
            Field::Identifier => self.filter.icmp_id = Some(port()),
            Field::State => {
                let (what, is_known) = match self.filter.protocol {
                    Some(132) => ("unknown SCTP", is_sctp_state(text)),
                    Some(33) => ("Unknown DCCP", DCCP_STATES.contains(&text)),
                    _ => ("unknown TCP", is_tcp_state(text)),
                };
                if !is_known {
                    return Err(Stop::usage(format!("{what} state `{text}'")));
                }
                let name = if text == LISTEN { TcpState::SynSent2.name() } else { text };
                self.filter.state = Some(name.to_owned());
            }
            Field::OrigTag => self.beside.tags[0] = number(text),
            Field::ReplyTag => self.beside.tags[1] = number(text),
            Field::MaskSport => self.announcing.mask_ports[0] = port(),
            Field::MaskDport => self.announcing.mask_ports[1] = port(),
            Field::TupleSport => self.announcing.tuple_ports[0] = port(),
            Field::TupleDport => self.announcing.tuple_ports[1] = port(),
            // No connection here has any.
            Field::SourceKey | Field::DestinationKey | Field::ReplySourceKey | Field::ReplyDestinationKey => {
            }
            Field::Role => {
                let begun = text.to_ascii_lowercase();
                if !["client", "server"].iter().any(|role| role.starts_with(&begun)) {
                    return Err(Stop::usage(format!("Unknown DCCP role `{text}'")));
                }
            }
        }
        Ok(())
    }

    fn family(&mut self, family: api::Family) -> Result<(), Stop> {
        match self.filter.family.replace(family) {
            Some(before) if before != family => Err(Stop::usage("mismatched address family")),
            _ => Ok(()),
        }
    }

    fn address(&mut self, text: &str) -> Result<IpAddr, Stop> {
        let invalid = || Stop::usage(format!("Invalid IP address `{text}'"));
        let address = short_ipv4(text).or_else(|| text.parse().ok()).ok_or_else(invalid)?;
        self.family(if address.is_ipv4() { api::Family::Ipv4 } else { api::Family::Ipv6 })?;
        Ok(address)
    }

    fn net(&mut self, text: &str) -> Result<Net, Stop> {
        let (address, len) = text.split_once('/').unwrap_or((text, ""));
        let address = self.address(address)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        // As the recorded command, which takes an empty length for 0.
        let len = match len {
            "" if text.contains('/') => Some(0),
            "" => Some(all),
            digits => digits.parse().ok(),
        };
        let mask = len.and_then(|len| mask(address, len)).ok_or_else(|| Stop::usage("Invalid netmask"))?;
        Ok(Net { address, mask })
    }

    fn host(&mut self, text: &str, option: &str) -> Result<Net, Stop> {
        let net = self.net(text)?;
        if text.contains('/') {
            return Err(Stop::usage(format!("CIDR notation unavailable for `{option}'")));
        }
        Ok(net)
    }

    /// `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`.
    fn nat(&mut self, argument: Option<&str>) -> Result<(Option<NatTo>, Option<u16>), Stop> {
        let Some(text) = argument else { return Ok((Some(NatTo::Any), None)) };
        let (address, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => (address, rest.strip_prefix(':')),
            None if text.matches(':').count() == 1 => {
                text.split_once(':').map_or((text, None), |(address, port)| (address, Some(port)))
            }
            None => (text, None),
        };
        let address = self.address(address)?;
        let port = match port {
            None => None,
            Some("") => return Err(Stop::usage("No port specified after `:'")),
            Some(text) => {
                let port = text.parse().map_err(|_| Stop::usage(format!("Invalid port `{text}'")))?;
                Some(port)
            }
        };
        Ok((Some(NatTo::Address(address)), port))
    }

    fn status(&mut self, text: &str, warn: &mut dyn FnMut(&str)) -> Result<(), Stop> {
        let mut bits = Vec::new();
        for name in text.split(',') {
            match StatusBit::named(name) {
                Some(StatusBit::SrcNat | StatusBit::DstNat) => {
                    let name = name.to_ascii_uppercase();
                    let option = if name == "SRC_NAT" { "--src-nat" } else { "--dst-nat" };
                    warn(&format!("WARNING: ignoring {name}, use {option} instead"));
                }
                Some(bit) if bits.contains(&bit) => {}
                Some(bit) => bits.push(bit),
                None if name.eq_ignore_ascii_case("UNSET") => {}
                None => return Err(bad_parameter(name)),
            }
        }
        self.has_void_status = bits.is_empty();
        self.filter.status = Some(Statuses(bits));
        Ok(())
    }

    fn output(&mut self, text: &str) -> Result<(), Stop> {
        for name in text.split(',') {
            match name.to_ascii_lowercase().as_str() {
                "xml" => self.format.kind = Kind::Xml,
                "save" => self.format.kind = Kind::Save,
                "extended" => self.format.extended = true,
                "id" => self.format.id = true,
                // Of events alone.
                "timestamp" => self.format.timestamp = true,
                "labels" => self.format.labels = true,
                // Of a kernel that notes times, of changes by programs: nothing here has any.
                "ktimestamp" | "userspace" => {}
                _ => return Err(bad_parameter(name)),
            }
        }
        let is_several =
            text.contains(',') || self.given.iter().filter(|&&opt| opt == Opt::Output).count() > 1;
        if self.format.kind == Kind::Save && is_several {
            let message = "cannot combine save output with any other output type, use -o save only";
            return Err(Stop { code: super::FAILED, message: message.to_owned(), has_hint: false });
        }
        Ok(())
    }

    fn has(&self, opt: Opt) -> bool {
        self.given.contains(&opt)
    }

    fn finish(mut self) -> Result<Request, Stop> {
        let has_verb = self.verb.is_some();
        let verb = self.verb.unwrap_or(Verb::Help);
        let table = self.table.unwrap_or(Table::Connections);
        let is_announced = verb == Verb::Create && table == Table::Expectations;
        if is_announced {
            self.announcing.mask = std::mem::take(&mut self.masks);
        }
        for (opt, mask, net) in [
            (Opt::MaskSrc, self.masks[0], &mut self.filter.src),
            (Opt::MaskDst, self.masks[1], &mut self.filter.dst),
        ] {
            let Some(mask) = mask else { continue };
            let name = if opt == Opt::MaskSrc { "src" } else { "dst" };
            let net = net.as_mut();
            let net = net.ok_or_else(|| Stop::usage(format!("Can't use --mask-{name} without --{name}")))?;
            net.mask = mask;
        }
        if table == Table::Between && !matches!(verb, Verb::List | Verb::Help | Verb::Version) {
            return Err(Stop::usage("Can't do that command with tables `dying' and `unconfirmed'"));
        }
        self.check(verb, table)?;
        if verb == Verb::Get && table == Table::Connections {
            // It is looked up, and not sought in all zones.
            (self.filter.zone, self.filter.orig_zone) = (Some(0), Some(0));
        }
        let change = match verb {
            Verb::Update => self.change(),
            _ => ConntrackChange { zero: self.has(Opt::Zero), ..ConntrackChange::default() },
        };
        let is_begun = matches!(verb, Verb::Create | Verb::Add) && table == Table::Connections;
        let new = match is_begun {
            true => Some(create::read(&self.filter, &self.beside).ok_or_else(|| create::invalid(verb))?),
            false => None,
        };
        let announced = match is_announced {
            true => Some(expected::read(&self.filter, &self.announcing)?),
            false => None,
        };
        // Nothing to look for is not all.
        if self.has_void_status && !is_begun && verb != Verb::Update {
            return Err(Stop::failed("invalid parameters"));
        }
        if self.events.is_empty() {
            self.events = events("ALL")?;
        }
        // The recorded command shows none of what it deletes.
        self.format.labels &= verb != Verb::Delete;
        let (filter, events, format) = (self.filter, self.events, self.format);
        Ok(Request { events, verb, has_verb, table, filter, change, new, announced, format })
    }

    /// Of an update, what is to be set and not looked for.
    fn change(&mut self) -> ConntrackChange {
        let status = self.filter.status.take();
        // It is no bit that could be set.
        let mut bits = status.map(|all| all.0).unwrap_or_default();
        bits.retain(|&bit| bit != StatusBit::Unreplied);
        ConntrackChange {
            mark: self.filter.mark.take(),
            timeout: self.beside.timeout,
            status: (!bits.is_empty()).then_some(Statuses(bits)),
            label_del: self.beside.label_del.unwrap_or_default().bits().collect(),
            label_add: self.beside.label_add.unwrap_or_default().bits().collect(),
            zero: false,
        }
    }

    /// What must be there, and what may not, in the options' order.
    fn check(&self, verb: Verb, table: Table) -> Result<(), Stop> {
        let needs_tuple = matches!(verb, Verb::Get | Verb::Create | Verb::Add);
        if table == Table::Expectations {
            return expected::check(verb, |opt| self.has(opt), &self.fields, self.networks);
        }
        let announcing = [Field::MaskSport, Field::MaskDport, Field::TupleSport, Field::TupleDport];
        let beginning = [Field::OrigTag, Field::ReplyTag, Field::Role];
        let is_begun = matches!(verb, Verb::Create | Verb::Add);
        let beside = beginning.iter().filter(|_| !is_begun).chain(&announcing);
        let beside: Vec<Field> = beside.copied().filter(|field| self.fields.contains(field)).collect();
        let of_protocol = |field: &Field| self.protocol.and_then(|family| family.name_of(*field));
        if let Some(name) = beside.iter().find_map(of_protocol) {
            return Err(illegal(name));
        }
        let letter = VERBS.iter().find(|row| row.verb == verb).map_or('h', |row| row.short);
        for row in TABLE {
            let is_needed = match row.opt {
                Opt::Protocol => needs_tuple,
                Opt::Timeout => needs_tuple && verb != Verb::Get,
                _ => false,
            };
            match self.has(row.opt) {
                false if is_needed => return Err(missing(row.long[0])),
                true if !row.with.contains(letter) => return Err(illegal(row.long[0])),
                _ => {}
            }
            // A network is an address and its mask.
            let is_network = match row.opt {
                Opt::MaskSrc => self.networks[0],
                Opt::MaskDst => self.networks[1],
                _ => false,
            };
            if is_network && matches!(verb, Verb::Create | Verb::Add) {
                return Err(illegal(row.long[0]));
            }
        }
        if !needs_tuple {
            return Ok(());
        }
        self.check_addresses()?;
        if verb != Verb::Get {
            self.check_beginning()?;
        }
        self.check_tuple()
    }

    /// What a connection of some protocols begins with.
    fn check_beginning(&self) -> Result<(), Stop> {
        let needs: &[_] = match self.filter.protocol {
            Some(6) => &[(Field::State, "state")],
            Some(33) => &[(Field::State, "state"), (Field::Role, "role")],
            Some(132) => {
                &[(Field::State, "state"), (Field::OrigTag, "orig-vtag"), (Field::ReplyTag, "reply-vtag")]
            }
            _ => &[],
        };
        let missed = needs.iter().find(|(field, _)| !self.fields.contains(field));
        missed.map_or(Ok(()), |(_, name)| Err(missing(name)))
    }

    fn check_addresses(&self) -> Result<(), Stop> {
        let is_original = self.has(Opt::Src) && self.has(Opt::Dst);
        let is_reply = self.has(Opt::ReplySrc) && self.has(Opt::ReplyDst);
        if !is_original && !is_reply {
            return Err(Stop::usage("you have to specify `--src' and `--dst'"));
        }
        Ok(())
    }

    fn check_tuple(&self) -> Result<(), Stop> {
        let has = |field| self.fields.contains(&field);
        let Some(family) = self.protocol else { return Ok(()) };
        match family.needs {
            Needs::Pair(&[src, dst, reply_src, reply_dst], [original, reply]) => {
                if has(src) && has(dst) || has(reply_src) && has(reply_dst) {
                    return Ok(());
                }
                let is_of_reply = !has(src) && !has(dst) && (has(reply_src) || has(reply_dst));
                let options = if is_of_reply { reply } else { original };
                Err(Stop::usage(format!("you have to specify {options}")))
            }
            Needs::Each => {
                let first = family.options.iter().copied().flatten().take(2).find(|(_, field)| !has(*field));
                first.map_or(Ok(()), |(name, _)| Err(missing(name)))
            }
        }
    }
}

/// IPv4 as of `inet_aton`: `10.1` is 10.0.0.1, and what stands behind a blank is passed over.
fn short_ipv4(text: &str) -> Option<IpAddr> {
    let end = text.find(|c: char| c.is_ascii_whitespace()).unwrap_or(text.len());
    aton(&text[..end]).map(|bits| Ipv4Addr::from(bits).into())
}

fn unsupported(text: &str) -> Stop {
    Stop::usage(format!("`{text}' unsupported protocol"))
}

fn bad_parameter(name: &str) -> Stop {
    Stop::usage(format!("Bad parameter `{name}'"))
}

pub(super) fn missing(option: &str) -> Stop {
    Stop::usage(format!("You need to supply the `--{option}' option for this command"))
}

pub(super) fn illegal(option: &str) -> Stop {
    Stop::usage(format!("Illegal option `--{option}' with this command"))
}

/// As the recorded command reads numbers: decimal, octal or hexadecimal, as many digits as there are; 0 where there are none.
fn number(text: &str) -> u32 {
    let text = text.trim_start();
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, rest) = if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        (16, digits)
    } else if let Some(digits) = text.strip_prefix('0') {
        (8, digits)
    } else {
        (10, text)
    };
    let value = digits(rest, radix);
    (if is_negative { value.wrapping_neg() } else { value }) as u32
}

/// The number that a text begins with; 0: with none.
fn digits(text: &str, radix: u32) -> u64 {
    let digits = text.chars().map_while(|digit| digit.to_digit(radix));
    digits.fold(0, |value: u64, digit| value.saturating_mul(radix.into()).saturating_add(digit.into()))
}

fn events(text: &str) -> Result<Vec<EventName>, Stop> {
    use EventName::{Destroy, New, Update};
    let named = |name: &str| match name.to_ascii_uppercase().as_str() {
        "ALL" => Ok(vec![New, Update, Destroy]),
        "NEW" => Ok(vec![New]),
        "UPDATE" | "UPDATES" => Ok(vec![Update]),
        "DESTROY" => Ok(vec![Destroy]),
        _ => Err(bad_parameter(name)),
    };
    let all: Vec<Vec<EventName>> = text.split(',').map(named).collect::<Result<_, _>>()?;
    Ok(all.concat())
}

/// Whether it is more than one address.
fn is_network(net: Option<Net>) -> bool {
    net.is_some_and(|net| Some(net.mask) != mask(net.address, if net.address.is_ipv4() { 32 } else { 128 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request, Stop> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&words, &LabelNames::default(), &mut |_| {})
    }

    #[test]
    fn options_of_gre_and_dccp_are_read_and_checked_as_by_the_real_command() {
        let illegal = |option: &str| format!("Illegal option `--{option}' with this command");
        let missing = |option: &str| format!("You need to supply the `--{option}' option for this command");
        let unspecified = |options: &str| format!("you have to specify {options}");
        for line in [
            "-L -p gre --srckey 7",
            "-D -p 47 --orig-key-src 0x7 --orig-key-dst 8 --reply-key-src 9 --reply-key-dst x",
            "-G -s 192.0.2.1 -d 192.0.2.2 -p gre --srck 7 --dstk 8",
            "-L -p dccp --sport 7 --state PARTOPEN",
        ] {
            assert!(read(line).is_ok(), "{line}");
        }
        let new = "-I -s 192.0.2.1 -d 192.0.2.2 -t 9 -p";
        for (line, message) in [
            ("-L -p gre --mask-key-src 7", illegal("mask-key-src")),
            ("-E -p gre --tuple-key-dst 7", illegal("tuple-key-dst")),
            ("-L -p gre --sport 7", "unknown option `--sport'".to_owned()),
            ("-L -p dccp --state partopen", "Unknown DCCP state `partopen'".to_owned()),
            ("-L -p dccp --role server", illegal("role")),
            ("-D -p dccp --role neither", "Unknown DCCP role `neither'".to_owned()),
            (&format!("{new} gre"), unspecified("`--srckey' and `--dstkey'")),
            (&format!("{new} gre --dstkey 7"), unspecified("`--srckey' and `--dstkey'")),
            (&format!("{new} gre --reply-key-dst 7"), unspecified("`--reply-src-key' and `--reply-dst-key'")),
            (&format!("{new} dccp --sport 7"), missing("state")),
            (&format!("{new} dccp --sport 7 --dport 8 --state OPEN"), missing("role")),
            (&format!("{new} dccp --state OPEN --role CLI"), unspecified("`--sport' and `--dport'")),
            (&format!("{new} tcp --sport 7"), missing("state")),
            (
                &format!("{new} tcp --reply-port-src 7 --state NONE"),
                unspecified("`--reply-src-port' and `--reply-dst-port'"),
            ),
        ] {
            assert_eq!(read(line).err(), Some(Stop::usage(message)), "{line}");
        }
    }

    #[test]
    fn addresses_may_be_as_short_as_inet_aton_takes_them() {
        let source = |text: &str| Reading::default().address(text);
        for text in ["1.2.3.4", "0x1.2.0x304", "01.2.3.4", "1.131844", "16909060", "1.2.3.4 x"] {
            assert_eq!(source(text), Ok(Ipv4Addr::new(1, 2, 3, 4).into()), "{text}");
        }
        for text in ["1.2.3.256", "1.2.3.4.", "+1", "", " 1", "x", "1.2.3.4:5"] {
            assert_eq!(source(text), Err(Stop::usage(format!("Invalid IP address `{text}'"))));
        }
    }
}
