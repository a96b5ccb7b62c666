//! Connections in zones (`CT --zone`): which connection a packet is of is known behind the table `raw` alone.
//!
//! What the index finds by a tuple is in zone 0 in both directions, so that packets of such connections go their road as if there were no
//! zones. While rules name zones, or a connection is in one, a packet of no such connection passes `raw` first, here, and is looked up in its
//! zones then; so does one of a tracked connection in zone 0 which `raw` says is in another. Connections in zones keep no course.
//!
//! A packet that is sought at other workers takes along what `raw` said ([`FromRaw`]): no rule is asked twice. Virtual services have their
//! connections in zone 0, whatever rules say, as the kernel's IPVS knows of no zones.

use super::first_ruled::begins_connection;
use super::fragment::ports;
use super::passage::{Passage, RAW};
use super::tracked::tuple_of;
use super::{Io, Path, Steer};
use crate::conntrack::helper::HelperId;
use crate::conntrack::{CtState, Told, Verdict, Zones};
use crate::flow::{FlowRef, Tuple};
use crate::hook::{Function, Hook};
use crate::icmp::Embedded;
use crate::packet::Packet;
use crate::path::related::Walked;
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

/// What the table `raw` said of a packet whose connection is sought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FromRaw {
    mark: u32,
    zones: Zones,
    untold: Told,
    is_traced: bool,
    helper: HelperId,
}

impl FromRaw {
    pub(super) fn of(passage: &Passage) -> FromRaw {
        let &Passage { mark, zones, untold, helper, is_traced, .. } = passage;
        FromRaw { mark, zones, untold, helper, is_traced }
    }

    pub(super) fn put(self, passage: &mut Passage) {
        let FromRaw { mark, zones, untold, helper, is_traced } = self;
        (passage.mark, passage.zones) = (mark, zones);
        (passage.untold, passage.helper, passage.is_traced) = (untold, helper, is_traced);
    }
}

impl<P: Packet> Path<P> {
    /// Whether the table `raw` says which connection a packet is of.
    #[inline]
    pub(super) fn zones_matter(&self) -> bool {
        self.tables.rules.have_zones() || self.flows.has_zoned()
    }

    /// A packet of no connection in zone 0.
    #[cold]
    pub(super) fn first_zoned(&mut self, mut packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let tuple = tuple_of(packet.data(), headers);
        let Some(tuple) = tuple else { return self.first_here(packet, headers, now, io) };
        let mut passage = self.first_passage(&packet, headers, &tuple, now);
        match self.pass(&RAW, &tuple, &mut packet, headers, &mut passage) {
            Ok(()) => self.behind_raw(packet, headers, passage, io),
            Err(stopped) => self.stop(packet, headers, stopped, Some(&passage), now, io),
        }
    }

    /// A packet behind the table `raw`, of no connection that is known yet.
    #[cold]
    pub(super) fn behind_raw(
        &mut self,
        packet: P,
        headers: &Headers,
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        (passage.at, passage.of) = (None, None);
        if passage.is_untracked {
            passage.original = None;
            passage.state = CtState::Untracked;
            return self.pass_untracked(packet, headers, passage, io);
        }
        let tuple = tuple_of(packet.data(), headers).unwrap_or(Tuple::of_packet(packet.data(), headers));
        if let Some(at) = self.flows.find_in(&tuple, passage.zones) {
            return self.known_behind_raw(packet, headers, at, passage, io);
        }
        // Whatever it was to a connection of another zone.
        (passage.state, passage.original) = (CtState::New, Some(tuple));
        if headers.fragment == Fragment::Later {
            let Some(packet) = self.follow_first(packet, headers, passage.now, io) else { return };
            (passage.state, passage.original) = (CtState::Invalid, None);
            return self.pass_untracked(packet, headers, passage, io);
        }
        let owner = self.owner_of_flow(&tuple);
        let asks_nobody = begins_connection(headers)
            && owner == self.worker
            && !self.may_be_expected_elsewhere(&tuple, passage.zones, passage.now);
        let is_sought = self.counters.len() > 1 && !asks_nobody;
        let steer = |passage| Some(FromRaw::of(passage));
        match self.next_to_ask(&tuple).filter(|_| is_sought) {
            Some(next) => {
                io.hand_over(next, packet, Steer::Elsewhere(ports(headers), steer(&passage)));
            }
            None if is_sought && owner != self.worker => {
                io.hand_over(owner, packet, Steer::Nowhere(ports(headers), steer(&passage)));
            }
            None => self.first_behind_raw(packet, headers, &mut passage, io),
        }
    }

    /// A packet that another worker had behind the table `raw`. `is_last`: nobody else has its connection.
    pub(super) fn sought_in_zone(
        &mut self,
        packet: P,
        headers: &Headers,
        raw: FromRaw,
        is_last: bool,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let tuple = tuple_of(packet.data(), headers).unwrap_or(Tuple::of_packet(packet.data(), headers));
        let mut passage = self.first_passage(&packet, headers, &tuple, now);
        raw.put(&mut passage);
        match self.flows.find_in(&tuple, raw.zones) {
            Some(at) => self.known_behind_raw(packet, headers, at, passage, io),
            None if is_last
                || self.owner_of_flow(&tuple) == self.worker
                || self.is_expected(&tuple, raw.zones, now) =>
            {
                self.first_behind_raw(packet, headers, &mut passage, io);
            }
            None => self.behind_raw(packet, headers, passage, io),
        }
    }

    /// A packet of a known connection, behind the table `raw`.
    fn known_behind_raw(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        let now = passage.now;
        if !self.is_current(at) && !self.goes_on(at) {
            return;
        }
        if !self.flows.entry(at.id()).is_tracked() {
            // A virtual service's, at another worker than its packet came to: it passes `raw` there once more.
            return self.begun(packet, headers, at, now, io);
        }
        self.is_at(Hook::Prerouting, Function::Conntrack);
        passage.of = Some(at.id());
        let came = headers;
        let edited = self.edit_answer(packet, headers, at, now, io);
        let Some((mut packet, headers, told)) = edited else { return };
        let headers = &headers;
        let step = self.follows(packet.data(), headers, at, now);
        self.account_step(at, came, &step);
        passage.state = step.is;
        match step.verdict {
            Verdict::Fine | Verdict::Ends => {}
            Verdict::Invalid(_) => {
                passage.original = None;
                return self.pass_untracked(packet, headers, passage, io);
            }
            Verdict::Reopens => {
                self.end(at.id());
                return self.behind_raw(packet, headers, passage, io);
            }
        }
        let wire = self.flows.tuple(at.id(), at.direction());
        let walked = self.walk_tracked(&mut packet, headers, at, &wire, &mut passage);
        if walked.is_err() || passage.refused.is_some() {
            self.prolong(at, &step, now);
            self.stop_or_refuse(packet, headers, at, walked, &passage, io);
            return self.end_with(at, &step);
        }
        if !self.help(&packet, headers, at, now) {
            return self.prolong(at, &step, now);
        }
        let headers = &passage.as_routed(headers);
        match self.edit_request(packet, headers, at, told, now, io) {
            Some((packet, headers)) => self.leave_tracked(packet, &headers, at, &step, now, io),
            None => self.prolong(at, &step, now),
        }
    }

    /// An ICMP error about a packet that is answered by `about`, while zones matter. `quoted`: that packet, unless this is a later fragment.
    #[cold]
    pub(super) fn related_in_zone(
        &mut self,
        mut packet: P,
        headers: &Headers,
        (about, quoted): (&Tuple, Option<&Embedded>),
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let wire = Tuple::of_packet(packet.data(), headers);
        let mut passage = self.passage(packet.port(), headers, CtState::Related, now);
        if let Err(stopped) = self.pass(&RAW, &wire, &mut packet, headers, &mut passage) {
            return self.stop(packet, headers, stopped, Some(&passage), now, io);
        }
        let found = self.find_about(about, passage.zones);
        match found.filter(|_| !passage.is_untracked) {
            Some(at) => self.related_to(packet, headers, quoted, at, Walked::Raw(passage), now, io),
            None => {
                passage.state = if passage.is_untracked { CtState::Untracked } else { CtState::Invalid };
                self.pass_untracked(packet, headers, passage, io);
            }
        }
    }

    /// Whether a later fragment may be of a connection in a zone.
    pub(super) fn may_be_zoned(&self, headers: &Headers) -> bool {
        headers.fragment == Fragment::Later && self.tables.rules.are_active() && self.zones_matter()
    }
}
