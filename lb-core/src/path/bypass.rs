//! Connections past all real servers (sysctl `cache_bypass`): a service by mark has no real server for a packet that is bound for another host, a cache that is down, say, so
//! that packet and connection go straight on to where the client sends them.
//!
//! Such a connection is [one way](super::one_way) to the destination that its packets have; answers are routed through us as they are. It counts at no real server and in no limit of
//! its service, and is listed as the kernel does, without an address in the real server's place. Where services have real servers again it stays what it is, until it is over.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_core.c` (`ip_vs_leave`), `ip_vs_xmit.c` (`ip_vs_bypass_xmit`), `ip_vs_conn.c` (`ip_vs_conn_new`),
//! `ip_vs_proto_tcp.c` (`set_tcp_state`).

use super::one_packet::Choice;
use super::{Io, Path};
use crate::drop::DropReason;
use crate::flow::{FlowRef, Method, Tuple};
use crate::hook::Hook;
use crate::icmp;
use crate::ids::ServerId;
use crate::ipvs::state;
use crate::packet::Packet;
use crate::tables::ServiceKey;
use crate::time::Tick;
use crate::trail::Step;
use crate::wire::parse::Headers;

impl<P: Packet> Path<P> {
    /// No real server of the service takes what would begin a connection: its client is told so, unless it goes on without one.
    #[cold]
    pub(super) fn without_server(
        &mut self,
        packet: P,
        headers: &Headers,
        (original, seen): (&Tuple, &Tuple),
        (key, is_one_packet): (ServiceKey, bool),
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if !self.may_go_past(original, seen, key) {
            let (problem, dropped) = (icmp::Problem::PortUnreachable, (DropReason::NoServer, Hook::Input));
            return self.answer(packet, headers, problem, dropped, None, now, io);
        }
        self.watch.note(|| Step::Bypass);
        if is_one_packet {
            let (after, method, server) = (*original, Method::Direct, ServerId::BYPASS);
            let choice = Choice { original: *original, after, method, server };
            return self.one_packet(packet, headers, choice, now, io);
        }
        match self.bind(original, original, Method::Direct, ServerId::BYPASS, now) {
            Some(at) => {
                // Off the line of those that have one.
                self.flows.entry_mut(at.id()).set_server_removed();
                self.begun(packet, headers, at, now, io);
            }
            None => self.drop(DropReason::FlowTableFull, Hook::Input),
        }
    }

    /// Whether what a service has no real server for goes on to its own destination.
    pub(super) fn may_go_past(&self, original: &Tuple, seen: &Tuple, service: ServiceKey) -> bool {
        self.tables.settings.sysctls.cache_bypass == 1
            && service.mark().is_some()
            && !self.tables.routes.is_local(seen.dst)
            // Nobody would bring answers back to what the client has asked for.
            && (original.dst, original.dport) == (seen.dst, seen.dport)
            // Who was answered with a SYN cookie has numbers of ours.
            && self.passed.is_none_or(|passed| passed.opening.is_none())
    }

    /// A client's packet of such a connection. As the kernel's connection has no real server, nobody has told it that answers go another way: its state
    /// follows the client's column of the usual table.
    #[cold]
    pub(super) fn go_past(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.one_way_by(packet, headers, at, state::Direction::Input, now, io);
    }
}
