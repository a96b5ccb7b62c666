//! ICMP errors that the host itself sends, while there are rules: OUTPUT, POSTROUTING, out of a port.
//!
//! One about a packet of a connection is RELATED to it, and says of that packet what its sender knows: where the packet was translated on
//! its way to the host, the error and what it quotes are translated back (RFC 5508 §4.2). Any other is INVALID, and leaves as it is.

use super::host::OUT;
use super::related::answer_to;
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

    /// What of the host can be of no connection: an error has rules look at it, all else leaves as it is.
    #[cold]
    pub(super) fn error_out(&mut self, port: PortId, mut packet: P, now: Tick, io: &mut impl Io<P>) {
        let Some((headers, embedded)) = read_error(&packet) else { return io.transmit(port, packet) };
        let headers = &headers;
        let wire = Tuple::of_packet(packet.data(), headers);
        let mut passage = self.passage_of_host(port, headers, now);
        passage.state = CtState::Invalid;
        let raw = [(Table::Raw, Hook::Output)];
        if let Err(stopped) = self.pass(&raw, &wire, &mut packet, headers, &mut passage) {
            return self.stop_host(port, packet, headers, stopped, now, io);
        }
        self.is_at(Hook::Output, Function::Conntrack);
        let about = embedded.filter(|_| !passage.is_untracked).and_then(|embedded| {
            let at = self.flows.find_in(&answer_to(&embedded), passage.zones)?;
            Some((at, embedded))
        });
        let mut to = wire.dst;
        if passage.is_untracked {
            passage.state = CtState::Untracked;
        } else if let Some((at, _)) = about {
            passage.state = CtState::Related;
            (passage.at, passage.of) = (Some(at), Some(at.id()));
            to = self.told_about(at, wire.dst);
        }
        let mut passed =
            self.pass(&[(Table::Mangle, Hook::Output)], &wire, &mut packet, headers, &mut passage);
        if passed.is_ok() {
            let mut seen = passage.become_renumbered(wire);
            if about.is_some() {
                seen.dst = to;
            }
            to = seen.dst;
            if to != wire.dst {
                passage.output = self.output(self.tables.way(to));
            }
            passed = self.pass(&OUT, &seen, &mut packet, headers, &mut passage);
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
pub(super) fn answer_of_error<P: Packet>(packet: &P) -> Option<Tuple> {
    let (_, embedded) = read_error(packet)?;
    embedded.map(|embedded| answer_to(&embedded))
}

/// An error, and the packet that it quotes, if that can be read.
fn read_error<P: Packet>(packet: &P) -> Option<(Headers, Option<Embedded>)> {
    match parse(packet.data(), packet.frame_len(), packet.rx_checksums().ip) {
        Ok(Parsed::Ip(headers)) if is_error(&headers) => {
            Some((headers, icmp::embedded(packet.data(), &headers).ok()))
        }
        _ => None,
    }
}

fn is_error(headers: &Headers) -> bool {
    icmp::is_translatable(headers) && headers.fragment == Fragment::None && !headers.is_for_twin
}
