//! Packets of known connections that go no further than to the routing decision: without a hop left, too big for the next one, or without a route.
//!
//! The kernel finds that out before FORWARD (`ip_forward`, `ip6_forward`), and, of what a virtual service sends on, before OUTPUT (`__ip_vs_get_out_rt`). So
//! such a packet passes neither these rules nor any behind them, while what is before them has seen it: it has changed its connection's state and prolonged it.
//!
//! A packet that is walked past rules is asked between two of these roads, if there are rules on the second one. One that follows a course is counted before it is known whether it
//! can go on; if it cannot it leaves the straight line anyway, and there the count is taken back for the rules that it has not met ([`Path::refuse_of`]). No other packet is asked for it.
//!
//! What rules stop behind IPVS, at OUTPUT and POSTROUTING, IPVS has seen ([`Path::note_stopped`]).
//!
//! Source of the facts: Linux, `net/ipv4/ip_forward.c`, `net/ipv6/ip6_output.c`, `net/netfilter/ipvs/ip_vs_xmit.c`, `ip_vs_core.c`.

use super::established::{count, side};
use super::output::Refusal;
use super::passage::{INPUT, ONWARD, OUTPUT, PREROUTING, Passage, RAW, Stop};
use super::{Io, Path, rewrite};
use crate::conntrack::CtState;
use crate::flow::{Direction, Entry, FlowRef, Method};
use crate::ipvs::state::{self, TcpState};
use crate::packet::Packet;
use crate::tables::{Protocol, Way};
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

impl<P: Packet> Path<P> {
    /// Why a packet of a virtual service's connection goes no further.
    pub(super) fn refusal(&self, headers: &Headers, at: FlowRef) -> Option<Refusal> {
        let to = self.flows.tuple(at.id(), at.direction().opposite()).src;
        let way = match self.flows.entry(at.id()).method() {
            Method::Masq => self.check(headers, to),
            Method::Translated => self.check_translated(headers, to),
            Method::Direct => self.check_within(headers, to, 0),
            Method::Tunnel => {
                let overhead = self.tunnel(at).map_or(0, |(tunnel, _)| tunnel.overhead(to));
                self.check_within(headers, to, overhead)
            }
        };
        way.err()
    }

    /// Whether a packet that is routed goes no further: what is behind is not to be asked, and its connection keeps no course of what it met before.
    pub(super) fn is_refused_ahead(
        &mut self,
        road: &[Stop],
        headers: &Headers,
        passage: &mut Passage,
        refusal: impl FnOnce(&Path<P>, &Headers) -> Option<Refusal>,
    ) -> bool {
        if !self.is_asked(road, headers) {
            return false;
        }
        passage.refused = match passage.ttl == headers.ttl {
            true => refusal(self, headers),
            false => refusal(self, &passage.as_routed(headers)),
        };
        let is_refused = passage.refused.is_some();
        if is_refused {
            self.met.end_early();
        }
        is_refused
    }

    /// The same of what Linux routes: that one tells its sender.
    pub(super) fn is_refused_by_linux(&mut self, way: Way, passage: &Passage) -> bool {
        let is_refused = way == Way::Linux && passage.ttl <= 1;
        if is_refused {
            self.met.end_early();
        }
        is_refused
    }

    /// Drops a packet of the connection `of`, if of any, that came so far by the straight line or past rules, and tells its sender.
    #[cold]
    pub(super) fn refuse_of(
        &mut self,
        mut packet: P,
        headers: &Headers,
        refusal: Refusal,
        of: Option<FlowRef>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        // A virtual service's that is edited may have grown since it was counted: see `edit_heard`.
        let is_as_counted = |entry: &Entry| !entry.is_edited() || entry.is_tracked();
        if let Some(at) = of.filter(|at| is_as_counted(self.flows.entry(at.id()))) {
            self.turn_back(&mut packet, headers, at, now);
        }
        self.refuse(packet, headers, refusal, None, now, io);
    }

    /// A packet followed its connection's course and goes no further: it is counted for the rules that it has met alone.
    #[cold]
    pub(super) fn turn_back(&mut self, packet: &mut P, headers: &Headers, at: FlowRef, now: Tick) {
        let (roads, onward): (&[&[Stop]], &[Stop]) = match self.is_sent_on(at) {
            true => (&[&PREROUTING, &INPUT], &OUTPUT),
            false => (&[&PREROUTING], &ONWARD),
        };
        // Where none are asked behind, a walk was not cut short for it, and has begun a course.
        let is_asked = self.flows.entry(at.id()).is_ruled() && self.is_asked(onward, headers);
        let course = self.course(at, packet.port(), headers).filter(|_| is_asked);
        let Some((course, common)) = course else { return };
        self.mine.courses.take_back(course.number(), headers.ip_len.into());
        let wire = self.flows.tuple(at.id(), at.direction());
        // As `ruled` and `look_and_walk` do it.
        let mut passage = self.passage(packet.port(), headers, CtState::Established, now);
        passage.of = Some(at.id());
        if !self.flows.entry(at.id()).is_tracked() {
            (passage.at, passage.state) = (Some(at), self.flows.tracked(at.id()).is(at.direction()));
        }
        let mut passed = self.pass(&RAW, &wire, packet, headers, &mut passage);
        (passage.at, passage.state) = (Some(at), common.state);
        for road in roads {
            // All let it pass: that is what it is to follow a course.
            passed = passed.and_then(|()| self.pass(road, &wire, packet, headers, &mut passage));
        }
        debug_assert!(passed.is_ok(), "{passed:?}");
        rewrite::restore_ends(packet.data_mut(), headers, &wire);
    }

    /// A packet of a virtual service's connection, which rules stop behind IPVS: it has changed the connection's state, prolonged it, and been counted.
    #[cold]
    pub(super) fn note_stopped(&mut self, packet: &P, headers: &Headers, at: FlowRef, now: Tick) {
        let entry = self.flows.entry(at.id());
        if entry.is_ipvs_off() || entry.is_server_removed() && at.direction() == Direction::Original {
            return;
        }
        let (server, was) = (entry.server(), entry.state());
        let side = match entry.method().is_one_way() {
            true => state::Direction::InputOnly,
            false => side(at.direction()),
        };
        if headers.protocol == Protocol::TCP && headers.fragment != Fragment::Later {
            let was = TcpState::from_u8(was);
            let is = was.next(self.transitions, side, headers.tcp_flags);
            // One that begins another connection was told before it was walked.
            if was != is {
                self.change_state(at.id(), is as u8);
            }
        } else if headers.protocol == Protocol::SCTP {
            self.sctp_state(packet.data(), headers, at, side);
        }
        self.flows.entry_mut(at.id()).touch(now);
        count(self.mine.server(server), at.direction(), headers);
    }
}
