//! Packets for other hosts that come to services because of their mark, and what goes past all real servers of these (`cache_bypass`).

use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Method, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::ServerId;
use lb_core::tables::{MarkRule, Service, Tables};

use super::answer::Problem;
use super::parse::{Read, UDP};
use super::persistent::{is_of_rule, service_of};
use super::road::tuple;
use super::{Packet, Reference};

/// Whether services are asked about a packet: its destination is an address of ours, or its mark brings it.
pub(super) fn comes_here(tables: &Tables, packet: &Tuple) -> bool {
    tables.routes.is_local(packet.dst) || comes_by_mark(tables, packet)
}

fn comes_by_mark(tables: &Tables, packet: &Tuple) -> bool {
    let rule = tables.marks.0.iter().find(|rule| is_of_rule(rule, packet));
    let mark = rule.map_or(0, |MarkRule { mark, .. }| *mark);
    tables.routes.is_local_by_mark(packet.dst, mark)
}

impl Reference {
    /// Whether a packet for another host is its source's owner's, as one for us is.
    pub(super) fn is_clients_by_mark(&self, packet: &Tuple) -> bool {
        let tables = &self.tables;
        tables.serves(packet.dst.is_ipv6())
            && comes_by_mark(tables, packet)
            && service_of(tables, packet).is_some()
    }

    /// A packet of a service that begins nothing: Linux answers it, unless it is for another host, to whom that would send it on.
    pub(super) fn not_begun(&mut self, packet: Packet, read: Read) {
        if self.tables.routes.is_local(read.dst) {
            return self.up_the_twin(packet);
        }
        self.drop(DropReason::NoConnection, Hook::Input);
        self.reset(packet, &read);
    }

    /// Whether what a service by mark has no real server for goes on to where it is bound.
    pub(super) fn may_go_past(&self, original: &Tuple, service: &Service) -> bool {
        self.tables.settings.sysctls.cache_bypass == 1
            && service.key.mark().is_some()
            && !self.tables.routes.is_local(original.dst)
    }

    /// What would begin a connection of a service none of whose real servers takes it. `is_opened`: its client was answered already.
    pub(super) fn without_server(&mut self, packet: Packet, read: Read, service: &Service, is_opened: bool) {
        let original = tuple(&read);
        if is_opened || !self.may_go_past(&original, service) {
            return self.answer(packet, read, Problem::PortUnreachable, DropReason::NoServer, Hook::Input);
        }
        let (method, server) = (Method::Direct, ServerId::BYPASS);
        if service.options.one_packet && read.protocol == UDP {
            return self.one_packet(packet, read, original, method, server);
        }
        match self.bind(original, original.reversed(), method, server) {
            Some(number) => self.established(packet, read, number, Direction::Original),
            None => self.drop(DropReason::FlowTableFull, Hook::Input),
        }
    }
}
