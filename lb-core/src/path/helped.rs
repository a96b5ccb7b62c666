//! Helpers of tracked connections (`-t raw -j CT --helper`): they read along, and what they read of connections to come is expected here.
//!
//! What a helper reads is expected at the worker that has the connection, the *master*. While a rule gives helpers, a packet of no connection
//! that is known is sought at all workers, as answers of translated connections are
//! ([0026](../../../docs/decisions/0026-translated-connections-are-sought.md)): the worker that expects it keeps what it begins
//! ([0029](../../../docs/decisions/0029-what-is-expected-is-at-its-masters-worker.md)).
//!
//! A packet that begins what is expected is RELATED, has its master's mark, and is translated as that is. A connection with a helper keeps no course:
//! each of its packets comes by [`help`](Path::help), behind the rules; where words in it are to be exchanged, by `reworded.rs`. SIP's messages are
//! read in `signalled.rs`.

use std::net::IpAddr;

use super::expected::Awaited;
use super::list::{FlowView, Known};
use super::passage::Passage;
use super::{Outcome, Path};
use crate::conntrack::helper::sip;
use crate::conntrack::helper::{Announced, Follows, Heard, Helper, HelperId, Reads};
use crate::conntrack::{CtState, Expectation, Status, Told, Zones};
use crate::drop::DropReason;
use crate::flow::{Direction, FlowId, FlowRef, Method, Store, Tuple};
use crate::hook::Hook;
use crate::ids::ServerId;
use crate::nat::{Manip, Range};
use crate::packet::Packet;
use crate::rule::Verdict;
use crate::tables::Protocol;
use crate::time::{Tick, Timeout};
use crate::wire::parse::{Fragment, Headers};
use crate::wire::segment::Segment;
use crate::wire::udp;

/// What a first packet has of the connection that told of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) helper: HelperId,
    /// `None`: the table `nat` is asked, as for any other.
    pub(super) follows: Option<Follows>,
    /// A virtual service's real server awaits it, whatever that table says.
    pub(super) awaited: Option<Awaited>,
    /// The port as which its sender's is known elsewhere, where that is expected itself: it comes from there. 0: any.
    pub(super) source_port: u16,
    /// The helper reads along in it.
    pub(super) is_helped: bool,
}

impl<P: Packet> Path<P> {
    /// Has the connection's helper read a packet that rules let pass. False: the packet is dropped, since there is no room for what it announces.
    #[inline]
    #[must_use]
    pub(super) fn help(&mut self, packet: &P, headers: &Headers, at: FlowRef, now: Tick) -> bool {
        match self.flows.tracked(at.id()).helper().get() {
            None => true,
            Some(helper) => self.read_along(helper, packet, headers, at, now),
        }
    }

    #[cold]
    fn read_along(&mut self, helper: &Helper, packet: &P, headers: &Headers, at: FlowRef, now: Tick) -> bool {
        let tracked = self.flows.tracked(at.id());
        let is_translated = tracked.status.has(Status::SRC_NAT) || tracked.status.has(Status::DST_NAT);
        if !helper.protocols.contains(&headers.protocol)
            || helper.edits_of(headers.protocol, is_translated) != 0
        {
            return true;
        }
        let heard = match helper.reads {
            Reads::Announcement(announces) => {
                let announced = data(packet, headers).and_then(|data| announces(&self.heard(data, at)));
                announced.map_or(Ok(()), |announced| self.announce(&self.expectation(&announced, at, now)))
            }
            Reads::Calls => self.listen(packet, headers, at, now).map(drop),
        };
        heard.map_err(|reason| self.drop(reason, Hook::Postrouting)).is_ok()
    }

    /// What a helper is given of a packet.
    pub(super) fn heard<'a>(&self, data: &'a [u8], at: FlowRef) -> Heard<'a> {
        let (id, direction) = (at.id(), at.direction());
        let (original, reply) =
            (self.flows.tuple(id, Direction::Original), self.flows.tuple(id, Direction::Reply));
        let is_answered = self.flows.tracked(id).status.has(Status::SEEN_REPLY);
        Heard { data, direction, original, reply, is_answered }
    }

    /// What the helper of a connection is to expect.
    pub(super) fn expectation(&self, announced: &Announced, at: FlowRef, now: Tick) -> Expectation {
        let id = at.id();
        let tracked = self.flows.tracked(id);
        let is_translated = tracked.status.has(Status::SRC_NAT) || tracked.status.has(Status::DST_NAT);
        let patience =
            tracked.helper().get().map_or(Timeout::from_secs(0), |helper| helper.class(0).patience);
        Expectation {
            tuple: announced.tuple,
            follows: is_translated.then_some(announced.follows),
            master: id,
            told_by: self.flows.tuple(id, Direction::Original),
            helper: tracked.helper(),
            class: 0,
            is_permanent: false,
            is_inactive: false,
            zone: self.flows.zones(id).id(),
            untold: tracked.untold,
            until: now.after(patience),
        }
    }

    /// Expects it.
    ///
    /// # Errors
    /// There is no room, and the packet that tells of it is to be dropped.
    pub(super) fn announce(&mut self, new: &Expectation) -> Result<(), DropReason> {
        if self.expects(new) { Ok(()) } else { Err(DropReason::ExpectationsFull) }
    }

    /// Expects no more what such a connection has told of.
    pub(super) fn forget_told(&mut self, at: FlowRef, is_it: impl Fn(&Expectation) -> bool) {
        let told_by = self.flows.tuple(at.id(), Direction::Original);
        while let Some(&mut expected) = self.expectations.of_master(at.id(), &told_by, &is_it) {
            if !self.end_expected(&expected) {
                break;
            }
        }
    }

    /// The same; false: there is no room.
    fn expects(&mut self, new: &Expectation) -> bool {
        let most_a_master = new.helper.get().map_or(1, |helper| helper.class(new.class).most);
        let (most, now, mine, events) = (self.most_expected(), self.turned, &self.mine, &self.tables.events);
        let is_expected = self.expectations.add(new, most_a_master, most, |gone| {
            mine.flows.expect_delete.add(1);
            events.tell_expected(Told::EXPECT_DESTROY, gone, now);
        });
        if is_expected {
            mine.flows.expect_create.add(1);
            events.tell_expected(Told::EXPECT_NEW, new, now);
        }
        self.count_expected();
        is_expected
    }

    /// Expects it no more. Returns whether it was.
    fn end_expected(&mut self, expected: &Expectation) -> bool {
        let is_ended = self.expectations.end(expected);
        if is_ended {
            self.mine.flows.expect_delete.add(1);
            self.tables.events.tell_expected(Told::EXPECT_DESTROY, expected, self.turned);
        }
        self.count_expected();
        is_ended
    }

    /// Whether a packet that says that it begins a connection may be expected, but not here.
    #[inline]
    pub(super) fn may_be_expected_elsewhere(&self, tuple: &Tuple, zones: Zones, now: Tick) -> bool {
        self.tables.rules.give_helpers() && self.others_expect() && !self.is_expected(tuple, zones, now)
    }

    #[inline(never)]
    fn others_expect(&self) -> bool {
        let mut others =
            self.counters.iter().enumerate().filter(|(worker, _)| *worker != self.worker.index());
        others.any(|(_, worker)| worker.flows.expected_streams.get() > 0)
    }

    /// This worker's share of `nf_conntrack_expect_max`.
    fn most_expected(&self) -> u16 {
        let most = self.tables.settings.sysctls.conntrack.expect_max.div_ceil(self.counters.len() as u32);
        u16::try_from(most).unwrap_or(u16::MAX)
    }

    /// Whether such a packet begins a connection that is expected here.
    #[inline]
    pub(super) fn is_expected(&self, tuple: &Tuple, zones: Zones, now: Tick) -> bool {
        !self.expectations.is_empty() && self.find_expected(tuple, zones, now).is_some()
    }

    #[cold]
    fn find_expected(&self, tuple: &Tuple, zones: Zones, now: Tick) -> Option<&Expectation> {
        self.expectations.find(tuple, zones.id(), now, |expected| is_alive(&self.flows, expected))
    }

    /// A packet begins a connection: what it is to tracking, behind the table `raw`.
    pub(super) fn note_expected(&mut self, original: &Tuple, passage: &mut Passage) {
        if passage.expected.is_some() {
            passage.state = CtState::Related;
        } else if !self.expectations.is_empty()
            && let Some(expected) = self.find_expected(original, passage.zones, passage.now).copied()
        {
            if !expected.is_permanent {
                self.end_expected(&expected);
            }
            self.mine.flows.expect_new.add(1);
            passage.state = CtState::Related;
            passage.connection_mark = self.flows.tracked(expected.master).mark;
            let (pair, is_helped) = self.call_of(&expected, original);
            let Expectation { helper, mut follows, .. } = expected;
            let mut source_port = 0;
            if let (Some(follows), Some((address, port))) = (&mut follows, pair) {
                (follows.source, source_port) = (address, port);
            }
            passage.expected = Some(Expected { helper, follows, source_port, is_helped, awaited: None });
        }
        passage.state = self.assumed.unwrap_or(passage.state);
    }

    /// Of a call's connection: the end as which its sender's is known elsewhere, and whether it is one of messages.
    fn call_of(&mut self, expected: &Expectation, original: &Tuple) -> (Option<(IpAddr, u16)>, bool) {
        let is_of_call = expected.helper.get().is_some_and(|helper| matches!(helper.reads, Reads::Calls));
        if !is_of_call || expected.class == sip::SIGNALLING {
            return (None, is_of_call);
        }
        let sender = (original.src, original.sport);
        let is_pair = |held: &Expectation| {
            let is_senders = held.follows.is_some_and(|follows| follows.destination == sender);
            held.class != sip::SIGNALLING && is_senders
        };
        let pair = self.expectations.of_master(expected.master, &expected.told_by, is_pair);
        (pair.map(|pair| (pair.tuple.dst, pair.tuple.dport)), false)
    }

    /// Ends a few of those that came not, or whose masters ended.
    #[inline]
    pub(super) fn sweep_expected(&mut self, now: Tick) {
        if self.expectations.is_empty() {
            return;
        }
        let (flows, mine, events) = (&self.flows, &self.mine, &self.tables.events);
        let is_over =
            |expected: &Expectation| now.is_at_or_after(expected.until) || !is_alive(flows, expected);
        self.expectations.sweep(is_over, |gone| {
            mine.flows.expect_delete.add(1);
            events.tell_expected(Told::EXPECT_DESTROY, gone, now);
        });
        self.count_expected();
    }

    /// As is ordered from outside: a tracked connection's helper expects one that begins so, and rules are asked how it is translated.
    #[cold]
    pub(super) fn announce_ordered(&mut self, master: FlowId, tuple: &Tuple, now: Tick) -> Outcome {
        let tracked = self.flows.tracked(master);
        let (helper, untold) = (tracked.helper(), tracked.untold);
        let Some(patience) =
            helper.get().filter(|_| self.flows.entry(master).is_tracked()).map(|it| it.class(0).patience)
        else {
            return Outcome::Impossible;
        };
        let (tuple, zone) = (*tuple, self.flows.zones(master).id());
        let told_by = self.flows.tuple(master, Direction::Original);
        let until = now.after(patience);
        let (is_permanent, is_inactive) = (false, false);
        let new = Expectation {
            tuple,
            follows: None,
            master,
            told_by,
            helper,
            class: 0,
            is_permanent,
            is_inactive,
            zone,
            untold,
            until,
        };
        let is_like = |held: &Expectation| held.tuple == tuple && held.zone == zone;
        if self.expectations.iter(0, u32::MAX).any(|held| is_like(held) && is_alive(&self.flows, held)) {
            return Outcome::Exists;
        }
        if self.expects(&new) { Outcome::Done } else { Outcome::Full }
    }

    /// As is ordered from outside. Returns whether it was expected.
    #[cold]
    pub(super) fn forget_expected(&mut self, tuple: &Tuple, zone: u16) -> bool {
        let is_it = |expected: &&Expectation| expected.tuple == *tuple && expected.zone == zone;
        let found = self.expectations.iter(0, u32::MAX).find(is_it).copied();
        match found {
            Some(expected) => self.end_expected(&expected),
            None => self.forget_awaited(tuple),
        }
    }

    fn count_expected(&self) {
        self.mine.flows.expected.set(self.expectations.len().into());
        self.mine.flows.expected_streams.set(self.expectations.streams().into());
    }

    pub(super) fn list_expected(&self, from: u32, count: u32, now: Tick, visit: &mut impl FnMut(FlowView)) {
        for expected in self.expectations.iter(from, count) {
            if is_alive(&self.flows, expected) && !now.is_at_or_after(expected.until) {
                visit(view(expected, now));
            }
        }
    }
}

/// Whether the connection is still there that told of it.
fn is_alive(flows: &Store, expected: &Expectation) -> bool {
    flows.is_live(expected.master) && flows.tuple(expected.master, Direction::Original) == expected.told_by
}

/// What a connection becomes at a hook where the table `nat` would be asked, that is translated as its master is; `source_port`: 0, or the one that it
/// shall come from.
pub(super) fn follow(follows: &Follows, source_port: u16, hook: Hook, tuple: &Tuple) -> Verdict {
    match hook {
        Hook::Prerouting | Hook::Output => {
            let (address, port) = follows.destination;
            Verdict::Nat(Manip::Destination, Range { ports: Some((port, port)), ..Range::to(address) })
        }
        _ if source_port != 0 => {
            let ports = Some((source_port, source_port));
            Verdict::Nat(Manip::Source, Range { ports, ..Range::to(follows.source) })
        }
        _ if follows.source == tuple.src => Verdict::Nat(Manip::Source, Range::KEEP),
        _ => Verdict::Nat(Manip::Source, Range::to(follows.source)),
    }
}

/// What a datagram or a segment carries.
fn data<'a, P: Packet>(packet: &'a P, headers: &Headers) -> Option<&'a [u8]> {
    let frame = packet.data();
    if headers.protocol == Protocol::TCP {
        return Segment::of(frame, headers)?.data_of(frame, headers);
    }
    let is_whole = matches!(headers.fragment, Fragment::None | Fragment::First);
    let is_datagram = is_whole && headers.protocol == Protocol::UDP;
    let end = headers.end().min(frame.len());
    frame.get(usize::from(headers.l4) + udp::LEN..end).filter(|_| is_datagram)
}

/// One that is expected, as listings and events have it.
pub(super) fn view(expected: &Expectation, now: Tick) -> FlowView {
    let Tuple { src, dst, sport, dport, protocol } = expected.tuple;
    FlowView {
        is_template: false,
        is_tracked: true,
        known: Known {
            zones: Zones::new(expected.zone, None),
            helper: expected.helper.name(),
            told_by: Some(expected.told_by),
            class: expected.class,
            is_permanent: expected.is_permanent,
            is_inactive: expected.is_inactive,
            ..Known::default()
        },
        protocol,
        client: (src, sport),
        call: None,
        virtual_: (dst, dport),
        server: (dst, dport),
        local: None,
        server_id: ServerId::NONE,
        method: Method::Masq,
        state: "NONE",
        expires_in: Timeout(expected.until.since(now)),
    }
}
