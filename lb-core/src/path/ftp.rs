//! A control connection of a virtual service's FTP: what a segment says of data connections, and what the other end hears instead.
//!
//! A server waits where the client knows the service: 227 names the service's address. A client waits, behind FullNAT, at a local endpoint like that of the
//! control connection, which its own worker chooses. Between two address families commands and answers are of other words as well
//! ([`ftp_families`]).
//!
//! Before a segment that tells of a data connection goes on, the worker that has to know of it is told ([`expected`](super::expected)), and says by what port the
//! server may come: the segment goes there and comes back as it was, so that what it brings about finds that worker told. A service's connection
//! whose source rules have exchanged is read from the server's side alone.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_ftp.c`; RFC 959 §3.2; RFC 2428; RFC 2577 §3; RFC 6384.

use std::net::IpAddr;

use super::expected::Expect;
use super::reworded::Data;
use super::{Io, Path, Steer};
use crate::conntrack::Status;
use crate::conntrack::helper::ftp::FIRST_OF_CLIENTS;
use crate::drop::DropReason;
use crate::flow::edit::{FTP, is_less};
use crate::flow::{Direction, FlowRef, Method, Tuple};
use crate::hook::Hook;
use crate::packet::Packet;
use crate::rule::edit::lower_raised_ttl;
use crate::time::Tick;
use crate::wire::ftp::{self, Form, lines};
use crate::wire::ftp_families::{self as families, Asked, Line};
use crate::wire::parse::Headers;
use crate::wire::segment::Segment;
use crate::wire::tcp::{RST, SYN};
use crate::wire::telnet;

/// What a segment says, and what is said instead.
pub(super) struct Heard {
    /// From where on in its data, and how many bytes.
    place: (usize, usize),
    /// `None`: these.
    instead: Option<Instead>,
    /// The data connection that it tells of.
    expect: Option<Expect>,
    /// What the client has asked for last from then on.
    asked: Asked,
}

/// In words of the same family, or of the other one.
enum Instead {
    Words(Form),
    Line(Line),
}

/// The ends of a control connection.
struct Control {
    original: Tuple,
    reply: Tuple,
    /// Its real server knows the client by a local endpoint.
    is_full_nat: bool,
}

impl<P: Packet> Path<P> {
    /// A packet of a control connection.
    pub(super) fn hear_and_send(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.control_rests(at.id());
        let mut heard = match self.hear(&packet, headers, at) {
            Ok(heard) => heard,
            Err(reason) => return self.drop(reason, Hook::Forward),
        };
        let mut is_known = true;
        if let Some(expect) = heard.as_mut().and_then(|heard| heard.expect.as_mut()) {
            let owner = self.owner_of(expect.client.0, expect.client.1);
            if owner != self.worker {
                lower_raised_ttl(packet.data_mut(), headers);
                return io.hand_over(owner, packet, Steer::Announce(*expect));
            }
            is_known = self.expect(expect, now);
            if self.flows.find(&Tuple::of_packet(packet.data(), headers)) != Some(at) {
                // It went itself, so that there was room for what it told of.
                return self.newcomer(packet, headers, now, io);
            }
        }
        self.say_and_send(packet, headers, at, heard, is_known, now, io);
    }

    /// A packet that tells of a data connection, at the worker that has to know of it.
    #[cold]
    pub(super) fn announced(
        &mut self,
        packet: P,
        headers: &Headers,
        mut expect: Expect,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let port = self.expect(&mut expect, now).then_some(expect.local.map_or(0, |local| local.1));
        let owner = self.owner_of_flow(&Tuple::of_packet(packet.data(), headers));
        io.hand_over(owner, packet, Steer::Announced(port));
    }

    /// The same, back at the worker of the control connection. `port`: of the local endpoint, if there is one; `None`: no room for it.
    #[cold]
    pub(super) fn announced_elsewhere(
        &mut self,
        packet: P,
        headers: &Headers,
        port: Option<u16>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Some(at) = self.flows.find(&Tuple::of_packet(packet.data(), headers)) else {
            // It is over.
            return self.newcomer(packet, headers, now, io);
        };
        if self.flows.edit(at.id()).is_none_or(|edit| edit.wants & FTP == 0) {
            // The next one of these ends has begun since.
            return self.begun(packet, headers, at, now, io);
        }
        if !self.is_current(at) {
            self.renew(at.id());
        }
        let mut heard = match self.hear(&packet, headers, at) {
            Ok(heard) => heard,
            Err(reason) => return self.drop(reason, Hook::Forward),
        };
        let expect = heard.as_mut().and_then(|heard| heard.expect.as_mut());
        if let (Some(local), Some(port)) = (expect.and_then(|expect| expect.local.as_mut()), port) {
            local.1 = port;
        }
        self.say_and_send(packet, headers, at, heard, port.is_some(), now, io);
    }

    /// `is_known`: what it tells of is expected.
    fn say_and_send(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        heard: Option<Heard>,
        is_known: bool,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let waits_here =
            |heard: &Heard| heard.expect.is_some_and(|expect| expect.is_active() && expect.local.is_some());
        if !is_known && heard.as_ref().is_some_and(waits_here) {
            // There is no end that could be named. The client says it again.
            return self.drop(DropReason::NoLocalPort, Hook::Forward);
        }
        self.edit_heard(packet, headers, at, heard.as_ref(), now, io);
    }

    /// Reads a segment that is whole and may go on. `None`: there is nothing to be read.
    ///
    /// # Errors
    /// Why the segment cannot go on now; its sender sends it again.
    fn hear(&mut self, packet: &P, headers: &Headers, at: FlowRef) -> Result<Option<Heard>, DropReason> {
        let Some(segment) = Segment::of(packet.data(), headers) else { return Ok(None) };
        if segment.data_len == 0 || headers.tcp_flags & (SYN | RST) != 0 || self.is_refused(headers, at) {
            return Ok(None);
        }
        let (original, reply) =
            (self.flows.tuple(at.id(), Direction::Original), self.flows.tuple(at.id(), Direction::Reply));
        let is_client_seen = (reply.dst, reply.dport) == (original.src, original.sport);
        let is_by_rules = self.flows.tracked(at.id()).status.has(Status::SRC_NAT);
        let control = Control { original, reply, is_full_nat: !is_client_seen && !is_by_rules };
        let (direction, is_clients) = (at.direction(), at.direction() == Direction::Original);
        if is_clients && !is_client_seen && is_by_rules {
            return Ok(None);
        }
        if self.flows.entry(at.id()).method() == Method::Translated {
            return self.hear_other_family(packet, headers, &segment, at, &control);
        }
        let Some((said, is_again)) = self.said(packet, headers, &segment, at)? else { return Ok(None) };
        let expect = match direction {
            Direction::Original => self.active(&control, said.address, said.port, at, is_again),
            Direction::Reply => Some(self.passive(&control, said.port, at)),
        };
        // The port is the same, and there may be nothing to exchange.
        let instead = match (direction, said.form) {
            (Direction::Original, _) if !control.is_full_nat => None,
            (Direction::Reply, Form::Port) => None,
            (_, form) => Some(Instead::Words(form)),
        };
        if said.form == Form::Numbers && original.src.is_ipv6() || expect.is_none() {
            return Ok(None);
        }
        Ok(Some(Heard { place: said.place, instead, expect, asked: Asked::Nothing }))
    }

    /// The same between two families.
    fn hear_other_family(
        &mut self,
        packet: &P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
        control: &Control,
    ) -> Result<Option<Heard>, DropReason> {
        let (is_ipv6, is_clients) = (control.original.src.is_ipv6(), at.direction() == Direction::Original);
        let Some(edit) = self.flows.edit(at.id()) else { return Ok(None) };
        let (asked, edited) = (edit.asked(), *edit.shift(at.direction()));
        let read = |line: &[u8]| match is_clients {
            true => families::client(&telnet::plain(line), is_ipv6),
            false => families::server(&telnet::plain(line), is_ipv6, asked),
        };
        let (mut heard, place, is_again) = match self.data(packet, headers, segment, at)? {
            None => return Ok(None),
            Some(Data::Again { words, place }) => {
                let heard = match is_clients {
                    true => families::Heard { asked, ..read(words) },
                    false => families::server_again(&telnet::plain(words), is_ipv6, asked),
                };
                if heard.instead.is_none() {
                    return Err(DropReason::EditInPart);
                }
                (heard, place, true)
            }
            Some(Data::New(_)) if asked == Asked::Hidden => return Ok(None),
            // An older line, that was answered, comes again.
            Some(Data::New(_))
                if is_clients && !edited.is_insertion() && is_less(segment.seq, edited.at()) =>
            {
                return Ok(None);
            }
            Some(Data::New(data)) => {
                let mut lines = lines(data)
                    .filter(|(_, line)| line.len() <= usize::from(u8::MAX))
                    .map(|(from, line)| (read(line), (from, line.len()), false));
                let tells = |heard: &families::Heard| {
                    heard.instead.is_some() || heard.waits.is_some() || heard.asked != asked
                };
                match lines.find(|(heard, ..)| tells(heard)) {
                    Some(found) => found,
                    None => return Ok(None),
                }
            }
        };
        let expect = heard.waits.and_then(|(address, port)| match is_clients {
            true => self.active(control, address, port, at, is_again),
            false => Some(self.passive(control, port, at)),
        });
        if is_clients && heard.waits.is_some() && expect.is_none() {
            // Not its own: the server will say what it thinks of it.
            heard.instead = None;
        }
        let instead = heard.instead.map(Instead::Line);
        Ok(Some(Heard { place, instead, expect, asked: heard.asked }))
    }

    /// A client waits there: for nobody but itself (RFC 2577 §3), and at no port that a service of its could have.
    fn active(
        &self,
        control: &Control,
        address: Option<IpAddr>,
        port: u16,
        at: FlowRef,
        is_again: bool,
    ) -> Option<Expect> {
        let Control { original, reply, is_full_nat } = control;
        let is_its_own = address == Some(original.src) && port >= FIRST_OF_CLIENTS;
        let known = self.flows.edit(at.id()).filter(|_| is_again).map_or(0, |edit| edit.port(at.direction()));
        is_its_own.then_some(Expect {
            server: self.flows.entry(at.id()).server(),
            client: (original.src, port),
            // RFC 959 §3.2: the port next to that of the control connection.
            virtual_: (original.dst, original.dport.wrapping_sub(1)),
            port: reply.sport.wrapping_sub(1),
            local: is_full_nat.then_some((reply.dst, known)),
            mark: self.flows.tracked(at.id()).mark,
            control: (original.sport, original.dport),
            control_at: self.uses.id(self.worker, at.id().0),
        })
    }

    /// A server waits at this port.
    fn passive(&self, control: &Control, port: u16, at: FlowRef) -> Expect {
        let Control { original, reply, is_full_nat } = control;
        Expect {
            server: self.flows.entry(at.id()).server(),
            client: (original.src, 0),
            virtual_: (original.dst, port),
            port,
            local: is_full_nat.then_some((reply.dst, 0)),
            mark: self.flows.tracked(at.id()).mark,
            control: (original.sport, original.dport),
            control_at: self.uses.id(self.worker, at.id().0),
        }
    }

    /// Says to the other end what it is to hear.
    ///
    /// # Errors
    /// As [`Path::hear`].
    pub(super) fn say(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        heard: &Heard,
    ) -> Result<Headers, DropReason> {
        let is_clients = at.direction() == Direction::Original;
        // Where its data is now: an option may have come before it.
        let Some(segment) = Segment::of(packet.data(), headers) else { return Ok(*headers) };
        let end = heard.expect.map(|expect| match is_clients {
            true => expect.local.unwrap_or(expect.client),
            false => expect.virtual_,
        });
        let end = end.unwrap_or((IpAddr::from([0, 0, 0, 0]), 0));
        let words = match heard.instead {
            None => None,
            Some(Instead::Words(form)) => Some(ftp::words(form, end.0, end.1)),
            Some(Instead::Line(line)) => Some(line.words(end)),
        };
        let mut headers = *headers;
        if let Some(words) = words {
            let Some(reworded) = self.reword(packet, &headers, &segment, at, heard.place, &words)? else {
                return Ok(headers);
            };
            headers = reworded;
            if self.tables.settings.is_sharing {
                self.note_change(at.id());
            }
        }
        if let Some(edit) = self.flows.edit_mut(at.id()) {
            edit.set_asked(heard.asked);
            if let Some((_, port)) = heard.expect.and_then(|expect| expect.local).filter(|_| is_clients) {
                edit.set_port(at.direction(), port);
            }
        }
        Ok(headers)
    }
}
