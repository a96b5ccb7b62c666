//! What FTP's control connections say (RFC 959, RFC 2428), read as text, a line at a time; and what is said instead to an end of the other address
//! family (RFC 6384).

use std::net::{IpAddr, Ipv4Addr};

/// Lines of a segment that are read, and how long they may be.
const MOST_LINES: usize = 8;
const MOST: usize = 256;

/// Where somebody waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Waits {
    /// `None`: it is not said, and means its own.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) form: Form,
    /// Where in the line, and how many bytes.
    pub(super) place: (usize, usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// `192,0,2,1,4,0`
    Numbers,
    /// `192.0.2.1|1024`, between such characters.
    Fields(char),
    /// `1024`
    Port,
}

/// One character for each byte.
pub(super) fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// Characters of such a text are bytes of what was read.
fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

/// Whole lines, and where they begin.
pub(super) fn lines(data: &[u8]) -> Vec<(usize, String)> {
    let mut all: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
    // Behind the last line end is no whole line.
    all.pop();
    let mut at = 0;
    let mut lines = Vec::new();
    for line in all.into_iter().take(MOST_LINES) {
        let without_end = line.strip_suffix(b"\r").unwrap_or(line);
        if without_end.len() <= MOST {
            lines.push((at, text(without_end)));
        }
        at += line.len() + 1;
    }
    lines
}

/// The number that a text begins with, of six digits at most, and the digits.
fn number(text: &[char]) -> Option<(u16, usize)> {
    let digits: String = text.iter().take_while(|c| c.is_ascii_digit()).take(6).collect();
    Some((digits.parse().ok()?, digits.len()))
}

/// The first six numbers of a byte each that have commas between them, from there on.
fn numbers(line: &str, from: usize) -> Option<Waits> {
    let line = chars(line);
    for begin in from..line.len() {
        let is_within_a_number = begin > from && line[begin - 1].is_ascii_digit();
        if is_within_a_number {
            continue;
        }
        let (mut at, mut found) = (begin, Vec::new());
        while let Some((value, len)) = number(&line[at..]).filter(|(value, _)| *value < 256) {
            found.push(value as u8);
            at += len;
            if found.len() == 6 || line.get(at) != Some(&',') {
                break;
            }
            at += 1;
        }
        if let &[a, b, c, d, high, low] = &found[..] {
            let port = u16::from(high) * 256 + u16::from(low);
            let address = Some(Ipv4Addr::new(a, b, c, d).into());
            let waits = Waits { address, port, form: Form::Numbers, place: (begin, at - begin) };
            return (port != 0).then_some(waits);
        }
    }
    None
}

/// RFC 2428 §2: printable, and nothing of which addresses and ports are made.
fn is_between(c: char) -> bool {
    c.is_ascii_graphic() && !c.is_ascii_hexdigit() && !".:".contains(c)
}

/// `address|port`.
fn fields(text: &str, between: char) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(between)?;
    let is_number = (1..=6).contains(&port.len()) && port.chars().all(|c| c.is_ascii_digit());
    let port = port.parse().ok().filter(|&port| port != 0 && is_number && is_between(between))?;
    Some((address.parse().ok()?, port))
}

/// 227 and 229.
pub(super) fn server_waits(line: &str) -> Option<Waits> {
    if line.starts_with("227 ") {
        return numbers(line, 4);
    }
    let line = chars(line.strip_prefix("229 ").map(|_| line)?);
    let open = 4 + line[4..].iter().position(|&c| c == '(')?;
    let between = *line.get(open + 1).filter(|&&c| is_between(c))?;
    let from = open + 4;
    let is_right = line.get(open + 1..from)? == [between; 3];
    let (port, len) = number(&line[from..])?;
    let is_right = is_right && port != 0 && line.get(from + len) == Some(&between);
    is_right.then_some(Waits { address: None, port, form: Form::Port, place: (from, len) })
}

/// PORT and EPRT.
pub(super) fn client_waits(line: &str) -> Option<Waits> {
    let all = chars(line);
    let verb: String = all.get(..5)?.iter().collect::<String>().to_ascii_uppercase();
    match verb.as_str() {
        "PORT " => numbers(line, 5).filter(|waits| waits.place.0 == 5),
        "EPRT " => {
            let (&between, &family) = (all.get(5)?, all.get(6)?);
            let rest = all.get(8..).filter(|_| all[7] == between && is_between(between))?;
            let ends: Vec<usize> = (0..rest.len()).filter(|&at| rest[at] == between).collect();
            let words: String = rest[..*ends.get(1)?].iter().collect();
            let (address, port) = fields(&words, between)?;
            let is_right = family == if address.is_ipv4() { '1' } else { '2' };
            let place = (8, ends[1]);
            let form = Form::Fields(between);
            is_right.then_some(Waits { address: Some(address), port, form, place })
        }
        _ => None,
    }
}

/// What was read of a line before, alone.
pub(super) fn waits_again(words: &str) -> Option<Waits> {
    let (all, len) = (chars(words), words.chars().count());
    let whole = (0, len);
    if let Some((port, _)) = number(&all).filter(|&(_, digits)| digits == len) {
        return Some(Waits { address: None, port, form: Form::Port, place: whole });
    }
    if let Some(waits) = numbers(words, 0) {
        return Some(waits).filter(|waits| waits.place == whole);
    }
    let between = *all.iter().rev().find(|c| !c.is_ascii_digit())?;
    let (address, port) = fields(words, between)?;
    Some(Waits { address: Some(address), port, form: Form::Fields(between), place: whole })
}

fn in_numbers(address: IpAddr, port: u16) -> String {
    format!("{},{},{}", address.to_string().replace('.', ","), port / 256, port % 256)
}

fn address_in_full(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.segments().map(|group| format!("{group:x}")).join(":"),
    }
}

/// The same end in other words.
pub(super) fn said_as(form: Form, (address, port): (IpAddr, u16)) -> String {
    match form {
        Form::Numbers => in_numbers(address, port),
        Form::Fields(between) => format!("{}{between}{port}", address_in_full(address)),
        Form::Port => port.to_string(),
    }
}

/// What a client has asked for last, of a server of the other family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Asked {
    #[default]
    Nothing,
    /// Where to come to.
    Passive,
    /// What its server was not to hear; and how that is to be answered. Then, that it was.
    Refused(Refused),
    WasRefused(Refused),
    /// That nobody may read along; and then, that it was granted.
    Secrecy,
    Secret,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Protocol,
    All,
}

/// What the other end hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Says {
    /// The line as it is.
    Same,
    Words(&'static str),
    /// Where to come to: what stands before it and behind it.
    Port,
    Eprt,
    Passive,
    Extended,
}

impl Says {
    pub(super) fn line(self, end: (IpAddr, u16)) -> Option<String> {
        let (address, port) = end;
        Some(match self {
            Says::Same => return None,
            Says::Words(words) => words.to_owned(),
            Says::Port => format!("PORT {}", in_numbers(address, port)),
            Says::Eprt => format!("EPRT |2|{}|{port}|", address_in_full(address)),
            Says::Passive => format!("227 Entering Passive Mode ({}).", in_numbers(address, port)),
            Says::Extended => format!("229 Entering Extended Passive Mode (|||{port}|)"),
        })
    }
}

/// What a line means to the other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meaning {
    pub(super) says: Says,
    /// Where its sender waits.
    pub(super) waits: Option<(Option<IpAddr>, u16)>,
    pub(super) asked: Asked,
}

/// A client's line, to a server of the other family (RFC 6384 §4, §5, §10).
pub(super) fn of_client(line: &str, is_ipv6: bool) -> Meaning {
    let says = |says, asked| Meaning { says, waits: None, asked };
    let refused = |why| says(Says::Words("NOOP"), Asked::Refused(why));
    let all = chars(line);
    let verb: String = all.iter().take(4).collect::<String>().to_ascii_uppercase();
    let rest: String = all.iter().skip(4).collect();
    let rest = rest.trim_matches(|c: char| c.is_ascii_whitespace());
    let own = if is_ipv6 { "2" } else { "1" };
    match (verb.as_str(), rest.to_ascii_uppercase().as_str(), is_ipv6) {
        ("EPSV", "", true) | ("EPSV", "2", true) => says(Says::Words("PASV"), Asked::Passive),
        ("EPSV", "ALL", true) => refused(Refused::All),
        ("EPSV", "" | "ALL", false) => says(Says::Same, Asked::Nothing),
        ("EPSV", "1", false) => says(Says::Words("EPSV 2"), Asked::Nothing),
        ("EPSV", ..) => refused(Refused::Protocol),
        ("PASV", "", false) => says(Says::Words("EPSV"), Asked::Passive),
        ("AUTH", ..) => says(Says::Same, Asked::Secrecy),
        (verb, ..) => match client_waits(line) {
            Some(Waits { address: Some(address), port, .. }) if address.is_ipv6() == is_ipv6 => Meaning {
                says: if is_ipv6 { Says::Port } else { Says::Eprt },
                waits: Some((Some(address), port)),
                asked: Asked::Nothing,
            },
            Some(_) if verb == "EPRT" => refused(Refused::Protocol),
            None if verb == "EPRT" && protocol_of(rest).is_some_and(|protocol| protocol != own) => {
                refused(Refused::Protocol)
            }
            _ => says(Says::Same, Asked::Nothing),
        },
    }
}

/// The number between the first two of what EPRT has between its fields.
fn protocol_of(rest: &str) -> Option<&str> {
    let between = rest.chars().next().filter(|&c| is_between(c))?;
    let (protocol, _) = rest[1..].split_once(between)?;
    (!protocol.is_empty() && protocol.chars().all(|c| c.is_ascii_digit())).then_some(protocol)
}

/// A server's line, to a client of the other family who has `asked` for that.
pub(super) fn of_server(line: &str, is_ipv6: bool, asked: Asked) -> Meaning {
    let same = Meaning { says: Says::Same, waits: None, asked };
    if let Some(waits) = server_waits(line) {
        let is_of_other_family = (waits.form == Form::Numbers) == is_ipv6;
        if asked == Asked::Passive && is_of_other_family {
            let says = if is_ipv6 { Says::Extended } else { Says::Passive };
            return Meaning { says, waits: Some((None, waits.port)), asked: Asked::Nothing };
        }
        // 229 is the same in both.
        let is_known = waits.form == Form::Port;
        return Meaning { waits: is_known.then_some((None, waits.port)), ..same };
    }
    match asked {
        Asked::Refused(why) if line.starts_with("200 ") => {
            let words = match (why, is_ipv6) {
                (Refused::All, _) => "504 Command not implemented for that parameter",
                (Refused::Protocol, true) => "522 Network protocol not supported, use (2)",
                (Refused::Protocol, false) => "522 Network protocol not supported, use (1)",
            };
            Meaning { says: Says::Words(words), waits: None, asked: Asked::WasRefused(why) }
        }
        Asked::Secrecy if line.starts_with("234") || line.starts_with("334") => {
            Meaning { asked: Asked::Secret, ..same }
        }
        _ => same,
    }
}

/// The same of a line that was exchanged and comes again.
pub(super) fn of_server_again(line: &str, is_ipv6: bool, asked: Asked) -> Meaning {
    let had_asked = match asked {
        Asked::Refused(why) | Asked::WasRefused(why) => Asked::Refused(why),
        _ => Asked::Passive,
    };
    Meaning { asked, ..of_server(line, is_ipv6, had_asked) }
}
