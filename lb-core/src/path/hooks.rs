//! Rules on a packet's road: netfilter's five hooks, the tables at each in their order, and what becomes of a packet that
//! a rule stops.
//!
//! ```text
//! from a port ─→ PREROUTING ─→ route ─┬─→ INPUT ─┬─→ up the twin
//!                raw, mangle, nat     │          └─→ a virtual service ─→ OUTPUT ─→ POSTROUTING ─→
//!                                     └─→ FORWARD ─→ POSTROUTING ─→ out of a port, or up the twin, to another interface of Linux
//! from the host ─→ OUTPUT ─→ POSTROUTING ─→ out of a port
//! from another interface of Linux, by the twin ─→ PREROUTING ─→ FORWARD ─→ POSTROUTING ─→ out of a port
//! ```
//!
//! What the host alone may take has PREROUTING and INPUT in [`for_host_alone`](Path::for_host_alone).
//!
//! What the director itself answers passes OUTPUT and POSTROUTING too: [`answer`](super::answer).
//!
//! Nobody comes here while there is no rule. With rules a packet of a virtual service's connection comes by [`ruled`](Path::ruled), one of another by
//! [`tracked`](Path::tracked), unless it follows a course (`courses.rs`); one of none by [`first_ruled`](Path::first_ruled), one that the host sends by [`out`](Path::out). The table `nat` is asked once a connection,
//! and a packet that conntrack does not follow is never translated. For a virtual service's connection it is asked at PREROUTING, and by [`source_nat`](super::source_nat)
//! at POSTROUTING.
//!
//! The order is that of [`ORDER`](crate::hook::ORDER).

use std::net::IpAddr;

use super::expected::held_control;
use super::first_ruled::syn_end;
use super::helped::{Expected, follow};
use super::on_link::off_link;
use super::output::Refusal as Refused;
use super::{Io, Path};
use crate::conntrack::helper::HelperId;
use crate::conntrack::{self, Accounting, CtState, Labels, Status, Told, Zones};
use crate::drop::DropReason;
use crate::flow::{Direction, Entry, FlowId, FlowRef, Method, Tuple};
use crate::hook::{Function, Hook};
use crate::icmp;
use crate::ids::PortId;
use crate::ipvs::state;
use crate::nat::{Manip, Range};
use crate::packet::Packet;
use crate::rule::{Connection, Effects, Labelled, Refusal, Service, Table, Verdict, View};
use crate::tables::{InterfaceId, Way};
use crate::time::Tick;
use crate::trail::{Asked, Step};
use crate::wire::parse::{Fragment, Headers};
use crate::wire::tcp::{self, SYN};
use crate::wire::{array, checksum, ipv6};

/// What rules know of a packet besides its bytes, while it is on its road.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) input: Option<InterfaceId>,
    pub(super) output: Option<InterfaceId>,
    /// Where rules see it first: PREROUTING, or OUTPUT.
    pub(super) begins_at: Hook,
    /// With what TTL the packet is routed: rules at PREROUTING, and at INPUT of what a virtual service takes, may have written it.
    pub(super) ttl: u8,
    /// A virtual service has taken a hop off it: what the kernel does before OUTPUT.
    pub(super) is_sent_on: bool,
    pub(super) state: CtState,
    /// The connection that it is of.
    pub(super) at: Option<FlowRef>,
    /// The same, also before conntrack has looked at the packet.
    pub(super) of: Option<FlowId>,
    /// Of what begins one: how it came, and how it goes on by what the table `nat` has said.
    pub(super) original: Option<Tuple>,
    pub(super) after: Option<Tuple>,
    /// It answers one that was to, of so many bytes.
    pub(super) answers: Option<u32>,
    /// What a rule of table mangle that was asked last made of its ends (SNPT, DNPT).
    pub(super) renumbered: Option<Tuple>,
    /// The connection that it begins is masqueraded.
    pub(super) is_masqueraded: bool,
    /// The packet's mark, and that of the connection that it begins.
    pub(super) mark: u32,
    pub(super) connection_mark: u32,
    /// And the labels of the latter.
    pub(super) labels: Labels,
    /// A rule of table raw says that it is of no connection.
    pub(super) is_untracked: bool,
    /// Or in which zones its connection is.
    pub(super) zones: Zones,
    /// One says that what it meets is told to the log.
    pub(super) is_traced: bool,
    /// And what of one that it begins is not told.
    pub(super) untold: Told,
    /// Of a packet that a virtual service has scheduled for itself alone.
    pub(super) service: Option<Service>,
    /// What table raw says, for a connection that it begins.
    pub(super) helper: HelperId,
    /// Another connection announced the one that it begins.
    pub(super) expected: Option<Expected>,
    /// Of a datagram's first fragment: which tables it has passed at which hooks.
    pub(super) walked: u64,
    /// Why it goes no further than to the routing decision: what is behind was not asked.
    pub(super) refused: Option<Refused>,
    pub(super) now: Tick,
}

impl Passage {
    /// The packet's headers, as it is routed.
    pub(super) fn as_routed(&self, headers: &Headers) -> Headers {
        Headers { ttl: self.ttl, ..*headers }
    }

    /// What a packet that was `tuple` is behind tables that were asked: if it begins a connection, that is translated so.
    pub(super) fn become_renumbered(&mut self, tuple: Tuple) -> Tuple {
        let Some(after) = self.renumbered.take() else { return tuple };
        self.after = Some(after);
        after
    }
}

/// A table at a hook.
pub(super) type Stop = (Table, Hook);

/// Why a packet goes no further, and where: also a translation for which no port was free.
pub(super) type Stopped = (Verdict, Hook);

impl<P: Packet> Path<P> {
    /// A packet of a virtual service's connection, which is counted or which rules look at, and the TTL that they leave it to be routed with: `None`
    /// when one stopped it.
    #[inline(never)]
    pub(super) fn ruled(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<(P, u8)> {
        if !self.tables.rules.are_active() {
            self.account(at, headers);
            return Some((packet, headers.ttl));
        }
        let wire = self.flows.tuple(at.id(), at.direction());
        let leaves = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        let method = self.flows.entry(at.id()).method();
        let asks_for_source = self.asks_for_source(method, &wire, &leaves);
        // What is asked at POSTROUTING is among what is at OUTPUT.
        let is_asked = self.is_asked(&OUTPUT, headers) || self.is_asked(&FORWARD, headers);
        let output = match is_asked || asks_for_source {
            true => self.output(self.tables.way(leaves.dst)),
            false => None,
        };
        // What leaves in the other family is seen as it came: the rules are those of the family in which it did.
        let is_as_it_came = method == Method::Direct || leaves.dst.is_ipv6() != wire.dst.is_ipv6();
        let (inner, leaves) = if is_as_it_came {
            (wire, wire)
        } else {
            // IPVS translates a request behind INPUT, an answer behind FORWARD.
            (Tuple { dst: leaves.dst, dport: leaves.dport, ..wire }, leaves)
        };
        let passed = self.passed.take();
        let (direction, is_first) = (self.tracked_direction(at), passed.is_some());
        self.met.begin_anew();
        let state = self.flows.tracked(at.id()).is(direction);
        let mut passage = self.passage(packet.port(), headers, state, now);
        (passage.at, passage.of) = (Some(at), Some(at.id()));
        passage.mark = passed.map_or(0, |passed| passed.mark);
        passage.is_traced = passed.is_some_and(|passed| passed.is_traced);
        let mut outcome = Ok(());
        if !is_first {
            outcome = self.pass(&RAW, &wire, &mut packet, headers, &mut passage);
        } else if headers.fragment == Fragment::First {
            passage.walked = self.walked_before(packet.data(), headers, now);
        }
        if outcome.is_ok() {
            // Conntrack sees what table raw lets pass, and does not leave out.
            passage.state = match passed.map(|passed| passed.state) {
                Some(state) if !state.is_followed() => state,
                _ if passage.is_untracked => CtState::Untracked,
                _ => self.note_seen(at, headers, direction, is_first),
            };
            passage.is_untracked = passage.state == CtState::Untracked;
            let tuples = (&wire, &inner, &leaves);
            let refusal = |path: &Path<P>, headers: &Headers| path.refusal(headers, at);
            outcome =
                self.pass_service(&mut packet, headers, tuples, output, &mut passage, is_first, refusal);
        }
        if asks_for_source {
            if let Some(refusal) = self.refusal_of_first(&outcome, at, headers, &passage) {
                self.refuse_first(packet, headers, refusal, at, &passage, io);
                return None;
            }
            outcome = self.begin_with_source(outcome, at, &leaves, &mut packet, headers, &mut passage);
        }
        match outcome {
            Ok(()) => {
                if passed.is_none() {
                    self.keep_course(at, packet.port(), headers, passage.state, now);
                }
                Some((packet, passage.ttl))
            }
            Err(stopped) => {
                // One without its source has ended.
                if !asks_for_source && matches!(stopped.1, Hook::Output | Hook::Postrouting) {
                    self.note_stopped(&packet, headers, at, now);
                }
                self.stop(packet, headers, stopped, Some(&passage), now, io);
                None
            }
        }
    }

    /// Conntrack takes note of a packet of a virtual service's connection. Returns what the packet is to rules.
    fn note_seen(&mut self, at: FlowRef, headers: &Headers, direction: Direction, is_first: bool) -> CtState {
        self.account(at, headers);
        let tracked = self.flows.tracked_mut(at.id());
        if !is_first {
            tracked.status.set(Status::CONFIRMED);
        }
        if direction == Direction::Reply && !tracked.status.has(Status::SEEN_REPLY) {
            tracked.status.set(Status::SEEN_REPLY);
            // Its packets are NEW no more.
            self.flows.entry_mut(at.id()).forget_course(at.direction().opposite());
        }
        self.flows.tracked(at.id()).is(direction)
    }

    /// The road of a packet of a virtual service's connection behind the table `raw`: it comes as `wire`, is `inner` once it is routed, and
    /// `leaves`, by `output`, unless `refusal` says why it does not.
    fn pass_service(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        (wire, inner, leaves): (&Tuple, &Tuple, &Tuple),
        output: Option<InterfaceId>,
        passage: &mut Passage,
        is_first: bool,
        refusal: impl FnOnce(&Path<P>, &Headers) -> Option<Refused>,
    ) -> Result<(), Stopped> {
        if !is_first {
            self.pass(&PREROUTING, wire, packet, headers, passage)?;
        }
        let is_answer = passage.at.is_some_and(|at| at.direction() == Direction::Reply);
        if !is_answer && !is_first {
            self.pass(&INPUT, wire, packet, headers, passage)?;
            self.is_at(Hook::Input, Function::RemoteRequest);
        }
        passage.output = output;
        let onward: &[Stop] = if is_answer { &ONWARD } else { &OUTPUT };
        if self.is_refused_ahead(onward, headers, passage, refusal) {
            return Ok(());
        }
        if is_answer {
            self.pass(&FORWARD, inner, packet, headers, passage)?;
            self.is_at(Hook::Forward, Function::Reply);
            return self.pass(&POSTROUTING, leaves, packet, headers, passage);
        }
        (passage.input, passage.is_sent_on) = (None, true);
        self.pass(&OUTPUT, inner, packet, headers, passage)
    }

    /// PREROUTING behind the table `raw`, and the rest of the road, for a packet of a tracked connection that comes as `wire`. `inner` is between
    /// PREROUTING and POSTROUTING. One that is [refused](Passage::refused) passes no more.
    pub(super) fn pass_tracked(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        (wire, inner): (&Tuple, &Tuple),
        way: Way,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        self.pass(&PREROUTING, wire, packet, headers, passage)?;
        let refusal = |path: &Path<P>, headers: &Headers| path.check_way(headers, way, inner.dst).err();
        let is_routed = way != Way::Local && self.tables.settings.forwarding;
        if is_routed && self.is_refused_ahead(&ONWARD, headers, passage, refusal) {
            return Ok(());
        }
        self.pass_routed(packet, headers, inner, way, passage)
    }

    /// The road behind PREROUTING.
    pub(super) fn pass_routed(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        inner: &Tuple,
        way: Way,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        if way == Way::Local {
            return self.pass(&INPUT, inner, packet, headers, passage);
        }
        if self.is_refused_by_linux(way, passage) {
            return Ok(());
        }
        passage.output = self.output(way);
        self.pass(&FORWARD, inner, packet, headers, passage)?;
        self.pass(&POSTROUTING, inner, packet, headers, passage)
    }

    /// The table `raw` for an ICMP error about a packet of the connection `at`: as it is behind that.
    pub(super) fn raw_related(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
    ) -> Result<Passage, Stopped> {
        let wire = Tuple::of_packet(packet.data(), headers);
        let mut passage = self.passage(packet.port(), headers, CtState::Related, now);
        passage.of = Some(at.id());
        self.pass(&RAW, &wire, packet, headers, &mut passage)?;
        Ok(passage)
    }

    /// The rest of its road; it goes on to `to`. Returns the TTL that it is routed with.
    pub(super) fn pass_related(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        to: IpAddr,
        mut passage: Passage,
    ) -> Result<u8, Stopped> {
        let wire = Tuple::of_packet(packet.data(), headers);
        let inner = if to.is_ipv6() == headers.is_ipv6 { Tuple { dst: to, ..wire } } else { wire };
        (passage.at, passage.of) = (Some(at), Some(at.id()));
        let way = self.tables.way(to);
        if !self.flows.entry(at.id()).is_tracked() {
            let output = self.output(way);
            let is_one_way = self.flows.entry(at.id()).method().is_one_way();
            let refusal = |path: &Path<P>, headers: &Headers| match is_one_way {
                true => path.refusal(headers, at),
                false => path.check_way(headers, way, to).err(),
            };
            let tuples = (&wire, &inner, &inner);
            self.pass_service(packet, headers, tuples, output, &mut passage, false, refusal)?;
        } else {
            self.pass_tracked(packet, headers, (&wire, &inner), way, &mut passage)?;
        }
        Ok(passage.ttl)
    }

    /// A packet's, when it comes.
    pub(super) fn passage(&mut self, port: PortId, headers: &Headers, state: CtState, now: Tick) -> Passage {
        self.counted.forget();
        Passage {
            input: self.tables.interfaces.find(port, headers.vlan),
            output: None,
            begins_at: Hook::Prerouting,
            ttl: headers.ttl,
            is_sent_on: false,
            state,
            at: None,
            of: None,
            original: None,
            after: None,
            answers: None,
            renumbered: None,
            is_masqueraded: false,
            mark: 0,
            connection_mark: 0,
            labels: Labels::NONE,
            is_untracked: false,
            zones: Zones::NONE,
            is_traced: false,
            untold: Told::NONE,
            service: None,
            helper: HelperId::NONE,
            expected: None,
            walked: 0,
            refused: None,
            now,
        }
    }

    pub(super) fn output(&self, way: Way) -> Option<InterfaceId> {
        match way {
            Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| hop.interface),
            Way::Unresolved(interface, _) => Some(interface),
            _ => None,
        }
    }

    /// Asks tables one after the other, up to the first that stops the packet, which is `tuple` there, or behind a rule that says so what
    /// [`Passage::renumbered`] is then. Those that have no chain there are not asked, unless somebody watches.
    #[inline]
    pub(super) fn pass(
        &mut self,
        road: &[Stop],
        tuple: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        passage.renumbered = None;
        match self.is_asked(road, headers) {
            true => self.pass_chains(road, tuple, packet, headers, passage),
            false => Ok(()),
        }
    }

    #[inline(never)]
    fn pass_chains(
        &mut self,
        road: &[Stop],
        tuple: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        match headers.fragment {
            Fragment::None => self.pass_each(road, tuple, packet, headers, passage),
            _ => self.pass_piece(road, tuple, packet, headers, passage),
        }
    }

    #[inline(always)]
    pub(super) fn pass_each(
        &mut self,
        road: &[Stop],
        tuple: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        for &(table, hook) in road {
            let said = match passage.renumbered {
                None => self.ask(table, hook, tuple, packet, headers, passage),
                Some(tuple) => self.ask_chain(table, hook, &tuple, packet, headers, passage),
            };
            match said {
                Verdict::Accept | Verdict::Nat(..) => {}
                verdict => return Err((verdict, hook)),
            }
        }
        Ok(())
    }

    /// What the table `nat` makes of `tuple`, if the packet begins a connection.
    pub(super) fn ask_nat(
        &mut self,
        hook: Hook,
        tuple: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
    ) -> Result<Tuple, Stopped> {
        // Where it is sent to means another one on each link, or many.
        let original = passage.original.filter(|_| !headers.is_for_twin);
        let Some(original) = original else { return Ok(*tuple) };
        if passage.expected.is_some_and(|expected| expected.awaited.is_some()) {
            return Ok(*tuple);
        }
        let followed = passage.expected.and_then(|expected| expected.follows);
        let asked = match followed {
            None => self.ask(Table::Nat, hook, tuple, packet, headers, passage),
            Some(follows) => {
                let source_port = passage.expected.map_or(0, |expected| expected.source_port);
                follow(&follows, source_port, hook, tuple)
            }
        };
        let (manip, range) = match asked {
            Verdict::Nat(manip, range) => (manip, range),
            Verdict::Accept if matches!(hook, Hook::Prerouting | Hook::Output) => return Ok(*tuple),
            // Somebody else's translation may have taken what answers to it would be known by.
            Verdict::Accept => (Manip::Source, Range::KEEP),
            verdict => return Err((verdict, hook)),
        };
        let after = self
            .translated(tuple, manip, &range, &original, passage.zones)
            .or_else(|| {
                // The end as which its sender is expected is another's meanwhile: from a port like it.
                let any = Range { ports: None, ..range };
                let is_followed = followed.is_some() && manip == Manip::Source;
                is_followed.then(|| self.translated(tuple, manip, &any, &original, passage.zones)).flatten()
            })
            .or_else(|| {
                let end = syn_end(packet.data(), headers).filter(|_| manip == Manip::Source)?;
                self.translated_anew(tuple, &range, &original, passage.zones, end)
            })
            .ok_or((Verdict::Nat(manip, range), hook));
        if let (Fragment::First, Err(stopped)) = (headers.fragment, after) {
            self.note_untranslated(packet.data(), headers, stopped, passage);
        }
        let after = after?;
        passage.after = Some(after);
        if after != *tuple {
            self.watch.note(|| Step::Becomes(after));
        }
        Ok(after)
    }

    /// Notes that a function which has no rules has the packet.
    #[inline]
    pub(super) fn is_at(&mut self, hook: Hook, function: Function) {
        self.watch.note(|| Step::At { hook, function });
    }

    /// Asks one table, and does what it says besides its verdict. One that has no chain there is not asked, unless somebody watches.
    #[inline]
    pub(super) fn ask(
        &mut self,
        table: Table,
        hook: Hook,
        tuple: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
    ) -> Verdict {
        match self.is_asked(&[(table, hook)], headers) {
            true => self.ask_chain(table, hook, tuple, packet, headers, passage),
            false => Verdict::Accept,
        }
    }

    #[inline]
    pub(super) fn is_asked(&self, road: &[Stop], headers: &Headers) -> bool {
        self.tables.rules.have_chain_at(headers.is_ipv6, road) || self.watch.is_on()
    }

    #[inline(never)]
    fn ask_chain(
        &mut self,
        table: Table,
        hook: Hook,
        tuple: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
    ) -> Verdict {
        let mut connection = self.connection(passage, headers);
        let mut tuple = *tuple;
        if headers.is_for_twin {
            tuple = off_link(tuple);
            connection = connection.map(as_on_the_wire);
        }
        let flow = passage.of.filter(|&id| !self.is_over(id));
        let service = passage.at.and_then(|at| self.service_of(at)).or(passage.service);
        let mut headers = *headers;
        // A rule before may have written it.
        headers.ttl = ttl(packet.data(), &headers).unwrap_or(headers.ttl);
        if headers.tcp_flags & SYN != 0 {
            headers = grown(packet, &headers);
        }
        let is_forwarded = passage.input.is_some() && matches!(hook, Hook::Forward | Hook::Postrouting);
        let booted = self.tables.settings.booted;
        let &mut Passage { input, output, state, mark, now, .. } = passage;
        self.watch.note(|| Step::Asked(Asked { table, hook, tuple, state, mark, input, output }));
        let mut view = View {
            tables: &self.tables,
            cpu: self.mine.turns.cpu.get() as u32,
            frame: packet.data_mut(),
            headers: &mut headers,
            hook,
            tuple,
            input: passage.input,
            output: passage.output,
            mark: passage.mark,
            connection,
            labels: Labelled {
                flows: &mut self.flows,
                at: passage.at.map(FlowRef::id),
                to_be: &mut passage.labels,
                full: &self.mine.flows.unlabelled,
            },
            flow,
            counted: &mut self.counted,
            hops: (is_forwarded || passage.is_sent_on).into(),
            is_untracked: passage.is_untracked,
            service,
            now,
            wall: booted + u64::from(now.0 / Tick::PER_SECOND),
            events: &self.tables.rules.events,
            is_dry: self.is_dry,
            trail: self.watch.trail(),
            copies: if self.is_copying || self.is_dry { None } else { Some(&mut self.copies) },
            is_traced: passage.is_traced,
            effects: Effects::default(),
        };
        let verdict = self.tables.rules.run_noting(table, hook, &mut view, &self.mine, &mut self.met);
        let (effects, mark, connection) = (view.effects, view.mark, view.connection);
        if matches!(hook, Hook::Prerouting | Hook::Input) {
            passage.ttl = view.headers.ttl;
        }
        if effects.has_tuple {
            passage.renumbered = Some(view.tuple);
        }
        passage.is_traced = view.is_traced;
        if let Some(id) = flow {
            self.counted.keep(id);
        }
        if let Some(mss) = effects.mss {
            tcp::add_mss(packet, &headers, mss);
        }
        if effects.has_mark {
            passage.mark = mark;
        }
        passage.is_untracked |= effects.untracked;
        passage.is_masqueraded |= effects.masquerades;
        if let Some(template) = effects.template {
            (passage.zones, passage.untold) = (template.zones(passage.mark), template.untold);
            passage.helper = template.helper;
        }
        self.watch.note(|| Step::Said(verdict));
        if let Some(after) = passage.renumbered {
            self.watch.note(|| Step::Becomes(after));
        }
        if let Some(connection) = connection.filter(|_| effects.has_connection_mark) {
            passage.connection_mark = connection.mark;
            // It may have ended before what its client is told of that passes the rules.
            if let Some(at) = passage.at.filter(|at| self.flows.is_live(at.id())) {
                self.flows.tracked_mut(at.id()).mark = connection.mark;
            }
        }
        if effects.has_label
            && let Some(at) = passage.at
        {
            self.tell(Told::LABEL, at.id());
        }
        verdict
    }

    /// What rules see of the packet's connection.
    fn connection(&self, passage: &Passage, headers: &Headers) -> Option<Connection> {
        if !passage.state.is_followed() {
            return None;
        }
        if let Some(at) = passage.at {
            let (id, entry, tracked) = (at.id(), self.flows.entry(at.id()), self.flows.tracked(at.id()));
            let mut status = tracked.status;
            // Not netfilter's.
            status.clear(Status(Status::COUNTED.0 | Status::LABELLED.0));
            if !entry.is_tracked() && !entry.method().is_one_way() && is_assured(entry) {
                status.set(Status::ASSURED);
            }
            let original = self.flows.tuple(id, Direction::Original);
            return Some(Connection {
                state: passage.state,
                is_reply: at.direction() == Direction::Reply,
                status,
                original,
                // By direct routing and tunnels it comes from the service, though not by here.
                reply: match entry.method().is_one_way() {
                    true => original.reversed(),
                    false => self.flows.tuple(id, Direction::Reply),
                },
                mark: tracked.mark,
                zones: self.flows.zones(id),
                told_by: tracked.told_by(),
                expires: entry.expires().since(passage.now) / Tick::PER_SECOND,
                counts: if self.counts_connections { self.flows.accounting(id).copied() } else { None },
            });
        }
        let original = passage.original.filter(|_| !passage.is_untracked)?;
        let after = passage.after.unwrap_or(original);
        let mut status = translation(&original, &after);
        if passage.expected.is_some() {
            status.set(Status::EXPECTED);
        }
        Some(Connection {
            state: passage.state,
            is_reply: passage.answers.is_some(),
            status,
            original,
            reply: after.reversed(),
            mark: passage.connection_mark,
            zones: passage.zones,
            told_by: passage.expected.map_or(HelperId::NONE, |expected| expected.helper),
            expires: 0,
            counts: self
                .counts_connections
                .then(|| Accounting::of_first(passage.answers.unwrap_or(headers.ip_len))),
        })
    }

    /// A connection that is only remembered: it counts no more.
    fn is_over(&self, id: FlowId) -> bool {
        let entry = self.flows.entry(id);
        match entry.is_tracked() {
            true => conntrack::is_over(entry.protocol(), entry.state()),
            false => state::is_over(entry.protocol(), entry.state()),
        }
    }

    /// What rules see of the virtual service that has a connection.
    fn service_of(&self, at: FlowRef) -> Option<Service> {
        let entry = self.flows.entry(at.id());
        let original = self.flows.tuple(at.id(), Direction::Original);
        (!entry.is_tracked()).then(|| Service {
            address: original.dst,
            port: original.dport,
            method: match entry.method() {
                Method::Translated => Method::Masq,
                method => method,
            },
            held_by: entry.is_counted().then(|| self.port_of_holder(at.id())).flatten(),
            server: entry.server(),
        })
    }

    /// That of the connection's persistence template or control connection, unless their real server was removed.
    fn port_of_holder(&self, id: FlowId) -> Option<u16> {
        let key = self.tables.services.of_server(self.flows.entry(id).server())?.key;
        let is_told_of = held_control(&self.flows, id).is_some();
        Some(if is_told_of { key.port } else { key.template_port() })
    }

    /// A packet that a rule stops. `of` is its passage, if it has begun one.
    pub(super) fn stop(
        &mut self,
        packet: P,
        headers: &Headers,
        (verdict, hook): Stopped,
        of: Option<&Passage>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let rejects = (DropReason::RuleRejects, hook);
        match verdict {
            Verdict::Reject(refusal @ (Refusal::Icmp(..) | Refusal::Field(_))) => {
                // Whom it is from is not sure then.
                if checksum::is_wrong(packet.data(), headers) {
                    return self.drop(DropReason::RuleRejects, hook);
                }
                self.answer(packet, headers, problem(refusal), rejects, of, now, io);
            }
            Verdict::Reject(Refusal::TcpReset) => self.reset(packet, headers, rejects, of, now, io),
            Verdict::SynProxy(offer) => self.syn_proxy(packet, headers, (offer, hook), of, now, io),
            _ => self.drop(why(verdict), hook),
        }
    }
}

fn as_on_the_wire(connection: Connection) -> Connection {
    let (original, reply) = (off_link(connection.original), off_link(connection.reply));
    Connection { original, reply, ..connection }
}

/// How a sender is told by ICMP; of a TCP reset, as that would be.
pub(super) fn problem(refusal: Refusal) -> icmp::Problem {
    match refusal {
        Refusal::Icmp(kind, code) => icmp::Problem::Told { kind, code },
        Refusal::Field(at) => icmp::Problem::Field { at },
        Refusal::TcpReset => icmp::Problem::PortUnreachable,
    }
}

/// PREROUTING before conntrack.
pub(super) const RAW: [Stop; 1] = [(Table::Raw, Hook::Prerouting)];

/// PREROUTING between conntrack and what `nat` translates.
pub(super) const PREROUTING: [Stop; 1] = [(Table::Mangle, Hook::Prerouting)];

pub(super) const INPUT: [Stop; 3] =
    [(Table::Mangle, Hook::Input), (Table::Filter, Hook::Input), (Table::Security, Hook::Input)];

pub(super) const FORWARD: [Stop; 3] =
    [(Table::Mangle, Hook::Forward), (Table::Filter, Hook::Forward), (Table::Security, Hook::Forward)];

/// Both behind the routing decision.
pub(super) const ONWARD: [Stop; 4] = {
    let [mangle, filter, security] = FORWARD;
    [mangle, filter, security, POSTROUTING[0]]
};

/// What of POSTROUTING each packet passes.
pub(super) const POSTROUTING: [Stop; 1] = [(Table::Mangle, Hook::Postrouting)];

/// OUTPUT for what a virtual service sends on, with what of POSTROUTING each packet passes.
pub(super) const OUTPUT: [Stop; 5] = [
    (Table::Raw, Hook::Output),
    (Table::Mangle, Hook::Output),
    (Table::Filter, Hook::Output),
    (Table::Security, Hook::Output),
    (Table::Mangle, Hook::Postrouting),
];

/// As what a packet is counted that nobody is told of.
pub(super) const fn why(stopped: Verdict) -> DropReason {
    match stopped {
        Verdict::Nat(..) => DropReason::NoLocalPort,
        Verdict::Queue => DropReason::QueueUnread,
        _ => DropReason::Rule,
    }
}

/// Which ends of a connection are exchanged whose packets are `original` when they come and `after` when they leave.
pub(super) fn translation(original: &Tuple, after: &Tuple) -> Status {
    let mut status = Status::NONE;
    if (original.dst, original.dport) != (after.dst, after.dport) {
        status.set(Status::DST_NAT);
    }
    if (original.src, original.sport) != (after.src, after.sport) {
        status.set(Status::SRC_NAT);
    }
    status
}

/// The headers of a SYN into which rules may have put an option.
#[cold]
pub(super) fn grown<P: Packet>(packet: &P, headers: &Headers) -> Headers {
    let (at, fixed) = if headers.is_ipv6 { (4, ipv6::LEN as u32) } else { (2, 0) };
    let said = array(packet.data(), usize::from(headers.l3) + at).map(|bytes| u16::from_be_bytes(*bytes));
    Headers { ip_len: said.map_or(headers.ip_len, |said| u32::from(said) + fixed), ..*headers }
}

/// Whether both ends of a virtual service's connection have agreed, so that netfilter would not drop it early.
fn is_assured(entry: &Entry) -> bool {
    state::was_established(entry.protocol(), entry.state())
}

fn ttl(frame: &[u8], headers: &Headers) -> Option<u8> {
    frame.get(usize::from(headers.l3) + if headers.is_ipv6 { 7 } else { 8 }).copied()
}
