//! What the host itself sends of no connection, while there are rules: ICMP errors, what goes to many, neighbour discovery. OUTPUT, POSTROUTING, out of a port.
//!
//! One about a packet of a connection is RELATED to it, and says of that packet what its sender knows: where the packet was translated on
//! its way to the host, the error and what it quotes are translated back (RFC 5508 §4.2). Any other is INVALID, and leaves as it is. What goes to many is
//! NEW, as in `host_alone.rs`; later fragments leave as they are.

use super::host::out_from;
use super::host_alone::{is_never_tracked, is_to_many, is_whole_error};
use super::on_link::on_link;
use super::related::{answer_to, own_answer_to};
use super::tracked::tuple_of;
use super::waiting::Going;
use super::{Io, Path, Steer};
use crate::conntrack::CtState;
use crate::flow::Tuple;
use crate::hook::{Function, Hook};
use crate::icmp::{self, Embedded};
use crate::ids::PortId;
use crate::packet::Packet;
use crate::rule::Table;
use crate::tables::Way;
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers, Parsed, parse};

impl<P: Packet> Path<P> {
    /// At a worker that may have the connection that an error is about, or at its own again: nobody has one.
    pub(super) fn sought_error_of_host(
        &mut self,
        port: PortId,
        packet: P,
        answer: &Tuple,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if self.flows.find(answer).is_some() || self.owner_of_host(answer) == self.worker {
            return self.error_out(port, packet, now, io);
        }
        let next = self.next_worker(self.worker);
        io.hand_over(next, packet, Steer::FromHostElsewhere(port, None));
    }

    /// What of the host can be of no connection, but for errors about one.
    #[cold]
    pub(super) fn error_out(&mut self, port: PortId, mut packet: P, now: Tick, io: &mut impl Io<P>) {
        let Some((headers, embedded)) = read_error(&packet) else { return io.transmit(port, packet) };
        let headers = &headers;
        let of_many = tuple_of(packet.data(), headers).filter(|_| is_to_many(packet.data(), headers));
        let wire = of_many.unwrap_or(Tuple::of_packet(packet.data(), headers));
        let mut passage = self.passage_of_host(port, headers, wire.src, now);
        passage.state = CtState::Invalid;
        let begins_at = passage.begins_at;
        let raw = [(Table::Raw, begins_at)];
        if let Err(stopped) = self.pass(&raw, &wire, &mut packet, headers, &mut passage) {
            return self.stop_host(port, packet, headers, stopped, now, io);
        }
        self.is_at(begins_at, Function::Conntrack);
        passage.is_untracked |= is_never_tracked(headers);
        let about = embedded.filter(|_| !passage.is_untracked).and_then(|embedded| {
            let answer = on_link(own_answer_to(&embedded), port, headers.vlan);
            let at = self.find_about(&answer, passage.zones)?;
            Some((at, embedded))
        });
        let mut to = wire.dst;
        if passage.is_untracked {
            passage.state = CtState::Untracked;
        } else if let Some((at, _)) = about {
            passage.state = CtState::Related;
            (passage.at, passage.of) = (Some(at), Some(at.id()));
            to = self.told_about(at, wire.dst);
        } else if of_many.is_some() && self.begins(packet.data(), headers, now).is_some() {
            (passage.state, passage.original) = (CtState::New, of_many);
        }
        let mut passed = self.pass(&[(Table::Mangle, begins_at)], &wire, &mut packet, headers, &mut passage);
        if passed.is_ok() {
            let mut seen = passage.become_renumbered(wire);
            if about.is_some() {
                seen.dst = to;
            }
            to = seen.dst;
            if to != wire.dst {
                passage.output = self.output(self.tables.way(to));
            }
            passed = self.pass(out_from(begins_at), &seen, &mut packet, headers, &mut passage);
        }
        if let Err(stopped) = passed {
            return self.stop_host(port, packet, headers, stopped, now, io);
        }
        if let Some((at, embedded)) = about
            && let Err(reason) = self.translate_about(&mut packet, headers, &embedded, at)
        {
            return self.drop(reason, Hook::Postrouting);
        }
        // Linux has chosen the way already, unless it goes elsewhere now.
        if to == wire.dst {
            return io.transmit(port, packet);
        }
        match self.tables.way(to) {
            Way::Local | Way::Linux => io.to_twin(port, packet),
            _ => self.leave(packet, headers, to, Going::AsItIs, now, io),
        }
    }
}

/// What a packet of the connection looks like that goes where an error of the host goes. `None`: it is no error about one.
pub(super) fn answer_of_error<P: Packet>(packet: &P, port: PortId) -> Option<Tuple> {
    let (headers, embedded) = read_error(packet)?;
    embedded.map(|embedded| on_link(answer_to(&embedded), port, headers.vlan))
}

/// What is no later fragment; of an error, with the packet that it quotes, if that can be read.
fn read_error<P: Packet>(packet: &P) -> Option<(Headers, Option<Embedded>)> {
    match parse(packet.data(), packet.frame_len(), packet.rx_checksums().ip) {
        Ok(Parsed::Ip(headers)) if headers.fragment != Fragment::Later => {
            let embedded =
                is_whole_error(&headers).then(|| icmp::embedded(packet.data(), &headers).ok()).flatten();
            Some((headers, embedded))
        }
        _ => None,
    }
}
