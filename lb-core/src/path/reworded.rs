//! Words in a stream that name an end at which somebody waits, exchanged for others where that end is translated; and the road of a tracked
//! connection whose streams are edited so, or which was opened twice (`syn_proxy.rs`).
//!
//! Of a tracked connection that a helper reads (`helped.rs`): its sender's address and port become those by which the other end knows them, and what is announced is expected
//! there. One's own port stays where it is free; with several workers it is one of those that are this worker's, as all that
//! is translated here ([0026](../../../docs/decisions/0026-translated-connections-are-sought.md)). Of a virtual service's connection: see `ftp.rs`.
//!
//! Tracking sees the client's numbers alone: what comes from the other end is edited before, what the client sends behind it and behind the
//! rules ([0035](../../../docs/decisions/0035-tracking-sees-the-clients-numbers.md)).

use super::hooks::why;
use super::syn_proxy::Before;
use super::{Io, Path};
use crate::conntrack::helper::ftp as helper;
use crate::conntrack::{CtState, Expectation};
use crate::drop::DropReason;
use crate::flow::edit::{Overlap, SIP};
use crate::flow::{Direction, FlowRef, Tuple};
use crate::hook::Hook;
use crate::nat::{self, Manip, Range};
use crate::packet::Packet;
use crate::time::Tick;
use crate::wire::ftp::{self, Said, Words};
use crate::wire::parse::Headers;
use crate::wire::segment::{self, Segment};

/// What is to be read of a segment.
pub(super) enum Data<'p> {
    /// All of it.
    New(&'p [u8]),
    /// What was exchanged before, and where it is.
    Again { words: &'p [u8], place: (usize, usize) },
}

impl<P: Packet> Path<P> {
    /// What a segment says, and whether that was exchanged before: then it is known by its place.
    ///
    /// # Errors
    /// Why the segment cannot go on now; its sender sends it again.
    pub(super) fn said(
        &mut self,
        packet: &P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
    ) -> Result<Option<(Said, bool)>, DropReason> {
        match self.data(packet, headers, segment, at)? {
            None => Ok(None),
            Some(Data::New(data)) => Ok(helper::said(data, at.direction()).map(|said| (said, false))),
            Some(Data::Again { words, place }) => match ftp::again(words) {
                Some(said) => Ok(Some((Said { place, ..said }, true))),
                // Its sender sends other bytes than before in the same place.
                None => Err(DropReason::EditInPart),
            },
        }
    }

    /// What is to be read of a segment.
    ///
    /// # Errors
    /// As [`Path::said`].
    pub(super) fn data<'p>(
        &self,
        packet: &'p P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
    ) -> Result<Option<Data<'p>>, DropReason> {
        let Some(edit) = self.flows.edit(at.id()) else { return Ok(None) };
        let overlap = edit.shift(at.direction()).overlap(segment.seq, segment.data_len);
        match (overlap, segment.data_of(packet.data(), headers)) {
            (Overlap::None, data) => Ok(data.map(Data::New)),
            (Overlap::Whole { at, len }, Some(data)) => {
                Ok(Some(Data::Again { words: &data[at..at + len], place: (at, len) }))
            }
            (Overlap::Whole { .. }, None) | (Overlap::Part, _) => Err(DropReason::EditInPart),
        }
    }

    /// Says something else in this place of a segment's data. `None`: a part of it has gone on as it was, and what would be of another length comes too late.
    ///
    /// # Errors
    /// As [`Path::said`].
    pub(super) fn reword(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
        (from, len): (usize, usize),
        words: &Words,
    ) -> Result<Option<Headers>, DropReason> {
        let Some(edit) = self.flows.edit_mut(at.id()) else { return Err(DropReason::Unsupported) };
        let shift = edit.shift_mut(at.direction());
        let seq = segment.seq.wrapping_add(from as u32);
        let is_again = shift.overlap(segment.seq, segment.data_len) == (Overlap::Whole { at: from, len });
        if !is_again && words.len() != len && shift.has_passed(seq) {
            return Ok(None);
        }
        if !shift.may_follow(seq) {
            return Err(DropReason::EditUnacknowledged);
        }
        if shift.at() == seq && !shift.is_insertion() && usize::from(shift.put()) != words.len() {
            // Not the same as before.
            return Err(DropReason::EditInPart);
        }
        let headers = segment::exchange(packet, headers, segment, from, len, words)
            .map_err(|_| DropReason::NoBuffer)?;
        shift.follow(seq, len, words.len());
        Ok(Some(headers))
    }

    /// The same for a tracked connection's helper; and what is to be expected.
    ///
    /// # Errors
    /// As [`Path::said`].
    pub(super) fn reword_tracked(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
        now: Tick,
    ) -> Result<(Headers, Option<Expectation>), DropReason> {
        let said = self.said(packet, headers, segment, at)?;
        let announced = said.and_then(|(said, _)| helper::announced(&self.heard(&[], at), &said));
        let (Some((said, is_again)), Some(announced)) = (said, announced) else {
            return Ok((*headers, None));
        };
        let mut new = self.expectation(&announced, at, now);
        if new.tuple.dst == announced.follows.destination.0 {
            // Its sender's end stands in both directions.
            return Ok((*headers, Some(new)));
        }
        new.tuple.dport = match self.flows.edit(at.id()) {
            Some(edit) if is_again => edit.port(at.direction()),
            _ => self.free_port(&new, at).ok_or(DropReason::NoLocalPort)?,
        };
        let words = ftp::words(said.form, new.tuple.dst, new.tuple.dport);
        let Some(headers) = self.reword(packet, headers, segment, at, said.place, &words)? else {
            return Ok((*headers, None));
        };
        if let Some(edit) = self.flows.edit_mut(at.id()) {
            edit.set_port(at.direction(), new.tuple.dport);
        }
        Ok((headers, Some(new)))
    }

    /// The port at which it is expected: the same where nobody else expects something there, and no connection is left there that came from the port
    /// next to the other end's own, as an active server's does (RFC 959 §3.2).
    fn free_port(&mut self, new: &Expectation, at: FlowRef) -> Option<u16> {
        let usual = self.flows.tuple(at.id(), at.direction().opposite()).sport.wrapping_sub(1);
        let random = self.random();
        let workers = self.counters.len();
        let is_taken = |answer: &Tuple| {
            let expected = answer.reversed();
            let is_left = || self.flows.find_by(&Tuple { sport: usual, ..expected }, new.zone).is_some();
            workers > 1 && self.owners.of_local(answer.src, answer.sport) != self.worker
                || self.expectations.is_anothers(&Expectation { tuple: expected, ..*new })
                || is_left()
        };
        nat::translate(&new.tuple.reversed(), Manip::Source, &Range::KEEP, random, is_taken)
            .map(|answer| answer.sport)
    }

    /// A packet of a tracked connection whose streams are edited.
    #[cold]
    pub(super) fn tracked_edited(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let port = packet.port();
        let (packet, headers, opens) = match self.before(packet, headers, at, now) {
            Before::Goes(packet, headers) => (packet, headers, None),
            Before::Opens(packet, headers, is_first) => (packet, headers, Some(is_first)),
            Before::Asks(packet, headers) => {
                return self.send_for_client(packet, &headers, at, port, now, io);
            }
            Before::Reopens(packet) => {
                let passage = self.passage(port, headers, CtState::Invalid, now);
                return self.pass_untracked(packet, headers, passage, io);
            }
            Before::Stray(packet) => return self.refuse_stray(packet, headers, now, io),
            Before::Dropped(reason) => return self.drop(reason, Hook::Prerouting),
            Before::Stopped((verdict, hook)) => return self.drop(why(verdict), hook),
        };
        let told;
        let (packet, headers) = match opens {
            Some(_) => {
                told = None;
                (packet, headers)
            }
            None => match self.edit_answer(packet, &headers, at, now, io) {
                Some((packet, headers, tells)) => {
                    told = tells;
                    (packet, headers)
                }
                None => return,
            },
        };
        let looked_at = self.look_at_tracked(packet, &headers, at, now, io);
        let Some((packet, step, ttl)) = looked_at else { return };
        let headers = Headers { ttl, ..headers };
        let seen = self.flows.entry(at.id()).seen();
        match opens {
            Some(is_first) => self.opened(packet, &headers, (at, is_first), port, now, io),
            None => match self.edit_request(packet, &headers, at, told, now, io) {
                Some((packet, headers)) => self.onward_tracked(packet, &headers, at, now, io),
                None => self.prolong(at, &step, now),
            },
        }
        self.close_step(at, &step, seen);
    }

    /// Before tracking and rules see it: what comes from a connection's other end is edited; and what it tells of. `None`: it goes no further.
    pub(super) fn edit_answer(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<(P, Headers, Option<Expectation>)> {
        if at.direction() == Direction::Original || !self.is_to_be_edited(headers, at) {
            return Some((packet, *headers, None));
        }
        match self.edit(packet, headers, at, now, io) {
            Ok(edited) => Some(edited),
            Err(reason) => {
                self.drop(reason, Hook::Prerouting);
                None
            }
        }
    }

    /// Behind both: the client's is edited, and what it or the answer (`told`) tells of is expected. SIP's messages, of which tracking sees no words,
    /// are edited here both ways.
    pub(super) fn edit_request(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        told: Option<Expectation>,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<(P, Headers)> {
        let (mut packet, mut headers, mut told) = (packet, *headers, told);
        if at.direction() == Direction::Original && self.is_to_be_edited(&headers, at) {
            match self.edit(packet, &headers, at, now, io) {
                Ok(edited) => (packet, headers, told) = edited,
                Err(reason) => {
                    self.drop(reason, Hook::Forward);
                    return None;
                }
            }
        }
        let told = match told {
            Some(new) => self.announce(&new),
            None => Ok(()),
        };
        match told.and_then(|()| self.signal_edited(&mut packet, &headers, at, now)) {
            Ok(headers) => Some((packet, headers)),
            Err(reason) => {
                self.drop(reason, Hook::Postrouting);
                None
            }
        }
    }

    /// A packet of a connection of SIP that is translated.
    fn signal_edited(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
    ) -> Result<Headers, DropReason> {
        let is_signalled = self.flows.edit(at.id()).is_some_and(|edit| edit.wants & SIP != 0);
        if is_signalled && self.is_to_be_edited(headers, at) {
            return self.signal(packet, headers, at, now);
        }
        Ok(*headers)
    }

    /// Unless its sender will be told that it goes no further, for which it must be as it came.
    fn is_to_be_edited(&mut self, headers: &Headers, at: FlowRef) -> bool {
        self.flows.entry(at.id()).is_edited()
            && (!self.is_refused(headers, at) || self.kept_hop(at).is_none() && self.leads_to_host(at))
    }
}
