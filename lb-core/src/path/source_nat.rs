//! Source NAT of virtual services' connections (`net.ipv4.vs.conntrack`): the table `nat` says at POSTROUTING where a masqueraded connection
//! comes from, for its real server. Once it has, the connection is one as by [FullNAT](super::full_nat): answers name the source that it
//! was given, and nothing else on the road knows of it ([0034](../../../docs/decisions/0034-source-nat-makes-full-nat.md)).
//!
//! It is asked by the packet that begins the connection, behind all other tables, as netfilter does. Where that one goes no further the connection
//! ends, so that the client's next try is asked for as well.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_nfct.c`, `Documentation/networking/ipvs-sysctl.rst`.

use super::output::Refusal;
use super::passage::{Passage, Stopped};
use super::{Io, Path, rewrite, signpost};
use crate::conntrack::{Status, Told};
use crate::flow::{Direction, FlowRef, Method, Tuple};
use crate::hook::Hook;
use crate::nat::{self, Manip, Range};
use crate::packet::Packet;
use crate::rule::{Table, Verdict};
use crate::tables::FIRST_LOCAL_PORT;
use crate::trail::Step;
use crate::wire::parse::Headers;

impl<P: Packet> Path<P> {
    /// Whether the packet at hand begins a connection whose source the table `nat` may exchange: it comes as `original`, and leaves as `after`.
    pub(super) fn asks_for_source(&self, method: Method, original: &Tuple, after: &Tuple) -> bool {
        // Of what is not tracked nothing is translated.
        self.passed.is_some_and(|passed| passed.state.is_followed())
            // Who acknowledged a cookie has passed something without rules, too.
            && self.tables.rules.are_active()
            && self.tables.settings.sysctls.source_nat == 1
            && method == Method::Masq
            && (original.src, original.sport) == (after.src, after.sport)
    }

    /// The end of POSTROUTING for what begins such a connection, unless it was stopped before.
    #[cold]
    pub(super) fn begin_with_source(
        &mut self,
        outcome: Result<(), Stopped>,
        at: FlowRef,
        leaves: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        let outcome = outcome.and_then(|()| self.exchange_source(at, leaves, packet, headers, passage));
        let is_expected = self.flows.tracked(at.id()).status.has(Status::EXPECTED);
        self.tell(if is_expected { Told::RELATED } else { Told::NEW }, at.id());
        if outcome.is_err() {
            // What its client is told of it is asked with what rules wrote there.
            passage.connection_mark = self.flows.tracked(at.id()).mark;
            passage.labels = self.flows.labels(at.id());
            self.end(at.id());
        }
        outcome
    }

    /// Why what begins such a connection goes no further than to the routing decision, which is before POSTROUTING.
    #[cold]
    pub(super) fn refusal_of_first(
        &self,
        outcome: &Result<(), Stopped>,
        at: FlowRef,
        headers: &Headers,
        passage: &Passage,
    ) -> Option<Refusal> {
        outcome.as_ref().ok()?;
        passage.refused.or_else(|| self.refusal(&passage.as_routed(headers), at))
    }

    /// Its sender is told, and the connection ends: nobody has said where it comes from.
    #[cold]
    pub(super) fn refuse_first(
        &mut self,
        mut packet: P,
        headers: &Headers,
        refusal: Refusal,
        at: FlowRef,
        passage: &Passage,
        io: &mut impl Io<P>,
    ) {
        let headers = &passage.as_routed(headers);
        if headers.ttl > 1 {
            // As IPVS quotes it.
            rewrite::decrement_ttl(packet.data_mut(), headers);
        }
        self.refuse(packet, headers, refusal, Some(passage), passage.now, io);
        let is_expected = self.flows.tracked(at.id()).status.has(Status::EXPECTED);
        self.tell(if is_expected { Told::RELATED } else { Told::NEW }, at.id());
        self.end(at.id());
    }

    fn exchange_source(
        &mut self,
        at: FlowRef,
        leaves: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        let hook = Hook::Postrouting;
        let (manip, range) = match self.ask(Table::Nat, hook, leaves, packet, headers, passage) {
            Verdict::Nat(manip, range) => (manip, range),
            Verdict::Accept => return Ok(()),
            verdict => return Err((verdict, hook)),
        };
        let none_is_free = (Verdict::Nat(manip, range), hook);
        let after = self.choose_source(at, leaves, &range).ok_or(none_is_free)?;
        if passage.is_masqueraded {
            self.flows.tracked_mut(at.id()).status.set(Status::MASQUERADED);
        }
        if after == *leaves {
            return Ok(());
        }
        self.watch.note(|| Step::Becomes(after));
        let (original, reply) = (self.flows.tuple(at.id(), Direction::Original), after.reversed());
        let deltas = rewrite::deltas_both_ways(&original, &after);
        if !self.flows.exchange_reply(at.id(), &reply, deltas) {
            self.mine.flows.index_full.add(1);
            return Err(none_is_free);
        }
        self.flows.tracked_mut(at.id()).status.set(Status::SRC_NAT);
        Ok(())
    }

    /// What `leaves` becomes by `range`: answers to it are nobody else's, and come to this worker.
    fn choose_source(&mut self, at: FlowRef, leaves: &Tuple, range: &Range) -> Option<Tuple> {
        let random = self.random();
        let original = self.flows.tuple(at.id(), Direction::Original);
        let has_others = self.counters.len() > 1;
        let is_taken = |leaving: &Tuple| {
            let answer = leaving.reversed();
            answer == original
                || self.flows.find(&answer).is_some_and(|found| found.id() != at.id())
                || has_others && self.is_anothers_port(leaving, &answer)
                || self.local_ports.has_signposts && signpost::find(&self.flows, &answer).is_some()
        };
        let chosen = nat::translate(leaves, Manip::Source, range, random, is_taken);
        // A port below says nothing of whose it is.
        let above = || {
            let range = Range { ports: Some((FIRST_LOCAL_PORT, u16::MAX)), ..*range };
            nat::translate(leaves, Manip::Source, &range, random, is_taken)
        };
        chosen.or_else(|| if has_others && range.ports.is_none() { above() } else { None })
    }
}
