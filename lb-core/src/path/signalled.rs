//! SIP's messages (`CT --helper sip`): what they say of media and of calls to come is expected, also no more, and where either end is translated the
//! ends that they name are exchanged for those that the receiver knows.
//!
//! A call's media are expected in pairs of ports (RTP and RTCP, RFC 3550 §11) from the other end's address to the one that the message names for them, if that
//! is its sender's own; who registers is expected to be called by the registrar. A sender behind one address keeps its ports where nobody else is expected there. With
//! several workers a pair is one of those that are the worker's, so that no two expect the same; it is of as many pairs as there are workers every one.
//!
//! Those of TCP are found in `in_stream.rs`. A datagram in fragments is not read ([0037](../../../docs/decisions/0037-calls-are-read-a-datagram-at-a-time.md)).

use std::net::IpAddr;

use super::Path;
use crate::conntrack::helper::sip::{self, Changes, Ends};
use crate::conntrack::helper::{Announced, Follows};
use crate::conntrack::{Expectation, Status, udp};
use crate::drop::DropReason;
use crate::flow::edit::{Calls, Edit};
use crate::flow::{Direction, FlowRef, Tuple};
use crate::nat::{self, Manip, Range};
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::{Tick, Timeout};
use crate::wire::datagram::{self, Change};
use crate::wire::parse::Headers;
use crate::wire::sip::message::{Message, Method, Start};
use crate::wire::sip::sdp::{Address, Media, Session};
use crate::wire::sip::{words_of_address, words_of_end, words_of_number};

/// Pairs of ports that are tried one after the other, and then as many anywhere.
const TRIES: u16 = 128;
/// How far those are apart: even, so that a pair begins with an even port.
const APART: u16 = 0x9e36;
/// Ports that media may have.
const PORTS: u16 = u16::MAX - sip::FIRST_PORT + 1;

impl<P: Packet> Path<P> {
    /// Does what a packet of a connection of SIP asks for, and exchanges what it names. Returns the headers as they are then.
    ///
    /// # Errors
    /// Why it goes no further.
    pub(super) fn signal(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
    ) -> Result<Headers, DropReason> {
        let changes = self.listen(packet, headers, at, now)?;
        if changes.is_empty() {
            return Ok(*headers);
        }
        datagram::exchange(packet, headers, &changes).map_err(|_| DropReason::NoBuffer)
    }

    /// The same, but for the exchange: what is to be exchanged.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub(super) fn listen(
        &mut self,
        packet: &P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
    ) -> Result<Changes, DropReason> {
        let Some(data) = datagram::data(packet, headers).filter(|data| !data.is_empty()) else {
            return Ok(Changes::new());
        };
        if !self.flows.tracked(at.id()).status.has(Status::FIXED_TIMEOUT) {
            self.flows.set_timeout(at.id(), sip::PATIENCE);
        }
        match Message::read(data) {
            Some(message) => self.heed(data, &message, at, now),
            None => Ok(Changes::new()),
        }
    }

    /// Does what a message asks for: what is to be exchanged in it, in the order of the places.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub(super) fn heed(
        &mut self,
        data: &[u8],
        message: &Message,
        at: FlowRef,
        now: Tick,
    ) -> Result<Changes, DropReason> {
        let mut changes = Changes::new();
        let ends = Ends::of(&self.heard(data, at));
        let session = Session::read(data, message.body);
        self.obey(message, session.as_ref(), &ends, at, now, &mut changes)?;
        if is_translated(&ends) {
            sip::exchange_ends(message, &ends, &mut changes);
            sip::fit_length(message, &mut changes);
        }
        changes.sort_unstable_by_key(|change| change.place.at);
        Ok(changes)
    }

    /// The numbers of the connection's last requests. Of TCP they are beside its edits, which it has for that.
    fn calls(&mut self, at: FlowRef) -> &mut Calls {
        match self.flows.entry(at.id()).protocol() {
            Protocol::UDP => udp::calls(self.flows.tracked_mut(at.id())),
            _ => self.flows.edit_mut(at.id()).map_or(&mut self.no_calls, Edit::calls),
        }
    }

    fn obey(
        &mut self,
        message: &Message,
        session: Option<&Session>,
        ends: &Ends,
        at: FlowRef,
        now: Tick,
        changes: &mut Changes,
    ) -> Result<(), DropReason> {
        let cseq = message.cseq.ok_or(DropReason::BadSip);
        match message.start {
            Start::Request(Method::Other) => Ok(()),
            Start::Request(Method::Invite) => {
                let number = cseq?.number;
                // One that comes again says the same.
                if self.calls(at).invite != number {
                    self.forget_media(at);
                }
                self.expect_media(session, ends, at, now, changes)?;
                self.calls(at).invite = number;
                Ok(())
            }
            Start::Request(Method::Update | Method::Ack | Method::Prack) => {
                cseq?;
                self.expect_media(session, ends, at, now, changes)
            }
            Start::Request(Method::Bye) => {
                cseq?;
                self.forget_media(at);
                Ok(())
            }
            Start::Request(Method::Register) => {
                let number = cseq?.number;
                self.expect_calls(message, number, ends, at, now, changes)
            }
            Start::Answer(code) => match cseq?.method {
                Method::Invite | Method::Update | Method::Prack if matches!(code, 100..=299) => {
                    self.expect_media(session, ends, at, now, changes)
                }
                Method::Invite | Method::Update | Method::Prack => {
                    if self.calls(at).invite == cseq?.number {
                        self.forget_media(at);
                    }
                    Ok(())
                }
                Method::Register => {
                    self.confirm_calls(message, (code, cseq?.number), ends, at, now);
                    Ok(())
                }
                _ => Ok(()),
            },
        }
    }

    fn forget_media(&mut self, at: FlowRef) {
        self.forget_told(at, |expected| expected.class != sip::SIGNALLING);
    }

    fn expect_media(
        &mut self,
        session: Option<&Session>,
        ends: &Ends,
        at: FlowRef,
        now: Tick,
        changes: &mut Changes,
    ) -> Result<(), DropReason> {
        let Some(session) = session else { return Ok(()) };
        let mut known_as = None;
        for media in &session.media {
            let port = u16::try_from(media.port).ok().filter(|&port| port >= sip::FIRST_PORT);
            let (port, connection) =
                port.zip(media.connection.or(session.connection)).ok_or(DropReason::BadSip)?;
            if connection.address != ends.own.src {
                continue;
            }
            let to = self.expect_stream(media, port, ends, at, now, changes)?;
            if to != connection.address {
                known_as = Some(to);
                if let Some(Address { place, .. }) = media.connection {
                    sip::change(changes, place, words_of_address(to));
                }
            }
        }
        if let Some(to) = known_as {
            // The session's own address where it is the sender's, and who began it wherever that is.
            let connection = session.connection.filter(|connection| connection.address == ends.own.src);
            for Address { place, .. } in connection.into_iter().chain(session.owner) {
                sip::change(changes, place, words_of_address(to));
            }
        }
        Ok(())
    }

    /// Returns the address at which the receiver knows the stream.
    fn expect_stream(
        &mut self,
        media: &Media,
        port: u16,
        ends: &Ends,
        at: FlowRef,
        now: Tick,
        changes: &mut Changes,
    ) -> Result<IpAddr, DropReason> {
        let (first, is_second) = (port & !1, port & 1);
        let class = sip::class(media.kind);
        let to = if is_translated(ends) { ends.other.dst } else { ends.own.src };
        let rtp =
            Expectation { class, ..self.expectation_of(ends, (to, first), first, Protocol::UDP, at, now) };
        let rtp = Expectation { until: now.after(patience(&rtp)), ..rtp };
        let found = match to == ends.own.src {
            // What another connection has told of comes by that.
            true if self.expectations.is_anothers(&rtp) => return Ok(to),
            true => first,
            false => self.free_pair(&rtp).ok_or(DropReason::NoLocalPort)?,
        };
        for step in 0..2 {
            let follows = rtp.follows.map(|Follows { source, destination: (address, port) }| Follows {
                source,
                destination: (address, port + step),
            });
            let tuple = Tuple { dport: found + step, ..rtp.tuple };
            self.announce(&Expectation { tuple, follows, ..rtp })?;
        }
        if found != first {
            sip::change(changes, media.port_place, words_of_number(found + is_second));
        }
        Ok(to)
    }

    /// A connection from the receiver's address to an end, which the receiver knows as `known_as`.
    fn expectation_of(
        &self,
        ends: &Ends,
        known_as: (IpAddr, u16),
        port: u16,
        protocol: Protocol,
        at: FlowRef,
        now: Tick,
    ) -> Expectation {
        let Ends { own, other } = ends;
        let tuple = Tuple { src: other.src, sport: 0, dst: known_as.0, dport: known_as.1, protocol };
        let follows = Follows { source: own.dst, destination: (own.src, port) };
        self.expectation(&Announced { tuple, follows }, at, now)
    }

    /// The port at which the same is expected already, of what the connection has told of.
    fn told_port(&mut self, new: &Expectation) -> Option<u16> {
        let is_it = |held: &Expectation| held.class == new.class && held.follows == new.follows;
        self.expectations.of_master(new.master, &new.told_by, is_it).map(|held| held.tuple.dport)
    }

    /// The first of two ports at which nobody else is expected, and that are this worker's: those that were told already, or the own ones if they are.
    fn free_pair(&mut self, rtp: &Expectation) -> Option<u16> {
        if let Some(port) = self.told_port(rtp) {
            return Some(port);
        }
        let random = self.random();
        let workers = self.counters.len();
        let own = rtp.tuple.dport - sip::FIRST_PORT;
        let is_free = |port: u16| {
            let leads = |step: u16| {
                let follows = rtp.follows.map(|follows| Follows {
                    destination: (follows.destination.0, follows.destination.1 + step),
                    ..follows
                });
                let tuple = Tuple { dport: port + step, ..rtp.tuple };
                !self.expectations.is_taken(&Expectation { tuple, follows, ..*rtp })
            };
            let is_ours = workers == 1 || self.owners.of_local(rtp.tuple.dst, port >> 1) == self.worker;
            is_ours && leads(0) && leads(1)
        };
        let near = (0..TRIES).map(|step| own.wrapping_add(2 * step) % PORTS);
        let far = (0..TRIES).map(|step| (random as u16 & !1).wrapping_add(step.wrapping_mul(APART)));
        near.chain(far).map(|step| sip::FIRST_PORT + step % PORTS).find(|&port| is_free(port))
    }

    fn expect_calls(
        &mut self,
        message: &Message,
        number: u32,
        ends: &Ends,
        at: FlowRef,
        now: Tick,
        changes: &mut Changes,
    ) -> Result<(), DropReason> {
        let Ends { own, other } = ends;
        // Who came by such a call registers nothing.
        if self.flows.tracked(at.id()).status.has(Status::EXPECTED) {
            return Ok(());
        }
        // Nor for anybody else.
        let contact = message
            .contacts
            .first()
            .filter(|contact| contact.end.address == own.src && contact.transport.may_be(own.protocol));
        let Some(contact) = contact else { return Ok(()) };
        let seconds = contact.expires.or(message.expires).unwrap_or(0);
        if seconds > 0 {
            let port =
                Some(contact.end.port).filter(|&port| port >= sip::FIRST_PORT).ok_or(DropReason::BadSip)?;
            let to = if is_translated(ends) { other.dst } else { own.src };
            let wanted = if port == own.sport && is_translated(ends) { other.dport } else { port };
            let mut new = Expectation {
                is_permanent: true,
                is_inactive: true,
                ..self.expectation_of(ends, (to, wanted), port, own.protocol, at, now)
            };
            if to != own.src {
                new.tuple.dport = self.free_for_calls(&new, other.dport).ok_or(DropReason::NoLocalPort)?;
            }
            if (to, new.tuple.dport) != (own.src, port) {
                sip::change(changes, contact.end.place, words_of_end(to, new.tuple.dport));
            }
            self.announce(&new)?;
        }
        self.calls(at).register = number;
        Ok(())
    }

    /// The port at which calls come: the same where nobody else is expected there. `own`: that which is the connection's own already.
    fn free_for_calls(&mut self, new: &Expectation, own: u16) -> Option<u16> {
        if let Some(port) = self.told_port(new) {
            return Some(port);
        }
        let random = self.random();
        let workers = self.counters.len();
        let is_taken = |answer: &Tuple| {
            let is_ours = workers == 1
                || answer.sport == own
                || self.owners.of_local(answer.src, answer.sport) == self.worker;
            !is_ours || self.expectations.is_taken(&Expectation { tuple: answer.reversed(), ..*new })
        };
        nat::translate(&new.tuple.reversed(), Manip::Source, &Range::KEEP, random, is_taken)
            .map(|answer| answer.sport)
    }

    /// A registrar's answer: it says for how long, or that it is not so.
    fn confirm_calls(
        &mut self,
        message: &Message,
        (code, number): (u32, u32),
        ends: &Ends,
        at: FlowRef,
        now: Tick,
    ) {
        if self.calls(at).register != number || matches!(code, 100..=199) {
            return;
        }
        if matches!(code, 200..=299) {
            let own = &ends.own;
            let contacts = message.contacts.iter();
            for contact in contacts
                .filter(|contact| contact.end.address == own.dst && contact.transport.may_be(own.protocol))
            {
                let seconds = contact.expires.or(message.expires).unwrap_or(0);
                if seconds == 0 {
                    break;
                }
                let told_by = self.flows.tuple(at.id(), Direction::Original);
                let end = (contact.end.address, contact.end.port);
                let is_it = |held: &Expectation| {
                    held.class == sip::SIGNALLING && (held.tuple.dst, held.tuple.dport) == end
                };
                if let Some(expected) = self.expectations.of_master(at.id(), &told_by, is_it) {
                    expected.is_inactive = false;
                    expected.until = now.after(Timeout::from_secs(seconds));
                    return;
                }
            }
        }
        self.forget_told(at, |expected| expected.class == sip::SIGNALLING);
    }
}

/// By how many bytes they make a message longer.
pub(super) fn grown_by(changes: &Changes) -> isize {
    changes.iter().map(Change::growth).sum()
}

fn is_translated(ends: &Ends) -> bool {
    ends.own != ends.other.reversed()
}

fn patience(expected: &Expectation) -> Timeout {
    expected.helper.get().map_or(Timeout::from_secs(0), |helper| helper.class(expected.class).patience)
}
