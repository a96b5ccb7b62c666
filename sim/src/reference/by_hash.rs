//! What goes on by hash alone, of no connection that is kept, while the table is short of room.

use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Method, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::ServiceId;
use lb_core::ipvs::SchedulerKind;
use lb_core::tables::Service;

use super::one_packet::Choice;
use super::parse::{Piece, Read, SCTP, TCP};
use super::road::tuple;
use super::{Packet, Reference};

/// Whether the real server follows from a packet's ends, whatever was before.
pub(super) fn picks_alike(service: &Service) -> bool {
    let is_hash = [SchedulerKind::Dh, SchedulerKind::Sh, SchedulerKind::Mh, SchedulerKind::Maglev]
        .contains(&service.scheduler);
    let has_thresholds = service.servers.iter().any(|server| server.upper_threshold > 0);
    let options = &service.options;
    let looks_further = options.persistence.is_some() || options.one_packet || service.quic_lb.is_some();
    is_hash && !has_thresholds && !looks_further
}

impl Reference {
    /// It begins with less than an eighth of the places that is free, and ends with a quarter.
    pub(super) fn look_whether_short(&mut self) {
        let (entries, capacity) = (self.flows.len().0 as u64, self.counters.flows.capacity.get());
        self.is_short = capacity - entries < if self.is_short { capacity / 4 } else { capacity / 8 };
    }

    pub(super) fn go_by_hash(&mut self, packet: Packet, read: Read, choice: Choice, service: ServiceId) {
        if read.piece == Piece::First {
            self.choices.remember(self.hasher, &read, choice, self.now);
        }
        self.hashed.insert(service, self.now);
        let connection = self.unbound(tuple(&read), choice.after.reversed(), choice.method, choice.server);
        self.onward(packet, read, &connection);
    }

    pub(super) fn may_go_by_hash(&self, service: &Service, read: &Read) -> bool {
        let at = self.hashed.get(&service.id).filter(|_| [TCP, SCTP].contains(&read.protocol));
        at.is_some_and(|at| !self.now.is_at_or_after(at.after(self.tables.settings.tcp)))
            && picks_alike(service)
    }

    /// A packet in the middle of a connection that may have begun by hash alone.
    pub(super) fn take_up(&mut self, packet: Packet, read: Read, service: &Service) {
        let original = tuple(&read);
        let picked = self.places.pick(&self.team, service, &original, self.now);
        let server = picked.map(|index| &service.servers[index]);
        let Some(server) = server.filter(|server| {
            server.id.index() < self.counters.server_capacity() && server.forward.method() != Method::Masq
        }) else {
            return self.not_begun(packet, read);
        };
        let dport = if server.port == 0 { original.dport } else { server.port };
        let after = Tuple { dst: server.address, dport, ..original };
        let (method, id) = (server.forward.method(), server.id);
        if self.is_short {
            return self.go_by_hash(packet, read, Choice { after, method, server: id }, service.id);
        }
        match self.bind(original, after.reversed(), method, id) {
            Some(number) => self.established(packet, read, number, Direction::Original),
            None => self.drop(DropReason::FlowTableFull, Hook::Input),
        }
    }
}
