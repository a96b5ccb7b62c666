//! A packet meets tables: they are asked, and what they say besides their verdict is done.

use super::Path;
use super::expected::held_control;
use super::first_ruled::syn_end;
use super::helped::follow;
use super::on_link::off_link;
use super::passage::{Passage, Stop, Stopped};
use crate::conntrack::helper::HelperId;
use crate::conntrack::{self, Accounting, Status, Told};
use crate::flow::{Direction, Entry, FlowId, FlowRef, Method, Tuple};
use crate::hook::Hook;
use crate::ipvs::state;
use crate::nat::{Manip, Range};
use crate::packet::Packet;
use crate::rule::{Connection, Effects, Labelled, Service, Table, Verdict, View};
use crate::time::Tick;
use crate::trail::{Asked, Step};
use crate::wire::parse::{Fragment, Headers};
use crate::wire::tcp::{self, SYN};
use crate::wire::{array, ipv6};

impl<P: Packet> Path<P> {
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
                mark: if passage.ended.is_some() { passage.connection_mark } else { tracked.mark },
                zones: self.flows.zones(id),
                told_by: tracked.told_by(),
                expires: entry.expires().since(passage.now) / Tick::PER_SECOND,
                counts: match passage.ended {
                    _ if !self.counts_connections => None,
                    Some(len) => Some(Accounting::of_first(len)),
                    None => self.flows.accounting(id).copied(),
                },
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
}

fn as_on_the_wire(connection: Connection) -> Connection {
    let (original, reply) = (off_link(connection.original), off_link(connection.reply));
    Connection { original, reply, ..connection }
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
