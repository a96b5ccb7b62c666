//! One-packet scheduling (`ipvsadm -o`): each datagram gets a real server of its own, and nothing of it is remembered; an answer that
//! comes through us is routed as it is.
//!
//! But for its fragments: where the first one went the later ones follow. For a while a bounded number of such datagrams is known, at
//! the worker that owns the client's endpoint.

use super::established::count;
use super::fragment::{Datagram, Recent, datagram};
use super::passage::{OUTPUT, Stopped};
use super::{Io, Passed, Path, rewrite};
use crate::drop::DropReason;
use crate::flow::{Direction, Method, Tuple};
use crate::hook::Hook;
use crate::ids::ServerId;
use crate::packet::Packet;
use crate::rule::Service;
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

/// Sets of the datagrams that are known.
const SETS: usize = 64;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub original: Tuple,
    /// As it leaves when it is masqueraded; its destination is the real server's.
    pub after: Tuple,
    pub method: Method,
    pub server: ServerId,
}

pub(super) type Choices = Recent<Choice, SETS>;

impl<P: Packet> Path<P> {
    /// Sends a datagram, or the first fragment of one, to its real server.
    #[cold]
    pub(super) fn one_packet(
        &mut self,
        mut packet: P,
        headers: &Headers,
        choice: Choice,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if let Err(stopped) = self.pass_alone(&mut packet, headers, &choice, now) {
            return self.stop(packet, headers, stopped, None, now, io);
        }
        let Choice { method, server, .. } = choice;
        self.mine.server(server).connections.add(1);
        if method.is_one_way() {
            // It takes nobody's place.
            return self.go_unkept(packet, headers, &choice, now, io);
        }
        self.masquerade_once(packet, headers, &choice, now, io);
    }

    /// What rules say of a packet that is scheduled for itself alone; fragments are to follow it.
    pub(super) fn pass_alone(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        choice: &Choice,
        now: Tick,
    ) -> Result<(), Stopped> {
        if let Some(passed) = self.passed {
            self.pass_once(packet, headers, choice, &passed, now)?;
        }
        if headers.fragment == Fragment::First {
            let datagram = datagram(packet.data(), headers);
            let set = self.set_of(&datagram);
            self.choices.remember(set, datagram, *choice, now);
        }
        Ok(())
    }

    /// OUTPUT and what of POSTROUTING each packet passes, for a datagram that rules let pass before it was scheduled.
    fn pass_once(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        choice: &Choice,
        passed: &Passed,
        now: Tick,
    ) -> Result<(), Stopped> {
        let &Choice { original, after, method, server } = choice;
        // As for a connection's: by direct routing it is what it was.
        let inner = match method {
            Method::Direct => original,
            _ => Tuple { dst: after.dst, dport: after.dport, ..original },
        };
        let mut passage = self.passage(packet.port(), headers, passed.state, now);
        (passage.input, passage.output) = (None, self.output(self.tables.way(after.dst)));
        passage.is_sent_on = true;
        (passage.original, passage.after) =
            (Some(original), Some(if method.is_one_way() { original } else { after }));
        (passage.mark, passage.connection_mark) = (passed.mark, passed.connection_mark);
        (passage.labels, passage.is_traced) = (passed.labels, passed.is_traced);
        let persistent = self.tables.services.of_server(server).filter(|it| it.options.persistence.is_some());
        passage.service = Some(Service {
            address: original.dst,
            port: original.dport,
            method,
            held_by: persistent.map(|service| service.key.template_port()),
            server,
        });
        let refusal = |path: &Path<P>, headers: &Headers| path.refusal_unkept(headers, choice);
        if self.is_refused_ahead(&OUTPUT, headers, &mut passage, refusal) {
            return Ok(());
        }
        self.pass(&OUTPUT, &inner, packet, headers, &mut passage)
    }

    /// Where the first fragment of this later one's datagram went, if it was scheduled for itself alone.
    pub(super) fn choice_of(&self, packet: &P, headers: &Headers, now: Tick) -> Option<Choice> {
        let datagram: Datagram = datagram(packet.data(), headers);
        self.choices.recall(self.set_of(&datagram), &datagram, now)
    }

    /// Sends a later fragment after its first one.
    #[cold]
    pub(super) fn follow(
        &mut self,
        packet: P,
        headers: &Headers,
        choice: Choice,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Choice { after, method, server, .. } = choice;
        let is_there = |address| address == after.dst;
        let found = self.tables.services.server(server);
        if server != ServerId::BYPASS && !found.is_some_and(|server| is_there(server.address)) {
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        }
        if !method.is_one_way() {
            return self.masquerade_once(packet, headers, &choice, now, io);
        }
        // Not one more connection: the first fragment was counted.
        self.go_unkept(packet, headers, &choice, now, io);
    }

    fn masquerade_once(
        &mut self,
        packet: P,
        headers: &Headers,
        choice: &Choice,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let &Choice { original, after, server, .. } = choice;
        count(self.mine.server(server), Direction::Original, headers);
        let deltas = rewrite::deltas(&original, &after);
        self.rewrite_slowly(packet, headers, None, original, after, deltas, now, io);
    }
}
