//! What netfilter would say of a connection that is listed: its state, its status, a number that it is known by.
//!
//! Of a connection of no virtual service that is what tracking knows. One of a service's has the states of IPVS, by netfilter's names.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::FlowView;
use crate::conntrack::{self, Status, icmp};
use crate::flow::{Direction, Tuple};
use crate::tables::Protocol;

/// Bits that have a name in listings.
const NAMED: [Status; 6] = [
    Status::SEEN_REPLY,
    Status::ASSURED,
    Status::SRC_NAT,
    Status::DST_NAT,
    Status::EXPECTED,
    Status::FIXED_TIMEOUT,
];

impl FlowView {
    /// Neither a persistence template, which netfilter does not know, nor one that is only expected.
    pub fn is_connection(&self) -> bool {
        !self.is_template && self.known.told_by.is_none()
    }

    /// It stood for one that was expected and has come, which is listed by itself. It is kept lest that one's first packet was lost.
    pub fn has_come(&self) -> bool {
        self.known.told_by.is_some() && self.known.status.has(Status::DYING)
    }

    /// Of one that is expected and has not come: its first packet, as it will come; source port 0: from any.
    pub fn expected(&self) -> Option<Tuple> {
        let is_awaited = self.known.told_by.is_some() && !self.has_come();
        // What a virtual service's real server begins looks like an answer to IPVS.
        let is_servers = !self.is_tracked && self.client.1 != 0;
        is_awaited.then(|| if is_servers { self.reply() } else { self.original() })
    }

    /// `None`: of a protocol that has none.
    pub fn netfilter_state(&self) -> Option<&'static str> {
        if self.is_tracked {
            let has_states = matches!(self.protocol, Protocol::TCP | Protocol::SCTP);
            return has_states.then_some(self.state);
        }
        of_ipvs(self.protocol, self.state).0
    }

    /// The bits that have a name in listings; and whether it is known that no packet came back.
    pub fn netfilter_status(&self) -> (Status, bool) {
        let known = self.known.status;
        let mut status = Status::NONE;
        NAMED.iter().filter(|bit| known.has(**bit)).for_each(|bit| status.set(*bit));
        if self.is_tracked {
            return (status, !status.has(Status::SEEN_REPLY));
        }
        if self.method.is_one_way() {
            return (Status::NONE, true);
        }
        // Else rules may have seen an answer.
        if of_ipvs(self.protocol, self.state).1 {
            status.clear(Status::FIXED_TIMEOUT);
            status.set(Status::SEEN_REPLY);
            status.set(Status::ASSURED);
        }
        if self.server != self.virtual_ {
            status.set(Status::DST_NAT);
        }
        if self.local.is_some() {
            status.set(Status::SRC_NAT);
        }
        (status, false)
    }

    /// The same for as long as it lives.
    pub fn netfilter_id(&self) -> u32 {
        let mut hasher = DefaultHasher::new();
        (self.original(), self.known.zones).hash(&mut hasher);
        hasher.finish() as u32
    }

    /// Type, code and identifier of the ICMP messages that go this way; `None`: it is no such connection.
    pub fn icmp(&self, direction: Direction) -> Option<(u8, u8, u16)> {
        let Tuple { src, sport, dport, protocol, .. } = self.original();
        let (kind, code) = icmp::kind(src.is_ipv6(), dport, direction);
        let id = match direction {
            Direction::Original => sport,
            Direction::Reply => self.reply().dport,
        };
        matches!(protocol, Protocol::ICMP | Protocol::ICMPV6).then_some((kind, code, id))
    }
}

/// The state of that name, of whichever protocol.
pub fn state_named(name: &str) -> Option<&'static str> {
    let of = |protocol| (0..=u8::MAX).filter_map(move |state| conntrack::name(protocol, state));
    let all = of(Protocol::TCP).chain(of(Protocol::SCTP)).chain([LISTEN]);
    all.into_iter().find(|known| *known == name)
}

/// Of IPVS alone.
const LISTEN: &str = "LISTEN";

/// netfilter's name for a state of IPVS, and whether both ends have agreed in it.
fn of_ipvs(protocol: Protocol, state: &'static str) -> (Option<&'static str>, bool) {
    match protocol {
        Protocol::TCP => {
            let is_answered =
                matches!(state, "ESTABLISHED" | "FIN_WAIT" | "CLOSE_WAIT" | "LAST_ACK" | "TIME_WAIT");
            (Some(if state == "SYNACK" { "SYN_RECV" } else { state }), is_answered)
        }
        Protocol::SCTP => {
            let name = match state {
                "C-SENT" | "COOKIE" => "COOKIE_WAIT",
                "C-REPLIED" | "C-ECHOED" => "COOKIE_ECHOED",
                "ESTABLISHED" => "ESTABLISHED",
                // IPVS names who sends from the real server's side, netfilter from the client's.
                "S-RECEIVED" => "SHUTDOWN_SENT",
                "S-SENT" => "SHUTDOWN_RECD",
                "S-ACK-SENT" => "SHUTDOWN_ACK_SENT",
                "NONE" => "NONE",
                _ => "CLOSED",
            };
            (Some(name), name == "ESTABLISHED" || name.starts_with("SHUTDOWN"))
        }
        _ => (None, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::sctp::SctpState;
    use crate::ipvs::state::TcpState;

    #[test]
    fn every_state_of_ipvs_has_a_name_of_netfilter() {
        let ipvs = TcpState::ALL.map(|state| (Protocol::TCP, state.name()));
        for (protocol, state) in
            ipvs.into_iter().chain(SctpState::ALL.map(|state| (Protocol::SCTP, state.name())))
        {
            let name = of_ipvs(protocol, state).0.expect(state);
            assert_eq!(state_named(name), Some(name), "{state}");
        }
        assert_eq!(state_named("SYNACK"), None);
    }
}
