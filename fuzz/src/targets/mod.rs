//! One file a target, one row here.

mod adopt;
mod api;
mod commands;
mod config;
mod conntrack;
mod flow;
mod ipset;
mod iptables;
mod iptables_restore;
mod ipvsadm;
mod messages;
mod packet;
mod path;
mod restore;
mod rules;
mod sync;

/// A part of the load balancer that takes bytes from outside.
#[derive(Debug)]
pub struct Target {
    /// Also that of its file and of its folder in `corpus/`.
    pub name: &'static str,
    /// Panics when something does not hold that must.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $name::run }),*];
    };
}

targets! {
    packet, messages, path, rules, flow, adopt, config, conntrack, ipset, ipvsadm, restore, iptables, iptables_restore, commands, api, sync
}
