//! ICMP errors about a connection's packets: translated and sent on to the end that sent them (RFC 5508 §4).

use std::net::IpAddr;

use super::answer::Leaves;
use super::established::count;
use super::fragment::ports;
use super::ipsec::is_ipsec;
use super::passage::Passage;
use super::quoted::exchange_or_own;
use super::scheduled_error::Scheduled;
use super::waiting::Going;
use super::{Io, Path, Ports, Steer, rewrite, tunnel};
use crate::conntrack::{CtState, Zones};
use crate::drop::DropReason;
use crate::flow::{Direction, FlowRef, Method, Tuple};
use crate::hook::Hook;
use crate::icmp::{self, Embedded, End};
use crate::ids::{ServerId, WorkerId};
use crate::packet::Packet;
use crate::tables::{Protocol, Way};
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

/// Which rules have looked at an error before its connection is known.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, of an error")]
pub(super) enum Walked {
    Nothing,
    /// Those of the table `raw`; as it is behind them.
    Raw(Passage),
    All,
}

/// How far the search is for the worker that has an error's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    Begins,
    GoesOn,
    /// Nobody else has it.
    Over,
}

impl<P: Packet> Path<P> {
    /// An ICMP error, at the worker that its connection's packets come to.
    #[cold]
    pub(super) fn related(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        match headers.fragment {
            Fragment::None => self.related_here(packet, headers, Search::Begins, now, io),
            _ => self.related_in_pieces(packet, headers, now, io),
        }
    }

    /// One that another worker, which its connection's packets come to, has no connection for.
    pub(super) fn sought_related(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let answer = icmp::embedded(packet.data(), headers).map(|embedded| own_answer_to(&embedded));
        // Its tables may be others than those of the worker that it comes from.
        let is_owner = answer.map_or(true, |answer| self.owner_of_flow(&answer) == self.worker);
        let search = if is_owner { Search::Over } else { Search::GoesOn };
        self.related_here(packet, headers, search, now, io);
    }

    pub(super) fn related_here(
        &mut self,
        mut packet: P,
        headers: &Headers,
        search: Search,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let embedded = match icmp::embedded(packet.data(), headers) {
            Ok(embedded) => embedded,
            // Of no connection that could be told: a router passes it on.
            Err(DropReason::BadIcmpPayload) => return self.other(packet, headers, now, io),
            Err(reason) => return self.drop(reason, Hook::Prerouting),
        };
        if let Some(inner) = self.in_tunnel(packet.data(), headers, &embedded) {
            return self.about_tunnel(packet, headers, &embedded, &inner, now, io);
        }
        if search != Search::Over
            && self.local_ports.has_signposts
            && let Some(there) = self.pointed(&answer_to(&embedded), now)
        {
            return io.hand_over(there, packet, Steer::Pointed(ports(headers)));
        }
        if self.tables.rules.are_active() && self.zones_matter() {
            return self.related_in_zone(
                packet,
                headers,
                (&own_answer_to(&embedded), Some(&embedded)),
                now,
                io,
            );
        }
        let found = self.find_about(&own_answer_to(&embedded), Zones::NONE);
        if found.is_none()
            && let Some((next, steer)) = self.who_is_asked(&own_answer_to(&embedded), search)
        {
            return io.hand_over(next, packet, steer);
        }
        let (at, walked) = match found {
            Some(at) => (at, Walked::Nothing),
            None => match self.schedule_error(&mut packet, headers, &embedded, now) {
                Scheduled::To(at) => (at, Walked::All),
                Scheduled::Not => return self.other(packet, headers, now, io),
                Scheduled::Stopped(stopped) => return self.stop(packet, headers, stopped, None, now, io),
                Scheduled::Dropped(reason) => return self.drop(reason, Hook::Input),
            },
        };
        let has_begun = matches!(walked, Walked::All);
        self.related_to(packet, headers, Some(&embedded), at, walked, now, io);
        if has_begun {
            self.wait_for_its_own(at.id());
        }
    }

    /// Who else may have the connection that an error is about, of which `answer` is a packet: see [`Path::next_to_ask`].
    pub(super) fn who_is_asked(&self, answer: &Tuple, search: Search) -> Option<(WorkerId, Steer)> {
        if self.counters.len() == 1 || !self.tables.rules.are_active() || search == Search::Over {
            return None;
        }
        let &Tuple { sport, dport, protocol, .. } = answer;
        let ports = Ports { sport, dport, protocol };
        let owner = self.owner_of_flow(answer);
        // An error about AH or ESP comes to the worker that would have the exchange: as if it had come to its owner.
        let first = if search == Search::Begins { self.asked_after(owner, answer) } else { None };
        let is_begun = search != Search::Begins || owner == self.worker || first == Some(self.worker);
        match if is_begun { self.next_to_ask(answer) } else { first } {
            Some(next) => Some((next, Steer::Elsewhere(ports, None))),
            None => Some((owner, Steer::Nowhere(ports, None))).filter(|_| owner != self.worker),
        }
    }

    /// The connection of the packet that an error quotes: that packet left here, and what answers it, as `answer`, goes as the error goes.
    pub(super) fn find_about(&self, answer: &Tuple, zones: Zones) -> Option<FlowRef> {
        let found = self.flows.find_in(&exchange_or_own(answer), zones);
        if !is_ipsec(answer.protocol) {
            return found;
        }
        // What no virtual service has is of a connection of its own.
        let of_service = found.filter(|at| self.flows.entry(at.id()).server() != ServerId::NONE);
        of_service.or_else(|| self.flows.find_in(answer, zones))
    }

    /// An error about a packet of the connection `at`, which has `walked` past rules before. `quoted`: that packet, unless this is a later fragment.
    #[inline]
    pub(super) fn related_to(
        &mut self,
        mut packet: P,
        headers: &Headers,
        quoted: Option<&Embedded>,
        at: FlowRef,
        walked: Walked,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if self.flows.entry(at.id()).generation() != self.tables.generation {
            self.renew(at.id());
        }
        let entry = self.flows.entry(at.id());
        if entry.is_ipvs_off() {
            return self.route(packet, headers, now, io);
        }
        let is_cut = entry.is_server_removed() && entry.server() != ServerId::BYPASS;
        if is_cut && at.direction() == Direction::Original {
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        }
        let (is_one_way, is_ruled, server) = (entry.method().is_one_way(), entry.is_ruled(), entry.server());
        let destination = self.told_about(at, headers.destination(packet.data()));
        let mut behind = *headers;
        if is_ruled && !matches!(walked, Walked::All) {
            let passage = match walked {
                Walked::Raw(passage) => Ok(passage),
                _ => self.raw_related(&mut packet, headers, at, now),
            };
            let is_tracked = self.flows.entry(at.id()).is_tracked();
            let passed = match passage {
                Ok(passage) if passage.is_untracked && is_tracked => {
                    let passage = Passage { state: CtState::Untracked, ..passage };
                    return self.pass_untracked(packet, headers, passage, io);
                }
                Ok(passage) => self.pass_related(&mut packet, headers, at, destination, passage),
                Err(stopped) => Err(stopped),
            };
            match passed {
                Ok(ttl) => behind.ttl = ttl,
                Err(stopped) => return self.stop(packet, headers, stopped, None, now, io),
            }
        }
        let headers = &behind;
        if is_one_way {
            // About what the real server sent to the client by another way: it knows this packet as it is.
            return self.onward_rarely(packet, headers, at, now, io);
        }
        if self.flows.entry(at.id()).method() == Method::Translated {
            return match quoted.filter(|_| headers.fragment == Fragment::None) {
                Some(embedded) => self.translate_error(packet, headers, embedded, at, now, io),
                None => self.drop(DropReason::Untranslatable, Hook::Postrouting),
            };
        }
        let is_for_host = match self.check(headers, destination) {
            Ok(Way::Local | Way::Linux) if server == ServerId::NONE => true,
            Ok(Way::Local | Way::Linux) => return self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(_) => false,
            Err(refusal) => return self.refuse(packet, headers, refusal, None, now, io),
        };
        count(self.mine.server(server), at.direction(), headers);
        if let Err(reason) = self.translate_whole_or_piece(&mut packet, headers, quoted, at) {
            return self.drop(reason, Hook::Prerouting);
        }
        if is_for_host {
            return io.to_twin(packet.port(), packet);
        }
        rewrite::decrement_ttl(packet.data_mut(), headers);
        self.leave(packet, headers, destination, Going::AsItIs, now, io);
    }

    /// The embedded packet of an error about the connection `at`, as it was when its sender sent it, and as it left here.
    fn embedded_of(&self, at: FlowRef) -> (Tuple, Tuple) {
        let sent = self.flows.tuple(at.id(), at.direction().opposite());
        (sent, self.flows.tuple(at.id(), at.direction()).reversed())
    }

    /// Who is told by an error about the connection `at` that came for `to`.
    pub(super) fn told_about(&self, at: FlowRef, to: IpAddr) -> IpAddr {
        let (sent, left) = self.embedded_of(at);
        let is_one_way = self.flows.entry(at.id()).method().is_one_way();
        let is_source_changed = !is_one_way && (sent.src, sent.sport) != (left.src, left.sport);
        if is_source_changed { sent.src } else { to }
    }

    /// The ends of an error about the connection `at` that are exchanged, for these.
    pub(super) fn ends_about(&self, at: FlowRef) -> [Option<(End, IpAddr, u16)>; 2] {
        let (sent, left) = self.embedded_of(at);
        let is_source_changed = (sent.src, sent.sport) != (left.src, left.sport);
        let is_destination_changed = (sent.dst, sent.dport) != (left.dst, left.dport);
        [
            is_source_changed.then_some((End::Destination, sent.src, sent.sport)),
            is_destination_changed.then_some((End::Source, sent.dst, sent.dport)),
        ]
    }

    /// Whatever end of the embedded packet was translated is translated back, and the error's opposite one with it.
    ///
    /// # Errors
    /// As [`icmp::translate`].
    pub(super) fn translate_about(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        embedded: &Embedded,
        at: FlowRef,
    ) -> Result<(), DropReason> {
        if self.flows.entry(at.id()).method().is_one_way() {
            return Ok(());
        }
        for (end, address, port) in self.ends_about(at).into_iter().flatten() {
            icmp::translate(packet.data_mut(), headers, embedded, end, address, port)?;
        }
        if let Some(edit) = self.flows.edit(at.id()).filter(|_| embedded.protocol == Protocol::TCP) {
            let shift = edit.shift(at.direction().opposite());
            icmp::renumber_quoted(packet.data_mut(), headers, embedded, |seq| shift.back(seq));
        }
        Ok(())
    }

    /// The packet of a client that a quoted packet of one of our tunnels carried, as far as it is quoted.
    pub(super) fn in_tunnel(&self, frame: &[u8], headers: &Headers, outer: &Embedded) -> Option<Embedded> {
        let tables = &self.tables;
        let is_ours = tables.routes.is_local(outer.src)
            && tables.services.is_server(outer.dst)
            && tables.routes.is_local(headers.destination(frame));
        if !is_ours {
            return None;
        }
        let message = frame.get(..headers.end())?;
        let (is_ipv6, at) = tunnel::carried(message.get(usize::from(outer.l4)..)?, outer.protocol)?;
        icmp::quoted(message, usize::from(outer.l4) + at, is_ipv6).ok()
    }

    /// An error about a tunnel's packet: its client is told, by an error of ours about the packet that it carried, as the kernel
    /// does. What it says of an MTU is less what the tunnel takes.
    fn about_tunnel(
        &mut self,
        mut packet: P,
        headers: &Headers,
        outer: &Embedded,
        inner: &Embedded,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let found = self.flows.find(&answer_to(inner).reversed()).filter(|at| {
            self.flows.entry(at.id()).method() == Method::Tunnel
                && self.flows.tuple(at.id(), Direction::Reply).src == outer.dst
        });
        let (Some(at), Some(problem)) = (found, icmp::problem(packet.data(), headers, outer, inner)) else {
            return self.route(packet, headers, now, io);
        };
        let client = self.flows.tuple(at.id(), Direction::Original).src;
        self.drop(DropReason::TunnelError, Hook::Input);
        if !self.icmp_limit.allow(now) {
            self.mine.turns.icmp_suppressed.add(1);
            return;
        }
        let answer = self.answer_about(at, client, now);
        if let Some(error) = icmp::about_inner(&mut packet, headers, inner, problem) {
            self.mine.turns.icmp_sent.add(1);
            let to = match self.let_answer_pass(&mut packet, answer) {
                Leaves::AsItIs => client,
                Leaves::To(to, _) => to,
                Leaves::Not => return,
            };
            self.leave(packet, &error, to, Going::AsItIs, now, io);
        }
    }
}

/// What a packet looks like that answers the embedded one, or of the exchange that it belongs to.
pub(super) fn answer_to(embedded: &Embedded) -> Tuple {
    exchange_or_own(&own_answer_to(embedded))
}

/// What a packet looks like that answers the embedded one, whatever exchange that belongs to.
pub(super) fn own_answer_to(embedded: &Embedded) -> Tuple {
    Tuple {
        src: embedded.dst,
        dst: embedded.src,
        sport: embedded.dport,
        dport: embedded.sport,
        protocol: embedded.protocol,
    }
}
