//! A SIP message, as far as a helper needs it: what it asks for or answers, which ends it names, and where (RFC 3261 §7, §19.1, §20; RFC 3581).
//!
//! One pass through its header; nothing is kept of it but numbers, and of what may come often a fixed count. Names of hosts
//! are passed over: a helper knows addresses alone.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::part::{Part, Place};
use super::{after_line, is_blank, is_end};
use crate::tables::Protocol;

/// Contacts that are looked at.
pub const MOST_CONTACTS: usize = 8;
/// Of a URI that names none (RFC 3261 §19.1.2).
const PORT: u16 = 5060;

#[derive(Clone, Debug)]
pub struct Message {
    pub start: Start,
    pub cseq: Option<Cseq>,
    /// Of a request: whom it is for.
    pub uri: Option<End>,
    /// The topmost one.
    pub via: Option<Via>,
    pub contacts: ArrayVec<Contact, MOST_CONTACTS>,
    pub from: Option<End>,
    pub to: Option<End>,
    /// In seconds.
    pub expires: Option<u32>,
    /// Of the body, as it is said and where.
    pub content_length: Option<(Place, u32)>,
    /// Where the body begins.
    pub body: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    Request(Method),
    /// With this code.
    Answer(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Invite,
    Update,
    Ack,
    Prack,
    Bye,
    Register,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cseq {
    pub number: u32,
    pub method: Method,
}

/// An address and a port, and where both stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub place: Place,
    pub address: IpAddr,
    pub port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Via {
    pub end: End,
    pub transport: Transport,
    pub maddr: Option<(Place, IpAddr)>,
    pub received: Option<(Place, IpAddr)>,
    pub rport: Option<(Place, u16)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contact {
    pub end: End,
    pub transport: Transport,
    pub expires: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// That of the message.
    Unsaid,
    Of(Protocol),
    Other,
}

impl Transport {
    pub fn may_be(self, protocol: Protocol) -> bool {
        matches!(self, Transport::Unsaid) || self == Transport::Of(protocol)
    }

    fn named(name: &[u8]) -> Transport {
        match name {
            name if name.eq_ignore_ascii_case(b"udp") => Transport::Of(Protocol::UDP),
            name if name.eq_ignore_ascii_case(b"tcp") => Transport::Of(Protocol::TCP),
            _ => Transport::Other,
        }
    }
}

impl Method {
    const NAMES: [(&'static str, Method); 6] = [
        ("INVITE", Method::Invite),
        ("UPDATE", Method::Update),
        ("ACK", Method::Ack),
        ("PRACK", Method::Prack),
        ("BYE", Method::Bye),
        ("REGISTER", Method::Register),
    ];

    fn named(name: &[u8]) -> Method {
        let found = Method::NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
        found.map_or(Method::Other, |&(_, method)| method)
    }
}

impl Message {
    /// `None`: it is none, as what only keeps a connection alive.
    pub fn read(message: &[u8]) -> Option<Message> {
        let line = message.iter().position(|&byte| is_end(byte)).unwrap_or(message.len());
        let (start, uri) = first_line(Part::of(message, 0, line))?;
        let mut read = Message {
            start,
            cseq: None,
            uri,
            via: None,
            contacts: ArrayVec::new(),
            from: None,
            to: None,
            expires: None,
            content_length: None,
            body: message.len(),
        };
        let mut at = message.len() - after_line(message).len();
        let mut has_via = false;
        while let Some(header) = next_header(message, at) {
            if header.next == at {
                break;
            }
            at = header.next;
            let Some((name, value)) = header.field else {
                read.body = at;
                break;
            };
            let is = |long: &str, short: &str| {
                name.eq_ignore_ascii_case(long.as_bytes()) || name.eq_ignore_ascii_case(short.as_bytes())
            };
            if is("Via", "v") {
                if !std::mem::replace(&mut has_via, true) {
                    read.via = via(value);
                }
            } else if is("Contact", "m") {
                contacts(value, &mut read.contacts);
            } else if is("From", "f") && read.from.is_none() {
                read.from = named_end(value).map(|(end, _)| end);
            } else if is("To", "t") && read.to.is_none() {
                read.to = named_end(value).map(|(end, _)| end);
            } else if is("CSeq", "CSeq") && read.cseq.is_none() {
                read.cseq = cseq(value);
            } else if is("Expires", "Expires") && read.expires.is_none() {
                read.expires = value.number().map(|(seconds, _)| seconds);
            } else if is("Content-Length", "l") && read.content_length.is_none() {
                read.content_length =
                    value.number().map(|(length, digits)| (value.begin(digits).place(), length));
            }
        }
        Some(read)
    }
}

/// The message that a stream's bytes begin with, if it lies in them whole: line ends that come before it (§7.5), and its length by its Content-Length,
/// which it must have (§18.3).
pub fn framed(stream: &[u8]) -> Option<(usize, usize)> {
    let skipped = stream.iter().take_while(|&&byte| is_end(byte)).count();
    let rest = &stream[skipped..];
    let Message { content_length, body, .. } = Message::read(rest)?;
    let has_end = rest[..body].ends_with(b"\r\n\r\n") || rest[..body].ends_with(b"\n\n");
    let len = body.checked_add(usize::try_from(content_length?.1).ok()?)?;
    (has_end && len <= rest.len()).then_some((skipped, len))
}

/// A line of the header, with those that go on with it.
struct Header<'a> {
    /// `None`: it is empty, and the body is next.
    field: Option<(&'a [u8], Part<'a>)>,
    next: usize,
}

fn next_header(message: &[u8], at: usize) -> Option<Header<'_>> {
    let rest = message.get(at..).filter(|rest| !rest.is_empty())?;
    let place_of = |rest: &[u8]| message.len() - rest.len();
    if is_end(rest[0]) {
        return Some(Header { field: None, next: place_of(after_line(rest)) });
    }
    let mut next = after_line(rest);
    let mut end = at + line_len(rest);
    while next.first().is_some_and(|&byte| is_blank(byte)) {
        end = place_of(next) + line_len(next);
        next = after_line(next);
    }
    let (name, value) = Part::of(message, at, end).split(b':');
    // A line that is no field has a name that nobody asks for.
    let value = value.map_or(Part::of(message, end, end), Part::trimmed);
    Some(Header { field: Some((name.text.trim_ascii_end(), value)), next: place_of(next) })
}

fn line_len(rest: &[u8]) -> usize {
    rest.iter().position(|&byte| is_end(byte)).unwrap_or(rest.len())
}

fn first_line(line: Part<'_>) -> Option<(Start, Option<End>)> {
    if let Some(answer) = line.behind("SIP/2.0 ") {
        let (code, _) = answer.number()?;
        return Some((Start::Answer(code), None));
    }
    let (method, rest) = line.split(b' ');
    let is_word = !method.text.is_empty() && method.text.iter().all(u8::is_ascii_alphabetic);
    let (uri, version) = rest.filter(|_| is_word)?.split(b' ');
    version?;
    Some((Start::Request(Method::named(method.text)), uri_end(uri).map(|(end, _)| end)))
}

/// The end that a SIP URI names, and what is behind it.
fn uri_end(uri: Part<'_>) -> Option<(End, Part<'_>)> {
    let rest = uri.behind("sip:")?;
    let (_, host) = rest.split(b'@');
    end(host.unwrap_or(rest))
}

/// The address, with a port or without, that a part begins with.
fn end(part: Part<'_>) -> Option<(End, Part<'_>)> {
    let (address, mut len) = part.host()?;
    let mut port = PORT;
    if let Some(behind) = part.rest(len).behind(":") {
        let (number, digits) = behind.number()?;
        port = u16::try_from(number).ok().filter(|&port| port != 0)?;
        len += 1 + digits;
    }
    Some((End { place: part.begin(len).place(), address, port }, part.rest(len)))
}

/// The end in `name-addr` or `addr-spec` (§20.10): `"Bob" <sip:bob@host;parameter>;parameter`, and what is behind it.
fn named_end(value: Part<'_>) -> Option<(End, Part<'_>)> {
    match value.split_outside(b'<') {
        (_, Some(uri)) => uri_end(uri.trimmed()),
        (uri, None) => uri_end(uri.trimmed()),
    }
}

fn contacts(value: Part<'_>, contacts: &mut ArrayVec<Contact, MOST_CONTACTS>) {
    let mut left = Some(value);
    while let Some(value) = left.filter(|_| !contacts.is_full()) {
        let (one, others) = value.split_outside(b',');
        left = others;
        let Some((end, behind)) = named_end(one.trimmed()) else { continue };
        let mut contact = Contact { end, transport: Transport::Unsaid, expires: None };
        for (name, value) in parameters(behind) {
            if name.eq_ignore_ascii_case(b"transport") {
                contact.transport = Transport::named(value.text);
            } else if name.eq_ignore_ascii_case(b"expires") {
                contact.expires = value.number().map(|(seconds, _)| seconds);
            }
        }
        contacts.push(contact);
    }
}

/// `SIP/2.0/UDP host:port;parameter` (§20.42).
fn via(value: Part<'_>) -> Option<Via> {
    let (first, _) = value.split_outside(b',');
    let (sent, _) = first.split(b';');
    let slash = sent.text.iter().rposition(|&byte| byte == b'/')?;
    let by = sent.rest(slash + 1).trimmed();
    let len = by.text.iter().position(u8::is_ascii_whitespace)?;
    let transport = Transport::named(by.begin(len).text);
    // As far as the whole field, for its parameters.
    let host = by.rest(len).trimmed();
    let (end, _) = end(host)?;
    let mut via = Via { end, transport, maddr: None, received: None, rport: None };
    for (name, value) in parameters(first.rest(sent.text.len())) {
        if name.eq_ignore_ascii_case(b"maddr") {
            via.maddr = value.host().map(|(address, len)| (value.begin(len).place(), address));
        } else if name.eq_ignore_ascii_case(b"received") {
            let found = value.address().or_else(|| value.host());
            via.received = found.map(|(address, len)| (value.begin(len).place(), address));
        } else if name.eq_ignore_ascii_case(b"rport") {
            via.rport = value
                .number()
                .and_then(|(port, digits)| Some((value.begin(digits).place(), u16::try_from(port).ok()?)));
        }
    }
    Some(via)
}

/// Names and values of parameters, of a URI and of the field that it stands in.
fn parameters(part: Part<'_>) -> impl Iterator<Item = (&[u8], Part<'_>)> {
    let mut left = Some(part);
    std::iter::from_fn(move || {
        let (one, others) = left?.split_outside(b';');
        left = others;
        let (name, value) = one.split(b'=');
        let value = value.map_or(one.rest(one.text.len()), |value| value.split(b'>').0.trimmed());
        Some((name.text.trim_ascii(), value))
    })
}

fn cseq(value: Part<'_>) -> Option<Cseq> {
    let (number, digits) = value.number()?;
    Some(Cseq { number, method: Method::named(value.rest(digits).trimmed().text) })
}
