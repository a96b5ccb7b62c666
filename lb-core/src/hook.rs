//! The five hooks of the packet path, as netfilter names them, and what sits at each: [`ORDER`].
//!
//! Source of the priorities: Linux, `include/uapi/linux/netfilter_ipv4.h`, and for IPVS's functions `net/netfilter/ipvs/ip_vs_core.c`.

use std::fmt;

use crate::rule::Table;

/// A point on a packet's road (netfilter's five, and the two ends of the road that are before and after them).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Hook {
    /// Before PREROUTING: parsing, steering between workers.
    Ingress,
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    /// After POSTROUTING: next hop, port.
    Egress,
}

impl Hook {
    pub const ALL: [Hook; 7] = [
        Hook::Ingress,
        Hook::Prerouting,
        Hook::Input,
        Hook::Forward,
        Hook::Output,
        Hook::Postrouting,
        Hook::Egress,
    ];

    /// The label in metrics and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Hook::Ingress => "ingress",
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
            Hook::Egress => "egress",
        }
    }
}

/// What sits at a hook.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Function {
    Defragment,
    Conntrack,
    Table(Table),
    /// IPVS: a client's packet to a virtual service, and an ICMP error about an answer.
    RemoteRequest,
    /// IPVS: a real server's answer, and an ICMP error about a request.
    Reply,
    /// IPVS: an ICMP error about an answer that is not addressed to this host.
    ForwardIcmp,
    /// IPVS: what the host itself sends to a virtual service.
    LocalRequest,
    /// IPVS: the answer of a real server that is this host.
    LocalReply,
    /// The connection that a packet began is entered.
    Confirm,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Function::Defragment => "defragment",
            Function::Conntrack => "conntrack",
            Function::Table(table) => table.name(),
            Function::RemoteRequest => "ipvs remote_request",
            Function::Reply => "ipvs reply",
            Function::ForwardIcmp => "ipvs forward_icmp",
            Function::LocalRequest => "ipvs local_request",
            Function::LocalReply => "ipvs local_reply",
            Function::Confirm => "confirm",
        })
    }
}

/// A function at a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub hook: Hook,
    /// The lowest one first.
    pub priority: i32,
    pub function: Function,
    pub does: &'static str,
}

const fn place(hook: Hook, priority: i32, function: Function, does: &'static str) -> Place {
    Place { hook, priority, function, does }
}

/// Where netfilter's functions have their place.
mod priority {
    pub(super) const DEFRAGMENT: i32 = -400;
    pub(super) const RAW: i32 = -300;
    pub(super) const CONNTRACK: i32 = -200;
    pub(super) const MANGLE: i32 = -150;
    pub(super) const NAT_DESTINATION: i32 = -100;
    pub(super) const FILTER: i32 = 0;
    pub(super) const SECURITY: i32 = 50;
    pub(super) const NAT_SOURCE: i32 = 100;
    pub(super) const LAST: i32 = i32::MAX;
}

/// All functions at all hooks, in the order in which packets meet them. A test walks packets down each road and compares.
pub const ORDER: &[Place] = {
    use Function::{
        Confirm, Conntrack, Defragment, ForwardIcmp, LocalReply, LocalRequest, RemoteRequest, Reply,
    };
    use Hook::{Forward, Input, Output, Postrouting, Prerouting};
    use priority::{CONNTRACK, DEFRAGMENT, FILTER, LAST, MANGLE, NAT_DESTINATION, NAT_SOURCE, RAW, SECURITY};
    const RAW_TABLE: Function = Function::Table(Table::Raw);
    const MANGLE_TABLE: Function = Function::Table(Table::Mangle);
    const NAT_TABLE: Function = Function::Table(Table::Nat);
    const FILTER_TABLE: Function = Function::Table(Table::Filter);
    const SECURITY_TABLE: Function = Function::Table(Table::Security);
    &[
        place(Prerouting, DEFRAGMENT, Defragment, "later fragments learn the ports of their first one"),
        place(Prerouting, RAW, RAW_TABLE, "rules; NOTRACK"),
        place(Prerouting, CONNTRACK, Conntrack, "the connection that it is of, and its state"),
        place(Prerouting, MANGLE, MANGLE_TABLE, "rules"),
        place(Prerouting, NAT_DESTINATION, NAT_TABLE, "rules, once a connection: DNAT, REDIRECT, NETMAP"),
        place(Input, MANGLE, MANGLE_TABLE, "rules"),
        place(Input, FILTER, FILTER_TABLE, "rules"),
        place(Input, SECURITY, SECURITY_TABLE, "rules"),
        place(
            Input,
            NAT_SOURCE - 2,
            Reply,
            "never: real servers' answers pass FORWARD, those to a local endpoint (FullNAT) too",
        ),
        place(Input, NAT_SOURCE - 1, RemoteRequest, "virtual services: schedules, binds, sends on by OUTPUT"),
        place(Input, NAT_SOURCE, NAT_TABLE, "rules, once a connection: SNAT"),
        place(Input, LAST, Confirm, "the connection that it begins is entered"),
        place(Forward, MANGLE, MANGLE_TABLE, "rules"),
        place(Forward, FILTER, FILTER_TABLE, "rules"),
        place(Forward, SECURITY, SECURITY_TABLE, "rules"),
        place(Forward, NAT_SOURCE - 1, ForwardIcmp, "never: a service's addresses are this host's"),
        place(Forward, NAT_SOURCE, Reply, "answers of real servers, and ICMP errors about requests"),
        place(Output, RAW, RAW_TABLE, "rules; NOTRACK"),
        place(Output, CONNTRACK, Conntrack, "the connection that it is of, and its state"),
        place(Output, MANGLE, MANGLE_TABLE, "rules"),
        place(Output, NAT_DESTINATION, NAT_TABLE, "rules, once a connection: DNAT, REDIRECT, NETMAP"),
        place(Output, NAT_DESTINATION + 1, LocalReply, "never: what the host sends itself does not leave it"),
        place(
            Output,
            NAT_DESTINATION + 2,
            LocalRequest,
            "never: what the host sends itself does not leave it",
        ),
        place(Output, FILTER, FILTER_TABLE, "rules"),
        place(Output, SECURITY, SECURITY_TABLE, "rules"),
        place(Postrouting, MANGLE, MANGLE_TABLE, "rules"),
        place(Postrouting, NAT_SOURCE, NAT_TABLE, "rules, once a connection: SNAT, MASQUERADE, NETMAP"),
        place(Postrouting, LAST, Confirm, "the connection that it begins is entered"),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_each_hook_the_lowest_priority_comes_first() {
        for pair in ORDER.windows(2) {
            let [before, after] = pair else { continue };
            let is_later = (before.hook as u8, before.priority) < (after.hook as u8, after.priority);
            assert!(is_later, "{before:?} {after:?}");
        }
    }

    #[test]
    fn each_table_has_its_place_at_each_of_its_hooks() {
        for table in Table::ALL {
            let of_it = ORDER.iter().filter(|place| place.function == Function::Table(table));
            let hooks: Vec<Hook> = of_it.map(|place| place.hook).collect();
            assert_eq!(hooks, table.hooks());
        }
    }
}
